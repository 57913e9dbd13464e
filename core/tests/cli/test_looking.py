"""``kern plugins``, ``kern config`` and ``kern report``."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kern import Kern, hookimpl
from kern.cli.drivers import Declared, declared
from kern.contracts.transport import TransportCapability
from kern.errors import PluginMissing

SECRET = "hunter2"
URL = f"memory://me:{SECRET}@here"


def test_plugins_shows_what_each_drives_and_what_is_in_use(cli) -> None:
    found = cli.json("plugins", "--json")
    by_name = {row["name"]: row for row in found["plugins"]}
    assert by_name["testing"]["distribution"] == "kern-testing"
    assert by_name["testing"]["drives"]["transport"] == ["memory"]
    broker = found["in_use"]["broker"]
    assert broker["plugin"] == "testing"
    assert "priorities" in broker["capabilities"]
    assert found["in_use"]["pool"]["name"]


def test_plugins_as_text_says_why_one_is_off(cli) -> None:
    result = cli("plugins", "--plugins", "-broker-sql")
    assert result.exit_code == 0
    assert "broker-sql is off: switched off by '-broker-sql'" in result.stdout
    assert "transport: memory" in result.stdout


class Pigeons:
    """Drives ``pigeon://``, which means nothing without a loft, and ``broken://``, of which no driver can be made."""

    @hookimpl
    def kern_transports(self) -> dict[str, Any]:
        return {"pigeon": self.pigeon, "broken": self.broken}

    @hookimpl
    def kern_example_urls(self) -> dict[str, str]:
        return {"pigeon": "pigeon://loft"}

    @staticmethod
    def pigeon(url: str, conf: Any) -> Any:
        assert url == "pigeon://loft"
        return SimpleNamespace(capabilities=frozenset({TransportCapability.BROADCAST}))

    @staticmethod
    def broken(url: str, conf: Any) -> Any:
        raise PluginMissing("needs the package corn", "corn")


def test_the_capabilities_of_each_driver_are_known_without_connecting() -> None:
    app = Kern("looking", plugins="testing")
    app.register(Pigeons(), "pigeons")
    transports = {driver.names: driver for driver in declared(app, "transport")}
    assert transports["pigeon",] == Declared(("pigeon",), "pigeons", ("broadcast",))
    assert transports["broken",].error == "needs the package corn"
    assert "push" in transports["memory",].capabilities
    pools = {driver.names: driver for driver in declared(app, "pool")}
    assert pools["solo",].plugin == "kern itself"
    assert pools["inline",].plugin == "testing"


def test_plugins_shows_what_each_driver_can_do(cli) -> None:
    found = cli.json("plugins", "--json")
    stores = {name: driver for driver in found["drivers"]["result store"] for name in driver["names"]}
    assert "joins" in stores["memory"]["capabilities"]
    assert stores["sqlite"]["plugin"] == stores["db"]["plugin"] == "backend-sql"
    assert "push" in stores["postgresql"]["capabilities"]
    assert "push" not in stores["sqlite"]["capabilities"]
    text = cli("plugins").stdout
    assert "\nresult stores\n" in text
    assert "+sqlite" not in text
    assert "  solo (kern itself)\n    join-blocks, soft-limits\n" in text


def test_plugins_works_where_nothing_can_be_used(cli) -> None:
    result = cli("-b", f"nosuch://me:{SECRET}@x", "plugins", broker=False)
    assert result.exit_code == 0
    assert "no installed plugin provides the transport 'nosuch'" in result.stdout
    assert SECRET not in result.output


def test_config_shows_value_origin_and_meaning(cli, monkeypatch) -> None:
    monkeypatch.setenv("KERN_WORKER_HEARTBEAT", "2.5")
    result = cli("config", "worker_heartbeat")
    lines = result.stdout.splitlines()
    assert lines[0] == "# WorkerSettings"
    assert lines[1] == "worker_heartbeat = 2.5 s"
    assert "environment variable KERN_WORKER_HEARTBEAT" in lines[2]
    assert "renews its leases" in lines[3]


def test_config_shows_every_setting(cli) -> None:
    rows = cli.json("config", "--json")
    assert len(rows) > 60
    assert all(row["origin"] and row["meaning"] for row in rows)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("worker_heartbeat", ["worker_heartbeat"]),
        ("BROKER_URL", ["broker_url"]),
        ("CELERY_ACKS_LATE", ["task_acks_late"]),
        ("heartbeat", ["worker_heartbeat"]),
        ("task_acks_on_*out", ["task_acks_on_failure_or_timeout", "task_acks_on_timeout"]),
    ],
)
def test_a_setting_is_found_by_any_name_a_part_or_a_pattern(cli, name: str, keys: list[str]) -> None:
    assert sorted(row["key"] for row in cli.json("config", name, "--json")) == sorted(keys)


def test_only_what_somebody_set_is_shown_on_request(cli) -> None:
    Path("proj.py").write_text("from kern import Kern\napp = Kern(task_default_queue='mine')\n")
    rows = {row["key"]: row for row in cli.json("config", "--changed", "--json", "-A", "proj")}
    assert rows.keys() == {"task_default_queue", "broker_url", "result_backend"}
    assert rows["broker_url"]["origin"] == "command line -b"
    assert rows["task_default_queue"]["origin"] == "keyword of the application"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("worker_hartbeat", "did you mean 'worker_heartbeat'?"),
        ("nosuch_*", "unknown setting 'nosuch_*'"),
        ("worker_enable_prefetch_count_reduction", "not used: "),
    ],
)
def test_a_setting_that_does_not_exist_says_what_is_like_it_or_in_its_place(cli, name: str, answer: str) -> None:
    result = cli("config", name)
    assert result.exit_code == 1
    assert answer in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["plugins"], ["plugins", "--json"], ["config"], ["config", "--json"], ["report"]])
def test_no_secret_is_shown(cli, command: list[str]) -> None:
    Path("proj.py").write_text(
        f"from kern import Kern\napp = Kern(database_engine_options={{'connect_args': {{'password': '{SECRET}'}}}})\n"
    )
    result = cli("-A", "proj", "-b", URL, "--result-backend", URL, *command, broker=False)
    assert result.exit_code == 0, result.output
    assert "memory://me:********@here" in result.stdout
    assert SECRET not in result.output


def test_a_report_has_versions_platform_plugins_and_changed_settings(cli) -> None:
    report = cli.json("report", "--json")
    assert report["software"]["kern"]
    assert report["platform"]["python"].startswith(("CPython", "PyPy"))
    assert report["plugins"]["testing"].startswith("kern-testing ")
    assert report["settings"].keys() == {"broker_url", "result_backend"}
    text = cli("report").stdout
    for title in ("software", "platform", "plugins", "in use", "settings"):
        assert f"{title}\n" in text


@pytest.mark.parametrize(
    ("arguments", "environment", "answer"),
    [
        (["-b", f"nosuch://me:{SECRET}@x"], {}, "no installed plugin provides the transport 'nosuch'"),
        (["-b", f"me:{SECRET}@x/y"], {}, "not a URL"),
        ([], {"KERN_BROKR_URL": "x"}, "unknown setting 'brokr_url'"),
        ([], {"KERN_WORKER_HEARTBEAT": "often"}, "setting 'worker_heartbeat'"),
        (["--config", "nosuch"], {}, "there is no module 'nosuch'"),
    ],
)
def test_wrong_configuration_is_one_line_and_exit_code_1(cli, monkeypatch, arguments, environment, answer) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = cli(*arguments, "queues", broker=False)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert answer in result.stderr
    assert SECRET not in result.stderr
