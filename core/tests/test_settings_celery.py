"""A configuration written for Celery is understood."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kern import Kern
from kern.celery_settings import CELERY_NAMES, NOT_READ, PROVIDED_BY, explain
from kern.errors import ImproperlyConfigured, UnknownSetting
from kern.settings import Section, Settings, setting


@pytest.fixture
def environ() -> dict[str, str]:
    return {}


@pytest.fixture
def conf(tmp_path: Path, environ: dict[str, str]) -> Settings:
    """Settings with the sections of core and of no plugin."""
    core = [section for section, owner in Kern()._conf.sections.items() if owner == "kern"]
    return Settings(core, environ=environ, directory=tmp_path)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "kern.settings"]


class TestEverySetting:
    def test_all_of_celerys_settings_are_known(self) -> None:
        """198, and the nine of Celery 5.7, each with its old name; no two share one."""
        assert len(CELERY_NAMES) == 207
        assert len(set(CELERY_NAMES.values())) == 207
        assert all(old.isupper() and key.islower() for key, old in CELERY_NAMES.items())

    @pytest.mark.parametrize("key", CELERY_NAMES)
    def test_each_is_read_or_explained(self, conf: Settings, key: str) -> None:
        """And not both: what is read needs no excuse."""
        assert (key in conf.options) != bool(explain(key))

    def test_explanations_are_of_one_kind_each(self) -> None:
        """A setting belongs to one plugin, or has no place in kern."""
        provided = [key for keys in PROVIDED_BY.values() for key in keys]
        assert len(provided) == len(set(provided))
        assert not set(provided) & set(NOT_READ)
        assert explain("no_such_setting") is None
        assert explain("beat_schedule") == "it belongs to kern-beat; nothing installed here reads it"

    @pytest.mark.parametrize("key", [key for key in CELERY_NAMES if explain(key)])
    def test_using_one_that_nobody_reads_is_one_line(
        self, conf: Settings, key: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Under its new name and its old one, assigned and configured: one line that says why, and no error."""
        conf[key] = 5
        conf[CELERY_NAMES[key]] = 5
        conf.config_from_object({key: 5})
        assert conf[key] == 5
        assert conf.get(CELERY_NAMES[key]) == 5
        lines = warnings(caplog)
        assert len(lines) == 1
        assert key in lines[0]
        assert str(explain(key)) in lines[0]

    def test_those_that_nobody_reads_can_be_listed(self, conf: Settings) -> None:
        """With value, origin and reason, and without secrets."""
        conf.redis_password = "hunter2"
        conf.config_from_object({"worker_timer": "x"})
        rows = {row.key: row for row in conf.unused()}
        assert set(rows) == {"redis_password", "worker_timer"}
        assert "hunter2" not in repr(rows)
        assert rows["worker_timer"].origin == "config_from_object(a mapping)"
        assert rows["worker_timer"].meaning == explain("worker_timer")

    def test_reading_one_that_was_never_given_says_why(self, conf: Settings) -> None:
        """The error is the explanation."""
        with pytest.raises(AttributeError, match=r"worker_hijack_root_logger.*never touches the root logger"):
            _ = conf.worker_hijack_root_logger
        assert "worker_hijack_root_logger" not in conf

    def test_its_secrets_are_not_in_the_log(self, conf: Settings, caplog: pytest.LogCaptureFixture) -> None:
        """The line has the name, not the value."""
        conf.redis_password = "hunter2"
        assert warnings(caplog)
        assert "hunter2" not in caplog.text

    def test_a_plugin_that_reads_it_gets_it(self, conf: Settings, caplog: pytest.LogCaptureFixture) -> None:
        """Under both names, checked, and without a line; also what was given before the plugin was there."""

        class BeatSettings(Section):
            beat_max_loop_interval: float = setting(0.0, "Longest sleep.")
            beat_sync_every: int = setting(0, "How often.")

        conf.CELERYBEAT_MAX_LOOP_INTERVAL = 5
        assert len(warnings(caplog)) == 1
        conf.add_section(BeatSettings, "kern-beat")
        conf.config_from_object({"CELERYBEAT_SYNC_EVERY": 3})
        assert (conf.beat_max_loop_interval, conf.beat_sync_every) == (5.0, 3)
        assert len(warnings(caplog)) == 1

    def test_the_environment_and_the_project_may_have_them_too(
        self, conf: Settings, environ: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One line each, with where it came from."""
        environ["KERN_BEAT_SCHEDULER"] = "x"
        (tmp_path / "pyproject.toml").write_text("[tool.kern]\nworker_timer = 'x'\n")
        assert conf.task_serializer == "json"
        lines = warnings(caplog)
        assert len(lines) == 2
        assert any("KERN_BEAT_SCHEDULER" in line and "kern-beat" in line for line in lines)
        assert any("pyproject.toml" in line and "worker_timer" in line for line in lines)


class TestDefaults:
    def test_every_default_is_what_its_setting_accepts(self, conf: Settings) -> None:
        """kern's and Celery's, so that a section of defaults is a valid one."""
        for option in conf.options.values():
            for celery in (False, True):
                assert option.checker.exact(option.default(celery)), option.key

    def test_every_setting_says_what_it_does(self, conf: Settings) -> None:
        """In a sentence."""
        for row in conf.describe():
            assert re.match(r"[A-Z0-9].*\.\Z", row.meaning), row.key

    def test_where_kern_differs_from_celery(self, conf: Settings) -> None:
        """The differences of defaults, all of them."""
        celery = {
            "task_acks_late": False,
            "task_reject_on_worker_lost": False,
            "worker_soft_shutdown_timeout": 0.0,
            "worker_pool": "prefork",
            "worker_prefetch_multiplier": 4,
        }
        ours = {key: conf[key] for key in celery}
        assert ours == {
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "worker_soft_shutdown_timeout": 25.0,
            "worker_pool": None,
            "worker_prefetch_multiplier": None,
        }
        same = {
            "accept_content": ("json",),
            "result_accept_content": None,
            "enable_utc": True,
            "imports": (),
            "include": (),
            "timezone": None,
            "broker_url": None,
            "broker_connection_retry": True,
            "broker_connection_retry_on_startup": None,
            "broker_connection_max_retries": 100,
            "broker_failover_strategy": None,
            "result_backend": None,
            "result_cache_max": -1,
            "result_compression": None,
            "result_expires": 86400.0,
            "result_extended": False,
            "result_serializer": "json",
            "task_acks_on_failure_or_timeout": True,
            "task_acks_on_failure": None,
            "task_acks_on_timeout": None,
            "task_always_eager": False,
            "task_annotations": None,
            "task_compression": None,
            "task_create_missing_queues": True,
            "task_create_missing_queue_type": "classic",
            "task_create_missing_queue_exchange_type": None,
            "task_inherit_parent_priority": False,
            "task_default_delivery_mode": 2,
            "task_default_queue": "celery",
            "task_default_queue_type": "classic",
            "task_default_exchange": None,
            "task_default_exchange_type": "direct",
            "task_default_routing_key": None,
            "task_default_rate_limit": None,
            "task_default_priority": None,
            "task_eager_propagates": False,
            "task_ignore_result": False,
            "task_store_eager_result": False,
            "task_publish_retry": True,
            "task_publish_retry_policy": {
                "max_retries": 3,
                "interval_start": 0,
                "interval_max": 1,
                "interval_step": 0.2,
            },
            "task_queues": None,
            "task_queue_max_priority": None,
            "task_repr_maxlevels": 3,
            "task_routes": None,
            "task_serializer": "json",
            "task_soft_time_limit": None,
            "task_time_limit": None,
            "task_store_errors_even_if_ignored": False,
            "task_track_started": False,
            "worker_concurrency": None,
            "worker_direct": False,
            "worker_disable_prefetch": False,
            "worker_disable_rate_limits": False,
            "worker_log_color": None,
            "worker_max_memory_per_child": None,
            "worker_max_tasks_per_child": None,
        }
        assert {key: conf[key] for key in same} == same


class TestOldNames:
    def test_old_names_are_understood(self, conf: Settings) -> None:
        """A configuration of Celery 3 works as it is."""
        conf.config_from_object(
            {
                "BROKER_URL": "redis://localhost/1",
                "CELERY_RESULT_BACKEND": "redis://localhost/2",
                "CELERY_TASK_RESULT_EXPIRES": 60,
                "CELERYD_CONCURRENCY": 4,
                "CELERY_ROUTES": {"a": "b"},
                "CELERY_IMPORTS": ["proj.tasks"],
            }
        )
        assert conf.broker_url == conf.BROKER_URL == "redis://localhost/1"
        assert (conf.result_backend, conf.result_expires) == ("redis://localhost/2", 60.0)
        assert (conf.worker_concurrency, conf.imports) == (4, ("proj.tasks",))
        assert conf.task_routes == conf["CELERY_ROUTES"] == {"a": "b"}

    def test_the_minority_is_refused_with_its_new_names(self, conf: Settings) -> None:
        """Celery's rule: one style; the message is the list of what to rename."""
        conf.config_from_object({"broker_url": "x://", "task_serializer": "json", "CELERYD_CONCURRENCY": 4})
        with pytest.raises(
            ImproperlyConfigured,
            match=r"mixes old and new names of settings; most are new lower-case ones\. Rename:\n"
            r"  CELERYD_CONCURRENCY +-> worker_concurrency\n",
        ):
            _ = conf.broker_url
        conf.config_from_object({"BROKER_URL": "x://", "CELERY_TASK_SERIALIZER": "json", "worker_concurrency": 4})
        with pytest.raises(ImproperlyConfigured, match=r"  worker_concurrency +-> CELERYD_CONCURRENCY\n"):
            _ = conf.broker_url

    def test_both_names_of_one_setting_are_no_mixture(self, conf: Settings) -> None:
        """The majority's is taken."""
        conf.config_from_object({"broker_url": "new://", "task_serializer": "json", "BROKER_URL": "old://"})
        assert conf.broker_url == "new://"
        conf.config_from_object({"broker_url": "new://", "CELERY_TASK_SERIALIZER": "json", "BROKER_URL": "old://"})
        assert conf.broker_url == "old://"

    def test_the_time_zone_has_a_third_name(self, conf: Settings) -> None:
        """It is the web framework's, and no sign of Celery."""
        conf.config_from_object(SimpleNamespace(TIME_ZONE="Europe/Berlin", task_serializer="json"))
        assert (conf.timezone, conf.celery_heritage) == ("Europe/Berlin", False)
        conf.config_from_object(SimpleNamespace(TIME_ZONE="Europe/Berlin", timezone="UTC"))
        assert conf.timezone == "UTC"


class TestNamespace:
    def test_names_with_celerys_prefix(self, conf: Settings) -> None:
        """New names with the prefix, and old names that happen to start with it."""
        conf.config_from_object(
            SimpleNamespace(
                CELERY_BROKER_URL="redis://localhost/1",
                CELERY_TASK_RESULT_EXPIRES=60,
                CELERY_RESULT_BACKEND="redis://",
                CELERY_BEAT_SCHEDULE={},
                TIME_ZONE="Europe/Berlin",
                CELERYD_CONCURRENCY=3,
                DEBUG=True,
                S3_BUCKET="of somebody else",
            ),
            namespace="CELERY",
        )
        assert conf.broker_url == "redis://localhost/1"
        assert (conf.result_expires, conf.result_backend) == (60.0, "redis://")
        assert (conf.timezone, conf.worker_concurrency) == ("Europe/Berlin", 3)
        assert conf.beat_schedule == {}
        assert "s3_bucket" not in conf
        assert conf.celery_heritage

    def test_a_misspelt_one_is_refused(self, conf: Settings) -> None:
        """The trap of ``CELERY_ALWAYS_EAGER`` beside ``CELERY_TASK_ALWAYS_EAGER`` is none: both are known."""
        conf.config_from_object(SimpleNamespace(CELERY_ALWAYS_EAGER=True), namespace="CELERY")
        assert conf.task_always_eager
        misspelt = SimpleNamespace(CELERY_TASK_ALWAYS_EAGRE=True)
        with pytest.raises(UnknownSetting, match=r"CELERY_TASK_ALWAYS_EAGRE.*did you mean 'task_always_eager'"):
            conf.config_from_object(misspelt, namespace="CELERY")


class TestHeritage:
    @pytest.mark.parametrize(
        ("source", "options"),
        [
            ({"BROKER_URL": "x://"}, {}),
            ({"broker_url": "x://"}, {"celery_defaults": True}),
            ({"CELERY_BROKER_URL": "x://"}, {"namespace": "CELERY"}),
            ({"celery_broker_url": "x://"}, {"namespace": "celery"}),
            (ModuleType("celeryconfig"), {}),
            (ModuleType("proj.celeryconfig"), {}),
        ],
    )
    def test_what_was_written_for_celery_keeps_its_defaults(self, conf: Settings, source: Any, options: Any) -> None:
        """Old names, Celery's prefix, a module of the customary name, or being told so."""
        conf.config_from_object(source, **options)
        assert conf.celery_heritage
        assert (conf.task_acks_late, conf.task_reject_on_worker_lost) == (False, False)
        assert conf.origin("task_acks_late") == "Celery's default"
        assert conf.is_default("task_acks_late")
        assert conf.freeze().celery_heritage

    @pytest.mark.parametrize(
        ("source", "options"),
        [
            ({"broker_url": "x://"}, {}),
            ({"KERN_BROKER_URL": "x://"}, {"namespace": "KERN"}),
            ({"BROKER_URL": "x://"}, {"celery_defaults": False}),
            ({"CELERY_BROKER_URL": "x://"}, {"namespace": "CELERY", "celery_defaults": False}),
            (ModuleType("config"), {}),
        ],
    )
    def test_all_else_has_kerns(self, conf: Settings, source: Any, options: Any) -> None:
        """Names that Celery and kern share say nothing."""
        conf.config_from_object(source, **options)
        assert not conf.celery_heritage
        assert (conf.task_acks_late, conf.task_reject_on_worker_lost) == (True, True)

    def test_a_module_by_its_dotted_name(self, conf: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """``config_from_object("celeryconfig")``, as in Celery's tutorial."""
        (tmp_path / "celeryconfig.py").write_text("broker_url = 'redis://'\nimports = ('a',)\n")
        monkeypatch.syspath_prepend(tmp_path)
        conf.config_from_object("celeryconfig")
        assert conf.celery_heritage
        assert conf.imports == ("a",)

    def test_a_value_somebody_gave_holds(self, conf: Settings) -> None:
        """Only defaults are Celery's."""
        conf.config_from_object({"CELERY_ACKS_LATE": True})
        assert (conf.task_acks_late, conf.task_reject_on_worker_lost) == (True, False)
        conf.task_reject_on_worker_lost = True
        assert conf.task_reject_on_worker_lost

    def test_another_object_ends_it(self, conf: Settings) -> None:
        """The last one counts."""
        conf.config_from_object({"BROKER_URL": "x://"})
        assert conf.task_acks_late is False
        conf.config_from_object({"broker_url": "x://"})
        assert conf.task_acks_late is True

    def test_its_environment_wins_as_in_celery(self, conf: Settings, environ: dict[str, str]) -> None:
        """A deployment that points Celery somewhere points kern there too, unless a KERN_ variable speaks."""
        environ["CELERY_BROKER_URL"] = "environment://"
        conf.broker_url = "assigned://"
        conf.config_from_object({"BROKER_URL": "object://"})
        assert conf.broker_url == "environment://"
        assert conf.origin("broker_url") == "environment variable CELERY_BROKER_URL"
        environ["KERN_BROKER_URL"] = "kern://"
        conf.config_from_object({"BROKER_URL": "object://"})
        assert conf.broker_url == "assigned://"


class TestCoreSettings:
    def test_heartbeat_and_lease_must_go_together(self, conf: Settings) -> None:
        """A worker whose leases end before it renews them is refused at start."""
        conf.worker_lease_seconds = 6
        with pytest.raises(
            ImproperlyConfigured, match=r"'worker_heartbeat': expected at most half of .* \(6 s\), not 5 s"
        ):
            conf.freeze()
        conf.worker_heartbeat = 3
        assert conf.freeze().worker_heartbeat == 3.0

    @pytest.mark.parametrize(
        ("key", "value", "expected"),
        [
            ("broker_url", "redis://a;redis://b", "redis://a;redis://b"),
            ("broker_url", ["redis://a", "redis://b"], ("redis://a", "redis://b")),
            ("result_expires", 0, None),
            ("result_expires", None, None),
            ("task_default_delivery_mode", "transient", 1),
            ("task_default_delivery_mode", "2", 2),
            ("worker_concurrency", "auto", None),
            ("worker_concurrency", 0, None),
            ("worker_concurrency", "8", 8),
            ("worker_prefetch_multiplier", 0, 0),
            ("task_reject_on_worker_lost", None, False),
            ("task_reject_on_worker_lost", "false", False),
            ("task_default_rate_limit", "10/m", "10/m"),
            ("timezone", "Europe/Berlin", "Europe/Berlin"),
            ("broker_failover_strategy", "shuffle", "shuffle"),
            ("broker_connection_max_retries", None, None),
            ("task_annotations", {"*": {"rate_limit": "1/s"}}, {"*": {"rate_limit": "1/s"}}),
            ("task_publish_retry_policy", {"max_retries": None}, {"max_retries": None}),
        ],
    )
    def test_forms_that_are_accepted(self, conf: Settings, key: str, value: Any, expected: Any) -> None:
        """Celery's, and those that follow from the type."""
        conf[key] = value
        assert conf[key] == expected

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("broker_url", 5, "expected text or a list"),
            ("broker_url", "redis://a;;redis://b", "one is empty"),
            ("broker_connection_max_retries", -1, "expected 0 or more"),
            ("broker_failover_strategy", "random", "'round-robin' or 'shuffle'"),
            ("task_default_delivery_mode", 3, "a delivery mode is 1 or 'transient'"),
            ("task_default_priority", 300, "expected a priority from 0 to 255"),
            ("task_default_rate_limit", "10/d", "a rate is a number"),
            ("task_default_queue_type", "bad", "expected 'classic' or 'quorum', not 'bad'"),
            ("task_default_exchange_type", "tropic", "expected 'direct', 'topic', 'fanout'"),
            ("task_time_limit", 0, "expected a number above 0"),
            ("task_max_attempts", 0, "expected a number above 0"),
            ("task_annotations", 5, "expected a mapping, an object with annotate"),
            ("task_annotations", {"rate_limit": "1/s"}, "at 'rate_limit' it is not"),
            ("task_publish_retry_policy", {"max_retry": 3}, "'max_retry' is none of these"),
            ("task_publish_retry_policy", {"interval_max": -1}, "0 or more, at 'interval_max'"),
            ("task_publish_retry_policy", {"errback": 5}, "a callable at 'errback'"),
            ("task_publish_retry_policy", {"retry_errors": [5]}, "classes of exceptions"),
            ("message_size_limit", 0, "expected a number above 0"),
            ("publish_timeout", 0, "expected a number above 0"),
            ("result_expires", -1, "expected a number above 0"),
            ("timezone", "Europe/Berln", "did you mean 'Europe/Berlin'"),
            ("timezone", 5, "text or a tzinfo"),
            ("worker_concurrency", -1, "expected a number of slots, or 'auto'"),
            ("worker_concurrency", "many", "expected a number of slots, or 'auto'"),
            ("worker_max_tasks_per_child", 0, "expected a number above 0"),
            ("worker_lease_seconds", 0, "expected a number above 0"),
            ("imports", "proj.tasks", r"write \['proj.tasks'\]"),
        ],
    )
    def test_forms_that_are_refused(self, conf: Settings, key: str, value: Any, message: str) -> None:
        """Each with what is accepted."""
        with pytest.raises(ImproperlyConfigured, match=message):
            conf[key] = value
