"""The application's connection to its broker, for those who publish and look: made when first used.

Thread-safe. The blocking methods are deadline loops over the port, those for asyncio wait on the caller's loop.
A forked process makes a connection of its own. asyncio is imported by the methods that wait on a loop: half of what
importing kern would cost, for those who never do.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TypeVar
from uuid import uuid4

from kern import log
from kern.contracts.port import Down, Reply, TransportEvent, Up
from kern.contracts.transport import Owner, Transport
from kern.errors import TransportError
from kern.queues import QueueSpec

logger = log.get_logger("kern.connection")
T = TypeVar("T")

#: Seconds a connection may take to close.
FAREWELL = 2.0


class Connection:
    """One connection to the broker, shared by all threads of a process.

    :param make: makes the transport; told how many of those before it could not be started, or were given up.
    :param alternatives: how many brokers there are: where there are several, one that is away is given up at once.
    """

    def __init__(self, make: Callable[[int], Transport], alternatives: Callable[[], int] = lambda: 1) -> None:
        self._make = make
        self._alternatives = alternatives
        self._failures = 0
        #: The transport whose connection is broken at this moment.
        self._down: Transport | None = None
        self._lock = threading.Lock()
        self._port: Transport | None = None
        self._started: Reply[None] | None = None
        self._declared: set[str] = set()
        #: Transports of a parent process: never used here, and never collected, for their end would say good-bye on
        #: connections that are still the parent's.
        self._inherited: list[Transport] = []
        _connections.add(self)

    # -- connecting ----------------------------------------------------------------------------------------------------

    def _begin(self) -> tuple[Transport, Reply[None]]:
        with self._lock:
            if self._started is not None and self._started.done() and self._started.exception() is not None:
                self._failures += 1
                self._port = None
            if self._port is not None and self._port is self._down and self._alternatives() > 1:
                logger.warning("the broker is away, the next one is tried", url=self._port.url)
                self._port.stop()
                self._failures += 1
                self._port = None
            if self._port is None:
                port = self._port = self._make(self._failures)
                self._declared = set()
                owner = Owner(f"client:{os.getpid()}:{uuid4().hex[:8]}")
                self._started = port.start(owner, lambda event: self._hear(port, event))
            assert self._started is not None
            return self._port, self._started

    def _hear(self, port: Transport, event: TransportEvent) -> None:
        """From any thread."""
        if isinstance(event, Down):
            self._down = port
        elif isinstance(event, Up) and self._down is port:
            self._down = None

    def port(self, timeout: float) -> Transport:
        """The connected port; blocks.

        :param timeout: seconds.
        :raises TransportError: the broker cannot be used.
        """
        port, started = self._begin()
        if not started.done():
            try:
                port.drive(started, timeout)
            except TimeoutError:
                raise _silent(port, timeout) from None
        started.result()
        return port

    async def aport(self, timeout: float) -> Transport:
        """The connected port, for asyncio."""
        import asyncio

        port, started = self._begin()
        if not started.done():
            try:
                await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(started)), timeout)
            except TimeoutError:
                raise _silent(port, timeout) from None
        started.result()
        return port

    # -- commands ------------------------------------------------------------------------------------------------------

    def do(self, command: Callable[[Transport], Reply[T]], timeout: float) -> T:
        """Give one command and wait for its reply; blocks.

        :raises TransportError: also when *timeout* seconds have passed.
        """
        until = time.monotonic() + timeout
        port = self.port(timeout)
        reply = command(port)
        try:
            return port.drive(reply, max(0.001, until - time.monotonic()))
        except TimeoutError:
            reply.cancel()
            raise _silent(port, timeout) from None

    async def ado(self, command: Callable[[Transport], Reply[T]], timeout: float) -> T:
        """:meth:`do` for asyncio."""
        import asyncio

        until = time.monotonic() + timeout
        port = await self.aport(timeout)
        reply = command(port)
        try:
            return await asyncio.wait_for(
                asyncio.shield(asyncio.wrap_future(reply)), max(0.001, until - time.monotonic())
            )
        except TimeoutError:
            reply.cancel()
            raise _silent(port, timeout) from None

    # -- what has been declared on it ----------------------------------------------------------------------------------

    def undeclared(self, queues: Iterable[QueueSpec | None]) -> list[QueueSpec]:
        """Those of *queues* that this connection has not declared yet."""
        return [queue for queue in queues if queue is not None and queue.name not in self._declared]

    def note_declared(self, queues: Iterable[QueueSpec]) -> None:
        """The broker has said that they exist."""
        self._declared.update(queue.name for queue in queues)

    # -- ending --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Disconnect; the next use connects again."""
        with self._lock:
            port, self._port, self._started = self._port, None, None
        if port is not None:
            reply = port.stop()
            try:
                port.drive(reply, FAREWELL)
            except TimeoutError:
                logger.debug("connection did not close in time", url=port.url)

    def _forked(self) -> None:
        """In the child: the threads that worked the connection, and may have held the lock, are not here."""
        self._lock = threading.Lock()
        if self._port is not None:
            self._inherited.append(self._port)
        self._port = self._started = None
        self._declared = set()


def _silent(port: Transport, timeout: float) -> TransportError:
    return TransportError(f"the broker {port.url} did not answer within {timeout:g} s")


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork() -> None:
    for connection in list(_connections):
        connection._forked()


os.register_at_fork(after_in_child=_after_fork)
