"""Much that waits: for a worker, and for its time."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from tests.faults.brokers import PROXIED, on
from tests.faults.fleet import Balance, Fleet

from kern_testing.ledger import CONFIRMED, START
from kern_testing.waiting import eventually

MEGABYTE = 1024 * 1024
#: Calls that wait, and those a worker is seen at work on before they are taken away again.
BACKLOG = {"SQLite": 20_000, "Redis": 50_000}
DELAYED = {"SQLite": 300, "Redis": 1_000}
#: Calls that wait for their time while a worker looks on.
FAR = 5_000


def test_f22_a_backlog_costs_the_worker_no_memory(fleet: Fleet, balance: Balance) -> None:
    """However many calls wait: a worker at work on them is no larger than one that has nothing to do."""
    fleet.hold_leases()
    backlog = BACKLOG[fleet.broker.title]
    worker = fleet.worker()
    fleet.publish("step", count=20)
    fleet.drain()
    idle = worker.memory()
    began = time.monotonic()
    fleet.app.send_many([fleet.app.signature("project.count") for _ in range(backlog)])
    published_in = time.monotonic() - began
    at_work = fleet.counted()
    eventually(lambda: fleet.counted() > at_work + 1000, "the worker is at work on them", timeout=30)
    busy = worker.memory()
    assert fleet.depths()[0].ready > backlog / 4
    assert busy - idle < 8 * MEGABYTE
    assert published_in < 20
    fleet.stop(worker)
    ready = fleet.depths()[0].ready
    assert fleet.counted() + ready == backlog
    assert fleet.ask(lambda port: port.purge("celery")) == ready
    balance(fleet, f"F22 backlog of {backlog:,}")


@on(*PROXIED)
def test_f37_delayed_calls_cost_the_worker_no_memory(fleet: Fleet, balance: Balance) -> None:
    """5,000 that are due in an hour lie with the broker; the worker that has put them there is no larger for it."""
    fleet.hold_leases()
    worker = fleet.worker()
    fleet.publish("step", count=20)
    fleet.drain()
    idle = worker.memory()
    far = [fleet.app.signature("project.step", countdown=3600) for _ in range(FAR)]
    fleet.app.send_many(far)
    eventually(lambda: fleet.depths()[0].delayed == FAR, "all wait for their time", timeout=60)
    assert worker.memory() - idle < 8 * MEGABYTE
    assert fleet.ask(lambda port: port.purge("celery")) == FAR
    fleet.stop(worker)
    balance(fleet, f"F37 {FAR:,} delayed calls, one worker")


def test_f37_delayed_calls_survive_all_workers(fleet: Fleet, balance: Balance) -> None:
    """They wait for their time while every worker dies and comes back; none is early, none late, none twice."""
    delayed = DELAYED[fleet.broker.title]
    calls = [f"call-{number}" for number in range(delayed)]
    fleet.ledger.intend(*calls)
    began = time.monotonic()
    first, second = fleet.worker(), fleet.worker()
    fleet.ready(first)
    fleet.ready(second)
    # As late as this machine needs today, to have them all end and another one start before it.
    due = time.time() + 2.0 + 4 * (time.monotonic() - began)
    eta = datetime.fromtimestamp(due, UTC)
    fleet.app.send_many([fleet.app.signature("project.step", task_id=call, eta=eta) for call in calls])
    # Those published with their time in the header, as Celery does, are put aside by the first worker that sees them.
    eventually(lambda: fleet.depths()[0].delayed == delayed, "all wait for their time")
    first.kill()
    fleet.stop(second)
    assert fleet.depths()[0].delayed == delayed
    third = fleet.ready(fleet.worker())
    assert time.time() < due, "the machine was too slow for this to mean anything"
    assert not fleet.ended()
    fleet.ledger.answered(CONFIRMED, *calls)
    fleet.drain()
    fleet.stop(third)
    assert sorted(fleet.ended()) == sorted(calls)
    report = balance(fleet, f"F37 {delayed:,} delayed calls, all workers restarted")
    starts = [entry["at"] for steps in report.history.values() for entry in steps if entry["what"] == START]
    assert min(starts) >= due
    assert min(starts) < due + 2.0, "the first is on time; the rest wait for their turn"
