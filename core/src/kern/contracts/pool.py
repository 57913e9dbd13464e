"""The pool: runs requests, and says what became of each.

The promises, each a test of ``kern_testing.PoolContract``: every request submitted ends in exactly one ``Finished`` or
``Died``; a short request never waits behind a long one while another slot is idle; limits are counted from the start;
a terminated request ends as ``Died`` with ``terminated`` set, or had already finished.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from kern.contracts.port import Reply
from kern.outcome import Outcome
from kern.request import Request


class PoolCapability(enum.StrEnum):
    """What a pool can do beyond running."""

    SOFT_LIMITS = "soft-limits"
    HARD_LIMITS = "hard-limits"
    TERMINATE = "terminate"
    RESIZE = "resize"
    #: User code runs in processes of its own.
    ISOLATED = "isolated"
    #: ``result.get()`` inside a task would block a slot.
    JOIN_BLOCKS = "join-blocks"


@attrs.frozen
class Started:
    """A request has begun to run."""

    receipt: str
    #: Seconds since the epoch.
    at: float
    pid: int


@attrs.frozen
class Finished:
    """A request has been run."""

    receipt: str
    outcome: Outcome


@attrs.frozen
class Died:
    """What ran the request is gone before it could say what became of it."""

    receipt: str
    #: ``signal``, ``exit_code``, ``rss``, ``stack``, ``reason``: JSON values, kept in quarantine.
    evidence: Mapping[str, Any]
    #: It was running; a request that had only been handed over is not to blame.
    started: bool = True
    #: We killed it on request.
    terminated: bool = False
    #: We killed it at its hard time limit of so many seconds.
    time_limit: float | None = None


@attrs.frozen
class PoolBroken:
    """The pool cannot go on; the worker stops with this error."""

    error: str


PoolEvent = Started | Finished | Died | PoolBroken

#: Takes events, batches as they form. Thread-safe, returns at once, raises nothing.
PoolSink = Callable[[Sequence[PoolEvent]], None]


@attrs.frozen
class PoolOptions:
    """What a worker asks of its pool."""

    concurrency: int | None = None
    max_tasks_per_child: int | None = None
    #: KiB of resident memory.
    max_memory_per_child: int | None = None
    hostname: str = ""
    extra: Mapping[str, Any] = attrs.field(factory=dict)


class Pool(ABC):
    """The port: no method blocks."""

    capabilities: frozenset[PoolCapability] = frozenset()
    #: Requests that run at once.
    slots: int = 1
    #: The name under which it is chosen (``-P``).
    name: str = ""

    @abstractmethod
    def start(self, run: Callable[[Request], Outcome], sink: PoolSink) -> Reply[None]:
        """Get ready. *run* is the application's runner, to be called where requests run."""

    @abstractmethod
    def submit(self, batch: Sequence[Request]) -> None:
        """Take requests over; as many may wait inside as the worker chose to submit."""

    @abstractmethod
    def withdraw(self, receipts: Sequence[str] | None = None) -> list[str]:
        """Take back requests that have not started (all: ``None``); answers the receipts taken back."""

    @abstractmethod
    def terminate(self, receipt: str, signal: int | None = None) -> bool:
        """Kill one running request; ``False`` where that cannot be done."""

    @abstractmethod
    def interrupt(self, receipt: str, error: BaseException) -> bool:
        """Raise *error* inside one running request; ``False`` where that cannot be done."""

    def resize(self, slots: int) -> None:
        """Change the number of slots.

        :raises CapabilityMissing: this pool cannot.
        """
        from kern.errors import CapabilityMissing

        raise CapabilityMissing(f"the pool {self.name!r} cannot change its size")

    def recycle(self) -> None:  # noqa: B027  (nothing to do is the right answer for a pool without processes)
        """Replace the processes as they become idle; nothing to do for a pool without."""

    @abstractmethod
    def stop(self, timeout: float | None = None) -> Reply[None]:
        """End, once what runs has finished or *timeout* seconds have passed. Safe before a start, and twice.

        What still runs then is interrupted (:class:`kern.errors.Interrupted`) or killed, and told as ``Died``, or as
        ``Finished`` if it ended all the same; nothing is told after the reply.
        """

    def info(self) -> dict[str, Any]:
        """Facts for ``inspect stats``; JSON values."""
        return {"implementation": f"{type(self).__module__}:{type(self).__qualname__}", "max-concurrency": self.slots}


#: Makes a pool from the application and options; what ``kern_pools`` hands over.
PoolFactory = Callable[[Any, PoolOptions], Pool]
