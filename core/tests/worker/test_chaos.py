"""Connections that fail, leases that are taken away, workers that come and go: the books balance."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any

import pytest

from kern import states
from kern.errors import BackendUnavailable, TransportError
from kern_testing.waiting import eventually

CALLS = 300
#: Seeds that are run each time.
SEEDS = range(3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("config", [{"worker_lease_seconds": 2.0, "worker_heartbeat": 0.05}])
def test_nothing_is_lost_and_nothing_is_left(apart: Any, seed: int) -> None:
    """Two servers, three workers, a fault every few runs: each call has its result, no table keeps anything."""
    chance = random.Random(seed)
    ran: Counter[int] = Counter()
    lock = threading.Lock()

    def noted(number: int) -> int:
        with lock:
            ran[number] += 1
        time.sleep(chance.choice((0.001, 0.001, 0.002, 0.01)))  # the task's own duration
        return number

    @apart.app.task
    def plain(number: int) -> int:
        return noted(number)

    @apart.app.task(bind=True, max_retries=None)
    def flaky(self: Any, number: int) -> int:
        noted(number)
        if self.request.retries < 2:
            raise self.retry(countdown=0.01)
        return number

    @apart.app.task(rate_limit="500/s")
    def limited(number: int) -> int:
        return noted(number)

    kinds = [plain, flaky, limited]
    results = [chance.choice(kinds).apply_async((n,), countdown=chance.choice((None, 0.05))) for n in range(CALLS)]
    faults = Counter[str]()
    workers = [apart.worker() for _ in range(3)]
    while len(ran) < CALLS * 0.9:
        reached = min(sum(ran.values()) + chance.randint(1, 4), CALLS)
        eventually(lambda reached=reached: sum(ran.values()) >= reached, "work goes on after each fault")
        fault = chance.choice(("claim", "settle", "park", "renew", "mark_started", "write", "recover", "restart"))
        faults[fault] += 1
        if fault == "recover":
            if chance.random() < 0.3:
                apart.client.recover(everything=True)
        elif fault == "write":
            chance.choice(apart.stores).failing["write"].append(BackendUnavailable("cut"))
        elif fault == "restart":
            if chance.random() < 0.2:
                workers.pop(0).stop()
                workers.append(apart.worker())
        else:
            chance.choice(apart.transports[-3:]).failing[fault].append(TransportError("cut"))
    for driver in (*apart.transports, *apart.stores):
        driver.failing.clear()
    apart.empty()
    for running in workers:
        eventually(lambda running=running: running.worker.held == 0, "nothing is held")
        flow = running.worker.flow
        assert (flow.settler.unsettled, flow.settler._bytes, len(flow.flights)) == (0, 0, 0)
        assert not flow.dispatcher.exclusive
    for number, result in enumerate(results):
        assert result.get(timeout=5) == number
        assert apart.document(result.id).status == states.SUCCESS
    assert set(ran) == set(range(CALLS))
    assert apart.client.quarantined() == [], f"{faults}"
    assert len(faults) == 8
    assert plain.delay(CALLS).get(timeout=5) == CALLS
