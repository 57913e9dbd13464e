"""Celery, at its defaults, with one process where kern has one. Runs in an environment of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from celery import Celery, group

from benchmarks.counter import Tally

app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ.get("BENCH_BACKEND") or None)
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
    return list(group(task.s() for _ in range(number)).apply_async().results)


def results(handles: list[Any]) -> list[Any]:
    """All results."""
    return [handle.get(timeout=120) for handle in handles]


def worker_command(processes: int) -> list[str]:
    """How its worker is started."""
    return [
        *(sys.executable, "-m", "celery", "-q", "-A", "benchmarks.contestants.celery:app", "worker"),
        *("-l", "warning", "-c", str(processes)),
    ]


tasks: dict[str, Callable[..., Any]] = {"nothing": nothing, "ignored": ignored, "add": add}
