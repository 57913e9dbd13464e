"""kern, at its defaults."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.counter import Tally
from kern import Kern

app = Kern("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ.get("BENCH_BACKEND") or "disabled")
tally = Tally(os.environ["BENCH_FOLDER"])


@app.task(name="bench.nothing")
def nothing() -> None:
    """An empty task."""
    tally()


@app.task(name="bench.ignored", ignore_result=True)
def ignored() -> None:
    """An empty task without a result."""
    tally()


@app.task(name="bench.add")
def add(x: int, y: int) -> int:
    """A task with a result."""
    tally()
    return x + y


def publish_one_by_one(task: Any, number: int) -> None:
    """As a web request does it."""
    for _ in range(number):
        task.delay()


def publish_bulk(task: Any, number: int) -> list[Any]:
    """As many as there are, in one call."""
    return app.send_many([task.s() for _ in range(number)], timeout=120)


def results(handles: list[Any]) -> list[Any]:
    """All results."""
    return [handle.get(timeout=120) for handle in handles]


def worker_command(processes: int) -> list[str]:
    """How its worker is started."""
    del processes  # the solo pool is the default where no other is installed
    return [sys.executable, "-m", "kern", "-q", "worker", "-A", "benchmarks.contestants.kern:app", "-l", "warning"]


tasks: dict[str, Callable[..., Any]] = {"nothing": nothing, "ignored": ignored, "add": add}
