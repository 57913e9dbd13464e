"""Requests on their way into the pool: who waits for whom, who runs alone, and what is handed back."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from kern import states
from kern.contracts.pool import Died, Finished, Pool, PoolCapability, PoolSink, Started
from kern.contracts.port import Reply, resolved
from kern.delivery import Delivery
from kern.errors import TimeLimitExceeded, TransportError
from kern.outcome import GiveBack, Outcome, Quarantine, Release
from kern.request import Request
from kern.worker.blame import Coroner
from kern.worker.endings import Endings
from kern.worker.state import InFlight
from kern_testing import make
from kern_testing.waiting import eventually, throughout


class ScriptedPool(Pool):
    """Runs what is submitted when the test says so; one by name for each slot."""

    capabilities = frozenset({PoolCapability.HARD_LIMITS, PoolCapability.TERMINATE, PoolCapability.ISOLATED})
    name = "scripted"

    def __init__(self, slots: int = 4) -> None:
        self.slots = slots
        self.waiting: dict[str, Request] = {}
        self.running: dict[str, Request] = {}
        self.terminated: list[str] = []
        self.lock = threading.Lock()
        self.stopped = False

    def start(self, run: Any, sink: PoolSink) -> Reply[None]:
        self.run, self.sink = run, sink
        return resolved(None)

    def submit(self, batch: Any) -> None:
        with self.lock:
            self.waiting.update({request.receipt: request for request in batch})

    def withdraw(self, receipts: Any = None) -> list[str]:
        with self.lock:
            return [r for r in (list(self.waiting) if receipts is None else receipts) if self.waiting.pop(r, None)]

    def terminate(self, receipt: str, signal: int | None = None) -> bool:
        self.terminated.append(receipt)
        return True

    def interrupt(self, receipt: str, error: BaseException) -> bool:
        return False

    def stop(self, timeout: float | None = None) -> Reply[None]:
        with self.lock:
            dead = [Died(receipt, {}, started=True) for receipt in self.running]
            self.running.clear()
        if dead:
            self.sink(dead)
        return resolved(None)

    # -- the test's side

    def begin(self, count: int = 1) -> list[str]:
        """Start *count* requests, once they are there."""
        eventually(lambda: len(self.waiting) >= count, f"{count} request(s) wait in the pool")
        with self.lock:
            begun = [self.waiting.pop(receipt) for receipt in list(self.waiting)[:count]]
            self.running.update({request.receipt: request for request in begun})
        self.sink([Started(request.receipt, time.time(), 1) for request in begun])
        return [request.receipt for request in begun]

    def finish(self, *receipts: str) -> None:
        self.sink([Finished(receipt, self.run(self.running.pop(receipt))) for receipt in receipts])

    def die(self, receipt: str, **fields: Any) -> None:
        self.running.pop(receipt, None)
        self.sink([Died(receipt, {"signal": 9}, **fields)])


@pytest.fixture
def pool(bench: Any, monkeypatch: pytest.MonkeyPatch) -> ScriptedPool:
    """The pool of this test's workers."""
    made = ScriptedPool()
    monkeypatch.setattr("kern.worker.worker.SoloPool", lambda _app, _options: made)
    return made


@pytest.fixture
def note(bench: Any) -> Any:
    @bench.app.task(name="tests.note")
    def note(number: int = 0) -> int:
        return number

    return note


def suspected(bench: Any, started: bool = False) -> None:
    """All that is ready comes back from a worker that died with it."""
    deliveries = bench.client.claim(make.claim_of("celery", lease_seconds=0.001)).deliveries
    if started:
        bench.client.mark_started([delivery.receipt for delivery in deliveries])
    bench.clock.advance(1)
    assert bench.client.recover() == len(deliveries)


# -- handing back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{"worker_prefetch_multiplier": 10, "worker_heartbeat": 0.2}])
def test_what_waits_is_handed_back_while_another_worker_could_run_it(bench: Any) -> None:
    """A message behind a long task goes to whoever is idle, within a fraction of a second, uncounted."""
    ran: dict[int, str] = {}
    go_on = threading.Event()

    @bench.app.task(bind=True)
    def note(self: Any, number: int) -> None:
        ran[number] = self.request.hostname
        if number == 0:
            go_on.wait(20)

    for number in range(5):
        note.delay(number)
    bench.worker(hostname="long@one")
    eventually(lambda: 0 in ran and bench.depth().ready == 0, "the first worker holds all")
    bench.worker(hostname="idle@two")
    eventually(lambda: len(ran) == 5, "the idle worker ran the rest")
    assert set(ran.values()) == {"long@one", "idle@two"}
    go_on.set()
    bench.empty()
    assert bench.client.quarantined() == []


@pytest.mark.parametrize("config", [{"worker_prefetch_multiplier": 10, "worker_heartbeat": 0.1}])
def test_nothing_is_handed_back_while_nobody_else_is_there(bench: Any, pool: ScriptedPool, note: Any) -> None:
    """It would only come back."""
    for number in range(5):
        note.delay(number)
    bench.worker()
    pool.begin()
    throughout(lambda: len(pool.waiting) == 4 or not pool.waiting, 0.1)
    eventually(lambda: len(pool.waiting) == 4)
    throughout(lambda: len(pool.waiting) == 4, 0.4)
    assert not any(isinstance(s.outcome.disposition, GiveBack) for batch in bench.transport.settled for s in batch)


@pytest.mark.parametrize("config", [{"worker_heartbeat": 0.1}])
def test_handing_back_does_not_go_round_in_circles(bench: Any) -> None:
    """A worker whose one slot is taken does not claim again what it has handed back."""
    go_on = threading.Event()

    @bench.app.task
    def quick() -> None: ...

    @bench.app.task
    def long() -> None:
        go_on.wait(20)

    bench.app.send_many([quick.s() for _ in range(300)])
    first, second = bench.worker(hostname="a@h"), bench.worker(hostname="b@h")
    bench.empty()
    bench.app.send_many([long.s() for _ in range(20)])
    eventually(lambda: bench.depth().leased == 2 and first.worker.held == 1 and second.worker.held == 1)
    claims = [len(transport.claims) for transport in bench.transports]
    throughout(lambda: bench.depth().leased == 2, 0.6)
    assert [len(transport.claims) for transport in bench.transports] == claims
    go_on.set()
    bench.empty()


# -- suspects ----------------------------------------------------------------------------------------------------------


def test_a_suspect_runs_alone_marked_as_started_first(bench: Any, pool: ScriptedPool, note: Any) -> None:
    """Nothing else is in the pool with it: a death then is its own."""
    for number in range(3):
        note.delay(number)
    suspected(bench)
    bench.worker()
    for _ in range(3):
        (alone,) = pool.begin()
        assert bench.transport.marked[-1] == alone, "marked before it started"
        throughout(lambda: not pool.waiting and len(pool.running) == 1, 0.05, "it is alone")
        pool.finish(alone)
    bench.empty()
    assert len(bench.transport.marked) == 3


def test_a_suspect_waits_for_what_runs_and_others_wait_for_it(bench: Any, pool: ScriptedPool, note: Any) -> None:
    """Before it the pool is emptied, after it all goes on."""
    note.delay(1)
    suspected(bench)
    note.apply_async((0,), queue="innocent")
    bench.worker(queues=["celery", "innocent"])
    (running,) = pool.begin()
    assert bench.depth().leased == bench.depth("innocent").leased == 1
    throughout(lambda: not pool.waiting, 0.1, "the suspect waits for what runs")
    note.delay(2)
    throughout(lambda: bench.depth().ready == 1, 0.1, "nothing more is claimed meanwhile")
    pool.finish(running)
    (alone,) = pool.begin()
    throughout(lambda: not pool.waiting, 0.1)
    pool.finish(alone)
    pool.finish(*pool.begin())
    bench.empty()


def test_a_suspect_whose_mark_cannot_be_written_waits_for_it(bench: Any, pool: ScriptedPool, note: Any) -> None:
    """Without a mark it does not start."""
    note.delay()
    suspected(bench)
    bench.worker(lambda b: b.transport.failing["mark_started"].append(TransportError("cut")))
    pool.finish(*pool.begin())
    bench.empty()
    assert len(bench.transport.marked) == 1


def test_a_suspect_is_not_run_by_a_worker_that_stops(bench: Any, pool: ScriptedPool, note: Any) -> None:
    """Its mark may be under way; it is handed back uncounted."""
    note.delay()
    suspected(bench)
    running = bench.worker(lambda b: b.transport.gates["mark_started"].shut())
    eventually(lambda: bench.transport.gates["mark_started"].waiting)
    running.worker.stop()
    eventually(lambda: running.worker.why_not_ready == "the worker is stopping")
    bench.transport.gates["mark_started"].open()
    eventually(lambda: not running.alive)
    (delivery,) = bench.client.claim(make.claim_of("celery")).deliveries
    assert delivery.attempts == 0


def test_innocent_neighbours_of_a_death_are_not_counted(bench: Any, pool: ScriptedPool, note: Any) -> None:
    """Whatever a dead worker held comes back uncounted; only a death under a mark counts."""
    for number in range(4):
        note.delay(number)
    suspected(bench)
    deliveries = bench.client.claim(make.claim_of("celery")).deliveries
    assert [(delivery.attempts, delivery.suspect) for delivery in deliveries] == [(0, True)] * 4
    bench.client.settle([make.settlement(delivery, GiveBack()) for delivery in deliveries])
    for death in range(1, 4):
        (delivery, *rest) = bench.client.claim(make.claim_of("celery", limit=1, lease_seconds=0.01)).deliveries
        assert not rest
        bench.client.mark_started([delivery.receipt])
        bench.clock.advance(1)
        bench.client.recover()
        deliveries = bench.client.claim(make.claim_of("celery")).deliveries
        assert sorted(d.attempts for d in deliveries) == [0, 0, 0, death]
        bench.client.settle([make.settlement(d, GiveBack()) for d in deliveries])
    bench.worker()
    eventually(bench.client.quarantined, "the poisonous one is in quarantine")
    for _ in range(3):
        pool.finish(*pool.begin())
    bench.empty()
    (entry,) = bench.client.quarantined()
    assert (entry.reason, entry.evidence["attempts"]) == ("poison", 3)
    assert bench.document(entry.message.task_id).status == states.FAILURE


# -- deaths ------------------------------------------------------------------------------------------------------------


def test_whoever_had_started_is_blamed_and_nobody_else(bench: Any, pool: ScriptedPool, note: Any) -> None:
    """The pool says who ran: that one comes back counted and later, what had only been handed over at once."""
    pool.slots = 2
    note.delay(1), note.delay(2)
    bench.worker()
    (guilty,) = pool.begin()
    eventually(lambda: len(pool.waiting) == 1)
    (innocent,) = pool.waiting
    pool.withdraw([innocent])
    pool.sink([Died(guilty, {"signal": 11}), Died(innocent, {"signal": 11}, started=False)])
    pool.finish(*pool.begin())
    eventually(lambda: bench.depth().delayed == 1, "the guilty one waits before it runs again")
    bench.clock.advance(2)
    pool.finish(*pool.begin())
    bench.empty()
    outcomes = [s.outcome for batch in bench.transport.settled for s in batch]
    blamed = [o.disposition.blamed for o in outcomes if isinstance(o.disposition, GiveBack)]
    assert sorted(blamed) == [False, True]


def test_a_task_that_kills_its_process_is_quarantined_with_the_evidence(
    bench: Any, pool: ScriptedPool, note: Any
) -> None:
    """Exactly ``task_max_attempts`` deaths, then FAILURE is stored and the message kept apart."""
    result = note.delay(1)
    bench.worker()
    for _ in range(3):
        (receipt,) = pool.begin()
        pool.sink([Died(receipt, {"signal": 9, "rss": 4096, "stack": "note()"})])
        eventually(lambda: bench.depth().leased == 0)
        bench.clock.advance(61)
    eventually(bench.client.quarantined)
    throughout(lambda: not pool.waiting, 0.1, "it does not run a fourth time")
    (entry,) = bench.client.quarantined()
    assert entry.evidence == {"attempts": 3, "signal": 9, "rss": 4096, "stack": "note()"}
    with pytest.raises(Exception, match="killed its process 3 times") as caught:
        result.get(timeout=5)
    assert type(caught.value).__name__ == "WorkerLostError"


def test_a_death_may_be_a_failure(bench: Any, pool: ScriptedPool) -> None:
    """With ``reject_on_worker_lost`` off the caller is told at once, as in Celery."""

    @bench.app.task(reject_on_worker_lost=False)
    def once() -> None: ...

    result = once.delay()
    bench.worker()
    pool.die(*pool.begin())
    bench.empty()
    with pytest.raises(Exception, match="signal 9") as caught:
        result.get(timeout=5)
    assert type(caught.value).__name__ == "WorkerLostError"
    assert bench.client.quarantined() == []


def test_released_before_its_death_it_is_a_failure(bench: Any, pool: ScriptedPool) -> None:
    """There is no message any more that could be run again."""

    @bench.app.task(acks_late=False)
    def once() -> None: ...

    result = once.delay()
    bench.worker()
    pool.die(*pool.begin())
    with pytest.raises(Exception, match="signal 9"):
        result.get(timeout=5)


def test_terminated_is_revoked(bench: Any, pool: ScriptedPool, note: Any) -> None:
    """Whoever asked for the death gets what was asked for."""
    result = note.delay()
    bench.worker()
    pool.die(*pool.begin(), terminated=True)
    bench.empty()
    assert bench.document(result.id).status == states.REVOKED


def coroner(bench: Any, **options: Any) -> tuple[Coroner, InFlight]:
    task = bench.app.task(name=make.unique("task"), **options)(lambda: None)
    request = Request(id="id", task=task.name, receipt="receipt", args=(), kwargs={})
    made = Coroner(bench.app, Endings(bench.app, bench.app.conf, "w@h", whole=True), max_attempts=3)
    return made, InFlight(Delivery("receipt", "q", "me", make.message(task=task.name)), request, 0.0)


def dispose(bench: Any, death: Died, interrupted: bool = False, **options: Any) -> Outcome:
    made, entry = coroner(bench, **options)
    entry.interrupted = interrupted
    return made.outcome(entry, death)


@pytest.mark.parametrize(
    ("options", "disposition"),
    [
        ({}, Release),
        ({"acks_on_timeout": False}, GiveBack),
        ({"acks_late": False, "acks_on_timeout": False}, Release),
    ],
)
def test_a_hard_limit_is_a_failure_and_no_death(bench: Any, options: dict[str, Any], disposition: type) -> None:
    """FAILURE with TimeLimitExceeded; ``acks_on_timeout`` off lets a task come back."""
    outcome = dispose(bench, Died("receipt", {"signal": 9}, time_limit=1.5), **options)
    assert outcome.state == states.FAILURE
    assert isinstance(outcome.disposition, disposition)
    assert outcome.summary == repr(TimeLimitExceeded(1.5))


def test_failures_that_are_not_acknowledged_are_kept(bench: Any) -> None:
    """``acks_on_failure`` off: a loss that counts as a failure goes where failures go."""
    outcome = dispose(bench, Died("receipt", {}), reject_on_worker_lost=False, acks_on_failure=False)
    assert isinstance(outcome.disposition, Quarantine)


def test_a_pool_may_say_itself_that_it_interrupted(bench: Any, pool: ScriptedPool, note: Any) -> None:
    """A request that ends as it was interrupted is handed back, uncounted."""
    note.delay()
    bench.worker()
    (receipt,) = pool.begin()
    del pool.running[receipt]
    interrupted = make.outcome(Delivery(receipt, "celery", "me", None), GiveBack(), state=states.PENDING)
    pool.sink([Finished(receipt, interrupted)])
    pool.finish(*pool.begin())
    bench.empty()


@pytest.mark.parametrize("death", [Died("receipt", {"signal": 9}), Died("receipt", {"signal": 15}, terminated=True)])
def test_what_the_worker_itself_ends_goes_back_uncounted(bench: Any, death: Died) -> None:
    """An interruption is nobody's fault and no revocation."""
    outcome = dispose(bench, death, interrupted=True)
    assert outcome.disposition == GiveBack()
    assert outcome.document is None


def test_a_released_message_needs_no_disposition(bench: Any) -> None:
    """A failure of what was released says Release, whatever else is configured."""
    made, entry = coroner(bench)
    entry.released = True
    assert made.outcome(entry, Died("receipt", {})).disposition == Release()
