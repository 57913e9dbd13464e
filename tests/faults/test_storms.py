"""F18, F35: everybody at once; connecting anew, and trying again."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.faults.brokers import ISOLATED, PROXIED, QUEUE, on
from tests.faults.fleet import Balance, Fleet
from tests.faults.redis_wire import Raw

from kern_testing.ledger import CONFIRMED, REFUSED, read
from kern_testing.waiting import eventually

WORKERS, CLIENTS = 3, 30
#: Seconds for which nobody is let in, and those after which all are back.
CLOSED, BACK = 2.0, 10.0
#: Attempts to connect in that time, of each: pauses grow.
ATTEMPTS = 15

RETRYING = 200
#: Seconds that what the tasks need is down, and how often each tries meanwhile on average at most: it waits for
#: 0.5 s, 1 s, and then 2 s, or for any part of that.
DOWN, TRIES = 2.5, 8


@on(*PROXIED)
def test_f18_everybody_connects_anew_at_once_and_all_are_back(fleet: Fleet, balance: Balance) -> None:
    """Cut off together and refused for two seconds: pauses grow and differ, and everybody is served in the end."""
    fleet.hold_leases()
    proxy = fleet.proxy()
    workers = [fleet.worker(through=proxy) for _ in range(WORKERS)]
    clients = [fleet.client(through=proxy, publish_timeout=20.0) for _ in range(CLIENTS)]
    for worker in workers:
        fleet.ready(worker)
    with ThreadPoolExecutor(CLIENTS) as everybody:
        assert all(everybody.map(lambda app: app.connection.do(lambda port: port.depth([QUEUE]), 10), clients))
        proxy.refuse()
        asked = len(proxy.asked_at)
        proxy.cut()
        refused_at = time.monotonic()
        publishing = [
            everybody.submit(fleet.publish, "step", app=app, retry_policy={"max_retries": None}) for app in clients
        ]
        eventually(lambda: time.monotonic() > refused_at + CLOSED, "two seconds of refusal")
        attempts = [at - refused_at for at in proxy.asked_at[asked:]]
        proxy.heal()
        healed_at = time.monotonic()
        calls = [call for done in publishing for call in done.result(30)]
    fleet.drain()
    assert time.monotonic() - healed_at < BACK
    assert all(worker.running for worker in workers)
    fleet.stop(*workers)
    assert set(fleet.ledger.published().values()) == {CONFIRMED}
    assert len(attempts) <= ATTEMPTS * (WORKERS + CLIENTS)
    # In the second half of the wait they no longer come all together: no tenth of a second has more than half of them.
    late = Counter(int(at * 10) for at in attempts if at > CLOSED / 2)
    assert late, "nobody has tried again"
    assert max(late.values()) <= max(3, sum(late.values()) // 2), late
    assert sorted(fleet.ended()) == sorted(calls)
    balance(fleet, f"F18 {WORKERS} workers and {CLIENTS} clients connect anew at once", 0, healed_at, BACK)


@on("redis")
def test_f18_who_finds_the_server_full_is_served_once_there_is_room(fleet: Fleet, balance: Balance) -> None:
    """`maxclients` is reached: workers wait for their turn, callers are told in time, and all are there in the end."""
    fleet.hold_leases()
    assert fleet.broker.server is not None
    first = fleet.ready(fleet.worker())
    with Raw(fleet.broker.server.port) as raw:
        taken = raw("CLIENT", "LIST").count(b"\n")
        raw("CONFIG", "SET", "maxclients", taken)
        try:
            others = [fleet.worker() for _ in range(WORKERS - 1)]
            late = fleet.client()
            before = time.monotonic()
            (refused,) = fleet.publish("step", app=late, timeout=1.0)
            assert time.monotonic() - before < 3.0
            assert fleet.ledger.published()[refused] == REFUSED
            (served,) = fleet.publish("step")
            eventually(lambda: served in fleet.ended(), "who was there goes on")
            eventually(lambda: all("maxclients" in other.said() for other in others), "they say why")
        finally:
            raw("CONFIG", "SET", "maxclients", 10_000)
        healed_at = time.monotonic()
        for other in others:
            fleet.ready(other)
    assert time.monotonic() - healed_at < BACK
    fleet.publish("step", app=late)
    fleet.drain()
    fleet.stop(first, *others)
    balance(fleet, "F18 server full", 0, healed_at, BACK)


@on(*ISOLATED)
def test_f35_retries_back_off_and_drain_once_all_is_well(fleet: Fleet, balance: Balance) -> None:
    """What 200 tasks need is down: they try again at growing intervals, others are served, and all end well."""
    fleet.hold_leases()
    worker = fleet.worker()
    calls = fleet.publish("call_downstream", count=RETRYING)
    attempts = fleet.folder / "attempts.jsonl"
    eventually(lambda: len({entry["id"] for entry in read(attempts)}) == RETRYING, "each has tried")
    began = time.monotonic()
    (other,) = fleet.publish("step")
    eventually(lambda: other in fleet.ended(), "others are served meanwhile", timeout=5)
    eventually(lambda: time.monotonic() > began + DOWN, "it is down for a while")
    tried = Counter(entry["id"] for entry in read(attempts))
    fleet.release("downstream")
    healed_at = time.monotonic()
    fleet.drain()
    fleet.stop(worker)
    assert sum(tried.values()) <= RETRYING * TRIES
    assert len(tried) == RETRYING
    assert min(tried.values()) >= 1
    assert sorted(fleet.ended()) == sorted([*calls, other])
    balance(fleet, f"F35 {RETRYING} tasks whose downstream fails", 0, healed_at, 5.0)
