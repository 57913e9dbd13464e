"""The pool on the loop of a worker, and what is left when that loop ends."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path

from kern import Kern
from kern.contracts.pool import Finished, PoolEvent, PoolOptions
from kern_pool_prefork.pool import PreforkPool
from kern_testing.contracts.pool import Orders, child_processes, run
from kern_testing.waiting import PATIENCE, eventually


def made(app: Kern) -> PreforkPool:
    app.conf.worker_pool_start_method = "fork"
    return PreforkPool(app, PoolOptions(concurrency=2, hostname="tests@here"))


def test_everything_is_told_on_the_loop_it_was_started_on(app: Kern, tmp_path: Path) -> None:
    """No thread is needed, and none is made."""
    orders, events = Orders(tmp_path), list[PoolEvent]()

    async def main() -> None:
        loop, all_there = asyncio.get_running_loop(), asyncio.Event()

        def sink(said: object) -> None:
            assert asyncio.get_running_loop() is loop
            events.extend(said)  # type: ignore[arg-type]
            if sum(isinstance(event, Finished) for event in events) == 100:
                all_there.set()

        pool = made(app)
        await asyncio.wrap_future(pool.start(run, sink))
        threads = len(os.listdir("/proc/self/task"))
        pool.submit([orders.request() for _ in range(100)])
        await asyncio.wait_for(all_there.wait(), PATIENCE)
        assert len(os.listdir("/proc/self/task")) == threads
        await asyncio.wrap_future(pool.stop(5))

    asyncio.run(main())


def test_nothing_is_left_when_the_loop_ends_before_the_pool(app: Kern, tmp_path: Path) -> None:
    """As in a program that breaks off: stopping is asked for, and nobody waits for it."""
    orders, before = Orders(tmp_path), child_processes()

    async def main() -> PreforkPool:
        pool, started = made(app), asyncio.Event()
        await asyncio.wrap_future(pool.start(run, lambda events: started.set()))
        pool.submit([orders.waiting()])
        await asyncio.wait_for(started.wait(), PATIENCE)
        pool.stop(0.0)
        return pool

    pool = asyncio.run(main())
    pool.stop(0.0).result(PATIENCE)
    eventually(lambda: child_processes() <= before, "all processes are gone")


def test_nothing_is_left_of_a_pool_that_is_forgotten(app: Kern) -> None:
    """Started or not."""
    before = child_processes()
    pool = made(app)
    assert child_processes() > before
    del pool
    gc.collect()
    eventually(lambda: child_processes() <= before, "the zygote is gone")


def test_a_pool_beside_another_keeps_nothing_of_it(app: Kern, tmp_path: Path) -> None:
    """The first can end while the second lives, and its processes with it."""
    orders = Orders(tmp_path)

    async def main() -> None:
        first, second, events = made(app), made(app), list[PoolEvent]()
        await asyncio.wrap_future(first.start(run, events.extend))
        await asyncio.wrap_future(second.start(run, events.extend))
        pids = first.info()["processes"]
        first.stop(0.0)
        await asyncio.wait_for(asyncio.wrap_future(first.stop(5)), PATIENCE)
        assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
        request = orders.request(say="second")
        second.submit([request])
        while not any(isinstance(event, Finished) for event in events):
            await asyncio.sleep(0)
        await asyncio.wrap_future(second.stop(5))

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
