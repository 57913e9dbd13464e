"""Running a request: how every end is classified, what is stored, published and told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from kern import documents, states
from kern.app import Kern
from kern.contracts.continuation import Continuation, Follows
from kern.errors import (
    CapabilityMissing,
    Ignore,
    NotRegistered,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
)
from kern.hookspecs import hookimpl
from kern.message import Publication
from kern.outcome import GiveBack, JoinPart, Outcome, Quarantine, Release, RetryAt
from kern.request import Request
from kern.task import Task

from .conftest import Bench


class Expected(Exception):
    pass


class Witness:
    """Writes down what listeners and handlers are told, in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    @hookimpl
    def kern_before_publish(self, batch: Any) -> None:
        self.told.append("before_task_publish")

    @hookimpl
    def kern_task_prerun(self, task: Any, request: Request) -> None:
        self.told.append("task_prerun")

    @hookimpl
    def kern_task_postrun(self, task: Any, request: Request, state: str, value: Any) -> None:
        self.told.append(f"task_postrun({state})")

    @hookimpl
    def kern_task_success(self, result: Any, runtime: float) -> None:
        assert runtime > 0
        self.told.append("task_success")

    @hookimpl
    def kern_task_failure(self, exception: BaseException, traceback: str | None) -> None:
        self.told.append("task_failure")

    @hookimpl
    def kern_task_retry(self, reason: Any, traceback: str | None) -> None:
        self.told.append("task_retry")

    @hookimpl
    def kern_task_internal_error(self, exception: BaseException) -> None:
        self.told.append(f"task_internal_error({exception})")

    @hookimpl
    def kern_events(self, events: Any) -> None: ...

    def base(self) -> type[Task[..., Any]]:
        told = self.told

        class Handlers(Task[..., Any]):
            def before_start(self, *_: Any) -> None:
                told.append("before_start")

            def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
                told.append("on_success")

            def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
                told.append("on_failure")

            def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
                told.append("on_retry")

            def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
                assert einfo is None
                told.append(f"after_return({status})")

        return Handlers


@attrs.frozen
class End:
    """One row of the table."""

    body: Callable[[Any], Any]
    state: str
    disposition: type
    stored: str | None
    told: list[str]
    events: list[str]
    summary: str


def _raise(error: BaseException) -> Callable[[Any], Any]:
    def body(task: Any) -> Any:
        raise error

    return body


def _retry(task: Any) -> Any:
    try:
        raise KeyError("nope")
    except KeyError as error:
        raise task.retry(exc=error, countdown=1) from error


FAILED = ["task_prerun", "before_start", "on_failure", "task_failure", "after_return(FAILURE)", "task_postrun(FAILURE)"]

ENDS = {
    "success": End(
        lambda task: 42,
        states.SUCCESS,
        Release,
        states.SUCCESS,
        ["task_prerun", "before_start", "on_success", "task_success", "after_return(SUCCESS)", "task_postrun(SUCCESS)"],
        ["task-succeeded"],
        "42",
    ),
    "failure": End(
        _raise(ValueError("bad")), states.FAILURE, Release, states.FAILURE, FAILED, ["task-failed"], "ValueError('bad')"
    ),
    "retry": End(
        _retry,
        states.RETRY,
        RetryAt,
        states.RETRY,
        ["task_prerun", "before_start", "before_task_publish", "on_retry", "task_retry", "task_postrun(RETRY)"],
        ["task-retried"],
        "Retry in 1s: KeyError('nope')",
    ),
    "ignore": End(
        _raise(Ignore()),
        states.IGNORED,
        Release,
        None,
        ["task_prerun", "before_start", "task_postrun(IGNORED)"],
        [],
        "",
    ),
    "reject": End(
        _raise(Reject("no", requeue=False)),
        states.REJECTED,
        Quarantine,
        states.FAILURE,
        ["task_prerun", "before_start", "task_postrun(REJECTED)", "task_failure"],
        ["task-failed", "task-rejected"],
        "reject requeue=False: no",
    ),
    "reject and requeue": End(
        _raise(Reject("later", requeue=True)),
        states.REJECTED,
        GiveBack,
        None,
        ["task_prerun", "before_start", "task_postrun(REJECTED)"],
        ["task-rejected"],
        "reject requeue=True: later",
    ),
    "soft time limit": End(
        _raise(SoftTimeLimitExceeded()),
        states.FAILURE,
        Release,
        states.FAILURE,
        FAILED,
        ["task-failed"],
        "SoftTimeLimitExceeded()",
    ),
    "exit": End(
        _raise(SystemExit(3)), states.FAILURE, Release, states.FAILURE, FAILED, ["task-failed"], "SystemExit(3)"
    ),
    "interrupt": End(
        _raise(KeyboardInterrupt()),
        states.FAILURE,
        Release,
        states.FAILURE,
        FAILED,
        ["task-failed"],
        "KeyboardInterrupt()",
    ),
    "out of memory": End(
        _raise(MemoryError()), states.FAILURE, Release, states.FAILURE, FAILED, ["task-failed"], "MemoryError()"
    ),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_how_a_task_ends(bench: Bench, end: End) -> None:
    """State, disposition, document, order of listeners and handlers, events and the line for the log."""
    witness = Witness()
    bench.app.register(witness)
    task = bench.app.task(bind=True, base=witness.base(), name="t")(end.body)
    task.delay()
    runner = bench.app.runner("w@here")
    (delivery,) = bench.claim()
    witness.told.clear()  # of the call itself
    outcome = runner(bench.request(delivery))
    assert outcome.state == end.state
    assert type(outcome.disposition) is end.disposition
    assert (outcome.document.status if outcome.document else None) == end.stored
    assert witness.told == end.told
    assert [event.type for event in outcome.events] == end.events
    assert outcome.summary == end.summary
    assert (outcome.task_id, outcome.task, outcome.receipt) == (delivery.task_id, "t", delivery.receipt)
    assert outcome.runtime is not None


class TestDocuments:
    """What the result store has of each end."""

    def run(self, bench: Bench, body: Callable[[Any], Any], **options: Any) -> Any:
        task = bench.app.task(bind=True, name="t", **options)(body)
        result = task.delay()
        bench.run_one()
        return bench.meta(result.id)

    def test_a_value(self, bench: Bench) -> None:
        meta = self.run(bench, lambda task: {"a": [1]})
        assert (meta.status, meta.result, meta.traceback) == (states.SUCCESS, {"a": [1]}, None)
        assert meta.date_done is not None

    def test_an_error_with_its_traceback(self, bench: Bench) -> None:
        meta = self.run(bench, _raise(ValueError("bad")))
        assert (meta.status, repr(meta.result)) == (states.FAILURE, "ValueError('bad')")
        assert meta.traceback.endswith("ValueError: bad\n")

    def test_a_retry_with_its_cause(self, bench: Bench) -> None:
        meta = self.run(bench, _retry)
        assert (meta.status, repr(meta.result), meta.date_done) == (states.RETRY, "KeyError('nope')", None)
        assert "Retry in 1s: KeyError('nope')" in meta.traceback

    def test_a_rejection_as_a_failure(self, bench: Bench) -> None:
        meta = self.run(bench, _raise(Reject("no", requeue=False)))
        assert meta.status == states.FAILURE
        assert isinstance(meta.result, Reject)
        assert meta.result.args == ("no", False)

    @pytest.mark.parametrize("body", [_raise(Ignore()), _raise(Reject("x", requeue=True))])
    def test_nothing(self, bench: Bench, body: Any) -> None:
        task = bench.app.task(bind=True)(body)
        result = task.delay()
        (delivery,) = bench.claim()
        assert bench.app.runner("w@here")(bench.request(delivery)).document is None
        assert bench.meta(result.id) is None

    def test_a_value_that_cannot_be_written_is_described_and_the_task_has_succeeded(self, bench: Bench) -> None:
        meta = self.run(bench, lambda task: {"x": object()})
        assert meta.status == states.SUCCESS
        assert "object object" in meta.result
        assert "could not be stored" in meta.traceback

    def test_an_error_of_odd_manners(self, bench: Bench) -> None:
        class Odd(Exception):
            def __repr__(self) -> str:
                raise ValueError("no repr")

            __str__ = __repr__

        meta = self.run(bench, _raise(Odd(object())), acks_late=True, acks_on_failure=False)
        assert (meta.status, type(meta.result).__name__) == (states.FAILURE, "Odd")

    def test_extended(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(result_extended=True)
        task = bench.app.task(name="t")(lambda x, y=1: x)
        result = task.apply_async((5,), {"y": 6}, retries=2, queue="q")
        bench.run_one("q")
        meta = bench.meta(result.id)
        assert meta is not None
        assert (meta.name, meta.args, meta.kwargs, meta.retries, meta.queue) == ("t", [5], {"y": 6}, 2, "q")
        assert meta.worker == "bench@here"

    @pytest.mark.parametrize(
        ("of_task", "of_call", "errors_too", "stored"),
        [
            (False, None, False, (True, True)),
            (True, None, False, (False, False)),
            (True, None, True, (False, True)),
            (True, False, False, (True, True)),
            (False, True, False, (False, False)),
            (False, True, True, (False, True)),
        ],
    )
    def test_ignored_results(
        self, bench: Bench, of_task: bool, of_call: bool | None, errors_too: bool, stored: tuple[bool, bool]
    ) -> None:
        found = []
        for name, body in (("good", lambda: 1), ("bad", lambda: 1 / 0)):
            task = bench.app.task(name=name, ignore_result=of_task, store_errors_even_if_ignored=errors_too)(body)
            task.apply_async(**({} if of_call is None else {"ignore_result": of_call}))
            found.append(bench.run_one().document is not None)
        assert tuple(found) == stored

    def test_without_a_result_store(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(backend=None)
        bench.app.task(lambda: 1).delay()
        assert bench.run_one().document is None

    @pytest.mark.parametrize("form", ["whole", "parts"])
    def test_in_the_form_the_store_keeps(self, make_bench: Callable[..., Bench], form: str) -> None:
        bench = make_bench()
        bench.app.conf.result_backend = f"memory://{bench.server}?form={form}"
        bench.app.task(lambda: 1).delay()
        document = bench.run_one().document
        assert document is not None
        assert (document.whole is not None) == (form == "whole")

    def test_compressed(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(result_compression="zlib")
        result = bench.app.task(lambda: "x" * 1000).delay()
        document = bench.run_one().document
        assert document is not None
        assert document.whole is not None
        assert len(document.whole) < 500
        assert result.get(timeout=5) == "x" * 1000


class TestTracebacks:
    def text(self, bench: Bench, body: Callable[..., Any], *args: Any, **options: Any) -> str:
        task = bench.app.task(name="t", **options)(body)
        result = task.apply_async(args)
        bench.run_one()
        meta = bench.meta(result.id)
        assert meta is not None
        assert meta.traceback is not None
        return meta.traceback

    def first_frame(self, text: str) -> str:
        return next(line for line in text.splitlines() if line.startswith("  File ")).rpartition(" in ")[2]

    def test_it_starts_at_the_tasks_own_frame(self, bench: Bench) -> None:
        def outer() -> None:
            inner()

        def inner() -> None:
            raise ValueError

        assert self.first_frame(self.text(bench, outer)) == "outer"

    def test_of_a_coroutine_too(self, bench: Bench) -> None:
        async def outer() -> None:
            raise ValueError

        assert self.first_frame(self.text(bench, outer)) == "outer"

    def test_of_a_retry_too_with_its_cause(self, bench: Bench) -> None:
        text = self.text(bench, _retry, bind=True)
        assert self.first_frame(text) == "_retry"
        assert "KeyError: 'nope'" in text
        assert "kern/runner.py" not in text

    def test_of_the_last_retry_too(self, bench: Bench) -> None:
        def failing() -> None:
            raise ValueError("for good")

        text = self.text(bench, failing, autoretry_for=(ValueError,), max_retries=0)
        assert self.first_frame(text) == "failing"

    def test_of_a_retry_by_itself_too(self, bench: Bench) -> None:
        def failing() -> None:
            raise ValueError("not yet")

        text = self.text(bench, failing, autoretry_for=(ValueError,), default_retry_delay=7)
        assert self.first_frame(text) == "failing"
        assert "kern/runner.py" not in text

    def test_wrong_arguments_have_no_frame_at_all(self, bench: Bench) -> None:
        text = self.text(bench, _raise, typing=False)
        assert text == "TypeError: _raise() missing 1 required positional argument: 'error'\n"

    def test_of_grouped_errors(self, bench: Bench) -> None:
        def failing() -> None:
            raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])

        text = self.text(bench, failing)
        assert "ValueError: one" in text
        assert "KeyError: 'two'" in text


class TestExpected:
    def test_what_a_task_throws_is_told_apart(self, bench: Bench) -> None:
        bench.app.task(name="t", throws=(Expected,))(lambda: _raise(Expected("as said"))(None)).delay()
        outcome = bench.run_one()
        assert (outcome.state, outcome.expected, outcome.traceback) == (states.FAILURE, True, None)
        assert outcome.document is not None

    def test_other_errors_come_with_their_traceback(self, bench: Bench) -> None:
        bench.app.task(name="t", throws=(Expected,))(lambda: 1 / 0).delay()
        outcome = bench.run_one()
        assert not outcome.expected
        assert outcome.traceback is not None
        assert "ZeroDivisionError" in outcome.traceback


class TestHandlers:
    @pytest.mark.parametrize(
        ("handler", "body", "state"),
        [
            ("on_success", lambda task: 1, states.SUCCESS),
            ("after_return", lambda task: 1, states.SUCCESS),
            ("on_failure", _raise(ValueError("bad")), states.FAILURE),
            ("after_return", _raise(ValueError("bad")), states.FAILURE),
            ("on_retry", _retry, states.RETRY),
        ],
    )
    def test_their_errors_change_nothing_and_are_told(
        self, bench: Bench, caplog: pytest.LogCaptureFixture, handler: str, body: Any, state: str
    ) -> None:
        witness = Witness()
        bench.app.register(witness)

        def breaking(self: Any, *_: Any) -> None:
            raise RuntimeError("handler broke")

        bench.app.task(bind=True, name="t", **{handler: breaking})(body).delay()
        outcome = bench.run_one()
        assert outcome.state == state
        assert "task_internal_error(handler broke)" in witness.told
        assert "handler failed" in caplog.text
        assert handler in caplog.text

    def test_before_start_is_part_of_the_task_but_not_tried_again_by_itself(self, bench: Bench) -> None:
        def before_start(self: Any, *_: Any) -> None:
            raise Expected("not even started")

        bench.app.task(name="t", before_start=before_start, autoretry_for=(Exception,))(lambda: 1).delay()
        outcome = bench.run_one()
        assert (outcome.state, outcome.summary) == (states.FAILURE, "Expected('not even started')")

    def test_what_they_are_given(self, bench: Bench) -> None:
        given: dict[str, Any] = {}

        class Keeping(Task[..., Any]):
            def before_start(self, *args: Any) -> None:
                given["before_start"] = args

            def on_failure(self, *args: Any) -> None:
                given["on_failure"] = args

        result = bench.app.task(base=Keeping)(lambda x, y: x / y).apply_async((1,), {"y": 0})
        bench.run_one()
        assert given["before_start"] == (result.id, [1], {"y": 0})
        exc, task_id, args, kwargs, einfo = given["on_failure"]
        assert (task_id, args, kwargs) == (result.id, [1], {"y": 0})
        assert isinstance(exc, ZeroDivisionError)
        assert (einfo.exception, einfo.type) == (exc, ZeroDivisionError)
        assert str(einfo) == einfo.traceback

    def test_a_listener_that_raises_stops_nothing(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        class Breaking:
            @hookimpl
            def kern_task_prerun(self) -> None:
                raise ValueError("before")

            @hookimpl
            def kern_task_success(self) -> None:
                raise ValueError("after")

        bench.app.register(Breaking(), "breaker")
        bench.app.task(lambda: 1).delay()
        assert bench.run_one().state == states.SUCCESS
        assert caplog.text.count("plugin='breaker'") == 2


class TestCalling:
    def test_a_call_of_the_class_is_around_the_body(self, bench: Bench) -> None:
        """As for a web framework's context."""
        seen: list[Any] = []

        class InContext(Task[..., Any]):
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                seen.append("enter")
                try:
                    return super().__call__(*args, **kwargs)
                finally:
                    seen.append("exit")

        def body(self: Any, x: int) -> int:
            seen.append(self.request.id)
            return x

        result = bench.app.task(base=InContext, bind=True)(body).delay(3)
        bench.run_one()
        assert seen == ["enter", result.id, "exit"]
        assert result.get(timeout=5) == 3

    def test_a_task_called_inside_itself_is_a_plain_function(self, bench: Bench) -> None:
        def body(self: Any, depth: int) -> Any:
            mine = (self.request.id is not None, self.request.called_directly)
            return [mine, *(self(depth - 1) if depth else [])]

        result = bench.app.task(bind=True)(body).delay(1)
        bench.run_one()
        assert result.get(timeout=5) == [[True, False], [False, True]]

    def test_the_request_is_what_the_message_says(self, bench: Bench) -> None:
        def body(self: Any) -> Any:
            request = self.request
            return {
                name: request.get(name)
                for name in ("id", "retries", "headers", "hostname", "is_eager", "called_directly", "root_id", "mine")
            } | {"delivery": dict(request.delivery_info), "limits": [request.time_limit, request.soft_time_limit]}

        task = bench.app.task(bind=True, name="t")(body)
        result = task.apply_async(retries=2, headers={"mine": 7}, time_limit=9, priority=3)
        bench.run_one()
        assert result.get(timeout=5) == {
            "id": result.id,
            "retries": 2,
            "headers": {"mine": 7},
            "mine": 7,
            "hostname": "bench@here",
            "is_eager": False,
            "called_directly": False,
            "root_id": result.id,
            "delivery": {"exchange": "", "routing_key": "celery", "priority": 3, "redelivered": False},
            "limits": [9, None],
        }

    def test_outside_a_run_there_is_an_empty_request_that_stays(self, app: Kern) -> None:
        task = app.task(lambda: 1)
        assert task.request is task.request
        assert (task.request.id, task.request.called_directly) == (None, True)

    def test_a_request_can_be_pushed_for_tests(self, app: Kern) -> None:
        task = app.task(bind=True)(lambda self: self.request.retries)
        task.push_request(retries=3)
        task.push_request({"id": "x"})
        assert (task.request.id, task.request.retries, task.run()) == ("x", 3, 3)  # type: ignore[call-arg]
        task.pop_request()
        task.pop_request()
        assert task.request.retries == 0
        with pytest.raises(RuntimeError, match=r"no request .* was pushed"):
            task.pop_request()

    def test_current_tasks_are_known(self, bench: Bench) -> None:
        inner = bench.app.task(name="inner")(lambda: [bench.app.current_task.name, bench.app.current_worker_task.name])  # type: ignore[union-attr]
        result = bench.app.task(name="outer")(lambda: inner()).delay()
        assert (bench.app.current_task, bench.app.current_worker_task) == (None, None)
        bench.run_one()
        assert result.get(timeout=5) == ["inner", "outer"]

    def test_lines_logged_meanwhile_carry_id_and_name(self, bench: Bench) -> None:
        from kern.log import task_context

        result = bench.app.task(name="t")(lambda: dict(task_context.get() or {})).delay()
        bench.run_one()
        assert result.get(timeout=5) == {"task_id": result.id, "task_name": "t"}
        assert task_context.get() is None

    def test_states_of_its_own(self, bench: Bench) -> None:
        seen: list[Any] = []

        def body(self: Any) -> None:
            self.update_state(state="PROGRESS", meta={"done": 3})
            seen.append(bench.meta(self.request.id))

        bench.app.task(bind=True, ignore_result=True)(body).delay()
        bench.run_one()
        assert (seen[0].status, seen[0].result) == ("PROGRESS", {"done": 3})

    def test_a_state_of_another_call_and_one_without_a_store(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench()
        task = bench.app.task(lambda: 1)
        task.update_state("other", state="HALF", meta=5)
        meta = bench.meta("other")
        assert meta is not None
        assert (meta.status, meta.result, meta.children) == ("HALF", 5, None)
        with pytest.raises(ValueError, match=r"needs a state, and a task_id outside a run"):
            task.update_state(state="HALF")
        make_bench(backend=None).app.task(lambda: 1).update_state("x", state="HALF")

    def test_events_of_its_own_are_told_with_the_outcome(self, bench: Bench) -> None:
        bench.app.register(Witness())

        def body(self: Any) -> None:
            self.send_event("task-halfway", done=5)

        task = bench.app.task(bind=True, name="t")(body)
        result = task.delay()
        event, _ = bench.run_one().events
        assert (event.type, event.fields) == ("task-halfway", {"uuid": result.id, "done": 5})
        with pytest.raises(RuntimeError, match=r"task 't' is not running here"):
            task.send_event("task-halfway")

    @pytest.mark.parametrize("wanted", [True, False])
    def test_events_are_made_when_somebody_listens_and_the_task_wants_them(self, bench: Bench, wanted: bool) -> None:
        task = bench.app.task(send_events=wanted)(lambda: 1)
        task.delay()
        assert bench.run_one().events == ()
        bench.app.register(Witness())
        task.delay()
        assert len(bench.run_one().events) == wanted

    def test_the_trail_can_be_left_out(self, bench: Bench) -> None:
        inner = bench.app.task(name="inner")(lambda: 1)

        def body() -> None:
            inner.delay()

        results = [bench.app.task(name=name, trail=trail)(body).delay() for name, trail in (("a", True), ("b", False))]
        bench.drain()
        metas = [bench.meta(result.id) for result in results]
        assert [len(meta.children) for meta in metas if meta is not None] == [1, 0]

    def test_representations_are_as_long_as_the_task_says(self, bench: Bench) -> None:
        bench.app.task(resultrepr_maxsize=20)(lambda: "x" * 500).delay()
        assert len(bench.run_one().summary) < 30


class TestDispositions:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, Release),
            ({"acks_on_failure": False}, Quarantine),
            ({"acks_on_failure": False, "acks_late": False}, Release),
            ({"acks_on_failure_or_timeout": False}, Quarantine),
        ],
    )
    def test_a_failed_task_is_done_with_unless_it_says_otherwise(
        self, bench: Bench, options: dict[str, Any], expected: type
    ) -> None:
        bench.app.task(**options)(lambda: 1 / 0).delay()
        disposition = bench.run_one().disposition
        assert type(disposition) is expected
        if isinstance(disposition, Quarantine):
            assert disposition.reason == "failed"
            assert "ZeroDivisionError" in disposition.evidence["error"]

    def test_a_rejected_message_is_kept_with_the_reason(self, bench: Bench) -> None:
        bench.app.task(bind=True, name="t")(_raise(Reject("broken order", requeue=False))).delay()
        bench.run_one()
        (kept,) = bench.transport.quarantined().result(10)
        assert (kept.reason, kept.evidence["reason"]) == ("rejected", "'broken order'")


class TestUnrunnable:
    """Messages that this process cannot run: kept apart, and the caller is told."""

    def outcome(self, bench: Bench, **changes: Any) -> Outcome:
        bench.app.task(name="t")(lambda: 1).delay()
        (delivery,) = bench.claim()
        request = bench.request(delivery)
        return bench.app.runner("w@here")(attrs.evolve(request, **changes))

    @pytest.mark.parametrize(
        ("changes", "reason", "error"),
        [
            ({"task": "unknown"}, "unknown-task", "NotRegistered"),
            ({"body": b"not json"}, "undecodable", "DecodeError"),
            ({"body": b"[[1]]"}, "invalid", "InvalidTaskError"),
            ({"content_type": "application/x-python-serialize"}, "content-type", "ContentDisallowed"),
            ({"compression": "application/x-gzip"}, "undecodable", "DecodeError"),
        ],
    )
    def test_why(self, bench: Bench, changes: dict[str, Any], reason: str, error: str) -> None:
        outcome = self.outcome(bench, **changes)
        assert isinstance(outcome.disposition, Quarantine)
        assert (outcome.disposition.reason, outcome.disposition.evidence["error_type"]) == (reason, error)
        assert (outcome.state, outcome.runtime) == (states.FAILURE, None)
        assert outcome.document is not None
        assert documents.decode_document(outcome.document).status == states.FAILURE

    def test_an_unknown_task_is_told_by_its_name(self, bench: Bench) -> None:
        outcome = self.outcome(bench, task="unknown")
        assert outcome.document is not None
        error = documents.decode_document(outcome.document).result
        assert isinstance(error, NotRegistered)
        assert error.args == ("unknown",)

    @pytest.mark.parametrize("kind", ["callbacks", "errbacks", "chain", "chord"])
    def test_what_follows_is_never_dropped(self, bench: Bench, kind: str) -> None:
        ran: list[int] = []
        bench.app.task(name="t")(lambda: ran.append(1)).delay()
        embed = dict.fromkeys(("callbacks", "errbacks", "chain", "chord")) | {kind: [{"task": "after"}]}
        (delivery,) = bench.claim()
        request = attrs.evolve(bench.request(delivery), body=json.dumps([[], {}, embed]).encode())
        outcome = bench.app.runner("w@here")(request)
        assert isinstance(outcome.disposition, Quarantine)
        assert outcome.disposition.reason == "continuation"
        assert "install kern-canvas" in outcome.summary
        assert not ran
        assert outcome.document is not None
        assert type(documents.decode_document(outcome.document).result).__name__ == CapabilityMissing.__name__

    def test_a_runner_that_cannot_even_write_the_document_still_answers(
        self, make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
    ) -> None:
        bench = make_bench(result_serializer="no-such-one")
        bench.app.task(name="t")(lambda: 1).delay()
        (delivery,) = bench.claim()
        outcome = bench.app.runner("w@here")(bench.request(delivery))
        assert isinstance(outcome.disposition, Quarantine)
        assert outcome.disposition.reason == "internal"
        assert "no-such-one" in outcome.summary


class Following(Continuation):
    """Publishes what a message says is to follow."""

    kinds = frozenset({"callbacks", "errbacks"})

    def __init__(self, app: Kern) -> None:
        self.app = app

    def prepare(self, kind: str, value: Any) -> Any:
        return [dict(value)]

    def follow(self, request: Request, state: str, value: Any) -> Follows:
        names = request.callbacks if state == states.SUCCESS else request.errbacks
        made: list[Publication] = []
        for each in names or ():
            args = (value,) if state == states.SUCCESS else (request.id,)
            made.append(self.app.publication(self.app.signature(each["task"], args), parent_id=request.id))
        parts = (JoinPart("join", request.id or "", 0, state),)
        return Follows(tuple(made), parts, children=tuple([[[item.task_id, None], None] for item in made]))

    @hookimpl
    def kern_continuations(self) -> list[Continuation]:
        return [self]


class TestWhatFollows:
    def test_it_is_part_of_the_outcome(self, bench: Bench) -> None:
        bench.app.register(Following(bench.app))
        after = bench.app.task(name="after")(lambda x: x)
        task = bench.app.task(name="t")(lambda x: x * 2)
        result = task.apply_async((4,), link=after.s(), link_error=after.s())
        outcome = bench.run_one()
        (follow_up,) = outcome.follow_ups
        assert bench.body(follow_up.message).args == [8]
        assert follow_up.message.headers["parent_id"] == result.id
        assert [part.state for part in outcome.join_parts] == [states.SUCCESS]
        meta = bench.meta(result.id)
        assert meta is not None
        assert [child[0][0] for child in meta.children] == [follow_up.task_id]
        assert [message.task for message in bench.messages()] == ["after"]

    def test_after_a_failure(self, bench: Bench) -> None:
        bench.app.register(Following(bench.app))
        after = bench.app.task(name="after")(lambda x: x)
        result = bench.app.task(name="t")(lambda: 1 / 0).apply_async(link=after.s(), link_error=after.s())
        (follow_up,) = bench.run_one().follow_ups
        assert bench.body(follow_up.message).args == [result.id]

    @pytest.mark.parametrize("body", [_retry, _raise(Ignore()), _raise(Reject("x"))])
    def test_not_after_other_ends(self, bench: Bench, body: Any) -> None:
        bench.app.register(Following(bench.app))
        after = bench.app.task(name="after")(lambda x: x)
        bench.app.task(bind=True, name="t")(body).apply_async(link=after.s(), link_error=after.s())
        outcome = bench.run_one()
        assert outcome.follow_ups == outcome.join_parts == ()

    def test_a_result_that_is_there_already_is_followed_again_without_a_run(self, bench: Bench) -> None:
        bench.app.register(Following(bench.app))
        ran: list[int] = []
        after = bench.app.task(name="after")(lambda x: x)
        task = bench.app.task(name="t")(lambda: ran.append(1) or 21)
        result = task.apply_async(link=after.s())
        (delivery,) = bench.claim()
        request = bench.request(delivery)
        bench.app.backend.store_result(result.id, 21, states.SUCCESS)
        document = bench.store.read([result.id]).result(10)[result.id]
        outcome = bench.app.repeat(request, document)
        assert (outcome.state, type(outcome.disposition), ran) == (states.SUCCESS, Release, [])
        assert [bench.body(item.message).args for item in outcome.follow_ups] == [[21]]
        broken = attrs.evolve(bench.request(delivery), body=b"broken")
        unreadable = bench.app.repeat(broken, document)
        assert isinstance(unreadable.disposition, Quarantine)
        assert unreadable.document is None, "the result that is there stays"


class TestRetryByHand:
    def test_it_means_the_same_as_the_method(self, bench: Bench) -> None:
        def body() -> None:
            raise Retry(exc=KeyError("x"), when=30)

        task = bench.app.task(name="t")(body)
        task.delay()
        outcome = bench.run_one()
        assert outcome.state == states.RETRY
        assert isinstance(outcome.disposition, RetryAt)
        assert outcome.disposition.message.headers["retries"] == 1

    def test_it_ends_like_the_method(self, bench: Bench) -> None:
        def body() -> None:
            raise Retry(exc=KeyError("x"))

        bench.app.task(name="t", max_retries=0)(body).delay()
        outcome = bench.run_one()
        assert (outcome.state, outcome.summary) == (states.FAILURE, "KeyError('x')")
