"""Ends that come from outside: time limits, interruptions, terminations."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

from kern import log
from kern.errors import SoftTimeLimitExceeded
from kern_pool_prefork.jobs import Job
from kern_process_host.hosted import DUMP

logger = log.get_logger("kern.pool")

#: Seconds a process has to write down what it does, before it is killed at a hard limit.
DUMPING = 0.1
#: Seconds that a process has to die of a signal, before it gets one that it cannot put off.
DYING = 1.0
#: Signals that processes hold off, because they reach whole groups; who is meant by one dies of another.
_HELD_OFF = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Limits:
    """Watches what runs.

    :param ordered: told when an order has been given, which may have to be repeated.
    """

    def __init__(self, ordered: Callable[[], None]) -> None:
        self._ordered = ordered
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def watch(self, job: Job, since: float) -> None:
        """*job* runs, since then by the monotonic clock; its limits count from there."""
        soft, hard = job.request.soft_time_limit, job.request.time_limit
        if soft:
            self._later(job, since + soft - time.monotonic(), self._soft_limit, job, soft)
        if hard:
            self._later(job, since + hard - time.monotonic(), self._hard_limit, job, hard)

    def interrupt(self, job: Job, error: BaseException) -> bool:
        """Have *error* raised in it; whether it was sent."""
        if job.process is None or not job.process.order(job.number, error):
            return False
        self._ordered()
        return True

    def terminate(self, job: Job, number: int | None) -> bool:
        """Kill its process by that signal; ``False``: it has just ended."""
        if job.process is None:
            return False
        if number == signal.SIGUSR1:
            # Celery's way to have the soft limit raised.
            return self.interrupt(job, SoftTimeLimitExceeded(job.request.soft_time_limit or 0.0))
        fatal = number is None or number in _HELD_OFF
        job.terminated = True
        if not job.process.kill_in(job.number, signal.SIGKILL if fatal else int(number or 0), "terminated"):
            job.terminated = False
            return False
        if not fatal:
            self._later(job, DYING, job.process.kill_in, job.number, signal.SIGKILL, "terminated")
        return True

    def _later(self, job: Job, seconds: float, function: Callable[..., object], *arguments: object) -> None:
        assert self._loop is not None
        job.timers = (*job.timers, self._loop.call_later(max(0.0, seconds), function, *arguments))

    def _soft_limit(self, job: Job, limit: float) -> None:
        logger.warning("soft time limit", task_id=job.request.id, task=job.request.task, seconds=limit)
        self.interrupt(job, SoftTimeLimitExceeded(limit))

    def _hard_limit(self, job: Job, limit: float) -> None:
        assert job.process is not None
        job.process.kill(DUMP)
        self._later(job, DUMPING, self._kill, job, limit)

    def _kill(self, job: Job, limit: float) -> None:
        assert job.process is not None
        job.time_limit = limit
        if not job.process.kill_in(job.number, signal.SIGKILL, "hard time limit"):
            job.time_limit = None  # it ended at this very moment
            return
        logger.error(
            "process killed: its task ran into its hard time limit",
            task_id=job.request.id,
            task=job.request.task,
            seconds=limit,
            pid=job.process.pid,
            stack=job.process.slot.stacks(),
        )
