"""Workers that die, freeze, and are killed by what they run."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from tests.faults.brokers import ISOLATED, on
from tests.faults.fleet import LEASE, ORPHANED, PROJECTS, RECOVERY, Balance, Fleet, Process

from kern.errors import WorkerLostError
from kern_testing.waiting import eventually

ATTEMPTS = 3
#: What a worker says of an outcome that comes too late.
REFUSED = "late outcome refused"


def until_done_or_dead(fleet: Fleet, worker: Process) -> None:
    eventually(lambda: not worker.running or not fleet.left(), "the work is done, or the worker dead", timeout=30)


@pytest.mark.parametrize("whole", [False, True], ids=["main", "group"])
def test_f02_others_take_over_from_a_killed_worker(
    whole: bool, fleet: Fleet, balance: Balance, chance: random.Random
) -> None:
    """At any instant: what it ran runs again, once, and what it had only claimed runs once. Nothing survives it."""
    calls = fleet.publish("step", 0.01, count=40)
    # Nothing is taken ahead: with one task at a time in the worker, the bound is exact.
    victim = fleet.ready(fleet.worker(worker_disable_prefetch=True))
    enough = chance.randint(1, len(calls) // 2)
    eventually(lambda: len(fleet.ended()) >= enough, "the first worker is at work")
    if whole:
        victim.send_all(signal.SIGKILL)
        victim.died()
    else:
        victim.kill()
    killed_at = time.monotonic()
    fleet.until_gone(ORPHANED)
    rescuer = fleet.worker()
    fleet.drain()
    fleet.stop(rescuer)
    scenario = f"F02 worker killed at any instant{', with all its processes' if whole else ''}"
    balance(fleet, scenario, fleet.slots, killed_at, RECOVERY)


def test_f02_what_ran_when_its_worker_was_killed_runs_within_the_lease(fleet: Fleet, balance: Balance) -> None:
    """The others are there already; nothing has to be started for it."""
    victim = fleet.ready(fleet.worker())
    (held,) = fleet.publish("hold", "go")
    fleet.until_started([held])
    other = fleet.ready(fleet.worker())
    victim.kill()
    killed_at = time.monotonic()
    fleet.until_started([held], times=2)
    fleet.release("go")
    fleet.drain()
    fleet.stop(other)
    balance(fleet, "F02 worker killed while it runs a task", 0, killed_at, LEASE + 1.5)


@on("sqlite", "postgresql", "redis")
def test_f39_a_worker_that_was_frozen_for_longer_than_its_lease_is_fenced(fleet: Fleet, balance: Balance) -> None:
    """It wakes up in the middle of a task that somebody else has done: its late outcome changes nothing."""
    (call,) = fleet.publish("hold", "go")
    frozen = fleet.worker()
    fleet.until_started([call])
    frozen.send_all(signal.SIGSTOP)
    other = fleet.worker()
    fleet.until_started([call], times=2)
    fleet.release("go")
    fleet.drain()
    assert fleet.app.AsyncResult(call).get(timeout=10) == call
    frozen.send_all(signal.SIGCONT)
    # It goes on with the task, or ends it where it can: in any case what it says of it is refused, and it serves on.
    eventually(lambda: REFUSED in frozen.said(), "the frozen worker has gone on")
    fleet.stop(other)
    (after,) = fleet.publish("step")
    fleet.drain()
    assert fleet.app.AsyncResult(after).get(timeout=10) == after
    fleet.stop(frozen)
    assert fleet.app.AsyncResult(call).get(timeout=10) == call
    report = fleet.report()
    assert report.fenced == 1
    # Two that overlap is what a frozen worker means: nobody can tell it from a dead one.
    assert report.concurrent <= {call}
    balance(fleet, "F39 worker frozen for longer than its lease", 1, concurrent=1)


@on(*ISOLATED)
def test_f39_what_the_children_of_a_frozen_worker_bring_is_refused(fleet: Fleet, balance: Balance) -> None:
    """Its main process alone stands still, and its children run on: their work is done twice, and written once."""
    (call,) = fleet.publish("hold", "go")
    frozen = fleet.worker()
    fleet.until_started([call])
    frozen.send(signal.SIGSTOP)
    other = fleet.worker()
    fleet.until_started([call], times=2)
    fleet.release("go")
    eventually(lambda: fleet.ended().count(call) == 2, "both have run it")
    fleet.drain()
    frozen.send(signal.SIGCONT)
    eventually(lambda: REFUSED in frozen.said(), "the frozen worker has gone on")
    fleet.stop(frozen, other)
    assert fleet.app.AsyncResult(call).get(timeout=10) == call
    report = balance(fleet, "F39 main process frozen for longer than its lease", 1, concurrent=1)
    assert (report.fenced, report.concurrent) == (1, {call})


@on("sqlite")
def test_f23_a_task_that_kills_its_process_is_quarantined(fleet: Fleet, balance: Balance) -> None:
    """After as many deaths as it may cause, once it is under suspicion; its neighbours never are."""
    (poison,) = fleet.publish("kill")
    innocents = fleet.publish("step", count=10)
    deaths = 0
    while (left := fleet.left()) or not fleet.quarantined():
        assert deaths <= ATTEMPTS + 1, f"{deaths} workers have died, {left} messages are left"
        worker = fleet.worker(task_max_attempts=ATTEMPTS)
        until_done_or_dead(fleet, worker)
        if worker.running:
            fleet.stop(worker)
        else:
            worker.died()
            deaths += 1
    # The first death names it as a suspect and is not counted: it might have been a neighbour's.
    assert deaths == ATTEMPTS + 1
    assert fleet.started().count(poison) == deaths
    (kept,) = fleet.quarantined()
    assert (kept.reason, kept.message and kept.message.task_id) == ("poison", poison)
    assert kept.evidence["attempts"] == ATTEMPTS
    result = fleet.app.AsyncResult(poison)
    with pytest.raises(WorkerLostError, match=f"killed its process {ATTEMPTS} times"):
        result.get(timeout=10)
    assert set(fleet.ended()) == set(innocents)
    # Each death may repeat what had just ended, and was not yet written.
    balance(fleet, "F23 task that kills its process", deaths)


def test_f23_neighbours_of_a_poisonous_task_are_done_meanwhile(fleet: Fleet, balance: Balance) -> None:
    """A worker beside those that die does the work; each innocent call runs to its end, once."""
    innocents = fleet.publish("step", 0.05, count=30)
    steady = fleet.worker()
    eventually(lambda: fleet.ended(), "the first is done")
    victim = fleet.worker()
    fleet.until_started(innocents[:1])
    victim.kill()
    victim.died()
    fleet.drain()
    fleet.stop(steady)
    assert set(fleet.ended()) == set(innocents)
    assert not fleet.quarantined()
    balance(fleet, "F23 neighbours of a death", 1)


def test_workers_leave_neither_files_nor_descriptors_behind(fleet: Fleet, balance: Balance) -> None:
    """F02's residue: after deaths and orderly ends the folder holds what it held."""
    calls = fleet.publish("step", count=5)
    worker = fleet.ready(fleet.worker())
    fleet.drain()
    descriptors = len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))
    calls += fleet.publish("step", count=50)
    fleet.drain()
    assert len(list(Path(f"/proc/{worker.pid}/fd").iterdir())) <= descriptors
    fleet.stop(worker)
    fleet.app.close()
    known = {"broker.db", "__pycache__", "executions.jsonl", "publishes.jsonl", "workers.jsonl"}
    known |= {"broker.db-wal", "broker.db-shm", *(module.name for module in PROJECTS.glob("*.py"))}
    left = {name for name in os.listdir(fleet.folder) if not name.startswith("process-")}
    assert left <= known
    assert len(fleet.told("stopped")) == 1
    assert sorted(fleet.ended()) == sorted(calls)
    balance(fleet, "F02 worker that ends in order")
