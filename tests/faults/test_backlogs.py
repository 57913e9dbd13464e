"""Much that waits: for a worker, and for its time."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from tests.faults.fleet import RECOVERY, Balance, Fleet

from kern_testing.waiting import eventually

MEGABYTE = 1024 * 1024
BACKLOG = 20_000
DELAYED = 2_000


def memory(fleet: Fleet) -> int:
    """Resident bytes of the one worker that runs, as a task sees it."""
    (call,) = fleet.publish("measure", priority=9)
    found = fleet.app.AsyncResult(call).get(timeout=30)
    assert isinstance(found, int)
    return found


def test_f22_a_backlog_costs_the_worker_no_memory(fleet: Fleet, balance: Balance) -> None:
    """20,000 calls wait: a worker at work on them is no larger than one that has nothing to do."""
    worker = fleet.worker()
    fleet.publish("step", count=20)
    fleet.drain()
    idle = memory(fleet)
    began = time.monotonic()
    fleet.app.send_many([fleet.app.signature("project.count") for _ in range(BACKLOG)])
    published_in = time.monotonic() - began
    eventually(lambda: fleet.counted() > 1000, "the worker is at work on them", timeout=30)
    busy = memory(fleet)
    waiting = fleet.depths()[0].ready
    assert waiting > BACKLOG / 2
    assert busy - idle < 8 * MEGABYTE
    assert published_in < 20
    done = fleet.counted()
    fleet.stop(worker)
    ready = fleet.depths()[0].ready
    assert fleet.counted() + ready == BACKLOG
    assert done <= fleet.counted()
    assert fleet.ask(lambda port: port.purge("celery")) == ready
    balance(fleet, f"F22 backlog of {BACKLOG:,}")


def test_f37_delayed_calls_survive_all_workers(fleet: Fleet, balance: Balance) -> None:
    """2,000 wait for their time while every worker dies and comes back; none is early, none late, none twice."""
    due = time.time() + 7.0
    eta = datetime.fromtimestamp(due, UTC)
    calls = fleet.publish("step", count=DELAYED, due=due, eta=eta)
    first = fleet.ready(fleet.worker())
    second = fleet.ready(fleet.worker())
    assert fleet.depths()[0].delayed == DELAYED
    first.kill()
    fleet.stop(second)
    assert fleet.depths()[0].delayed == DELAYED
    third = fleet.ready(fleet.worker())
    assert time.time() < due, "the machine was too slow for this to mean anything"
    assert not fleet.ended()
    fleet.drain()
    fleet.stop(third)
    assert sorted(fleet.ended()) == sorted(calls)
    balance(fleet, f"F37 {DELAYED:,} delayed calls, all workers restarted", lateness=RECOVERY + 5)
