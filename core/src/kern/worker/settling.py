"""Outcomes into the result store and the broker: result, what follows, release; in one step where they share a server.

Whatever arrives while a write is under way is written together with the next one. An outcome whose result lives on
another server waits for that server in :class:`ResultWriter` and goes on to the broker once its result is stored; one
without a result never waits for a result store.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import attrs

from kern import log, seams
from kern.contracts.port import Reply
from kern.contracts.result_store import Plan, ResultStore, WriteStatus
from kern.contracts.transport import Settled, Settlement, SettleStatus, Transport
from kern.errors import KernError
from kern.message import Publication
from kern.outcome import Outcome, RetryAt

logger = log.get_logger("kern.worker")
T = TypeVar("T")

#: Outcomes in one write.
BATCH = 500
#: Bytes of encoded results and follow-ups that may wait to be written.
BYTES_WAITING = 16 * 1024 * 1024
#: How often one outcome is tried again before what it stores is reduced to a description.
ITEM_ATTEMPTS = 3
#: Pauses between attempts to reach a server: first, factor, longest; seconds.
PAUSES = (0.05, 2.0, 5.0)


@attrs.define
class Pending:
    """An outcome on its way."""

    outcome: Outcome
    #: The queue the message came from.
    queue: str
    #: The lease was released before the run: only the result and what follows are left to write.
    released: bool = False
    plan: Plan | None = None
    attempts: int = 0
    #: The document could not be stored as it is and has been reduced.
    reduced: bool = False
    #: Bytes it occupies while it waits.
    size: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        document = self.outcome.document
        size = 0 if document is None else len(document.whole or document.result or b"")
        self.size = size + sum(publication.message.size for publication in self.outcome.follow_ups)


OnSettled = Callable[[Sequence[tuple[Pending, SettleStatus]]], None]
Reduce = Callable[[Outcome, Exception], Outcome]


class Settler:
    """The stage; :meth:`put` takes outcomes, :meth:`run` writes them until :meth:`stop`."""

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

    # -- in

    def put(self, batch: Sequence[Pending]) -> None:
        """Take outcomes over."""
        if not batch:
            return
        if self._store is not None:
            plans = self._store.plan(
                [pending.outcome.document for pending in batch], [pending.outcome.join_parts for pending in batch]
            )
            for pending, plan in zip(batch, plans, strict=True):
                pending.plan = plan
        for pending in batch:
            self._bytes += pending.size
            self._count += 1
            self._route(pending)
        self._idle.clear()

    def _route(self, pending: Pending) -> None:
        plan = pending.plan
        joint = plan is not None and plan.server is not None and plan.server == self._transport.server
        if plan is not None and (pending.released or not joint):
            self._to_store.append(pending)
            self._store_work.set()
        else:
            self._to_broker.append(pending)
            self._broker_work.set()

    @property
    def has_room(self) -> bool:
        """Whether more may be claimed: unsettled outcomes are bounded."""
        return self._bytes < BYTES_WAITING and self._count < max(1000, 4 * self._slots())

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
            assert self._store is not None  # only a store makes plans
            plans = [pending.plan for pending in batch if pending.plan is not None]
            written = await self._persist(partial(self._store.write, plans), "result store")
            seams.reached("result-written")
            for pending, answer in zip(batch, written, strict=True):
                if answer.error is not None:
                    self._again(pending, answer.error, self._to_store, self._store_work)
                    continue
                if answer.status is WriteStatus.KEPT:
                    logger.debug("a final result was stored already", task_id=pending.outcome.task_id)
                outcome = pending.outcome
                if answer.publications:
                    outcome = attrs.evolve(outcome, follow_ups=(*outcome.follow_ups, *answer.publications))
                pending.outcome, pending.plan = outcome, None
                self._to_broker.append(pending)
            self._broker_work.set()

    async def _write_outcomes(self) -> None:
        while True:
            await self._broker_work.wait()
            batch = _take(self._to_broker)
            if not batch:
                self._broker_work.clear()
                continue
            await self._publish_released([pending for pending in batch if pending.released])
            leased = [pending for pending in batch if not pending.released]
            if not leased:
                continue
            settlements = [Settlement(pending.outcome, pending.plan) for pending in leased]
            answers = await self._persist(partial(self._transport.settle, settlements), "broker")
            seams.reached("settled")
            self._take_answers(leased, answers)

    def _take_answers(self, batch: Sequence[Pending], answers: Sequence[Settled]) -> None:
        done: list[tuple[Pending, SettleStatus]] = []
        for pending, answer in zip(batch, answers, strict=True):
            if answer.error is not None:
                self._again(pending, answer.error, self._to_broker, self._broker_work)
            else:
                done.append((pending, answer.status))
        self._finish(done)

    async def _publish_released(self, batch: Sequence[Pending]) -> None:
        """What follows tasks whose message was released before they ran."""
        done: list[tuple[Pending, SettleStatus]] = []
        for pending in batch:
            follow_ups = list(pending.outcome.follow_ups)
            disposition = pending.outcome.disposition
            if isinstance(disposition, RetryAt):
                follow_ups.append(Publication(disposition.message, "", pending.queue, due=disposition.due))
            if follow_ups:
                answers = await self._persist(partial(self._transport.publish, follow_ups), "broker")
                for error in answers:
                    if error is not None:
                        task_id = pending.outcome.task_id
                        logger.error("what follows a task was refused", task_id=task_id, error=str(error))
            done.append((pending, SettleStatus.DONE))
        self._finish(done)

    async def _persist(self, command: Callable[[], Reply[T]], what: str) -> T:
        """Give a command again and again until the server has answered."""
        pause, factor, longest = PAUSES
        while True:
            try:
                return await asyncio.wrap_future(command())
            except KernError as error:
                logger.warning(f"outcomes wait for the {what}", error=str(error), waiting=self._count)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(longest, pause * factor)

    def _again(self, pending: Pending, error: Exception, queue: deque[Pending], work: asyncio.Event) -> None:
        """One outcome was not taken, its neighbours were."""
        pending.attempts += 1
        if pending.attempts >= ITEM_ATTEMPTS and not pending.reduced:
            logger.error(
                "result could not be stored and is replaced by a description",
                task_id=pending.outcome.task_id,
                error=str(error),
            )
            pending.outcome = self._reduce(pending.outcome, error)
            pending.reduced = True
            if self._store is not None and pending.plan is not None:
                pending.plan = self._store.plan([pending.outcome.document], [pending.outcome.join_parts])[0]
        else:
            logger.warning("outcome not written, trying again", task_id=pending.outcome.task_id, error=str(error))
        queue.append(pending)
        asyncio.get_running_loop().call_later(0.05 * min(pending.attempts, 20), work.set)

    def _finish(self, done: Sequence[tuple[Pending, SettleStatus]]) -> None:
        if not done:
            return
        for pending, _status in done:
            self._bytes -= pending.size
            self._count -= 1
        self._on_settled(done)
        if not self._count:
            self._bytes = 0
            self._idle.set()


def _take(queue: deque[Pending]) -> list[Pending]:
    if len(queue) <= BATCH:
        batch = list(queue)
        queue.clear()
        return batch
    return [queue.popleft() for _ in range(BATCH)]
