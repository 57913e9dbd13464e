"""Whose fault a death was, and what becomes of the task.

The pool reports which requests were lost and which of them had started: only a request that had started is to blame. A
hard time limit is no death but a failure, a termination on request is a revocation, and what the worker itself ended
because it stops goes back uncounted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kern import log
from kern.contracts.pool import Died
from kern.errors import TimeLimitExceeded, WorkerLostError
from kern.outcome import Disposition, GiveBack, Outcome, Quarantine, Release
from kern.request import Request
from kern.timeutil import clock
from kern.worker.endings import Endings
from kern.worker.state import InFlight

if TYPE_CHECKING:
    from kern.app import Kern

logger = log.get_logger("kern.worker")

#: Pauses before a task that killed its process runs again: first, factor, longest; seconds.
DEATH_PAUSES = (1.0, 4.0, 60.0)


class Coroner:
    """Turns a death into an outcome."""

    def __init__(self, app: Kern, endings: Endings, max_attempts: int) -> None:
        self._tasks = app.tasks
        self._endings = endings
        self._max_attempts = max_attempts

    def outcome(self, entry: InFlight, death: Died) -> Outcome:
        """What becomes of the request that *death* took."""
        request = entry.request
        assert request is not None  # only requests are run
        if death.time_limit is not None:
            return self.timed_out(request, death.time_limit)
        if death.terminated and not entry.interrupted:
            return self._endings.revoked(request, "terminated", death.evidence.get("signal"))
        if entry.interrupted or not death.started:
            return self._endings.handed_back(entry, death.started)
        attempts = entry.delivery.attempts + 1
        logger.error(
            "task lost with its process",
            task_id=request.id,
            task=request.task,
            attempts=attempts,
            evidence=dict(death.evidence),
        )
        task = self._tasks.get(request.task or "")
        if entry.released or (task is not None and task.reject_on_worker_lost is False):
            return self._endings.failed(request, WorkerLostError(_sentence(death.evidence)), self._after_loss(request))
        if attempts >= self._max_attempts:
            return self._endings.poisonous(entry.delivery, request, attempts, death.evidence)
        first, factor, longest = DEATH_PAUSES
        due = clock.now() + min(longest, first * factor ** (attempts - 1))
        return self._endings.will_run_again(entry.delivery, request, due)

    def timed_out(self, request: Request, limit: float) -> Outcome:
        """It ran into its hard limit of so many seconds."""
        task = self._tasks.get(request.task or "")
        keep = task is not None and task.acks_late and task.acks_on_timeout is False
        logger.error("task ended at its hard time limit", task_id=request.id, task=request.task, seconds=limit)
        return self._endings.failed(request, TimeLimitExceeded(limit), GiveBack(blamed=True) if keep else Release())

    def _after_loss(self, request: Request) -> Disposition:
        task = self._tasks.get(request.task or "")
        if task is not None and task.acks_late and task.acks_on_failure is False:
            return Quarantine("failed", {"error": "its process died"})
        return Release()


def _sentence(evidence: Mapping[str, Any]) -> str:
    details = ", ".join(f"{name} {value}" for name, value in evidence.items() if value is not None)
    return f"Worker exited prematurely: {details}" if details else "Worker exited prematurely"
