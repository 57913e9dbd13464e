"""Options that may stand before and after the sub-command."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click
import pytest

from kern.cli.global_options import peek, with_global_options

BROKER = "memory://here"


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("options", "key", "expected"),
    [
        (["-b", BROKER], "broker_url", BROKER),
        (["--broker", BROKER], "broker_url", BROKER),
        (["--result-backend", BROKER], "result_backend", BROKER),
        (["--config", "conf"], "task_default_queue", "mine"),
        (["-C"], "worker_log_color", False),
        (["-A", "other"], "task_default_queue", "other"),
    ],
)
def test_a_global_option_acts_before_and_after_the_command(cli, before: bool, options, key, expected) -> None:
    Path("conf.py").write_text("task_default_queue = 'mine'\n")
    Path("other.py").write_text("from kern import Kern\napp = Kern(task_default_queue='other')\n")
    command = ["config", key, "--json"]
    result = cli(*(options + command if before else command + options), broker=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["value"] == expected


def test_after_the_command_wins_over_before(cli) -> None:
    result = cli("-b", "memory://one", "config", "broker_url", "-b", "memory://two", broker=False)
    assert "memory://two" in result.stdout
    assert "memory://one" not in result.stdout


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "please"), ("KERN_NO_COLOR", "1")])
def test_the_environment_may_want_no_colours(cli, monkeypatch, name: str, value: str) -> None:
    assert cli.json("config", "worker_log_color", "--json")[0]["value"] is None
    monkeypatch.setenv(name, value)
    assert cli.json("config", "worker_log_color", "--json")[0]["value"] is False


def test_they_are_taken_by_commands_inside_commands(cli) -> None:
    assert cli("quarantine", "list", "-b", BROKER, broker=False).exit_code == 0
    assert cli("queues", "recover", "-b", BROKER, broker=False).exit_code == 0


@pytest.mark.parametrize("when_imported", ["", "app.conf.broker_url\n"])
def test_the_broker_given_wins_over_every_other_source(cli, monkeypatch, when_imported: str) -> None:
    """Also where Celery's environment variable wins over the application, and where that has read its settings."""
    Path("proj.py").write_text(
        "from kern import Kern\n"
        "app = Kern(broker='memory://keyword')\n"
        "app.config_from_object({'CELERY_BROKER_URL': 'memory://object'}, namespace='CELERY')\n" + when_imported
    )
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://environment")
    assert "memory://environment" in cli("-A", "proj", "plugins", broker=False).stdout
    sys.modules.pop("proj")
    assert "memory://line" in cli("-A", "proj", "-b", "memory://line", "plugins", broker=False).stdout


def test_the_broker_given_wins_over_urls_for_reading_and_writing(cli) -> None:
    Path("proj.py").write_text(
        "from kern import Kern\napp = Kern(broker_write_url='memory://w', broker_read_url='memory://r')\n"
    )
    used = cli.json("-A", "proj", "-b", "memory://line", "plugins", "--json")["in_use"]
    assert used["broker"]["url"] == "memory://line"


def test_workdir_comes_before_all_else(cli, tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "proj.py").write_text("from kern import Kern\napp = Kern('it')\n")
    (folder / "pyproject.toml").write_text('[tool.kern]\napp = "proj"\n')
    for arguments in (["--workdir", "deep", "shell"], ["shell", "--workdir=deep"]):
        os.chdir(tmp_path)
        result = cli(*arguments, "-c", "print(app.main)")
        assert result.stdout == "it\n", result.output


def test_a_workdir_that_does_not_exist_is_a_wrong_command_line(cli) -> None:
    result = cli("--workdir", "nosuch", "queues")
    assert result.exit_code == 2
    assert "'nosuch': No such file or directory" in result.stderr


@pytest.mark.parametrize("before", [True, False])
def test_only_the_plugins_asked_for_are_loaded(cli, before: bool) -> None:
    command, option = ["plugins", "--json"], ["--plugins", "testing"]
    result = cli(*(option + command if before else command + option))
    assert result.exit_code == 0, result.output
    assert '"active"' in result.stdout
    states = {row["name"]: row["state"] for row in cli.json(*command, *option)["plugins"]}
    assert states.pop("testing") == "active"
    assert set(states.values()) == {"off"}


def test_plugins_may_be_chosen_in_the_project(cli) -> None:
    Path("pyproject.toml").write_text('[tool.kern]\nplugins = ["testing"]\n')
    states = {row["name"]: row["state"] for row in cli.json("plugins", "--json")["plugins"]}
    assert states["broker-sql"] == "off"


def test_a_plugin_that_is_not_installed_is_named_with_what_is_like_it(cli) -> None:
    result = cli("queues", "--plugins", "testng")
    assert result.exit_code == 1
    assert "no plugin 'testng' is installed; did you mean 'testing'?" in result.stderr


def test_an_application_that_chooses_its_plugins_itself_refuses_to_be_told(cli) -> None:
    Path("proj.py").write_text("from kern import Kern\napp = Kern(plugins='testing')\n")
    result = cli("queues", "-A", "proj", "--plugins", "testing,broker-sql")
    assert result.exit_code == 2
    assert "--plugins cannot act" in result.stderr


def test_an_option_string_that_a_command_uses_stays_the_commands() -> None:
    @click.command()
    @click.option("-b", "--brief", is_flag=True)
    def command(brief: bool) -> None: ...

    made = with_global_options(command)
    by_name = {param.name: param for param in made.params}
    assert by_name["brief"].opts == ["-b", "--brief"]
    assert by_name["broker"].opts == ["--broker"]
    assert [param.name for param in command.params] == ["brief"]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["worker", "--plugins", "a,b"], "a,b"),
        (["worker", "--plugins=-a"], "-a"),
        (["--plugins", "a", "worker", "--plugins", "b"], "b"),
        (["worker", "--plugins"], None),
        (["worker", "--", "--plugins", "a"], None),
    ],
)
def test_an_option_is_seen_before_anything_is_parsed(arguments: list[str], found: str | None) -> None:
    assert peek(arguments, "--plugins") == found
