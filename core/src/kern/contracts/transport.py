"""The transport: moves messages, and lends them out.

Two forms of one contract. :class:`Transport` is the *port* that the worker's loop and the client use: no method blocks,
each answers with a :data:`~kern.contracts.port.Reply`. :class:`BlockingTransport` is what most authors write: plain
methods that block, on a connection of their own; core gives each one thread (:mod:`kern.contracts.blocking`).

The promises, each a test of ``kern_testing.TransportContract``:

* *Nothing is lost.* ready + leased + delayed + quarantined messages only change by publish, settle and purge. A reply
  lost on its way is a lease that expires.
* *A claim leases in one atomic step on the server*, under a fresh receipt. Two claims never return the same message
  while its lease lasts.
* *Settling is fenced*: a settlement whose receipt is not the current lease changes nothing and answers ``FENCED``.
* *A settlement is atomic for each task*: result (where the plan is shared), follow-ups, release; all or nothing. An
  error stays with its task.
* *Publishing is idempotent under one id* while the message is in the broker, where the driver declares it.
* *Time is the server's*, or one clock all processes of the host share.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import attrs

from kern.contracts.port import EventSink, Reply, TransportEvent, resolved
from kern.delivery import Delivery
from kern.message import Message, Publication
from kern.outcome import Outcome, ParkUntil
from kern.queues import QueueSpec

if TYPE_CHECKING:
    from kern.contracts.records import Records
    from kern.contracts.result_store import Plan

T = TypeVar("T")


class TransportCapability(enum.StrEnum):
    """What a transport can do beyond the plain contract."""

    #: Claims follow priorities.
    PRIORITIES = "priorities"
    #: Messages with a due time wait in the broker.
    DELAY = "delay"
    #: Publishing the same id twice leaves one message.
    IDEMPOTENT_PUBLISH = "idempotent-publish"
    #: Broadcast and subscribe.
    BROADCAST = "broadcast"
    #: Says whether it knows a call (:meth:`Transport.locate`).
    LOCATE = "locate"
    #: Publishes inside the caller's own transaction.
    CALLER_TRANSACTION = "caller-transaction"
    #: Records.
    RECORDS = "records"
    #: Topic and fanout exchanges.
    EXCHANGES = "exchanges"
    #: Says which workers are alive.
    PRESENCE = "presence"
    #: New messages wake a waiting worker without polling.
    PUSH = "push"


class SettleStatus(enum.StrEnum):
    """What became of one settlement."""

    #: Written.
    DONE = "done"
    #: The lease was not ours any more; nothing was written.
    FENCED = "fenced"
    #: Written, but a final document was already stored and stays.
    RESULT_KEPT = "result-kept"


class Whereabouts(enum.StrEnum):
    """Where the broker has a call."""

    READY = "ready"
    LEASED = "leased"
    DELAYED = "delayed"
    QUARANTINED = "quarantined"
    UNKNOWN = "unknown"


@attrs.frozen
class Settlement:
    """One outcome to be written, with its share of the result store's plan."""

    outcome: Outcome
    #: What the store wants written with it; only ever given to a transport on the same server.
    plan: Plan | None = None


@attrs.frozen
class Settled:
    """The answer to one :class:`Settlement`."""

    receipt: str
    status: SettleStatus
    #: The error that kept this item, and only this, from being written; it may be tried again.
    error: Exception | None = None


@attrs.frozen
class Claim:
    """What a worker asks for."""

    #: How many messages at most from each queue, in the worker's order of preference.
    queues: Mapping[str, int]
    #: How many at most in all.
    limit: int
    #: Bytes of message bodies at most; one message is always allowed.
    byte_budget: int = 262_144
    #: Seconds the leases last before somebody else may have the messages.
    lease_seconds: float = 15.0


@attrs.frozen
class Claimed:
    """The answer to a :class:`Claim`."""

    deliveries: tuple[Delivery, ...] = ()
    #: Seconds until the next delayed message of these queues is due, if the server said so.
    next_due: float | None = None


@attrs.frozen
class Parking:
    """A delivery that goes back to the broker without having been run."""

    receipt: str
    until: ParkUntil


@attrs.frozen
class QueueDepth:
    """How many messages of one queue are in which condition."""

    queue: str
    ready: int = 0
    leased: int = 0
    delayed: int = 0
    quarantined: int = 0


@attrs.frozen
class Presence:
    """A worker that is alive, as the transport knows it."""

    id: str
    hostname: str
    queues: tuple[str, ...]
    #: Seconds since the epoch, the server's clock.
    last_beat: float
    facts: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Quarantined:
    """A message in quarantine."""

    #: Names it: message id and reason.
    key: str
    queue: str
    reason: str
    #: Seconds since the epoch.
    at: float
    evidence: Mapping[str, Any]
    #: ``None`` when the broker's record could not be read.
    message: Message | None
    #: What the broker had, byte for byte.
    raw: bytes | None = None
    exchange: str = ""
    routing_key: str = ""


@attrs.frozen
class Owner:
    """Who uses the connection; what presence shows of a worker."""

    #: Unique to this connection's user: leases are taken in this name.
    id: str
    hostname: str = ""
    #: ``client`` or ``worker``.
    role: str = "client"


class Transport(ABC):
    """The port. See the module's docstring for what it promises.

    Every method may be called from one thread or loop only, the one that started it, and returns at once. Errors come
    through the reply: :class:`~kern.errors.PublishRefused` and :class:`~kern.errors.PublishUnknown` from publishing,
    :class:`~kern.errors.TransportError` from everything else.
    """

    capabilities: frozenset[TransportCapability] = frozenset()
    #: Identity of the server behind it; a plan of a result store with the same identity is written in one step with
    #: the release of the lease. ``None``: never.
    server: str | None = None
    #: The URL with its password masked, for banners and messages.
    url: str = ""

    # -- life

    @abstractmethod
    def start(self, owner: Owner, sink: EventSink) -> Reply[None]:
        """Connect. The reply fails with :class:`~kern.errors.TransportError` when the server cannot be used.

        Once it has succeeded, the transport reconnects by itself: it reports ``Down`` and ``Up``, and rebuilds
        everything from the declared intent (queues, subscriptions, owned leases).
        """

    @abstractmethod
    def stop(self) -> Reply[None]:
        """Disconnect. Leases are kept by the server until they are settled or expire. Safe twice."""

    def drive(self, reply: Reply[T], timeout: float | None) -> T:
        """Block the calling thread until *reply* is there.

        A transport that lives on a file descriptor overrides this to work its socket meanwhile.

        :raises TimeoutError: the built-in one, after *timeout* seconds.
        """
        return reply.result(timeout)

    # -- producing

    @abstractmethod
    def declare(self, queues: Sequence[QueueSpec]) -> Reply[None]:
        """Make sure that queues, exchanges and bindings exist."""

    @abstractmethod
    def publish(self, batch: Sequence[Publication]) -> Reply[list[Exception | None]]:
        """Hand over messages; answers once the broker has confirmed, item by item in order (``None``: confirmed)."""

    def publish_within(self, batch: Sequence[Publication], connection: Any) -> None:
        """Hand over messages inside the caller's own transaction on *connection*; blocks.

        :raises CapabilityMissing: this transport cannot.
        """
        from kern.errors import CapabilityMissing

        raise CapabilityMissing(f"the transport {self.url} cannot publish inside a caller's transaction")

    # -- consuming

    @abstractmethod
    def claim(self, claim: Claim) -> Reply[Claimed]:
        """Lease messages in one atomic step; answers at once, empty if nothing is ready."""

    @abstractmethod
    def settle(self, batch: Sequence[Settlement]) -> Reply[list[Settled]]:
        """Write outcomes, item by item: shared plan, follow-ups, then the disposition of the lease."""

    @abstractmethod
    def park(self, batch: Sequence[Parking]) -> Reply[list[Settled]]:
        """Give deliveries to the broker's delay structure until they are due; fenced like settling."""

    @abstractmethod
    def renew(self, receipts: Sequence[str], lease_seconds: float) -> Reply[frozenset[str]]:
        """Prolong leases and say that the owner lives; answers the receipts that are ours no more."""

    @abstractmethod
    def mark_started(self, receipts: Sequence[str]) -> Reply[None]:
        """Note on the lease that its task has started: a death from now on is the task's fault."""

    @abstractmethod
    def recover(self, everything: bool = False) -> Reply[int]:
        """Hand expired leases back to their queues; answers how many.

        :param everything: also leases that have not expired, of every owner (an operator's roll-back).
        """

    def release_delayed(self) -> Reply[int]:
        """Put what is delayed or parked into its queue, before it is due; answers how many messages.

        For the way back to another program that consumes the same queues and knows nothing of kern's own structures.
        Nothing to do for a broker that only kern speaks to.
        """
        return resolved(0)

    # -- broadcast

    @abstractmethod
    def broadcast(self, topic: str, payload: bytes) -> Reply[None]:
        """Send to everybody who is subscribed now."""

    @abstractmethod
    def subscribe(self, topics: Sequence[str]) -> Reply[None]:
        """Receive ``Broadcast`` events of these topics; replaces the former set."""

    @abstractmethod
    def presence(self) -> Reply[list[Presence]]:
        """Workers that are alive."""

    @abstractmethod
    def announce(self, queues: Sequence[str], facts: Mapping[str, Any]) -> Reply[None]:
        """Tell presence what this worker consumes."""

    # -- looking and operating

    @abstractmethod
    def queues(self) -> Reply[list[str]]:
        """Names of all queues the broker has."""

    @abstractmethod
    def depth(self, queues: Sequence[str]) -> Reply[list[QueueDepth]]:
        """Counts, in the order asked; zeros for a queue that does not exist."""

    @abstractmethod
    def peek(self, queue: str, limit: int = 10) -> Reply[list[Message]]:
        """The next ready messages, left where they are."""

    @abstractmethod
    def purge(self, queue: str) -> Reply[int]:
        """Delete ready and delayed messages; answers how many. Leased ones stay."""

    @abstractmethod
    def delete(self, task_ids: Sequence[str]) -> Reply[int]:
        """Delete ready and delayed calls by id; answers how many."""

    @abstractmethod
    def locate(self, task_ids: Sequence[str]) -> Reply[dict[str, Whereabouts]]:
        """Where the broker has these calls; only with the capability ``LOCATE``."""

    # -- quarantine

    @abstractmethod
    def quarantined(self, queue: str | None = None, limit: int = 100) -> Reply[list[Quarantined]]:
        """What is in quarantine, oldest first."""

    @abstractmethod
    def replay(self, keys: Sequence[str]) -> Reply[int]:
        """Put quarantined messages back into their queues, the very bytes; answers how many. Safe twice."""

    @abstractmethod
    def drop(self, keys: Sequence[str]) -> Reply[int]:
        """Delete quarantined messages; answers how many."""

    # -- records

    def records(self) -> Records | None:
        """The server's records, with the capability ``RECORDS``."""
        return None


class BlockingTransport(ABC):
    """What an author of a driver writes: the same contract with methods that block.

    Core gives an instance one thread: every method is called on it, from :meth:`open` to :meth:`close`, never two at
    once. A lost connection is raised as :class:`~kern.errors.TransportError` from whatever method noticed; core then
    calls :meth:`close` and, with growing pauses, :meth:`open` again: throw everything away and rebuild it from the
    arguments.

    While nothing is asked for, the thread waits on :meth:`wake_fd` (or :attr:`poll_interval`) and calls
    :meth:`collect`.
    """

    capabilities: frozenset[TransportCapability] = frozenset()
    server: str | None = None
    url: str = ""
    #: Seconds between two calls of :meth:`collect` without a descriptor: shortest and longest; adaptive between.
    poll_interval: ClassVar[tuple[float, float]] = (0.002, 0.05)

    @abstractmethod
    def open(self, owner: Owner, topics: Sequence[str], queues: Sequence[str]) -> None:
        """Connect, and restore subscriptions; *queues* are those a worker is interested in being woken for."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect; must not raise. Safe twice."""

    def wake_fd(self) -> int | None:
        """A descriptor that becomes readable when :meth:`collect` may have something."""
        return None

    def look_anyway(self) -> float | None:
        """Seconds since the last :meth:`collect` after which it is called although the descriptor is silent, for what
        is not announced; ``None``: never."""
        return None

    @abstractmethod
    def collect(self) -> Iterable[TransportEvent]:
        """What happened unasked: wake-ups and broadcasts. Cheap, returns at once."""

    @abstractmethod
    def declare(self, queues: Sequence[QueueSpec]) -> None: ...

    @abstractmethod
    def publish(self, batch: Sequence[Publication]) -> list[Exception | None]: ...

    def publish_within(self, batch: Sequence[Publication], connection: Any) -> None:
        """As :meth:`Transport.publish_within`; called on the caller's thread, must not touch the own connection."""
        from kern.errors import CapabilityMissing

        raise CapabilityMissing(f"the transport {self.url} cannot publish inside a caller's transaction")

    @abstractmethod
    def claim(self, claim: Claim) -> Claimed: ...

    @abstractmethod
    def settle(self, batch: Sequence[Settlement]) -> list[Settled]: ...

    @abstractmethod
    def park(self, batch: Sequence[Parking]) -> list[Settled]: ...

    @abstractmethod
    def renew(self, receipts: Sequence[str], lease_seconds: float) -> frozenset[str]: ...

    @abstractmethod
    def mark_started(self, receipts: Sequence[str]) -> None: ...

    @abstractmethod
    def recover(self, everything: bool = False) -> int: ...

    def release_delayed(self) -> int:
        """As :meth:`Transport.release_delayed`."""
        return 0

    @abstractmethod
    def broadcast(self, topic: str, payload: bytes) -> None: ...

    @abstractmethod
    def subscribe(self, topics: Sequence[str]) -> None: ...

    @abstractmethod
    def presence(self) -> list[Presence]: ...

    @abstractmethod
    def announce(self, queues: Sequence[str], facts: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def queues(self) -> list[str]: ...

    @abstractmethod
    def depth(self, queues: Sequence[str]) -> list[QueueDepth]: ...

    @abstractmethod
    def peek(self, queue: str, limit: int = 10) -> list[Message]: ...

    @abstractmethod
    def purge(self, queue: str) -> int: ...

    @abstractmethod
    def delete(self, task_ids: Sequence[str]) -> int: ...

    def locate(self, task_ids: Sequence[str]) -> dict[str, Whereabouts]:
        from kern.errors import CapabilityMissing

        raise CapabilityMissing(f"the transport {self.url} cannot say where a call is")

    @abstractmethod
    def quarantined(self, queue: str | None = None, limit: int = 100) -> list[Quarantined]: ...

    @abstractmethod
    def replay(self, keys: Sequence[str]) -> int: ...

    @abstractmethod
    def drop(self, keys: Sequence[str]) -> int: ...

    def records(self) -> Records | None:
        """Records on the same server; safe to use from any thread, on a connection of its own."""
        return None


#: Makes a transport from a URL and the application's settings; what ``kern_transports`` hands over. Making one connects
#: to nothing.
TransportFactory = Callable[[str, Any], "Transport | BlockingTransport"]
