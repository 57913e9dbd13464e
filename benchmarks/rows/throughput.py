"""How many tasks a second: drained, published, and with their results back at the client."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import counter
from benchmarks.arena import PATIENCE, Arena

Measure = Callable[[Arena], tuple[float, ...]]


def drain(operation: str, full: int, processes: int = 2) -> Measure:
    """Tasks a second from the worker's first execution on a full queue to its last.

    On Redis a result that is stored counts once it is there, too.

    :param operation: what the client publishes beforehand, see :mod:`benchmarks.client`.
    """

    def measure(arena: Arena) -> tuple[float, ...]:
        number = arena.scaled(full)
        arena.client(operation, number)
        stored = operation != "publish_ignored" and arena.place.pid is not None
        number += operation == "publish_bulk"  # the client warms up with a call
        with arena.worker(processes):
            first = arena.executed(1)
            last = arena.executed(number)
            if stored:
                last = results_stored(arena, number)
        return ((number - 1) / (last - first),)

    return measure


def computing(full: int) -> Measure:
    """Processor time in the tasks themselves as a share of what the worker's two processes could have given them."""

    def measure(arena: Arena) -> tuple[float, ...]:
        number = arena.scaled(full)
        arena.client("publish_computing", number)
        with arena.worker():
            first = arena.executed(1)
            last = arena.executed(number)
        return ((number - 1) * counter.COMPUTING / 2 / (last - first),)

    return measure


def publish(operation: str, full: int) -> Measure:
    """Calls a second, confirmed."""

    def measure(arena: Arena) -> tuple[float, ...]:
        number = arena.scaled(full)
        return (number / float(arena.client(operation, number)["seconds"]),)

    return measure


def calls_and_results(number: int, processes: int = 2) -> Measure:
    """Seconds until so many calls are published and all their results are back."""

    def measure(arena: Arena) -> tuple[float, ...]:
        with arena.worker(processes):
            arena.ready()
            return (float(arena.client("calls_and_results", number)["seconds"]),)

    return measure


def calls_back(full: int, processes: int = 2) -> Measure:
    """Calls a second, counted until all are published and all their results are back."""

    def measure(arena: Arena) -> tuple[float, ...]:
        number = arena.scaled(full)
        (seconds,) = calls_and_results(number, processes)(arena)
        return (number / seconds,)

    return measure


def results_stored(arena: Arena, number: int) -> float:
    """Wait until Redis has so many results; the time at which it had.

    :raises TimeoutError: it has not.
    """
    # The size of the database costs Redis nothing, and what else is in it are a few keys; who is who is asked after.
    done = counter.wait_for(lambda: int(arena.redis.command("DBSIZE")), number, PATIENCE, "keys")
    counter.wait_for(lambda: arena.redis.keys("celery-task-meta-*"), number, 5.0, "results", pause=0.1)
    return done
