"""Eager runs: ``apply()``, and calls that are run instead of published."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from kern import allow_join_result, states
from kern.app import Kern
from kern.contracts.continuation import Continuation, Ending, Follows
from kern.errors import CapabilityMissing, EncodeError, Ignore, MaxRetriesExceededError, Reject
from kern.hookspecs import hookimpl
from kern.request import Request
from kern.result import EagerResult
from kern.task import Task

from .conftest import SECONDS, Bench


def add(x: Any, y: Any = 1) -> Any:
    return x + y


def fail() -> None:
    raise KeyError("nope")


@pytest.fixture
def eager(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench(task_always_eager=True)


class TestApply:
    def test_it_runs_here_and_now(self, bench: Bench) -> None:
        result = bench.app.task(add).apply((1, 2))
        assert isinstance(result, EagerResult)
        assert (result.get(), result.state, result.name) == (3, states.SUCCESS, f"{__name__}.add")
        assert bench.messages() == []

    def test_arguments_are_the_callers_own(self, app: Kern) -> None:
        thing = object()
        assert app.task(lambda x: x).apply((thing,)).get() is thing

    def test_an_error_is_kept_and_raised_by_get(self, app: Kern) -> None:
        result = app.task(fail).apply()
        assert result.state == states.FAILURE
        assert result.traceback is not None
        assert "KeyError" in result.traceback
        with pytest.raises(KeyError):
            result.get()

    @pytest.mark.parametrize(
        ("setting", "throw", "raises"), [(False, True, True), (True, None, True), (True, False, False)]
    )
    def test_or_at_once(
        self, make_bench: Callable[..., Bench], setting: bool, throw: bool | None, raises: bool
    ) -> None:
        task = make_bench(task_eager_propagates=setting).app.task(fail)
        if raises:
            with pytest.raises(KeyError):
                task.apply(throw=throw)
        else:
            assert task.apply(throw=throw).failed()

    def test_then_nothing_is_told_but_the_end_and_the_error(self, app: Kern) -> None:
        told: list[str] = []

        class Listener:
            @hookimpl
            def kern_task_postrun(self, state: str) -> None:
                told.append(f"postrun {state}")

            @hookimpl
            def kern_task_failure(self) -> None:
                told.append("failure")

            @hookimpl
            def kern_task_internal_error(self, exception: Exception) -> None:
                told.append(f"internal {exception!r}")

        app.register(Listener())
        with pytest.raises(KeyError):
            app.task(fail).apply(throw=True)
        assert told == ["postrun FAILURE", "internal KeyError('nope')"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    def test_what_ends_a_program_ends_it(self, app: Kern, error: type[BaseException]) -> None:
        def body() -> None:
            raise error

        with pytest.raises(error):
            app.task(body).apply()

    @pytest.mark.parametrize(("error", "state"), [(Ignore(), states.IGNORED), (Reject("x"), states.REJECTED)])
    def test_no_result_is_none(self, app: Kern, error: Exception, state: str) -> None:
        def body() -> None:
            raise error

        result = app.task(body).apply()
        assert (result.state, result.get()) == (state, None)

    def test_where_and_when_does_not_matter(self, app: Kern) -> None:
        result = app.task(add).apply((1,), countdown=3600, expires=1, queue="nowhere", ignore_result=True, priority=3)
        assert result.get() == 2

    def test_an_option_that_does_not_exist_is_refused(self, app: Kern) -> None:
        with pytest.raises(TypeError, match=r"did you mean 'countdown'"):
            app.task(add).apply((1,), countdwon=3)

    def test_the_request(self, app: Kern) -> None:
        seen: list[Request] = []
        app.task(bind=True, name="t")(lambda self, *a, **k: seen.append(self.request)).apply(
            (1,),
            {"k": 2},
            task_id="mine",
            retries=2,
            headers={"h": 1},
            time_limit=5,
            priority=3,
            stamped_headers=["s"],
            s=9,
            group_id="g",
        )
        (request,) = seen
        assert (request.id, request.task, request.args, request.kwargs) == ("mine", "t", (1,), {"k": 2})
        assert (request.is_eager, request.called_directly, request.hostname) == (True, False, socket.gethostname())
        assert (request.retries, request.headers, request.timelimit) == (2, {"h": 1}, [5, None])
        assert (request.root_id, request.parent_id, request.group) == ("mine", None, "g")
        assert (request.stamped_headers, request.stamps) == (["s"], {"s": 9})
        assert request.delivery_info == {"is_eager": True, "exchange": None, "routing_key": None, "priority": 3}

    def test_ids_of_parent_and_root_are_those_of_the_running_task(self, app: Kern) -> None:
        inner = app.task(bind=True, name="inner")(lambda self: (self.request.root_id, self.request.parent_id))
        outer = app.task(name="outer")(lambda: inner.apply().get())
        assert outer.apply(task_id="top").get() == ("top", "top")

    def test_results_may_be_waited_for_inside(self, app: Kern) -> None:
        inner = app.task(name="inner")(lambda: 1)
        assert app.task(name="outer")(lambda: inner.apply().get()).apply().get() == 1

    def test_handlers_are_called_and_their_errors_raised(self, app: Kern) -> None:
        def on_success(self: Any, *_: Any) -> None:
            raise RuntimeError("handler")

        with pytest.raises(RuntimeError, match=r"handler"):
            app.task(on_success=on_success)(add).apply((1,))

    def test_the_call_as_data_can_be_applied(self, app: Kern) -> None:
        assert app.task(add).s(1).apply((5,)).get() == 6

    def test_listeners_see_the_state(self, app: Kern) -> None:
        seen: list[Any] = []

        class Listener:
            @hookimpl
            def kern_task_postrun(self, task: Any, request: Request, state: str, value: Any) -> None:
                seen.append((task.name, request.is_eager, state, value))

        app.register(Listener())
        app.task(name="t")(add).apply((1, 2))
        assert seen == [("t", True, states.SUCCESS, 3)]

    def test_a_state_of_its_own_is_stored(self, bench: Bench) -> None:
        bench.app.task(bind=True)(lambda self: self.update_state(state="HALF", meta=5)).apply(task_id="x")
        meta = bench.meta("x")
        assert meta is not None
        assert (meta.status, meta.result) == ("HALF", 5)


class TestRetries:
    def test_at_once_and_without_pause(self, app: Kern) -> None:
        tries: list[int] = []

        def body(self: Any, x: int) -> int:
            tries.append(x)
            return x if self.request.retries == 2 else self.retry(args=(x * 2,), countdown=3600)

        result = app.task(bind=True)(body).apply((1,))
        assert (result.get(), tries) == (4, [1, 2, 4])

    def test_by_itself(self, app: Kern) -> None:
        tries: list[int] = []

        def body() -> None:
            tries.append(1)
            raise KeyError

        result = app.task(autoretry_for=(KeyError,), max_retries=2, retry_backoff=True)(body).apply()
        assert (result.state, len(tries)) == (states.FAILURE, 3)

    def test_until_they_are_used_up(self, app: Kern) -> None:
        result = app.task(bind=True, max_retries=1)(lambda self: self.retry()).apply()
        with pytest.raises(MaxRetriesExceededError):
            result.get()

    def test_asked_for_without_raising_nothing_happens(self, bench: Bench) -> None:
        result = bench.app.task(bind=True)(lambda self: str(self.retry(throw=False, countdown=3))).apply()
        assert result.get() == "Retry in 3s"
        assert bench.messages() == []

    def test_thrown_at_the_end(self, app: Kern) -> None:
        def body(self: Any) -> None:
            self.retry(exc=KeyError("last"))

        with pytest.raises(KeyError, match=r"last"):
            app.task(bind=True, max_retries=1)(body).apply(throw=True)


class TestStored:
    @pytest.mark.parametrize(
        ("settings", "options", "stored"),
        [
            ({}, {}, False),
            ({"task_store_eager_result": True}, {}, True),
            ({}, {"store_eager_result": True}, True),
            ({"task_store_eager_result": True}, {"ignore_result": True}, False),
        ],
    )
    def test_where_it_is_asked_for(
        self, make_bench: Callable[..., Bench], settings: dict[str, Any], options: dict[str, Any], stored: bool
    ) -> None:
        bench = make_bench(**settings)
        result = bench.app.task(**options)(add).apply((1,))
        meta = bench.meta(result.id)
        assert (meta is not None) == stored
        assert meta is None or meta.result == 2

    def test_an_error_even_where_results_are_ignored(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(task_store_eager_result=True, task_store_errors_even_if_ignored=True)
        result = bench.app.task(ignore_result=True)(fail).apply()
        meta = bench.meta(result.id)
        assert meta is not None
        assert meta.status == states.FAILURE


class TestAlways:
    def test_a_call_is_run_instead_of_published(self, eager: Bench) -> None:
        task = eager.app.task(add)
        for result in (task.delay(1, 2), task.apply_async((1, 2)), task.s(1, 2).delay()):
            assert isinstance(result, EagerResult)
            assert result.get() == 3
        assert eager.messages() == []

    def test_from_a_loop_too(self, eager: Bench) -> None:
        async def body(x: int) -> int:
            await asyncio.sleep(0)
            return x

        task = eager.app.task(body)

        async def main() -> Any:
            return await (await task.adelay(5)).aget()

        assert asyncio.run(main()) == 5

    def test_many(self, eager: Bench) -> None:
        task = eager.app.task(add)
        assert [result.get() for result in eager.app.send_many([task.s(n) for n in range(3)])] == [1, 2, 3]

    def test_arguments_go_through_the_serializer(self, eager: Bench) -> None:
        task = eager.app.task(name="t")(lambda x: x)
        assert task.delay((1, (2,))).get() == [1, [2]]
        assert task.apply_async(((1, (2,)),), serializer="pickle").get() == (1, (2,))
        with pytest.raises(EncodeError, match=r"task 't': argument 'x'"):
            task.delay(object())

    def test_and_past_plugins(self, eager: Bench) -> None:
        class Doubling:
            @hookimpl
            def kern_prepare_arguments(self, args: Any, kwargs: Any) -> Any:
                return tuple(2 * arg for arg in args), kwargs

        eager.app.register(Doubling())
        assert eager.app.task(lambda x: x).delay(4).get() == 8

    def test_wrong_arguments_are_the_callers_error(self, eager: Bench) -> None:
        with pytest.raises(TypeError, match=r"missing 1 required"):
            eager.app.task(add).delay()
        with pytest.raises(TypeError, match=r"unknown option"):
            eager.app.task(add).apply_async((1,), counting=3)

    def test_results_may_not_be_waited_for_inside_unless_allowed(self, eager: Bench) -> None:
        inner = eager.app.task(name="inner")(lambda: 1)

        def outer(allowed: bool) -> Any:
            if allowed:
                with allow_join_result():
                    return inner.delay().get()
            return inner.delay().get()

        task = eager.app.task(name="outer")(outer)
        assert task.delay(True).get() == 1
        with pytest.raises(RuntimeError, match=r"Never call result.get\(\) within a task"):
            task.delay(False).get()

    def test_ids_are_kept(self, eager: Bench) -> None:
        assert eager.app.task(add).apply_async((1,), task_id="mine").id == "mine"

    def test_calls_by_name_are_published_with_a_warning(self, eager: Bench, caplog: pytest.LogCaptureFixture) -> None:
        eager.app.task(name="t")(add)
        eager.app.send_task("t", (1,))
        assert len(eager.messages()) == 1
        assert "task_always_eager does not concern calls by name" in caplog.text

    def test_errors_are_kept_or_raised_as_the_settings_say(self, make_bench: Callable[..., Bench]) -> None:
        assert make_bench(task_always_eager=True).app.task(fail).delay().failed()
        with pytest.raises(KeyError):
            make_bench(task_always_eager=True, task_eager_propagates=True).app.task(fail).delay()


class Linking(Continuation):
    """Calls what is linked with the value."""

    kinds = frozenset({"callbacks", "errbacks"})

    def __init__(self, app: Kern) -> None:
        self.app = app

    def prepare(self, kind: str, value: Any) -> Any:
        return [dict(value)]

    def follow(self, request: Request, state: str, value: Any) -> Follows:
        if state == states.FAILURE:
            later = [Request(id=each["options"]["task_id"], task=each["task"]) for each in request.errbacks or ()]
            return Follows(endings=tuple(Ending(call, state, value) for call in later))
        calls = [self.app.signature(each["task"], (value,)) for each in request.callbacks or ()]
        return Follows(
            tuple(self.app.publication(call, parent_id=request.id, root_id=request.root_id) for call in calls)
        )

    @hookimpl
    def kern_continuations(self) -> list[Continuation]:
        return [self]


class TestWhatFollows:
    def test_it_is_published_after_apply(self, bench: Bench) -> None:
        bench.app.register(Linking(bench.app))
        after = bench.app.task(name="after")(lambda x: x)
        result = bench.app.task(add).apply((1,), link=after.s())
        message = bench.message()
        assert (message.task, message.headers["parent_id"]) == ("after", result.id)

    def test_it_is_run_where_everything_is(self, eager: Bench) -> None:
        seen: list[Any] = []
        eager.app.register(Linking(eager.app))
        after: Task[..., Any] = eager.app.task(bind=True, name="after")(
            lambda self, x: seen.append((x, self.request.is_eager, self.request.parent_id))
        )
        result = eager.app.task(add).apply_async((1,), link=after.s())
        assert seen == [(2, True, result.id)]
        assert eager.messages() == []

    def test_not_after_a_retry_that_was_not_the_last(self, eager: Bench) -> None:
        seen: list[Any] = []
        eager.app.register(Linking(eager.app))
        after = eager.app.task(name="after")(seen.append)
        task = eager.app.task(bind=True)(lambda self: "done" if self.request.retries else self.retry())
        task.apply_async(link=after.s())
        assert seen == ["done"]

    def test_other_calls_that_end_with_it_are_stored_if_it_is(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(task_store_eager_result=True)
        bench.app.register(Linking(bench.app))
        bench.app.task(lambda: 1 / 0, name="t").apply(link_error={"task": "later", "options": {"task_id": "later-id"}})
        with pytest.raises(ZeroDivisionError):
            bench.app.AsyncResult("later-id").get(timeout=SECONDS)

    def test_without_a_plugin_it_is_refused(self, app: Kern) -> None:
        task = app.task(add)
        with pytest.raises(CapabilityMissing, match=r"install kern-canvas"):
            task.apply((1,), link=task.s())
