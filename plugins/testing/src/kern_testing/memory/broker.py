"""Queues, leases and quarantine of a memory space. Callers hold the space's lock."""

from __future__ import annotations

import enum
import heapq
import itertools
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from kern.contracts.transport import (
    Claim,
    Claimed,
    Presence,
    Quarantined,
    QueueDepth,
    Whereabouts,
)
from kern.delivery import Delivery
from kern.errors import DecodeError, PublishRefused
from kern.message import Message, Publication
from kern.outcome import ParkUntil
from kern.queues import Binding, QueueSpec, queues_for
from kern_testing.memory import envelope

#: Seconds after its last beat for which a worker counts as alive.
PRESENCE_SECONDS = 15.0


class Condition(enum.Enum):
    """Where a record is."""

    READY = "ready"
    LEASED = "leased"
    DELAYED = "delayed"
    QUARANTINED = "quarantined"


@attrs.define(eq=False)
class Record:
    """One message in one queue."""

    number: int
    queue: str
    raw: bytes
    task_id: str | None
    priority: int
    exchange: str
    routing_key: str
    condition: Condition
    #: Position among messages of one priority.
    order: int
    #: Bytes of the body.
    size: int
    attempts: int = 0
    due: float = 0.0
    ready_since: float = 0.0
    redelivered: bool = False
    suspect: bool = False
    parked_reason: str | None = None
    parked_since: float | None = None
    times_parked: int = 0
    quarantine: Quarantined | None = None


@attrs.define(eq=False)
class Lease:
    """Who has a record."""

    record: Record
    owner: str
    until: float
    started: bool = False


#: Takes the names of queues in which there may be something to claim.
Waker = Callable[[frozenset[str]], None]


class Broker:
    """What a broker keeps, as plain dictionaries and heaps."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._numbers = itertools.count(1)
        self._rotation = itertools.count()
        self._records: dict[int, Record] = {}
        #: Heaps with entries that may be stale; an entry counts if its record says the same.
        self._ready: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
        self._delayed: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        self._leases: dict[str, Lease] = {}
        self._by_id: defaultdict[str, set[int]] = defaultdict(set)
        self._counts: defaultdict[str, Counter[Condition]] = defaultdict(Counter)
        self._queues: dict[str, None] = {}
        self._bindings: dict[tuple[Binding, str], None] = {}
        self._quarantine: dict[str, Record] = {}
        self._wakers: dict[int, Waker] = {}
        self.present: dict[str, Presence] = {}

    # -- queues

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        for queue in queues:
            self._queues[queue.name] = None
            for binding in queue.all_bindings():
                self._bindings[binding, queue.name] = None

    def queues(self) -> list[str]:
        return list(self._queues)

    def queues_of(self, publication: Publication) -> list[str]:
        """Where *publication* goes.

        :raises PublishRefused: nowhere.
        """
        found = queues_for(self._bindings, publication.exchange, publication.routing_key)
        if not found or found == [""]:
            raise PublishRefused(
                f"message {publication.task_id} would be lost: no queue is bound to exchange "
                f"{publication.exchange!r} under {publication.routing_key!r}"
            )
        return found

    def depth(self, queue: str) -> QueueDepth:
        self._promote(queue)
        counts = self._counts.get(queue, Counter())
        return QueueDepth(
            queue,
            ready=counts[Condition.READY],
            leased=counts[Condition.LEASED],
            delayed=counts[Condition.DELAYED],
            quarantined=counts[Condition.QUARANTINED],
        )

    # -- in

    def publish(self, publication: Publication) -> None:
        """
        :raises PublishRefused: no queue takes it.
        :raises EncodeError: it cannot be written down.
        """
        targets = self.queues_of(publication)
        raw = envelope.encode(publication.message)
        for queue in targets:
            self._insert(queue, publication, raw)

    def put_raw(self, queue: str, raw: bytes) -> None:
        """Put a record there as something that is not kern might have done."""
        self._queues[queue] = None
        try:
            found = envelope.decode(raw)
        except DecodeError:
            found = Message(b"", {}, {})
        self._add(queue, found, raw, exchange="", routing_key=queue, attempts=0, due=None)

    def _insert(self, queue: str, publication: Publication, raw: bytes) -> None:
        self._queues[queue] = None
        task_id = publication.message.task_id
        if task_id and self._live(queue, task_id):
            return
        self._add(
            queue,
            publication.message,
            raw,
            exchange=publication.exchange,
            routing_key=publication.routing_key,
            attempts=publication.attempts,
            due=publication.due,
        )

    def _live(self, queue: str, task_id: str) -> bool:
        return any(
            self._records[number].queue == queue and self._records[number].condition is not Condition.QUARANTINED
            for number in self._by_id.get(task_id, ())
        )

    def _add(
        self,
        queue: str,
        message: Message,
        raw: bytes,
        exchange: str,
        routing_key: str,
        attempts: int,
        due: float | None,
    ) -> Record:
        number = next(self._numbers)
        record = Record(
            number=number,
            queue=queue,
            raw=raw,
            task_id=message.task_id,
            priority=message.priority,
            exchange=exchange,
            routing_key=routing_key,
            condition=Condition.READY,
            order=number,
            size=message.size,
            attempts=attempts,
        )
        self._records[number] = record
        self._counts[queue][Condition.READY] += 1
        if record.task_id:
            self._by_id[record.task_id].add(number)
        if due is not None and due > self._now():
            self._delay(record, due)
        else:
            self._make_ready(record)
        return record

    # -- moving

    def _move(self, record: Record, condition: Condition) -> None:
        counts = self._counts[record.queue]
        counts[record.condition] -= 1
        counts[condition] += 1
        record.condition = condition

    def _make_ready(self, record: Record, since: float | None = None) -> None:
        self._move(record, Condition.READY)
        record.ready_since = self._now() if since is None else since
        heapq.heappush(self._ready[record.queue], (-record.priority, record.order, record.number))

    def _delay(self, record: Record, due: float) -> None:
        self._move(record, Condition.DELAYED)
        record.due = due
        heapq.heappush(self._delayed[record.queue], (due, record.number))

    def _remove(self, record: Record) -> None:
        del self._records[record.number]
        self._counts[record.queue][record.condition] -= 1
        if record.task_id:
            numbers = self._by_id[record.task_id]
            numbers.discard(record.number)
            if not numbers:
                del self._by_id[record.task_id]

    def _promote(self, queue: str) -> None:
        """What has become due becomes ready."""
        heap, now = self._delayed.get(queue), self._now()
        while heap and heap[0][0] <= now:
            due, number = heapq.heappop(heap)
            record = self._records.get(number)
            if record is not None and record.condition is Condition.DELAYED and record.due == due:
                record.order = next(self._numbers)
                self._make_ready(record, since=due)

    def _head(self, queue: str) -> Record | None:
        heap = self._ready.get(queue)
        while heap:
            _priority, order, number = heap[0]
            record = self._records.get(number)
            if record is not None and record.condition is Condition.READY and record.order == order:
                return record
            heapq.heappop(heap)
        return None

    def next_due(self, queues: Iterable[str]) -> float | None:
        """Seconds until the next delayed message of these queues is due."""
        soonest: float | None = None
        for queue in queues:
            heap = self._delayed.get(queue)
            while heap:
                due, number = heap[0]
                record = self._records.get(number)
                if record is not None and record.condition is Condition.DELAYED and record.due == due:
                    soonest = due if soonest is None else min(soonest, due)
                    break
                heapq.heappop(heap)
        return None if soonest is None else max(0.0, soonest - self._now())

    def due_queues(self) -> frozenset[str]:
        """Queues whose delayed messages have become due."""
        found = set()
        for queue in list(self._delayed):
            before = self._counts[queue][Condition.READY]
            self._promote(queue)
            if self._counts[queue][Condition.READY] > before:
                found.add(queue)
        return frozenset(found)

    # -- out

    def claim(self, claim: Claim, owner: str) -> Claimed:
        queues = [queue for queue, most in claim.queues.items() if most > 0]
        for queue in queues:
            self._promote(queue)
        taken = Counter[str]()
        deliveries: list[Delivery] = []
        budget = claim.byte_budget
        if queues:  # who is served first changes with each claim, so that a limit of 1 starves nobody
            first = next(self._rotation) % len(queues)
            queues = queues[first:] + queues[:first]
        while queues and len(deliveries) < claim.limit:
            heads = [(queue, head) for queue in queues if (head := self._head(queue)) is not None]
            if not heads:
                break
            queue, record = max(heads, key=lambda pair: pair[1].priority)
            if deliveries and record.size > budget:
                break
            budget -= record.size
            deliveries.append(self._lease(record, owner, claim.lease_seconds))
            taken[queue] += 1
            queues.remove(queue)
            if taken[queue] < claim.queues[queue]:
                queues.append(queue)
        return Claimed(tuple(deliveries), self.next_due(claim.queues))

    def _lease(self, record: Record, owner: str, seconds: float) -> Delivery:
        receipt = uuid.uuid4().hex
        self._move(record, Condition.LEASED)
        self._leases[receipt] = Lease(record, owner, self._now() + seconds)
        message: Message | None
        problem: str | None
        try:
            message, problem = envelope.decode(record.raw), None
        except DecodeError as error:
            message, problem = None, str(error)
        return Delivery(
            receipt=receipt,
            queue=record.queue,
            owner=owner,
            message=message,
            attempts=record.attempts,
            redelivered=record.redelivered,
            suspect=record.suspect,
            raw=record.raw if message is None else None,
            problem=problem,
            exchange=record.exchange,
            routing_key=record.routing_key,
            ready_since=record.ready_since,
            parked_since=record.parked_since,
            times_parked=record.times_parked,
            parked_reason=record.parked_reason,
        )

    # -- leases

    def holds(self, receipt: str) -> bool:
        """Whether it is the receipt of a current lease."""
        return receipt in self._leases

    def renew(self, receipts: Sequence[str], seconds: float) -> frozenset[str]:
        lost = set()
        for receipt in receipts:
            lease = self._leases.get(receipt)
            if lease is None:
                lost.add(receipt)
            else:
                lease.until = self._now() + seconds
        return frozenset(lost)

    def mark_started(self, receipts: Sequence[str]) -> None:
        for receipt in receipts:
            if (lease := self._leases.get(receipt)) is not None:
                lease.started = True

    def recover(self, everything: bool) -> tuple[int, frozenset[str]]:
        """How many came back, and to which queues."""
        now, back, queues = self._now(), 0, set()
        for receipt, lease in list(self._leases.items()):
            expired = lease.until <= now
            if not (expired or everything):
                continue
            del self._leases[receipt]
            record = lease.record
            record.redelivered = True
            if expired:
                record.suspect = True
                record.attempts += lease.started
            self._make_ready(record)
            queues.add(record.queue)
            back += 1
        return back, frozenset(queues)

    # -- what becomes of a lease; each ends it

    def release(self, receipt: str) -> None:
        self._remove(self._leases.pop(receipt).record)

    def retry(self, receipt: str, message: Message, raw: bytes, due: float) -> None:
        record = self._leases.pop(receipt).record
        self._remove(record)
        self._add(record.queue, message, raw, record.exchange, record.routing_key, attempts=0, due=due)

    def give_back(self, receipt: str, blamed: bool, due: float | None, suspect: bool) -> None:
        record = self._leases.pop(receipt).record
        record.attempts += blamed
        record.suspect = record.suspect or suspect
        if due is not None and due > self._now():
            self._delay(record, due)
        else:
            self._make_ready(record)

    def park(self, receipt: str, until: ParkUntil) -> None:
        record = self._leases.pop(receipt).record
        since = self._now() if until.since is None else until.since
        if record.parked_reason == until.reason and record.parked_since is not None:
            record.parked_since = min(since, record.parked_since)
            record.times_parked += 1
        else:
            record.parked_reason, record.parked_since, record.times_parked = until.reason, since, 1
        self._delay(record, until.due)

    def put_in_quarantine(self, receipt: str, reason: str, evidence: Mapping[str, Any]) -> None:
        record = self._leases.pop(receipt).record
        base = key = f"{record.queue}/{record.task_id or record.number}/{reason}"
        for copy in itertools.count(2):
            if key not in self._quarantine:
                break
            key = f"{base}/{copy}"
        try:
            message = envelope.decode(record.raw)
        except DecodeError:
            message = None
        record.quarantine = Quarantined(
            key=key,
            queue=record.queue,
            reason=reason,
            at=self._now(),
            evidence=dict(evidence),
            message=message,
            raw=record.raw,
            exchange=record.exchange,
            routing_key=record.routing_key,
        )
        self._move(record, Condition.QUARANTINED)
        self._quarantine[key] = record

    # -- quarantine

    def quarantined(self, queue: str | None, limit: int) -> list[Quarantined]:
        found = [record.quarantine for record in self._quarantine.values() if record.quarantine is not None]
        return [entry for entry in found if queue is None or entry.queue == queue][:limit]

    def replay(self, keys: Sequence[str]) -> list[str]:
        """The queues that got something back, once for each message."""
        queues = []
        for key in keys:
            record = self._quarantine.pop(key, None)
            if record is None:
                continue
            record.quarantine, record.attempts, record.suspect, record.redelivered = None, 0, False, False
            record.parked_reason, record.parked_since, record.times_parked = None, None, 0
            record.order = next(self._numbers)
            self._make_ready(record)
            queues.append(record.queue)
        return queues

    def drop(self, keys: Sequence[str]) -> int:
        dropped = [record for key in keys if (record := self._quarantine.pop(key, None)) is not None]
        for record in dropped:
            self._remove(record)
        return len(dropped)

    # -- looking and deleting

    def peek(self, queue: str, limit: int) -> list[Message]:
        self._promote(queue)
        found: list[Message] = []
        for _priority, order, number in sorted(self._ready.get(queue, ())):
            record = self._records.get(number)
            if record is None or record.condition is not Condition.READY or record.order != order:
                continue
            if len(found) >= limit:
                break
            try:
                found.append(envelope.decode(record.raw))
            except DecodeError:
                continue
        return found

    def waiting(self) -> list[tuple[str, Message, float | None]]:
        """Messages that nobody has claimed, with their queues and due times, in the order they were published."""
        found: list[tuple[str, Message, float | None]] = []
        for record in self._records.values():
            if record.condition in (Condition.READY, Condition.DELAYED):
                due = record.due if record.condition is Condition.DELAYED else None
                found.append((record.queue, envelope.decode(record.raw), due))
        return found

    def purge(self, queue: str) -> int:
        return self._delete(record for record in list(self._records.values()) if record.queue == queue)

    def delete(self, task_ids: Sequence[str]) -> int:
        return self._delete(
            self._records[number] for task_id in task_ids for number in list(self._by_id.get(task_id, ()))
        )

    def _delete(self, records: Iterable[Record]) -> int:
        doomed = [record for record in records if record.condition in (Condition.READY, Condition.DELAYED)]
        for record in doomed:
            self._remove(record)
        return len(doomed)

    def locate(self, task_id: str) -> Whereabouts:
        conditions = set()
        for number in list(self._by_id.get(task_id, ())):
            self._promote(self._records[number].queue)
            conditions.add(self._records[number].condition)
        for condition in (Condition.LEASED, Condition.READY, Condition.DELAYED, Condition.QUARANTINED):
            if condition in conditions:
                return Whereabouts(condition.value)
        return Whereabouts.UNKNOWN

    # -- who is there

    def presences(self) -> list[Presence]:
        oldest = self._now() - PRESENCE_SECONDS
        return [presence for presence in self.present.values() if presence.last_beat >= oldest]

    def beat(self, owner: str) -> None:
        if (presence := self.present.get(owner)) is not None:
            self.present[owner] = attrs.evolve(presence, last_beat=self._now())

    # -- waking

    def on_wake(self, key: int, waker: Waker | None) -> None:
        if waker is None:
            self._wakers.pop(key, None)
        else:
            self._wakers[key] = waker

    def wake(self, queues: frozenset[str]) -> None:
        for waker in list(self._wakers.values()):
            waker(queues)
