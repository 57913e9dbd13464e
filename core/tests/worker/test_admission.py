"""What may run, what waits in the broker, and what ends without having run."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from kern import states
from kern.errors import SecurityError
from kern.hookspecs import hookimpl
from kern.message import Message, Publication
from kern.outcome import Quarantine
from kern.request import Request
from kern.worker.rates import GRACE, RateLimiter
from kern_testing import make
from kern_testing.waiting import eventually, throughout


def put(bench: Any, message: Message, queue: str = "celery") -> None:
    bench.client.publish([Publication(message, "", queue)])


def quarantined(bench: Any) -> Any:
    """The one message in quarantine, once it is there."""
    eventually(lambda: bench.client.quarantined(), "something is in quarantine")
    (entry,) = bench.client.quarantined()
    return entry


# -- time --------------------------------------------------------------------------------------------------------------


def test_what_is_not_due_waits_in_the_broker(bench: Any) -> None:
    """The worker holds nothing of it, whoever sent it (a Celery client publishes it as if it were ready), and runs it
    when its time has come."""
    ran: list[float] = []

    @bench.app.task
    def note() -> None:
        ran.append(bench.clock.now())

    running = bench.worker()
    due = datetime.fromtimestamp(bench.clock.now() + 3600, UTC)
    headers = {"eta": due.isoformat()}
    put(bench, make.message(task=note.name, headers=headers))
    eventually(lambda: bench.depth().delayed == 1, "parked")
    eventually(lambda: running.worker.held == 0)
    assert not ran
    bench.clock.advance(3599)
    throughout(lambda: not ran, 0.1)
    bench.clock.advance(1.1)
    eventually(lambda: ran, "it runs when it is due")
    assert ran[0] >= due.timestamp()


def test_what_the_broker_says_is_due_is_due(bench: Any) -> None:
    """The broker's clock counts: a worker whose own clock is behind does not send a message back for ever."""
    ran: list[int] = []

    @bench.app.task
    def note() -> None:
        ran.append(1)

    from kern.timeutil import clock as worker_clock

    with worker_clock.use(lambda: bench.clock.now() - 100, time.monotonic):
        bench.worker()
        put(
            bench,
            make.message(task=note.name, headers={"eta": datetime.fromtimestamp(bench.clock.now(), UTC).isoformat()}),
        )
        eventually(lambda: ran, "it runs by the broker's clock")
    assert len(bench.transport.parked) == 1


def test_expired_calls_do_not_run(bench: Any) -> None:
    """They end as REVOKED, with the reason."""
    ran: list[int] = []

    @bench.app.task
    def note() -> None:
        ran.append(1)

    late = note.apply_async(expires=datetime.fromtimestamp(bench.clock.now() + 60, UTC))
    bench.clock.advance(61)
    running = bench.worker()
    bench.empty()
    assert not ran
    document = bench.document(late.id)
    assert document.status == states.REVOKED
    assert json.loads(document.whole)["result"] == {
        "exc_type": "TaskRevokedError",
        "exc_message": ["expired"],
        "exc_module": "celery.exceptions",
    }
    eventually(lambda: running.worker.held == 0)


def test_expired_while_it_was_delayed(bench: Any) -> None:
    """What may run from ten o'clock and not after nine never runs."""
    ran: list[int] = []

    @bench.app.task
    def note() -> None:
        ran.append(1)

    result = note.apply_async(countdown=100, expires=50)
    bench.worker()
    eventually(lambda: bench.depth().delayed == 1)
    bench.clock.advance(101)
    bench.empty()
    assert bench.document(result.id).status == states.REVOKED
    assert not ran


# -- messages that cannot be taken -------------------------------------------------------------------------------------


def test_what_is_no_message_is_kept_byte_by_byte(bench: Any) -> None:
    """Quarantined with the reason; its neighbours run."""
    ran: list[int] = []

    @bench.app.task
    def note() -> None:
        ran.append(1)

    bench.client.put_raw("celery", b"\xff\x00 not a message")
    note.delay()
    running = bench.worker()
    eventually(lambda: ran)
    entry = quarantined(bench)
    assert entry.raw == b"\xff\x00 not a message"
    assert entry.reason == "undecodable"
    assert entry.evidence["error"]
    bench.empty()
    eventually(lambda: running.worker.held == 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"body": b"[[1, 2], {"}, "undecodable"),
        ({"body": b"\xff\xfe\x00"}, "undecodable"),
        ({"body": b"[" * 100_000}, "undecodable"),
        ({"body": b'"text"'}, "invalid"),
        ({"body": b"[1, {}, {}]"}, "invalid"),
        ({"body": b"[[], [], {}]"}, "invalid"),
        ({"headers": {"id": None}}, "invalid"),
        ({"headers": {"retries": "many"}}, "invalid"),
        ({"headers": {"eta": "tomorrow"}}, "invalid"),
        ({"headers": {"timelimit": "soon"}}, "invalid"),
        ({"headers": {"compression": "gzip"}}, "undecodable"),
        ({"headers": {"compression": "no-such-method"}}, "undecodable"),
    ],
)
@pytest.mark.parametrize("early", [False, True])
def test_malformed_messages_go_to_quarantine(bench: Any, change: Mapping[str, Any], reason: str, early: bool) -> None:
    """With the error, whether the task is released before or after it runs; the worker goes on."""
    ran: list[int] = []

    @bench.app.task(acks_late=not early)
    def note(*numbers: int) -> None:
        ran.append(1)

    message = make.message(task=note.name, body=b'[[], {}, {"chain": null}]')
    change = dict(change)
    headers = {**message.headers, **change.pop("headers", {})}
    put(bench, attrs.evolve(message, headers=headers, **change))
    bench.worker()
    entry = quarantined(bench)
    assert entry.reason == reason
    assert entry.message is not None
    assert not ran
    note.delay()
    eventually(lambda: ran)
    bench.empty()


def test_somebody_elses_message_goes_to_quarantine(bench: Any) -> None:
    """A message of another program has no task; it is not lost for that."""
    put(bench, Message(b'{"event": "user.created"}', {"x-app": "billing"}, {}))
    bench.worker()
    entry = quarantined(bench)
    assert entry.reason == "invalid"
    assert entry.message.body == b'{"event": "user.created"}'


def test_protocol_1_is_understood(bench: Any) -> None:
    """Old clients' calls run."""
    ran: list[Any] = []

    @bench.app.task
    def note(number: int, name: str) -> None:
        ran.append((number, name))

    body = {"task": note.name, "id": make.unique("id"), "args": [1], "kwargs": {"name": "x"}, "retries": 0}
    put(bench, Message(json.dumps(body).encode(), {}, {}))
    bench.worker()
    eventually(lambda: ran == [(1, "x")])


@pytest.mark.parametrize("config", [{"task_unknown_timeout": 100.0}])
def test_an_unknown_task_waits_for_a_worker_that_knows_it(bench: Any) -> None:
    """It is parked with growing pauses, and runs where it is known."""
    sent = bench.app.send_task("tests.later", (1,))
    ran: list[int] = []
    bench.worker()
    eventually(lambda: bench.depth().delayed == 1, "parked")
    for _ in range(4):
        parked = len(bench.transport.parked)
        bench.clock.advance(bench.transport.parked[-1].until.due - bench.clock.now() + 0.01)
        eventually(lambda parked=parked: len(bench.transport.parked) > parked, "parked again")
    dues = [parking.until.due - bench.transport.parked[0].until.due for parking in bench.transport.parked]
    pauses = [later - earlier for earlier, later in itertools.pairwise(dues)]
    assert pauses == sorted(pauses)
    assert pauses[-1] > 3 * pauses[0], f"the pauses grow: {pauses}"
    assert bench.document(sent.id) is None
    bench.workers[0].stop()

    @bench.app.task(name="tests.later")
    def later(number: int) -> None:
        ran.append(number)

    bench.worker()
    bench.clock.advance(30)
    eventually(lambda: ran == [1], "it runs where it is known")
    bench.empty()


@pytest.mark.parametrize("config", [{"task_unknown_timeout": 60.0}])
def test_an_unknown_task_is_set_aside_in_the_end(bench: Any) -> None:
    """After ``task_unknown_timeout`` it is in quarantine, its caller is told, and it can be replayed."""
    sent = bench.app.send_task("tests.nowhere", (1,))
    bench.worker()
    for _ in range(40):
        bench.clock.advance(5)
        if bench.client.quarantined():
            break
        throughout(lambda: True, 0.02)
    entry = quarantined(bench)
    assert entry.reason == "unknown-task"
    assert "tests.nowhere" in entry.evidence["error"]
    with pytest.raises(Exception, match=r"tests\.nowhere") as caught:
        sent.get(timeout=5)
    assert type(caught.value).__name__ == "NotRegistered"
    ran: list[int] = []

    @bench.app.task(name="tests.nowhere")
    def nowhere(number: int) -> None:
        ran.append(number)

    bench.workers[0].stop()
    bench.worker()
    assert bench.client.replay([entry.key]) == 1
    eventually(lambda: ran == [1])


def test_the_clock_of_the_unknown_starts_when_it_becomes_unknown(bench: Any) -> None:
    """A message that waited an hour for its time was not unknown for an hour."""

    @bench.app.task(name="tests.known")
    def known() -> None: ...

    bench.worker()
    due = bench.clock.now() + 3600
    put(bench, make.message(task="tests.known", headers={"eta": datetime.fromtimestamp(due, UTC).isoformat()}))
    eventually(lambda: bench.depth().delayed == 1, "parked until it is due")
    bench.workers[0].stop()
    bench.app.tasks.unregister("tests.known")
    bench.worker()
    bench.clock.advance(3601)
    eventually(lambda: bench.transport.parked, "parked for a worker that knows it")
    assert bench.transport.parked[0].until.reason == "unknown-task"
    assert not bench.client.quarantined()


@pytest.mark.parametrize("config", [{"task_unknown_timeout": 60.0}])
def test_a_refused_content_type_is_parked_and_then_set_aside(bench: Any) -> None:
    """Another worker may accept it; the body is never decoded here."""

    @bench.app.task
    def note() -> None: ...

    message = attrs.evolve(
        make.message(task=note.name, body=b"cos\nsystem\n(S'touch /tmp/never'\ntR."),
        content_type="application/x-python-serialize",
        content_encoding="binary",
    )
    put(bench, message)
    bench.worker()
    eventually(lambda: bench.depth().delayed == 1, "parked first")
    assert bench.transport.parked[0].until.reason == "content-type"
    bench.clock.advance(61)
    entry = quarantined(bench)
    assert entry.reason == "content-type"
    assert entry.message == message
    eventually(lambda: bench.document(message.task_id) is not None)
    assert bench.document(message.task_id).status == states.FAILURE


@pytest.mark.parametrize("early", [False, True])
def test_what_nothing_installed_can_continue_does_not_run(
    bench: Any, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its continuation would be dropped. Quarantine names the plugin that understands it."""
    ran: list[int] = []

    @bench.app.task(acks_late=not early)
    def note() -> None:
        ran.append(1)

    monkeypatch.setattr(bench.app.plugins, "continuation", lambda kind: None)
    follows = {"callbacks": [{"task": "x"}], "errbacks": None, "chain": None, "chord": None}
    put(bench, make.message(task=note.name, body=json.dumps([[], {}, follows]).encode()))
    bench.worker()
    entry = quarantined(bench)
    assert entry.reason == "continuation"
    assert "kern-canvas" in entry.evidence["error"]
    assert not ran


# -- plugins -----------------------------------------------------------------------------------------------------------


class Listener:
    """What a plugin may say of messages."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.received: list[str] = []
        self.revoked: dict[str, str] = {}

    @hookimpl
    def kern_revoked(self, requests: Sequence[Request]) -> Mapping[str, str]:
        return {r.receipt: self.revoked[r.id] for r in requests if r.id in self.revoked}

    @hookimpl
    def kern_received(self, requests: Sequence[Request]) -> None:
        self.received += [r.id or "" for r in requests]


@pytest.mark.parametrize("early", [False, True])
def test_revoked_calls_do_not_run(bench: Any, early: bool) -> None:
    """Listeners are asked once for a batch; what they name ends as REVOKED, the rest runs and is told as received."""
    ran: list[int] = []

    @bench.app.task(acks_late=not early)
    def note(number: int) -> None:
        ran.append(number)

    listener = Listener()
    bench.app.register(listener)
    results = [note.delay(number) for number in range(5)]
    listener.revoked[results[2].id] = "revoked"
    bench.worker()
    bench.empty()
    eventually(lambda: len(ran) == 4)
    assert sorted(ran) == [0, 1, 3, 4]
    assert bench.document(results[2].id).status == states.REVOKED
    assert set(listener.received) == {results[number].id for number in (0, 1, 3, 4)}


def test_a_plugin_may_change_or_refuse_messages(bench: Any) -> None:
    """What it answers takes the message's place; what it refuses is kept with the reason and does not run."""
    ran: list[Any] = []

    @bench.app.task
    def note(what: str) -> None:
        ran.append(what)

    class Seal:
        @hookimpl
        def kern_decode_message(self, message: Message) -> Message | None:
            if message.headers.get("seal") == "broken":
                raise SecurityError("the seal is broken")
            return attrs.evolve(message, body=message.body.replace(b"sealed", b"open"))

    bench.app.register(Seal())
    put(bench, make.message(task=note.name, body=b'[["sealed"], {}, null]'))
    bench.worker()
    eventually(lambda: ran == ["open"])
    put(bench, make.message(task=note.name, body=b'[["forged"], {}, null]', headers={"seal": "broken"}))
    entry = quarantined(bench)
    assert "the seal is broken" in entry.evidence["error"]
    assert ran == ["open"]


# -- rate limits -------------------------------------------------------------------------------------------------------


def test_slots_are_given_out_in_a_row() -> None:
    """The first at once, the rest at the rate; whoever comes at the time of its slot runs."""
    rates = RateLimiter()
    assert [rates.slot("t", 10, str(n), 1000.0) for n in range(4)] == pytest.approx([1000.0, 1000.1, 1000.2, 1000.3])
    assert rates.slot("t", 10, "2", 1000.2) == 1000.2, "its own slot"
    assert rates.slot("other", 10, "x", 1000.0) == 1000.0, "each task has its own row"


def test_whoever_comes_too_early_keeps_its_slot() -> None:
    """A broker whose clock is a little ahead costs a round trip, not the place."""
    rates = RateLimiter()
    rates.slot("t", 1, "a", 1000.0)
    assert rates.slot("t", 1, "b", 1000.0) == 1001.0
    assert rates.slot("t", 1, "b", 1000.5) == 1001.0
    assert rates.slot("t", 1, "b", 1001.0) == 1001.0


def test_slots_that_were_missed_are_not_made_up_for() -> None:
    """A worker that was held up does not let all that waits run at once."""
    rates = RateLimiter()
    for number in range(10):
        rates.slot("t", 10, str(number), 1000.0)
    late = 1000.9 + GRACE + 0.1
    slots = [rates.slot("t", 10, str(number), late) for number in range(1, 10)]
    assert slots == pytest.approx([late + 0.1 * n for n in range(9)])


def test_a_changed_limit_starts_over() -> None:
    """What was promised under the old one is void."""
    rates = RateLimiter()
    for number in range(100):
        rates.slot("t", 0.1, str(number), 1000.0)
    rates.forget("t")
    assert rates.slot("t", 100, "99", 1001.0) == 1001.0
    assert rates.slot("t", 100, "98", 1001.0) == pytest.approx(1001.01)


def test_a_rate_limit_is_kept_while_messages_wait_in_the_broker(bench: Any) -> None:
    """Thirty runs at 20 a second: never more than the limit in any stretch of time, none lost, nothing held."""
    started: list[float] = []

    @bench.app.task(rate_limit="20/s")
    def note() -> None:
        started.append(time.monotonic())

    @bench.app.task
    def other() -> None: ...

    bench.app.send_many([note.s() for _ in range(30)])
    running = bench.worker()
    assert other.delay().get(timeout=5) is None, "others do not wait behind it"
    eventually(lambda: len(started) == 30)
    bench.empty()
    eventually(lambda: running.worker.held == 0)
    started.sort()
    assert started[-1] - started[0] >= 29 / 20 - 0.3
    assert started[-1] - started[0] <= 29 / 20 + 1.5
    for first, last in zip(started, started[10:], strict=False):
        assert last - first >= 10 / 20 - GRACE - 0.1, "ten runs took less time than the limit allows"


@pytest.mark.parametrize("config", [{"worker_disable_rate_limits": True}])
def test_rate_limits_can_be_switched_off(bench: Any) -> None:
    """Then nothing is parked."""

    @bench.app.task(rate_limit="1/h")
    def note() -> None: ...

    for _ in range(3):
        note.delay()
    bench.worker()
    bench.empty()
    assert not bench.transport.parked


def test_a_plugin_may_give_out_the_slots(bench: Any) -> None:
    """For limits that hold for all workers together."""
    ran: list[int] = []
    asked: list[tuple[str, float]] = []

    @bench.app.task(rate_limit="7/m")
    def note() -> None:
        ran.append(1)

    class Slots:
        @hookimpl
        def kern_rate_slot(self, task: str, rate: float, now: float) -> float:
            asked.append((task, rate))
            return now + 50 if len(asked) == 1 else now

    bench.app.register(Slots())
    note.delay()
    bench.worker()
    eventually(lambda: bench.depth().delayed == 1)
    assert not ran
    bench.clock.advance(51)
    eventually(lambda: ran)
    assert asked[0] == (note.name, pytest.approx(7 / 60))


# -- released before they run ------------------------------------------------------------------------------------------


def test_early_acks_are_released_and_confirmed_before_the_start(bench: Any) -> None:
    """When the task begins, the broker has nothing of it any more; if the worker died now, nobody would run it."""
    seen: list[int] = []

    @bench.app.task(acks_late=False)
    def note() -> None:
        seen.append(bench.depth().leased)

    bench.worker(lambda b: b.transport.gates["settle"].shut())
    note.delay()
    eventually(lambda: bench.transport.gates["settle"].waiting, "the release is under way")
    throughout(lambda: not seen, 0.1, "it does not start before")
    bench.transport.gates["settle"].open()
    eventually(lambda: seen == [0])


def test_what_was_released_is_retried_and_its_result_stored(bench: Any) -> None:
    """Retries and results need no lease."""

    @bench.app.task(acks_late=False, bind=True, max_retries=3)
    def flaky(self: Any) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0.01)
        return self.request.retries

    running = bench.worker()
    assert flaky.delay().get(timeout=5) == 2
    bench.empty()
    eventually(lambda: running.worker.held == 0)


def test_released_and_not_started_is_put_back_by_a_stop(bench: Any) -> None:
    """A graceful stop loses nothing of what has not begun."""
    begun, go_on = threading.Event(), threading.Event()
    ran: list[int] = []

    @bench.app.task(acks_late=False)
    def note(number: int) -> None:
        ran.append(number)
        begun.set()
        go_on.wait(10)

    bench.app.conf.worker_prefetch_multiplier = 10
    bench.app.send_many([note.s(number) for number in range(5)])
    running = bench.worker()
    assert begun.wait(5)
    eventually(lambda: bench.depth().ready == 0 and bench.depth().leased == 0, "all are released")
    running.worker.stop()
    eventually(lambda: bench.depth().ready == 4, "those that have not begun are back")
    go_on.set()
    eventually(lambda: not running.alive)
    assert ran == [0]
    bench.worker()
    bench.empty()
    eventually(lambda: sorted(ran) == [0, 1, 2, 3, 4])


@pytest.mark.parametrize("blocks", [False, True])
def test_released_and_interrupted_is_a_failure_and_does_not_run_again(bench: Any, blocks: bool) -> None:
    """At most once: what had begun when the worker stopped is not put back, and its caller is told."""
    begun, go_on = threading.Event(), threading.Event()
    ran: list[int] = []

    @bench.app.task(acks_late=False)
    def note() -> None:
        ran.append(1)
        begun.set()
        if blocks:
            go_on.wait(10)
        while not go_on.is_set():
            time.sleep(0.002)  # the task's own duration

    bench.app.conf.worker_soft_shutdown_timeout = 0.1
    result = note.delay()
    running = bench.worker()
    assert begun.wait(5)
    running.worker.stop()
    eventually(lambda: not running.alive)
    go_on.set()
    with pytest.raises(Exception, match="acks_late is off") as caught:
        result.get(timeout=5)
    assert type(caught.value).__name__ == "WorkerLostError"
    bench.worker()
    throughout(lambda: ran == [1], 0.1)


def test_whoever_lost_the_lease_before_its_release_does_not_run_it(bench: Any) -> None:
    """Somebody else has it."""
    ran: list[int] = []

    @bench.app.task(acks_late=False)
    def note() -> None:
        ran.append(1)

    note.delay()
    running = bench.worker(lambda b: b.transport.gates["settle"].shut())
    eventually(lambda: bench.transport.gates["settle"].waiting)
    bench.client.recover(everything=True)
    (delivery,) = bench.client.claim(make.claim_of("celery")).deliveries
    bench.transport.gates["settle"].open()
    eventually(lambda: running.worker.held == 0)
    assert not ran
    bench.client.settle([make.settlement(delivery, Quarantine("test"))])


# -- delivered before --------------------------------------------------------------------------------------------------


def redeliver(bench: Any) -> None:
    """Everything leased goes back as from a worker that died."""
    bench.client.claim(make.claim_of("celery", lease_seconds=0.001))
    bench.clock.advance(1)
    bench.client.recover()


def test_what_is_done_does_not_run_again_and_what_follows_is_sent_again(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker died after the result was stored and before the message was released."""
    ran: list[str] = []
    follows: list[Any] = []

    @bench.app.task
    def note() -> int:
        ran.append("again")
        return 1

    from kern.contracts.continuation import Continuation, Follows

    class Links(Continuation):
        kinds = frozenset({"callbacks"})

        def follow(self, request: Request, state: str, value: Any) -> Follows:
            follows.append((state, value))
            return Follows((make.publication("followed", task_id="fixed-id"),))

        def prepare(self, kind: str, value: Any) -> Any:
            return value

    monkeypatch.setattr(bench.app.plugins, "continuation", {"callbacks": Links()}.get)
    embed = {"callbacks": [{"task": "tests.next"}], "errbacks": None, "chain": None, "chord": None}
    message = make.message(task=note.name, body=json.dumps([[], {}, embed]).encode())
    put(bench, message)
    bench.app.backend.store_result(message.task_id, 41, states.SUCCESS)
    redeliver(bench)
    bench.worker()
    bench.empty()
    assert not ran
    assert follows == [(states.SUCCESS, 41)]
    assert bench.depth("followed").ready == 1
    assert bench.document(message.task_id).status == states.SUCCESS


@pytest.mark.parametrize("state", [states.STARTED, states.RETRY, None])
def test_what_is_not_done_runs_again(bench: Any, state: str | None) -> None:
    """A state that is not final does not keep it from running."""
    ran: list[int] = []

    @bench.app.task
    def note() -> None:
        ran.append(1)

    result = note.delay()
    if state:
        bench.app.backend.store_result(result.id, ValueError("x") if state == states.RETRY else {}, state)
    redeliver(bench)
    bench.worker()
    eventually(lambda: ran)
    bench.empty()


def test_a_store_that_does_not_answer_keeps_nothing_from_running_again(
    apart: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least once, as it would be without a store."""
    monkeypatch.setattr("kern.worker.intake.PATIENCE_WITH_STORE", 0.1)
    ran: list[int] = []

    @apart.app.task
    def note() -> None:
        ran.append(1)

    note.delay()
    redeliver(apart)
    apart.worker(lambda b: b.store.gates["read"].shut())
    eventually(lambda: ran)
    apart.store.gates["read"].open()
    apart.empty()


def test_what_cannot_be_read_is_not_repeated(bench: Any) -> None:
    """The result is there and stays, the message cannot be read to see what follows it: a person has to look."""

    @bench.app.task
    def note() -> None: ...

    message = make.message(task=note.name, body=b"[damaged")
    put(bench, message)
    bench.app.backend.store_result(message.task_id, 1, states.SUCCESS)
    redeliver(bench)
    bench.worker()
    assert quarantined(bench).reason == "undecodable"
    assert bench.document(message.task_id).status == states.SUCCESS


def test_a_continuation_that_fails_sets_aside_what_it_continues(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin's exception takes neither the worker nor the message with it."""

    @bench.app.task
    def note() -> None: ...

    class Broken:
        def follow(self, request: Request, state: str, value: Any) -> Any:
            raise RuntimeError("out of order")

    monkeypatch.setattr(bench.app.plugins, "continuation", {"callbacks": Broken()}.get)
    embed = {"callbacks": [{"task": "tests.next"}], "errbacks": None, "chain": None, "chord": None}
    message = make.message(task=note.name, body=json.dumps([[], {}, embed]).encode())
    put(bench, message)
    bench.app.backend.store_result(message.task_id, 1, states.SUCCESS)
    redeliver(bench)
    running = bench.worker()
    entry = quarantined(bench)
    assert (entry.reason, entry.evidence["error"]) == ("repeat", "out of order")
    assert running.alive


def test_parking_is_tried_again(bench: Any) -> None:
    """A connection that fails while a message is parked does not leave it under suspicion, or lost."""
    ran: list[int] = []

    @bench.app.task
    def note() -> None:
        ran.append(1)

    from kern.errors import TransportError

    running = bench.worker(lambda b: b.transport.failing["park"].append(TransportError("cut")))
    put(
        bench,
        make.message(
            task=note.name,
            headers={"eta": (datetime.fromtimestamp(bench.clock.now(), UTC) + timedelta(hours=1)).isoformat()},
        ),
    )
    eventually(lambda: bench.depth().delayed == 1)
    eventually(lambda: running.worker.held == 0)
    bench.clock.advance(3601)
    eventually(lambda: ran)
