"""Where a task's time goes: microseconds of processor time in each stage, for each task.

``python -m benchmarks.profile [URL]`` drains a queue of empty tasks with a worker in this process. Each stage is timed
by the clock of its thread, so that waiting for others does not count. What is left between the sum and the whole is the
loop, the threads' hand-overs and the interpreter.
"""

from __future__ import annotations

import asyncio
import functools
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from kern import Kern
from kern.contracts.blocking import ThreadedTransport
from kern.runner import Runner
from kern.worker import Worker
from kern.worker.admission import Admission
from kern.worker.dispatch import Dispatcher
from kern.worker.settling import Settler

TASKS = 20_000


class Clocks:
    """Processor time by stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def wrap(self, owner: Any, method: str, stage: str) -> None:
        """Count the time spent in *method* of *owner*, a class or an object, as *stage*."""
        original: Callable[..., Any] = getattr(owner, method)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds[stage] += time.thread_time() - started

        setattr(owner, method, timed)


async def _drain(worker: Worker, number: int) -> float:
    """Seconds until the worker has ended *number* tasks."""
    started = time.perf_counter()
    serving = asyncio.get_running_loop().create_task(worker.serve())
    while sum(worker.totals.values()) < number and not serving.done():
        await asyncio.sleep(0.005)
    seconds = time.perf_counter() - started
    worker.stop()
    await serving
    return seconds


def profile(url: str, number: int = TASKS) -> str:
    """A Markdown table for a worker on *url* with results in the same database."""
    app = Kern("profile", broker=url, backend=f"db+{url}")

    @app.task(name="profile.nothing")
    def nothing() -> None:
        """An empty task."""

    app.send_many([nothing.s() for _ in range(number)], timeout=120)
    app.close()
    clocks = Clocks()
    worker = Worker(app, pool="solo", signals=False)
    assert isinstance(worker.transport, ThreadedTransport)
    driver = worker.transport.driver
    clocks.wrap(driver, "claim", "claim (driver)")
    clocks.wrap(Admission, "admit", "admit")
    clocks.wrap(Dispatcher, "submit", "dispatch")
    clocks.wrap(Runner, "__call__", "run")
    clocks.wrap(Settler, "put", "settle: plan")
    clocks.wrap(driver, "settle", "settle: result, follow-ups, release (driver)")
    before = time.process_time()
    seconds = asyncio.run(_drain(worker, number))
    total = (time.process_time() - before) * 1e6 / number
    lines = ["| stage | µs a task |", "|---|---|"]
    counted = 0.0
    for stage, spent in clocks.seconds.items():
        counted += spent * 1e6 / number
        lines.append(f"| {stage} | {spent * 1e6 / number:.1f} |")
    lines.append(f"| loop, threads, the rest | {total - counted:.1f} |")
    lines.append(f"| **all processor time** | **{total:.1f}** |")
    lines.append(f"| by the clock | {seconds * 1e6 / number:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Profile the URL given, or a file of its own."""
    if len(sys.argv) > 1:
        print(profile(sys.argv[1]))
        return
    folder = tempfile.mkdtemp(prefix="kern-profile-")
    try:
        print(profile(f"sqlite:///{folder}/profile.db"))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
