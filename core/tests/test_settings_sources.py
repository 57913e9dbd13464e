"""Where settings come from, in which order, and what a wrong source says."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kern.config_sources import import_name, read_project
from kern.errors import ImproperlyConfigured, InvalidSetting, UnknownSetting
from kern.settings import Section, Settings, setting


class DemoSettings(Section):
    """What the tests configure."""

    demo_count: int = setting(2, "How many.")
    demo_names: tuple[str, ...] = setting((), "Which ones.")
    demo_options: dict[str, Any] = setting({}, "More of it.")
    demo_late: bool = setting(True, "Whether late.")


class BrokerSettings(Section):
    """As core's."""

    broker_url: str | None = setting(None, "Where.")
    result_backend: str | None = setting(None, "Where to.")


@pytest.fixture
def environ() -> dict[str, str]:
    return {}


@pytest.fixture
def conf(tmp_path: Path, environ: dict[str, str]) -> Settings:
    return Settings([DemoSettings, BrokerSettings], environ=environ, directory=tmp_path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tmp_path / "pyproject.toml"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


class TestOrder:
    @pytest.mark.parametrize("sources", range(1, 7))
    def test_each_source_wins_over_those_below(
        self, conf: Settings, environ: dict[str, str], project: Path, sources: int
    ) -> None:
        """Assignments, added defaults, the object, KERN_ variables, Celery's variables, pyproject.toml."""

        def write() -> None:
            project.write_text('[tool.kern]\nbroker_url = "1"\n')

        steps: list[tuple[Any, str]] = [
            (write, f"[tool.kern] in {project}"),
            (lambda: environ.update(CELERY_BROKER_URL="2"), "environment variable CELERY_BROKER_URL"),
            (lambda: environ.update(KERN_BROKER_URL="3"), "environment variable KERN_BROKER_URL"),
            (lambda: conf.config_from_object({"broker_url": "4"}), "config_from_object(a mapping)"),
            (lambda: conf.add_defaults({"broker_url": "5"}), "add_defaults"),
            (lambda: conf.update(broker_url="6"), "assignment"),
        ]
        # From the highest down, so that the order in which they are given is not what decides.
        for step, _ in reversed(steps[:sources]):
            step()
        assert (conf.broker_url, conf.origin("broker_url")) == (str(sources), steps[sources - 1][1])

    def test_the_latest_added_defaults_win(self, conf: Settings) -> None:
        """As in Celery."""
        conf.add_defaults({"demo_count": 4, "demo_late": False})
        conf.add_defaults(lambda: {"demo_count": 6})
        assert (conf.demo_count, conf.demo_late) == (6, False)

    def test_keywords_of_the_application_are_assignments(self, tmp_path: Path) -> None:
        """They win, and say what they are."""
        conf = Settings([DemoSettings], changes={"demo_count": 4}, environ={"KERN_DEMO_COUNT": "6"}, directory=tmp_path)
        assert (conf.demo_count, conf.origin("demo_count")) == (4, "keyword of the application")

    def test_a_later_object_replaces_an_earlier_one(self, conf: Settings) -> None:
        """As in Celery."""
        conf.config_from_object({"demo_count": 4})
        conf.config_from_object({"demo_late": False})
        assert (conf.demo_count, conf.demo_late) == (2, False)

    def test_without_any_source_the_defaults_hold(self, conf: Settings) -> None:
        """Nothing needs to be configured."""
        assert conf.without_defaults() == {}
        assert conf.project is None


class TestEnvironment:
    def test_values_are_parsed_by_type(self, conf: Settings, environ: dict[str, str]) -> None:
        """Numbers, words, lists, JSON."""
        environ.update(KERN_DEMO_COUNT="4", KERN_DEMO_LATE="no", KERN_DEMO_NAMES="a, b", KERN_DEMO_OPTIONS='{"x": [1]}')
        assert (conf.demo_count, conf.demo_late) == (4, False)
        assert (conf.demo_names, conf.demo_options) == (("a", "b"), {"x": [1]})

    def test_a_wrong_value_names_the_variable(self, conf: Settings, environ: dict[str, str]) -> None:
        """Whoever set it finds it, at the first look at any setting."""
        environ["KERN_DEMO_COUNT"] = "many"
        with pytest.raises(
            InvalidSetting,
            match=r"'demo_count' \(from environment variable KERN_DEMO_COUNT\): expected an integer, not 'many'",
        ):
            _ = conf.demo_late
        environ["KERN_DEMO_COUNT"] = "4"
        assert conf.demo_count == 4

    def test_an_unknown_variable_is_refused_with_the_nearest(self, conf: Settings, environ: dict[str, str]) -> None:
        """A misspelt variable does not vanish."""
        environ["KERN_DEMO_CUONT"] = "4"
        with pytest.raises(UnknownSetting, match=r"variable KERN_DEMO_CUONT\); did you mean 'demo_count'"):
            _ = conf.demo_count

    def test_kerns_own_variables_are_no_settings(self, conf: Settings, environ: dict[str, str]) -> None:
        """They are the command line's, and the tests'."""
        environ.update(KERN_APP="proj:app", KERN_PLUGINS="a,b", KERN_TEST_REDIS="x", KERNEL="y", PATH="z")
        assert conf.without_defaults() == {}

    def test_celerys_four_variables_are_read(self, tmp_path: Path) -> None:
        """A mover's deployment says where the broker is; an empty one says nothing."""
        environ = {"CELERY_BROKER_URL": "a://", "CELERY_RESULT_BACKEND": "", "CELERY_TASK_ALWAYS_EAGER": "1"}
        conf = Settings([BrokerSettings], environ=environ, directory=tmp_path)
        assert (conf.broker_url, conf.result_backend) == ("a://", None)


class TestProject:
    def test_the_nearest_file_with_the_table_is_read(self, tmp_path: Path) -> None:
        """One without it, or of other people, is passed by."""
        (tmp_path / "pyproject.toml").write_text("[tool.kern]\ndemo_count = 4\n")
        inner = tmp_path / "member" / "src"
        inner.mkdir(parents=True)
        (tmp_path / "member" / "pyproject.toml").write_text('[project]\nname = "kernel"\n')
        (inner / "pyproject.toml").write_text("this is not toml")
        conf = Settings([DemoSettings], environ={}, directory=inner)
        assert conf.demo_count == 4
        assert conf.project.path == (tmp_path / "pyproject.toml").resolve()

    def test_the_working_directory_is_where_it_starts(
        self, tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Unless said otherwise."""
        project.write_text('[tool.kern]\napp = "proj:app"\n')
        monkeypatch.chdir(tmp_path)
        found = read_project()
        assert found is not None
        assert found.app == "proj:app"

    def test_kerns_own_keys_and_tables(self, conf: Settings, project: Path) -> None:
        """``app`` and ``plugins`` are the command line's; a table is a mapping."""
        project.write_text(
            '[tool.kern]\napp = "proj:app"\nplugins = ["a"]\ndemo_names = ["x"]\n[tool.kern.demo_options]\nx = 1\n'
        )
        assert (conf.demo_names, conf.demo_options) == (("x",), {"x": 1})
        assert (conf.project.app, conf.project.plugins) == ("proj:app", ("a",))

    @pytest.mark.parametrize(
        ("text", "error", "message"),
        [
            ("[tool.kern\n", ImproperlyConfigured, r"cannot read \[tool.kern\] in .*pyproject.toml"),
            ("[tool]\nkern = 5\n", ImproperlyConfigured, "must be a table"),
            ("[tool.kern]\napp = 5\n", ImproperlyConfigured, "'app' of .* must be text"),
            ('[tool.kern]\nplugins = "a"\n', ImproperlyConfigured, "'plugins' of .* must be a list of names"),
            ("[tool.kern]\ndemo_cuont = 1\n", UnknownSetting, "pyproject.toml.*did you mean 'demo_count'"),
            (
                '[tool.kern]\ndemo_count = "x"\n',
                InvalidSetting,
                r"'demo_count' \(from \[tool.kern\] in .*pyproject.toml",
            ),
        ],
    )
    def test_mistakes_name_the_file(
        self, conf: Settings, project: Path, text: str, error: type[Exception], message: str
    ) -> None:
        """And what is wrong in it."""
        project.write_text(text)
        with pytest.raises(error, match=message):
            _ = conf.demo_count

    def test_bytes_that_are_no_text_are_refused(self, conf: Settings, project: Path) -> None:
        """By the same error."""
        project.write_bytes(b"[tool.kern]\ndemo_name = '\xff'\n")
        with pytest.raises(ImproperlyConfigured, match="cannot read"):
            _ = conf.demo_count


class TestObject:
    @pytest.mark.parametrize("name", ["demo_conf", "demo_conf.CONFIG", "demo_conf:CONFIG", "demo_conf.Config.Inner"])
    def test_dotted_names(self, conf: Settings, package: Path, name: str) -> None:
        """A module, and anything in it."""
        (package / "demo_conf.py").write_text(
            "import os\nfrom pathlib import Path\n"
            "demo_count = 4\nCONFIG = {'demo_count': 4}\n"
            "class Config:\n  class Inner:\n    demo_count = 4\n"
            "def helper(): pass\n"
        )
        if name.count(".") == 2:
            name = "demo_conf:Config.Inner"
        conf.config_from_object(name)
        assert (conf.demo_count, conf.origin("demo_count")) == (4, f"config_from_object({name!r})")

    def test_the_working_directory_can_be_imported_from(
        self, conf: Settings, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As for a program started there; afterwards the path is as it was."""
        (tmp_path / "demo_here.py").write_text("demo_count = 4\n")
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
        monkeypatch.chdir(tmp_path)
        before = list(sys.path)
        conf.config_from_object("demo_here")
        assert conf.demo_count == 4
        assert sys.path == before

    @pytest.mark.parametrize("kind", ["object", "class", "module"])
    def test_anything_with_attributes(self, conf: Settings, kind: str) -> None:
        """An object, a class, a module."""

        class Config:
            demo_count = 4
            _private = 5

            def method(self) -> None: ...

        module = ModuleType("demo_module")
        module.demo_count = 4
        conf.config_from_object({"object": SimpleNamespace(demo_count=4), "class": Config, "module": module}[kind])
        assert conf.demo_count == 4

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("no_such_module_here", "config_from_object.*: there is no module 'no_such_module_here'"),
            ("no_such_module_here.conf", "there is no module 'no_such_module_here'"),
            ("no_such_module_here:conf", "there is no module 'no_such_module_here'"),
            ("json:lodas", r"'json' has no attribute 'lodas' .*did you mean 'loads'"),
            ("json.lodas", r"'json' has no attribute 'lodas'"),
            (":conf", "names no module"),
        ],
    )
    def test_what_cannot_be_imported_is_named(self, conf: Settings, name: str, message: str) -> None:
        """By the name that was given and the part that is not there."""
        conf.config_from_object(name)
        with pytest.raises(ImproperlyConfigured, match=message):
            _ = conf.demo_count

    def test_an_error_inside_the_module_comes_through(self, conf: Settings, package: Path) -> None:
        """It is not taken for a missing module."""
        (package / "demo_broken.py").write_text("import a_module_that_is_not_installed\n")
        conf.config_from_object("demo_broken")
        with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_installed"):
            _ = conf.demo_count
        (package / "demo_failing.py").write_text("1 / 0\n")
        with pytest.raises(ZeroDivisionError):
            import_name("demo_failing")

    def test_silent_is_for_a_module_that_is_not_there(self, conf: Settings) -> None:
        """A configuration that may be missing."""
        conf.config_from_object("no_such_module_here", silent=True)
        assert conf.demo_count == 2

    def test_force_reads_at_once(self, conf: Settings) -> None:
        """And so does an application that has been read before."""
        with pytest.raises(InvalidSetting):
            conf.config_from_object({"demo_count": "x"}, force=True)
        conf.config_from_object({})
        assert conf.demo_count == 2
        with pytest.raises(InvalidSetting):
            conf.config_from_object({"demo_count": "x"})

    def test_a_mapping_has_settings_only(self, conf: Settings) -> None:
        """What is none is a mistake."""
        conf.config_from_object({"demo_cuont": 4})
        with pytest.raises(UnknownSetting, match=r"'demo_cuont' \(from config_from_object.*did you mean 'demo_count'"):
            _ = conf.demo_count

    def test_a_module_has_helpers_too(self, conf: Settings, caplog: pytest.LogCaptureFixture) -> None:
        """What looks like a misspelt setting is one; other data is kept, with one line in the log; code is code."""
        config = SimpleNamespace(demo_cuont=4)
        conf.config_from_object(config)
        with pytest.raises(UnknownSetting, match="did you mean 'demo_count'"):
            _ = conf.demo_count
        conf.config_from_object(SimpleNamespace(demo_count=4, redis_address="here", helper=len, BASE="x", _x=1))
        assert (conf.demo_count, conf.redis_address) == (4, "here")
        assert "redis_address" in conf
        lines = [record.getMessage() for record in caplog.records if record.name == "kern.settings"]
        assert len(lines) == 1
        assert "'redis_address' is not used" in lines[0]
        assert conf.origin("redis_address") == "config_from_object(types.SimpleNamespace)"


class TestNamespace:
    def test_the_prefix_makes_the_name(self, conf: Settings) -> None:
        """Its case is that of the names; names without it are other people's."""
        conf.config_from_object({"KERN_DEMO_COUNT": 4, "DEBUG": True, "SECRET_KEY": "x"}, namespace="KERN")
        assert (conf.demo_count, conf.origin("demo_count")) == (
            4,
            "config_from_object(a mapping): KERN_DEMO_COUNT",
        )
        conf.config_from_object({"app_demo_count": 6}, namespace="app")
        assert conf.demo_count == 6
        conf.config_from_object({"APP_DEMO_COUNT": 8}, namespace="APP_")
        assert conf.demo_count == 8

    def test_a_misspelt_name_with_the_prefix_is_refused(self, conf: Settings) -> None:
        """Also in a module, where the prefix says that a setting was meant."""
        conf.config_from_object(SimpleNamespace(KERN_DEMO_CUONT=4), namespace="KERN")
        with pytest.raises(UnknownSetting, match=r"KERN_DEMO_CUONT.*did you mean 'demo_count'"):
            _ = conf.demo_count

    def test_a_wrong_value_names_the_attribute(self, conf: Settings) -> None:
        """As it is written there."""
        conf.config_from_object(SimpleNamespace(KERN_DEMO_COUNT="x"), namespace="KERN")
        with pytest.raises(InvalidSetting, match="KERN_DEMO_COUNT"):
            _ = conf.demo_count

    def test_names_without_the_prefix_weigh_less(self, conf: Settings) -> None:
        """As in Celery they still count."""
        conf.config_from_object({"demo_count": 4, "KERN_DEMO_COUNT": 6, "demo_late": False}, namespace="KERN")
        assert (conf.demo_count, conf.demo_late) == (6, False)
