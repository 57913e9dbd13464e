"""Finding plugins, loading those that are wanted, and saying why the others are not.

Distributions are made for each test in a folder of their own and looked at by a process of its own, for what is
installed is found once in a process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from kern.contracts.continuation import Continuation
from kern.errors import ImproperlyConfigured, PluginConflict, PluginMissing
from kern.hookspecs import API, Hooks, hookimpl
from kern.plugins import KNOWN_DRIVERS, Plugins, Selection, State

#: The plugins of a process, as data; what is said meanwhile goes to stderr.
LOOK = """
import json, logging, sys
from kern.plugins import Plugins, Selection
logging.basicConfig(format="%(message)s")
plugins = Plugins()
found = {info.name: [info.distribution, info.version, info.state, info.reason, info.drives] for info in plugins.infos()}
print(json.dumps(found))
"""

GOOD = """
from kern.hookspecs import hookimpl
KERN_API = 1

@hookimpl
def kern_transports():
    return {"thing": lambda url, conf: None}
"""


class Folder:
    """A folder on ``sys.path`` with distributions in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def install(self, distribution: str, version: str = "1.0", /, **plugins: str) -> None:
        """A distribution with plugins: name → source of its module."""
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = ["[kern.plugins]"]
        for name, source in plugins.items():
            module = f"{distribution.replace('-', '_')}_{name}"
            (self.path / f"{module}.py").write_text(textwrap.dedent(source))
            lines.append(f"{name.replace('_', '-')} = {module}")
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")

    def run(self, program: str = LOOK, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program],
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("KERN_")},
                "PYTHONPATH": str(self.path),
                # stevedore keeps there what it has found.
                "XDG_CACHE_HOME": str(self.path / "cache"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )

    def look(self, **environment: str) -> tuple[dict[str, Any], str]:
        """What became of each plugin, and what was said."""
        done = self.run(**environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


class TestDiscovery:
    def test_what_is_installed_is_found_with_its_distribution(self, folder: Folder) -> None:
        folder.install("acme-broker", "2.3", thing=GOOD)
        found, said = folder.look()
        assert found["thing"] == ["acme-broker", "2.3", "active", "", {"transport": ["thing"]}]
        assert "acme" not in said

    def test_one_that_fails_to_import_is_reported_and_stops_nothing_else(self, folder: Folder) -> None:
        folder.install("acme-good", good=GOOD)
        folder.install("acme-bad", "0.9", bad="import there_is_no_such_module")
        found, said = folder.look()
        assert found["good"][2] == "active"
        assert found["bad"][2:4] == ["failed", "ModuleNotFoundError: No module named 'there_is_no_such_module'"]
        line = next(line for line in said.splitlines() if "plugin failed" in line)
        assert "plugin='bad'" in line
        assert "acme-bad 0.9" in line
        assert "there_is_no_such_module" in line

    @pytest.mark.parametrize(
        ("says", "reason"),
        [
            ("KERN_API = 99", f"built for API 99, this kern has API {API}"),
            ("", f"does not say which API it was built for (KERN_API), this kern has API {API}"),
        ],
    )
    def test_one_built_for_another_kern_is_refused_in_one_line(self, folder: Folder, says: str, reason: str) -> None:
        folder.install("acme-old", old=GOOD.replace("KERN_API = 1", says))
        found, said = folder.look()
        assert found["old"][2:4] == ["refused", reason]
        lines = [line for line in said.splitlines() if "acme-old" in line]
        assert len(lines) == 1
        assert lines[0].startswith("plugin refused")

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            (
                GOOD.replace("kern_transports", "kern_transport"),
                "there is no hook 'kern_transport'; did you mean 'kern_",
            ),
            (GOOD.replace("@hookimpl", ""), "'kern_transports' is named like a hook, and not marked with @hookimpl"),
            (GOOD.replace("kern_transports():", "kern_transports(url):"), "url"),
            (GOOD.replace("@hookimpl", "@hookimpl(wrapper=True)"), "'kern_transports' is marked as a wrapper"),
        ],
    )
    def test_one_that_does_not_fit_the_hooks_is_told_how(self, folder: Folder, source: str, reason: str) -> None:
        folder.install("acme-odd", odd=source)
        found, said = folder.look()
        assert found["odd"][2] == "failed"
        assert reason in found["odd"][3]
        assert "acme-odd 1.0" in said

    def test_two_of_one_name_are_an_error_that_names_both(self, folder: Folder) -> None:
        folder.install("acme-one", thing=GOOD)
        folder.install("acme-two", thing=GOOD)
        done = folder.run()
        assert done.returncode != 0
        assert "two distributions have a plugin 'thing': acme-" in done.stderr
        assert "acme-one" in done.stderr
        assert "acme-two" in done.stderr

    def test_two_for_one_scheme_are_an_error_that_names_both_and_the_way_out(self, folder: Folder) -> None:
        folder.install("acme-one", one=GOOD)
        folder.install("acme-two", two=GOOD)
        done = folder.run("from kern.plugins import Plugins; Plugins().driver('transport', 'thing')")
        assert "the plugins 'one' and 'two' both provide the transport 'thing'; switch one off: --plugins=-one" in (
            done.stderr
        )
        found, _ = folder.look(KERN_PLUGINS="-one")
        assert (found["one"][2], found["two"][2]) == ("off", "active")


class TestSelection:
    @pytest.mark.parametrize(
        ("wanted", "states"),
        [
            ("one", {"one": "active", "two": "off"}),
            ("-one", {"one": "off", "two": "active"}),
            ("one, two,-two", {"one": "active", "two": "off"}),
            ("", {"one": "active", "two": "active"}),
        ],
    )
    def test_only_these_or_all_but_these(self, folder: Folder, wanted: str, states: dict[str, str]) -> None:
        folder.install("acme-one", one="KERN_API = 1")
        folder.install("acme-two", two="KERN_API = 1")
        found, _ = folder.look(KERN_PLUGINS=wanted)
        assert {name: found[name][2] for name in states} == states

    def test_what_is_not_wanted_is_not_even_imported(self, folder: Folder) -> None:
        folder.install("acme-loud", loud="raise SystemExit('imported')")
        found, _ = folder.look(KERN_PLUGINS="-loud")
        assert found["loud"][2:4] == ["off", "switched off by '-loud'"]
        found, _ = folder.look(KERN_PLUGINS="testing")
        assert found["loud"][2:4] == ["off", "not among the plugins asked for"]

    def test_an_unknown_name_is_an_error_with_the_nearest_each_time(self) -> None:
        plugins = Plugins(Selection.parse("tesing"))
        for _ in range(2):
            with pytest.raises(ImproperlyConfigured, match=r"no plugin 'tesing' is installed; did you mean 'testing'"):
                plugins.load()


class TestMissing:
    @pytest.mark.parametrize(
        ("kind", "name", "install"),
        [
            (kind, name, install)
            for kind, known in KNOWN_DRIVERS.items()
            for name, install in known.items()
            if install != "kern-testing"
        ],
    )
    def test_what_to_install_for_a_name_that_is_known(self, kind: str, name: str, install: str) -> None:
        """Where it is not installed; here that is made so."""
        plugins = Plugins(Selection.parse("testing"))
        plugins.load()
        plugins._found = {"testing": plugins._found["testing"]}
        with pytest.raises(PluginMissing, match=f"pip install {install}") as caught:
            plugins.driver(kind, name)
        assert caught.value.install == install

    def test_the_nearest_for_one_that_is_not(self) -> None:
        with pytest.raises(PluginMissing, match=r"the transport 'memroy'; did you mean 'memory'"):
            Plugins(Selection.parse("testing")).driver("transport", "memroy")

    def test_one_that_is_installed_and_switched_off_says_so(self) -> None:
        with pytest.raises(PluginMissing, match=r"provided by the plugin 'testing', which is off: switched off"):
            Plugins(Selection.parse("-testing")).driver("transport", "memory")

    def test_a_variant_of_a_scheme_is_the_schemes(self) -> None:
        assert Plugins(Selection.parse("testing")).driver("transport", "memory+tls")


@pytest.fixture
def plugins() -> Plugins:
    given = Plugins(Selection.parse("testing"))
    given.load()
    return given


class TestListeners:
    """Objects that an application registers itself."""

    def test_it_listens_from_then_on(self, plugins: Plugins) -> None:
        class Listener:
            @hookimpl
            def kern_received(self, requests: Any) -> str:
                return f"{len(requests)} received"

        assert not plugins.listens("kern_received")
        listener = Listener()
        plugins.register(listener)
        assert plugins.listens("kern_received")
        assert plugins.ask("kern_received", app=None, requests=[1, 2]) == ["2 received"]
        plugins.unregister(listener)
        assert not plugins.listens("kern_received")

    def test_a_misspelt_hook_is_named_with_the_nearest(self, plugins: Plugins) -> None:
        class Listener:
            @hookimpl
            def kern_task_prerunn(self) -> None: ...

        with pytest.raises(
            ImproperlyConfigured,
            match=r"^Listener: there is no hook 'kern_task_prerunn'; did you mean 'kern_task_prerun'",
        ):
            plugins.register(Listener())

    def test_a_wrong_argument_is_named(self, plugins: Plugins) -> None:
        class Listener:
            @hookimpl
            def kern_task_prerun(self, tsak: Any) -> None: ...

        with pytest.raises(ImproperlyConfigured, match=r"^mine: .*tsak"):
            plugins.register(Listener(), "mine")
        assert not plugins.listens("kern_task_prerun")

    def test_one_that_is_not_marked_is_told(self, plugins: Plugins) -> None:
        class Listener:
            def kern_task_prerun(self) -> None: ...

        with pytest.raises(ImproperlyConfigured, match=r"not marked with @hookimpl: it would never be called"):
            plugins.register(Listener())

    def test_once_only(self, plugins: Plugins) -> None:
        listener = object()
        plugins.register(listener, "one")
        for again in ((listener, "two"), (object(), "one")):
            with pytest.raises(ImproperlyConfigured, match=r"registered already"):
                plugins.register(*again)

    def test_each_by_itself_an_error_is_logged_with_its_name(
        self, plugins: Plugins, caplog: pytest.LogCaptureFixture
    ) -> None:
        def listener(answer: Any) -> Any:
            class Listener:
                @hookimpl
                def kern_control(self) -> Any:
                    if isinstance(answer, Exception):
                        raise answer
                    return answer

            return Listener()

        for name, answer in (("first", 1), ("broken", ValueError("oops")), ("silent", None), ("last", 2)):
            plugins.register(listener(answer), name)
        assert plugins.ask("kern_control", app=None) == [2, 1], "the one registered last is asked first"
        assert [record.fields["plugin"] for record in caplog.records] == ["broken"]  # type: ignore[attr-defined]
        assert "oops" in caplog.text

    def test_where_errors_are_the_callers_they_are_raised(self, plugins: Plugins) -> None:
        class Listener:
            @hookimpl
            def kern_encode_message(self, message: Any) -> Any:
                raise ValueError("no key")

        plugins.register(Listener())
        (ask,) = plugins.askers("kern_encode_message")
        with pytest.raises(ValueError, match=r"no key"):
            ask(app=None, message=None)

    def test_one_that_offers_and_fails_offers_nothing(self, plugins: Plugins, caplog: pytest.LogCaptureFixture) -> None:
        class Broken:
            @hookimpl
            def kern_pools(self) -> Any:
                raise RuntimeError("no greenlets here")

            @hookimpl
            def kern_settings(self) -> Any:
                raise RuntimeError("no settings either")

        class Fine:
            @hookimpl
            def kern_pools(self) -> Any:
                return {"fine": object}

        plugins.register(Broken(), "broken")
        plugins.register(Fine(), "fine")
        assert plugins.drivers("pool")["fine"] == ("fine", object)
        assert plugins.offered("kern_settings") == []
        assert "no greenlets here" in caplog.text
        assert "plugin='broken'" in caplog.text

    def test_two_that_continue_the_same_are_an_error(self, plugins: Plugins) -> None:
        class Links(Continuation):
            kinds = frozenset({"callbacks"})

            def follow(self, *_: Any) -> Any: ...

            def prepare(self, *_: Any) -> Any: ...

            @hookimpl
            def kern_continuations(self) -> Any:
                return [self]

        first = Links()
        plugins.register(first, "first")
        assert plugins.continuation("callbacks") is first
        assert plugins.continuation("chord") is None
        plugins.register(Links(), "second")
        with pytest.raises(PluginConflict, match=r"'(first|second)' both continue 'callbacks'"):
            plugins.continuation("callbacks")


class Everything:
    """Every hook, with every argument."""

    @hookimpl
    def kern_transports(self) -> Any: ...
    @hookimpl
    def kern_result_stores(self) -> Any: ...
    @hookimpl
    def kern_pools(self) -> Any: ...
    @hookimpl
    def kern_schedulers(self) -> Any: ...
    @hookimpl
    def kern_monitors(self) -> Any: ...
    @hookimpl
    def kern_continuations(self) -> Any: ...
    @hookimpl
    def kern_example_urls(self) -> Any: ...
    @hookimpl
    def kern_default_broker(self) -> Any: ...
    @hookimpl
    def kern_default_backend(self, broker_url: Any) -> Any: ...
    @hookimpl
    def kern_settings(self) -> Any: ...
    @hookimpl
    def kern_commands(self) -> Any: ...
    @hookimpl
    def kern_options(self, command: Any) -> Any: ...
    @hookimpl
    def kern_command_options(self, app: Any, command: Any, options: Any) -> Any: ...
    @hookimpl
    def kern_services(self, app: Any) -> Any: ...
    @hookimpl
    def kern_task_options(self) -> Any: ...
    @hookimpl
    def kern_task_packages(self, app: Any) -> Any: ...
    @hookimpl
    def kern_task_registered(self, app: Any, task: Any) -> Any: ...
    @hookimpl
    def kern_prepare_arguments(self, app: Any, task: Any, args: Any, kwargs: Any, serializer: Any) -> Any: ...
    @hookimpl
    def kern_encode_message(self, app: Any, message: Any) -> Any: ...
    @hookimpl
    def kern_decode_message(self, app: Any, message: Any) -> Any: ...
    @hookimpl
    def kern_control(self, app: Any) -> Any: ...
    @hookimpl
    def kern_revoked(self, app: Any, requests: Any) -> Any: ...
    @hookimpl
    def kern_rate_slot(self, app: Any, task: Any, rate: Any, now: Any) -> Any: ...
    @hookimpl
    def kern_configured(self, app: Any) -> Any: ...
    @hookimpl
    def kern_finalized(self, app: Any) -> Any: ...
    @hookimpl
    def kern_import_modules(self, app: Any) -> Any: ...
    @hookimpl
    def kern_before_publish(self, app: Any, batch: Any) -> Any: ...
    @hookimpl
    def kern_after_publish(self, app: Any, batch: Any) -> Any: ...
    @hookimpl
    def kern_task_prerun(self, task: Any, request: Any) -> Any: ...
    @hookimpl
    def kern_task_postrun(self, task: Any, request: Any, state: Any, value: Any) -> Any: ...
    @hookimpl
    def kern_task_success(self, task: Any, request: Any, result: Any, runtime: Any) -> Any: ...
    @hookimpl
    def kern_task_failure(self, task: Any, request: Any, exception: Any, traceback: Any) -> Any: ...
    @hookimpl
    def kern_task_retry(self, task: Any, request: Any, reason: Any, traceback: Any) -> Any: ...
    @hookimpl
    def kern_task_internal_error(self, task: Any, request: Any, exception: Any) -> Any: ...
    @hookimpl
    def kern_received(self, app: Any, requests: Any) -> Any: ...
    @hookimpl
    def kern_settled(self, app: Any, outcomes: Any) -> Any: ...
    @hookimpl
    def kern_events(self, app: Any, events: Any) -> Any: ...
    @hookimpl
    def kern_worker_init(self, worker: Any) -> Any: ...
    @hookimpl
    def kern_worker_ready(self, worker: Any) -> Any: ...
    @hookimpl
    def kern_worker_stopping(self, worker: Any, signal: Any) -> Any: ...
    @hookimpl
    def kern_worker_stopped(self, worker: Any) -> Any: ...
    @hookimpl
    def kern_process_init(self, app: Any) -> Any: ...
    @hookimpl
    def kern_process_shutdown(self, app: Any, pid: Any, exitcode: Any) -> Any: ...


def test_every_hook_can_be_implemented_with_all_its_arguments(plugins: Plugins) -> None:
    """The arguments of a hook are a promise: one that is renamed or taken away breaks somebody's plugin."""
    everything = Everything()
    plugins.register(everything)
    hooks = {name for name in vars(Hooks) if name.startswith("kern_")}
    assert {name for name in vars(Everything) if name.startswith("kern_")} == hooks
    assert plugins.listening == hooks


def test_the_first_users_of_a_process_wait_for_the_plugins_to_be_there() -> None:
    given = Plugins(Selection.parse("testing"))
    gate = threading.Barrier(8)
    found: list[bool] = []

    def use() -> None:
        gate.wait(10)
        found.append("memory" in given.drivers("transport"))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [True] * 8


def test_the_state_of_a_plugin_is_a_word() -> None:
    assert {str(state) for state in State} == {"active", "off", "failed", "refused"}


def test_infos_name_what_each_plugin_drives(plugins: Plugins) -> None:
    info = next(info for info in plugins.infos() if info.name == "testing")
    assert (info.distribution, info.state) == ("kern-testing", State.ACTIVE)
    assert info.drives["transport"] == ["memory"]
    assert info.drives["result store"] == ["memory"]
