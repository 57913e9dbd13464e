"""The worker's connection to its broker, which can be made anew while all else goes on.

A driver mends its own connection for as long as it notices that it is broken. This is for when that does not help: a
server that does not come back while another URL is configured, or one that is silent, or hands out nothing of what it
has. Then another driver takes the place of the first; whatever waits for the first one's answers is told that it will
not get any, and asks again, as after any lost connection.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

from kern import log
from kern.contracts.port import Down, EventSink, Reply, TransportEvent, Up
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
    Whereabouts,
)
from kern.errors import KernError, TransportError
from kern.message import Message, Publication
from kern.queues import QueueSpec

logger = log.get_logger("kern.worker")
T = TypeVar("T")

#: Seconds that a broker may be away before the next of several URLs is tried, and seconds that each may take.
FAILOVER_AFTER, PATIENCE = 3.0, 10.0


class BrokerLink(Transport):
    """A port in front of the driver in use.

    :param make: makes a driver; told which attempt it is, so that of several brokers another one is chosen.
    :param sink: takes what the driver in use has to say.
    """

    def __init__(self, make: Callable[[int], Transport], owner: Owner, sink: EventSink) -> None:
        self._make = make
        self._owner = owner
        self._sink = sink
        self._attempt = 0
        self._port: Transport | None = None
        self._pending: set[Future[Any]] = set()
        # What the next driver is told, too.
        self._queues: dict[str, QueueSpec] = {}
        self._topics: Sequence[str] | None = None
        self._announced: tuple[Sequence[str], Mapping[str, Any]] | None = None
        self._replacing = asyncio.Lock()
        self._down = asyncio.Event()
        self._up = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    # -- the driver in use

    def another(self) -> Transport:
        """One more driver, of the next URL."""
        self._attempt += 1
        return self._make(self._attempt)

    def begin(self, port: Transport) -> Reply[None]:
        """Start a driver; what it has to say counts once it is in use."""
        return port.start(self._owner, lambda event: self._hear(port, event))

    def use(self, port: Transport) -> None:
        """Give commands to *port*, which has been started; who waits for answers of the one before waits no longer."""
        before, self._port = self._port, port
        self.capabilities, self.server, self.url = port.capabilities, port.server, port.url
        if before is None:
            return
        # Nobody waits for its good-bye: its thread may be stuck.
        before.stop().add_done_callback(lambda reply: reply.cancelled() or reply.exception())
        for answer in list(self._pending):
            _fail(answer, TransportError(f"the connection to {before.url} was given up"))
        self._sink(Up())

    async def replace(self, next_url: bool = False) -> None:
        """Make the connection anew.

        :param next_url: to the next of several URLs.
        :raises TransportError: the broker cannot be reached; the driver in use stays.
        """
        async with self._replacing:
            port = self.another() if next_url else self._make(self._attempt)
            try:
                await asyncio.wait_for(self._prepare(port), PATIENCE)
            except BaseException as error:
                port.stop().add_done_callback(lambda reply: reply.cancelled() or reply.exception())
                if isinstance(error, TimeoutError):
                    raise TransportError(f"the broker {port.url} did not answer within {PATIENCE:g} s") from None
                raise
            self.use(port)
            logger.warning("connected to the broker anew", url=port.url)

    async def _prepare(self, port: Transport) -> None:
        await asyncio.wrap_future(self.begin(port))
        await asyncio.wrap_future(port.declare(list(self._queues.values())))
        if self._topics is not None:
            await asyncio.wrap_future(port.subscribe(self._topics))
        if self._announced is not None:
            await asyncio.wrap_future(port.announce(*self._announced))

    def _hear(self, port: Transport, event: TransportEvent) -> None:
        """From any thread."""
        if self._port is not None and port is not self._port:
            return  # of one that is used no more, or not yet
        if isinstance(event, Down | Up):
            try:
                self._loop.call_soon_threadsafe(self._note, isinstance(event, Up))
            except RuntimeError:
                return  # the loop has ended
        self._sink(event)

    def _note(self, up: bool) -> None:
        (self._up if up else self._down).set()
        (self._down if up else self._up).clear()

    async def lost(self) -> None:
        """Wait until the connection is lost."""
        await self._down.wait()

    async def fail_over(self) -> None:
        """Go on with the next URL when a broker stays away; runs until cancelled."""
        while True:
            await self._down.wait()
            try:
                await asyncio.wait_for(self._up.wait(), FAILOVER_AFTER)
            except TimeoutError:
                try:
                    await self.replace(next_url=True)
                    self._note(up=True)
                except KernError as error:
                    logger.warning("the next broker cannot be used either", error=str(error))

    def _ask(self, ask: Callable[[Transport], Reply[T]]) -> Reply[T]:
        assert self._port is not None, "no driver is in use yet"
        reply = ask(self._port)
        if reply.done():
            return reply
        answer = _Answer(reply, self._pending)
        reply.add_done_callback(answer.bring)
        return answer

    # -- the port

    def start(self, owner: Owner, sink: EventSink) -> Reply[None]:
        raise NotImplementedError("drivers are started one by one, with begin()")

    def stop(self) -> Reply[None]:
        if self._port is None:
            done = Future[None]()
            done.set_result(None)
            return done
        return self._port.stop()

    def declare(self, queues: Sequence[QueueSpec]) -> Reply[None]:
        self._queues.update((queue.name, queue) for queue in queues)
        return self._ask(lambda port: port.declare(queues))

    def publish(self, batch: Sequence[Publication]) -> Reply[list[Exception | None]]:
        return self._ask(lambda port: port.publish(batch))

    def claim(self, claim: Claim) -> Reply[Claimed]:
        return self._ask(lambda port: port.claim(claim))

    def settle(self, batch: Sequence[Settlement]) -> Reply[list[Settled]]:
        return self._ask(lambda port: port.settle(batch))

    def park(self, batch: Sequence[Parking]) -> Reply[list[Settled]]:
        return self._ask(lambda port: port.park(batch))

    def renew(self, receipts: Sequence[str], lease_seconds: float) -> Reply[frozenset[str]]:
        return self._ask(lambda port: port.renew(receipts, lease_seconds))

    def mark_started(self, receipts: Sequence[str]) -> Reply[None]:
        return self._ask(lambda port: port.mark_started(receipts))

    def recover(self, everything: bool = False) -> Reply[int]:
        return self._ask(lambda port: port.recover(everything))

    def release_delayed(self) -> Reply[int]:
        return self._ask(lambda port: port.release_delayed())

    def broadcast(self, topic: str, payload: bytes) -> Reply[None]:
        return self._ask(lambda port: port.broadcast(topic, payload))

    def subscribe(self, topics: Sequence[str]) -> Reply[None]:
        self._topics = tuple(topics)
        return self._ask(lambda port: port.subscribe(topics))

    def presence(self) -> Reply[list[Presence]]:
        return self._ask(lambda port: port.presence())

    def announce(self, queues: Sequence[str], facts: Mapping[str, Any]) -> Reply[None]:
        self._announced = (tuple(queues), facts)
        return self._ask(lambda port: port.announce(queues, facts))

    def queues(self) -> Reply[list[str]]:
        return self._ask(lambda port: port.queues())

    def depth(self, queues: Sequence[str]) -> Reply[list[QueueDepth]]:
        return self._ask(lambda port: port.depth(queues))

    def peek(self, queue: str, limit: int = 10) -> Reply[list[Message]]:
        return self._ask(lambda port: port.peek(queue, limit))

    def purge(self, queue: str) -> Reply[int]:
        return self._ask(lambda port: port.purge(queue))

    def delete(self, task_ids: Sequence[str]) -> Reply[int]:
        return self._ask(lambda port: port.delete(task_ids))

    def locate(self, task_ids: Sequence[str]) -> Reply[dict[str, Whereabouts]]:
        return self._ask(lambda port: port.locate(task_ids))

    def quarantined(self, queue: str | None = None, limit: int = 100) -> Reply[list[Quarantined]]:
        return self._ask(lambda port: port.quarantined(queue, limit))

    def replay(self, keys: Sequence[str]) -> Reply[int]:
        return self._ask(lambda port: port.replay(keys))

    def drop(self, keys: Sequence[str]) -> Reply[int]:
        return self._ask(lambda port: port.drop(keys))

    def records(self) -> Records | None:
        return self._port.records() if self._port is not None else None


class _Answer(Future[T]):
    """A reply of a driver that may be taken away before it has answered."""

    def __init__(self, reply: Reply[T], pending: set[Future[Any]]) -> None:
        super().__init__()
        self._reply = reply
        self._pending = pending
        pending.add(self)

    def cancel(self) -> bool:
        self._reply.cancel()
        return super().cancel()

    def bring(self, reply: Reply[T]) -> None:
        """The driver has answered."""
        self._pending.discard(self)
        if reply.cancelled():
            super().cancel()
        elif (error := reply.exception()) is not None:
            _fail(self, error)
        else:
            try:
                self.set_result(reply.result())
            except InvalidStateError:
                pass  # taken away


def _fail(answer: Future[Any], error: BaseException) -> None:
    try:
        answer.set_exception(error)
    except InvalidStateError:
        pass  # it has an end already
