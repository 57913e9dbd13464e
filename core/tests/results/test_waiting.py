"""Waiting for one result: by blocking, by asyncio, by being called back."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from kern import result_wait, states
from kern.app import Kern
from kern.errors import BackendUnavailable, ChordError, TaskRevokedError, TimeoutError
from kern.result import (
    AsyncResult,
    allow_join_result,
    assert_will_not_block,
    denied_join_result,
    set_join_will_block,
    task_join_will_block,
)
from kern.result_callbacks import Promise
from kern_testing.memory import space
from kern_testing.waiting import Deadline, eventually

Start = Callable[[Callable[[], Any]], Any]


class Odd(Exception):
    """An error of a user's."""


# -- get ---------------------------------------------------------------------------------------------------------------


def test_a_value_that_is_there_is_returned(app: Kern, worker: Any) -> None:
    worker.succeed("t", 5)
    assert app.AsyncResult("t").get() == 5
    assert app.AsyncResult("t").wait(timeout=5) == 5


def test_a_value_that_comes_later_is_returned(app: Kern, worker: Any, waiting: Start) -> None:
    got = waiting(lambda: app.AsyncResult("t").get())
    worker.succeed("t", 5)
    assert got.outcome() == 5


def test_a_store_that_keeps_parts_does_as_well(make_app: Any, worker: Any, name: str, waiting: Start) -> None:
    app = make_app(backend=f"memory://{name}?form=parts")
    worker.store = app.make_result_store()
    worker.store.start(lambda _documents: None).result(10)
    worker.succeed("t", 5)
    assert app.AsyncResult("t").get(timeout=5) == 5


def test_the_error_of_the_task_is_raised(app: Kern, worker: Any, waiting: Start) -> None:
    got = waiting(lambda: app.AsyncResult("t").get())
    worker.fail("t", Odd("boom"))
    with pytest.raises(Odd, match="boom"):
        got.outcome()


def test_a_revoked_call_raises(app: Kern, worker: Any) -> None:
    worker.write("t", states.REVOKED, TaskRevokedError("revoked"))
    with pytest.raises(TaskRevokedError, match="revoked"):
        app.AsyncResult("t").get()


def test_without_propagation_the_exception_is_returned(app: Kern, worker: Any) -> None:
    worker.fail("t", Odd("boom"))
    assert isinstance(app.AsyncResult("t").get(propagate=False), Odd)


def test_states_that_are_not_final_do_not_end_the_waiting(app: Kern, worker: Any, waiting: Start) -> None:
    got = waiting(lambda: app.AsyncResult("t").get())
    worker.write("t", states.STARTED, {})
    worker.write("t", states.RETRY, Odd("again"))
    worker.write("t", "PROGRESS", {"done": 1})
    assert not got.over
    worker.succeed("t", 5)
    assert got.outcome() == 5


def test_it_is_too_late_after_the_timeout(app: Kern) -> None:
    before = time.monotonic()
    with pytest.raises(TimeoutError, match=r"^The operation timed out\.$"):
        app.AsyncResult("t").get(timeout=0.3)
    assert 0.3 <= time.monotonic() - before < 5


def test_the_timeout_is_the_built_in_one_as_well(app: Kern) -> None:
    import builtins

    with pytest.raises(builtins.TimeoutError):
        app.AsyncResult("t").get(timeout=0.01)


def test_a_timeout_of_0_looks_once(app: Kern, worker: Any) -> None:
    with pytest.raises(TimeoutError):
        app.AsyncResult("t").get(timeout=0)
    worker.succeed("t", 5)
    assert app.AsyncResult("t").get(timeout=0) == 5


def test_a_result_that_is_known_needs_no_server(app: Kern, worker: Any, name: str) -> None:
    worker.succeed("t", 5)
    result = app.AsyncResult("t")
    assert result.get() == 5
    with space(name).outage():
        assert result.get() == 5
        assert result.state == states.SUCCESS


def test_an_ignored_result_is_none_at_once(make_app: Any) -> None:
    app = make_app(backend=None)
    result = app.send_task("tests.add", (1, 2), ignore_result=True)
    assert result.ignored
    assert result.get() is None
    assert asyncio.run(result.aget()) is None


def test_the_callback_gets_id_and_value(app: Kern, worker: Any) -> None:
    called: list[Any] = []
    worker.succeed("good", 3)
    worker.fail("bad", Odd("boom"))
    note = lambda *args: called.append(args)  # noqa: E731
    app.AsyncResult("good").get(callback=note)
    error = app.AsyncResult("bad").get(callback=note, propagate=False)
    with pytest.raises(Odd):
        app.AsyncResult("bad").get(callback=note)
    assert called == [("good", 3), ("bad", error)]


def test_the_interval_function_is_called_again_and_again(app: Kern, worker: Any) -> None:
    calls: list[float] = []

    def every() -> None:
        calls.append(time.monotonic())
        if len(calls) == 3:
            worker.succeed("t", 5)

    assert app.AsyncResult("t").get(interval=0.02, on_interval=every, timeout=20) == 5
    assert len(calls) >= 3
    assert calls[2] - calls[0] >= 0.03


def test_an_interval_function_may_end_the_waiting(app: Kern) -> None:
    def enough() -> None:
        raise Odd("enough")

    with pytest.raises(Odd, match="enough"):
        app.AsyncResult("t").get(interval=0.01, on_interval=enough)
    assert app.backend._session().waiting() == 0


def test_messages_tell_of_progress_and_of_the_end(app: Kern, worker: Any) -> None:
    told: list[dict[str, Any]] = []

    def message(meta: dict[str, Any]) -> None:
        told.append(meta)
        if meta["status"] == "PROGRESS":
            worker.succeed("t", 5)

    worker.write("t", "PROGRESS", {"done": 1})
    assert app.AsyncResult("t").get(interval=0.02, on_message=message, timeout=20) == 5
    assert [(meta["status"], meta["result"], meta["task_id"]) for meta in told] == [
        ("PROGRESS", {"done": 1}, "t"),
        (states.SUCCESS, 5, "t"),
    ]


def test_messages_tell_of_other_tasks_that_are_waited_for(app: Kern, worker: Any, waiting: Start) -> None:
    told: list[str] = []
    other = waiting(lambda: app.AsyncResult("other").get())
    this = waiting(lambda: app.AsyncResult("t").get(on_message=lambda meta: told.append(meta["task_id"])))
    worker.succeed("other", 1)
    assert other.outcome() == 1
    worker.succeed("t", 2)
    assert this.outcome() == 2
    assert told == ["other", "t"]


def test_the_same_progress_is_told_once(app: Kern, worker: Any) -> None:
    told: list[dict[str, Any]] = []
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 6:
            worker.succeed("t", 5)

    worker.write("t", "PROGRESS", 1)
    app.AsyncResult("t").get(interval=0.02, on_message=told.append, on_interval=tick, timeout=20)
    assert [meta["status"] for meta in told] == ["PROGRESS", states.SUCCESS]


# -- parents -----------------------------------------------------------------------------------------------------------


def test_a_parent_that_failed_raises_its_own_error(app: Kern, worker: Any) -> None:
    worker.fail("first", Odd("the cause"))
    result = app.AsyncResult("last", parent=app.AsyncResult("middle", parent=app.AsyncResult("first")))
    with pytest.raises(Odd, match="the cause"):
        result.get(timeout=5)


def test_a_parent_that_failed_is_raised_though_the_result_is_there(app: Kern, worker: Any) -> None:
    worker.write_many([("first", states.FAILURE, Odd("the cause")), ("last", states.SUCCESS, 2)])
    with pytest.raises(Odd, match="the cause"):
        app.AsyncResult("last", parent=app.AsyncResult("first")).get(timeout=5)


def test_a_parent_that_fails_meanwhile_ends_the_waiting(app: Kern, worker: Any, waiting: Start) -> None:
    got = waiting(lambda: app.AsyncResult("last", parent=app.AsyncResult("first")).get())
    worker.fail("first", Odd("the cause"))
    with pytest.raises(Odd, match="the cause"):
        got.outcome()


def test_of_several_parents_the_oldest_that_failed_is_raised(app: Kern, worker: Any) -> None:
    worker.write_many([("a", states.FAILURE, Odd("oldest")), ("b", states.FAILURE, Odd("younger"))])
    with pytest.raises(Odd, match="oldest"):
        app.AsyncResult("c", parent=app.AsyncResult("b", parent=app.AsyncResult("a"))).get(timeout=5)


def test_the_error_of_a_chords_header_goes_before_that_of_its_body(app: Kern, worker: Any, waiting: Start) -> None:
    header = app.GroupResult("g", [app.AsyncResult("h1"), app.AsyncResult("h2")])
    body = app.AsyncResult("body", parent=header)
    got = waiting(lambda: body.get())
    worker.write_many(
        [("body", states.FAILURE, ChordError("Dependency h2 raised Odd('boom')")), ("h2", states.FAILURE, Odd("boom"))]
    )
    with pytest.raises(Odd, match="boom"):
        got.outcome()
    assert isinstance(body.get(propagate=False), ChordError)


def test_parents_that_succeeded_do_not_end_the_waiting(app: Kern, worker: Any, waiting: Start) -> None:
    got = waiting(lambda: app.AsyncResult("last", parent=app.AsyncResult("first")).get())
    worker.succeed("first", 1)
    worker.succeed("last", 2)
    assert got.outcome() == 2


def test_parents_are_not_looked_at_unless_wanted(app: Kern, worker: Any) -> None:
    worker.write_many([("first", states.FAILURE, Odd("boom")), ("last", states.SUCCESS, 2)])
    parent = app.AsyncResult("first")
    assert app.AsyncResult("last", parent=parent).get(follow_parents=False, timeout=5) == 2
    assert app.AsyncResult("last", parent=parent).get(propagate=False, timeout=5) == 2


# -- inside tasks ------------------------------------------------------------------------------------------------------


def test_waiting_is_allowed_outside_tasks(app: Kern) -> None:
    assert not task_join_will_block()
    assert_will_not_block()


def test_waiting_is_refused_where_it_could_wait_for_ever(app: Kern, worker: Any) -> None:
    worker.succeed("t", 5)
    result = app.AsyncResult("t")
    with denied_join_result():
        for wait in (
            result.get,
            app.ResultSet([result]).get,
            app.ResultSet([result]).join,
            app.ResultSet([result]).join_native,
        ):
            with pytest.raises(RuntimeError, match=r"Never call result\.get\(\) within a task!") as caught:
                wait()
            assert "allow_join_result" in str(caught.value)
        assert result.get(disable_sync_subtasks=False) == 5
        assert app.ResultSet([result]).get(disable_sync_subtasks=False) == [5]
        assert app.ResultSet([result]).join(disable_sync_subtasks=False) == [5]


def test_allowing_and_denying_give_back_what_was(app: Kern) -> None:
    with denied_join_result():
        with allow_join_result():
            assert not task_join_will_block()
        assert task_join_will_block()
        with pytest.raises(Odd), allow_join_result():
            raise Odd
        assert task_join_will_block()
    assert not task_join_will_block()


def test_the_flag_of_one_thread_is_not_that_of_another() -> None:
    """A process that hosts a worker still waits for results outside its tasks."""
    seen: list[bool] = []

    def pool_thread() -> None:
        set_join_will_block(True)
        seen.append(task_join_will_block())

    thread = threading.Thread(target=pool_thread)
    thread.start()
    thread.join()
    assert seen == [True]
    assert not task_join_will_block()


def test_awaiting_is_no_blocking(app: Kern, worker: Any) -> None:
    worker.succeed("t", 5)

    async def in_an_async_task() -> Any:
        with denied_join_result():
            return await app.AsyncResult("t")

    assert asyncio.run(in_an_async_task()) == 5


# -- asyncio -----------------------------------------------------------------------------------------------------------


def test_a_result_can_be_awaited(app: Kern, worker: Any) -> None:
    async def main() -> Any:
        task = asyncio.ensure_future(app.AsyncResult("t").aget())
        while not app.backend._session().waiting():
            await asyncio.sleep(0)
        worker.succeed("t", 5)
        return await task

    assert asyncio.run(main()) == 5


def test_an_awaited_error_is_raised_and_a_timeout_too(app: Kern, worker: Any) -> None:
    worker.fail("t", Odd("boom"))

    async def main() -> None:
        with pytest.raises(Odd, match="boom"):
            await app.AsyncResult("t")
        assert isinstance(await app.AsyncResult("t").aget(propagate=False), Odd)
        with pytest.raises(TimeoutError, match="The operation timed out"):
            await app.AsyncResult("never").aget(timeout=0.05)
        with pytest.raises(TimeoutError):
            await app.AsyncResult("never").aget(timeout=0)

    asyncio.run(main())


def test_awaiting_follows_parents_and_calls_back(app: Kern, worker: Any) -> None:
    worker.fail("first", Odd("the cause"))
    worker.succeed("t", 5)
    called: list[Any] = []

    async def main() -> None:
        await app.AsyncResult("t").aget(callback=lambda *args: called.append(args))
        with pytest.raises(Odd, match="the cause"):
            await app.AsyncResult("last", parent=app.AsyncResult("first"))

    asyncio.run(main())
    assert called == [("t", 5)]


def test_hundreds_of_awaits_take_no_thread_each(app: Kern, worker: Any) -> None:
    async def main() -> tuple[list[Any], int]:
        tasks = [asyncio.ensure_future(app.AsyncResult(f"t{i}").aget()) for i in range(300)]
        while app.backend._session().waiting() < 300:
            await asyncio.sleep(0)
        threads = threading.active_count()
        worker.write_many([(f"t{i}", states.SUCCESS, i) for i in range(300)])
        return await asyncio.gather(*tasks), threads

    before = threading.active_count()
    values, during = asyncio.run(main())
    assert values == list(range(300))
    assert during - before <= 2


def test_a_cancelled_await_leaves_nothing_behind(app: Kern) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(app.AsyncResult("t").aget())
        while not app.backend._session().waiting():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert app.backend._session().waiting() == 0


def test_states_can_be_asked_for_without_blocking(app: Kern, worker: Any) -> None:
    worker.succeed("t", 5)

    async def main() -> tuple[Any, ...]:
        found, unknown = app.AsyncResult("t"), app.AsyncResult("never")
        return await found.aready(), await found.astate(), await unknown.aready(), await unknown.astate()

    assert asyncio.run(main()) == (True, states.SUCCESS, False, states.UNKNOWN)


def test_one_client_serves_loops_one_after_the_other(app: Kern, worker: Any) -> None:
    worker.write_many([("a", states.SUCCESS, 1), ("b", states.SUCCESS, 2)])

    async def main(task_id: str) -> Any:
        return await app.AsyncResult(task_id)

    assert asyncio.run(main("a")) == 1
    assert asyncio.run(main("b")) == 2


# -- being called back -------------------------------------------------------------------------------------------------


def test_a_callback_is_called_when_the_result_comes(app: Kern, worker: Any) -> None:
    called: list[Any] = []
    app.AsyncResult("t").then(lambda result: called.append((result.id, result.get())))
    worker.succeed("t", 5)
    eventually(lambda: called)
    assert called == [("t", 5)]


def test_a_callback_on_a_result_that_is_there_is_called_at_once(app: Kern, worker: Any) -> None:
    worker.succeed("t", 5)
    result, called = app.AsyncResult("t"), []
    result.get()
    result.then(called.append)
    assert called == [result]


def test_a_callback_is_called_for_failures_too_and_may_wait(app: Kern, worker: Any) -> None:
    called: list[Any] = []

    def callback(result: AsyncResult[Any]) -> None:
        called.append((result.state, app.AsyncResult("other").get(timeout=10)))

    worker.succeed("other", 1)
    app.AsyncResult("t").then(callback)
    worker.fail("t", Odd("boom"))
    eventually(lambda: called)
    assert called == [(states.FAILURE, 1)]


def test_each_callback_is_called_once_whoever_fetches_the_result(app: Kern, worker: Any) -> None:
    called: list[Any] = []
    result = app.AsyncResult("t")
    result.then(lambda _result: called.append("first"))
    result.then(lambda _result: called.append("second"))
    worker.succeed("t", 5)
    assert result.get() == 5
    eventually(lambda: app.backend._session().waiting() == 0)
    assert called == ["first", "second"]


def test_a_callback_that_fails_disturbs_nobody(app: Kern, worker: Any) -> None:
    called: list[Any] = []

    def wrong(_result: Any) -> None:
        raise Odd("in the callback")

    result = app.AsyncResult("t")
    result.then(wrong, on_error=called.append)
    result.then(wrong)
    result.then(lambda _result: called.append("fine"))
    worker.succeed("t", 5)
    eventually(lambda: len(called) == 2)
    assert isinstance(called[0], Odd)
    assert called[1] == "fine"


def test_throwing_rejects_and_raises(app: Kern) -> None:
    called: list[Any] = []
    result = app.AsyncResult("t")
    result.then(lambda _result: called.append("called"), on_error=called.append)
    error = Odd("thrown")
    with pytest.raises(Odd, match="thrown"):
        result.throw(error)
    assert called == [error]
    assert result.on_ready.failed


def test_a_result_nobody_has_any_more_is_not_waited_for(
    app: Kern, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_wait, "PROBE", 0.02)
    called: list[Any] = []
    result = app.AsyncResult("t")
    result.then(called.append, weak=True)
    kept = app.AsyncResult("kept")
    kept.then(called.append, weak=True)
    assert app.backend._session().waiting() == 2
    del result
    gc.collect()
    eventually(lambda: app.backend._session().waiting() == 1, "the dropped result is forgotten")
    worker.write_many([("t", states.SUCCESS, 1), ("kept", states.SUCCESS, 2)])
    eventually(lambda: called)
    assert called == [kept]


def test_a_dropped_result_that_comes_disturbs_nobody(app: Kern, worker: Any) -> None:
    called: list[Any] = []
    first, kept, dropped = app.AsyncResult("first"), app.AsyncResult("kept"), app.AsyncResult("dropped")
    for result in (first, kept, dropped):
        result.then(called.append, weak=True)
    worker.succeed("first", 1)
    eventually(lambda: called == [first])
    del dropped, result
    gc.collect()
    worker.write_many([("dropped", states.SUCCESS, 1), ("kept", states.SUCCESS, 2)])
    eventually(lambda: len(called) == 2)
    assert called == [first, kept]


def test_a_promise_is_kept_once() -> None:
    called: list[Any] = []
    promise = Promise().then(called.append, called.append)
    promise(1)
    promise(2)
    promise.reject(Odd())
    promise.then(called.append)
    assert called == [1, 1]
    assert (promise.ready, promise.failed, promise.value) == (True, False, 1)


def test_throwing_without_an_exception_throws_the_one_at_hand() -> None:
    promise = Promise()
    with pytest.raises(TypeError, match="needs an exception"):
        promise.throw()
    try:
        raise Odd("at hand")
    except Odd:
        with pytest.raises(Odd, match="at hand"):
            promise.throw()
    assert promise.failed


def test_a_result_that_is_not_weak_is_kept_until_it_is_there(app: Kern, worker: Any) -> None:
    called: list[Any] = []
    app.AsyncResult("t").then(lambda result: called.append(result.get()))
    gc.collect()
    worker.succeed("t", 5)
    eventually(lambda: called == [5])


def test_a_forgotten_result_calls_nobody_back(app: Kern, worker: Any) -> None:
    called: list[Any] = []
    result = app.AsyncResult("t")
    result.then(called.append)
    result.forget()
    assert app.backend._session().waiting() == 0
    worker.succeed("t", 5)
    assert app.AsyncResult("t").get(timeout=10) == 5
    assert not called


def test_hundreds_of_callbacks_take_one_thread_which_ends(app: Kern, worker: Any) -> None:
    called: list[Any] = []
    app.AsyncResult("before").ready()
    before = threading.active_count()
    for i in range(200):
        app.AsyncResult(f"t{i}").then(lambda result: called.append(result.get()))
    assert threading.active_count() == before + 1
    worker.write_many([(f"t{i}", states.SUCCESS, i) for i in range(200)])
    eventually(lambda: len(called) == 200)
    eventually(lambda: threading.active_count() == before)
    assert sorted(called) == list(range(200))


# -- when the server is gone -------------------------------------------------------------------------------------------


def test_a_server_that_cannot_be_reached_is_an_error_and_no_state(make_app: Any, name: str) -> None:
    app = make_app(result_backend_timeout=0.5)
    with space(name).outage("gone"):
        for ask in (
            lambda: app.AsyncResult("t").state,
            lambda: app.AsyncResult("t").result,
            lambda: app.AsyncResult("t").ready(),
            lambda: app.AsyncResult("t").get(),
            lambda: app.AsyncResult("t").get(timeout=0),
            lambda: app.AsyncResult("t").forget(),
            lambda: asyncio.run(app.AsyncResult("t").aget()),
            lambda: app.AsyncResult("t").then(print),
        ):
            with pytest.raises(BackendUnavailable, match="gone"):
                ask()


def test_once_it_is_back_results_are_read(make_app: Any, worker: Any, name: str) -> None:
    app = make_app(result_backend_timeout=0.5)
    with space(name).outage("gone"), pytest.raises(BackendUnavailable):
        app.AsyncResult("t").get()
    worker.succeed("t", 5)
    assert app.AsyncResult("t").get(timeout=10) == 5


def test_a_wait_does_not_outlive_its_server_for_long(make_app: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_wait, "PROBE", 0.05)
    app = make_app(result_backend_timeout=0.3)
    app.AsyncResult("t").ready()
    deadline = Deadline(10)
    with space(name).outage("gone"), pytest.raises(BackendUnavailable):
        app.AsyncResult("t").get()
    assert not deadline.over
    assert app.backend._session().waiting() == 0


def test_an_awaited_result_does_not_outlive_its_server_either(
    make_app: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_wait, "PROBE", 0.05)
    app = make_app(result_backend_timeout=0.3)
    app.AsyncResult("t").ready()

    async def main() -> None:
        await app.AsyncResult("t")

    with space(name).outage("gone"), pytest.raises(BackendUnavailable):
        asyncio.run(main())


def test_a_callback_learns_that_the_server_is_gone(make_app: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_wait, "PROBE", 0.05)
    app = make_app(result_backend_timeout=0.3)
    errors: list[Exception] = []
    app.AsyncResult("t").then(print, on_error=errors.append)
    with space(name).outage("gone"):
        eventually(lambda: errors)
    assert isinstance(errors[0], BackendUnavailable)


def test_when_the_time_is_up_and_the_server_is_gone_that_is_what_is_said(make_app: Any, name: str) -> None:
    """Not "timed out": nobody can know whether the result is there."""
    app = make_app(result_backend_timeout=20)
    app.AsyncResult("t").ready()
    with space(name).outage("gone"), pytest.raises(BackendUnavailable):
        app.AsyncResult("t").get(timeout=0.3)


def test_a_short_outage_is_waited_out(make_app: Any, worker: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_wait, "PROBE", 0.05)
    app = make_app(result_backend_timeout=20)
    app.AsyncResult("t").ready()
    outage = space(name).outage("gone for a moment")
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 1:
            outage.__enter__()
        if len(ticks) == 8:
            outage.__exit__(None, None, None)
        if len(ticks) == 9:
            worker.succeed("t", 5)

    assert app.AsyncResult("t").get(timeout=20, interval=0.05, on_interval=tick) == 5


def test_closing_the_application_ends_the_waiting(app: Kern, waiting: Start) -> None:
    got, deadline = waiting(lambda: app.AsyncResult("t").get()), Deadline(3)
    app.close()
    with pytest.raises(BackendUnavailable, match="closed"):
        got.outcome()
    assert not deadline.over


def test_an_application_that_was_closed_can_be_used_again(app: Kern, worker: Any) -> None:
    worker.succeed("t", 5)
    assert app.AsyncResult("t").get() == 5
    app.close()
    assert app.AsyncResult("t").get(timeout=10) == 5


# -- threads and processes ---------------------------------------------------------------------------------------------


def test_many_threads_wait_for_the_same_result_and_for_others(app: Kern, worker: Any, waiting: Start) -> None:
    waits = [
        waiting(lambda i=i: app.AsyncResult(f"t{i}").get(timeout=20))  # type: ignore[misc]
        for i in range(4)
    ]
    results: list[Any] = []

    def another(i: int) -> None:
        results.append(app.AsyncResult(f"t{i % 4}").get(timeout=20))

    threads = [threading.Thread(target=another, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    worker.write_many([(f"t{i}", states.SUCCESS, i) for i in range(4)])
    assert [wait.outcome() for wait in waits] == [0, 1, 2, 3]
    for thread in threads:
        thread.join(20)
    assert sorted(results) == sorted([0, 1, 2, 3] * 3)
    assert app.backend._session().waiting() == 0


def test_a_wait_that_gives_up_does_not_disturb_another_of_the_same_result(
    app: Kern, worker: Any, waiting: Start
) -> None:
    patient = waiting(lambda: app.AsyncResult("t").get())
    with pytest.raises(TimeoutError):
        app.AsyncResult("t").get(timeout=0.05)
    worker.succeed("t", 5)
    assert patient.outcome() == 5


def test_a_forked_process_connects_anew(app: Kern, worker: Any) -> None:
    worker.succeed("t", 5)
    assert app.AsyncResult("t").get() == 5
    parents = app.backend._session().store
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            value = app.AsyncResult("t").get(timeout=10)
            fresh = app.backend._session().store is not parents
            os.write(writer, f"{value} {fresh}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        assert answer.read() == "5 True"
    os.waitpid(pid, 0)
    assert app.backend._session().store is parents
