"""From a batch of deliveries to requests in the pool: what is admitted, parked, released, looked up and handed over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from kern import log, seams, states
from kern.contracts.result_store import ResultStore
from kern.contracts.transport import Parking, Settlement, SettleStatus, Transport
from kern.delivery import Delivery
from kern.errors import KernError
from kern.outcome import Document, Outcome, Release
from kern.request import Request
from kern.worker.admission import Admission
from kern.worker.chores import Chores, until_answered
from kern.worker.dispatch import Dispatcher
from kern.worker.endings import Endings
from kern.worker.replies import awaited
from kern.worker.settling import Pending, Settler
from kern.worker.state import FlightTable, InFlight, Phase

if TYPE_CHECKING:
    from kern.app import Kern

logger = log.get_logger("kern.worker")

#: Seconds a result store may take to say what it has of a redelivered call; then it runs, as it would without a store.
PATIENCE_WITH_STORE = 2.0


class Intake:
    """Takes what the claimer brings.

    :param store: the result store in use; ``None``: there is none.
    :param received: told of requests that will run here, before they are handed over.
    :param ended: takes entries that end here, with their outcome.
    """

    def __init__(
        self,
        app: Kern,
        transport: Transport,
        store: Callable[[], ResultStore | None],
        flights: FlightTable,
        admission: Admission,
        endings: Endings,
        dispatcher: Dispatcher,
        settler: Settler,
        chores: Chores,
        received: Callable[[Sequence[Request]], None],
        ended: Callable[[Sequence[tuple[InFlight, Outcome]]], None],
    ) -> None:
        self._app = app
        self._transport = transport
        self._store = store
        self._flights = flights
        self._admission = admission
        self._endings = endings
        self._dispatcher = dispatcher
        self._settler = settler
        self._chores = chores
        self._received = received
        self._ended = ended
        self._closed = False

    def close(self) -> None:
        """Hand back from now on whatever still comes."""
        self._closed = True

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Decide about a batch, and set everything in motion."""
        now = time.monotonic()
        if self._closed:
            self.give_back([self._enter(delivery, None, now) for delivery in deliveries])
            return
        admitted = self._admission.admit(deliveries)
        late = [self._enter(delivery, request, now) for delivery, request in admitted.requests]
        early = [self._enter(delivery, request, now) for delivery, request in admitted.early]
        parked = [(self._enter(delivery, None, now), parking) for delivery, parking in admitted.parked]
        seams.reached("admitted")
        if parked:
            self._chores.spawn("park", self._park(parked))
        if admitted.ended:
            self._ended([(self._enter(delivery, request, now), end) for delivery, request, end in admitted.ended])
        if late or early:
            self._received([entry.request for entry in late + early if entry.request is not None])
        if early:
            self._chores.spawn("release", self._look_and(early, self._release_and_submit))
        unsure = [entry for entry in late if self._may_have_ended(entry)]
        if unsure:
            self._chores.spawn("look", self._look_and(unsure, self._submit))
            late = [entry for entry in late if not self._may_have_ended(entry)]
        if late:
            self._dispatcher.submit(late)

    def give_back(self, entries: Sequence[InFlight]) -> None:
        """Back to their queues, uncounted; those that still run in the pool are not heard of any more."""
        batch = []
        for entry in entries:
            started = entry.phase is Phase.STARTED
            if started:
                entry.abandoned = True
            else:
                self._flights.move(entry, Phase.ENDED)
            batch.append(Pending(entry, self._endings.handed_back(entry, started)))
        self._settler.put(batch)

    def _enter(self, delivery: Delivery, request: Request | None, now: float) -> InFlight:
        """Whatever is leased is in the table, so that its lease is kept until it is settled."""
        entry = InFlight(delivery, request, now, Phase.ENDED if request is None else Phase.ADMITTED)
        self._flights.add(entry)
        return entry

    # -- parking

    async def _park(self, batch: Sequence[tuple[InFlight, Parking]]) -> None:
        parkings = [parking for _entry, parking in batch]
        try:
            answers, _again = await until_answered(lambda: self._transport.park(parkings), "messages wait to be parked")
            errors = [answer.error for answer in answers]
        except Exception as error:
            errors = [error] * len(batch)
        refused = []
        for (entry, parking), problem in zip(batch, errors, strict=True):
            if problem is None:
                self._flights.remove(entry)
            else:
                logger.warning("message not parked, trying again", task_id=entry.task_id, error=repr(problem))
                outcome = Outcome(entry.receipt, entry.task_id, entry.task, states.PENDING, parking.until)
                refused.append((entry, outcome))
        if refused:
            self._ended(refused)

    # -- what was delivered before

    def _may_have_ended(self, entry: InFlight) -> bool:
        request = entry.request
        return (
            entry.delivery.redelivered
            and request is not None
            and not request.ignore_result
            and self._store() is not None
        )

    async def _look_and(
        self, entries: Sequence[InFlight], go_on: Callable[[Sequence[InFlight]], Coroutine[Any, Any, None]]
    ) -> None:
        """What has a final result does not run again, what follows it is sent again; the rest goes on."""
        unsure = [entry.task_id for entry in entries if self._may_have_ended(entry)]
        stored = await self._stored(unsure) if unsure else {}
        rest, ended = [], []
        for entry in self._still_ours(entries):
            document = stored.get(entry.task_id) if self._may_have_ended(entry) else None
            if document is not None and document.status in states.READY_STATES:
                ended.append((entry, self._repeat(entry, document)))
            else:
                rest.append(entry)
        if ended:
            self._ended(ended)
        await go_on(rest)

    def _repeat(self, entry: InFlight, document: Document) -> Outcome:
        assert entry.request is not None  # or nobody would have looked
        logger.info("completed before: not run again", task_id=entry.task_id, task=entry.task)
        try:
            return self._endings.repeated(entry.request, document)
        except Exception as error:
            return self._endings.quarantined(entry.delivery, entry.request, "repeat", error)

    async def _stored(self, task_ids: Sequence[str]) -> dict[str, Document]:
        store = self._store()
        assert store is not None  # nobody asks without one
        try:
            return await asyncio.wait_for(awaited(store.read(task_ids)), PATIENCE_WITH_STORE)
        except (KernError, TimeoutError) as error:
            logger.warning("stored results could not be read: tasks run again", tasks=len(task_ids), error=str(error))
            return {}

    # -- into the pool

    async def _submit(self, entries: Sequence[InFlight]) -> None:
        self._dispatcher.submit(self._still_ours(entries))

    def _still_ours(self, entries: Sequence[InFlight]) -> list[InFlight]:
        return [entry for entry in entries if self._flights.holds(entry) and not entry.lost]

    async def _release_and_submit(self, entries: Sequence[InFlight]) -> None:
        """At most once: the release is confirmed before the task starts."""
        if self._closed:
            self.give_back(entries)
            return
        releases = [
            Settlement(Outcome(entry.receipt, entry.task_id, entry.task, states.RECEIVED, Release()))
            for entry in entries
        ]
        try:
            answers, again = await until_answered(
                lambda: self._transport.settle(releases), "messages wait to be released"
            )
        except Exception as error:
            logger.exception("messages could not be released", error=repr(error))
            self.give_back(entries)
            return
        released, refused = [], []
        for entry, answer in zip(entries, answers, strict=True):
            if answer.error is not None:
                refused.append(entry)
            elif answer.status is SettleStatus.FENCED:
                # If it was released by an attempt whose answer was lost, it is gone: at most once means just that.
                complaint = "released, perhaps, and not run" if again else "lease lost before its release: not run"
                logger.error(complaint, task_id=entry.task_id, task=entry.task)
                self._flights.remove(entry)
            else:
                entry.released = True
                released.append(entry)
        if refused:
            self.give_back(refused)
        self._dispatcher.submit(released)
