"""F01, F08, F09, F23: a worker and the processes that run its tasks; those die, hang, and cannot be forked."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from tests.faults.brokers import ISOLATED, on
from tests.faults.fleet import RECOVERY, Balance, Fleet

from kern.errors import TimeLimitExceeded, WorkerLostError
from kern_testing.ledger import START, read
from kern_testing.waiting import eventually

pytestmark = on(*ISOLATED)

ATTEMPTS = 3
KILLS = 3
#: Children made one after the other, by an application whose threads no fork would survive.
SPAWNS = 12
#: Seconds within which a dead child has been replaced, on a busy machine.
REPLACED = 2.0
#: Seconds beside its limit within which a task is seen to be dead, on a busy machine.
LATE = 2.0


def test_f01_a_killed_child_is_replaced_and_its_neighbour_goes_on(fleet: Fleet, balance: Balance) -> None:
    """What waits runs in the new child at once; the call that died with the old one runs again; D = 0."""
    victim, neighbour = fleet.publish("hold", "go", count=2)
    worker = fleet.worker()
    fleet.until_started([victim, neighbour])
    following = fleet.publish("step", count=5)
    os.kill(fleet.where(victim), signal.SIGKILL)
    killed_at = time.monotonic()
    # The other child is busy: it is the new one that runs them.
    eventually(lambda: set(following) <= set(fleet.ended()), "what waited has been run")
    fleet.until_started([victim], times=2)
    fleet.release("go")
    fleet.drain()
    fleet.stop(worker)
    assert fleet.started().count(neighbour) == 1
    balance(fleet, "F01 child killed, its neighbour busy", 0, killed_at, REPLACED)


def test_f01_the_process_that_children_are_forked_from_may_die(fleet: Fleet, balance: Balance) -> None:
    """What runs goes on; whoever dies afterwards is replaced all the same."""
    held = fleet.publish("hold", "go", count=2)
    worker = fleet.worker()
    fleet.until_started(held)
    maker = worker.family()[fleet.where(held[0])]
    assert maker != worker.pid
    os.kill(maker, signal.SIGKILL)
    fleet.until_dead(maker)
    fleet.release("go")
    fleet.drain()
    killed_at = time.monotonic()
    for child in {fleet.where(call) for call in held}:
        os.kill(child, signal.SIGKILL)
    calls = fleet.publish("step", count=5)
    fleet.drain()
    assert worker.running
    fleet.stop(worker)
    assert sorted(fleet.ended()) == sorted([*held, *calls])
    balance(fleet, "F01 process killed that children are forked from", 0, killed_at, RECOVERY)


def test_f01_children_killed_at_any_instant_lose_nothing(fleet: Fleet, balance: Balance, chance: random.Random) -> None:
    """Each death costs at most one repetition; the worker lives on, and nobody is quarantined."""
    calls = fleet.publish("step", 0.02, count=60)
    worker = fleet.worker()
    for kill in range(1, KILLS + 1):
        enough = kill * 10 + chance.randint(0, 9)
        fleet.until_ended(enough)
        newest = read(fleet.ledger.executions)[-1]["pid"]
        os.kill(newest, signal.SIGKILL)
    killed_at = time.monotonic()
    fleet.drain()
    assert worker.running
    fleet.stop(worker)
    assert set(fleet.ended()) == set(calls)
    assert not fleet.quarantined()
    balance(fleet, f"F01 {KILLS} children killed at any instant", KILLS, killed_at, RECOVERY)


def test_f23_a_task_that_kills_its_child_is_quarantined_and_the_worker_serves_on(
    fleet: Fleet, balance: Balance
) -> None:
    """After exactly as many deaths as it may cause; each neighbour runs once, and nobody else is blamed."""
    (poison,) = fleet.publish("kill")
    neighbours = fleet.publish("hold", "go")
    worker = fleet.worker(task_max_attempts=ATTEMPTS)
    fleet.until_started(neighbours)
    neighbours += fleet.publish("step", 0.01, count=100)
    # One slot is held, the other is lost now and then: the rest is done long before the poison is.
    eventually(lambda: set(neighbours[1:]) <= set(fleet.ended()), "the others are done")
    assert not fleet.quarantined()
    eventually(fleet.quarantined, "the poison is quarantined", timeout=20)
    fleet.release("go")
    fleet.drain()
    assert worker.running
    fleet.stop(worker)
    assert fleet.started().count(poison) == ATTEMPTS
    (kept,) = fleet.quarantined()
    assert (kept.reason, kept.message and kept.message.task_id) == ("poison", poison)
    assert kept.evidence["attempts"] == ATTEMPTS
    with pytest.raises(WorkerLostError, match=f"killed its process {ATTEMPTS} times"):
        fleet.app.AsyncResult(poison).get(timeout=10)
    assert sorted(call for call in fleet.started() if call != poison) == sorted(neighbours)
    balance(fleet, "F23 task that kills its child")


def test_f08_an_application_with_threads_is_never_forked_and_no_child_hangs(fleet: Fleet, balance: Balance) -> None:
    """Fifty threads that always hold a lock; a new child for each task. One warning names them."""
    calls = fleet.publish("step", count=SPAWNS)
    worker = fleet.worker(app="threaded:app", worker_max_tasks_per_child=1)
    fleet.drain()
    fleet.stop(worker)
    assert sorted(fleet.ended()) == sorted(calls)
    pids = {entry["pid"] for entry in read(fleet.ledger.executions) if entry["what"] == START}
    assert len(pids) == SPAWNS
    assert worker.said().count("reporter-0") == 1, worker.said()
    balance(fleet, f"F08 {SPAWNS} children of an application with threads")


def test_f09_a_task_that_holds_the_interpreter_is_killed_at_its_limit(fleet: Fleet, balance: Balance) -> None:
    """No Python runs in its process, and so nothing in it can end it; the worker does. It has failed, once."""
    (seized,) = fleet.publish("seize", time_limit=1.0)
    others = fleet.publish("step", 0.01, count=20)
    worker = fleet.worker()
    fleet.until_started([seized])
    started_at = time.monotonic()
    with pytest.raises(TimeLimitExceeded):
        fleet.app.AsyncResult(seized).get(timeout=20)
    assert time.monotonic() - started_at < 1.0 + LATE
    fleet.drain()
    fleet.stop(worker)
    assert sorted(fleet.ended()) == sorted(others)
    assert fleet.started().count(seized) == 1
    fleet.cancelled.append(seized)  # its end is its failure
    balance(fleet, "F09 task that holds the interpreter, with a limit")


def test_f09_a_task_that_holds_the_interpreter_does_not_outlive_its_worker(fleet: Fleet, balance: Balance) -> None:
    """Killed without warning, the worker can tell it nothing, and it would not hear; it is gone all the same."""
    (seized,) = fleet.publish("seize")
    worker = fleet.worker()
    fleet.until_started([seized])
    worker.kill()
    fleet.until_gone()
    assert fleet.ask(lambda port: port.recover(True)) == 1
    assert fleet.ask(lambda port: port.delete([seized])) == 1
    fleet.cancelled.append(seized)
    balance(fleet, "F09 task that holds the interpreter, the worker killed")


def test_f09_a_task_that_holds_the_interpreter_keeps_no_worker_from_stopping(fleet: Fleet, balance: Balance) -> None:
    """Without a limit: it is handed back uncounted when the worker's time is over, and its process is gone."""
    (seized,) = fleet.publish("seize")
    worker = fleet.worker(worker_soft_shutdown_timeout=0.5, task_max_attempts=1)
    fleet.until_started([seized])
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0, worker.said()
    fleet.until_gone()
    assert [depth.ready for depth in fleet.depths() if depth.queue == "celery"] == [1]
    assert fleet.ask(lambda port: port.delete([seized])) == 1
    fleet.cancelled.append(seized)
    balance(fleet, "F09 task that holds the interpreter, the worker stops")
