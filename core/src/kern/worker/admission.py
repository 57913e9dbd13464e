"""What may run, what is parked, and what ends here: decided without running user code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from kern import documents, log, protocol, states
from kern.contracts.transport import Parking
from kern.delivery import Delivery
from kern.errors import (
    ContentDisallowed,
    InvalidTaskError,
    KernError,
    MessageError,
    NotRegistered,
    SecurityError,
    TaskRevokedError,
)
from kern.outcome import Event, Outcome, ParkUntil, Quarantine, Release
from kern.request import Request
from kern.timeutil import clock, parse_rate
from kern.worker.rates import RateLimiter

if TYPE_CHECKING:
    from kern.app import Kern

logger = log.get_logger("kern.worker")

#: A message due within so many seconds is not sent back to wait.
DUE_TOLERANCE = 0.002
#: Pauses of a message that no worker has been able to take: first, factor, longest; seconds.
UNKNOWN_PAUSES = (1.0, 2.0, 60.0)


@attrs.define
class Admitted:
    """What became of a batch of deliveries."""

    requests: list[tuple[Delivery, Request]] = attrs.field(factory=list)
    parked: list[Parking] = attrs.field(factory=list)
    #: Ended here: expired, revoked, quarantined.
    outcomes: list[Outcome] = attrs.field(factory=list)


class Admission:
    """Turns deliveries into requests, parkings and outcomes."""

    def __init__(self, app: Kern, hostname: str, whole_documents: bool | None) -> None:
        conf = app.conf
        self._app = app
        self._hostname = hostname
        self._whole = whole_documents
        self._accept = app.accept
        self._limit = conf.message_size_limit
        self._unknown_timeout = conf.task_unknown_timeout
        self._max_attempts = conf.task_max_attempts
        self._rate_limited = not conf.worker_disable_rate_limits
        self._rates = RateLimiter()
        self._decoders = app.plugins.listens("kern_decode_message")
        self._revokers = app.plugins.listens("kern_revoked")
        self._slot_givers = app.plugins.listens("kern_rate_slot")

    def admit(self, deliveries: Sequence[Delivery]) -> Admitted:
        """Decide about a batch; no input or output."""
        admitted = Admitted()
        now = clock.now()
        for delivery in deliveries:
            try:
                self._admit_one(delivery, now, admitted)
            except Exception as error:
                logger.exception("message could not be admitted", task_id=delivery.task_id)
                admitted.outcomes.append(self._quarantine(delivery, "undecodable", error))
        if self._revokers and admitted.requests:
            self._discard_revoked(admitted)
        return admitted

    def _admit_one(self, delivery: Delivery, now: float, admitted: Admitted) -> None:
        message = delivery.message
        if message is None:
            admitted.outcomes.append(self._quarantine(delivery, "undecodable", delivery.problem or "not a message"))
            return
        if self._decoders:
            for answer in self._app.decode_message(message):
                message = answer
            delivery = attrs.evolve(delivery, message=message)
        try:
            head = protocol.peek(message, self._accept, self._limit)
        except ContentDisallowed as error:
            self._park_or_quarantine(delivery, None, "content-type", error, now, admitted)
            return
        except (MessageError, InvalidTaskError, SecurityError) as error:
            reason = "invalid" if isinstance(error, InvalidTaskError | SecurityError) else "undecodable"
            admitted.outcomes.append(self._quarantine(delivery, reason, error))
            return
        request = protocol.request_from(delivery, head, self._hostname)
        task = self._app.tasks.get(request.task or "")
        if task is None:
            self._park_or_quarantine(delivery, request, "unknown-task", NotRegistered(request.task), now, admitted)
            return
        if delivery.attempts >= self._max_attempts:
            admitted.outcomes.append(self.poisonous(delivery, request))
            return
        if head.refused is not None:
            self._park_or_quarantine(delivery, request, "content-type", head.refused, now, admitted)
            return
        if head.expires is not None and now > head.expires.timestamp():
            admitted.outcomes.append(self.revoked(request, "expired"))
            return
        if head.eta is not None and (due := head.eta.timestamp()) > now + DUE_TOLERANCE:
            admitted.parked.append(Parking(delivery.receipt, ParkUntil(due, "eta")))
            return
        if self._rate_limited and task.rate_limit:
            rate = parse_rate(task.rate_limit)
            if rate:
                slot = self._slot(request, rate, now)
                if slot > now + DUE_TOLERANCE:
                    admitted.parked.append(Parking(delivery.receipt, ParkUntil(slot, "rate-limit")))
                    return
        request.time_limit = request.time_limit or task.time_limit
        request.soft_time_limit = request.soft_time_limit or task.soft_time_limit
        if request.ignore_result is None:
            request.ignore_result = bool(task.ignore_result)
        admitted.requests.append((delivery, request))

    def _slot(self, request: Request, rate: float, now: float) -> float:
        if self._slot_givers:
            for answer in self._app.plugins.ask("kern_rate_slot", app=self._app, task=request.task, rate=rate, now=now):
                return float(answer)
        return self._rates.slot(request.task or "", rate, request.id or "", now)

    def _discard_revoked(self, admitted: Admitted) -> None:
        requests = [request for _delivery, request in admitted.requests]
        reasons: dict[str, str] = {}
        for answer in self._app.plugins.ask("kern_revoked", app=self._app, requests=requests):
            reasons.update(answer)
        if not reasons:
            return
        kept = []
        for delivery, request in admitted.requests:
            reason = reasons.get(delivery.receipt)
            if reason is None:
                kept.append((delivery, request))
            else:
                admitted.outcomes.append(self.revoked(request, reason))
        admitted.requests = kept

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _park_or_quarantine(
        self,
        delivery: Delivery,
        request: Request | None,
        reason: str,
        error: Exception,
        now: float,
        admitted: Admitted,
    ) -> None:
        """Another worker may be able to take it; if none is after a while, it is set aside and its caller told."""
        since = delivery.parked_since if delivery.parked_since is not None else now
        if now - since >= self._unknown_timeout:
            outcome = self._quarantine(delivery, reason, error, request)
            admitted.outcomes.append(attrs.evolve(outcome, document=self._failure(request, error)))
            return
        first, factor, longest = UNKNOWN_PAUSES
        pause = min(
            longest, first * factor ** min(delivery.times_parked, 16), max(0.1, since + self._unknown_timeout - now)
        )
        if not delivery.times_parked:
            logger.warning(
                "message parked: another worker may be able to run it",
                task_id=delivery.task_id,
                task=request.task if request is not None else None,
                reason=reason,
                error=str(error),
                quarantined_after=self._unknown_timeout,
            )
        admitted.parked.append(Parking(delivery.receipt, ParkUntil(now + pause, reason, since)))

    def _quarantine(
        self, delivery: Delivery, reason: str, error: Exception | str, request: Request | None = None
    ) -> Outcome:
        logger.error(
            "message quarantined", task_id=delivery.task_id, queue=delivery.queue, reason=reason, error=str(error)
        )
        name = request.task if request is not None else (delivery.message.task if delivery.message else None)
        return Outcome(
            receipt=delivery.receipt,
            task_id=delivery.task_id,
            task=name or "",
            state=states.FAILURE,
            disposition=Quarantine(reason, {"error": str(error), "error_type": type(error).__name__}),
            summary=str(error),
        )

    def poisonous(self, delivery: Delivery, request: Request, evidence: Mapping[str, Any] | None = None) -> Outcome:
        """The message has killed as many processes as it may: set aside, and its caller told."""
        from kern.errors import WorkerLostError

        error = WorkerLostError(f"the task killed its process {delivery.attempts} times")
        outcome = self._quarantine(delivery, "poison", str(error), request)
        return attrs.evolve(
            outcome,
            disposition=Quarantine("poison", {"attempts": delivery.attempts, **(evidence or {})}),
            document=self._failure(request, error),
        )

    def revoked(self, request: Request, reason: str) -> Outcome:
        """Ends as ``REVOKED`` without having run; *reason* is ``expired``, ``revoked`` or ``terminated``."""
        logger.info("task revoked", task_id=request.id, task=request.task, reason=reason)
        return Outcome(
            receipt=request.receipt,
            task_id=request.id or "",
            task=request.task or "",
            state=states.REVOKED,
            disposition=Release(),
            document=self.document(request, states.REVOKED, TaskRevokedError(reason)),
            events=(
                Event(
                    "task-revoked",
                    {
                        "uuid": request.id,
                        "terminated": reason == "terminated",
                        "signum": None,
                        "expired": reason == "expired",
                    },
                    clock.now(),
                ),
            ),
            summary=reason,
        )

    def _failure(self, request: Request | None, error: Exception) -> Any:
        if request is None or not request.id:
            return None
        return self.document(request, states.FAILURE, error)

    def document(self, request: Request, state: str, error: BaseException) -> Any:
        """The document of a request that ended in this process; ``None`` if nothing is to be stored."""
        task = self._app.tasks.get(request.task or "")
        ignored = request.ignore_result if request.ignore_result is not None else bool(task and task.ignore_result)
        if self._whole is None or (ignored and not (task is not None and task.store_errors_even_if_ignored)):
            return None
        try:
            return documents.encode_document(
                request.id or "",
                state,
                error,
                whole=self._whole,
                serializer=self._app.conf.result_serializer,
                request=request,
                extended=self._app.conf.result_extended,
            )
        except KernError as problem:
            logger.error("document could not be encoded", task_id=request.id, error=str(problem))
            return None
