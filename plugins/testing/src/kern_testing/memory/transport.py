"""The transport of ``memory://name``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kern import seams
from kern.contracts.port import Broadcast, TransportEvent, Woken
from kern.contracts.records import Records
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
    TransportCapability,
    Whereabouts,
)
from kern.errors import TransportError
from kern.message import Message, Publication
from kern.outcome import GiveBack, ParkUntil, Quarantine, Release, RetryAt
from kern.queues import QueueSpec
from kern_testing.memory import envelope
from kern_testing.memory.bell import Bell
from kern_testing.memory.results import Change
from kern_testing.memory.space import Space, parse, space
from kern_testing.memory.store import MemoryPlan


class MemoryTransport(BlockingTransport):
    """A connection to a space; everything a transport can promise, but to outlive the process."""

    capabilities = frozenset(TransportCapability) - {TransportCapability.CALLER_TRANSACTION}

    def __init__(self, url: str = "memory://", conf: Any = None) -> None:
        """
        :param conf: not looked at; there is nothing to configure.
        """
        name, _options = parse(url, "form")
        self.url = url
        self.space: Space = space(name)
        self.server = self.space.server
        self._owner = Owner("")
        self._topics: frozenset[str] = frozenset()
        self._bell: Bell[TransportEvent] | None = None

    # -- life

    def open(self, owner: Owner, topics: Sequence[str], queues: Sequence[str]) -> None:
        self.space.mend(self)
        self._reach()
        self.close()
        self._owner, self._topics = owner, frozenset(topics)
        bell: Bell[TransportEvent] = Bell()
        self._bell = bell
        with self.space.lock:
            self.space.broker.on_wake(id(self), lambda woken: bell.ring(Woken(woken)))
            self.space.subscribers[id(self)] = self._hear

    def close(self) -> None:
        with self.space.lock:
            self.space.broker.on_wake(id(self), None)
            self.space.subscribers.pop(id(self), None)
            self.space.broker.present.pop(self._owner.id, None)
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()

    def _reach(self) -> None:
        """
        :raises TransportError: a test has taken the server or this connection away.
        """
        if (problem := self.space.problem(self)) is not None:
            raise TransportError(problem)

    def wake_fd(self) -> int | None:
        return self._bell.descriptor if self._bell is not None else None

    def collect(self) -> Iterable[TransportEvent]:
        self._reach()
        return self._bell.drain() if self._bell is not None else ()

    def _hear(self, topic: str, payload: bytes) -> None:
        if topic in self._topics and self._bell is not None:
            self._bell.ring(Broadcast(topic, payload))

    # -- producing

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        self._reach()
        with self.space.lock:
            self.space.broker.declare(queues)

    def publish(self, batch: Sequence[Publication]) -> list[Exception | None]:
        self._reach()
        answers: list[Exception | None] = []
        woken: set[str] = set()
        with self.space.lock:
            for publication in batch:
                try:
                    self.space.broker.publish(publication)
                    woken.update(self.space.broker.queues_of(publication))
                except Exception as error:
                    answers.append(error)
                else:
                    answers.append(None)
        self.space.broker.wake(frozenset(woken))
        return answers

    # -- consuming

    def claim(self, claim: Claim) -> Claimed:
        self._reach()
        with self.space.lock:
            return self.space.broker.claim(claim, self._owner.id)

    def settle(self, batch: Sequence[Settlement]) -> list[Settled]:
        self._reach()
        return self._each(batch, lambda item: item.outcome.receipt, self._settle)

    def park(self, batch: Sequence[Parking]) -> list[Settled]:
        self._reach()
        return self._each(batch, lambda item: item.receipt, self._park)

    def _each(
        self, batch: Sequence[Any], receipt_of: Callable[[Any], str], act: Callable[[Any, set[str]], SettleStatus]
    ) -> list[Settled]:
        """Items one by one, each a step of its own: an error stays with its item."""
        answers: list[Settled] = []
        woken: set[str] = set()
        for item in batch:
            receipt = receipt_of(item)
            with self.space.lock:
                if not self.space.broker.holds(receipt):
                    answers.append(Settled(receipt, SettleStatus.FENCED))
                    continue
                try:
                    answers.append(Settled(receipt, act(item, woken)))
                except Exception as error:
                    answers.append(Settled(receipt, SettleStatus.DONE, error))
        self.space.broker.wake(frozenset(woken))
        self.space.results.tell()
        return answers

    def _settle(self, item: Settlement, woken: set[str]) -> SettleStatus:
        """First everything that may fail, then everything that changes something."""
        broker, outcome = self.space.broker, item.outcome
        change = self._change(item)
        publications = [*outcome.follow_ups, *(change.publications if change else ())]
        for publication in publications:
            woken.update(broker.queues_of(publication))
            envelope.encode(publication.message)
        disposition = outcome.disposition
        raw = envelope.encode(disposition.message) if isinstance(disposition, RetryAt) else b""
        seams.reached("settling")
        if change is not None:
            self.space.results.apply(change)
        receipt = outcome.receipt
        match disposition:
            case Release():
                broker.release(receipt)
            case RetryAt():
                broker.retry(receipt, disposition.message, raw, disposition.due)
            case GiveBack():
                broker.give_back(receipt, disposition.blamed, disposition.due, disposition.suspect)
            case ParkUntil():
                broker.park(receipt, disposition)
            case Quarantine():
                broker.put_in_quarantine(receipt, disposition.reason, disposition.evidence)
        for publication in publications:
            broker.publish(publication)
        kept = change is not None and change.kept
        return SettleStatus.RESULT_KEPT if kept else SettleStatus.DONE

    def _change(self, item: Settlement) -> Change | None:
        plan = item.plan
        if plan is None:
            return None
        if not isinstance(plan, MemoryPlan) or plan.server != self.server:
            raise TransportError(f"{self.url} cannot write a plan of {plan.server}", retryable=False)
        return self.space.results.change(plan, plan.expires)

    def _park(self, item: Parking, _woken: set[str]) -> SettleStatus:
        seams.reached("parking")
        self.space.broker.park(item.receipt, item.until)
        return SettleStatus.DONE

    def renew(self, receipts: Sequence[str], lease_seconds: float) -> frozenset[str]:
        self._reach()
        with self.space.lock:
            self.space.broker.beat(self._owner.id)
            return self.space.broker.renew(receipts, lease_seconds)

    def mark_started(self, receipts: Sequence[str]) -> None:
        self._reach()
        with self.space.lock:
            self.space.broker.mark_started(receipts)

    def recover(self, everything: bool = False) -> int:
        self._reach()
        with self.space.lock:
            count, queues = self.space.broker.recover(everything)
        if queues:
            self.space.broker.wake(queues)
        return count

    # -- broadcast

    def broadcast(self, topic: str, payload: bytes) -> None:
        self._reach()
        with self.space.lock:
            for hear in list(self.space.subscribers.values()):
                hear(topic, payload)

    def subscribe(self, topics: Sequence[str]) -> None:
        self._reach()
        self._topics = frozenset(topics)

    def presence(self) -> list[Presence]:
        self._reach()
        with self.space.lock:
            return self.space.broker.presences()

    def announce(self, queues: Sequence[str], facts: Mapping[str, Any]) -> None:
        self._reach()
        owner = self._owner
        with self.space.lock:
            self.space.broker.present[owner.id] = Presence(
                owner.id, owner.hostname, tuple(queues), self.space.now(), dict(facts)
            )

    # -- looking and operating

    def queues(self) -> list[str]:
        self._reach()
        with self.space.lock:
            return self.space.broker.queues()

    def depth(self, queues: Sequence[str]) -> list[QueueDepth]:
        self._reach()
        with self.space.lock:
            return [self.space.broker.depth(queue) for queue in queues]

    def peek(self, queue: str, limit: int = 10) -> list[Message]:
        self._reach()
        with self.space.lock:
            return self.space.broker.peek(queue, limit)

    def purge(self, queue: str) -> int:
        self._reach()
        with self.space.lock:
            return self.space.broker.purge(queue)

    def delete(self, task_ids: Sequence[str]) -> int:
        self._reach()
        with self.space.lock:
            return self.space.broker.delete(task_ids)

    def locate(self, task_ids: Sequence[str]) -> dict[str, Whereabouts]:
        self._reach()
        with self.space.lock:
            return {task_id: self.space.broker.locate(task_id) for task_id in task_ids}

    # -- quarantine

    def quarantined(self, queue: str | None = None, limit: int = 100) -> list[Quarantined]:
        self._reach()
        with self.space.lock:
            return self.space.broker.quarantined(queue, limit)

    def replay(self, keys: Sequence[str]) -> int:
        self._reach()
        with self.space.lock:
            queues = self.space.broker.replay(keys)
        if queues:
            self.space.broker.wake(frozenset(queues))
        return len(queues)

    def drop(self, keys: Sequence[str]) -> int:
        self._reach()
        with self.space.lock:
            return self.space.broker.drop(keys)

    # -- records

    def records(self) -> Records:
        return self.space.records

    # -- for tests

    def put_raw(self, queue: str, raw: bytes) -> None:
        """Put *raw* into *queue*, as a foreign program might."""
        with self.space.lock:
            self.space.broker.put_raw(queue, raw)
        self.space.broker.wake(frozenset({queue}))
