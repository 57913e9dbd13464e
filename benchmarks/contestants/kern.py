"""kern, at its defaults: leases on, results written before the release."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks import counter
from kern import Kern, ResultSet, hookimpl

app = Kern("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ.get("BENCH_BACKEND") or "disabled")
tally = counter.Tally(os.environ["BENCH_FOLDER"])

if os.environ.get("BENCH_HASTY"):
    # A connection that did not last is made anew after a pause of seconds, of which a thousand would take hours.
    from kern_redis_client import link

    link.BACKOFF = (0.001, 1.0, 0.001)


class _Ready:
    """Leaves a sign when the worker is about to claim its first message."""

    @hookimpl
    def kern_worker_ready(self) -> None:
        counter.ready(os.environ["BENCH_FOLDER"])


app.register(_Ready())


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


@app.task(name="bench.compute")
def compute() -> None:
    """A task that computes."""
    counter.compute()
    tally()


@app.task(name="bench.due", ignore_result=True)
def due(at: float) -> None:
    """A task that notes how late it is."""
    tally.late(at)


@app.task(name="bench.sized", ignore_result=True)
def sized(text: str) -> None:
    """A task with a large argument."""
    tally()


def publish_one_by_one(task: Any, number: int, *args: Any) -> None:
    """As a web request does it."""
    for _ in range(number):
        task.delay(*args)


def publish_bulk(task: Any, number: int, *args: Any) -> list[Any]:
    """As many as there are, in one call."""
    return app.send_many([task.s(*args) for _ in range(number)], timeout=120)


def publish_due(times: Sequence[float]) -> None:
    """Each at its time."""
    app.send_many([due.s(at).set(eta=datetime.fromtimestamp(at, UTC)) for at in times], timeout=120)


def results(handles: list[Any]) -> list[Any]:
    """All results."""
    return ResultSet(handles, app=app).get(timeout=120)


def worker_command(processes: int, name: str, pool: str) -> list[str]:
    """How its worker is started."""
    return [
        *(sys.executable, "-m", "kern", "-q", "worker", "-A", "benchmarks.contestants.kern:app"),
        *("-l", "warning", "-n", f"{name}@%h", "-P", pool, "-c", str(processes)),
    ]


tasks: dict[str, Any] = {
    "nothing": nothing,
    "ignored": ignored,
    "add": add,
    "compute": compute,
    "due": due,
    "sized": sized,
}
