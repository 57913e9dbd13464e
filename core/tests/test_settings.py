"""Declaring settings, reading them, assigning them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from kern.errors import ImproperlyConfigured, InvalidSetting, PluginConflict, UnknownSetting
from kern.settings import Section, Settings, setting
from kern.timeutil import seconds


def _even(value: int) -> None:
    if value % 2:
        raise ValueError("expected an even number")


class DemoSettings(Section):
    """What the tests configure."""

    demo_count: int = setting(2, "How many.", validate=_even)
    demo_name: str | None = setting(None, "Who.", old=("OLD_DEMO_NAME", "DEMO_CALLED"))
    demo_token: str | None = setting(None, "Secret of the demo.", secret=True)
    demo_url: str | tuple[str, ...] | None = setting(None, "Where.")
    demo_mode: Literal["fast", "slow"] = setting("fast", "How.")
    demo_pause: float | None = setting(None, "How long.", unit="s", convert=seconds)
    demo_level: int = setting(1, "Which.", choices=(1, 2, 3))
    demo_options: dict[str, Any] = setting({"a": 1}, "More of it.")
    demo_names: tuple[str, ...] = setting((), "Which ones.")
    demo_late: bool = setting(True, "Whether late.", celery_default=False)


class OtherSettings(Section):
    """Another plugin's."""

    other_size: int = setting(1, "How large.")


@pytest.fixture
def conf(tmp_path: Path) -> Settings:
    return Settings([DemoSettings], environ={}, directory=tmp_path)


class TestDeclaring:
    def test_a_section_is_a_frozen_value_with_defaults(self) -> None:
        """Modules can be given settings of their own making, in tests for one."""
        section = DemoSettings(demo_count=4)
        assert (section.demo_count, section.demo_mode, section.demo_options) == (4, "fast", {"a": 1})
        assert section == DemoSettings(demo_count=4)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            section.demo_count = 6
        with pytest.raises(TypeError):
            DemoSettings(demo_cuont=4)

    def test_mutable_defaults_are_not_shared(self) -> None:
        """Two sections each have their own."""
        DemoSettings().demo_options["a"] = 2
        assert DemoSettings().demo_options == {"a": 1}

    def test_a_setting_is_made_with_setting(self) -> None:
        """A plain attribute would have no meaning to print."""
        with pytest.raises(TypeError, match=r"Wrong\.wrong_one: settings are lower-case and made with"):

            class Wrong(Section):
                wrong_one: int = 5

    def test_a_setting_is_lower_case(self) -> None:
        """Upper-case names are Celery's old ones."""
        with pytest.raises(TypeError, match=r"Wrong\.WRONG: settings are lower-case"):

            class Wrong(Section):
                WRONG: int = setting(5, "Wrong.")

    def test_two_sections_cannot_declare_the_same(self, conf: Settings) -> None:
        """The error names both plugins."""

        class Copy(Section):
            demo_count: int = setting(1, "The same.")

        with pytest.raises(PluginConflict, match=r"'demo_count' is declared by kern .*DemoSettings.* and by kern-copy"):
            conf.add_section(Copy, "kern-copy")

    def test_adding_a_section_again_changes_nothing(self, conf: Settings) -> None:
        """Plugins may be assembled twice."""
        conf.demo_count = 4
        conf.add_section(DemoSettings, "somebody")
        assert conf.demo_count == 4
        assert conf.sections[DemoSettings] == "kern"


class TestReading:
    def test_by_attribute_item_and_get(self, conf: Settings) -> None:
        """All are the same."""
        conf.demo_count = 4
        assert conf.demo_count == conf["demo_count"] == conf.get("demo_count") == 4
        assert conf.get("nothing", 7) == 7
        assert getattr(conf, "nothing", 7) == 7
        assert not hasattr(conf, "nothing")

    def test_an_unknown_name_says_the_nearest(self, conf: Settings) -> None:
        """And is an error of each kind that a reader may expect."""
        for error in (UnknownSetting, AttributeError):
            with pytest.raises(error, match="unknown setting 'demo_cuont'; did you mean 'demo_count'"):
                _ = conf.demo_cuont
        for error in (UnknownSetting, KeyError):
            with pytest.raises(error, match="did you mean 'demo_count'"):
                conf["demo_cuont"]

    def test_it_is_a_mapping(self, conf: Settings) -> None:
        """Iteration, length, membership and conversion go over what is declared."""
        assert list(conf) == [field.name for field in attrs.fields(DemoSettings)]
        assert len(conf) == len(dict(conf)) == 10
        assert "demo_count" in conf
        assert "OLD_DEMO_NAME" in conf
        assert "nothing" not in conf
        assert 5 not in conf
        assert "demo_count" in dir(conf)

    def test_sections_are_typed_snapshots_that_are_made_once_a_change(self, conf: Settings) -> None:
        """Whoever reads them at each call pays nothing."""
        before = conf.section(DemoSettings)
        assert isinstance(before, DemoSettings)
        assert conf.section(DemoSettings) is before
        version = conf.version
        conf.demo_count = 4
        assert conf.version != version
        assert (before.demo_count, conf.section(DemoSettings).demo_count) == (2, 4)

    def test_a_section_nobody_added_is_an_error(self, conf: Settings) -> None:
        """And not a silent default."""
        with pytest.raises(ImproperlyConfigured, match="OtherSettings was not added"):
            conf.section(OtherSettings)

    def test_a_default_that_is_changed_in_place_stays_changed(self, conf: Settings) -> None:
        """``conf.broker_transport_options["x"] = 1`` is how people write it; other applications do not see it."""
        conf.demo_options["b"] = 2
        conf.demo_count = 4
        conf.config_from_object({"demo_mode": "slow"})
        assert conf.demo_options == conf.section(DemoSettings).demo_options == {"a": 1, "b": 2}
        assert Settings([DemoSettings], environ={}).demo_options == {"a": 1}

    def test_nothing_is_read_before_the_first_value(self, tmp_path: Path) -> None:
        """An application can be made before its configuration can be imported."""
        environ = {"KERN_DEMO_COUNT": "x"}
        conf = Settings([DemoSettings], environ=environ, directory=tmp_path)
        conf.config_from_object("there.is.no.such.module")
        environ["KERN_DEMO_COUNT"] = "8"
        conf.config_from_object({})
        assert conf.demo_count == 8

    def test_many_threads_read_first(self, tmp_path: Path) -> None:
        """The sources are read once, and every thread gets the same."""
        calls = []
        conf = Settings([DemoSettings], environ={}, directory=tmp_path)
        conf.add_defaults(lambda: calls.append(1) or {"demo_count": 6})
        start = threading.Barrier(8)
        found = []

        def read() -> None:
            start.wait()
            found.append((conf.demo_count, conf.section(DemoSettings).demo_count))

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [(6, 6)] * 8
        assert calls == [1]


class TestAssigning:
    def test_every_way_to_assign(self, conf: Settings) -> None:
        """Attribute, item, update in both forms, setdefault."""
        conf.demo_count = 4
        conf["demo_mode"] = "slow"
        conf.update({"demo_level": 2}, demo_name="x")
        assert (conf.demo_count, conf.demo_mode, conf.demo_level, conf.demo_name) == (4, "slow", 2, "x")
        assert conf.setdefault("demo_count", 100) == 4

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("demo_count", "many", r"setting 'demo_count' \(from assignment\): expected an integer, not 'many'"),
            ("demo_count", 3, "expected an even number, not 3"),
            ("demo_count", None, "expected an integer, not None"),
            ("demo_mode", "medium", "expected 'fast' or 'slow', not 'medium'"),
            ("demo_level", 4, "expected 1 or 2 or 3, not 4"),
            ("demo_pause", "long", "a duration is a number of seconds"),
            ("demo_names", "a", r"write \['a'\] for a list of one"),
            ("demo_options", [], r"expected a mapping, not \[\]"),
        ],
    )
    def test_a_wrong_value_is_refused_at_once(self, conf: Settings, key: str, value: Any, message: str) -> None:
        """The error names the setting, where the value came from, and what is accepted; nothing has changed."""
        before = conf[key]
        with pytest.raises(InvalidSetting, match=message) as caught:
            conf[key] = value
        assert (caught.value.key, caught.value.origin) == (key, "assignment")
        assert conf[key] == before

    def test_an_unknown_name_is_refused_at_once(self, conf: Settings) -> None:
        """The error says the nearest."""
        with pytest.raises(UnknownSetting, match=r"'demo_cuont' \(from assignment\); did you mean 'demo_count'"):
            conf.demo_cuont = 4
        with pytest.raises(UnknownSetting):
            conf.update(zzzzzzz=1)

    def test_an_update_is_all_or_nothing(self, conf: Settings) -> None:
        """A mistake in the last leaves the first as it was."""
        with pytest.raises(InvalidSetting):
            conf.update(demo_count=4, demo_mode="medium")
        assert conf.demo_count == 2

    @pytest.mark.parametrize("name", ["_values", "version", "section", "update", "celery_heritage"])
    def test_what_is_no_setting_cannot_be_assigned(self, conf: Settings, name: str) -> None:
        """Methods cannot be overwritten by accident."""
        with pytest.raises(AttributeError, match="is no setting"):
            setattr(conf, name, 5)

    def test_values_are_converted(self, conf: Settings) -> None:
        """By ``convert`` or by type; ``None`` goes past ``convert`` where it is a value."""
        conf.demo_pause = "2.5"
        conf.demo_names = ["a"]
        assert (conf.demo_pause, conf.demo_names) == (2.5, ("a",))
        conf.demo_pause = None
        assert conf.demo_pause is None

    def test_an_assignment_can_be_taken_back(self, conf: Settings) -> None:
        """Then what was there before holds."""
        conf.demo_count = 4
        del conf.demo_count
        assert (conf.demo_count, conf.origin("demo_count")) == (2, "default")
        with pytest.raises(KeyError):
            del conf["demo_count"]

    def test_other_names_are_understood(self, conf: Settings) -> None:
        """Everywhere a name is."""
        conf.OLD_DEMO_NAME = "x"
        assert conf.demo_name == conf["DEMO_CALLED"] == "x"

    def test_no_secret_is_in_an_error(self, conf: Settings) -> None:
        """Neither a secret setting's nor a URL's password."""
        with pytest.raises(InvalidSetting) as caught:
            conf.demo_token = 12345678
        assert "12345678" not in str(caught.value)
        with pytest.raises(InvalidSetting) as caught:
            conf.demo_count = "redis://user:hunter2@host/0"
        assert "hunter2" not in str(caught.value)
        assert "redis://user:********@host/0" in str(caught.value)

    def test_a_long_value_is_cut_in_an_error(self, conf: Settings) -> None:
        """A configuration printed whole would hide the message."""
        with pytest.raises(InvalidSetting) as caught:
            conf.demo_count = "x" * 10_000
        assert len(str(caught.value)) < 250


class TestAddedLater:
    def test_a_plugins_section_is_there_at_once(self, conf: Settings) -> None:
        """With its owner."""
        assert "other_size" not in conf
        conf.add_section(OtherSettings, "kern-other")
        assert conf.other_size == 1
        assert next(row.owner for row in conf.describe() if row.key == "other_size") == "kern-other"

    def test_sources_are_looked_at_again(self, tmp_path: Path) -> None:
        """What the environment says of the plugin's settings holds."""
        conf = Settings([DemoSettings], environ={"KERN_OTHER_SIZE": "5"}, directory=tmp_path)
        with pytest.raises(UnknownSetting, match="KERN_OTHER_SIZE"):
            _ = conf.demo_count
        conf.add_section(OtherSettings, "kern-other")
        assert conf.other_size == 5

    def test_what_was_assigned_stays(self, conf: Settings) -> None:
        """Assignments made before are not lost."""
        conf.demo_count = 4
        conf.add_section(OtherSettings, "kern-other")
        assert conf.demo_count == 4


class TestKeywordsOfTheApplication:
    def test_they_are_looked_at_when_the_first_value_is(self, tmp_path: Path) -> None:
        """Plugins have added their sections by then: ``Kern(beat_schedule=…)`` is no error and logs nothing."""
        conf = Settings([DemoSettings], changes={"other_size": "5", "demo_count": 4}, environ={}, directory=tmp_path)
        conf.add_section(OtherSettings, "kern-other")
        assert (conf.other_size, conf.demo_count) == (5, 4)
        assert conf.origin("other_size") == "keyword of the application"

    def test_a_later_assignment_wins(self, tmp_path: Path) -> None:
        """Also one made before anything was read."""
        conf = Settings([DemoSettings], changes={"demo_count": 4}, environ={}, directory=tmp_path)
        conf.demo_count = 6
        assert conf.demo_count == 6

    @pytest.mark.parametrize(
        ("changes", "error"), [({"demo_count": "x"}, InvalidSetting), ({"demo_cuont": 4}, UnknownSetting)]
    )
    def test_a_wrong_one_is_refused_at_every_look(self, tmp_path: Path, changes: Any, error: type[Exception]) -> None:
        """It does not vanish behind the first error."""
        conf = Settings([DemoSettings], changes=changes, environ={}, directory=tmp_path)
        for _ in range(2):
            with pytest.raises(error, match="keyword of the application"):
                _ = conf.demo_mode


class TestFreezing:
    def test_a_frozen_copy_keeps_what_it_had(self, conf: Settings) -> None:
        """A worker's settings are those it started with."""
        conf.demo_options = {"a": {"b": [1]}}
        frozen = conf.freeze()
        conf.demo_count = 4
        conf.demo_options["a"]["b"].append(2)
        assert (frozen.demo_count, frozen.demo_options) == (2, {"a": {"b": [1]}})
        assert frozen.section(DemoSettings).demo_count == 2
        assert frozen.origin("demo_options") == "assignment"
        assert frozen.frozen
        assert not conf.frozen

    def test_it_cannot_be_changed(self, conf: Settings) -> None:
        """By none of the ways there are."""
        frozen = conf.freeze()
        for change in (
            lambda: setattr(frozen, "demo_count", 4),
            lambda: frozen.update(demo_count=4),
            lambda: frozen.add_defaults({}),
            lambda: frozen.config_from_object({}),
            lambda: frozen.add_section(OtherSettings),
            lambda: frozen.update_from_arguments(["demo_count=4"]),
            lambda: frozen.pop("demo_count"),
        ):
            with pytest.raises(ImproperlyConfigured, match="snapshot of a running worker"):
                change()

    def test_what_was_changed_in_place_is_checked_again(self, conf: Settings) -> None:
        """A list that was appended to is a list nobody has looked at."""

        class ListSettings(Section):
            demo_numbers: list[int] = setting([], "Numbers.")

        conf.add_section(ListSettings)
        conf.demo_numbers.append("x")
        with pytest.raises(InvalidSetting, match="demo_numbers"):
            conf.freeze()


class TestShowing:
    def test_rows_say_everything_about_a_setting(self, conf: Settings) -> None:
        """What ``kern config`` prints."""
        conf.demo_pause = 5
        rows = {row.key: row for row in conf.describe()}
        row = rows["demo_pause"]
        assert (row.value, row.is_default, row.origin, row.meaning) == (5.0, False, "assignment", "How long.")
        assert (row.owner, row.section, row.accepts, row.unit) == ("kern", "DemoSettings", "a number or None", "s")
        assert rows["demo_count"].is_default
        assert rows["demo_count"].origin == "default"
        assert rows["demo_level"].accepts == "1 or 2 or 3"

    def test_secrets_are_masked(self, conf: Settings) -> None:
        """A secret setting, the password of a URL wherever it is, and what has the name of a secret in a mapping."""
        conf.demo_token = "hunter2"
        conf.demo_url = ["redis://user:hunter2@a/0", "redis://:hunter2@b/0?password=hunter2"]
        conf.demo_options = {"password": "hunter2", "nested": {"api_key": "hunter2"}, "hosts": ["amqp://u:hunter2@c//"]}
        assert "hunter2" not in repr(conf.describe())
        assert "hunter2" not in repr(conf.table())
        assert "hunter2" not in conf.humanize(with_defaults=True)
        assert "hunter2" not in repr(conf)
        assert conf.table(censored=False)["demo_token"] == "hunter2"
        assert conf.demo_url[0] == "redis://user:hunter2@a/0"

    def test_what_somebody_gave(self, conf: Settings) -> None:
        """Without what nobody said."""
        conf.demo_count = 4
        assert conf.without_defaults() == conf.table() == {"demo_count": 4}
        assert conf.humanize() == "demo_count: 4"
        assert len(conf.table(with_defaults=True)) == len(conf)
        assert conf.is_default("demo_mode")
        assert not conf.is_default("demo_count")

    def test_the_origin_of_what_does_not_exist_is_an_error(self, conf: Settings) -> None:
        """With the nearest."""
        with pytest.raises(UnknownSetting, match="did you mean 'demo_count'"):
            conf.origin("demo_cuont")


class TestArguments:
    @pytest.mark.parametrize(
        ("argument", "key", "expected"),
        [
            ("demo.count=4", "demo_count", 4),
            ("demo_count=4", "demo_count", 4),
            ("DEMO.COUNT=4", "demo_count", 4),
            (".count=4", "demo_count", 4),
            ("_count=4", "demo_count", 4),
            ("count=4", "demo_count", 4),
            ("demo.count=(int)4", "demo_count", 4),
            ("demo.pause=2.5", "demo_pause", 2.5),
            ("demo.pause=none", "demo_pause", None),
            ("demo.pause=(float)2.5", "demo_pause", 2.5),
            ("demo.late=no", "demo_late", False),
            ("demo.late=(bool)off", "demo_late", False),
            ("demo.name=(string)a=b", "demo_name", "a=b"),
            ("demo.name=(any)x", "demo_name", "x"),
            ("demo.names=a,b", "demo_names", ("a", "b")),
            ('demo.names=(list)["a"]', "demo_names", ("a",)),
            ('demo.names=(tuple)["a"]', "demo_names", ("a",)),
            ('demo.options=(dict){"x": 1}', "demo_options", {"x": 1}),
            ('demo.options=(json){"x": 1}', "demo_options", {"x": 1}),
            ('demo.options={"x": 1}', "demo_options", {"x": 1}),
        ],
    )
    def test_the_forms_of_the_command_line(self, conf: Settings, argument: str, key: str, expected: Any) -> None:
        """Dots, prefixes, and types in parentheses."""
        conf.update_from_arguments([argument], namespace="demo")
        assert conf[key] == expected
        assert conf.origin(key) == f"command line {argument.partition('=')[0]!r}"

    @pytest.mark.parametrize(
        ("argument", "error", "message"),
        [
            ("demo.count", ImproperlyConfigured, "cannot read 'demo.count': settings are given as 'name=value'"),
            ("=4", ImproperlyConfigured, "cannot read '=4'"),
            ("demo.count=x", InvalidSetting, r"'demo_count' \(from command line 'demo.count'\): expected an integer"),
            ("demo.count=(int)x", InvalidSetting, "demo_count"),
            ("demo.count=(complex)1", ImproperlyConfigured, "there is no type 'complex'; known are string, int"),
            ("demo.options=(dict)[1]", InvalidSetting, "not a dict"),
            ("demo.options=(json){", InvalidSetting, "demo_options"),
            ("demo.cuont=4", UnknownSetting, "did you mean 'demo_count'"),
        ],
    )
    def test_mistakes_are_named(self, conf: Settings, argument: str, error: type[Exception], message: str) -> None:
        """Each says which argument it is about."""
        with pytest.raises(error, match=message):
            conf.update_from_arguments([argument], namespace="demo")
