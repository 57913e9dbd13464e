"""Trying again: by asking for it, by itself, and the message it makes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from kern import protocol, states
from kern.app import Kern
from kern.delivery import Delivery
from kern.errors import EncodeError, MaxRetriesExceededError, Reject, Retry
from kern.message import Message
from kern.outcome import Outcome, Release, RetryAt
from kern.queues import QueueSpec
from kern.task import Task
from kern.timeutil import clock

from .conftest import Bench

NOW = datetime(2026, 11, 20, 19, 29, tzinfo=UTC).timestamp()


class Flaky(Exception):
    pass


def retried(outcome: Outcome) -> Message:
    """The message that takes the run one's place."""
    assert outcome.state == states.RETRY, outcome.summary
    assert isinstance(outcome.disposition, RetryAt)
    return outcome.disposition.message


@pytest.fixture
def run(bench: Bench) -> Callable[..., Outcome]:
    """Makes a task of a body, calls it, and runs it once."""

    def run(body: Callable[..., Any], *args: Any, call: dict[str, Any] | None = None, **options: Any) -> Outcome:
        call = call or {}
        kwargs = call.pop("kwargs", {})
        bench.app.task(bind=True, name="t", **options)(body).apply_async(args, kwargs, **call)
        (delivery,) = bench.claim(call.get("queue", "celery"))
        return bench.app.runner("w@here")(bench.request(delivery))

    return run


class TestAsking:
    def test_the_same_call_once_more(self, bench: Bench, run: Callable[..., Outcome]) -> None:
        with clock.use(lambda: NOW):
            outcome = run(lambda self, x, k: self.retry(countdown=30), 1, call={"kwargs": {"k": 2}, "task_id": "same"})
            message = retried(outcome)
            assert isinstance(outcome.disposition, RetryAt)
            assert outcome.disposition.due == NOW + 30
        assert (message.task_id, message.headers["retries"], message.headers["parent_id"]) == ("same", 1, "same")
        assert message.headers["eta"] == "2026-11-20T19:29:30+00:00"
        assert (bench.body(message).args, bench.body(message).kwargs) == ([1], {"k": 2})

    @pytest.mark.parametrize(
        ("given", "due"),
        [
            ({}, 180),
            ({"countdown": 5}, 5),
            ({"countdown": 0}, 0),
            ({"eta": datetime(2026, 11, 20, 19, 30, tzinfo=UTC)}, 60),
            ({"eta": "2026-11-20T19:30:00+00:00"}, 60),
        ],
    )
    def test_when(self, run: Callable[..., Outcome], given: dict[str, Any], due: float) -> None:
        with clock.use(lambda: NOW):
            outcome = run(lambda self: self.retry(**given))
        assert isinstance(outcome.disposition, RetryAt)
        assert outcome.disposition.due == NOW + due

    def test_the_delay_is_the_tasks_own(self, run: Callable[..., Outcome]) -> None:
        with clock.use(lambda: NOW):
            outcome = run(lambda self: self.retry(), default_retry_delay=7)
        assert isinstance(outcome.disposition, RetryAt)
        assert outcome.disposition.due == NOW + 7
        assert outcome.summary == "Retry in 7s"

    def test_the_cause_is_stored_and_shown(self, bench: Bench, run: Callable[..., Outcome]) -> None:
        outcome = run(lambda self: self.retry(exc=Flaky("again"), countdown=3))
        assert outcome.summary == "Retry in 3s: Flaky('again')"

    def test_until_they_are_used_up(self, bench: Bench) -> None:
        task = bench.app.task(bind=True, name="t", max_retries=2, sensitive=("pin",))(
            lambda self, x, pin: self.retry(countdown=0)
        )
        task.delay(1, pin="0000")
        ends = bench.drain()
        assert [end.state for end in ends] == [states.RETRY, states.RETRY, states.FAILURE]
        meta = bench.meta(ends[0].task_id)
        assert meta is not None
        assert isinstance(meta.result, MaxRetriesExceededError)
        assert str(meta.result) == f"Can't retry t[{ends[0].task_id}] args:(1,) kwargs:{{'pin': '***'}}"

    def test_then_the_cause_is_raised(self, run: Callable[..., Outcome]) -> None:
        def body(self: Any) -> None:
            try:
                raise KeyError("inner")
            except KeyError:
                self.retry(exc=Flaky("outer"))

        outcome = run(body, max_retries=0)
        assert outcome.summary == "Flaky('outer')"
        assert outcome.traceback is not None
        assert "KeyError: 'inner'" in outcome.traceback
        assert "direct cause" in outcome.traceback

    def test_without_end(self, bench: Bench, run: Callable[..., Outcome]) -> None:
        outcome = run(lambda self: self.retry(), max_retries=None, call={"retries": 10_000})
        assert retried(outcome).headers["retries"] == 10_001

    def test_another_limit_this_time(self, bench: Bench, run: Callable[..., Outcome]) -> None:
        assert run(lambda self: self.retry(max_retries=9), call={"retries": 8}, max_retries=1).state == states.RETRY

    def test_that_limit_is_nobody_elses(self, bench: Bench) -> None:
        """Instances are shared by all runs of a process; what one run says is not meant for others."""
        task = bench.app.task(bind=True, name="t", max_retries=3, autoretry_for=(Flaky,))(limits)
        for kind in ("own", "plain"):
            task.apply_async((kind,), retries=3)
        own, plain = bench.run()
        assert (own.state, plain.state) == (states.RETRY, states.FAILURE)

    def test_without_raising_the_run_goes_on_and_the_retry_is_made(self, bench: Bench) -> None:
        def body(self: Any) -> str:
            if self.request.retries:
                return "second"
            assert isinstance(self.retry(throw=False, countdown=0), Retry)
            return "first"

        bench.app.task(bind=True, name="t")(body).delay()
        first = bench.run_one()
        assert (first.state, type(first.disposition)) == (states.SUCCESS, Release)
        assert [item.message.headers["retries"] for item in first.follow_ups] == [1]
        assert bench.run_one().summary == "'second'"

    def test_swallowed_it_is_not_made(self, bench: Bench, run: Callable[..., Outcome]) -> None:
        def body(self: Any) -> str:
            try:
                self.retry()
            except Exception:
                return "thought better of it"
            return "never"

        outcome = run(body)
        assert (outcome.state, outcome.follow_ups) == (states.SUCCESS, ())

    def test_called_like_a_function_there_is_nobody_to_try_again(self, app: Kern) -> None:
        def body(self: Any, cause: Any = None, current: Any = None) -> None:
            if current is None:
                self.retry(exc=cause)
            try:
                raise current
            except Exception:
                self.retry(exc=cause)

        task = app.task(bind=True)(body)
        with pytest.raises(Retry, match=r"Task can be retried"):
            task()
        with pytest.raises(Flaky):
            task(Flaky())
        with pytest.raises(KeyError):
            task(None, KeyError("k"))
        with pytest.raises(Flaky) as caught:
            task(Flaky(), KeyError("k"))
        assert isinstance(caught.value.__cause__, KeyError)
        same = KeyError("same")
        with pytest.raises(KeyError) as again:
            task(same, same)
        assert again.value.__cause__ is None

    def test_an_argument_that_cannot_be_sent_is_an_error_of_the_task(self, run: Callable[..., Outcome]) -> None:
        seen: list[Exception] = []

        def body(self: Any, x: Any) -> None:
            try:
                self.retry(args=(object(),))
            except EncodeError as error:
                seen.append(error)
                raise

        outcome = run(body, 1)
        assert (outcome.state, len(seen)) == (states.FAILURE, 1)
        assert "argument 'x'" in outcome.summary

    def test_an_option_that_does_not_exist_is_an_error_of_the_task(self, run: Callable[..., Outcome]) -> None:
        outcome = run(lambda self: self.retry(coutdown=3))
        assert outcome.summary == "TypeError(\"unknown option 'coutdown' of a call; did you mean 'countdown'?\")"

    def test_other_ends_win(self, run: Callable[..., Outcome]) -> None:
        def body(self: Any) -> None:
            raise Reject("no")

        assert run(body, autoretry_for=(Exception,)).state == states.REJECTED


def limits(self: Any, kind: str) -> None:
    if kind == "own":
        try:
            self.retry(max_retries=10, throw=False)
        finally:
            raise Flaky
    raise Flaky


class TestArguments:
    """Other arguments for the next time; what was given for the same parameters in the other way gives way."""

    @pytest.mark.parametrize(
        ("called", "again", "expected"),
        [
            (((1, 2), {"c": 3}), {"args": (7, 8)}, ([7, 8], {"c": 3})),
            (((), {"a": 1, "b": 2, "c": 3}), {"args": (7, 8)}, ([7, 8], {"c": 3})),
            (((1, 2), {"c": 3}), {"kwargs": {"c": 9}}, ([1, 2], {"c": 9})),
            (((1, 2, 3), {}), {"kwargs": {"b": 9}}, ([1], {"b": 9, "c": 3})),
            (((1, 2, 3), {}), {"kwargs": {"a": 9}}, ([], {"a": 9, "b": 2, "c": 3})),
            (((1, 2), {"c": 3}), {"args": (7,), "kwargs": {"b": 8}}, ([7], {"b": 8})),
            (((1, 2), {"c": 3}), {}, ([1, 2], {"c": 3})),
            (((1, 2), {"c": 3}), {"args": (), "kwargs": {"a": 4, "b": 5}}, ([], {"a": 4, "b": 5})),
        ],
    )
    def test_they_replace(
        self, bench: Bench, run: Callable[..., Outcome], called: Any, again: dict[str, Any], expected: Any
    ) -> None:
        outcome = run(lambda self, a, b, c=0: self.retry(**again), *called[0], call={"kwargs": called[1]})
        body = bench.body(retried(outcome))
        assert (list(body.args), body.kwargs) == expected

    def test_the_next_run_gets_them(self, bench: Bench) -> None:
        task = bench.app.task(bind=True, name="t")(
            lambda self, x: x if self.request.retries else self.retry(args=(x + 1,), countdown=0)
        )
        result = task.delay(1)
        bench.drain()
        assert result.get(timeout=5) == 2

    def test_they_are_shown(self, bench: Bench, run: Callable[..., Outcome]) -> None:
        message = retried(run(lambda self, x, pin: self.retry(args=(5, "1111")), 1, "0000", sensitive=("pin",)))
        assert message.headers["argsrepr"] == "(5, '***')"


class TestTheMessage:
    #: A retry published by Celery to another queue: its headers and properties. Of the latter the one that Celery
    #: leaks (origin), those of the broker (delivery_info, body_encoding, delivery_tag) and reply_to are left out.
    HEADERS = {
        "lang": "py",
        "task": "satasks.retry_other",
        "id": "b5d0",
        "shadow": None,
        "eta": "2026-11-20T19:29:09.964833+00:00",
        "expires": "2026-11-20T19:30:44.869602+00:00",
        "group": None,
        "group_index": None,
        "retries": 1,
        "timelimit": [50, None],
        "root_id": "b5d0",
        "parent_id": "b5d0",
        "argsrepr": "(1,)",
        "kwargsrepr": "{'k': 2}",
        "origin": "gen8943@vm",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        "h": 1,
    }
    PROPERTIES = {"correlation_id": "b5d0", "delivery_mode": 2, "expiration": "99904", "priority": 6}
    BODY = (
        b'[[1], {"k": 2}, {"callbacks": [{"task": "satasks.add", "args": [1], "kwargs": {}, "options": {}, '
        b'"subtask_type": null, "immutable": false}], "errbacks": null, "chain": null, "chord": null}]'
    )

    def test_it_is_the_one_celery_makes(self, bench: Bench) -> None:
        from kern.contracts.continuation import Continuation, Follows
        from kern.hookspecs import hookimpl

        class Links(Continuation):
            kinds = frozenset({"callbacks"})

            def prepare(self, kind: str, value: Any) -> Any:
                raise AssertionError("what follows travels on as it came")

            def follow(self, request: Any, state: str, value: Any) -> Follows:
                return Follows()

            @hookimpl
            def kern_continuations(self) -> list[Continuation]:
                return [self]

        bench.app.register(Links())
        eta = datetime.fromisoformat(self.HEADERS["eta"])  # type: ignore[arg-type]
        bench.app.task(bind=True, name="satasks.retry_other")(
            lambda self, x, k: self.retry(eta=eta, queue="spec_a_other", exc=KeyError("nope"))
        )
        first = {**self.HEADERS, "retries": 0, "parent_id": None, "eta": None}
        message = Message(self.BODY, first, {**self.PROPERTIES, "reply_to": "cb80"})
        delivery = Delivery("r", "spec_a_q", "w", message, routing_key="spec_a_q")
        request = protocol.request_from(delivery, protocol.peek(message))
        moment = datetime.fromisoformat(self.HEADERS["expires"]).timestamp() - 99.9045  # type: ignore[arg-type]
        with clock.use(lambda: moment):
            outcome = bench.app.runner("w@here")(request)
        (publication,) = outcome.follow_ups
        made = publication.message
        assert (publication.exchange, publication.routing_key) == ("", "spec_a_other")
        assert publication.due == eta.timestamp()
        assert list(made.headers) == list(self.HEADERS)
        assert made.headers == self.HEADERS
        assert made.properties == self.PROPERTIES | {"reply_to": "cb80"}
        assert made.body == self.BODY

    def test_everything_else_stays(self, run: Callable[..., Outcome]) -> None:
        outcome = run(
            lambda self: self.retry(),
            call={
                "group_id": "g",
                "group_index": 2,
                "root_id": "r",
                "priority": 6,
                "headers": {"mine": 1},
                "stamped_headers": ["customer"],
                "customer": 7,
                "shadow": "nick",
                "soft_time_limit": 5,
                "ignore_result": True,
                "reply_to": "there",
            },
            time_limit=9,
        )
        message = retried(outcome)
        headers = message.headers
        assert (headers["group"], headers["group_index"], headers["root_id"]) == ("g", 2, "r")
        assert (headers["mine"], headers["stamped_headers"], headers["stamps"]) == (1, ["customer"], {"customer": 7})
        assert (headers["shadow"], headers["timelimit"], headers["ignore_result"]) == ("nick", [9, 5], True)
        assert (message.properties["priority"], message.properties["reply_to"]) == (6, "there")

    def test_what_the_call_said_no_to_the_task_does_not_say_again(self, run: Callable[..., Outcome]) -> None:
        message = retried(run(lambda self: self.retry(), call={"expires": None}, expires=60))
        assert message.headers["expires"] is None

    def test_to_another_queue_it_is_published_with_the_outcome(self, bench: Bench) -> None:
        bench.app.task(bind=True, name="t")(lambda self: self.retry(queue="slow", countdown=0)).delay()
        outcome = bench.run_one()
        assert type(outcome.disposition) is Release
        assert outcome.state == states.RETRY
        assert [(item.exchange, item.routing_key) for item in outcome.follow_ups] == [("", "slow")]
        assert bench.message("slow").headers["retries"] == 1

    def test_a_message_from_an_exchange_takes_its_own_place(self, bench: Bench) -> None:
        """Published once more, it would go to everybody who is bound there."""
        queue = QueueSpec("logs", exchange="topics", exchange_type="topic", routing_key="log.#")
        task = bench.app.task(bind=True, name="t")(lambda self: self.retry(countdown=0))
        task.apply_async(exchange="topics", exchange_type="topic", routing_key="log.x", declare=[queue])
        outcome = bench.run_one("logs")
        assert isinstance(outcome.disposition, RetryAt)
        assert outcome.follow_ups == ()
        assert bench.message("logs").headers["retries"] == 1

    def test_headers_of_dead_letters_do_not_travel_on(self, bench: Bench) -> None:
        bench.app.task(bind=True, name="t")(lambda self: self.retry())
        death = {"x-death": [1], "x-first-death-queue": "q", "x-last-death-reason": "r", "own": 1}
        bench.app.send_task("t", headers=death)
        (delivery,) = bench.claim()
        headers = retried(bench.app.runner("w@here")(bench.request(delivery))).headers
        assert [name for name in headers if name.startswith("x-")] == []
        assert headers["own"] == 1

    def test_a_stamp_that_is_named_and_not_there_is_no_obstacle(self, bench: Bench) -> None:
        bench.app.task(bind=True, name="t")(lambda self: self.retry()).delay()
        (delivery,) = bench.claim()
        assert delivery.message is not None
        headers = {**delivery.message.headers, "stamped_headers": ["a", "b"], "stamps": {"a": 1}}
        odd = attrs.evolve(delivery, message=attrs.evolve(delivery.message, headers=headers))
        made = retried(bench.app.runner("w@here")(bench.request(odd))).headers
        assert (made["stamped_headers"], made["stamps"]) == (["a"], {"a": 1})


class TestByItself:
    def outcome(
        self, run: Callable[..., Outcome], retries: int = 0, error: type[Exception] = Flaky, **options: Any
    ) -> Any:
        def body(self: Any) -> None:
            raise error("x")

        with clock.use(lambda: NOW):
            outcome = run(body, call={"retries": retries}, **{"autoretry_for": (Flaky,), **options})
        due = outcome.disposition.due - NOW if isinstance(outcome.disposition, RetryAt) else None
        return outcome.state, due

    def test_for_the_exceptions_it_names(self, run: Callable[..., Outcome]) -> None:
        assert self.outcome(run) == (states.RETRY, 180)

    def test_not_for_others(self, run: Callable[..., Outcome]) -> None:
        assert self.outcome(run, error=KeyError)[0] == states.FAILURE

    def test_not_for_those_that_are_taken_out(self, run: Callable[..., Outcome]) -> None:
        class Fatal(Flaky):
            pass

        assert self.outcome(run, error=Fatal, dont_autoretry_for=(Fatal,))[0] == states.FAILURE

    def test_with_arguments_for_retry(self, run: Callable[..., Outcome]) -> None:
        options = {"retry_kwargs": {"countdown": 4, "max_retries": 9}}
        assert self.outcome(run, retries=8, **options) == (states.RETRY, 4)

    def test_until_they_are_used_up_then_the_error_is_raised(self, run: Callable[..., Outcome]) -> None:
        assert self.outcome(run, retries=3) == (states.FAILURE, None)

    @pytest.mark.parametrize(
        ("backoff", "retries", "longest", "expected"),
        [
            (True, 0, 600, 1),
            (True, 5, 600, 32),
            (3, 2, 600, 12),
            (0.2, 0, 600, 1),
            (True, 20, 600, 600),
            (True, 5, 7, 7),
        ],
    )
    def test_with_growing_pauses(
        self, run: Callable[..., Outcome], backoff: Any, retries: int, longest: int, expected: int
    ) -> None:
        options = {"retry_backoff": backoff, "retry_backoff_max": longest, "retry_jitter": False, "max_retries": None}
        assert self.outcome(run, retries=retries, **options) == (states.RETRY, expected)

    def test_and_some_of_it_left_to_chance(self, bench: Bench) -> None:
        task = bench.app.task(name="t", autoretry_for=(ZeroDivisionError,), retry_backoff=8)(lambda: 1 / 0)
        runner = bench.app.runner("w@here")
        with clock.use(lambda: NOW):
            bench.app.send_many([task.s() for _ in range(60)])
            ends = [runner(bench.request(delivery)) for delivery in bench.claim()]
        pauses = {end.disposition.due - NOW for end in ends if isinstance(end.disposition, RetryAt)}
        assert len(pauses) > 3
        assert pauses <= set(range(9))

    def test_of_a_class(self, bench: Bench) -> None:
        class Unreliable(Task[..., Any]):
            name = "u"
            autoretry_for = (ZeroDivisionError,)

            def run(self) -> float:
                return 1 / 0

        bench.app.register_task(Unreliable).delay()
        assert bench.run_one().state == states.RETRY

    def test_of_a_coroutine(self, bench: Bench) -> None:
        async def body() -> None:
            raise Flaky

        bench.app.task(name="t", autoretry_for=(Flaky,))(body).delay()
        assert bench.run_one().state == states.RETRY

    def test_options_of_the_task_stay_as_they_are(self, bench: Bench) -> None:
        options: dict[str, Any] = {}
        task = bench.app.task(name="t", autoretry_for=(ZeroDivisionError,), retry_kwargs=options, retry_backoff=True)(
            lambda: 1 / 0
        )
        task.delay()
        bench.run_one()
        assert options == {}
