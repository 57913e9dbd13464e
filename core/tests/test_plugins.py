"""Plugins are found, chosen, loaded apart from each other, and accounted for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kern import Kern, hookimpl
from kern.errors import ImproperlyConfigured, PluginConflict, PluginMissing
from kern.hookspecs import API
from kern.plugins import Plugins, Selection

GOOD = """
from kern.hookspecs import hookimpl

KERN_API = {api}


@hookimpl
def kern_transports():
    return {{"{scheme}": lambda url, conf: None}}
"""

#: Prints what became of the plugins, in a process that finds those of the folder, too.
LOOK = """
import json, sys
from kern.errors import KernError
from kern.plugins import Plugins, Selection
plugins = Plugins(Selection.parse(sys.argv[1]))
try:
    infos = plugins.infos()
    drives = {i.name: {kind: list(names) for kind, names in i.drives.items()} for i in infos}
    print(json.dumps({i.name: [i.distribution, i.version, i.state, i.reason, drives[i.name]] for i in infos}))
except KernError as error:
    print(json.dumps({"error": [type(error).__name__, str(error)]}))
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder on the path, into which throw-away distributions are installed."""
    return tmp_path


def install(site: Path, name: str, source: str, distribution: str | None = None, version: str = "1.2") -> None:
    """A distribution with one plugin."""
    distribution = distribution or f"kern-{name}"
    module = f"plugin_{distribution.replace('-', '_')}"
    (site / f"{module}.py").write_text(source)
    info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[kern.plugins]\n{name} = {module}\n")


def look(site: Path, selection: str = "") -> dict[str, list[object]]:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, selection],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))},
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, list[object]] = json.loads(done.stdout.splitlines()[-1])
    return answer


class TestDiscovery:
    def test_an_installed_plugin_is_active_and_says_what_it_drives(self, site: Path) -> None:
        install(site, "pigeon", GOOD.format(api=API, scheme="pigeon"))
        assert look(site)["pigeon"] == ["kern-pigeon", "1.2", "active", "", {"transport": ["pigeon"]}]

    def test_only_those_asked_for_are_loaded(self, site: Path) -> None:
        """The others are not even imported."""
        install(site, "pigeon", GOOD.format(api=API, scheme="pigeon"))
        install(site, "dove", "raise SystemExit('imported')")
        found = look(site, "pigeon")
        assert found["pigeon"][2] == "active"
        assert found["dove"][2:4] == ["off", "not among the plugins asked for"]

    def test_one_can_be_switched_off(self, site: Path) -> None:
        install(site, "pigeon", "raise SystemExit('imported')")
        assert look(site, "-pigeon")["pigeon"][2:4] == ["off", "switched off by '-pigeon'"]

    def test_a_name_that_is_not_installed_is_an_error_with_the_nearest(self, site: Path) -> None:
        install(site, "pigeon", GOOD.format(api=API, scheme="pigeon"))
        kind, text = look(site, "pigeons")["error"]
        assert kind == "ImproperlyConfigured"
        assert "no plugin 'pigeons' is installed; did you mean 'pigeon'?" in str(text)

    def test_one_that_fails_to_import_stops_no_other(self, site: Path) -> None:
        install(site, "broken", "import there_is_no_such_module")
        install(site, "pigeon", GOOD.format(api=API, scheme="pigeon"))
        found = look(site)
        assert found["broken"][2] == "failed"
        assert "there_is_no_such_module" in str(found["broken"][3])
        assert found["pigeon"][2] == "active"

    def test_one_built_for_another_api_is_refused(self, site: Path) -> None:
        install(site, "pigeon", GOOD.format(api=API + 1, scheme="pigeon"))
        assert look(site)["pigeon"][2:4] == ["refused", f"built for API {API + 1}, this kern has API {API}"]

    def test_one_that_does_not_say_its_api_is_refused(self, site: Path) -> None:
        install(site, "pigeon", "x = 1")
        assert look(site)["pigeon"][2] == "refused"
        assert "KERN_API" in str(look(site)["pigeon"][3])

    def test_a_misspelt_hook_is_named(self, site: Path) -> None:
        install(site, "pigeon", GOOD.format(api=API, scheme="pigeon").replace("kern_transports", "kern_transport"))
        found = look(site)["pigeon"]
        assert found[2] == "failed"
        assert "kern_transport" in str(found[3])

    def test_two_distributions_with_one_plugin_name_are_both_named(self, site: Path) -> None:
        install(site, "pigeon", GOOD.format(api=API, scheme="pigeon"), distribution="kern-pigeon-one")
        install(site, "pigeon", GOOD.format(api=API, scheme="pigeon"), distribution="kern-pigeon-two")
        kind, text = look(site)["error"]
        assert kind == "PluginConflict"
        assert "'pigeon'" in str(text)


class TestSelection:
    def test_the_environment_selects_where_the_application_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KERN_PLUGINS", "testing")
        assert [i.name for i in Plugins().infos() if i.state == "active"] == ["testing"]

    def test_names_may_be_mixed(self) -> None:
        selection = Selection.parse(" a, -b ,c")
        assert selection.why_off("a") is None
        assert selection.why_off("b") == "switched off by '-b'"
        assert selection.why_off("d") == "not among the plugins asked for"


class TestMissing:
    @pytest.mark.parametrize(
        ("url", "distribution"),
        [("redis://localhost", "kern-broker-redis"), ("amqp://localhost", "kern-broker-amqp")],
    )
    def test_an_unknown_scheme_says_what_to_install(self, url: str, distribution: str) -> None:
        with pytest.raises(PluginMissing, match=rf"pip install {distribution}") as raised:
            Kern("missing", broker=url).make_transport()
        assert raised.value.install == distribution

    def test_a_plugin_that_is_installed_but_off_is_named(self) -> None:
        with pytest.raises(PluginMissing, match="'broker-sql', which is off: switched off by '-broker-sql'"):
            Kern("missing", broker="sqlite:///x.db", plugins="-broker-sql").make_transport()


class TestListeners:
    def test_an_application_registers_any_object(self) -> None:
        heard: list[str] = []

        class Listener:
            @hookimpl
            def kern_finalized(self, app: Kern) -> None:
                heard.append(str(app.main))

        app = Kern("heard")
        app.register(Listener())
        app.finalize()
        assert heard == ["heard"]

    def test_an_object_with_a_hook_that_does_not_exist_is_refused(self) -> None:
        class Misspelt:
            @hookimpl
            def kern_finalised(self, app: Kern) -> None:
                """British."""

        app = Kern("refused")
        with pytest.raises(ImproperlyConfigured, match="kern_finalised"):
            app.register(Misspelt())

    def test_a_listener_that_raises_is_logged_by_name_and_stops_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        heard: list[str] = []

        class Bad:
            @hookimpl
            def kern_finalized(self, app: Kern) -> None:
                raise RuntimeError("the listener's own trouble")

        class Good:
            @hookimpl
            def kern_finalized(self, app: Kern) -> None:
                heard.append("good")

        app = Kern("trouble")
        app.register(Bad(), "the-bad-one")
        app.register(Good())
        app.finalize()
        assert heard == ["good"]
        assert "the-bad-one" in caplog.text
        assert "the listener's own trouble" in caplog.text

    def test_a_hook_nobody_implements_is_not_listened_to(self) -> None:
        assert "kern_rate_slot" not in Kern("nobody").plugins.listening


def test_two_plugins_for_one_scheme_name_each_other(tmp_path: Path) -> None:
    class Other:
        @hookimpl
        def kern_transports(self) -> dict[str, object]:
            return {"sqlite": object()}

    app = Kern("conflict", broker=f"sqlite:///{tmp_path}/x.db")
    app.register(Other(), "my-sqlite")
    with pytest.raises(PluginConflict, match=r"(?s)'broker-sql'.*'my-sqlite'|'my-sqlite'.*'broker-sql'"):
        app.make_transport()
