"""One measurement on the client's side, in a process of its own: prints JSON.

``python -m benchmarks.client CONTESTANT OPERATION NUMBER``
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any


def publish_bulk(contestant: Any, number: int) -> dict[str, Any]:
    """Seconds for *number* calls published in bulk."""
    task = contestant.tasks["nothing"]
    contestant.publish_bulk(task, 1)
    started = time.perf_counter()
    contestant.publish_bulk(task, number)
    return {"seconds": time.perf_counter() - started}


def publish_ignored(contestant: Any, number: int) -> dict[str, Any]:
    """Seconds for *number* calls without results published in bulk."""
    started = time.perf_counter()
    contestant.publish_bulk(contestant.tasks["ignored"], number)
    return {"seconds": time.perf_counter() - started}


def publish_one_by_one(contestant: Any, number: int) -> dict[str, Any]:
    """Seconds for *number* calls published one after the other."""
    task = contestant.tasks["nothing"]
    contestant.publish_one_by_one(task, 1)
    started = time.perf_counter()
    contestant.publish_one_by_one(task, number)
    return {"seconds": time.perf_counter() - started}


def round_trips(contestant: Any, number: int) -> dict[str, Any]:
    """Seconds of each call until its result is there, an idle worker waiting."""
    add = contestant.tasks["add"]
    add.delay(1, 2).get(timeout=30)
    seconds = []
    for _ in range(number):
        started = time.perf_counter()
        assert add.delay(20, 22).get(timeout=30) == 42
        seconds.append(time.perf_counter() - started)
    return {"each": seconds}


def calls_and_results(contestant: Any, number: int) -> dict[str, Any]:
    """Seconds until *number* calls are published and all their results are there."""
    started = time.perf_counter()
    contestant.results(contestant.publish_bulk(contestant.tasks["nothing"], number))
    return {"seconds": time.perf_counter() - started}


OPERATIONS = {
    function.__name__: function
    for function in (publish_bulk, publish_ignored, publish_one_by_one, round_trips, calls_and_results)
}


def main(arguments: list[str]) -> None:
    """Measure and print."""
    name, operation, number = arguments
    contestant = importlib.import_module(f"benchmarks.contestants.{name}")
    print(json.dumps(OPERATIONS[operation](contestant, int(number))))


if __name__ == "__main__":
    main(sys.argv[1:])
