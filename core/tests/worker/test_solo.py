"""The pool that comes with core, and limits where nothing can be killed."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from kern import states
from kern.contracts.pool import Died, Finished, Pool, PoolCapability, PoolOptions
from kern.outcome import Outcome
from kern.request import Request
from kern.worker.solo import SoloPool
from kern_testing import make
from kern_testing.contracts import PoolContract
from kern_testing.contracts.pool import Orders, Running
from kern_testing.waiting import eventually, throughout


class TestSoloPool(PoolContract):
    capabilities: ClassVar[frozenset[PoolCapability]] = frozenset(
        {PoolCapability.SOFT_LIMITS, PoolCapability.JOIN_BLOCKS}
    )
    slots: ClassVar[int] = 1

    @pytest.fixture
    def make_pool(self) -> Callable[[int], Pool]:
        return lambda slots: SoloPool(None, PoolOptions(concurrency=slots))

    def test_everything_submitted_has_an_end_when_the_pool_ends(self, pool: Running, orders: Orders) -> None:
        """What runs on for ever and what never began are told as lost, each as what it is."""
        running, waiting = pool.submit(orders.request("wait"), orders.request())
        pool.has_started(running)
        pool.pool.stop(0.05).result(10)
        assert pool.death_of(running).started
        assert not pool.death_of(waiting).started
        orders.open()

    def test_an_interruption_by_the_stop_is_no_outcome(self, pool: Running, orders: Orders) -> None:
        """What a task makes of being stopped is not what became of it."""
        (receipt,) = pool.submit(orders.waiting())
        pool.has_started(receipt)
        pool.pool.stop(0.0).result(10)
        assert pool.death_of(receipt).evidence == {"reason": "interrupted"}


def test_more_than_one_slot_is_refused_with_words(caplog: pytest.LogCaptureFixture) -> None:
    """``-c 8`` does nothing here; the pool says so, and what would help."""
    assert SoloPool(None, PoolOptions(concurrency=8)).slots == 1
    assert "one task at a time" in caplog.text
    assert "kern-pool-prefork" in caplog.text


def _outcome(request: Request, state: str = states.SUCCESS) -> Outcome:
    return make.outcome(make_delivery(request.receipt), state=state)


def make_delivery(receipt: str) -> Any:
    from kern.delivery import Delivery

    return Delivery(receipt, "q", "me", None)


def test_a_late_interruption_hits_nobody_else() -> None:
    """A soft limit that comes as its task ends is raised neither in the next task nor in the pool."""
    seen: list[BaseException] = []

    def run(request: Request) -> Outcome:
        try:
            time.sleep(0.01)  # the task's own duration
            for _ in range(100):
                pass
        except BaseException as error:
            if request.soft_time_limit is None:
                seen.append(error)
        return _outcome(request)

    pool, ends = SoloPool(None, PoolOptions()), []
    pool.start(run, lambda events: ends.extend(e for e in events if isinstance(e, Finished | Died))).result(5)
    for number in range(60):
        limit = 0.009 + 0.0001 * (number % 20)
        pool.submit([Request(id="l", task="t", receipt=f"limited-{number}", soft_time_limit=limit)])
        pool.submit([Request(id="f", task="t", receipt=f"free-{number}")])
    eventually(lambda: len(ends) == 120)
    assert not seen
    assert all(isinstance(end, Finished) for end in ends if end.receipt.startswith("free"))
    pool.stop(1).result(5)


def test_the_interpreter_is_left_as_it_was() -> None:
    """A tracer (coverage, a debugger, a profiler) set after an interrupted task does not make the process hang: an
    exception that is taken back leaves CPython 3.11 looking for it for ever."""

    def run(request: Request) -> Outcome:
        try:
            while True:
                time.sleep(0.001)  # the task's own duration
        except BaseException:
            return _outcome(request)

    pool, ends = SoloPool(None, PoolOptions()), []
    pool.start(run, lambda events: ends.extend(e for e in events if isinstance(e, Finished))).result(5)
    pool.submit([Request(id="1", task="t", receipt="one", soft_time_limit=0.05)])
    eventually(lambda: ends)
    pool.stop(1).result(5)
    calls: list[str] = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _arg: calls.append(event))
    try:
        sum(abs(number) for number in range(1000))
    finally:
        sys.setprofile(before)
    assert len(calls) > 1000


def test_an_interruption_outside_the_task_is_a_limit_and_no_death() -> None:
    """Whatever bytecode a soft limit hits: the request has run into its limit, nobody is to blame."""

    def run(_request: Request) -> Outcome:
        while True:
            time.sleep(0.001)  # the task's own duration

    pool, ends = SoloPool(None, PoolOptions()), []
    pool.start(run, lambda events: ends.extend(e for e in events if isinstance(e, Finished | Died))).result(5)
    pool.submit([Request(id="1", task="t", receipt="one", soft_time_limit=0.05)])
    eventually(lambda: ends)
    assert ends[0].time_limit == 0.05
    pool.stop(1).result(5)


# -- limits in a worker ------------------------------------------------------------------------------------------------


def test_a_soft_limit_can_be_caught(bench: Any) -> None:
    """The task ends as it wants to; one that does not catch it has failed."""
    from kern.errors import SoftTimeLimitExceeded

    @bench.app.task(soft_time_limit=0.05)
    def caught() -> str:
        try:
            while True:
                time.sleep(0.001)  # the task's own duration
        except SoftTimeLimitExceeded:
            return "tidied up"

    @bench.app.task
    def uncaught() -> None:
        while True:
            time.sleep(0.001)  # the task's own duration

    bench.worker()
    assert caught.delay().get(timeout=5) == "tidied up"
    with pytest.raises(SoftTimeLimitExceeded):
        uncaught.apply_async(soft_time_limit=0.05).get(timeout=5)


def test_a_hard_limit_fails_the_task_and_fences_what_it_returns(bench: Any) -> None:
    """A thread cannot be killed: its caller is told at the limit, the lease is not kept for it, its result is dropped,
    and the worker goes on once it has let go."""
    go_on, ran = threading.Event(), []

    @bench.app.task(time_limit=0.1)
    def stubborn() -> str:
        ran.append(1)
        while not go_on.is_set():
            try:
                go_on.wait(20)
            except Exception:
                ran.append("asked to end")
        return "too late"

    @bench.app.task
    def after() -> str:
        return "after"

    running = bench.worker()
    result = stubborn.delay()
    with pytest.raises(Exception, match=r"0\.1") as caught:
        result.get(timeout=5)
    assert type(caught.value).__name__ == "TimeLimitExceeded"
    bench.empty()
    following = after.delay()
    throughout(lambda: not following.ready(), 0.1, "the slot is taken")
    go_on.set()
    assert following.get(timeout=5) == "after"
    eventually(lambda: running.worker.held == 0)
    assert bench.document(result.id).status == states.FAILURE
    assert running.worker.totals == {"FAILURE": 1, "SUCCESS": 1}
    assert ran == [1, "asked to end"]


def test_a_task_within_its_hard_limit_is_left_alone(bench: Any) -> None:
    """And the next one has its own time."""

    @bench.app.task(time_limit=0.3)
    def short() -> int:
        time.sleep(0.2)  # the task's own duration
        return 1

    bench.worker()
    assert [short.delay().get(timeout=5) for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("config", [{"task_time_limit": 0.1, "worker_soft_shutdown_timeout": 10.0}])
def test_limits_act_while_the_worker_stops(bench: Any) -> None:
    """To the last second."""
    begun = threading.Event()

    @bench.app.task
    def endless() -> None:
        begun.set()
        while True:
            time.sleep(0.005)  # the task's own duration

    running = bench.worker()
    result = endless.apply_async(time_limit=0.3)
    assert begun.wait(5)
    running.worker.stop()
    eventually(lambda: not running.alive, "it ends when its task has run into its limit", timeout=5)
    assert bench.document(result.id).status == states.FAILURE
