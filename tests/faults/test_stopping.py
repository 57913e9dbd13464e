"""Signals: what runs may finish for a while, the rest is handed back, and nobody waits for ever."""

from __future__ import annotations

import signal
import time

import pytest
from tests.faults.fleet import LEASE, RECOVERY, Balance, Fleet

from kern_testing.waiting import eventually

#: Seconds that the end of a worker takes beside what it waits for: its last writes, the interpreter, a busy machine.
EXIT = 4.0
#: Seconds of a soft shutdown that no test waits for.
LONG = 60.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_f05_short_tasks_finish(number: signal.Signals, fleet: Fleet, balance: Balance) -> None:
    """The worker ends with 0 once the task it runs is done; what it had not begun is somebody else's at once."""
    running = fleet.publish("hold", "go", count=fleet.slots)
    rest = fleet.publish("step", count=5)
    worker = fleet.worker(worker_soft_shutdown_timeout=LONG)
    fleet.until_started(running)
    worker.send(number)
    eventually(
        lambda: fleet.present() and sum(depth.leased for depth in fleet.depths()) <= fleet.slots,
        "all but those that run are handed back",
    )
    fleet.release("go")
    assert worker.wait() == 0, worker.said()
    assert sorted(fleet.ended()) == sorted(running)
    assert [fleet.app.AsyncResult(call).get(timeout=5) for call in running] == running
    other = fleet.worker()
    fleet.drain()
    fleet.stop(other)
    assert sorted(fleet.ended()) == sorted([*running, *rest])
    balance(fleet, f"F05 {number.name} during a short task")


def test_f05_a_long_task_is_handed_back(fleet: Fleet, balance: Balance) -> None:
    """It is interrupted when its time is over: no failure, no death counted, and the next worker runs it at once."""
    (call,) = fleet.publish("hold", "go")
    worker = fleet.worker(worker_soft_shutdown_timeout=0.5, task_max_attempts=1)
    fleet.until_started([call])
    told_at = time.monotonic()
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0, worker.said()
    assert time.monotonic() - told_at < 0.5 + EXIT
    assert fleet.app.AsyncResult(call).state == "PENDING"
    assert [(depth.ready, depth.leased) for depth in fleet.depths() if depth.queue == "celery"] == [(1, 0)]
    # One death would be too many: were it counted, the call would not run again.
    other = fleet.worker(task_max_attempts=1)
    fleet.until_started([call], times=2)
    fleet.release("go")
    fleet.drain()
    fleet.stop(other)
    assert fleet.app.AsyncResult(call).get(timeout=5) == call
    balance(fleet, "F05 SIGTERM during a long task", healed_at=told_at, recovery=0.5 + EXIT + LEASE)


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM), (signal.SIGQUIT,)],
    ids=lambda numbers: "+".join(number.name for number in numbers),
)
def test_f06_a_second_signal_hands_back_at_once(
    signals: tuple[signal.Signals, ...], fleet: Fleet, balance: Balance
) -> None:
    held = fleet.publish("hold", "go", count=fleet.slots)
    rest = fleet.publish("step", count=3)
    worker = fleet.worker(worker_soft_shutdown_timeout=LONG)
    fleet.until_started(held)
    for number in signals[:-1]:
        worker.send(number)
        eventually(lambda: fleet.told("stopping"), "the first signal is heard")
    told_at = time.monotonic()
    worker.send(signals[-1])
    assert worker.wait() == 0, worker.said()
    assert time.monotonic() - told_at < EXIT
    assert sum(depth.leased for depth in fleet.depths()) == 0
    fleet.release("go")
    other = fleet.worker()
    fleet.drain()
    fleet.stop(other)
    assert set(fleet.ended()) == {*held, *rest}
    balance(fleet, f"F06 {' and '.join(number.name for number in signals)}")


def test_f06_a_worker_that_is_killed_while_it_stops_loses_nothing(fleet: Fleet, balance: Balance) -> None:
    """As a supervisor does whose patience ends before the worker's; what ran runs again when the lease has ended."""
    held = fleet.publish("hold", "go", count=fleet.slots)
    rest = fleet.publish("step", count=3)
    worker = fleet.worker(worker_soft_shutdown_timeout=LONG)
    fleet.until_started(held)
    worker.send(signal.SIGTERM)
    eventually(lambda: fleet.told("stopping"), "the signal is heard")
    worker.kill()
    killed_at = time.monotonic()
    fleet.until_gone()
    fleet.release("go")
    other = fleet.worker()
    fleet.drain()
    fleet.stop(other)
    assert sorted(fleet.ended()) == sorted([*held, *rest])
    balance(fleet, "F06 SIGTERM, and SIGKILL before it has stopped", 0, killed_at, RECOVERY)


def test_f06_a_task_that_cannot_be_interrupted_keeps_no_worker(fleet: Fleet, balance: Balance) -> None:
    """It blocks outside of Python's reach: the worker ends without it, and hands the call back."""
    (call,) = fleet.publish("step", 8.0)
    worker = fleet.worker(worker_soft_shutdown_timeout=LONG)
    fleet.until_started([call])
    told_at = time.monotonic()
    worker.send(signal.SIGQUIT)
    assert worker.wait() == 0, worker.said()
    assert time.monotonic() - told_at < EXIT
    assert fleet.left() == 1
    assert fleet.ask(lambda port: port.delete([call])) == 1
    assert fleet.started() == [call]
    assert not fleet.ended()
    fleet.cancelled.append(call)
    balance(fleet, "F06 SIGQUIT during a task that blocks")
