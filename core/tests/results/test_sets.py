"""Several results together: sets, groups, and their stored form."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from kern import states
from kern.app import Kern
from kern.errors import BackendUnavailable, CapabilityMissing, ImproperlyConfigured, TimeoutError
from kern.result import AsyncResult, EagerResult, GroupResult, ResultSet, bound_to, result_from_tuple
from kern_testing.memory import space
from kern_testing.waiting import eventually

Start = Callable[[Callable[[], Any]], Any]


class Odd(Exception):
    """An error of a user's."""


@pytest.fixture
def three(app: Kern) -> ResultSet[Any]:
    """Results ``a``, ``b``, ``c``."""
    return app.ResultSet([app.AsyncResult(task_id) for task_id in "abc"])


def ids(results: ResultSet[Any]) -> list[str]:
    return [result.id for result in results]


# -- members -----------------------------------------------------------------------------------------------------------


def test_results_are_added_once(app: Kern, three: ResultSet[Any]) -> None:
    three.add(app.AsyncResult("d"))
    three.add(app.AsyncResult("a"))
    assert ids(three) == ["a", "b", "c", "d"]
    three.update([app.AsyncResult("e"), app.AsyncResult("e"), app.AsyncResult("b")])
    assert ids(three) == ["a", "b", "c", "d", "e"]


def test_results_are_removed_by_themselves_or_their_id(app: Kern, three: ResultSet[Any]) -> None:
    three.remove("a")
    three.remove(app.AsyncResult("b"))
    assert ids(three) == ["c"]
    with pytest.raises(KeyError):
        three.remove("a")
    three.discard("a")
    three.discard("c")
    assert ids(three) == []


def test_a_set_is_cleared_in_place(three: ResultSet[Any]) -> None:
    members = three.results
    three.clear()
    assert three.results is members
    assert len(three) == 0


def test_a_set_is_a_sequence_of_its_results(app: Kern, three: ResultSet[Any]) -> None:
    assert len(three) == 3
    assert three[1] == "b"
    assert list(three) == ["a", "b", "c"]
    assert three == app.ResultSet([app.AsyncResult(task_id) for task_id in "abc"])
    assert three != app.ResultSet([app.AsyncResult("a")])
    assert three != 3
    assert repr(three) == "<ResultSet: [a, b, c]>"


def test_a_set_knows_its_application_by_itself_or_its_members(app: Kern) -> None:
    assert app.ResultSet([]).app is app
    assert ResultSet([app.AsyncResult("a")]).app is app
    assert ResultSet([app.AsyncResult("a")]).backend is app.backend
    with pytest.raises(ImproperlyConfigured):
        _ = ResultSet([]).app


# -- what is known -----------------------------------------------------------------------------------------------------


def known(results: ResultSet[Any]) -> tuple[bool, bool, bool, bool, int]:
    return results.ready(), results.waiting(), results.successful(), results.failed(), results.completed_count()


def test_nothing_is_known_of_unknown_members(three: ResultSet[Any]) -> None:
    assert known(three) == (False, True, False, False, 0)


def test_some_are_there(three: ResultSet[Any], worker: Any) -> None:
    worker.write_many([("a", states.SUCCESS, 1), ("b", states.STARTED, {})])
    assert known(three) == (False, True, False, False, 1)


def test_all_have_succeeded(three: ResultSet[Any], worker: Any) -> None:
    worker.write_many([(task_id, states.SUCCESS, 1) for task_id in "abc"])
    assert known(three) == (True, False, True, False, 3)


def test_one_has_failed(three: ResultSet[Any], worker: Any) -> None:
    worker.write_many([("a", states.SUCCESS, 1), ("b", states.FAILURE, Odd()), ("c", states.REVOKED, Odd())])
    assert known(three) == (True, False, False, True, 1)


def test_an_empty_set_is_ready(app: Kern) -> None:
    assert known(app.ResultSet([])) == (True, False, True, False, 0)
    assert app.ResultSet([]).supports_native_join is None


def test_looking_at_a_set_reads_all_members_with_one_command(
    app: Kern, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = app.ResultSet([app.AsyncResult(f"t{i}") for i in range(200)])
    results.ready()
    store = app.backend._session().store
    reads: list[int] = []
    read = store.read
    monkeypatch.setattr(store, "read", lambda task_ids: reads.append(len(task_ids)) or read(task_ids))
    worker.write_many([(f"t{i}", states.SUCCESS, i) for i in range(150)])
    assert results.completed_count() == 150
    assert results.completed_count() == 150
    assert reads == [200, 50]


def test_members_that_are_groups_count_as_one(app: Kern, worker: Any) -> None:
    group = app.GroupResult("g", [app.AsyncResult("b"), app.AsyncResult("c")])
    results = app.ResultSet([app.AsyncResult("a"), group])
    worker.write_many([("a", states.SUCCESS, 1), ("b", states.SUCCESS, 2)])
    assert results.completed_count() == 1
    worker.succeed("c", 3)
    assert known(results) == (True, False, True, False, 2)


def test_maybe_throw_raises_the_first_failure_in_order(three: ResultSet[Any], worker: Any) -> None:
    called: list[Any] = []
    worker.write_many([("c", states.FAILURE, Odd("c")), ("b", states.FAILURE, Odd("b")), ("a", states.SUCCESS, 1)])
    with pytest.raises(Odd, match="b"):
        three.maybe_throw(callback=lambda *args: called.append(args))
    assert called == [("a", 1)]
    three.maybe_reraise(propagate=False)


# -- waiting, both ways ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["get", "join", "join_native", "aget", "await"])
def joined(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Each way to wait for all."""

    async def awaited(results: ResultSet[Any]) -> Any:
        return await results

    def join(results: ResultSet[Any], **options: Any) -> Any:
        if request.param == "await" and not options:
            return asyncio.run(awaited(results))
        if request.param in ("aget", "await"):
            return asyncio.run(results.aget(**options))
        return getattr(results, request.param)(**options)

    return join


def test_values_come_in_order_of_the_members(
    three: ResultSet[Any], worker: Any, waiting: Start, joined: Callable[..., Any]
) -> None:
    got = waiting(lambda: joined(three))
    for task_id in "cab":
        worker.succeed(task_id, task_id.upper())
    assert got.outcome() == ["A", "B", "C"]


def test_values_that_are_there_are_returned_at_once(
    three: ResultSet[Any], worker: Any, joined: Callable[..., Any]
) -> None:
    worker.write_many([(task_id, states.SUCCESS, task_id) for task_id in "abc"])
    assert joined(three, timeout=0) == ["a", "b", "c"]


def test_an_empty_set_has_no_values(app: Kern, joined: Callable[..., Any]) -> None:
    assert joined(app.ResultSet([])) == []


def test_an_error_is_raised(three: ResultSet[Any], worker: Any, joined: Callable[..., Any]) -> None:
    worker.write_many([("a", states.SUCCESS, 1), ("b", states.FAILURE, Odd("boom")), ("c", states.SUCCESS, 3)])
    with pytest.raises(Odd, match="boom"):
        joined(three, timeout=10)


def test_without_propagation_the_exception_stands_in_the_list(
    three: ResultSet[Any], worker: Any, joined: Callable[..., Any]
) -> None:
    worker.write_many([("a", states.SUCCESS, 1), ("b", states.FAILURE, Odd("boom")), ("c", states.SUCCESS, 3)])
    first, second, third = joined(three, propagate=False, timeout=10)
    assert (first, third) == (1, 3)
    assert isinstance(second, Odd)


def test_groups_among_the_members_give_lists(app: Kern, worker: Any, joined: Callable[..., Any]) -> None:
    inner = app.GroupResult("inner", [app.AsyncResult("c"), app.AsyncResult("d")])
    group = app.GroupResult("g", [app.AsyncResult("b"), inner])
    results = app.ResultSet([app.AsyncResult("a"), group, app.AsyncResult("e")])
    worker.write_many([(task_id, states.SUCCESS, task_id) for task_id in "edcba"])
    assert joined(results, timeout=10) == ["a", ["b", ["c", "d"]], "e"]


def test_eager_and_ignored_results_among_the_members(app: Kern, worker: Any, joined: Callable[..., Any]) -> None:
    ignored = app.AsyncResult("ignored")
    ignored.ignored = True
    results = app.ResultSet([app.AsyncResult("a"), EagerResult("e", 7, states.SUCCESS), ignored])
    worker.succeed("a", 1)
    assert joined(results, timeout=10) == [1, 7, None]


def test_a_member_that_is_there_twice_gives_its_value_twice(app: Kern, worker: Any, joined: Callable[..., Any]) -> None:
    worker.succeed("a", 1)
    assert joined(app.ResultSet([app.AsyncResult("a"), app.AsyncResult("a")]), timeout=10) == [1, 1]


def test_the_timeout_is_for_all_together(three: ResultSet[Any], worker: Any, joined: Callable[..., Any]) -> None:
    worker.write_many([("a", states.SUCCESS, 1), ("c", states.SUCCESS, 1)])
    with pytest.raises(TimeoutError):
        joined(three, timeout=0.2)
    with pytest.raises(TimeoutError):
        joined(three, timeout=0)


def test_a_server_that_is_gone_is_an_error(make_app: Any, name: str, worker: Any, joined: Callable[..., Any]) -> None:
    app = make_app(result_backend_timeout=0.3)
    results = app.ResultSet([app.AsyncResult("a"), app.AsyncResult("b")])
    with space(name).outage("gone"), pytest.raises(BackendUnavailable, match="gone"):
        joined(results)


def test_on_interval_is_called_meanwhile(three: ResultSet[Any], worker: Any, joined: Callable[..., Any]) -> None:
    calls: list[int] = []

    def tick() -> None:
        calls.append(1)
        if len(calls) == 2:
            worker.write_many([(task_id, states.SUCCESS, task_id) for task_id in "abc"])

    assert joined(three, interval=0.02, on_interval=tick, timeout=20) == ["a", "b", "c"]


# -- join: one after the other -----------------------------------------------------------------------------------------


def test_join_raises_the_first_failure_in_order(three: ResultSet[Any], worker: Any, waiting: Start) -> None:
    got = waiting(lambda: three.join())
    worker.fail("b", Odd("second in order, first to come"))
    worker.fail("a", Odd("first in order"))
    with pytest.raises(Odd, match="first in order"):
        got.outcome()


def test_join_times_out_in_its_own_words(three: ResultSet[Any]) -> None:
    with pytest.raises(TimeoutError, match=r"^join operation timed out$"):
        three.join(timeout=0.1)


def test_join_raises_a_tasks_own_timeout_as_it_is(three: ResultSet[Any], worker: Any) -> None:
    worker.fail("a", TimeoutError("of the task"))
    with pytest.raises(TimeoutError, match="of the task"):
        three.join(timeout=10)


def test_join_calls_back_in_order_and_gives_no_values(three: ResultSet[Any], worker: Any, waiting: Start) -> None:
    called: list[Any] = []
    got = waiting(lambda: three.join(callback=lambda *args: called.append(args)))
    for task_id in "cba":
        worker.succeed(task_id, task_id)
    assert got.outcome() == []
    assert called == [("a", "a"), ("b", "b"), ("c", "c")]


def test_join_takes_no_on_message(three: ResultSet[Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match="on_message"):
        three.join(on_message=print)


# -- join_native: as they arrive ---------------------------------------------------------------------------------------


def test_join_native_raises_the_first_failure_to_arrive(three: ResultSet[Any], worker: Any, waiting: Start) -> None:
    got = waiting(lambda: three.join_native())
    worker.fail("c", Odd("first to arrive"))
    with pytest.raises(Odd, match="first to arrive"):
        got.outcome()


def test_join_native_calls_back_as_they_arrive(three: ResultSet[Any], worker: Any, waiting: Start) -> None:
    called: list[Any] = []
    got = waiting(lambda: three.join_native(callback=lambda *args: called.append(args)))
    for count, task_id in enumerate("cab", 1):
        worker.succeed(task_id, task_id)
        eventually(lambda count=count: len(called) == count)  # type: ignore[misc]
    assert got.outcome() is None
    assert called == [("c", "c"), ("a", "a"), ("b", "b")]


def test_a_failure_inside_a_group_is_raised_when_it_arrives(app: Kern, worker: Any, waiting: Start) -> None:
    group = app.GroupResult("g", [app.AsyncResult("b"), app.AsyncResult("c")])
    got = waiting(lambda: app.ResultSet([app.AsyncResult("a"), group]).join_native())
    worker.fail("c", Odd("inside"))
    with pytest.raises(Odd, match="inside"):
        got.outcome()


def test_messages_of_all_members_are_told(three: ResultSet[Any], worker: Any) -> None:
    told: list[Any] = []

    def message(meta: dict[str, Any]) -> None:
        told.append((meta["task_id"], meta["status"]))
        if meta["status"] == "PROGRESS":
            worker.write_many([(task_id, states.SUCCESS, 1) for task_id in "abc"])

    worker.write("b", "PROGRESS", 1)
    assert three.get(interval=0.02, on_message=message, timeout=20) == [1, 1, 1]
    assert told[0] == ("b", "PROGRESS")
    assert sorted(told[1:]) == [(task_id, states.SUCCESS) for task_id in "abc"]


def test_thousands_are_waited_for_in_one_go(app: Kern, worker: Any, waiting: Start) -> None:
    count = 3000
    results = app.ResultSet([app.AsyncResult(f"t{i}") for i in range(count)])
    got = waiting(lambda: results.get(timeout=60))
    assert app.backend._session().waiting() == count
    for start in range(0, count, 500):
        worker.write_many([(f"t{i}", states.SUCCESS, i) for i in range(start, start + 500)])
    assert got.outcome() == list(range(count))
    assert app.backend._session().waiting() == 0


def test_iter_native_gives_documents_as_they_arrive(app: Kern, worker: Any, waiting: Start) -> None:
    inner = app.GroupResult("g", [app.AsyncResult("b"), app.AsyncResult("c")])
    results = app.ResultSet([app.AsyncResult("a"), inner])
    worker.write_many([("b", states.SUCCESS, 2), ("c", states.FAILURE, Odd("boom"))])
    documents = results.iter_native(timeout=20)
    assert next(documents) == ("g", inner.results)
    worker.succeed("a", 1)
    task_id, meta = next(documents)
    assert (task_id, meta["status"], meta["result"], meta["task_id"]) == ("a", states.SUCCESS, 1, "a")
    assert next(documents, "the end") == "the end"


def test_iter_native_of_an_empty_set_ends_at_once(app: Kern) -> None:
    assert list(app.ResultSet([]).iter_native()) == []


def test_documents_can_be_iterated_without_blocking(three: ResultSet[Any], worker: Any) -> None:
    worker.write_many([(task_id, states.SUCCESS, task_id) for task_id in "abc"])

    async def main() -> dict[str, Any]:
        return {task_id: meta["result"] async for task_id, meta in three.aiter_native(timeout=10)}

    assert asyncio.run(main()) == {"a": "a", "b": "b", "c": "c"}


def test_an_iteration_that_is_left_leaves_nothing_behind(app: Kern, three: ResultSet[Any], worker: Any) -> None:
    worker.succeed("a", 1)
    for _task_id, _meta in three.iter_native(timeout=10):
        break
    import gc

    gc.collect()
    assert app.backend._session().waiting() == 0


# -- being told, forgetting --------------------------------------------------------------------------------------------


def test_a_callback_is_called_when_all_are_there(three: ResultSet[Any], worker: Any) -> None:
    called: list[Any] = []
    three.then(called.append)
    worker.write_many([("a", states.SUCCESS, 1), ("b", states.FAILURE, Odd())])
    assert not called
    worker.succeed("c", 3)
    eventually(lambda: called)
    assert called == [three]
    three.then(called.append)
    assert called == [three, three]


def test_forgetting_a_set_forgets_its_members(three: ResultSet[Any], worker: Any, app: Kern) -> None:
    worker.write_many([(task_id, states.SUCCESS, 1) for task_id in "abc"])
    three.forget()
    assert not any(app.AsyncResult(task_id).exists() for task_id in "abc")


# -- groups ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def group(app: Kern) -> GroupResult[Any]:
    return app.GroupResult("gid", [app.AsyncResult("a"), app.AsyncResult("b")])


def test_a_group_shows_its_id_and_members(group: GroupResult[Any]) -> None:
    assert str(group) == "gid"
    assert repr(group) == "<GroupResult: gid [a, b]>"
    assert group.children == group.results


def test_a_group_equals_its_like_and_its_id(app: Kern, group: GroupResult[Any]) -> None:
    members = [app.AsyncResult("a"), app.AsyncResult("b")]
    assert group == GroupResult("gid", members)
    assert group == "gid"
    assert group != GroupResult("gid", members[:1])
    assert group != GroupResult("other", members)
    assert group != GroupResult("gid", members, parent=app.AsyncResult("p"))
    assert hash(group) == hash("gid")


def test_a_group_is_true_with_an_id_or_members(app: Kern) -> None:
    assert GroupResult("gid")
    assert GroupResult(None, [app.AsyncResult("a")])
    assert not GroupResult()


def test_a_pickled_group_has_id_and_members(group: GroupResult[Any]) -> None:
    restored = pickle.loads(pickle.dumps(group))
    assert restored == group
    assert isinstance(restored, GroupResult)


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_a_saved_group_is_restored(make_app: Any, worker: Any, serializer: str) -> None:
    app = make_app(result_serializer=serializer, accept_content=["json", "pickle"])
    inner = app.GroupResult("inner", [app.AsyncResult("c")])
    group = app.GroupResult("gid", [app.AsyncResult("a"), inner], parent=app.AsyncResult("before"))
    group.save()
    restored = GroupResult.restore("gid", app=app)
    assert restored == group
    assert restored.app is app
    assert restored == GroupResult.restore("gid", backend=app.backend)
    worker.write_many([("a", states.SUCCESS, 1), ("c", states.SUCCESS, 3)])
    assert restored.get(timeout=10) == [1, [3]]
    group.delete()
    assert GroupResult.restore("gid", app=app) is None
    assert app.AsyncResult("a").exists()


def test_classes_of_an_application_need_not_be_told_it(app: Kern, worker: Any) -> None:
    group_class, result_class = bound_to(app, GroupResult), bound_to(app, AsyncResult)
    group: GroupResult[Any] = group_class("gid", [result_class("a")])
    group.save()
    assert group_class.restore("gid") == group
    worker.succeed("a", 1)
    assert group.get(timeout=10) == [1]
    assert repr(result_class("a")) == "<AsyncResult: a>"
    assert type(pickle.loads(pickle.dumps(group))) is GroupResult


def test_a_group_without_an_id_cannot_be_saved(app: Kern) -> None:
    with pytest.raises(ValueError, match="no id"):
        app.GroupResult(None, [app.AsyncResult("a")]).save()


def test_a_store_that_keeps_no_groups_says_so(app: Kern, group: GroupResult[Any], monkeypatch: Any) -> None:
    from kern.contracts.result_store import BlockingResultStore
    from kern_testing.memory import MemoryResultStore

    monkeypatch.setattr(MemoryResultStore, "save_group", BlockingResultStore.save_group)
    with pytest.raises(CapabilityMissing, match="cannot save groups"):
        group.save()


# -- the stored form ---------------------------------------------------------------------------------------------------

STORED = [
    ([["c467", None], None], "AsyncResult", "c467"),
    ((("c467", None), None), "AsyncResult", "c467"),
    (("c467", None), "AsyncResult", "c467"),
    (["c467", [[["1882", None], None]]], "GroupResult", "c467"),
    ([["ae18", None], [[["1882", None], None], [["0fe0", None], None]]], "GroupResult", "ae18"),
    ([["g", None], []], "GroupResult", "g"),
]


@pytest.mark.parametrize(("stored", "kind", "task_id"), STORED)
def test_stored_forms_are_read(app: Kern, stored: Any, kind: str, task_id: str) -> None:
    result = result_from_tuple(stored, app)
    assert type(result).__name__ == kind
    assert result.id == task_id
    assert result.app is app


def test_what_is_written_is_read_back_with_all_that_came_before(app: Kern) -> None:
    header = app.GroupResult("g", [app.AsyncResult("6c91"), app.AsyncResult("cbd8")], parent=app.AsyncResult("42e3"))
    body = app.AsyncResult("da7a", parent=header)
    assert body.as_tuple() == (
        ("da7a", (("g", (("42e3", None), None)), [(("6c91", None), None), (("cbd8", None), None)])),
        None,
    )
    restored = result_from_tuple(body.as_tuple(), app)
    assert restored == body
    assert restored.parent == header
    assert body.as_list() == ["da7a", "g", "42e3"]


def test_a_result_is_its_own_stored_form(app: Kern) -> None:
    result = app.AsyncResult("a")
    assert result_from_tuple(result) is result


@pytest.mark.parametrize("wrong", [7, "abc", [], [["a", None, None], None], {"a": 1}])
def test_what_is_no_stored_form_is_refused(app: Kern, wrong: Any) -> None:
    with pytest.raises(ValueError, match="not the stored form of a result"):
        result_from_tuple(wrong, app)


# -- results of calls that ran at once ---------------------------------------------------------------------------------


def test_an_eager_value_is_there() -> None:
    result: EagerResult[Any] = EagerResult("e", 7, states.SUCCESS, name="tests.add")
    assert result.get() == result.wait(timeout=1) == result.result == 7
    assert (result.ready(), result.successful(), result.failed()) == (True, True, False)
    assert (result.state, result.status, result.name) == (states.SUCCESS, states.SUCCESS, "tests.add")
    assert (result.children, result.traceback, result.supports_native_join) == (None, None, False)
    assert repr(result) == "<EagerResult: e>"
    assert result == "e"
    assert asyncio.run(result.aget()) == 7


def test_an_eager_error_is_raised_or_returned() -> None:
    error = Odd("boom")
    result: EagerResult[Any] = EagerResult("e", error, states.FAILURE, traceback="…")
    with pytest.raises(Odd, match="boom"):
        result.get()
    with pytest.raises(Odd):
        result.maybe_throw()
    assert result.get(propagate=False) is error
    assert result.traceback == "…"
    assert (result.failed(), result.ready()) == (True, True)


def test_an_eager_failure_with_a_value_is_an_exception_of_it() -> None:
    with pytest.raises(Exception, match="just text"):
        EagerResult("e", "just text", states.FAILURE).get()


@pytest.mark.parametrize("state", [states.IGNORED, states.REJECTED, states.RETRY])
def test_an_eager_result_that_is_neither_is_none(state: str) -> None:
    result: EagerResult[Any] = EagerResult("e", Odd(), state)
    assert result.get() is None
    assert result.ready()
    assert result.state == state


def test_an_eager_result_keeps_to_the_rule_about_waiting() -> None:
    from kern.result import denied_join_result

    result: EagerResult[Any] = EagerResult("e", 7, states.SUCCESS)
    with denied_join_result():
        with pytest.raises(RuntimeError, match="Never call"):
            result.get()
        assert result.get(disable_sync_subtasks=False) == 7


def test_revoking_an_eager_result_makes_it_revoked() -> None:
    from kern.errors import TaskRevokedError

    result: EagerResult[Any] = EagerResult("e", 7, states.SUCCESS, traceback="…")
    result.revoke(terminate=True)
    assert (result.state, result.traceback) == (states.REVOKED, None)
    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get()


def test_an_eager_result_calls_back_at_once_and_forgets_nothing() -> None:
    called: list[Any] = []
    result: EagerResult[Any] = EagerResult("e", 7, states.SUCCESS)
    result.then(called.append)
    result.forget()
    assert called == [result]
    assert result.get(callback=lambda *args: called.append(args)) == 7
    assert called[1] == ("e", 7)


def test_an_eager_result_is_copied_and_pickled_whole() -> None:
    import copy

    result: EagerResult[Any] = EagerResult("e", [7], states.SUCCESS, traceback="…", name="n")
    result.parent = AsyncResult("before")
    for made in (copy.copy(result), pickle.loads(pickle.dumps(result))):
        assert (made.id, made.result, made.state, made.traceback, made.name) == ("e", [7], states.SUCCESS, "…", "n")
    assert copy.copy(result).parent == "before"


def test_a_group_of_eager_results_needs_no_store(make_app: Any) -> None:
    app = make_app(backend=None)
    group = app.GroupResult("g", [EagerResult("a", 1, states.SUCCESS), EagerResult("b", 2, states.SUCCESS)])
    assert group.get() == [1, 2]
    assert group.successful()
    assert group.completed_count() == 2
