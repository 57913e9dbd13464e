"""What may run, what is parked, and what ends here: decided without running user code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from kern import log, protocol
from kern.contracts.continuation import unsupported
from kern.contracts.transport import Parking
from kern.delivery import Delivery
from kern.errors import (
    CapabilityMissing,
    ContentDisallowed,
    InvalidTaskError,
    KernError,
    MessageError,
    NotRegistered,
    SecurityError,
)
from kern.message import CONTINUATIONS
from kern.outcome import Outcome, ParkUntil
from kern.request import Request
from kern.serialization import JSON
from kern.settings import Settings
from kern.timeutil import clock, parse_rate
from kern.worker.endings import Endings
from kern.worker.rates import RateLimiter

if TYPE_CHECKING:
    from kern.app import Kern
    from kern.task import Task

logger = log.get_logger("kern.worker")

#: A message due within so many seconds is not sent back to wait.
DUE_TOLERANCE = 0.002
#: Pauses of a message that no worker has been able to take: first, factor, longest; seconds.
UNKNOWN_PAUSES = (1.0, 2.0, 60.0)


@attrs.define
class Admitted:
    """What became of a batch of deliveries."""

    requests: list[tuple[Delivery, Request]] = attrs.field(factory=list)
    #: To be released before they run.
    early: list[tuple[Delivery, Request]] = attrs.field(factory=list)
    parked: list[tuple[Delivery, Parking]] = attrs.field(factory=list)
    #: Ended here: expired, revoked, quarantined.
    ended: list[tuple[Delivery, Request | None, Outcome]] = attrs.field(factory=list)


class Admission:
    """Turns deliveries into requests, parkings and outcomes."""

    def __init__(self, app: Kern, conf: Settings, hostname: str, endings: Endings) -> None:
        self._app = app
        self._tasks = app.tasks
        self._hostname = hostname
        self._endings = endings
        self._accept = app.accept
        self._limit: int = conf.message_size_limit or protocol.DEFAULT_LIMIT
        self._unknown_timeout: float = conf.task_unknown_timeout
        self._max_attempts: int = conf.task_max_attempts
        self._rates = None if conf.worker_disable_rate_limits else RateLimiter()
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
                self._quarantine(delivery, None, "undecodable", error, admitted)
        if self._revokers and (admitted.requests or admitted.early):
            self._discard_revoked(admitted)
        return admitted

    def forget_rate(self, task: str) -> None:
        """Start over with a task's slots, after its limit has changed."""
        if self._rates is not None:
            self._rates.forget(task)

    def _admit_one(self, delivery: Delivery, now: float, admitted: Admitted) -> None:
        message = delivery.message
        if message is None:
            error = MessageError(delivery.problem or "this is not a message")
            self._quarantine(delivery, None, "undecodable", error, admitted)
            return
        try:
            if self._decoders:
                message = self._app.decode_message(message)
            head = protocol.peek(message, self._accept, self._limit)
        except ContentDisallowed as error:
            self._park_or_quarantine(delivery, None, "content-type", error, now, admitted)
            return
        except (MessageError, InvalidTaskError, SecurityError) as error:
            self._quarantine(delivery, None, _reason(error), error, admitted)
            return
        request = protocol.request_from(delivery, head, self._hostname)
        task = self._tasks.get(head.task)
        if task is None:
            self._park_or_quarantine(delivery, request, "unknown-task", NotRegistered(head.task), now, admitted)
            return
        if delivery.attempts >= self._max_attempts:
            outcome = self._endings.poisonous(delivery, request, delivery.attempts, {})
            admitted.ended.append((delivery, request, outcome))
            return
        if head.refused is not None:
            self._park_or_quarantine(delivery, request, "content-type", head.refused, now, admitted)
            return
        if head.expires is not None and now > head.expires.timestamp():
            admitted.ended.append((delivery, request, self._endings.revoked(request, "expired")))
            return
        until = self._wait_until(delivery, head, task, now)
        if until is not None:
            admitted.parked.append((delivery, Parking(delivery.receipt, until)))
            return
        # 0 is how a caller says: no limit of its own.
        request.time_limit = request.time_limit or task.time_limit
        request.soft_time_limit = request.soft_time_limit or task.soft_time_limit
        if request.ignore_result is None:
            request.ignore_result = bool(task.ignore_result)
        if task.acks_late:
            admitted.requests.append((delivery, request))
        else:
            self._admit_early(delivery, request, admitted)

    def _wait_until(
        self, delivery: Delivery, head: protocol.Head, task: Task[Any, Any], now: float
    ) -> ParkUntil | None:
        """Until when it is too early for it; ``None``: it may run."""
        if head.eta is not None:
            due = head.eta.timestamp()
            # What was parked until then and is here again is due by the broker's clock, which is the one that counts.
            if due > now + DUE_TOLERANCE and delivery.parked_reason != "eta":
                return ParkUntil(due, "eta")
        if self._rates is not None and task.rate_limit:
            rate = parse_rate(task.rate_limit)
            if rate:
                slot = self._slot(self._rates, head, rate, now)
                if slot > now + DUE_TOLERANCE:
                    return ParkUntil(slot, "rate-limit")
        return None

    def _slot(self, rates: RateLimiter, head: protocol.Head, rate: float, now: float) -> float:
        if self._slot_givers:
            for answer in self._app.plugins.ask("kern_rate_slot", app=self._app, task=head.task, rate=rate, now=now):
                return float(answer)
        return rates.slot(head.task, rate, head.id, now)

    def _admit_early(self, delivery: Delivery, request: Request, admitted: Admitted) -> None:
        """Once released there is no message to be quarantined: what can be known of the body is asked for before.

        A body that only user code can decode (pickle) is left to the process that runs it.
        """
        if request.content_type == JSON:
            try:
                body = protocol.read(protocol.message_of(request), self._accept, self._limit)
            except (MessageError, InvalidTaskError) as error:
                self._quarantine(delivery, request, _reason(error), error, admitted, failed=True)
                return
            kinds = [
                kind for kind in CONTINUATIONS if getattr(body, kind) and self._app.plugins.continuation(kind) is None
            ]
            if kinds:
                missing = CapabilityMissing(unsupported(kinds))
                self._quarantine(delivery, request, "continuation", missing, admitted, failed=True)
                return
        admitted.early.append((delivery, request))

    def _discard_revoked(self, admitted: Admitted) -> None:
        requests = [request for _delivery, request in admitted.requests + admitted.early]
        reasons: dict[str, str] = {}
        for answer in self._app.plugins.ask("kern_revoked", app=self._app, requests=requests):
            reasons.update(answer)
        if not reasons:
            return
        for among in (admitted.requests, admitted.early):
            for delivery, request in among:
                reason = reasons.get(delivery.receipt)
                if reason is not None:
                    admitted.ended.append((delivery, request, self._endings.revoked(request, reason)))
            among[:] = [(delivery, request) for delivery, request in among if delivery.receipt not in reasons]

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _park_or_quarantine(
        self,
        delivery: Delivery,
        request: Request | None,
        reason: str,
        error: KernError,
        now: float,
        admitted: Admitted,
    ) -> None:
        """Another worker may be able to take it; if none is after a while, it is set aside and its caller told."""
        since, times = now, 0
        if delivery.parked_since is not None and delivery.parked_reason in (reason, None):
            since, times = delivery.parked_since, delivery.times_parked
        if now - since >= self._unknown_timeout:
            self._quarantine(delivery, request, reason, error, admitted, failed=True)
            return
        first, factor, longest = UNKNOWN_PAUSES
        left = max(0.1, since + self._unknown_timeout - now)
        pause = min(longest, first * factor ** min(times, 16), left)
        if not times:
            logger.warning(
                "message parked: another worker may be able to run it",
                task_id=delivery.task_id,
                task=request.task if request is not None else None,
                reason=reason,
                error=str(error),
                quarantined_after=self._unknown_timeout,
            )
        until = ParkUntil(now + pause, reason, since)
        admitted.parked.append((delivery, Parking(delivery.receipt, until)))

    def _quarantine(
        self,
        delivery: Delivery,
        request: Request | None,
        reason: str,
        error: Exception,
        admitted: Admitted,
        failed: bool = False,
    ) -> None:
        outcome = self._endings.quarantined(delivery, request, reason, error, failed=failed)
        admitted.ended.append((delivery, request, outcome))


def _reason(error: Exception) -> str:
    return "invalid" if isinstance(error, InvalidTaskError | SecurityError) else "undecodable"
