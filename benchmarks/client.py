"""One measurement on the client's side, in a process of its own: prints JSON.

``python -m benchmarks.client CONTESTANT OPERATION NUMBER``
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

#: Characters of a large argument.
LARGE = 65_536
#: Calls a second while workers are idle.
TRICKLE = 100


def publish_bulk(contestant: Any, number: int) -> dict[str, Any]:
    """Seconds for *number* calls published in bulk."""
    task = contestant.tasks["nothing"]
    contestant.publish_bulk(task, 1)
    return _timed(lambda: contestant.publish_bulk(task, number))


def publish_ignored(contestant: Any, number: int) -> dict[str, Any]:
    """Seconds for *number* calls without results published in bulk."""
    return _timed(lambda: contestant.publish_bulk(contestant.tasks["ignored"], number))


def publish_computing(contestant: Any, number: int) -> dict[str, Any]:
    """Seconds for *number* calls that compute, published in bulk."""
    return _timed(lambda: contestant.publish_bulk(contestant.tasks["compute"], number))


def publish_sized(contestant: Any, number: int) -> dict[str, Any]:
    """Seconds for *number* calls with a large argument, published in bulk."""
    return _timed(lambda: contestant.publish_bulk(contestant.tasks["sized"], number, "x" * LARGE))


def publish_one_by_one(contestant: Any, number: int) -> dict[str, Any]:
    """Seconds for *number* calls published one after the other."""
    task = contestant.tasks["nothing"]
    contestant.publish_one_by_one(task, 1)
    return _timed(lambda: contestant.publish_one_by_one(task, number))


def publish_spread(contestant: Any, number: int) -> dict[str, Any]:
    """Seconds for *number* calls, each due 5 to 15 s after it was made."""
    started = time.perf_counter()
    for first in range(0, number, 500):
        # 7919 is prime: neighbours in the queue are not neighbours in time.
        numbers = range(first, min(first + 500, number))
        now = time.time()
        contestant.publish_due([now + 5 + 10 * (call * 7919 % number) / number for call in numbers])
    return {"seconds": time.perf_counter() - started}


def publish_together(contestant: Any, number: int) -> dict[str, Any]:
    """Seconds for *number* calls that are all due at the same moment, 3 s from now."""
    due = time.time() + 3
    return _timed(lambda: contestant.publish_due([due] * number))


def trickle(contestant: Any, number: int) -> dict[str, Any]:
    """Publish *number* calls without results, so many a second; how far it fell behind at most."""
    task, behind = contestant.tasks["ignored"], 0.0
    started = time.perf_counter()
    for call in range(number):
        wait = started + call / TRICKLE - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        behind = max(behind, -wait)
        task.delay()
    return {"behind": behind}


def round_trips(contestant: Any, number: int) -> dict[str, Any]:
    """Seconds of each call until its result is there, an idle worker waiting."""
    add = contestant.tasks["add"]
    for _ in range(max(1, min(10, number // 20))):  # each process has imported what it needs
        add.delay(1, 2).get(timeout=30)
    seconds = []
    for _ in range(number):
        started = time.perf_counter()
        assert add.delay(20, 22).get(timeout=30) == 42
        seconds.append(time.perf_counter() - started)
    return {"each": seconds}


def calls_and_results(contestant: Any, number: int) -> dict[str, Any]:
    """Seconds until *number* calls are published and all their results are there."""
    task = contestant.tasks["nothing"]
    contestant.results(contestant.publish_bulk(task, 2))
    return _timed(lambda: contestant.results(contestant.publish_bulk(task, number)))


def _timed(work: Callable[[], Any]) -> dict[str, Any]:
    started = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - started}


OPERATIONS = {
    function.__name__: function
    for function in (
        publish_bulk,
        publish_ignored,
        publish_computing,
        publish_sized,
        publish_one_by_one,
        publish_spread,
        publish_together,
        trickle,
        round_trips,
        calls_and_results,
    )
}


def main(arguments: list[str]) -> None:
    """Measure and print."""
    name, operation, number = arguments
    contestant = importlib.import_module(f"benchmarks.contestants.{name}")
    print(json.dumps(OPERATIONS[operation](contestant, int(number))))


if __name__ == "__main__":
    main(sys.argv[1:])
