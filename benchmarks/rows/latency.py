"""How long one has to wait: for the result of a call, and for a worker to start."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.arena import Arena

Measure = Callable[[Arena], tuple[float, ...]]


def round_trips(number: int, processes: int = 2, scaled: bool = False) -> Measure:
    """Milliseconds from a call to its result with an idle worker: median and 99th percentile.

    :param scaled: a slow contestant does fewer.
    """

    def measure(arena: Arena) -> tuple[float, ...]:
        with arena.worker(processes):
            arena.ready()
            each: list[float] = sorted(arena.client("round_trips", arena.scaled(number) if scaled else number)["each"])
        return tuple(1000 * each[min(len(each) - 1, int(len(each) * quantile))] for quantile in (0.5, 0.99))

    return measure


def first_task(processes: int = 2, used: bool = False) -> Measure:
    """Seconds from starting a worker, with one call waiting, to that call's execution.

    :param used: not the first worker on this server: what the first one makes there is made.
    """

    def measure(arena: Arena) -> tuple[float, ...]:
        arena.client("publish_one_by_one", 1)  # and one with which the client warms up
        executed = 1
        if used:
            with arena.worker(processes):
                arena.executed(2)
            arena.client("publish_one_by_one", 1)
            executed = 3
        arena.worker_command(processes)  # asking for it starts an interpreter, which is not the worker's time
        started = time.perf_counter()
        with arena.worker(processes):
            return (arena.executed(executed) - started,)

    return measure
