"""F11: while a server is stopped for five seconds, the worker's loop goes on: limits, signals and heartbeats."""

from __future__ import annotations

import asyncio
import time

from kern import Kern
from kern.errors import SoftTimeLimitExceeded
from kern_testing.servers import PostgreSQL
from kern_testing.waiting import eventually
from kern_testing.worker import WorkerThread

STOPPED = 5.0
#: Seconds between two looks at the loop, and the longest it may be late on a busy machine.
BEAT, LATE = 0.02, 1.0


async def longest_silence(seconds: float) -> float:
    """How long the loop was not heard of at most, for so many seconds."""
    until = time.monotonic() + seconds
    longest, last = 0.0, time.monotonic()
    while last < until:
        await asyncio.sleep(BEAT)  # the task's own duration
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest


def test_f11_a_stopped_server_does_not_freeze_the_loop(postgresql_server: PostgreSQL, postgresql_url: str) -> None:
    app = Kern("stopped", broker=postgresql_url, backend=f"db+{postgresql_url}", worker_heartbeat=0.3)
    app.conf.worker_lease_seconds = 30
    limited: list[float] = []
    begun: list[float] = []

    @app.task(name="stopped.endless", soft_time_limit=1.0)
    def endless() -> str:
        begun.append(time.monotonic())
        try:
            while True:
                time.sleep(0.005)  # the task's own duration
        except SoftTimeLimitExceeded:
            limited.append(time.monotonic())
            return "tidied up"

    result = endless.delay()
    worker = WorkerThread(app).start()
    assert worker.loop is not None
    try:
        eventually(lambda: begun, "the task runs")
        postgresql_server.pause()
        try:
            silence = asyncio.run_coroutine_threadsafe(longest_silence(STOPPED), worker.loop)
            eventually(lambda: limited, "the soft limit is raised while the server is stopped", timeout=STOPPED)
            worker.worker.stop()
            eventually(
                lambda: worker.worker.stop_request is not None and worker.worker.stop_request.soon.is_set(),
                "the worker hears that it is to stop",
                timeout=STOPPED,
            )
            assert silence.result(STOPPED + 10) < LATE
            assert worker.alive, "it waits to write what the task returned"
        finally:
            postgresql_server.resume()
        assert result.get(timeout=30) == "tidied up"
    finally:
        worker.stop()
        app.close()
    assert limited[0] - begun[0] < 1.0 + LATE
    assert len(begun) == 1
