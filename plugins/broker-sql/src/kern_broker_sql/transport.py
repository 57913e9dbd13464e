"""The transport: messages in tables.

*Priorities* follow RabbitMQ: larger is more urgent, 0 is the least.

*Waking.* PostgreSQL announces: each queue has a channel. SQLite is asked for its ``data_version`` every few
milliseconds, which costs microseconds and changes when another connection has committed. MariaDB and MySQL are asked
for what is ready, at growing intervals up to 50 ms.

*Time* is the server's; for a file, that of its host.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

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
    TransportCapability,
    Whereabouts,
)
from kern.delivery import Delivery
from kern.errors import ImproperlyConfigured, KernError, PublishRefused, PublishUnknown, TransportError
from kern.message import Message, Publication
from kern.queues import QueueSpec
from kern_broker_sql.claiming import Claiming
from kern_broker_sql.messages import Insert, Messages, prepare
from kern_broker_sql.presence import LASTS, Broadcasts, Presences
from kern_broker_sql.quarantine import Quarantining
from kern_broker_sql.routing import Routing
from kern_broker_sql.settling import ATTEMPTS, Item, Settling
from kern_broker_sql.tables import DELAYED, LAYOUT, LEASED, READY, tables
from kern_sql_engine import (
    CallersConnection,
    Connection,
    Database,
    Family,
    Kind,
    Link,
    PostgresqlConnection,
    SqlError,
    SqliteConnection,
    SqlRecords,
    schema,
)

T = TypeVar("T")

DISTRIBUTION = "kern-broker-sql"
BROADCAST_CHANNEL = "kern_broadcast"
#: Seconds between two questions to a server that cannot announce: shortest and longest.
ASKING = (0.002, 0.05)
#: Seconds after which a worker that did not claim what it was told of is told again.
TELL_AGAIN = 0.25
_STATES = {READY: Whereabouts.READY, LEASED: Whereabouts.LEASED, DELAYED: Whereabouts.DELAYED}


def transport_error(error: SqlError) -> KernError:
    """*error* as the contract has it."""
    made = TransportError(str(error), retryable=error.retryable)
    made.__cause__ = error
    return made


class SqlTransport(BlockingTransport):
    """A connection to a database.

    :param url: see :mod:`kern_sql_engine.urls`.
    :param conf: the application's settings; ``publish_timeout`` bounds how long a locked database is waited for.
    """

    capabilities = frozenset(
        {
            TransportCapability.PRIORITIES,
            TransportCapability.DELAY,
            TransportCapability.IDEMPOTENT_PUBLISH,
            TransportCapability.BROADCAST,
            TransportCapability.LOCATE,
            TransportCapability.CALLER_TRANSACTION,
            TransportCapability.RECORDS,
            TransportCapability.EXCHANGES,
            TransportCapability.PRESENCE,
        }
    )
    poll_interval: ClassVar[tuple[float, float]] = (0.001, 0.01)

    def __init__(self, url: str, conf: Any = None) -> None:
        timeout = float(getattr(conf, "publish_timeout", None) or 5.0)
        # Within the caller's deadline, so that the answer is the database's own and not "unknown".
        self.database = Database(url, DISTRIBUTION, patience=max(0.1, 0.8 * timeout))
        self.url = self.database.url.masked
        self.server = self.database.identity
        if self.database.dialect.notifies:
            self.capabilities = self.capabilities | {TransportCapability.PUSH}
        dialect = self.database.dialect
        self._link = Link(self.database, self._ensure_tables)
        self._listener = Link(self.database, lambda connection: None)
        self._messages = Messages(dialect)
        self._routing = Routing(dialect)
        self._claiming = Claiming(dialect)
        self._quarantining = Quarantining(dialect)
        self._presences = Presences(dialect)
        self._broadcasts = Broadcasts(dialect)
        self._settling = Settling(
            dialect,
            self.server,
            self._messages,
            self._routing,
            self._claiming,
            self._quarantining,
            self._announce_queues,
        )
        self._notify = dialect.sql("SELECT pg_notify(channel, '') FROM unnest(?::text[]) AS channel")
        self._records: SqlRecords | None = None
        self._database_id: str | None = None
        self._owner = Owner("")
        self._announced: tuple[Sequence[str], Mapping[str, Any]] | None = None
        self._topics: frozenset[str] = frozenset()
        #: The latest broadcast read; kept when the connection is made anew.
        self._heard: int | None = None
        self._queues: tuple[str, ...] = ()
        #: Queues that vanish when nobody consumes them.
        self._transient: set[str] = set()
        self._listening: set[str] = set()
        self._turn = 0
        # Of a file: its version when last looked at, and whether something may have come since that nobody looked at.
        self._version: int | None = None
        self._changed = False
        #: Events that came to light by the way.
        self._pending: list[TransportEvent] = []
        # Monotonic times: no question before, and no repeated waking before.
        self._ask_at = self._tell_at = 0.0
        self._ask_pause = ASKING[0]
        #: Seconds since the epoch at which the worker knows that something is due.
        self._known_due: float | None = None

    # -- life

    def open(self, owner: Owner, topics: Sequence[str], queues: Sequence[str]) -> None:
        self._owner = owner
        with self._errors():
            connection = self._link.open()
            self._version, self._changed = None, True
            self._ask_at = self._tell_at = 0.0
            self._database_id = schema.database_id(connection)
            if self._announced is not None:
                self._presences.announce(connection, owner, *self._announced)
            self._listen(connection, queues, topics)

    def close(self) -> None:
        if self._announced is not None and self._link.connected:
            try:
                self._presences.leave(self._link.get(), self._owner)
            except SqlError:
                pass  # it counts as gone soon anyway
        self._link.close()
        self._listener.close()
        self._listening.clear()
        if self._records is not None:
            self._records.close()

    def wake_fd(self) -> int | None:
        if not self._listener.connected:
            return None
        listener = self._listener.current
        return listener.fileno() if isinstance(listener, PostgresqlConnection) else None

    def collect(self) -> Iterable[TransportEvent]:
        with self._errors():
            connection = self._link.get()
            if isinstance(connection, SqliteConnection):
                return self._collect_from_file(connection)
            if self._listener.connected:
                return self._collect_announced(connection)
            return self._collect_by_asking(connection)

    # -- producing

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        if queues:
            with self._writing() as connection:
                self._transient.update(self._routing.declare(connection, queues))

    def publish(self, batch: Sequence[Publication]) -> list[Exception | None]:
        if not batch:
            return []
        seams.reached("publishing")
        try:
            answers = self._publish(self._link.get(), batch)
        except SqlError as error:
            answers = self._publish_again(batch, error)
        seams.reached("published")
        return answers

    def publish_within(self, batch: Sequence[Publication], connection: Any) -> None:
        try:
            theirs = CallersConnection(connection, self.database.url, self.database.dialect)
        except TypeError as error:
            raise ImproperlyConfigured(str(error)) from None
        try:
            self._check_same(theirs)
            routes = self._routing.routes(theirs, batch)
            inserts = [prepare(publication, to) for publication, to in zip(batch, routes, strict=True)]
            self._messages.insert(theirs, inserts)
            if self.database.dialect.notifies:
                channels = sorted({_channel(queue) for insert in inserts for queue in insert.queues})
                theirs.rows(self._notify, (channels,))
        except SqlError as error:
            raise PublishRefused(str(error)) from error

    # -- consuming

    def claim(self, claim: Claim) -> Claimed:
        seams.reached("claiming")
        queues = [queue for queue, most in claim.queues.items() if most > 0]
        if not queues or claim.limit <= 0:
            return Claimed()
        with self._errors():
            connection = self._link.get()
            self._listen(connection, queues, self._topics)
            self._tell_at = self._ask_at = 0.0
            self._ask_pause = ASKING[0]
            deliveries: tuple[Delivery, ...] = ()
            # Whoever would only find that there is nothing need not keep a file's writers waiting for that.
            if not isinstance(connection, SqliteConnection) or self._claiming.anything(connection, queues):
                self._turn += 1
                deliveries = self._transaction(
                    connection, lambda: self._claiming.claim(connection, claim, self._owner.id, self._turn)
                )
                seams.reached("claimed")
            next_due = self._claiming.next_due(connection, queues)
        self._known_due = None if next_due is None else time.time() + next_due
        return Claimed(deliveries, next_due)

    def settle(self, batch: Sequence[Settlement]) -> list[Settled]:
        return self._settle([Item.of(settlement) for settlement in batch], "settling")

    def park(self, batch: Sequence[Parking]) -> list[Settled]:
        return self._settle([Item(parking.receipt, parking.until) for parking in batch], "parking")

    def _settle(self, items: Sequence[Item], seam: str) -> list[Settled]:
        with self._errors():
            answers = self._settling.write(self._link.get(), items, seam)
        self._changed = True
        if items:
            seams.reached("settled")
        return answers

    def renew(self, receipts: Sequence[str], lease_seconds: float) -> frozenset[str]:
        with self._errors():
            connection = self._link.get()

            def write() -> frozenset[str]:
                lost = self._claiming.renew(connection, receipts, lease_seconds)
                if self._announced is not None:
                    self._presences.beat(connection, self._owner, max(LASTS, lease_seconds))
                self._routing.use(connection, sorted(self._transient.intersection(self._queues)))
                return lost

            return self._transaction(connection, write)

    def mark_started(self, receipts: Sequence[str]) -> None:
        if receipts:
            with self._writing() as connection:
                self._claiming.mark_started(connection, receipts)

    def recover(self, everything: bool = False) -> int:
        count = 0
        with self._errors():
            connection = self._link.get()

            def step() -> int:
                found = self._claiming.recover(connection, everything)
                if found:
                    self._announce_queues(connection, set(found.values()))
                else:
                    self._presences.sweep(connection)
                    self._routing.sweep(connection)
                return len(found)

            while found := self._transaction(connection, step):
                count += found
        self._changed = True
        return count

    # -- broadcast

    def broadcast(self, topic: str, payload: bytes) -> None:
        with self._writing() as connection:
            self._broadcasts.send(connection, topic, payload)
            if self.database.dialect.notifies:
                connection.rows(self._notify, ([BROADCAST_CHANNEL],))

    def subscribe(self, topics: Sequence[str]) -> None:
        with self._errors():
            connection = self._link.get()
            if self._topics:
                self._pending = self._new_broadcasts(connection)
            else:
                # What was said while nobody listened is for nobody.
                self._heard = None
            self._listen(connection, self._queues, topics)

    def presence(self) -> list[Presence]:
        with self._errors():
            return self._presences.list(self._link.get())

    def announce(self, queues: Sequence[str], facts: Mapping[str, Any]) -> None:
        self._announced = (tuple(queues), dict(facts))
        with self._errors():
            self._presences.announce(self._link.get(), self._owner, *self._announced)

    # -- looking and operating

    def queues(self) -> list[str]:
        with self._errors():
            return self._routing.names(self._link.get())

    def depth(self, queues: Sequence[str]) -> list[QueueDepth]:
        if not queues:
            return []
        with self._errors():
            connection = self._link.get()
            counts = self._messages.depth(connection, queues)
            kept = self._quarantining.counts(connection, queues)
        return [
            QueueDepth(
                queue,
                ready=counts.get((queue, READY), 0),
                leased=counts.get((queue, LEASED), 0),
                delayed=counts.get((queue, DELAYED), 0),
                quarantined=kept.get(queue, 0),
            )
            for queue in queues
        ]

    def peek(self, queue: str, limit: int = 10) -> list[Message]:
        with self._errors():
            return self._messages.peek(self._link.get(), queue, limit)

    def purge(self, queue: str) -> int:
        with self._writing() as connection:
            return self._messages.purge(connection, queue)

    def delete(self, task_ids: Sequence[str]) -> int:
        with self._writing() as connection:
            return self._messages.delete(connection, task_ids)

    def locate(self, task_ids: Sequence[str]) -> dict[str, Whereabouts]:
        found = dict.fromkeys(task_ids, Whereabouts.UNKNOWN)
        if not task_ids:
            return found
        with self._errors():
            connection = self._link.get()
            for task_id in self._quarantining.where(connection, task_ids):
                found[task_id] = Whereabouts.QUARANTINED
            # Of copies in several queues the furthest counts.
            for task_id, state in sorted(self._messages.where(connection, task_ids), key=lambda row: _RANK[row[1]]):
                found[task_id] = _STATES[state]
        return found

    # -- quarantine

    def quarantined(self, queue: str | None = None, limit: int = 100) -> list[Quarantined]:
        with self._errors():
            return self._quarantining.entries(self._link.get(), queue, limit)

    def replay(self, keys: Sequence[str]) -> int:
        with self._writing() as connection:
            count, queues = self._quarantining.replay(connection, keys)
            if queues:
                self._announce_queues(connection, queues)
        return count

    def drop(self, keys: Sequence[str]) -> int:
        with self._writing() as connection:
            return self._quarantining.drop(connection, keys)

    # -- records

    def records(self) -> Records | None:
        if self._records is None:
            self._records = SqlRecords(self.database, transport_error)
        return self._records

    # -- inside: connection and transactions

    def _ensure_tables(self, connection: Connection) -> None:
        schema.ensure(connection, "broker", LAYOUT, tables)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SqlError as error:
            raise transport_error(error) from error

    def _transaction(self, connection: Connection, write: Callable[[], T]) -> T:
        """*write* in a transaction, again if the database undid it in favour of another."""
        for attempt in range(ATTEMPTS):
            try:
                with connection.transaction():
                    return write()
            except SqlError as error:
                if error.kind is not Kind.CONFLICT or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction of a single command."""
        with self._errors():
            connection = self._link.get()
            with connection.transaction():
                yield connection
        self._changed = True

    # -- inside: publishing

    def _publish(self, connection: Connection, batch: Sequence[Publication]) -> list[Exception | None]:
        """
        :raises SqlError: with ``committing``: nobody knows; else nothing of the batch is there.
        """
        answers: list[Exception | None] = [None] * len(batch)

        def write() -> None:
            routes = self._routing.routes(connection, batch)
            inserts: list[Insert] = []
            for position, (publication, queues) in enumerate(zip(batch, routes, strict=True)):
                try:
                    insert = prepare(publication, queues)
                    self._check_size(connection, insert)
                    inserts.append(insert)
                    answers[position] = None
                except KernError as error:
                    answers[position] = error
            self._messages.insert(connection, inserts)
            if inserts:
                self._announce_queues(connection, {queue for insert in inserts for queue in insert.queues})

        try:
            self._transaction(connection, write)
        except SqlError as error:
            if error.kind is not Kind.DATA or len(batch) == 1:
                raise
            # One of them does not fit; which one, the database does not say.
            return [answer for publication in batch for answer in self._publish_one(connection, publication)]
        self._changed = True
        return answers

    def _publish_one(self, connection: Connection, publication: Publication) -> list[Exception | None]:
        try:
            return self._publish(connection, [publication])
        except SqlError as error:
            return [_not_published(error, publication)]

    def _publish_again(self, batch: Sequence[Publication], error: SqlError) -> list[Exception | None]:
        """A connection may have broken while nobody used it: one more attempt on a new one."""
        if error.lost and not error.committing:
            try:
                return self._publish(self._link.open(), batch)
            except SqlError as again:
                error = again
        if error.lost:
            # Whatever is asked for next finds the link closed, and everything is opened anew.
            self._link.close()
        return [_not_published(error, publication) for publication in batch]

    def _check_size(self, connection: Connection, insert: Insert) -> None:
        # The server would end the connection. A byte may be written as two.
        if connection.largest is not None and 2 * len(insert.raw) + 4096 > connection.largest:
            raise PublishRefused(
                f"message {insert.task_id} has {len(insert.raw)} bytes, too many for the server's max_allowed_packet "
                f"of {connection.largest} (twice the size is needed at worst)"
            )

    def _check_same(self, theirs: CallersConnection) -> None:
        """The caller's connection is to our database, and the tables are there.

        :raises PublishRefused: it is not, and the message would go where no worker looks.
        """
        if self.database.family is Family.SQLITE:
            path = _file_of(theirs)
            if path is None or os.path.realpath(path) != os.path.realpath(self.database.url.path):
                where = f" but to {path}" if path else ""
                raise PublishRefused(f"the connection is not to the broker's database {self.url}{where}")
        if self._database_id is None:
            ours = Link(self.database, self._ensure_tables)
            self._database_id = schema.database_id(ours.open())
            ours.close()
        try:
            found = schema.database_id(theirs)
        except SqlError as error:
            raise PublishRefused(
                f"the connection is not to the broker's database, or cannot be used now: {error}"
            ) from error
        if found != self._database_id:
            raise PublishRefused(f"the connection is to another database than the broker's {self.url}")

    # -- inside: waking

    def _announce_queues(self, connection: Connection, queues: Iterable[str]) -> None:
        """In a transaction: when it is committed, queues have something to claim, or a new due time."""
        if self.database.dialect.notifies:
            connection.rows(self._notify, (sorted(map(_channel, queues)),))

    def _listen(self, connection: Connection, queues: Iterable[str], topics: Iterable[str]) -> None:
        self._queues = tuple(queues)
        self._topics = frozenset(topics)
        if self._topics and self._heard is None:
            self._heard = self._broadcasts.last(connection)
        if not self.database.dialect.notifies:
            return
        wanted = {_channel(queue) for queue in self._queues}
        if self._topics:
            wanted.add(BROADCAST_CHANNEL)
        if not wanted or wanted == self._listening:
            return
        listener = self._listener.current if self._listener.connected else self._listener.open()
        for channel in wanted - self._listening:
            listener.run(f'LISTEN "{channel}"')
        for channel in self._listening - wanted:
            listener.run(f'UNLISTEN "{channel}"')
        self._listening = wanted
        # What came before somebody listened.
        self._tell_at = 0.0

    def _collect_announced(self, connection: Connection) -> list[TransportEvent]:
        listener = self._listener.current
        assert isinstance(listener, PostgresqlConnection)
        channels = {channel for channel, _ in listener.heard()}
        events: list[TransportEvent] = []
        if BROADCAST_CHANNEL in channels:
            events += self._new_broadcasts(connection)
        woken = frozenset(queue for queue in self._queues if _channel(queue) in channels)
        if woken:
            events.append(Woken(woken))
        return events

    def _collect_from_file(self, connection: SqliteConnection) -> list[TransportEvent]:
        version = connection.version()
        if version != self._version:
            self._version, self._changed = version, True
        if not self._changed:
            return []
        events = self._new_broadcasts(connection) if self._topics else []
        if time.monotonic() >= self._tell_at:
            self._changed = False
            events += self._something_ready(connection)
        return events

    def _collect_by_asking(self, connection: Connection) -> list[TransportEvent]:
        now = time.monotonic()
        if now < self._ask_at:
            return []
        events = self._new_broadcasts(connection) if self._topics else []
        if now >= self._tell_at:
            events += self._something_ready(connection)
        self._ask_pause = ASKING[0] if events else min(ASKING[1], self._ask_pause * 1.5)
        self._ask_at = now + self._ask_pause
        return events

    def _something_ready(self, connection: Connection) -> list[TransportEvent]:
        """Tell a worker once; then not again before it has claimed, or some time has passed."""
        if not self._queues or time.monotonic() < self._tell_at:
            return []
        woken = frozenset(self._claiming.ready(connection, self._queues))
        if not woken:
            until = self._claiming.next_due(connection, self._queues)
            sooner = until is not None and (self._known_due is None or time.time() + until < self._known_due - 0.001)
            if not sooner:
                return []
            woken = frozenset(self._queues)
        self._tell_at = time.monotonic() + TELL_AGAIN
        return [Woken(woken)]

    def _new_broadcasts(self, connection: Connection) -> list[TransportEvent]:
        events, self._pending = self._pending, []
        for number, topic, payload in self._broadcasts.after(connection, self._heard or 0):
            self._heard = number
            if topic in self._topics:
                events.append(Broadcast(topic, payload))
        return events


def _file_of(statements: CallersConnection) -> str | None:
    """The file a connection is to; ``None`` where it is to none, or to a server."""
    try:
        found = [str(row[2]) for row in statements.rows("PRAGMA database_list") if row[1] == "main"]
    except SqlError:
        return None
    return found[0] if found and found[0] else None


_RANK = {DELAYED: 0, READY: 1, LEASED: 2}


def _channel(queue: str) -> str:
    """Names of channels are short."""
    return f"kern_{hashlib.sha256(queue.encode()).hexdigest()[:32]}"


def _not_published(error: SqlError, publication: Publication) -> Exception:
    sentence = str(error)
    answer = PublishUnknown(sentence, [publication.task_id]) if error.committing else PublishRefused(sentence)
    answer.__cause__ = transport_error(error)
    return answer
