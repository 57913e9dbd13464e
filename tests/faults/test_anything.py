"""Whatever is killed, and whoever is beside it."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from tests.faults.brokers import ISOLATED, on
from tests.faults.fleet import Balance, Fleet, Process

from kern_testing.ledger import CONFIRMED
from kern_testing.waiting import eventually

CALLS = 120
KILLS = 6
ATTEMPTS = 2

#: Publishes one by one what the ledger does not know to be confirmed; says so before and after.
PUBLISHER = f"""
from kern_testing.ledger import CONFIRMED, Ledger
from project import PLACE, step

ledger = Ledger(PLACE)
while missing := [f"call-{{n}}" for n in range({CALLS}) if ledger.published().get(f"call-{{n}}") != CONFIRMED]:
    for call in missing:
        with ledger.publishing(call):
            step.apply_async((0.02,), task_id=call, retry=False)
"""


def until_done_or_dead(fleet: Fleet, worker: Process) -> None:
    eventually(lambda: not worker.running or not fleet.left(), "the work is done, or the worker dead", timeout=30)


@on(*ISOLATED)
def test_kill_9_of_anything_at_any_time_loses_nothing(fleet: Fleet, balance: Balance, chance: random.Random) -> None:
    """Main processes, children, whatever makes them, the publisher, the server: each death may repeat what ran then."""
    fleet.settings["task_max_attempts"] = KILLS + 1
    workers = [fleet.worker(), fleet.worker()]
    publisher = fleet.script(PUBLISHER)
    server = fleet.broker.server
    assert server is not None
    for kill in range(1, KILLS + 1):
        enough = kill * CALLS // (KILLS + 2) + chance.randint(0, 10)
        fleet.until_ended(enough)
        victim = chance.choice([server.pid, *sorted(fleet.alive())])
        if victim == server.pid:
            server.restart(hard=True)
        else:
            os.kill(victim, signal.SIGKILL)
            fleet.until_dead(victim)
        workers = [worker if worker.running else fleet.worker() for worker in workers]
        if not publisher.running:
            publisher = fleet.script(PUBLISHER)
    killed_at = time.monotonic()
    assert publisher.wait(60) == 0, publisher.said()
    fleet.drain()
    for worker in workers:
        fleet.ready(worker)
    fleet.stop(*workers)
    # What runs at once in both workers, and the call that the publisher was about to send.
    balance(fleet, f"{KILLS} kills of anything", KILLS * (2 * fleet.slots + 1), killed_at)
    assert set(fleet.ledger.published().values()) == {CONFIRMED}
    assert len(set(fleet.ended())) == CALLS
    assert not fleet.quarantined()


@on(*ISOLATED)
def test_a_task_that_merely_shared_a_worker_with_a_killer_is_never_quarantined(fleet: Fleet, balance: Balance) -> None:
    """It kills the whole worker each time. What ran beside it, and what lay there, has one death to its name: none."""
    beside = fleet.publish("hold", "go", count=fleet.slots - 1)
    waiting: list[str] = []
    killer = ""
    deaths = 0
    while True:
        worker = fleet.worker(task_max_attempts=ATTEMPTS)
        if not killer:
            fleet.until_started(beside)
            waiting = fleet.publish("step", 0.01, count=10)
            (killer,) = fleet.publish("kill_worker")
        until_done_or_dead(fleet, worker)
        if worker.running:
            fleet.stop(worker)
            break
        worker.died()
        fleet.until_gone()
        fleet.release("go")
        deaths += 1
        assert deaths <= ATTEMPTS + 1
    # The first death names suspects and is counted against nobody.
    assert deaths == ATTEMPTS + 1
    assert [kept.message and kept.message.task_id for kept in fleet.quarantined()] == [killer]
    assert fleet.started().count(killer) == deaths
    assert set(fleet.ended()) == {*beside, *waiting}
    with pytest.raises(Exception, match=f"killed its process {ATTEMPTS} times"):
        fleet.app.AsyncResult(killer).get(timeout=10)
    balance(fleet, "F23 task that kills its whole worker", fleet.slots)
