"""What a worker takes of memory: idle, holding delayed calls, and after a long life."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks import counter, processes
from benchmarks.arena import PATIENCE, Arena

Measure = Callable[[Arena], tuple[float, ...]]

#: Executions after which every process of a worker has touched what it needs.
WARM = 500
#: Seconds after which a new connection is in use.
SETTLED = 0.02


def idle(arena: Arena) -> tuple[float, ...]:
    """MB of an idle worker that has worked: all its processes, shared pages counted once."""
    with arena.worker() as worker:
        _warm_up(arena)
        return (processes.proportional(processes.tree(worker.pid)) / 1024,)


def delayed(number: int) -> Measure:
    """So many calls, each due 5 to 15 s after it was made: MB by which the worker grows at most, all its processes; and
    how late the calls are run, in seconds, 99th percentile."""

    def measure(arena: Arena) -> tuple[float, ...]:
        with arena.worker() as worker:
            _warm_up(arena)
            before = most = processes.proportional(processes.tree(worker.pid))
            executed = counter.count(arena.folder)
            with arena.clients("publish_spread", number) as client:
                until = time.perf_counter() + PATIENCE
                while counter.count(arena.folder) < executed + number:
                    if client.poll() or time.perf_counter() > until:
                        complaint = client.stderr.read()[-2000:] if client.poll() and client.stderr else ""
                        missing = executed + number - counter.count(arena.folder)
                        raise RuntimeError(f"{missing} of {number} delayed calls have not run {complaint}")
                    most = max(most, processes.proportional(processes.tree(worker.pid)))
                    time.sleep(1)
        late = counter.lateness(arena.folder)
        if len(late) != number or late[0] < -0.001:
            raise RuntimeError(f"{len(late)} of {number} delayed calls, the first {-late[0]:.3f} s before its time")
        return ((most - before) / 1024, late[int(len(late) * 0.99)])

    return measure


def growth(tasks: int, pool_processes: int = 2, reconnects: int = 0) -> Measure:
    """MB by which the main process's resident memory grows while the worker runs so many tasks, after the first 20,000,
    and while its connections are cut as many times.

    Without *reconnects* one figure; with them a second: of both together.
    """

    def measure(arena: Arena) -> tuple[float, ...]:
        if reconnects:
            arena.environment["BENCH_HASTY"] = "1"
        with arena.worker(pool_processes) as worker:
            _run(arena, 20_000)
            if reconnects:
                _cut(arena, 20)
            before = processes.resident(worker.pid)
            for _ in range(tasks // 40_000):
                _run(arena, 40_000)
            after_tasks = processes.resident(worker.pid)
            if not reconnects:
                return ((after_tasks - before) / 1024,)
            _cut(arena, reconnects)
            _run(arena, 1_000)
            after_all = processes.resident(worker.pid)
        return ((after_tasks - before) / 1024, (after_all - before) / 1024)

    return measure


def _warm_up(arena: Arena) -> None:
    arena.client("publish_bulk", WARM - 1)  # and one with which the client warms up
    arena.executed(WARM)
    time.sleep(1)  # what it does about having nothing to do is done


def _run(arena: Arena, number: int) -> None:
    executed = counter.count(arena.folder)
    arena.client("publish_bulk", number)
    arena.executed(executed + number)


def _cut(arena: Arena, times: int) -> None:
    """Cut every connection of the worker so many times, each time it has made new ones and greeted on them."""
    until = time.perf_counter() + PATIENCE
    for done in range(times):
        for client in _settled_clients(arena, until, f"{done} of {times} reconnects"):
            arena.redis.command("CLIENT", "KILL", "ID", client)


def _settled_clients(arena: Arena, until: float, progress: str) -> set[str]:
    """Connections of the worker, once they have been the same for :data:`SETTLED` seconds."""
    seen: set[str] = set()
    since = time.perf_counter()
    while not seen or time.perf_counter() - since < SETTLED:
        if time.perf_counter() > until:
            raise TimeoutError(f"{progress} after {PATIENCE:g} s")
        clients = arena.redis.clients()
        if clients != seen:
            seen, since = clients, time.perf_counter()
        time.sleep(0.002)
    return seen
