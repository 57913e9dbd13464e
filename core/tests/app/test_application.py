"""The application itself: settings, defaults, drivers, identity, and what else it is asked for."""

from __future__ import annotations

import os
import sys
import threading
import types
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from kern import Kern
from kern.contracts.continuation import Composer, Follows
from kern.errors import CapabilityMissing, ImproperlyConfigured, InvalidSetting, PluginMissing, QueueNotFound
from kern.hookspecs import hookimpl
from kern.result import AsyncResult, GroupResult, ResultSet
from kern.settings import Section, setting
from kern.timeutil import clock

from .conftest import Bench

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class TestSettings:
    def test_given_when_it_is_made_assigned_and_from_an_object(self, make_bench: Callable[..., Bench]) -> None:
        app = make_bench(task_serializer="yaml").app
        app.config_from_object({"task_default_queue": "from object", "task_serializer": "msgpack"})
        app.add_defaults({"task_default_queue": "from defaults"})
        assert (app.conf.task_serializer, app.conf["task_default_queue"]) == ("yaml", "from defaults")
        app.conf.task_default_queue = "assigned"
        assert app.conf.task_default_queue == "assigned"
        with pytest.raises(InvalidSetting, match=r"task_acks_late"):
            app.conf.task_acks_late = "perhaps"

    def test_a_source_given_when_it_is_made(self) -> None:
        app = Kern("t", config_source={"CELERY_TASK_SERIALIZER": "yaml"}, namespace="CELERY", plugins="testing")
        assert app.conf.task_serializer == "yaml"

    def test_read_when_it_is_needed_or_at_once(self, app: Kern) -> None:
        app.config_from_object("there.is.no.such.module")
        with pytest.raises(ImproperlyConfigured, match=r"there"):
            _ = app.conf.timezone
        with pytest.raises(ImproperlyConfigured, match=r"there"):
            app.config_from_object("there.is.no.such.module", force=True)

    def test_from_the_module_that_a_variable_names(self, app: Kern, monkeypatch: pytest.MonkeyPatch) -> None:
        module = types.ModuleType("settings_of_test")
        module.task_serializer = "yaml"  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "settings_of_test", module)
        with pytest.raises(ImproperlyConfigured, match=r"the environment variable PROJ_SETTINGS is not set"):
            app.config_from_envvar("PROJ_SETTINGS")
        assert not app.config_from_envvar("PROJ_SETTINGS", silent=True)
        monkeypatch.setenv("PROJ_SETTINGS", "settings_of_test")
        assert app.config_from_envvar("PROJ_SETTINGS")
        assert app.conf.task_serializer == "yaml"

    def test_plugins_add_their_own(self, app: Kern) -> None:
        class Mine(Section):
            """Of a plugin."""

            mine_size: int = setting(3, "How large.")

        class Plugin:
            @hookimpl
            def kern_settings(self) -> Any:
                return [Mine]

        app.conf.get("timezone")
        other = Kern("t", plugins="testing", mine_size=5)
        other.register(Plugin())
        assert (other.conf.mine_size, other.conf.section(Mine).mine_size) == (5, 5)

    def test_the_first_users_of_a_process_wait_for_the_settings_to_be_there(self) -> None:
        class Mine(Section):
            """Of a plugin."""

            mine_size: int = setting(3, "How large.")

        reached = threading.Event()
        go_on = threading.Event()

        class Slow:
            @hookimpl
            def kern_settings(self) -> Any:
                reached.set()
                go_on.wait(10)
                return [Mine]

        app = Kern("t", plugins="testing")
        app.register(Slow())
        found: list[int] = []
        threads = [threading.Thread(target=lambda: found.append(app.conf.mine_size)) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert reached.wait(10)
        go_on.set()
        for thread in threads:
            thread.join(10)
        assert found == [3] * 4

    def test_the_first_not_none_or_the_setting(self, app: Kern) -> None:
        assert app.either("task_serializer", None, "x", "y") == "x"
        assert app.either("task_serializer", None) == "json"


class TestTime:
    def test_the_zone_is_the_settings_as_they_are(self, app: Kern) -> None:
        assert app.timezone == UTC
        app.conf.timezone = "Europe/Paris"
        assert app.timezone == ZoneInfo("Europe/Paris")
        with clock.use(NOW.timestamp):
            assert app.now() == NOW
            assert app.now().isoformat() == "2026-11-20T13:00:00+01:00"

    def test_accepted_content_is_the_settings(self, app: Kern) -> None:
        assert app.accept == {"application/json"}
        app.conf.accept_content = ["json", "pickle"]
        assert "application/x-python-serialize" in app.accept


class TestDrivers:
    def test_a_scheme_that_nothing_speaks_says_what_to_install(self, make_bench: Callable[..., Bench]) -> None:
        with pytest.raises(PluginMissing, match=r"pip install kern-broker-amqp"):
            make_bench(broker="amqp://localhost").app.task(lambda: 1).delay()
        with pytest.raises(PluginMissing, match=r"pip install kern-backend-rpc"):
            make_bench(backend="rpc://").app.make_result_store()

    @pytest.mark.parametrize("url", ["no url/at all", "user:secret@host"])
    def test_what_is_no_url_is_named_without_its_password(self, make_bench: Callable[..., Bench], url: str) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"not a URL: '.*'; expected scheme://") as caught:
            make_bench(broker=url).app.make_transport()
        assert "secret" not in str(caught.value)

    def test_without_a_broker_the_embedded_one_is_used_with_its_results(self) -> None:
        class Embedded:
            @hookimpl
            def kern_default_broker(self) -> str:
                return "memory://embedded"

            @hookimpl
            def kern_default_backend(self, broker_url: str) -> str:
                return f"{broker_url}-results"

        app = Kern("t", plugins="testing")
        with pytest.raises(ImproperlyConfigured, match=r"no broker is configured and none is installed: pip"):
            _ = app.broker_url
        app.register(Embedded())
        assert (app.broker_url, app.result_backend_url) == ("memory://embedded", "memory://embedded-results")
        app.conf.result_backend = "disabled://"
        assert app.result_backend_url is None
        app.conf.update(broker_url="memory://other", result_backend=None)
        assert (app.result_backend_url, app.make_result_store(), app.whole_documents) == (None, None, None)

    def test_the_form_of_documents_is_the_stores(self, bench: Bench) -> None:
        assert bench.app.whole_documents is True
        bench.app.conf.result_backend = f"memory://{bench.server}?form=parts"
        assert bench.app.whole_documents is False

    def test_the_runner_is_that_of_the_settings_as_they_are(self, app: Kern) -> None:
        first = app.runner("a@b")
        assert app.runner("a@b") is first
        assert app.runner("c@d") is not first
        app.conf.result_serializer = "yaml"
        assert app.runner("c@d") is not first

    def test_the_pool_is_prefork_where_it_is_installed(self, app: Kern) -> None:
        assert app.default_pool == "solo"

        class Prefork:
            @hookimpl
            def kern_pools(self) -> Any:
                return {"prefork": object}

        app.register(Prefork())
        assert app.default_pool == "prefork"

    @pytest.mark.parametrize(
        ("what", "plugin"),
        [(lambda app: app.control, "kern-control"), (lambda app: app.compose(1, 2), "kern-canvas")],
    )
    def test_what_no_plugin_provides_names_the_one_that_would(self, app: Kern, what: Any, plugin: str) -> None:
        with pytest.raises(CapabilityMissing, match=f"pip install {plugin}"):
            what(app)

    def test_plugins_provide_control_and_composition(self, app: Kern) -> None:
        class Canvas(Composer):
            kinds = frozenset({"chain"})

            def follow(self, *_: Any) -> Follows:
                return Follows()

            def prepare(self, kind: str, value: Any) -> Any:
                return value

            def compose(self, left: Any, right: Any) -> Any:
                return [left, right]

            @hookimpl
            def kern_continuations(self) -> Any:
                return [self]

            @hookimpl
            def kern_control(self, app: Kern) -> Any:
                return f"control of {app.main}"

        app.register(Canvas())
        task = app.task(lambda: 1)
        assert app.compose(1, 2) == [1, 2]
        assert (task.s() | task.s()) == [task.s(), task.s()]
        assert app.control == "control of tests"

    def test_where_a_call_is(self, bench: Bench) -> None:
        result = bench.app.task(lambda: 1).delay()
        assert bench.app.locate([result.id, "nowhere"]) == {result.id: "ready", "nowhere": "unknown"}


class TestQueues:
    def test_a_worker_consumes_what_is_configured_or_chosen(self, make_bench: Callable[..., Bench]) -> None:
        def names(app: Kern, *args: Any) -> list[str]:
            return [spec.name for spec in app.worker_queues(*args)]

        app = make_bench(worker_direct=True).app
        assert names(app, None, (), "w@h") == ["celery", "w@h.dq2"]
        other = make_bench(task_queues=["a", "b"], task_create_missing_queues=False).app
        assert names(other, None, ("b",), "w@h") == ["a"]
        with pytest.raises(QueueNotFound, match=r"nowhere"):
            names(other, ["nowhere"], (), "w@h")

    def test_a_queue_is_meant_by_its_name(self, app: Kern) -> None:
        assert app.queue_spec("other").name == "other"


class TestIdentity:
    def test_the_names_of_process_thread_and_application_are_their_own(self, make_bench: Callable[..., Bench]) -> None:
        first, second = make_bench().app, make_bench().app
        ours = {first.oid, first.thread_oid, second.oid, second.thread_oid}
        assert len(ours) == 4
        assert (first.oid, first.thread_oid) == (first.oid, first.thread_oid)
        theirs: list[str] = []
        thread = threading.Thread(target=lambda: theirs.extend((first.oid, first.thread_oid)))
        thread.start()
        thread.join(10)
        assert theirs[0] == first.oid
        assert theirs[1] not in ours

    def test_a_forked_process_has_names_of_its_own(self, app: Kern, tmp_path: Any) -> None:
        ours = [app.oid, app.thread_oid]
        seen = tmp_path / "seen"
        pid = os.fork()
        if pid == 0:
            try:
                seen.write_text(f"{app.oid} {app.thread_oid}")
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert not set(ours) & set(seen.read_text().split())

    def test_it_says_what_it_is(self) -> None:
        app = Kern("shop", plugins="testing")
        assert repr(app).startswith("<Kern shop at 0x")
        assert repr(Kern(plugins="testing")).startswith("<Kern __main__ at 0x")
        with app as entered:
            assert entered is app


def test_results_of_calls_made_elsewhere(app: Kern) -> None:
    result = app.AsyncResult("id")
    assert isinstance(result, AsyncResult)
    assert result.app is app
    assert isinstance(app.ResultSet([result]), ResultSet)
    assert isinstance(app.GroupResult("g", [result]), GroupResult)
    assert app.signature("a.b", (1,)).app is app


def test_two_threads_that_finalize_it_bind_each_task_once(app: Kern) -> None:
    bound: list[str] = []

    class Listener:
        @hookimpl
        def kern_task_registered(self, task: Any) -> None:
            bound.append(task.name)

    app.register(Listener())
    for number in range(20):
        app.task(name=f"t{number}")(lambda: 1)
    gate = threading.Barrier(8)

    def use() -> None:
        gate.wait(10)
        assert len(app.tasks) >= 20

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(bound) == len(set(bound)) == len(app.tasks)
