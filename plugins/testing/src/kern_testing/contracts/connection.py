"""A transport as the suites talk to it: each command waits for its answer, and what comes unasked is written down."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from kern.contracts.blocking import threaded, threaded_store
from kern.contracts.port import Broadcast, Down, TransportEvent, Up, Woken
from kern.contracts.result_store import (
    BlockingResultStore,
    GroupDocument,
    Join,
    JoinState,
    Plan,
    ResultStore,
    StoreCapability,
    Written,
)
from kern.contracts.transport import (
    BlockingTransport,
    Claim,
    Claimed,
    Owner,
    Parking,
    Presence,
    Quarantined,
    QueueDepth,
    Settled,
    Settlement,
    SettleStatus,
    Transport,
    TransportCapability,
    Whereabouts,
)
from kern.delivery import Delivery
from kern.message import Message, Publication
from kern.outcome import Disposition, Document, JoinPart, ParkUntil
from kern.queues import QueueSpec
from kern_testing import make
from kern_testing.contracts.suite import result_of
from kern_testing.waiting import REAL, Clock, eventually

T = TypeVar("T")


class Connection:
    """One started transport."""

    def __init__(
        self,
        transport: Transport | BlockingTransport,
        role: str = "worker",
        hostname: str = "",
        clock: Clock = REAL,
    ) -> None:
        self.port = threaded(transport)
        self.owner = Owner(make.unique("owner"), hostname or make.unique("host"), role)
        self.clock = clock
        self._events: list[TransportEvent] = []
        self._lock = threading.Lock()

    def start(self) -> Connection:
        self._do(self.port.start(self.owner, self._take))
        return self

    def stop(self) -> None:
        self._do(self.port.stop())

    def _take(self, event: TransportEvent) -> None:
        with self._lock:
            self._events.append(event)

    def _do(self, reply: Future[T]) -> T:
        return result_of(reply, self.port.drive)

    # -- what came unasked

    @property
    def events(self) -> list[TransportEvent]:
        with self._lock:
            return list(self._events)

    @property
    def broadcasts(self) -> list[tuple[str, bytes]]:
        return [(event.topic, event.payload) for event in self.events if isinstance(event, Broadcast)]

    @property
    def woken(self) -> bool:
        return any(isinstance(event, Woken) for event in self.events)

    @property
    def downs(self) -> list[Down]:
        return [event for event in self.events if isinstance(event, Down)]

    @property
    def ups(self) -> list[Up]:
        return [event for event in self.events if isinstance(event, Up)]

    def forget_events(self) -> None:
        with self._lock:
            self._events.clear()

    # -- commands

    def has(self, capability: TransportCapability) -> bool:
        return capability in self.port.capabilities

    def declare(self, *queues: QueueSpec | str) -> None:
        self._do(self.port.declare([QueueSpec(queue) if isinstance(queue, str) else queue for queue in queues]))

    def try_publish(self, batch: Sequence[Publication]) -> list[Exception | None]:
        answers = self._do(self.port.publish(batch))
        assert len(answers) == len(batch), f"{len(batch)} messages got {len(answers)} answers"
        for answer in answers:
            assert answer is None or isinstance(answer, Exception), f"the answer to a message is {answer!r}"
        return answers

    def publish(self, *batch: Publication) -> list[str]:
        """Publish, all confirmed; their ids."""
        refused = {p.task_id: error for p, error in zip(batch, self.try_publish(batch), strict=True) if error}
        assert not refused, f"not confirmed: {refused}"
        return [publication.task_id for publication in batch]

    def try_claim(self, claim: Claim) -> Claimed:
        claimed = self._do(self.port.claim(claim))
        assert len(claimed.deliveries) <= claim.limit, (
            f"asked for at most {claim.limit} messages, got {len(claimed.deliveries)}"
        )
        receipts = [delivery.receipt for delivery in claimed.deliveries]
        assert len(set(receipts)) == len(receipts), "two deliveries of one claim have the same receipt"
        for delivery in claimed.deliveries:
            assert delivery.receipt, "a delivery without a receipt"
            assert delivery.queue in claim.queues, f"a delivery from {delivery.queue!r}, which was not asked for"
        return claimed

    def claim(self, *queues: str, limit: int = 100, lease_seconds: float = 30.0, **fields: Any) -> list[Delivery]:
        return list(
            self.try_claim(make.claim_of(*queues, limit=limit, lease_seconds=lease_seconds, **fields)).deliveries
        )

    def claim_one(self, *queues: str, lease_seconds: float = 30.0) -> Delivery:
        """The one message that is there, claimed; waits for it."""
        found = self.claim_eventually(*queues, count=1, lease_seconds=lease_seconds)
        return found[0]

    def claim_eventually(
        self, *queues: str, count: int, lease_seconds: float = 30.0, recover: bool = False
    ) -> list[Delivery]:
        """*count* messages, claimed as they become claimable."""
        found: list[Delivery] = []

        def there() -> bool:
            if recover:
                self.recover()
            found.extend(self.claim(*queues, limit=count - len(found), lease_seconds=lease_seconds))
            return len(found) == count

        eventually(there, f"{count} message(s) to claim from {', '.join(queues)}", clock=self.clock)
        return found

    def try_settle(self, *batch: Settlement) -> list[Settled]:
        settled = self._do(self.port.settle(batch))
        assert [item.receipt for item in settled] == [item.outcome.receipt for item in batch], (
            "settle answers item by item, in order, each with its receipt"
        )
        return settled

    def settle(self, *deliveries: Delivery, disposition: Disposition | None = None, **fields: Any) -> None:
        """Settle all of them alike; all are written."""
        self.written(self.try_settle(*(make.settlement(delivery, disposition, **fields) for delivery in deliveries)))

    @staticmethod
    def written(settled: Iterable[Settled]) -> None:
        """All of them were written, without error."""
        for item in settled:
            assert item.error is None, f"not settled: {item.error!r}"
            assert item.status in (SettleStatus.DONE, SettleStatus.RESULT_KEPT), f"settled as {item.status!r}"

    def try_park(self, *deliveries: Delivery, until: ParkUntil) -> list[Settled]:
        return self._do(self.port.park([Parking(delivery.receipt, until) for delivery in deliveries]))

    def park(self, *deliveries: Delivery, until: ParkUntil) -> None:
        self.written(self.try_park(*deliveries, until=until))

    def renew(self, *receipts: str, lease_seconds: float = 30.0) -> frozenset[str]:
        return self._do(self.port.renew(list(receipts), lease_seconds))

    def mark_started(self, *receipts: str) -> None:
        self._do(self.port.mark_started(list(receipts)))

    def recover(self, everything: bool = False) -> int:
        return self._do(self.port.recover(everything))

    def release_delayed(self) -> int:
        return self._do(self.port.release_delayed())

    def broadcast(self, topic: str, payload: bytes) -> None:
        self._do(self.port.broadcast(topic, payload))

    def subscribe(self, *topics: str) -> None:
        self._do(self.port.subscribe(list(topics)))

    def presence(self) -> list[Presence]:
        return self._do(self.port.presence())

    def announce(self, *queues: str, facts: Mapping[str, Any] | None = None) -> None:
        self._do(self.port.announce(list(queues), facts or {}))

    def queues(self) -> list[str]:
        return self._do(self.port.queues())

    def depth(self, queue: str) -> QueueDepth:
        return self.depths(queue)[0]

    def depths(self, *queues: str) -> list[QueueDepth]:
        depths = self._do(self.port.depth(list(queues)))
        assert [depth.queue for depth in depths] == list(queues), "depth answers for the queues asked, in order"
        return depths

    def held(self, queue: str) -> int:
        """ready + leased + delayed + quarantined."""
        depth = self.depth(queue)
        return depth.ready + depth.leased + depth.delayed + depth.quarantined

    def peek(self, queue: str, limit: int = 10) -> list[Message]:
        return self._do(self.port.peek(queue, limit))

    def purge(self, queue: str) -> int:
        return self._do(self.port.purge(queue))

    def delete(self, *task_ids: str) -> int:
        return self._do(self.port.delete(list(task_ids)))

    def locate(self, *task_ids: str) -> dict[str, Whereabouts]:
        return self._do(self.port.locate(list(task_ids)))

    def quarantined(self, queue: str | None = None, limit: int = 100) -> list[Quarantined]:
        return self._do(self.port.quarantined(queue, limit))

    def replay(self, *keys: str) -> int:
        return self._do(self.port.replay(list(keys)))

    def drop(self, *keys: str) -> int:
        return self._do(self.port.drop(list(keys)))

    # -- what tests do often

    def drain(self, *queues: str, until_empty: bool = True) -> list[Delivery]:
        """Claim and release everything that is ready."""
        found: list[Delivery] = []
        while batch := self.claim(*queues):
            self.settle(*batch)
            found += batch
            if not until_empty:
                break
        return found


class StoreConnection:
    """One started result store."""

    def __init__(self, store: ResultStore | BlockingResultStore, clock: Clock = REAL) -> None:
        self.port = threaded_store(store)
        self.clock = clock
        self._told: list[Document] = []
        self._lock = threading.Lock()

    def start(self) -> StoreConnection:
        self._do(self.port.start(self._take))
        return self

    def stop(self) -> None:
        self._do(self.port.stop())

    def _take(self, documents: Sequence[Document]) -> None:
        with self._lock:
            self._told.extend(documents)

    def _do(self, reply: Future[T]) -> T:
        return result_of(reply, self.port.drive)

    @property
    def told(self) -> dict[str, Document]:
        """Documents reported so far, the last of each id."""
        with self._lock:
            return {document.task_id: document for document in self._told}

    def has(self, capability: StoreCapability) -> bool:
        return capability in self.port.capabilities

    def document(self, task_id: str | None = None, **fields: Any) -> Document:
        """A document in the form this store keeps."""
        return make.document(self.port.document_form, task_id, **fields)

    def plans(self, documents: Sequence[Document | None]) -> list[Plan | None]:
        plans = self.port.plan(documents, [()] * len(documents))
        assert len(plans) == len(documents), f"{len(documents)} outcomes got {len(plans)} plans"
        return plans

    def plan(
        self, document: Document | None = None, parts: Sequence[JoinPart] = (), others: Sequence[Document] = ()
    ) -> Plan:
        (plan,) = self.port.plan([document], [parts], [others])
        assert plan is not None, "there is something to write, and no plan for it"
        return plan

    def write_plans(self, plans: Sequence[Plan]) -> list[Written]:
        written = self._do(self.port.write(plans))
        assert len(written) == len(plans), f"{len(plans)} plans got {len(written)} answers"
        return written

    def write(self, *documents: Document) -> list[Written]:
        """Write documents; none failed."""
        written = self.write_plans([plan for plan in self.plans(documents) if plan is not None])
        assert len(written) == len(documents), "a document got no plan"
        for item in written:
            assert item.error is None, f"not written: {item.error!r}"
        return written

    def write_parts(self, *parts: JoinPart) -> list[Publication]:
        """Write parts of joins, each by itself; what is to be published because of them."""
        written = self.write_plans([self.plan(parts=[part]) for part in parts])
        for item in written:
            assert item.error is None, f"not written: {item.error!r}"
        return [publication for item in written for publication in item.publications]

    def read(self, *task_ids: str) -> dict[str, Document]:
        return self._do(self.port.read(list(task_ids)))

    def read_one(self, task_id: str) -> Document | None:
        return self.read(task_id).get(task_id)

    def forget(self, *task_ids: str) -> int:
        return self._do(self.port.forget(list(task_ids)))

    def watch(self, *task_ids: str) -> None:
        self._do(self.port.watch(list(task_ids)))

    def watch_all(self, task_ids: Collection[str]) -> None:
        self._do(self.port.watch(task_ids))

    def unwatch(self, *task_ids: str) -> None:
        self._do(self.port.unwatch(list(task_ids)))

    def save_group(self, group: GroupDocument) -> None:
        self._do(self.port.save_group(group))

    def read_group(self, group_id: str) -> GroupDocument | None:
        return self._do(self.port.read_group(group_id))

    def delete_group(self, group_id: str) -> None:
        self._do(self.port.delete_group(group_id))

    def sweep(self) -> int:
        return self._do(self.port.sweep())

    def open_join(self, join: Join) -> None:
        self._do(self.port.open_join(join))

    def joins_due(self, limit: int = 100) -> list[JoinState]:
        return self._do(self.port.joins_due(limit))

    def close_join(self, join_id: str) -> list[Publication]:
        publications = self._do(self.port.close_join(join_id))
        return list(publications)
