"""What is measured: one function a row, each gives one figure for one contestant in one round."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from benchmarks.arena import Arena

#: Which direction is better.
HIGHER, LOWER = "higher", "lower"


@attrs.frozen
class Row:
    """One line of the table."""

    name: str
    better: str
    measure: Callable[[Arena], float]
    #: Servers it needs beside the embedded one.
    server: str = "sqlite"
    #: Measured for kern alone: Celery has nothing of the kind.
    alone: bool = False
    #: What kern has to reach; ``None``: only reported.
    target: float | None = None


def _drain(task: str, full: int) -> Callable[[Arena], float]:
    """Tasks a second from the worker's first execution on a full queue to its last."""

    def measure(arena: Arena) -> float:
        number = arena.scaled(full)
        arena.client("publish_bulk" if task == "nothing" else "publish_ignored", number)
        with arena.worker():
            first = arena.executed(1)
            last = arena.executed(number)
        return (number - 1) / (last - first)

    return measure


def _publish(operation: str, full: int) -> Callable[[Arena], float]:
    def measure(arena: Arena) -> float:
        number = arena.scaled(full)
        return number / float(arena.client(operation, number)["seconds"])

    return measure


def _round_trip(quantile: float, full: int) -> Callable[[Arena], float]:
    def measure(arena: Arena) -> float:
        number = arena.scaled(full)
        with arena.worker():
            each: list[float] = sorted(arena.client("round_trips", number)["each"])
        return 1000 * each[min(len(each) - 1, int(len(each) * quantile))]

    return measure


def calls_and_results(full: int) -> Callable[[Arena], float]:
    """Calls a second, counted until all are published and all their results are back."""

    def measure(arena: Arena) -> float:
        number = arena.scaled(full)
        with arena.worker():
            arena.client("round_trips", 1)
            return number / float(arena.client("calls_and_results", number)["seconds"])

    return measure


def first_task_ever(arena: Arena) -> float:
    """Seconds from starting the first worker on a database, which also makes its result tables, to its first task."""
    arena.client("publish_one_by_one", 1)
    arena.worker_command()  # asking for it starts an interpreter, which is not the worker's time
    started = time.perf_counter()
    with arena.worker():
        return arena.executed(1) - started


def first_task(arena: Arena) -> float:
    """Seconds from starting a worker on a database in use, with one call waiting, to that call's execution."""
    arena.client("publish_one_by_one", 1)
    with arena.worker():
        arena.executed(2)  # the client warms up with one call, too
    arena.client("publish_one_by_one", 1)
    started = time.perf_counter()
    with arena.worker():
        return arena.executed(3) - started


def memory_growth(number: int) -> Callable[[Arena], float]:
    """MB that the worker's resident memory grows while it runs *number* tasks, after the first 20,000."""

    def measure(arena: Arena) -> float:
        with arena.worker() as worker:
            arena.client("publish_bulk", 20_000)
            arena.executed(20_000)
            before = _resident(worker.pid)
            done = 20_000
            while done < number:
                step = min(40_000, number - done)
                arena.client("publish_bulk", step)
                done += step
                arena.executed(done)
            return float(_resident(worker.pid) - before) / 1024

    return measure


def _resident(pid: int) -> int:
    """KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} shows no VmRSS")


def start_of(*arguments: str) -> Callable[[Arena], float]:
    """Milliseconds of a Python process with these arguments over one that does nothing; median of 7."""

    def once(*given: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *given], check=True, stdout=subprocess.DEVNULL)
        return 1000 * (time.perf_counter() - started)

    def measure(_arena: Arena) -> float:
        bare = statistics.median(once("-c", "pass") for _ in range(7))
        return statistics.median(once(*arguments) for _ in range(7)) - bare

    return measure


ROWS: tuple[Row, ...] = (
    Row("SQLite: drain, results stored (tasks/s)", HIGHER, _drain("nothing", 10_000), target=4_000),
    Row("SQLite: drain, results ignored (tasks/s)", HIGHER, _drain("ignored", 10_000)),
    Row("SQLite: bulk publish (calls/s)", HIGHER, _publish("publish_bulk", 20_000), target=25_000),
    Row("SQLite: publish one by one (calls/s)", HIGHER, _publish("publish_one_by_one", 3_000), target=3_000),
    Row("SQLite: idle round trip, p50 (ms)", LOWER, _round_trip(0.5, 300)),
    Row("SQLite: idle round trip, p99 (ms)", LOWER, _round_trip(0.99, 300)),
    Row("SQLite: calls with all their results (calls/s)", HIGHER, calls_and_results(5_000)),
    Row("SQLite: worker start to first task, new database (s)", LOWER, first_task_ever, target=0.5),
    Row("SQLite: worker start to first task, tables there (s)", LOWER, first_task, target=0.5),
    Row(
        "PostgreSQL: drain, results stored (tasks/s)",
        HIGHER,
        _drain("nothing", 10_000),
        server="postgresql",
        target=2_500,
    ),
    Row("PostgreSQL: bulk publish (calls/s)", HIGHER, _publish("publish_bulk", 10_000), server="postgresql"),
    Row("PostgreSQL: idle round trip, p50 (ms)", LOWER, _round_trip(0.5, 300), server="postgresql"),
    Row(
        "SQLite: growth of the worker over 200,000 tasks (MB)",
        LOWER,
        memory_growth(200_000),
        alone=True,
        target=5,
    ),
    Row("import kern, over bare Python (ms)", LOWER, start_of("-c", "import kern"), alone=True, target=60),
    Row("from kern import Kern, over bare Python (ms)", LOWER, start_of("-c", "from kern import Kern"), alone=True),
    Row("kern --help, over bare Python (ms)", LOWER, start_of("-m", "kern", "--help"), alone=True, target=200),
)
