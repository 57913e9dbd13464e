"""How the worker's loop and the client talk to a driver.

Everything the loop talks to is a *port*: it is given commands, answers each with a :data:`Reply`, and no call blocks.
What a driver has to say unasked goes to the sink it was started with.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import attrs

T = TypeVar("T")

#: The answer to a command, now or later. Its result may be waited for by a thread, its callbacks may run on any thread;
#: ``asyncio.wrap_future`` brings it to a loop.
Reply = Future[T]


@attrs.frozen
class Woken:
    """There may be something to claim, or a watched result may be there."""

    #: Names of queues, if known; empty means any.
    queues: frozenset[str] = frozenset()


@attrs.frozen
class Broadcast:
    """A broadcast message arrived."""

    topic: str
    payload: bytes


@attrs.frozen
class Lost:
    """These leases are ours no more."""

    receipts: frozenset[str]


@attrs.frozen
class Down:
    """The connection is gone; the driver rebuilds it from the declared intent by itself."""

    error: Exception


@attrs.frozen
class Up:
    """The connection is there (again)."""


TransportEvent = Woken | Broadcast | Lost | Down | Up

#: Takes what a driver has to say unasked. Thread-safe, returns at once, raises nothing.
EventSink = Callable[[TransportEvent], None]


def resolved(value: T) -> Reply[T]:
    """A reply that is already there."""
    reply: Reply[T] = Future()
    reply.set_result(value)
    return reply


def failed(error: BaseException) -> Reply[T]:
    """A reply that is already an error."""
    reply: Reply[T] = Future()
    reply.set_exception(error)
    return reply
