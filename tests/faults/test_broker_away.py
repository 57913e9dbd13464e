"""A broker that stops, restarts, or falls silent: everybody goes on alone, and nothing is lost."""

from __future__ import annotations

import random
import time

import pytest
from tests.faults.fleet import Balance, Fleet, Fleets

from kern_testing.ledger import CONFIRMED
from kern_testing.servers import PostgreSQL
from kern_testing.waiting import eventually

#: Seconds from the end of a fault to the next start of a task.
RESUMED = 8.0


@pytest.fixture
def on_postgresql(make_fleet: Fleets, postgresql_url: str) -> Fleet:
    return make_fleet(postgresql_url)


@pytest.mark.parametrize("hard", [False, True], ids=["restart", "kill"])
def test_f10_everybody_resumes_after_the_broker_was_restarted(
    hard: bool, on_postgresql: Fleet, postgresql_server: PostgreSQL, balance: Balance, chance: random.Random
) -> None:
    """While it runs tasks, and while somebody publishes: who publishes is told the truth."""
    fleet = on_postgresql
    # Nothing is taken ahead: with one task at a time in the worker, the bound is exact.
    worker = fleet.worker(worker_disable_prefetch=True)
    fleet.publish("step", 0.02, count=30)
    eventually(lambda: len(fleet.ended()) >= chance.randint(2, 8), "the worker is at work")
    postgresql_server.restart(hard)
    healed_at = time.monotonic()
    for _ in range(3):
        fleet.publish("step", 0.02)
    fleet.drain()
    fleet.stop(worker)
    report = balance(fleet, f"F10 broker {'killed' if hard else 'restarted'}", 1, healed_at, RESUMED)
    assert len(report.confirmed) >= 30


def test_f10_an_idle_worker_resumes(on_postgresql: Fleet, postgresql_server: PostgreSQL, balance: Balance) -> None:
    """Three times in a row; it is not at work when it happens."""
    fleet = on_postgresql
    worker = fleet.ready(fleet.worker())
    for _ in range(3):
        postgresql_server.restart()
        healed_at = time.monotonic()
        (call,) = fleet.publish("step")
        assert fleet.ledger.published()[call] == CONFIRMED
        fleet.drain()
    assert worker.running
    fleet.stop(worker)
    balance(fleet, "F10 broker restarted three times, worker idle", 0, healed_at, RESUMED)


def test_f11_everybody_resumes_after_the_broker_was_frozen(
    on_postgresql: Fleet, postgresql_server: PostgreSQL, balance: Balance
) -> None:
    """For longer than a lease: leases end while nobody can renew them, and what runs meanwhile is not lost."""
    fleet = on_postgresql
    worker = fleet.worker()
    (held,) = fleet.publish("hold", "go")
    rest = fleet.publish("step", 0.02, count=10)
    fleet.until_started([held])
    postgresql_server.pause()
    try:
        frozen_until = time.monotonic() + 3.0
        (meanwhile,) = fleet.publish("step", timeout=1.0)
        fleet.release("go")
        eventually(lambda: time.monotonic() > frozen_until, "three seconds of silence")
    finally:
        postgresql_server.resume()
    assert fleet.ledger.published()[meanwhile] == "unknown"
    healed_at = time.monotonic()
    fleet.drain()
    fleet.stop(worker)
    assert {held, *rest} <= set(fleet.ended())
    balance(fleet, "F11 broker frozen for longer than a lease", 1, healed_at, RESUMED)
