"""Outcomes that the worker makes itself: of requests that end without having been run to their end.

What follows such an end (a chord that waits for it, an errback) is made here, and so the body is decoded here; all
other bodies are decoded where they are run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from kern import documents, log, protocol, states
from kern.contracts.continuation import Follows
from kern.delivery import Delivery
from kern.errors import TaskRevokedError, WorkerLostError
from kern.outcome import Disposition, Document, Event, GiveBack, Outcome, Quarantine, Release
from kern.request import Request
from kern.runner import is_ignored
from kern.settings import Settings
from kern.timeutil import clock
from kern.worker.state import InFlight

if TYPE_CHECKING:
    from kern.app import Kern

logger = log.get_logger("kern.worker")

_NOTHING = Follows()


class Endings:
    """Makes outcomes for the worker *hostname* of *app*.

    :param whole: whether the result store keeps whole documents; ``None``: there is none.
    """

    def __init__(self, app: Kern, conf: Settings, hostname: str, whole: bool | None) -> None:
        self._app = app
        self._conf = conf
        self._tasks = app.tasks
        self._whole = whole
        self._runner = app.runner(hostname)
        self._events_wanted = app.plugins.listens("kern_events")

    # -- without a result

    def handed_back(self, entry: InFlight, started: bool) -> Outcome:
        """What the worker does not run to its end goes back to its queue, uncounted; what had *started* and is to run
        at most once has failed, for there is no message of it any more."""
        if started and entry.released and entry.request is not None:
            error = WorkerLostError("the worker stopped while the task ran, and acks_late is off")
            return self.failed(entry.request, error)
        return self.given_back(entry.delivery, entry.request)

    def given_back(self, delivery: Delivery, request: Request | None, disposition: GiveBack | None = None) -> Outcome:
        """Back to its queue as it was."""
        return Outcome(
            receipt=delivery.receipt,
            task_id=(request.id if request is not None else None) or delivery.task_id,
            task=_name(delivery, request),
            state=states.PENDING,
            disposition=disposition or GiveBack(),
        )

    def will_run_again(self, delivery: Delivery, request: Request, due: float) -> Outcome:
        """It is to blame for a death, and gets another chance at *due* (seconds since the epoch)."""
        outcome = self.given_back(delivery, request, GiveBack(blamed=True, due=due))
        return attrs.evolve(outcome, state=states.RETRY)

    # -- quarantine

    def quarantined(
        self,
        delivery: Delivery,
        request: Request | None,
        reason: str,
        error: Exception,
        evidence: Mapping[str, Any] | None = None,
        failed: bool = False,
    ) -> Outcome:
        """Kept apart, with what is known.

        :param evidence: what is known; ``None``: the error.
        :param failed: the caller is told, too: ``FAILURE`` with *error* is stored, and what follows a failure is sent.
        """
        task_id = (request.id if request is not None else None) or delivery.task_id
        logger.error("message quarantined", task_id=task_id, queue=delivery.queue, reason=reason, error=str(error))
        if evidence is None:
            evidence = {"error": str(error), "error_type": type(error).__name__}
        outcome = Outcome(
            receipt=delivery.receipt,
            task_id=task_id,
            task=_name(delivery, request),
            state=states.FAILURE,
            disposition=Quarantine(reason, evidence),
            summary=str(error),
        )
        return self._with_result(outcome, request, error) if failed and request is not None else outcome

    def poisonous(self, delivery: Delivery, request: Request, attempts: int, evidence: Mapping[str, Any]) -> Outcome:
        """It has killed as many processes as it may: set aside, and its caller told."""
        error = WorkerLostError(f"the task killed its process {attempts} times")
        return self.quarantined(delivery, request, "poison", error, {"attempts": attempts, **evidence}, failed=True)

    # -- final states

    def failed(self, request: Request, error: Exception, disposition: Disposition | None = None) -> Outcome:
        """``FAILURE`` with *error*; released unless said otherwise."""
        return self._with_result(self._outcome(request, states.FAILURE, repr(error), disposition), request, error)

    def revoked(self, request: Request, reason: str, signum: int | None = None) -> Outcome:
        """``REVOKED``; *reason* is ``expired``, ``revoked`` or ``terminated``."""
        logger.info("task revoked", task_id=request.id, task=request.task, reason=reason)
        outcome = self._with_result(
            self._outcome(request, states.REVOKED, reason, None), request, TaskRevokedError(reason)
        )
        fields = {"terminated": reason == "terminated", "signum": signum, "expired": reason == "expired"}
        return attrs.evolve(outcome, events=self._event("task-revoked", request, fields))

    def repeated(self, request: Request, document: Document) -> Outcome:
        """Its final *document* is stored already: what follows it is sent again, and it is done."""
        return self._app.repeat(request, document)

    # -- parts

    def _outcome(self, request: Request, state: str, summary: str, disposition: Disposition | None) -> Outcome:
        return Outcome(
            receipt=request.receipt,
            task_id=request.id or "",
            task=request.task or "",
            state=state,
            disposition=disposition or Release(),
            summary=summary,
        )

    def _with_result(self, outcome: Outcome, request: Request, error: Exception) -> Outcome:
        """*outcome* with what is stored of it, and what follows."""
        follows = self._follow(request, outcome.state, error)
        events = outcome.events
        if outcome.state == states.FAILURE:
            events = self._event("task-failed", request, {"exception": repr(error), "traceback": None})
        return attrs.evolve(
            outcome,
            document=self.document(request, outcome.state, error),
            documents=self._runner.documents_of(follows, error),
            follow_ups=follows.publications,
            join_parts=follows.join_parts,
            events=events,
        )

    def _follow(self, request: Request, state: str, error: Exception) -> Follows:
        try:
            if request.args is None:
                protocol.attach(request, protocol.read(protocol.message_of(request), self._app.accept))
            if state == states.REVOKED:
                # Cancelled is not failed: whoever counts this task must know, errbacks and the next step must not.
                request = attrs.evolve(request, callbacks=None, errbacks=None, chain=None)
            return self._runner.follow(request, state, error)
        except Exception as problem:
            logger.error("what follows a task is not known", task_id=request.id, error=str(problem))
            return _NOTHING

    def document(self, request: Request, state: str, value: Any) -> Document | None:
        """The document of a request that is not where it runs; ``None`` if nothing is to be stored."""
        task = self._tasks.get(request.task or "")
        if self._whole is None or not request.id or is_ignored(request, task, state):
            return None
        conf = self._conf
        return documents.encode_document(
            request.id,
            state,
            value,
            whole=self._whole,
            serializer=conf.result_serializer,
            request=request,
            extended=conf.result_extended and request.args is not None,
        )

    def _event(self, kind: str, request: Request, fields: Mapping[str, Any]) -> tuple[Event, ...]:
        task = self._tasks.get(request.task or "")
        if not self._events_wanted or (task is not None and not task.send_events):
            return ()
        return (Event(kind, {"uuid": request.id, **fields}, clock.now()),)


def _name(delivery: Delivery, request: Request | None) -> str:
    name = request.task if request is not None else None
    return name or (delivery.message.task if delivery.message is not None else None) or ""
