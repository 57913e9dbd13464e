"""Defining tasks: the decorator, names, options and their values, classes."""

from __future__ import annotations

import functools
import logging
import pickle
import sys
import types
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kern.app import Kern
from kern.errors import AlreadyRegistered, ImproperlyConfigured, InvalidTaskError, NotRegistered
from kern.hookspecs import hookimpl
from kern.task import OPTIONS, AsyncTask, Task, TaskRegistry


def add(x: int, y: int = 1) -> int:
    """Adds."""
    return x + y


class TestDecorator:
    def test_a_task_is_called_like_the_function_it_is_made_of(self, app: Kern) -> None:
        task = app.task(add)
        assert (task(1, 2), task.__doc__, task.__qualname__) == (3, "Adds.", "add")
        assert task.__wrapped__ is add
        assert isinstance(task, Task)

    def test_with_and_without_parentheses(self, app: Kern) -> None:
        bare, empty = app.task(lambda: 1), app.task()(len_of)
        assert (bare(), empty("abc")) == (1, 3)

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [((3,), "must be a callable"), ((add, add), r"takes exactly 1 argument \(2 given\)")],
    )
    def test_what_is_no_function_is_refused(self, app: Kern, arguments: tuple[Any, ...], complaint: str) -> None:
        with pytest.raises(TypeError, match=complaint):
            app.task(*arguments)

    def test_a_callable_without_a_name_is_refused_in_words(self, app: Kern) -> None:
        with pytest.raises(TypeError, match=r"has no name"):
            app.task(functools.partial(add, 1))

    def test_bind_gives_the_task_to_the_function(self, app: Kern) -> None:
        @app.task(bind=True)
        def who(self: Task[..., Any], suffix: str) -> str:
            return self.name + suffix

        assert who("!") == who.name + "!"
        with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'suffix'"):
            who.delay()

    def test_base_gives_the_class(self, app: Kern) -> None:
        class Mine(Task[..., Any]):
            mark = "mine"

        made: Any = app.task(base=Mine)(add)
        assert isinstance(made, Mine)
        assert made.mark == "mine"

    def test_the_applications_class_is_the_default_base(self, make_bench: Callable[..., Any]) -> None:
        class Mine(Task[..., Any]):
            pass

        assert isinstance(make_bench(task_cls=Mine).app.task(add), Mine)

    def test_filter_replaces_what_the_decorator_returns(self, app: Kern) -> None:
        kept = app.task(filter=lambda task: ("filtered", task))(add)
        assert kept == ("filtered", app.tasks[f"{__name__}.add"])  # type: ignore[comparison-overlap]

    def test_a_function_as_an_option_is_a_method(self, app: Kern) -> None:
        """So a handler, or a name to be shown, can be given without a class."""

        def shadow_name(self: Any, args: Any, kwargs: Any, options: Any) -> str:
            return f"{self.name} of {args[0]}"

        task = app.task(shadow_name=shadow_name)(add)
        assert task.shadow_name((3,), {}, {}) == f"{task.name} of 3"

    def test_a_coroutine_makes_a_task_that_gives_one(self, app: Kern) -> None:
        @app.task
        async def fetch(x: int) -> int:
            return x

        assert isinstance(fetch, AsyncTask)
        assert fetch.is_async
        assert not app.task(add).is_async

    def test_a_task_says_what_it_is(self, app: Kern) -> None:
        assert repr(app.task(name="a.b")(add)) == "<@task: a.b of tests>"

    def test_lazy_false_takes_the_settings_now(self, make_bench: Callable[..., Any]) -> None:
        app = make_bench(task_ignore_result=True).app
        now, later = app.task(lazy=False, name="now")(add), app.task(name="later")(add)
        app.conf.task_ignore_result = False
        app.finalize()
        assert (now.ignore_result, later.ignore_result) == (True, False)


def len_of(text: str) -> int:
    return len(text)


class TestNames:
    def test_module_and_function(self, app: Kern) -> None:
        assert app.task(add).name == f"{__name__}.add"

    @pytest.mark.parametrize(
        ("main", "module", "name"),
        [("x", "pkg.mod", "pkg.mod.f"), ("x", "__main__", "x.f"), (None, "__main__", "__main__.f"), ("x", None, "x.f")],
    )
    def test_main_stands_for_the_main_module(self, main: str | None, module: str | None, name: str) -> None:
        assert Kern(main, plugins="testing").gen_task_name("f", module) == name

    def test_a_module_that_is_loaded_says_its_own_name(self, app: Kern, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "alias", types.ModuleType("really.this"))
        assert app.gen_task_name("f", "alias") == "really.this.f"

    def test_the_first_of_a_name_stays(self, app: Kern, caplog: pytest.LogCaptureFixture) -> None:
        first, second = app.task(name="same")(add), app.task(name="same")(len_of)
        assert first is second  # type: ignore[comparison-overlap]
        assert "same" in caplog.text
        caplog.clear()
        assert app.task(name="same")(add) is first
        assert not caplog.records, "the same function again, as a module that is imported twice gives it"

    def test_an_unknown_task_is_named(self, app: Kern) -> None:
        with pytest.raises(NotRegistered, match=r"no\.such"):
            app.tasks["no.such"]
        assert app.tasks.get("no.such") is None


class TestOptions:
    def test_an_unknown_option_is_refused_with_the_nearest(self, app: Kern) -> None:
        with pytest.raises(TypeError, match=r"task 't': unknown option 'max_retires'; did you mean 'max_retries'"):
            app.task(name="t", max_retires=3)(add)

    def test_an_option_of_a_plugin_that_is_missing_says_what_to_install(self, app: Kern) -> None:
        for option in ("pydantic", "pydantic_strict", "pydantic_context", "pydantic_dump_kwargs"):
            with pytest.raises(TypeError, match=rf"'{option}' needs a plugin: pip install kern-pydantic"):
                app.task(**{option: True})(add)

    def test_an_option_that_a_plugin_makes_act_is_kept(self, app: Kern) -> None:
        class Plugin:
            @hookimpl
            def kern_task_options(self) -> list[str]:
                return ["colour"]

        app.register(Plugin())
        task: Any = app.task(colour="red")(add)
        assert task.colour == "red"

    def test_an_attribute_of_the_base_class_is_an_option(self, app: Kern) -> None:
        class Mine(Task[..., Any]):
            shade = "light"

        task: Any = app.task(base=Mine, shade="dark")(add)
        assert task.shade == "dark"

    @pytest.mark.parametrize(
        ("option", "value", "complaint"),
        [
            ("max_retries", "3", "an integer, 0 or more"),
            ("max_retries", -1, "an integer, 0 or more"),
            ("default_retry_delay", "soon", "a duration"),
            ("rate_limit", "10/x", "a rate"),
            ("time_limit", -1, "0 or more"),
            ("soft_time_limit", "x", "a duration"),
            ("throws", KeyError, "a tuple of exception classes"),
            ("autoretry_for", (3,), "a tuple of exception classes"),
            ("dont_autoretry_for", "KeyError", "a tuple of exception classes"),
            ("expires", "tomorrow", "ISO-8601"),
            ("resultrepr_maxsize", None, ""),
            ("sensitive", "password", "a tuple of parameter names"),
            ("retry_kwargs", 3, "a mapping"),
            ("retry_backoff", "x", "a duration"),
            ("retry_backoff_max", -1, "0 or more"),
        ],
    )
    def test_a_value_that_cannot_be_is_refused_where_it_is_written(
        self, app: Kern, option: str, value: Any, complaint: str
    ) -> None:
        if not complaint:
            app.task(name="t", **{option: value})(add)
            return
        with pytest.raises(TypeError, match=rf"task 't': option '{option}': .*{complaint}"):
            app.task(name="t", **{option: value})(add)

    def test_a_soft_limit_after_the_hard_one_is_refused(self, app: Kern) -> None:
        with pytest.raises(TypeError, match=r"soft_time_limit must be less than or equal to time_limit"):
            app.task(soft_time_limit=20, time_limit=10)(add)

    def test_limits_of_class_and_settings_are_compared_too(self, make_bench: Callable[..., Any]) -> None:
        app = make_bench(task_time_limit=10).app
        app.task(name="slow", soft_time_limit=20)(add)
        for _ in range(2):  # it is an error each time, and not only the first
            with pytest.raises(TypeError, match=r"'slow'"):
                app.finalize()

    def test_lists_of_exceptions_and_timedeltas_are_taken(self, app: Kern) -> None:
        task = app.task(throws=[KeyError], time_limit=timedelta(minutes=1), expires=datetime(2030, 1, 1, tzinfo=UTC))(
            add
        )
        app.finalize()
        assert (task.throws, task.time_limit) == ((KeyError,), 60.0)

    def test_a_misspelt_sensitive_parameter_would_be_shown(self, app: Kern) -> None:
        app.task(name="pay", sensitive=("crad",))(pay)
        with pytest.raises(TypeError, match=r"there is no parameter 'crad'; did you mean 'card'"):
            app.finalize()

    def test_values_come_from_the_settings_once(self, make_bench: Callable[..., Any]) -> None:
        """Later changes of the settings do not reach tasks that are bound."""
        settings = {
            "task_serializer": "pickle",
            "task_default_rate_limit": "7/m",
            "task_default_priority": 4,
            "task_track_started": True,
            "task_acks_late": False,
            "task_acks_on_failure": False,
            "task_acks_on_timeout": False,
            "task_reject_on_worker_lost": False,
            "task_ignore_result": True,
            "task_store_eager_result": True,
            "task_store_errors_even_if_ignored": True,
            "task_time_limit": 9.0,
            "task_soft_time_limit": 8.0,
        }
        app = make_bench(**settings).app
        task, own = app.task(name="plain")(add), app.task(name="own", acks_late=True, serializer="json")(add)
        app.finalize()
        found = {key: getattr(task, key.removeprefix("task_").removeprefix("default_")) for key in settings}
        assert found == settings
        assert (own.acks_late, own.serializer) == (True, "json")
        app.conf.task_serializer = "json"
        assert task.serializer == "pickle"

    @pytest.mark.parametrize(
        ("settings", "options", "expected"),
        [
            ({}, {}, (True, True)),
            ({"task_acks_on_failure_or_timeout": False}, {}, (False, False)),
            ({"task_acks_on_failure_or_timeout": False}, {"acks_on_failure": True}, (True, False)),
            ({"task_acks_on_timeout": False}, {}, (True, False)),
            ({}, {"acks_on_failure_or_timeout": False}, (False, False)),
            ({"task_acks_on_failure": True}, {"acks_on_failure_or_timeout": False}, (True, False)),
        ],
    )
    def test_failure_and_timeout_fall_back_on_what_says_both(
        self, make_bench: Callable[..., Any], settings: dict[str, Any], options: dict[str, Any], expected: Any
    ) -> None:
        app = make_bench(**settings).app
        task = app.task(**options)(add)
        app.finalize()
        assert (task.acks_on_failure, task.acks_on_timeout) == expected

    def test_every_documented_option_is_one(self) -> None:
        assert {
            "acks_late",
            "autoretry_for",
            "compression",
            "delivery_mode",
            "exchange",
            "expires",
            "name",
            "priority",
            "queue",
            "rate_limit",
            "sensitive",
            "throws",
            "trail",
            "typing",
        } <= OPTIONS
        assert not {"app", "run", "MaxRetriesExceededError"} & OPTIONS


def pay(card: str, amount: int) -> None: ...


class TestArguments:
    def test_wrong_arguments_are_an_error_of_the_caller(self, app: Kern) -> None:
        task = app.task(add)
        with pytest.raises(TypeError, match=r"add\(\) missing 1 required positional argument: 'x'"):
            task.delay()  # type: ignore[call-arg]
        with pytest.raises(TypeError, match=r"unexpected keyword argument 'z'"):
            task.apply_async((1,), {"z": 1})

    def test_typing_false_leaves_it_to_the_worker(self, app: Kern) -> None:
        assert app.task(typing=False)(add).apply_async().id

    def test_the_application_may_leave_it_to_the_worker(self, make_bench: Callable[..., Any]) -> None:
        app = make_bench(strict_typing=False).app
        assert app.task(name="free")(add).apply_async().id
        with pytest.raises(TypeError):
            app.task(name="strict", typing=True)(add).apply_async()

    @pytest.mark.parametrize(("args", "kwargs"), [("ab", None), ({1}, None), (3, None)])
    def test_args_are_a_list_or_tuple(self, app: Kern, args: Any, kwargs: Any) -> None:
        with pytest.raises(TypeError, match=r"task args must be a list or tuple"):
            app.task(add).apply_async(args, kwargs)

    def test_kwargs_are_a_mapping(self, app: Kern) -> None:
        with pytest.raises(TypeError, match=r"task keyword arguments must be a mapping"):
            app.task(add).apply_async((1,), [("y", 2)])  # type: ignore[arg-type]

    def test_every_kind_of_parameter_is_checked_as_python_would(self, app: Kern) -> None:
        def every(a: int, /, b: int, c: int = 3, *rest: int, d: int, e: int = 5, **others: int) -> None: ...

        check = app.task(every).check_arguments
        check(1, 2, d=4)
        check(1, b=2, d=4, zz=9)
        check(1, 2, 3, 4, 5, d=4, e=6)
        for args, kwargs in [((1, 2), {}), ((1,), {"d": 4}), ((), {"a": 1, "b": 2, "d": 4})]:
            with pytest.raises(TypeError):
                check(*args, **kwargs)

    def test_a_builtin_that_hides_its_parameters_can_be_a_task(self, app: Kern) -> None:
        task: Any = app.task(max)
        task.check_arguments(1, 2)

    def test_a_task_named_like_a_keyword_is_no_trouble(self, app: Kern) -> None:
        with pytest.raises(TypeError, match=r"missing"):
            app.task(name="a.class")(add).apply_async()


class TestClasses:
    def test_a_class_is_registered_under_its_name(self, app: Kern) -> None:
        class Double(Task[..., Any]):
            def run(self, x: int) -> int:
                return 2 * x

        made = app.register_task(Double)
        assert (made.name, made(2), app.tasks[made.name]) == (f"{__name__}.Double", 4, made)
        with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'x'"):
            made.delay()

    def test_an_instance_with_options(self, app: Kern) -> None:
        class Double(Task[..., Any]):
            name = "double"
            max_retries = 7

        made = app.register_task(Double(), rate_limit="1/s")
        assert (made.max_retries, made.rate_limit) == (7, "1/s")
        with pytest.raises(TypeError, match=r"did you mean 'rate_limit'"):
            app.register_task(Double(), rate_limti="1/s")

    def test_another_of_the_same_name_takes_its_place(self, app: Kern, caplog: pytest.LogCaptureFixture) -> None:
        class Double(Task[..., Any]):
            name = "double"

        first, second = app.register_task(Double), app.register_task(Double)
        assert app.tasks["double"] is second is not first
        assert "is replaced" in caplog.text

    def test_an_instance_belongs_to_one_application(self, app: Kern, make_bench: Callable[..., Any]) -> None:
        class Double(Task[..., Any]):
            name = "double"

        made = app.register_task(Double())
        with pytest.raises(InvalidTaskError, match=r"register its class"):
            make_bench().app.register_task(made)

    def test_a_class_without_run_says_so(self, app: Kern) -> None:
        class Idle(Task[..., Any]):
            name = "idle"

        with pytest.raises(TypeError, match=r"task 'idle' has no run method"):
            app.register_task(Idle)()

    def test_on_bound_is_told_the_application(self, app: Kern) -> None:
        bound: list[Any] = []

        class Mine(Task[..., Any]):
            @classmethod
            def on_bound(cls, app: Kern) -> None:
                bound.append(app)

        app.task(base=Mine)(add)
        assert not bound
        app.finalize()
        assert bound == [app]

    def test_state_of_the_instance_persists(self, app: Kern) -> None:
        class Counting(Task[..., Any]):
            count = 0

            def run(self) -> int:
                self.count += 1
                return self.count

        task = app.register_task(Counting)
        assert [task.apply().get() for _ in range(3)] == [1, 2, 3]


class TestRegistry:
    def test_a_task_needs_a_name_and_keeps_it(self) -> None:
        registry = TaskRegistry()
        with pytest.raises(InvalidTaskError, match=r"must have a name"):
            registry.register(Task())
        first: Task[..., Any] = Task()
        first.name = "a"
        registry.register(first)
        second: Task[..., Any] = Task()
        second.name = "a"
        with pytest.raises(AlreadyRegistered):
            registry.register(second)
        registry.unregister(first)
        for name in ("a", first):
            with pytest.raises(NotRegistered):
                registry.unregister(name)

    def test_regular_tasks_are_those_of_the_application(self, app: Kern) -> None:
        app.task(name="mine")(add)
        assert "mine" in set(app.tasks.regular())
        assert {"celery.accumulate", "celery.backend_cleanup"} <= set(app.tasks)
        assert not [name for name in app.tasks.regular() if name.startswith("celery.")]


class TestFinalizing:
    def test_registered_tasks_are_told_to_plugins_once_and_then_all_is_done(self, app: Kern) -> None:
        told: list[str] = []

        class Plugin:
            @hookimpl
            def kern_task_registered(self, task: Task[..., Any]) -> None:
                told.append(task.name)

            @hookimpl
            def kern_finalized(self, app: Kern) -> None:
                told.append("finalized")
                app.task(name="of a plugin")(add)

        app.register(Plugin())
        app.task(name="one")(add)
        assert not told
        app.finalize()
        app.finalize()
        app.task(name="late")(len_of)
        assert [name for name in told if not name.startswith(("celery.", __name__))] == [
            "one",
            "finalized",
            "of a plugin",
            "late",
        ]

    def test_a_plugin_may_wrap_the_body(self, app: Kern) -> None:
        class Plugin:
            @hookimpl
            def kern_task_registered(self, task: Task[..., Any]) -> None:
                task.annotate_with({"@run": lambda run: lambda *args, **kwargs: run(*args, **kwargs) * 10})

        app.register(Plugin())
        task = app.task(add)
        assert task.apply((1, 2)).get() == 30
        assert task.parameter_names == ("x", "y")

    def test_a_plugin_that_looks_at_settings_and_tasks_meanwhile_sees_them(self, app: Kern) -> None:
        seen: list[Any] = []

        class Plugin:
            @hookimpl
            def kern_configured(self, app: Kern) -> None:
                seen.append(app.conf.task_serializer)

            @hookimpl
            def kern_task_registered(self, app: Kern, task: Task[..., Any]) -> None:
                seen.append(task.name in app.tasks)

        app.register(Plugin())
        app.task(name="t")(add)
        app.finalize()
        assert seen[0] == "json"
        assert seen[1:]
        assert all(seen[1:])

    def test_built_in_tasks_act(self, app: Kern) -> None:
        assert app.tasks["celery.accumulate"].apply((1, 2)).get() == (1, 2)
        assert app.tasks["celery.accumulate"].apply((1, 2), {"index": 1}).get() == 2
        assert app.tasks["celery.backend_cleanup"].apply().get() is None


class TestPickling:
    def test_a_task_and_its_application_are_found_again_by_where_they_can_be_imported(
        self, app: Kern, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = app.task(add)
        with pytest.raises(ImproperlyConfigured, match=r"no importable module holds this application"):
            pickle.dumps(task)
        module = types.ModuleType("proj_of_pickles")
        module.celery = app  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "proj_of_pickles", module)
        assert pickle.loads(pickle.dumps(task)) is task
        assert pickle.loads(pickle.dumps(app)) is app


def test_annotating_is_logged_nowhere_and_the_root_logger_is_left_alone(app: Kern) -> None:
    before = list(logging.getLogger().handlers), logging.getLogger().level
    app.task(add)
    app.finalize()
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before
