"""Leases are kept while their worker lives, and fenced when they are not."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import pytest

from kern import states
from kern.contracts.port import Lost
from kern.errors import TransportError
from kern_testing import make
from kern_testing.waiting import eventually, throughout

SHORT = {"worker_lease_seconds": 0.6, "worker_heartbeat": 0.1}


@pytest.mark.parametrize("config", [SHORT])
def test_a_task_longer_than_its_lease_runs_once(bench: Any) -> None:
    """Its lease is renewed while it runs, though the task never lets go of the processor."""
    ran: list[str] = []

    @bench.app.task(bind=True)
    def busy(self: Any) -> int:
        ran.append(self.request.hostname)
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            pass
        return 1

    result = busy.delay()
    bench.worker(hostname="a@h")
    eventually(lambda: ran)
    bench.worker(hostname="b@h")  # hands back what is not renewed
    assert result.get(timeout=10) == 1
    bench.empty()
    assert ran == ["a@h"]


@pytest.mark.parametrize("config", [SHORT])
def test_results_that_wait_keep_their_lease(apart: Any) -> None:
    """What waits for its store is still this worker's."""
    ran: list[int] = []

    @apart.app.task
    def one() -> int:
        ran.append(1)
        return 1

    apart.worker(lambda b: b.store.gates["write"].shut())
    result = one.delay()
    eventually(lambda: ran)
    apart.worker()
    throughout(lambda: ran == [1], 1.5)
    apart.stores[0].gates["write"].open()
    assert result.get(timeout=5) == 1
    apart.empty()
    assert ran == [1]


@pytest.mark.parametrize("config", [SHORT])
def test_a_server_that_stands_still_does_not_freeze_the_loop(bench: Any) -> None:
    """While the driver is held up: limits, services and signals go on; the lease is lost and the outcome refused."""
    go_on = threading.Event()
    ran: list[str] = []

    @bench.app.task(bind=True, soft_time_limit=0.5)
    def limited(self: Any) -> None:
        ran.append("began")
        try:
            go_on.wait(20)
            while True:
                time.sleep(0.005)  # the task's own duration
        finally:
            ran.append("ended")

    ticks: list[float] = []
    running = bench.worker()
    running.loop.call_soon_threadsafe(lambda: _tick(running.loop, ticks))
    limited.delay()
    eventually(lambda: ran == ["began"])
    gate = bench.transport.gates["renew"]
    gate.shut()
    go_on.set()
    eventually(lambda: ran == ["began", "ended"], "the limit acts")
    throughout(lambda: True, 0.5)
    pauses = [later - earlier for earlier, later in itertools.pairwise(ticks)]
    assert max(pauses) < 0.3, "the loop stood still"
    assert bench.client.recover() == 1, "the lease was not renewed"
    gate.open()
    eventually(lambda: running.worker.flow.fenced == 1)
    eventually(lambda: bench.transport.marked, "it runs again, under suspicion")


def _tick(loop: Any, ticks: list[float]) -> None:
    ticks.append(time.monotonic())
    loop.call_later(0.01, _tick, loop, ticks)


@pytest.mark.parametrize("config", [SHORT])
def test_a_lost_lease_is_noticed_and_what_has_not_started_is_dropped(bench: Any) -> None:
    """What runs is refused when it ends; what waits never starts here."""
    go_on = threading.Event()
    ran: list[int] = []

    @bench.app.task
    def note(number: int) -> int:
        ran.append(number)
        if number == 0:
            go_on.wait(20)
        return number

    bench.app.conf.worker_prefetch_multiplier = 5
    results = [note.delay(number) for number in range(4)]
    running = bench.worker()
    eventually(lambda: ran == [0] and running.worker.held == 4)
    bench.client.recover(everything=True)
    deliveries = bench.client.claim(make.claim_of("celery", lease_seconds=60)).deliveries
    assert len(deliveries) == 4
    eventually(lambda: running.worker.held == 1, "what had not started is dropped")
    go_on.set()
    eventually(lambda: running.worker.held == 0)
    assert ran == [0]
    assert running.worker.flow.fenced == 1
    assert bench.document(results[0].id) is None
    bench.client.settle([make.settlement(delivery) for delivery in deliveries])


def test_the_driver_may_say_itself_what_is_lost(bench: Any) -> None:
    """A broker that tells it does not have to be asked."""
    go_on = threading.Event()

    @bench.app.task
    def note() -> None:
        go_on.wait(20)

    running = bench.worker()
    note.delay()
    eventually(lambda: running.worker.held == 1 and running.worker.flow.flights.running == 1)
    (entry,) = running.worker.flow.flights
    running.worker.flow.transport_sink(Lost(frozenset({entry.receipt, "somebody else's"})))
    eventually(lambda: entry.lost)
    go_on.set()
    eventually(lambda: running.worker.flow.fenced == 1)


@pytest.mark.parametrize("config", [SHORT])
def test_a_worker_hands_back_what_a_dead_one_held(bench: Any) -> None:
    """With the heartbeat, also from queues it does not consume itself."""
    bench.app.send_task("tests.x", queue="elsewhere")
    bench.client.claim(make.claim_of("elsewhere", lease_seconds=0.2))
    bench.worker()
    eventually(lambda: bench.depth("elsewhere").ready == 1)


def test_after_a_reconnect_leases_are_renewed_before_anything_is_claimed(bench: Any) -> None:
    """Until then others may think this worker dead."""
    go_on = threading.Event()

    @bench.app.task
    def note() -> None:
        go_on.wait(20)

    bench.app.conf.worker_prefetch_multiplier = 10  # so that it goes on claiming while one task runs
    running = bench.worker()
    note.delay()
    eventually(lambda: running.worker.flow.flights.running == 1)
    order: list[str] = []
    transport = bench.transport
    renew, claim = transport.renew, transport.claim

    def note_claim(wanted: Any) -> Any:
        try:
            answer = claim(wanted)
        except TransportError:
            order.append("cut")
            raise
        order.append("claim")
        return answer

    transport.renew = lambda *arguments: order.append("renew") or renew(*arguments)
    transport.claim = note_claim
    transport.failing["claim"].append(TransportError("cut"))
    eventually(lambda: "cut" in order and "claim" in order[order.index("cut") :])
    assert order[order.index("cut") + 1] == "renew"
    go_on.set()


def test_a_worker_that_is_stopped_for_longer_than_its_lease_is_fenced(bench: Any) -> None:
    """Its task was run by another meanwhile; its own outcome changes nothing of what that one stored."""
    turn, go_on = [0], threading.Event()

    @bench.app.task
    def which() -> int:
        turn[0] += 1
        mine = turn[0]
        if mine == 1:
            go_on.wait(20)
        return mine

    result = which.delay()
    first = bench.worker(lambda b: b.transport.gates["renew"].shut())
    eventually(lambda: turn == [1])
    bench.clock.advance(16)
    assert bench.client.recover() == 1
    second = bench.worker()
    assert result.get(timeout=5) == 2
    eventually(lambda: second.worker.held == 0)
    go_on.set()
    bench.transports[0].gates["renew"].open()
    eventually(lambda: first.worker.flow.fenced == 1)
    assert bench.app.AsyncResult(result.id).get(timeout=5) == 2
    assert bench.document(result.id).status == states.SUCCESS
