"""A worker, or a publisher, dies at each point that a task passes; another takes over."""

from __future__ import annotations

import random
import signal
import time

import pytest
from tests.faults.brokers import on
from tests.faults.fleet import RECOVERY, Balance, Fleet, Fleets

from kern import seams
from kern_testing import crash
from kern_testing.waiting import eventually

CALLS = 6


#: Effects beyond the first: one where the task has had its effect, and only the dead knew. Who claims because a slot
#: has become free may not yet have written what has freed it.
DUPLICATES = {
    "claiming": 1,
    "claimed": 0,
    "admitted": 0,
    "submitted": 0,
    "running": 0,
    "ran": 1,
    "finished": 1,
    "settling": 1,
    "settled": 0,
}
#: Those that have a scenario of their own below.
ELSEWHERE = {"publishing", "published", "result-written", "parking", "handing-back"}


def test_every_seam_has_its_scenario() -> None:
    assert {*DUPLICATES, *ELSEWHERE} == set(seams.NAMES)


def take_over(
    fleet: Fleet, victim_died: float, balance: Balance, scenario: str, duplicates: int, app: str = "project:app"
) -> None:
    """Another worker does what is left, once the lease of the dead has ended; nothing else of the dead is left."""
    fleet.until_gone()
    rescuer = fleet.worker(app=app)
    fleet.drain()
    fleet.stop(rescuer)
    balance(fleet, scenario, duplicates, victim_died, RECOVERY)


def crash_at(fleet: Fleet, seam: str, nth: int, balance: Balance) -> None:
    # Nothing is taken ahead, and so the bounds are exact: what the dead alone knew, and what else ran beside it.
    fleet.publish("step", 0.02, count=CALLS)
    worker = fleet.crashing_worker(seam, nth, worker_disable_prefetch=True)
    if seam in IN_CHILDREN and fleet.broker.isolated:
        eventually(lambda: (fleet.folder / "crashed").exists(), "a child has died")
        died_at = time.monotonic()
        fleet.drain()
        fleet.stop(worker)
        balance(fleet, f"F01 child killed at `{seam}`", DUPLICATES[seam], died_at, RECOVERY)
    else:
        worker.died()
        # Where tasks run in processes of their own, those outlive the worker by some milliseconds.
        own = max(DUPLICATES[seam], int(fleet.broker.isolated and seam == "submitted"))
        take_over(fleet, time.monotonic(), balance, f"F03/F04 killed at `{seam}`", own + fleet.slots - 1)
    assert not fleet.quarantined()


#: Reached where the task runs.
IN_CHILDREN = {"running", "ran"}


@pytest.mark.parametrize("seam", DUPLICATES)
def test_a_process_killed_at_a_seam_loses_nothing(
    seam: str, fleet: Fleet, balance: Balance, chance: random.Random
) -> None:
    crash_at(fleet, seam, chance.randint(1, CALLS // fleet.slots), balance)


@on("postgresql")
@pytest.mark.parametrize("seam", ["claimed", "settling"])
def test_a_process_killed_at_a_seam_loses_nothing_on_a_server(
    seam: str, fleet: Fleet, balance: Balance, chance: random.Random
) -> None:
    crash_at(fleet, seam, chance.randint(1, CALLS), balance)


def test_a_worker_killed_between_result_and_release_does_not_run_the_task_again(
    make_fleet: Fleets, balance: Balance, chance: random.Random
) -> None:
    """Result store and broker are two databases: the stored result tells the next worker that it is done."""
    fleet = make_fleet(apart=True)
    calls = fleet.publish("step", 0.02, count=CALLS)
    fleet.crashing_worker(
        "result-written", chance.randint(1, CALLS // fleet.slots), worker_disable_prefetch=True
    ).died()
    take_over(fleet, time.monotonic(), balance, "F03/F04 killed at `result-written`, two servers", fleet.slots - 1)
    assert [fleet.app.AsyncResult(call).get(timeout=10) for call in calls] == calls


def test_a_worker_killed_while_it_parks_loses_nothing(fleet: Fleet, balance: Balance, chance: random.Random) -> None:
    """It does not know the task; the next worker does."""
    fleet.publish("newer.newcomer", count=CALLS)
    fleet.crashing_worker("parking", chance.randint(1, 2)).died()
    take_over(fleet, time.monotonic(), balance, "F03/F04 killed at `parking`", 0, app="newer:app")


def test_a_worker_killed_while_it_hands_back_loses_nothing(fleet: Fleet, balance: Balance) -> None:
    held = fleet.publish("hold", "go", count=fleet.slots)
    fleet.publish("step", count=CALLS)
    worker = fleet.crashing_worker("handing-back")
    fleet.until_started(held)
    worker.send(signal.SIGTERM)
    worker.died()
    fleet.release("go")
    take_over(fleet, time.monotonic(), balance, "F03/F04 killed at `handing-back`", 0)


#: Publishes one by one; the ledger knows what it intended and what it was told.
PUBLISHER = """
from kern_testing.ledger import Ledger
from project import PLACE, step

ledger = Ledger(PLACE)
for number in range({first}, {last}):
    with ledger.publishing(f"call-{{number}}"):
        step.apply_async(task_id=f"call-{{number}}")
"""


@pytest.mark.parametrize("seam", ["publishing", "published"])
def test_a_publisher_killed_may_send_again_under_the_same_id(
    seam: str, fleet: Fleet, balance: Balance, chance: random.Random
) -> None:
    """F19: what it was told is true, and nothing comes twice of sending again."""
    fleet.script(PUBLISHER.format(first=0, last=CALLS), crash.environment(seam, chance.randint(1, CALLS))).died()
    published = fleet.ledger.published()
    in_doubt = [call for call, answer in published.items() if answer == "unknown"]
    assert len(in_doubt) == 1
    again = fleet.script(PUBLISHER.format(first=len(published) - 1, last=CALLS))
    assert again.wait() == 0, again.said()
    worker = fleet.worker()
    fleet.drain()
    fleet.stop(worker)
    report = balance(fleet, f"F19 publisher killed at `{seam}`, sends again")
    assert len(report.confirmed) == CALLS
    assert len(fleet.started()) == CALLS
