"""Whose fault a death was, and what becomes of the task.

The pool reports which requests were lost and which of them had started: only a request that had started is to blame. A
hard time limit is no death but a failure, and a termination on request is a revocation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from kern import log, states
from kern.contracts.pool import Died
from kern.delivery import Delivery
from kern.errors import TimeLimitExceeded, WorkerLostError
from kern.outcome import Disposition, Event, GiveBack, Outcome, Release
from kern.request import Request
from kern.timeutil import clock
from kern.worker.admission import Admission

if TYPE_CHECKING:
    from kern.app import Kern

logger = log.get_logger("kern.worker")

#: Pauses before a task that killed its process runs again: first, factor, longest; seconds.
DEATH_PAUSES = (1.0, 4.0, 60.0)


class Coroner:
    """Turns a death into an outcome."""

    def __init__(self, app: Kern, admission: Admission) -> None:
        self._app = app
        self._admission = admission
        self._max_attempts: int = app.conf.task_max_attempts

    def outcome(self, delivery: Delivery, request: Request, death: Died, released: bool) -> Outcome:
        """What becomes of the request that *death* took."""
        if death.terminated:
            return self._admission.revoked(request, "terminated")
        if death.time_limit is not None:
            return self._timed_out(request, death.time_limit)
        if not death.started:
            return self._outcome(request, states.PENDING, GiveBack())
        task = self._app.tasks.get(request.task or "")
        attempts = delivery.attempts + 1
        logger.error(
            "task lost with its process", task_id=request.id, task=request.task, attempts=attempts, **death.evidence
        )
        rerun = not released and (task is None or task.reject_on_worker_lost is not False)
        if not rerun:
            return self._failed(request, WorkerLostError(_sentence(death.evidence)), Release())
        if attempts >= self._max_attempts:
            return self._admission.poisonous(attrs.evolve(delivery, attempts=attempts), request, death.evidence)
        first, factor, longest = DEATH_PAUSES
        due = clock.now() + min(longest, first * factor ** (attempts - 1))
        return self._outcome(request, states.RETRY, GiveBack(blamed=True, due=due))

    def _timed_out(self, request: Request, limit: float) -> Outcome:
        task = self._app.tasks.get(request.task or "")
        keep = task is not None and task.acks_late and task.acks_on_timeout is False
        logger.error("task killed at its hard time limit", task_id=request.id, task=request.task, seconds=limit)
        return self._failed(request, TimeLimitExceeded(limit), GiveBack(blamed=True) if keep else Release())

    def _failed(self, request: Request, error: Exception, disposition: Disposition) -> Outcome:
        return attrs.evolve(
            self._outcome(request, states.FAILURE, disposition),
            document=self._admission.document(request, states.FAILURE, error),
            events=(Event("task-failed", {"uuid": request.id, "exception": repr(error)}, clock.now()),),
            summary=repr(error),
        )

    def _outcome(self, request: Request, state: str, disposition: Disposition) -> Outcome:
        return Outcome(
            receipt=request.receipt,
            task_id=request.id or "",
            task=request.task or "",
            state=state,
            disposition=disposition,
        )


def _sentence(evidence: Any) -> str:
    details = ", ".join(f"{name} {value}" for name, value in evidence.items() if value is not None)
    return f"Worker exited prematurely: {details}" if details else "Worker exited prematurely"
