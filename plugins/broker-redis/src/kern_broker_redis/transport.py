"""The transport: the port over one connection, and its parts.

Each part says what is asked of the server and what is made of the answers (*conversations*); here they are begun, and
what the server says unasked is passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from kern import log
from kern.contracts.port import Broadcast, Down, EventSink, Lost, Reply, TransportEvent, Up, Woken, failed
from kern.contracts.records import Records
from kern.contracts.transport import (
    Claim,
    Claimed,
    Owner,
    Parking,
    Presence,
    Quarantined,
    QueueDepth,
    Settled,
    Settlement,
    Transport,
    TransportCapability,
    Whereabouts,
)
from kern.errors import CapabilityMissing
from kern.message import Message, Publication
from kern.queues import QueueSpec
from kern_broker_redis import (
    celery_leases,
    claiming,
    fanout,
    leases,
    operating,
    presence,
    publishing,
    quarantine,
    settling,
)
from kern_broker_redis.celery_leases import CeleryLeases
from kern_broker_redis.claiming import Claiming
from kern_broker_redis.declaring import BIND_EXPIRING, Declaring
from kern_broker_redis.fanout import Fanout
from kern_broker_redis.holdings import Holdings
from kern_broker_redis.leases import Leases
from kern_broker_redis.operating import Operating
from kern_broker_redis.presence import Presences
from kern_broker_redis.publishing import Publishing
from kern_broker_redis.quarantine import Quarantining
from kern_broker_redis.settings import Options
from kern_broker_redis.settling import Settling
from kern_redis_client.connect import open_link
from kern_redis_client.failures import ConnectionLost, failure
from kern_redis_client.link import Conversation
from kern_redis_client.records import SCRIPTS as RECORD_SCRIPTS
from kern_redis_client.records import RedisRecords
from kern_redis_client.urls import BROKER, parse

logger = log.get_logger("kern.connection")
T = TypeVar("T")

#: What any connection may need, and what only a worker's does.
SCRIPTS = (
    *publishing.SCRIPTS,
    BIND_EXPIRING,
    *fanout.SCRIPTS,
    *presence.SCRIPTS,
    *operating.SCRIPTS,
    *quarantine.SCRIPTS,
)
WORKER_SCRIPTS = (*claiming.SCRIPTS, *settling.SCRIPTS, *leases.SCRIPTS, *celery_leases.SCRIPTS)


#: Seconds a worker that stops gives a silent server to be told so.
FAREWELL = 2.0


class RedisTransport(Transport):
    """A connection to a Redis server.

    :param url: see :mod:`kern_redis_client.urls`.
    :param conf: the application's settings; ``None`` stands for defaults.
    :raises ImproperlyConfigured: the URL or an option cannot be used.
    """

    capabilities = frozenset(
        {
            TransportCapability.PRIORITIES,
            TransportCapability.DELAY,
            TransportCapability.IDEMPOTENT_PUBLISH,
            TransportCapability.BROADCAST,
            TransportCapability.RECORDS,
            TransportCapability.EXCHANGES,
            TransportCapability.PRESENCE,
            TransportCapability.PUSH,
        }
    )

    def __init__(self, url: str, conf: Any = None) -> None:
        options = Options.of(conf)
        address = parse(url, options.connection, use_ssl=options.use_ssl, purpose=BROKER)
        self.url = name = address.masked
        self.server = address.identity
        self._names = names = options.names(address.database)
        self._sink: EventSink = _nobody
        self._started = self._connected_before = False
        self._loop: asyncio.AbstractEventLoop | None = None
        holdings = Holdings()
        self._leases = Leases(name, names, holdings)
        self._claiming = Claiming(name, names, holdings, self._leases)
        self._settling = Settling(
            name,
            names,
            holdings,
            self.server,
            address.database,
            options.quarantine_bytes,
            options.deadletter_queue,
            self._leases.now,
        )
        self._celery_leases = CeleryLeases(name, names, options)
        self._publishing = Publishing(name, names, options.deadletter_queue)
        self._operating = Operating(name, names)
        self._quarantining = Quarantining(name, names)
        self._records = RedisRecords(lambda: self._link, names, name)
        self._use(Owner(""))
        self._link = open_link(
            address,
            greet=self._greet,
            on_push=self._on_push,
            on_down=self._on_down,
            on_up=self._on_up,
            scripts=(*SCRIPTS, *WORKER_SCRIPTS, *RECORD_SCRIPTS),
        )

    def _use(self, owner: Owner) -> None:
        worker = owner.role == "worker"
        self._owner = owner
        self._claiming.use(owner.id, waits=worker)
        self._leases.use(owner.id)
        self._fanout = Fanout(self.url, self._names, worker)
        self._declaring = Declaring(self.url, self._names, self._publishing, self._fanout)
        self._presences = Presences(self.url, self._names, owner)

    # -- life

    def start(self, owner: Owner, sink: EventSink) -> Reply[None]:
        self._use(owner)
        self._sink, self._started = sink, True
        if owner.role == "worker":
            try:
                self._loop = asyncio.get_running_loop()
            except RuntimeError:
                pass  # driven by threads
            else:
                self._link.attach(self._loop)
            self._link.listen()
        reply = self._link.start()
        reply.add_done_callback(self._on_started)
        return reply

    def _on_started(self, reply: Reply[None]) -> None:
        if reply.exception() is None and self._link.facts is not None and self._owner.role == "worker":
            for warning in self._link.facts.warnings(BROKER):
                logger.warning(warning, server=self.url)

    def stop(self) -> Reply[None]:
        stopped: Reply[None] = Future()

        def end(_left: Reply[None] | None = None) -> None:
            self._link.stop()
            if not stopped.done():
                stopped.set_result(None)

        if self._started and self._link.up:
            self._link.converse(self._leave()).add_done_callback(end)
            if self._loop is not None:
                self._loop.call_later(FAREWELL, end)
        else:
            end()
        return stopped

    def drive(self, reply: Reply[T], timeout: float | None) -> T:
        return self._link.drive(reply, timeout)

    def _greet(self) -> Conversation[None]:
        """What a new connection begins with: leases first, for until they are prolonged others may think us dead."""
        if self._owner.role == "worker":
            lost = yield from self._leases.reassert(self._connected_before)
            self._connected_before = True
            if lost:
                self._sink(Lost(lost))
            (tracking,) = yield [("CLIENT", "TRACKING", "ON", "OPTIN")]
            if isinstance(tracking, Exception):
                logger.warning(
                    "the server does not tell of new messages, which are found by looking each second",
                    error=str(tracking),
                    server=self.url,
                )
            refused = yield [("SUBSCRIBE", self._ring)]
            if refused:
                raise failure(refused[0], self.url)
        yield from self._presences.restore()
        yield from self._fanout.restore()
        yield from self._records.greet()

    def _leave(self) -> Conversation[None]:
        try:
            yield from self._claiming.leave()
            yield from self._fanout.leave()
            yield from self._presences.leave()
        except ConnectionLost:
            pass  # what we leave behind counts as gone soon anyway

    # -- what comes unasked

    @property
    def _ring(self) -> str:
        """The channel on which others wake us."""
        return self._names(f"kern.ring.{self._owner.id}")

    def _on_push(self, push: list[Any]) -> None:
        kind = push[0]
        if kind == b"invalidate" or (kind == b"message" and push[1] == self._ring.encode()):
            self._sink(Woken())
            return
        if self._records.take(push):
            return
        for heard in self._fanout.take(push):
            if isinstance(heard, Broadcast):
                self._sink(heard)
            else:
                self._link.converse(heard)

    def _on_down(self, error: Exception) -> None:
        self._sink(Down(error))

    def _on_up(self) -> None:
        self._sink(Up())

    # -- producing

    def declare(self, queues: Sequence[QueueSpec]) -> Reply[None]:
        return self._link.converse(self._declaring.declare(queues))

    def publish(self, batch: Sequence[Publication]) -> Reply[list[Exception | None]]:
        return self._link.converse(self._publishing.publish(batch))

    # -- consuming

    def claim(self, claim: Claim) -> Reply[Claimed]:
        return self._link.converse(self._claiming.claim(claim))

    def settle(self, batch: Sequence[Settlement]) -> Reply[list[Settled]]:
        return self._link.converse(self._settling.settle(batch))

    def park(self, batch: Sequence[Parking]) -> Reply[list[Settled]]:
        return self._link.converse(self._settling.park(batch))

    def renew(self, receipts: Sequence[str], lease_seconds: float) -> Reply[frozenset[str]]:
        return self._link.converse(self._renew(receipts, lease_seconds))

    def _renew(self, receipts: Sequence[str], lease_seconds: float) -> Conversation[frozenset[str]]:
        lost, known = yield from self._leases.renew(receipts, lease_seconds)
        if self._presences.announced and not known:
            yield from self._presences.restore()
        if commands := self._fanout.beat_commands():
            yield commands
        return lost

    def mark_started(self, receipts: Sequence[str]) -> Reply[None]:
        return self._link.converse(self._leases.mark_started(receipts))

    def recover(self, everything: bool = False) -> Reply[int]:
        return self._link.converse(self._recover(everything))

    def _recover(self, everything: bool) -> Conversation[int]:
        count = yield from self._leases.recover(everything)
        count += yield from self._celery_leases.restore()
        return count

    def release_delayed(self) -> Reply[int]:
        return self._link.converse(self._operating.undelay())

    # -- broadcast

    def broadcast(self, topic: str, payload: bytes) -> Reply[None]:
        return self._link.converse(self._fanout.broadcast(topic, payload))

    def subscribe(self, topics: Sequence[str]) -> Reply[None]:
        self._link.listen()
        return self._link.converse(self._fanout.subscribe(topics))

    def presence(self) -> Reply[list[Presence]]:
        return self._link.converse(self._presences.presence())

    def announce(self, queues: Sequence[str], facts: Mapping[str, Any]) -> Reply[None]:
        return self._link.converse(self._presences.announce(queues, facts))

    # -- looking and operating

    def queues(self) -> Reply[list[str]]:
        return self._link.converse(self._operating.queues())

    def depth(self, queues: Sequence[str]) -> Reply[list[QueueDepth]]:
        return self._link.converse(self._operating.depth(queues))

    def peek(self, queue: str, limit: int = 10) -> Reply[list[Message]]:
        return self._link.converse(self._operating.peek(queue, limit))

    def purge(self, queue: str) -> Reply[int]:
        return self._link.converse(self._operating.purge(queue))

    def delete(self, task_ids: Sequence[str]) -> Reply[int]:
        return self._link.converse(self._operating.delete(task_ids))

    def locate(self, task_ids: Sequence[str]) -> Reply[dict[str, Whereabouts]]:
        return failed(
            CapabilityMissing(
                f"the transport {self.url} cannot say where a call is (capability {TransportCapability.LOCATE}): lists "
                "are not searched"
            )
        )

    # -- quarantine

    def quarantined(self, queue: str | None = None, limit: int = 100) -> Reply[list[Quarantined]]:
        return self._link.converse(self._quarantining.quarantined(queue, limit))

    def replay(self, keys: Sequence[str]) -> Reply[int]:
        return self._link.converse(self._quarantining.replay(keys))

    def drop(self, keys: Sequence[str]) -> Reply[int]:
        return self._link.converse(self._quarantining.drop(keys))

    # -- records

    def records(self) -> Records:
        return self._records


def _nobody(_event: TransportEvent) -> None:
    return None
