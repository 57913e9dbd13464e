"""What this connection holds leases of, and what ending them takes to know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import attrs

from kern.delivery import Delivery
from kern.errors import DecodeError
from kern_broker_redis import notes
from kern_broker_redis.names import Names
from kern_broker_redis.notes import Note
from kern_broker_redis.records import parts
from kern_redis_client.envelope import decode


class Holding(NamedTuple):
    """A delivery, and what the server calls its parts."""

    delivery: Delivery
    #: Behind the queue's name in the list it was in.
    suffix: str
    #: Of its note.
    key: str


def with_note(holding: Holding, note: Note) -> Holding:
    """The same with what is known of it."""
    delivery = attrs.evolve(
        holding.delivery,
        attempts=note.attempts,
        suspect=note.suspect,
        redelivered=note.redelivered or holding.delivery.redelivered,
        parked_since=note.parked_since,
        parked_reason=note.parked_reason,
        times_parked=note.times_parked,
    )
    return holding._replace(delivery=delivery)


def holding_of(receipt: str, record: bytes, names: Names) -> Holding:
    """What the server keeps of a lease, as the book has it; without its note."""
    key, raw = parts(record)
    queue = names.queue_of(key)
    suffix = key.removeprefix(names.prefix)[len(queue) :]
    owner = receipt.rpartition(":")[0]
    try:
        envelope = decode(raw)
    except DecodeError as error:
        return Holding(
            Delivery(receipt, queue, owner, None, raw=raw, problem=str(error), routing_key=queue),
            suffix,
            notes.key_of(None, raw),
        )
    delivery = Delivery(
        receipt,
        queue,
        owner,
        envelope.message,
        redelivered=envelope.redelivered,
        exchange=envelope.exchange,
        routing_key=envelope.routing_key,
    )
    return Holding(delivery, suffix, notes.key_of(envelope.message, raw))


class Holdings:
    """A book of leases. It may have forgotten some; the server has not."""

    def __init__(self) -> None:
        self._held: dict[str, Holding] = {}
        #: Receipts that were there at the last but one renewal, and were not renewed since.
        self._doubtful: set[str] = set()

    def hold(self, holding: Holding) -> None:
        self._held[holding.delivery.receipt] = holding

    def __getitem__(self, receipt: str) -> Holding:
        return self._held[receipt]

    def get(self, receipt: str) -> Holding | None:
        return self._held.get(receipt)

    def forget(self, receipt: str) -> None:
        """Its lease has ended, or somebody else ends it."""
        self._held.pop(receipt, None)

    def receipts(self) -> list[str]:
        """All; from any thread."""
        return list(self._held)

    def note(self, holding: Holding, note: Note) -> Delivery:
        """The same delivery with what is known of it."""
        holding = with_note(holding, note)
        self.hold(holding)
        return holding.delivery

    def renewed(self, receipts: Iterable[str]) -> None:
        """Only these were worth renewing: what was not, twice in a row, is held by nobody any more."""
        kept = set(receipts)
        doubtful = self._held.keys() - kept
        for receipt in doubtful & self._doubtful:
            del self._held[receipt]
        self._doubtful = doubtful - self._doubtful
