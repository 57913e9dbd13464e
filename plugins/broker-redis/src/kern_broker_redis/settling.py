"""Settling: the end of leases, with what follows and what the result store wants written, in one script for a batch.

Each task is atomic: the script looks whether all of it can be written before it writes any of it, and an item that
cannot answers why and stays as it is. Batches are cut so that no script holds the server up for long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import Any

import attrs
import hiredis

from kern import log, seams
from kern.contracts.result_store import Plan, Written
from kern.contracts.transport import Parking, Settled, Settlement, SettleStatus
from kern.delivery import Delivery
from kern.errors import EncodeError, KernError, PublishRefused, TransportError
from kern.message import Publication
from kern.outcome import Disposition, GiveBack, ParkUntil, Quarantine, Release, RetryAt
from kern.saferepr import saferepr
from kern.serialization import encode_json
from kern_broker_redis import notes
from kern_broker_redis.holdings import Holding, Holdings, holding_of, with_note
from kern_broker_redis.names import Names
from kern_broker_redis.publishing import wire
from kern_redis_client.envelope import encode, new_tag, published_as
from kern_redis_client.failures import Kind, RedisError, failure
from kern_redis_client.link import Command, Conversation
from kern_redis_client.plans import Argument, RedisPlan
from kern_redis_client.scripts import load

logger = log.get_logger("kern.connection")

SETTLE = load("kern_broker_redis", "scripts/settle", include=("deliver", "record", "plans"))
SCRIPTS = (SETTLE,)
#: What one script call may hold at most: items, and bytes.
ITEMS, BYTES = 100, 512 * 1024


@attrs.frozen
class Item:
    """What is to become of one lease."""

    receipt: str
    disposition: Disposition
    follow_ups: tuple[Publication, ...] = ()
    plan: Plan | None = None
    #: By number, of what follows: no queue is bound for it, and it goes to the deadletter queue.
    undelivered: frozenset[int] = frozenset()


@attrs.define(eq=False)
class _Entry:
    """An item on its way."""

    index: int
    item: Item
    holding: Holding
    arguments: list[Argument]
    #: Bytes of what may be large.
    size: int
    #: What follows, the store's included.
    publications: Sequence[Publication]


class Settling:
    """For one connection.

    :param name: the server for messages, its URL with the password masked.
    :param server: the identity that plans for this server have.
    :param database: number of the database.
    :param quota: bytes that quarantine may hold.
    :param deadletter_queue: receives what no queue is bound for; ``None``: that is refused.
    :param now: seconds since the epoch, the server's clock.
    """

    def __init__(
        self,
        name: str,
        names: Names,
        holdings: Holdings,
        server: str | None,
        database: int,
        quota: int,
        deadletter_queue: str | None,
        now: Callable[[], float],
    ) -> None:
        self._name = name
        self._names = names
        self._holdings = holdings
        self._server = server
        self._database = database
        self._quota = quota
        self._deadletter_queue = deadletter_queue
        self._now = now

    def settle(self, batch: Sequence[Settlement]) -> Conversation[list[Settled]]:
        items = []
        for settlement in batch:
            outcome = settlement.outcome
            items.append(Item(outcome.receipt, outcome.disposition, outcome.follow_ups, settlement.plan))
        return (yield from self._write(items, "settling"))

    def park(self, batch: Sequence[Parking]) -> Conversation[list[Settled]]:
        return (yield from self._write([Item(parking.receipt, parking.until) for parking in batch], "parking"))

    # -- the conversation

    def _write(self, items: Sequence[Item], seam: str) -> Conversation[list[Settled]]:
        if not items:
            return []
        answers: list[Settled | None] = [None] * len(items)
        strangers = [item.receipt for item in items if self._holdings.get(item.receipt) is None]
        known = (yield from self._look_up(strangers)) if strangers else {}
        entries = []
        for index, item in enumerate(items):
            holding = self._holdings.get(item.receipt) or known.get(item.receipt)
            if holding is None:
                answers[index] = Settled(item.receipt, SettleStatus.FENCED)
                continue
            try:
                entries.append(self._entry(index, item, holding))
            except KernError as error:
                answers[index] = Settled(item.receipt, SettleStatus.DONE, error)
        if entries:
            seams.reached(seam)
            yield from self._say(entries, answers)
            seams.reached("settled")
        return [_answered(answer) for answer in answers]

    def _say(self, entries: Sequence[_Entry], answers: list[Settled | None]) -> Conversation[None]:
        chunks = list(_chunks(entries))
        answered = yield [self._command(chunk) for chunk in chunks]
        for chunk, answer in zip(chunks, answered, strict=True):
            if not isinstance(answer, Exception):
                for entry, status in zip(chunk, answer, strict=True):
                    if isinstance(status, list):
                        yield from self._unplanned(entry, status, answers)
                    elif isinstance(status, bytes) and status.startswith(b"UNROUTABLE ") and self._deadletter_queue:
                        yield from self._redirected(entry, int(status.split()[1]) - 1, answers)
                    else:
                        answers[entry.index] = self._settled(entry, status)
                continue
            error = failure(answer, self._name)
            if error.retryable:
                raise error  # it concerns the server and not an item
            if len(chunk) == 1:
                answers[chunk[0].index] = Settled(chunk[0].item.receipt, SettleStatus.DONE, error)
                continue
            # One of them is to blame: alone, each answers for itself.
            for entry in chunk:
                yield from self._say([entry], answers)

    def _command(self, chunk: Sequence[_Entry]) -> Command:
        names = self._names
        arguments: list[Argument] = [names.prefix, names.separator, self._quota, self._database, len(chunk)]
        for entry in chunk:
            arguments += entry.arguments
        return SETTLE.call((names("kern.leases"),), arguments)

    def _settled(self, entry: _Entry, status: Any) -> Settled:
        receipt = entry.item.receipt
        if status == 1 or status == 2:
            self._holdings.forget(receipt)
            return Settled(receipt, SettleStatus.DONE if status == 1 else SettleStatus.RESULT_KEPT)
        if status == 0:
            self._holdings.forget(receipt)
            return Settled(receipt, SettleStatus.FENCED)
        return Settled(receipt, SettleStatus.DONE, self._problem(entry, status.decode("utf-8", "replace")))

    def _unplanned(self, entry: _Entry, answer: Sequence[Any], answers: list[Settled | None]) -> Conversation[None]:
        """The plan could not be written as it was: there is another one, or an error."""
        plan = entry.item.plan
        assert isinstance(plan, RedisPlan)
        meaning = plan.answered(answer)
        if isinstance(meaning, Written):
            answers[entry.index] = Settled(entry.item.receipt, SettleStatus.DONE, meaning.error)
            return
        item = attrs.evolve(entry.item, plan=(yield from meaning))
        yield from self._say([self._entry(entry.index, item, entry.holding)], answers)

    def _redirected(self, entry: _Entry, number: int, answers: list[Settled | None]) -> Conversation[None]:
        """No queue is bound for one of what follows, and there is one for such."""
        publication = entry.publications[number]
        if number in entry.item.undelivered:  # the deadletter queue's own key is no list
            answers[entry.index] = Settled(entry.item.receipt, SettleStatus.DONE, _unroutable(publication))
            return
        logger.warning(
            "no queue is bound for a message; it goes to the deadletter queue",
            id=publication.task_id,
            exchange=publication.exchange,
            routing_key=publication.routing_key,
            queue=self._deadletter_queue,
        )
        item = attrs.evolve(entry.item, undelivered=entry.item.undelivered | {number})
        yield from self._say([self._entry(entry.index, item, entry.holding)], answers)

    def _problem(self, entry: _Entry, said: str) -> Exception:
        code, _, rest = said.partition(" ")
        if code == "UNROUTABLE":
            return _unroutable(entry.publications[int(rest) - 1])
        if code == "QUOTA":
            return RedisError(
                Kind.FULL,
                f"{self._name}: quarantine holds {rest} bytes of {self._quota} it may hold; replay or drop what is "
                "there, or raise the transport option 'quarantine_bytes'",
            )
        return failure(hiredis.ReplyError(said), self._name)

    # -- what only the server knows

    def _look_up(self, receipts: Sequence[str]) -> Conversation[dict[str, Holding]]:
        """Leases that were taken on another connection of this server."""
        (records,) = yield [("HMGET", self._names("kern.leases"), *receipts)]
        if isinstance(records, Exception):
            raise failure(records, self._name)
        found: dict[str, Holding] = {}
        for receipt, record in zip(receipts, records, strict=True):
            if record is not None:
                found[receipt] = holding_of(receipt, record, self._names)
        if found:
            (noted,) = yield [("HMGET", self._names(notes.NOTES), *(holding.key for holding in found.values()))]
            if isinstance(noted, Exception):
                raise failure(noted, self._name)
            for receipt, value in zip(list(found), noted, strict=True):
                found[receipt] = with_note(found[receipt], notes.read(value))
        return found

    # -- arguments

    def _entry(self, index: int, item: Item, holding: Holding) -> _Entry:
        """What the script is told of one item.

        :raises KernError: it cannot be written.
        """
        delivery = holding.delivery
        message = delivery.message
        task_id = message.task_id if message is not None else None
        member = published_as(task_id, delivery.exchange, delivery.routing_key) if task_id else ""
        plan: Sequence[Argument] = ()
        publications: Sequence[Publication] = item.follow_ups
        size = 0
        if item.plan is not None:
            if not isinstance(item.plan, RedisPlan) or item.plan.server != self._server:
                raise TransportError(
                    f"a plan for {item.plan.server} was given to the transport of {self._server}", retryable=False
                )
            plan, size = item.plan.arguments, item.plan.size
            if item.plan.publications:
                publications = (*publications, *item.plan.publications)
        arguments: list[Argument] = [item.receipt, holding.key, member, len(plan), len(publications)]
        if type(item.disposition) is Release:
            arguments.append("R")
        else:
            end = self._end(item.disposition, holding)
            # What the server has of it is moved, too.
            size += 2 * (message.size if message is not None else len(delivery.raw or b""))
            arguments += end
        arguments += plan
        for number, publication in enumerate(publications):
            wired = wire(publication, self._names)
            if number in item.undelivered:
                assert self._deadletter_queue is not None
                wired = (wired[0], "", "direct", self._deadletter_queue, *wired[4:])
            size += len(wired[-1])  # type: ignore[arg-type]
            arguments += wired
        return _Entry(index, item, holding, arguments, size, publications)

    def _end(self, disposition: Disposition, holding: Holding) -> Sequence[Argument]:
        delivery = holding.delivery
        if isinstance(disposition, RetryAt):
            suffix = self._names.suffix(disposition.message.properties.get("priority"))
            publication = Publication(disposition.message, delivery.exchange, delivery.routing_key)
            try:
                envelope = encode(publication, new_tag())
            except EncodeError as error:
                raise EncodeError(f"message {publication.task_id}: its headers or properties {error}") from error
            key = f"{self._names.prefix}{delivery.queue}{suffix}"
            return "T", key, delivery.queue, suffix, _ms(disposition.due), envelope
        if isinstance(disposition, GiveBack):
            note = notes.given_back(notes.of(delivery), disposition)
            due = 0 if disposition.due is None else max(1, _ms(disposition.due))
            return "G", delivery.queue, holding.suffix, due, _rewritten(delivery, note)
        if isinstance(disposition, ParkUntil):
            note = notes.parked(notes.of(delivery), disposition, self._now())
            return "G", delivery.queue, holding.suffix, max(1, _ms(disposition.due)), _rewritten(delivery, note)
        if isinstance(disposition, Quarantine):
            return "Q", f"{delivery.queue}:{holding.key}:{disposition.reason}", self._head(disposition, holding)
        return ("R",)

    def _head(self, quarantine: Quarantine, holding: Holding) -> bytes:
        """The line before the envelope."""
        delivery = holding.delivery
        head = {
            "id": holding.key,
            "queue": delivery.queue,
            "list": f"{self._names.prefix}{delivery.queue}{holding.suffix}",
            "reason": quarantine.reason,
            "exchange": delivery.exchange,
            "routing_key": delivery.routing_key,
        }
        try:
            return encode_json({**head, "evidence": dict(quarantine.evidence)})
        except EncodeError:
            # What a task died of must not keep it from being put aside.
            evidence = {str(key): saferepr(value) for key, value in quarantine.evidence.items()}
            return encode_json({**head, "evidence": evidence})


def _unroutable(publication: Publication) -> PublishRefused:
    return PublishRefused(
        f"message {publication.task_id} would be lost: no queue is bound to exchange {publication.exchange!r} under "
        f"{publication.routing_key!r}"
    )


def _answered(answer: Settled | None) -> Settled:
    assert answer is not None  # every item is in one chunk
    return answer


def _chunks(entries: Sequence[_Entry]) -> Iterator[Sequence[_Entry]]:
    """In pieces that one script call may do; a single item may be of any size."""
    start = size = 0
    for end, entry in enumerate(entries):
        if end > start and (end - start == ITEMS or size + entry.size > BYTES):
            yield entries[start:end]
            start, size = end, 0
        size += entry.size
    yield entries[start:]


def _ms(due: float) -> int:
    """Milliseconds of a time, rounded up: never a moment early."""
    return max(0, ceil(due * 1000))


def _rewritten(delivery: Delivery, note: notes.Note) -> bytes | str:
    """The note as the script takes it: ``=`` as it was, ``-`` none."""
    if note == notes.of(delivery):
        return "="
    return note.written() or "-"
