"""F12, F13: networks that carry nothing, one way only, late, slowly, and half of an answer."""

from __future__ import annotations

import random
import time

import pytest
from tests.faults.brokers import HASTY, PROXIED, on
from tests.faults.fleet import LEASE, RECOVERY, Balance, Fleet, Process
from tests.faults.proxy import Proxy

from kern_testing.waiting import eventually

pytestmark = on(*PROXIED)

#: Seconds from the end of a fault to the next start of a task.
RESUMED = 8.0
#: Seconds within which a worker knows that a connection is dead which nobody has closed.
NOTICED = HASTY + 2.0
#: Share of a processor that a worker with nothing to do may use, all its processes together.
IDLE = 0.15
CUTS = 6


@pytest.mark.parametrize("ways", [("requests", "replies"), ("requests",), ("replies",)], ids="+".join)
def test_f12_a_worker_that_is_cut_off_for_longer_than_its_lease_is_fenced(
    ways: tuple[str, ...], fleet: Fleet, balance: Balance
) -> None:
    """Its connection stays open and carries nothing: another does its work, and what it brings later is refused.

    When all is healed it goes on by itself.
    """
    proxy = fleet.proxy()
    lonely = fleet.ready(fleet.worker(through=proxy))
    (held,) = fleet.publish("hold", "go")
    fleet.until_started([held])
    proxy.silence(requests="requests" in ways, replies="replies" in ways)
    other = fleet.worker()
    fleet.until_started([held], times=2)
    fleet.release("go")
    eventually(lambda: fleet.ended().count(held) == 2, "both have run it")
    fleet.drain()
    fleet.stop(other)
    proxy.heal()
    healed_at = time.monotonic()
    (after,) = fleet.publish("step")
    fleet.drain()
    assert fleet.app.AsyncResult(after).get(timeout=10) == after
    assert lonely.running
    fleet.stop(lonely)
    assert fleet.app.AsyncResult(held).get(timeout=10) == held
    scenario = f"F12 worker cut off, nothing carries {' and '.join(ways)}"
    report = balance(fleet, scenario, 1, healed_at, RESUMED, concurrent=1)
    assert report.fenced <= 1, "the killed run of an isolated task has nothing to settle"


def test_f12_a_connection_that_only_the_worker_believes_in_is_noticed(fleet: Fleet, balance: Balance) -> None:
    """The server has forgotten it, and nobody tells the worker; it asks, has no answer, and connects anew."""
    proxy = fleet.proxy()
    worker = fleet.ready(fleet.worker(through=proxy, **fleet.broker.hasty))
    (held,) = fleet.publish("hold", "go")
    fleet.until_started([held])
    asked = len(proxy.asked_at)
    assert proxy.half_open() > 0
    broken_at = time.monotonic()
    eventually(lambda: len(proxy.asked_at) > asked, "the worker connects anew")
    assert proxy.asked_at[asked] - broken_at < NOTICED
    fleet.release("go")
    fleet.publish("step")
    fleet.drain()
    fleet.stop(worker)
    assert fleet.app.AsyncResult(held).get(timeout=10) == held
    # Nobody else was there: if the lease has ended meanwhile, it is this worker that runs it again.
    balance(fleet, "F12 half-open connection", 1, broken_at, RECOVERY, concurrent=1)


def used_while_idle(worker: Process, seconds: float = 2.0) -> float:
    """Share of one processor that the worker uses while nothing happens."""
    before, until = worker.cpu(), time.monotonic() + seconds
    eventually(lambda: time.monotonic() >= until, "some time has passed")
    return (worker.cpu() - before) / seconds


def test_f13_a_broker_that_answers_late_makes_nothing_wrong(fleet: Fleet, balance: Balance) -> None:
    """200 ms more for each round trip: slower, nothing twice, and nobody spins while it waits."""
    fleet.hold_leases()
    proxy = fleet.proxy()
    worker = fleet.ready(fleet.worker(through=proxy))
    proxy.slow(delay=0.1)
    fleet.publish("step", 0.01, count=20)
    fleet.drain()
    assert used_while_idle(worker) < IDLE
    proxy.heal()
    fleet.stop(worker)
    balance(fleet, "F13 200 ms more for each round trip")


def test_f13_a_narrow_network_makes_nothing_wrong(fleet: Fleet, balance: Balance) -> None:
    """64 kB a second, in pieces of about a kilobyte: most of what is seen is half an answer."""
    fleet.hold_leases()
    proxy = fleet.proxy()
    worker = fleet.ready(fleet.worker(through=proxy))
    proxy.slow(rate=64_000)
    calls = fleet.publish("echo", "a" * 20_000, count=4)
    before, began = worker.cpu(), time.monotonic()
    fleet.drain()
    used, took = worker.cpu() - before, time.monotonic() - began
    assert used / took < 0.7, "it spins on half an answer"
    assert used_while_idle(worker) < IDLE
    proxy.heal()
    fleet.stop(worker)
    assert sorted(fleet.ended()) == sorted(calls)
    balance(fleet, "F13 64 kB a second")


def test_f13_answers_that_are_cut_off_in_the_middle_lose_nothing(
    fleet: Fleet, balance: Balance, chance: random.Random
) -> None:
    """Again and again, at any byte: whoever was reading connects anew, and no half of an answer is believed."""
    fleet.hold_leases()
    proxy = fleet.proxy()
    worker = fleet.ready(fleet.worker(through=proxy))
    calls = fleet.publish("step", 0.01, count=100)
    for _ in range(CUTS):
        cut = proxy.cut_at("replies", after=chance.randint(1, 2000))
        assert cut.wait(20), "an answer came by"
    healed_at = time.monotonic()
    calls += fleet.publish("step", 0.01, count=5)
    fleet.drain()
    fleet.stop(worker)
    assert set(fleet.ended()) == set(calls)
    balance(fleet, f"F13 connection cut in the middle of an answer, {CUTS} times", 0, healed_at, LEASE + RESUMED)


def test_f13_a_cut_connection_is_rebuilt_at_once(fleet: Fleet, balance: Balance) -> None:
    """A reset is not a restart: the first attempt to connect anew is immediate, and the lease is kept."""
    fleet.hold_leases()
    proxy = fleet.proxy()
    worker = fleet.ready(fleet.worker(through=proxy))
    (held,) = fleet.publish("hold", "go")
    fleet.until_started([held])
    asked = reset(proxy)
    healed_at = time.monotonic()
    eventually(lambda: len(proxy.asked_at) > asked, "the worker connects anew", timeout=LEASE)
    (after,) = fleet.publish("step")
    eventually(lambda: after in fleet.ended() or fleet.slots == 1, "it works on")
    fleet.release("go")
    fleet.drain()
    fleet.stop(worker)
    assert fleet.started().count(held) == 1
    balance(fleet, "F13 connection reset while a task runs", 0, healed_at, RESUMED)


def reset(proxy: Proxy) -> int:
    """Cut all that is open; how often the proxy had been asked for a connection before."""
    asked = len(proxy.asked_at)
    assert proxy.cut() > 0
    return asked
