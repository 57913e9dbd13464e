"""From blocking drivers to ports: one thread a driver, which owns its connection.

The thread takes commands from a queue, runs the driver's method, and answers the reply. While there is no command it
waits for the driver's descriptor (or polls, adaptively) and passes on what :meth:`collect` reports. When a method
raises a connection error the whole connection is thrown away, and opened again with growing, jittered pauses; commands
wait meanwhile, so that a caller with a deadline can still cancel what has not begun.
"""

from __future__ import annotations

import os
import random
import selectors
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, TypeVar

from kern import log
from kern.contracts.port import Down, EventSink, Reply, Up
from kern.contracts.records import Records
from kern.contracts.result_store import (
    BlockingResultStore,
    GroupDocument,
    Join,
    JoinState,
    Plan,
    ResultStore,
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
    Transport,
    Whereabouts,
)
from kern.errors import BackendUnavailable, TransportError
from kern.message import Message, Publication
from kern.outcome import Document, JoinPart
from kern.queues import QueueSpec

T = TypeVar("T")
logger = log.get_logger("kern.connection")

#: Seconds between attempts to connect again: first pause, factor, longest.
BACKOFF = (0.05, 2.0, 5.0)

Command = tuple[Reply[Any], Callable[..., Any], tuple[Any, ...]]


class DriverThread(ABC):
    """One thread that owns one blocking driver."""

    #: Errors after which the connection is thrown away, if their ``retryable`` says so.
    connection_errors: ClassVar[tuple[type[Exception], ...]] = (TransportError,)

    def __init__(self, name: str) -> None:
        self._name = name
        self._commands: deque[Command] = deque()
        self._sleeping = False
        self._stopping = False
        self._ended = False
        self._connected = False
        self._collected_at = 0.0
        self._thread: threading.Thread | None = None
        # Made when the thread is started: what is never started leaves nothing open.
        self._wake_reader = self._wake_writer = -1

    # -- what the two kinds of driver do differently

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    @abstractmethod
    def _collect(self) -> bool:
        """Pass on what happened; whether there was anything."""

    @abstractmethod
    def _descriptor(self) -> int | None: ...

    @abstractmethod
    def _polling(self) -> tuple[float, float] | None:
        """Shortest and longest pause between two collections; ``None``: nothing to wait for."""

    def _look_anyway(self) -> float | None:
        """Seconds after which to collect although the descriptor is silent; ``None``: never."""
        return None

    def _on_down(self, error: Exception) -> None:
        logger.warning("connection lost", server=self._name, error=str(error))

    def _on_up(self) -> None:
        logger.info("connection restored", server=self._name)

    # -- called by the owner

    def begin(self) -> Reply[None]:
        """Start the thread; the reply is the first attempt to connect."""
        reply: Reply[None] = Future()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._thread = threading.Thread(target=self._run, args=(reply,), name=f"kern {self._name}", daemon=True)
        self._thread.start()
        return reply

    def end(self) -> Reply[None]:
        """Finish the commands at hand, close, end the thread."""
        if self._thread is None or self._stopping:
            reply: Reply[None] = Future()
            reply.set_result(None)
            return reply
        return self.call(self._stop)

    def call(self, function: Callable[..., T], *arguments: Any) -> Reply[T]:
        """Have the thread call *function*."""
        reply: Reply[T] = Future()
        if self._stopping or self._thread is None:
            reply.set_exception(self._closed())
            return reply
        self._commands.append((reply, function, arguments))
        if self._sleeping:
            self.wake()
        if self._ended:  # meanwhile: nobody is left to take it
            self._fail_commands(self._closed())
        return reply

    def wake(self) -> None:
        """Make the thread look around."""
        try:
            os.write(self._wake_writer, b"\0")
        except (BlockingIOError, OSError):
            pass  # full: it will wake anyway; closed: nobody is there

    def _closed(self) -> TransportError:
        return TransportError(f"the connection to {self._name} is closed", retryable=False)

    # -- the thread

    def _stop(self) -> None:
        self._stopping = True

    def _run(self, started: Reply[None]) -> None:
        try:
            self._open()
            self._connected = True
        except BaseException as error:
            self._quietly_close()
            self._stopping = self._ended = True
            self._fail_commands(error)
            self._close_pipe()
            started.set_exception(error)
            return
        started.set_result(None)
        selector = selectors.DefaultSelector()
        selector.register(self._wake_reader, selectors.EVENT_READ)
        pause: float | None = None
        while not self._stopping:
            if not self._connected:
                self._reconnect()
                pause = None
                continue
            if self._commands:
                self._execute(self._commands.popleft())
                pause = None
                continue
            try:
                pause = self._wait(selector, pause)
            except Exception as error:  # the driver's descriptor, for one, may be no good any more
                logger.exception("waiting failed", server=self._name)
                self._lost(error)
                self._pause_disconnected(BACKOFF[0])
        self._quietly_close()
        self._ended = True
        self._fail_commands(self._closed())
        selector.close()
        self._close_pipe()

    def _execute(self, command: Command) -> None:
        reply, function, arguments = command
        if not reply.set_running_or_notify_cancel():
            return
        try:
            value = function(*arguments)
        except BaseException as error:
            if isinstance(error, self.connection_errors) and getattr(error, "retryable", True):
                self._lost(error)
            reply.set_exception(error)
        else:
            reply.set_result(value)

    def _wait(self, selector: selectors.BaseSelector, pause: float | None) -> float | None:
        """Sleep until there is something to do; the pause before the next poll grows while nothing happens."""
        polling = self._polling()
        descriptor = self._descriptor() if polling is not None else None
        timeout: float | None = None
        anyway = self._look_anyway() if descriptor is not None else None
        if polling is not None and descriptor is None:
            shortest, longest = polling
            timeout = shortest if pause is None else min(longest, pause * 1.5)
        elif anyway is not None:
            timeout = max(0.0, self._collected_at + anyway - time.monotonic())
        watched: int | None = None
        if descriptor is not None:
            selector.register(descriptor, selectors.EVENT_READ)
            watched = descriptor
        self._sleeping = True
        try:
            ready = selector.select(timeout) if not self._commands else []
        finally:
            self._sleeping = False
            if watched is not None:
                selector.unregister(watched)
        for key, _mask in ready:
            if key.fd == self._wake_reader:
                try:
                    os.read(self._wake_reader, 4096)
                except BlockingIOError:
                    pass
        if polling is None:
            return None
        overdue = anyway is not None and time.monotonic() >= self._collected_at + anyway
        if descriptor is not None and not overdue and not any(key.fd == descriptor for key, _ in ready):
            return None
        self._collected_at = time.monotonic()
        try:
            return None if self._collect() else timeout
        except Exception as error:
            if not isinstance(error, self.connection_errors):
                logger.exception("collecting failed", server=self._name)
            self._lost(error)
            return None

    def _lost(self, error: Exception) -> None:
        self._connected = False
        self._quietly_close()
        self._on_down(error)

    def _reconnect(self) -> None:
        pause, factor, longest = BACKOFF
        while not self._stopping:
            try:
                self._open()
                self._on_up()  # speaks to the server, which may be gone again
            except Exception as error:
                self._quietly_close()
                logger.debug("cannot connect", server=self._name, error=str(error))
                self._pause_disconnected(pause * random.uniform(0.5, 1.0))
                pause = min(longest, pause * factor)
            else:
                self._connected = True
                return

    def _pause_disconnected(self, seconds: float) -> None:
        """Wait, but let a stop through, and drop commands whose callers have given up."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._stopping:
            for command in list(self._commands):
                if command[1] == self._stop:
                    self._stopping = True
                    command[0].set_result(None)
                    self._commands.remove(command)
                elif command[0].cancelled():
                    self._commands.remove(command)
            time.sleep(min(left, 0.05))

    def _quietly_close(self) -> None:
        try:
            self._close()
        except Exception:
            logger.exception("closing failed", server=self._name)

    def _fail_commands(self, error: BaseException) -> None:
        while True:
            try:
                reply = self._commands.popleft()[0]
            except IndexError:  # also where two threads do this at once
                return
            if reply.set_running_or_notify_cancel():
                reply.set_exception(error)

    def _close_pipe(self) -> None:
        reader, writer = self._wake_reader, self._wake_writer
        self._wake_reader = self._wake_writer = -1  # the numbers may soon be somebody else's
        os.close(reader)
        os.close(writer)


class ThreadedTransport(DriverThread, Transport):
    """The port over a :class:`~kern.contracts.transport.BlockingTransport`."""

    def __init__(self, driver: BlockingTransport) -> None:
        super().__init__(driver.url)
        self.driver = driver
        self.capabilities = driver.capabilities
        self.server = driver.server
        self.url = driver.url
        self._owner = Owner("")
        self._sink: EventSink = _nobody
        self._topics: tuple[str, ...] = ()
        self._queues: tuple[str, ...] = ()

    # -- the thread's side

    def _open(self) -> None:
        self.driver.open(self._owner, self._topics, self._queues)

    def _close(self) -> None:
        self.driver.close()

    def _collect(self) -> bool:
        found = False
        for event in self.driver.collect():
            found = True
            self._sink(event)
        return found

    def _descriptor(self) -> int | None:
        return self.driver.wake_fd()

    def _polling(self) -> tuple[float, float] | None:
        return self.driver.poll_interval if self._queues or self._topics else None

    def _look_anyway(self) -> float | None:
        return self.driver.look_anyway()

    def _on_down(self, error: Exception) -> None:
        super()._on_down(error)
        self._sink(Down(error))

    def _on_up(self) -> None:
        super()._on_up()
        self._sink(Up())

    # -- the port

    def start(self, owner: Owner, sink: EventSink) -> Reply[None]:
        self._owner, self._sink = owner, sink
        return self.begin()

    def stop(self) -> Reply[None]:
        return self.end()

    def declare(self, queues: Sequence[QueueSpec]) -> Reply[None]:
        return self.call(self.driver.declare, queues)

    def publish(self, batch: Sequence[Publication]) -> Reply[list[Exception | None]]:
        return self.call(self.driver.publish, batch)

    def publish_within(self, batch: Sequence[Publication], connection: Any) -> None:
        self.driver.publish_within(batch, connection)

    def claim(self, claim: Claim) -> Reply[Claimed]:
        self._queues = tuple(claim.queues)
        return self.call(self.driver.claim, claim)

    def settle(self, batch: Sequence[Settlement]) -> Reply[list[Settled]]:
        return self.call(self.driver.settle, batch)

    def park(self, batch: Sequence[Parking]) -> Reply[list[Settled]]:
        return self.call(self.driver.park, batch)

    def renew(self, receipts: Sequence[str], lease_seconds: float) -> Reply[frozenset[str]]:
        return self.call(self.driver.renew, receipts, lease_seconds)

    def mark_started(self, receipts: Sequence[str]) -> Reply[None]:
        return self.call(self.driver.mark_started, receipts)

    def recover(self, everything: bool = False) -> Reply[int]:
        return self.call(self.driver.recover, everything)

    def release_delayed(self) -> Reply[int]:
        return self.call(self.driver.release_delayed)

    def broadcast(self, topic: str, payload: bytes) -> Reply[None]:
        return self.call(self.driver.broadcast, topic, payload)

    def subscribe(self, topics: Sequence[str]) -> Reply[None]:
        self._topics = tuple(topics)
        return self.call(self.driver.subscribe, topics)

    def presence(self) -> Reply[list[Presence]]:
        return self.call(self.driver.presence)

    def announce(self, queues: Sequence[str], facts: Mapping[str, Any]) -> Reply[None]:
        return self.call(self.driver.announce, queues, facts)

    def queues(self) -> Reply[list[str]]:
        return self.call(self.driver.queues)

    def depth(self, queues: Sequence[str]) -> Reply[list[QueueDepth]]:
        return self.call(self.driver.depth, queues)

    def peek(self, queue: str, limit: int = 10) -> Reply[list[Message]]:
        return self.call(self.driver.peek, queue, limit)

    def purge(self, queue: str) -> Reply[int]:
        return self.call(self.driver.purge, queue)

    def delete(self, task_ids: Sequence[str]) -> Reply[int]:
        return self.call(self.driver.delete, task_ids)

    def locate(self, task_ids: Sequence[str]) -> Reply[dict[str, Whereabouts]]:
        return self.call(self.driver.locate, task_ids)

    def quarantined(self, queue: str | None = None, limit: int = 100) -> Reply[list[Quarantined]]:
        return self.call(self.driver.quarantined, queue, limit)

    def replay(self, keys: Sequence[str]) -> Reply[int]:
        return self.call(self.driver.replay, keys)

    def drop(self, keys: Sequence[str]) -> Reply[int]:
        return self.call(self.driver.drop, keys)

    def records(self) -> Records | None:
        return self.driver.records()


class ThreadedResultStore(DriverThread, ResultStore):
    """The port over a :class:`~kern.contracts.result_store.BlockingResultStore`."""

    connection_errors = (BackendUnavailable, TransportError)

    def __init__(self, driver: BlockingResultStore) -> None:
        super().__init__(driver.url)
        self.driver = driver
        self.capabilities = driver.capabilities
        self.document_form = driver.document_form
        self.server = driver.server
        self.url = driver.url
        self._watched: set[str] = set()
        self._on_documents: Callable[[Sequence[Document]], None] = _nobody

    def _open(self) -> None:
        self.driver.open()

    def _close(self) -> None:
        self.driver.close()

    def _collect(self) -> bool:
        found = list(self.driver.collect(self._watched))
        if found:
            self._watched.difference_update(document.task_id for document in found)
            self._on_documents(found)
        return bool(found)

    def _descriptor(self) -> int | None:
        return self.driver.wake_fd()

    def _polling(self) -> tuple[float, float] | None:
        # Whoever has a descriptor is sent things, and reads them also when nobody waits for any.
        return self.driver.poll_interval if self._watched or self.driver.wake_fd() is not None else None

    def _look_anyway(self) -> float | None:
        return self.driver.look_anyway()

    def _on_up(self) -> None:
        if self._watched:
            self._look(frozenset(self._watched))
        super()._on_up()

    def _look(self, task_ids: Collection[str]) -> None:
        """Report those that are final already; what comes later is collected."""
        from kern.states import READY_STATES

        ready = [d for d in self.driver.read(list(task_ids)).values() if d.status in READY_STATES]
        if ready:
            self._watched.difference_update(document.task_id for document in ready)
            self._on_documents(ready)

    def _watch(self, task_ids: Collection[str]) -> None:
        self._watched.update(task_ids)
        self._look(task_ids)

    # -- the port

    def start(self, on_documents: Callable[[Sequence[Document]], None]) -> Reply[None]:
        self._on_documents = on_documents
        return self.begin()

    def stop(self) -> Reply[None]:
        return self.end()

    def plan(
        self,
        documents: Sequence[Document | None],
        parts: Sequence[Sequence[JoinPart]],
        others: Sequence[Sequence[Document]] = (),
    ) -> list[Plan | None]:
        return self.driver.plan(documents, parts, others)

    def write(self, plans: Sequence[Plan]) -> Reply[list[Written]]:
        return self.call(self.driver.write, plans)

    def read(self, task_ids: Sequence[str]) -> Reply[dict[str, Document]]:
        return self.call(self.driver.read, task_ids)

    def forget(self, task_ids: Sequence[str]) -> Reply[int]:
        return self.call(self.driver.forget, task_ids)

    def watch(self, task_ids: Collection[str]) -> Reply[None]:
        return self.call(self._watch, tuple(task_ids))

    def unwatch(self, task_ids: Collection[str]) -> Reply[None]:
        return self.call(self._watched.difference_update, tuple(task_ids))

    def save_group(self, group: GroupDocument) -> Reply[None]:
        return self.call(self.driver.save_group, group)

    def read_group(self, group_id: str) -> Reply[GroupDocument | None]:
        return self.call(self.driver.read_group, group_id)

    def delete_group(self, group_id: str) -> Reply[None]:
        return self.call(self.driver.delete_group, group_id)

    def sweep(self) -> Reply[int]:
        return self.call(self.driver.sweep)

    def open_join(self, join: Join) -> Reply[None]:
        return self.call(self.driver.open_join, join)

    def joins_due(self, limit: int = 100) -> Reply[list[JoinState]]:
        return self.call(self.driver.joins_due, limit)

    def close_join(self, join_id: str) -> Reply[tuple[Publication, ...]]:
        return self.call(self.driver.close_join, join_id)

    def records(self) -> Records | None:
        return self.driver.records()


def _nobody(_event: Any) -> None:
    return None


def threaded(driver: Transport | BlockingTransport) -> Transport:
    """The port over *driver*; a driver that is one already is given back."""
    return ThreadedTransport(driver) if isinstance(driver, BlockingTransport) else driver


def threaded_store(driver: ResultStore | BlockingResultStore) -> ResultStore:
    """The port over *driver*; a driver that is one already is given back."""
    return ThreadedResultStore(driver) if isinstance(driver, BlockingResultStore) else driver
