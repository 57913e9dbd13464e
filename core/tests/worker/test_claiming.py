"""How much a worker takes, from where and when."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from kern.delivery import Delivery
from kern.worker.claiming import HORIZON, LARGEST_CLAIM, ConsumedQueues, Room
from kern.worker.state import FlightTable, InFlight, Phase, RunTimes
from kern_testing import make
from kern_testing.memory import space
from kern_testing.waiting import eventually, throughout


class Holding:
    """A room, and what is in it."""

    def __init__(self, slots: int, runtimes: tuple[float, ...] = (), **options: Any) -> None:
        self.flights = FlightTable()
        self.run_times = RunTimes()
        for runtime in runtimes:
            self.run_times.note(runtime)
        self.exclusive = False
        self.room = Room(self.flights, self.run_times, lambda: slots, lambda: self.exclusive, **options)

    def hold(self, phase: Phase, count: int = 1, since: float = 0.0) -> None:
        for _ in range(count):
            delivery = Delivery(make.unique("receipt"), "q", "me", None)
            self.flights.add(InFlight(delivery, None, time.monotonic(), phase, started_at=time.monotonic() - since))

    @property
    def left(self) -> int:
        return self.room.left()


def test_without_history_a_worker_takes_what_it_has_slots_for() -> None:
    """Nothing is known of how long tasks take, so nothing is taken ahead."""
    holding = Holding(slots=4)
    assert holding.left == 4
    holding.hold(Phase.STARTED, 3)
    assert holding.left == 1
    holding.hold(Phase.SUBMITTED, 2)
    assert holding.left == 0


def test_short_tasks_are_taken_ahead_by_their_run_time() -> None:
    """As many as the slots come to within the horizon by the 95th percentile, and a hundred at most."""
    assert Holding(4, (0.01,) * 20).left == 4 + int(4 * HORIZON / 0.01)
    assert Holding(4, (0.000_001,) * 20).left == 4 + LARGEST_CLAIM


def test_one_slow_task_in_ten_counts() -> None:
    """The 95th percentile is what matters, not the average."""
    assert Holding(1, (0.001,) * 18 + (10.0,) * 2).left == 1


def test_long_tasks_are_not_taken_ahead() -> None:
    """What would wait longer than a round trip is left for others."""
    holding = Holding(2, (60.0,) * 5)
    holding.hold(Phase.STARTED)
    assert holding.left == 1


def test_a_stuck_slot_comes_to_nothing() -> None:
    """However short tasks were before, those behind one that does not end would wait for it."""
    holding = Holding(1, (0.001,) * 20)
    holding.hold(Phase.STARTED, since=0.0)
    assert holding.left == int(HORIZON / 0.001)
    stuck = Holding(1, (0.001,) * 20)
    stuck.hold(Phase.STARTED, since=10.0)
    assert stuck.left == 0


def test_a_prefetch_multiplier_overrides() -> None:
    """So many for each slot, running ones included, whatever run times say; 0 is no limit."""
    holding = Holding(2, (0.001,) * 20, prefetch_multiplier=4)
    assert holding.left == 8
    holding.hold(Phase.STARTED, 2)
    holding.hold(Phase.SUBMITTED, 5)
    assert holding.left == 1
    unlimited = Holding(2, prefetch_multiplier=0)
    unlimited.hold(Phase.SUBMITTED, 500)
    assert unlimited.left == LARGEST_CLAIM


def test_prefetching_can_be_switched_off() -> None:
    """Then free slots alone count."""
    holding = Holding(2, (0.001,) * 20, ahead=False)
    holding.hold(Phase.STARTED)
    assert holding.left == 1


def test_beside_a_request_that_runs_alone_nothing_is_taken() -> None:
    """It could only wait."""
    holding = Holding(8)
    holding.exclusive = True
    assert holding.left == 0


def test_counts_follow_the_table_whatever_happens() -> None:
    """Moving, removing and removing again leave the counts at what the table has."""
    flights = FlightTable()
    delivery = Delivery("receipt", "q", "me", None)
    entry = InFlight(delivery, None, 0.0)
    flights.add(entry)
    flights.move(entry, Phase.STARTED)
    assert (flights.waiting, flights.running, flights.ending) == (0, 1, 0)
    flights.remove(entry)
    flights.remove(entry)
    flights.move(entry, Phase.ENDED)
    assert (flights.waiting, flights.running, flights.ending, len(flights)) == (0, 0, 0, 0)


# -- with a broker -----------------------------------------------------------------------------------------------------


def test_claims_grow_with_short_tasks(bench: Any) -> None:
    """The first claim asks for one message (one slot, nothing known), later ones for many; all keep the byte budget."""

    @bench.app.task
    def nothing() -> None: ...

    bench.app.send_many([nothing.s() for _ in range(500)])
    bench.worker()
    bench.empty()
    limits = [claim.limit for claim in bench.transport.claims]
    assert limits[0] == 1
    assert 50 <= max(limits) <= LARGEST_CLAIM
    assert {claim.byte_budget for claim in bench.transport.claims} == {262_144}
    assert len(limits) < 100, "claims for crumbs"


def test_an_idle_worker_asks_about_once_a_second(bench: Any) -> None:
    """It is told of new messages; the rest is for safety."""
    bench.worker()
    eventually(lambda: bench.transport.claims, "the first claim")
    before = len(bench.transport.claims)
    throughout(lambda: True, 1.5)
    assert len(bench.transport.claims) - before <= 3


def test_queues_are_served_fairly(bench: Any) -> None:
    """Behind a thousand messages of one queue, the few of another do not wait for the thousand."""
    order: list[str] = []

    @bench.app.task
    def note(queue: str) -> None:
        order.append(queue)

    bench.app.send_many([note.s("full").set(queue="full") for _ in range(1000)])
    bench.app.send_many([note.s("small").set(queue="small") for _ in range(5)])
    bench.worker(queues=["full", "small"])
    bench.empty("full")
    bench.empty("small")
    assert order.count("small") == 5
    assert max(index for index, queue in enumerate(order) if queue == "small") < 500


def test_one_busy_queue_among_many_gets_whole_claims(bench: Any) -> None:
    """Idle queues take nothing from the share of the busy one."""

    @bench.app.task
    def nothing() -> None: ...

    bench.app.send_many([nothing.s().set(queue="q3") for _ in range(600)])
    bench.worker(queues=[f"q{number}" for number in range(10)])
    bench.empty("q3")
    assert max(claim.queues["q3"] for claim in bench.transport.claims) >= 50


def test_queues_are_data(bench: Any) -> None:
    """Paused, resumed, added and cancelled while the worker runs; the broker declares what is added, presence shows
    it."""
    ran: list[str] = []

    @bench.app.task
    def note(queue: str) -> None:
        ran.append(queue)

    running = bench.worker()
    worker = running.worker

    def on_loop(act: Any) -> None:
        done = threading.Event()
        running.loop.call_soon_threadsafe(lambda: (act(), done.set()))
        assert done.wait(5)

    on_loop(lambda: worker.queues.pause("celery"))
    eventually(lambda: worker.why_not_ready == "no queue is consumed")
    claims = len(bench.transport.claims)
    note.delay("paused")
    throughout(lambda: not ran, 0.2)
    assert len(bench.transport.claims) <= claims + 1
    on_loop(lambda: worker.queues.resume("celery"))
    eventually(lambda: ran == ["paused"])

    import asyncio

    asyncio.run_coroutine_threadsafe(worker.add_queue("more"), running.loop).result(5)
    note.apply_async(("added",), queue="more")
    eventually(lambda: ran == ["paused", "added"])
    eventually(lambda: bench.client.presence()[0].queues == ("celery", "more"), "presence shows what is consumed")

    on_loop(lambda: worker.cancel_queue("more"))
    eventually(lambda: bench.client.presence()[0].queues == ("celery",))
    note.apply_async(("cancelled",), queue="more")
    throughout(lambda: len(ran) == 2, 0.2)
    assert bench.depth("more").ready == 1


def test_changes_of_queues_are_told() -> None:
    """Whoever wants to know is called after each change, and what was cancelled is not paused when it comes back."""
    queues, changes = ConsumedQueues(["a"]), []
    queues.changed = lambda: changes.append(queues.active())
    queues.pause("a")
    queues.cancel("a")
    queues.add("a")
    queues.resume("a")
    assert changes == [(), (), ("a",), ("a",)]


def test_a_claim_answered_after_the_stop_is_handed_back(bench: Any) -> None:
    """What the broker leased before it heard of the stop is ready again at once, uncounted, and does not run."""
    ran: list[int] = []

    @bench.app.task
    def note(number: int) -> None:
        ran.append(number)

    running = bench.worker(lambda b: b.transport.gates["claim"].shut())
    gate = bench.transport.gates["claim"]
    eventually(lambda: gate.waiting, "a claim is under way")
    gate.open()
    gate.shut()
    note.delay(1)
    eventually(lambda: gate.waiting and bench.depth().leased, "the message is leased, the answer on its way")
    running.worker.stop()
    eventually(lambda: running.worker.why_not_ready == "the worker is stopping")
    gate.open()
    eventually(lambda: not running.alive, "the worker ends")
    depth = bench.depth()
    assert (depth.ready, depth.leased) == (1, 0)
    assert not ran
    (delivery,) = bench.client.claim(make.claim_of("celery")).deliveries
    assert (delivery.attempts, delivery.suspect) == (0, False)


def test_what_waits_to_be_written_is_bounded(apart: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a result store that does not answer, claiming stops at the bound and the worker says why; leases are kept,
    and all is written when the store answers."""
    monkeypatch.setattr("kern.worker.settling.OUTCOMES_WAITING", 50)
    apart.app.conf.worker_heartbeat = 0.1

    @apart.app.task
    def nothing() -> None: ...

    apart.app.send_many([nothing.s() for _ in range(1000)])
    running = apart.worker(lambda b: b.store.gates["write"].shut())
    eventually(lambda: "outcomes wait to be written" in (running.worker.why_not_ready or ""))
    eventually(lambda: apart.depth().ready < 1000)
    ready, renewals = apart.depth().ready, apart.transport.renewals
    eventually(lambda: apart.transport.renewals >= renewals + 2, "leases are renewed meanwhile")
    assert running.worker.held <= 50 + 2 * LARGEST_CLAIM
    assert apart.depth().ready == ready
    apart.store.gates["write"].open()
    apart.empty()
    assert running.worker.totals == {"SUCCESS": 1000}
    assert running.worker.why_not_ready is None


def test_an_unreachable_broker_is_why_nothing_is_claimed(bench: Any) -> None:
    """The worker says so while it lasts, asks for nothing, and claims again when it is over."""
    ran: list[int] = []

    @bench.app.task
    def note() -> None:
        ran.append(1)

    running = bench.worker()
    assert running.worker.why_not_ready is None
    name = bench.app.broker_url.removeprefix("memory://")
    with space(name).outage():
        eventually(lambda: running.worker.why_not_ready == "the broker cannot be reached")
    eventually(lambda: running.worker.why_not_ready is None)
    note.delay()
    eventually(lambda: ran)
