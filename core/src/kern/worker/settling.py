"""Outcomes into the result store and the broker: result, what follows, release; in one step where they share a server.

Whatever arrives while a write is under way is written together with the next one. An outcome whose result lives on
another server waits for that server first and goes on to the broker once its result is stored; one without a result
never waits for a result store.

A server that cannot be reached is asked again for ever. An item that a reachable server refuses is tried again alone;
then what it stores is replaced by a description; then its message is put in quarantine with the error, at last without
a result.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import attrs

from kern import log, seams, states
from kern.contracts.result_store import Plan, ResultStore, WriteStatus, Written
from kern.contracts.transport import Settled, Settlement, SettleStatus, Transport
from kern.message import Publication
from kern.outcome import GiveBack, Outcome, Quarantine, RetryAt
from kern.worker.chores import until_answered
from kern.worker.state import InFlight

logger = log.get_logger("kern.worker")
T = TypeVar("T")

#: Outcomes in one write.
BATCH = 500
#: Outcomes that may wait to be written, or four for each slot if that is more.
OUTCOMES_WAITING = 1000
#: Bytes of encoded results and follow-ups that may wait to be written.
BYTES_WAITING = 16 * 1024 * 1024
#: Refusals after which what an outcome stores is replaced by a description, after which it is put in quarantine, and
#: after which it goes there without anything being stored.
REDUCED_AFTER, QUARANTINED_AFTER, UNSTORED_AFTER = 3, 6, 9
#: Seconds before a refused outcome is tried again; so many times the number of its refusals.
REFUSED_PAUSE = 0.05


@attrs.define(eq=False)
class Pending:
    """An outcome on its way."""

    entry: InFlight
    outcome: Outcome
    plan: Plan | None = None
    refusals: int = 0
    #: Bytes it occupies while it waits.
    size: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        document, follow_ups = self.outcome.document, self.outcome.follow_ups
        self.size = 0 if document is None else document.size
        if self.outcome.documents:
            self.size += sum(document.size for document in self.outcome.documents)
        if follow_ups:
            self.size += sum(publication.message.size for publication in follow_ups)


OnSettled = Callable[[Sequence[tuple[Pending, SettleStatus]]], None]
#: The same outcome with a description in place of what the store refused with this error.
Reduce = Callable[[Outcome, Exception], Outcome]


class Settler:
    """The stage; :meth:`put` takes outcomes, :meth:`run` writes them until it is cancelled."""

    def __init__(
        self,
        transport: Transport,
        store: ResultStore | None,
        on_settled: OnSettled,
        reduce: Reduce,
        slots: Callable[[], int],
    ) -> None:
        self._transport = transport
        self._store = store
        self._on_settled = on_settled
        self._reduce = reduce
        self._slots = slots
        self._to_store: deque[Pending] = deque()
        self._to_broker: deque[Pending] = deque()
        self._bytes = 0
        self._count = 0
        self._store_work = asyncio.Event()
        self._broker_work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def use(self, store: ResultStore) -> None:
        """Write to *store* from now on; what waits waits for it."""
        self._store = store

    # -- in

    def put(self, batch: Sequence[Pending]) -> None:
        """Take outcomes over."""
        if not batch:
            return
        for pending, plan in zip(batch, self._plans(batch), strict=True):
            pending.plan = plan
            self._bytes += pending.size
            self._route(pending)
        self._count += len(batch)
        self._idle.clear()

    def _plans(self, batch: Sequence[Pending]) -> Sequence[Plan | None]:
        if self._store is None:
            return [None] * len(batch)
        try:
            return self._store.plan(
                [pending.outcome.document for pending in batch],
                [pending.outcome.join_parts for pending in batch],
                [pending.outcome.documents for pending in batch],
            )
        except Exception as error:
            if len(batch) > 1:
                return [plan for pending in batch for plan in self._plans([pending])]
            (pending,) = batch
            if pending.refusals:
                logger.exception("result cannot be stored at all", task_id=pending.outcome.task_id)
                return [None]
            self._reduce_one(pending, error)
            return self._plans(batch)

    def _reduce_one(self, pending: Pending, error: Exception) -> None:
        logger.error(
            "result could not be stored and is replaced by a description",
            task_id=pending.outcome.task_id,
            error=str(error),
        )
        try:
            pending.outcome = self._reduce(pending.outcome, error)
        except Exception:
            logger.exception("not even a description of it", task_id=pending.outcome.task_id)
            pending.outcome = attrs.evolve(pending.outcome, document=None, documents=())
        pending.refusals = max(pending.refusals, REDUCED_AFTER)

    def _route(self, pending: Pending) -> None:
        plan = pending.plan
        if plan is None or (
            plan.server is not None and plan.server == self._transport.server and self._leased(pending)
        ):
            self._to_broker.append(pending)
            self._broker_work.set()
        else:
            self._to_store.append(pending)
            self._store_work.set()

    @staticmethod
    def _leased(pending: Pending) -> bool:
        return not pending.entry.released

    @property
    def has_room(self) -> bool:
        """Whether more may be claimed: unsettled outcomes are bounded."""
        return self._bytes < BYTES_WAITING and self._count < max(OUTCOMES_WAITING, 4 * self._slots())

    @property
    def unsettled(self) -> int:
        return self._count

    async def drained(self) -> None:
        """Wait until everything is written."""
        await self._idle.wait()

    # -- the two writers

    async def run(self) -> None:
        """Write until cancelled."""
        await asyncio.gather(self._write_results(), self._write_outcomes())

    async def _write_results(self) -> None:
        while True:
            await self._store_work.wait()
            batch = _take(self._to_store)
            if not batch:
                self._store_work.clear()
                continue
            written = await self._answers(batch, self._store_once)
            seams.reached("result-written")
            for pending, answer in zip(batch, written, strict=True):
                if isinstance(answer, Exception):
                    self._refused(pending, answer)
                    continue
                if answer.status is WriteStatus.KEPT:
                    logger.debug("a final result was stored already", task_id=pending.outcome.task_id)
                if answer.publications:
                    follow_ups = (*pending.outcome.follow_ups, *answer.publications)
                    pending.outcome = attrs.evolve(pending.outcome, follow_ups=follow_ups)
                pending.plan = None
                self._to_broker.append(pending)
            self._broker_work.set()

    async def _store_once(self, batch: Sequence[Pending]) -> list[Written | Exception]:
        plans = [pending.plan for pending in batch if pending.plan is not None]
        # Asked for at each attempt: a store that could not be reached at the start is replaced once it can.
        written, _again = await until_answered(lambda: self._live_store().write(plans), "results wait for their store")
        return [answer.error or answer for answer in written]

    def _live_store(self) -> ResultStore:
        assert self._store is not None  # only a store makes plans
        return self._store

    async def _write_outcomes(self) -> None:
        while True:
            await self._broker_work.wait()
            batch = _take(self._to_broker)
            if not batch:
                self._broker_work.clear()
                continue
            leased = [pending for pending in batch if self._leased(pending)]
            if leased:
                settled = await self._answers(leased, self._settle_once)
                seams.reached("settled")
                self._finish(leased, settled)
            if len(leased) < len(batch):
                released = [pending for pending in batch if not self._leased(pending)]
                self._finish(released, await self._answers(released, self._publish_once))

    async def _settle_once(self, batch: Sequence[Pending]) -> list[SettleStatus | Exception]:
        settlements = [Settlement(pending.outcome, pending.plan) for pending in batch]
        settled, again = await until_answered(
            lambda: self._transport.settle(settlements), "outcomes wait for the broker"
        )
        return [_status(answer, again) for answer in settled]

    async def _publish_once(self, batch: Sequence[Pending]) -> list[SettleStatus | Exception]:
        """Of tasks whose message was released before they ran, what follows is all there is to be written."""
        publications = [self._publications(pending) for pending in batch]
        flat = [publication for of_one in publications for publication in of_one]
        errors: list[Exception | None] = []
        if flat:
            errors, _again = await until_answered(
                lambda: self._transport.publish(flat), "what follows tasks waits for the broker"
            )
        answers: list[SettleStatus | Exception] = []
        for of_one in publications:
            own, errors = errors[: len(of_one)], errors[len(of_one) :]
            answers.append(next((error for error in own if error is not None), SettleStatus.DONE))
        return answers

    def _publications(self, pending: Pending) -> list[Publication]:
        outcome, delivery = pending.outcome, pending.entry.delivery
        follow_ups = list(outcome.follow_ups)
        if isinstance(outcome.disposition, RetryAt):
            retry = outcome.disposition
            follow_ups.append(Publication(retry.message, "", delivery.queue, due=retry.due))
        elif isinstance(outcome.disposition, GiveBack) and outcome.state == states.PENDING and delivery.message:
            # It has not been run: nothing would ever come of it, for its lease is gone.
            follow_ups.append(Publication(delivery.message, "", delivery.queue, attempts=delivery.attempts))
        return follow_ups

    # -- answers

    async def _answers(
        self, batch: Sequence[Pending], write: Callable[[Sequence[Pending]], Coroutine[Any, Any, list[T | Exception]]]
    ) -> list[T | Exception]:
        """What *write* answers, item by item; where it fails as a whole for no reason of the connection's, in halves,
        so that in the end the item that is to blame stands alone."""
        try:
            return await write(batch)
        except Exception as error:
            if len(batch) == 1:
                logger.exception("a driver failed", task_id=batch[0].outcome.task_id)
                return [error]
        half = len(batch) // 2
        return [*await self._answers(batch[:half], write), *await self._answers(batch[half:], write)]

    def _finish(self, batch: Sequence[Pending], answers: Sequence[SettleStatus | Exception]) -> None:
        done: list[tuple[Pending, SettleStatus]] = []
        for pending, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                self._refused(pending, answer)
            else:
                self._bytes -= pending.size
                done.append((pending, answer))
        if not done:
            return
        self._count -= len(done)
        self._on_settled(done)
        if not self._count:
            self._idle.set()

    def _refused(self, pending: Pending, error: Exception) -> None:
        """One outcome was not taken, its neighbours were: try it again, in the end without what is refused."""
        pending.refusals += 1
        outcome = pending.outcome
        if pending.refusals == REDUCED_AFTER and (outcome.document is not None or outcome.documents):
            self._reduce_one(pending, error)
            pending.plan = self._plans([pending])[0]
        elif pending.refusals == QUARANTINED_AFTER:
            given_up = "what follows the task is given up" if pending.entry.released else "its message is quarantined"
            logger.error(f"outcome refused for good: {given_up}", task_id=outcome.task_id, error=str(error))
            evidence = {"error": str(error), "error_type": type(error).__name__, "state": outcome.state}
            pending.outcome = attrs.evolve(outcome, follow_ups=(), disposition=Quarantine("unsettled", evidence))
        elif pending.refusals == UNSTORED_AFTER and pending.plan is not None:
            logger.error("nothing of the result can be stored", task_id=outcome.task_id, error=str(error))
            pending.outcome = attrs.evolve(outcome, document=None, documents=(), join_parts=())
            pending.plan = None
        else:
            logger.warning("outcome refused, trying again", task_id=outcome.task_id, error=str(error))
        pause = REFUSED_PAUSE * min(pending.refusals, 20)
        asyncio.get_running_loop().call_later(pause, self._route, pending)


def _status(answer: Settled, again: bool) -> SettleStatus | Exception:
    if answer.error is not None:
        return answer.error
    if again and answer.status is SettleStatus.FENCED:
        # Its lease went with the attempt whose answer was lost, or was lost meanwhile; there is no telling.
        logger.info("outcome was settled before, or its lease was lost", receipt=answer.receipt)
        return SettleStatus.DONE
    return answer.status


def _take(queue: deque[Pending]) -> list[Pending]:
    if len(queue) <= BATCH:
        batch = list(queue)
        queue.clear()
        return batch
    return [queue.popleft() for _ in range(BATCH)]
