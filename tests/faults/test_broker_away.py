"""A broker that stops, restarts, or falls silent: everybody goes on alone, and nothing is lost."""

from __future__ import annotations

import random
import time

import pytest
from tests.faults.brokers import PROXIED, SERVED, on
from tests.faults.fleet import Balance, Fleet

from kern_testing.ledger import CONFIRMED
from kern_testing.servers import Server
from kern_testing.waiting import eventually

#: Seconds from the end of a fault to the next start of a task.
RESUMED = 8.0


@pytest.fixture
def server(fleet: Fleet) -> Server:
    """The broker's, to be ended and frozen."""
    assert fleet.broker.server is not None
    return fleet.broker.server


@on(*SERVED)
@pytest.mark.parametrize("hard", [False, True], ids=["restart", "kill"])
def test_f10_everybody_resumes_after_the_broker_was_restarted(
    hard: bool, fleet: Fleet, server: Server, balance: Balance, chance: random.Random
) -> None:
    """While it runs tasks, and while somebody publishes: who publishes is told the truth."""
    # Nothing is taken ahead, and so the bound is exact: what runs.
    worker = fleet.worker(worker_disable_prefetch=True)
    fleet.publish("step", 0.02, count=30)
    eventually(lambda: len(fleet.ended()) >= chance.randint(2, 8), "the worker is at work")
    server.restart(hard)
    healed_at = time.monotonic()
    for _ in range(3):
        fleet.publish("step", 0.02)
    fleet.drain()
    fleet.stop(worker)
    report = balance(fleet, f"F10 broker {'killed' if hard else 'restarted'}", fleet.slots, healed_at, RESUMED)
    assert len(report.confirmed) >= 30


@on(*SERVED)
def test_f10_an_idle_worker_resumes(fleet: Fleet, server: Server, balance: Balance) -> None:
    """Three times in a row; it is not at work when it happens."""
    worker = fleet.ready(fleet.worker())
    for _ in range(3):
        server.restart()
        healed_at = time.monotonic()
        (call,) = fleet.publish("step")
        assert fleet.ledger.published()[call] == CONFIRMED
        fleet.drain()
    assert worker.running
    fleet.stop(worker)
    balance(fleet, "F10 broker restarted three times, worker idle", 0, healed_at, RESUMED)


#: Publishes one by one; the ledger knows what it intended and what it was told.
PUBLISHER = """
from kern_testing.ledger import Ledger
from project import PLACE, step

ledger = Ledger(PLACE)
for number in range({calls}):
    with ledger.publishing(f"call-{{number}}"):
        step.apply_async(task_id=f"call-{{number}}")
"""
CALLS, RESTARTS = 400, 3


def until_published(fleet: Fleet, calls: int) -> None:
    eventually(lambda: len(fleet.ledger.published()) >= calls, f"{calls} calls have been published", timeout=60)


@on(*PROXIED)
def test_f10_publishers_are_told_the_truth_while_the_broker_restarts(
    fleet: Fleet, server: Server, balance: Balance, chance: random.Random
) -> None:
    """Three times, without warning. What was confirmed is there, and what was sent again is there once."""
    publisher = fleet.script(PUBLISHER.format(calls=CALLS))
    for restart in range(1, RESTARTS + 1):
        enough = restart * CALLS // (RESTARTS + 1) + chance.randint(0, 20)
        until_published(fleet, enough)
        server.restart(hard=True)
    assert publisher.wait(60) == 0, publisher.said()
    worker = fleet.worker()
    fleet.drain()
    fleet.stop(worker)
    report = balance(fleet, f"F10 broker killed {RESTARTS} times while calls are published")
    assert len(report.confirmed) > CALLS / 2


@on(*SERVED)
def test_f11_everybody_resumes_after_the_broker_was_frozen(fleet: Fleet, server: Server, balance: Balance) -> None:
    """For longer than a lease: leases end while nobody can renew them, and what runs meanwhile is not lost."""
    worker = fleet.worker()
    (held,) = fleet.publish("hold", "go")
    rest = fleet.publish("step", 0.02, count=10)
    fleet.until_started([held])
    server.pause()
    try:
        frozen_until = time.monotonic() + 3.0
        (meanwhile,) = fleet.publish("step", timeout=1.0)
        fleet.release("go")
        eventually(lambda: time.monotonic() > frozen_until, "three seconds of silence")
    finally:
        server.resume()
    assert fleet.ledger.published()[meanwhile] == "unknown"
    healed_at = time.monotonic()
    fleet.drain()
    fleet.stop(worker)
    assert {held, *rest} <= set(fleet.ended())
    balance(fleet, "F11 broker frozen for longer than a lease", fleet.slots, healed_at, RESUMED)
