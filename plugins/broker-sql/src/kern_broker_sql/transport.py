"""The transport: messages in tables.

*Priorities* follow RabbitMQ: larger is more urgent, 0 is the least.

*Time* is the server's; for a file, that of its host.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from kern import seams
from kern.contracts.port import TransportEvent
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
from kern_broker_sql.claiming import BATCH, Claiming
from kern_broker_sql.messages import Insert, Messages, prepare
from kern_broker_sql.presence import LASTS, Broadcasts, Presences
from kern_broker_sql.quarantine import Quarantining
from kern_broker_sql.routing import Routing
from kern_broker_sql.settling import Item, Settling
from kern_broker_sql.tables import DELAYED, LAYOUT, LEASED, READY, TABLES
from kern_broker_sql.waking import waking_of
from kern_sql_engine import (
    CallersConnection,
    Connection,
    Database,
    Family,
    Kind,
    Link,
    SqlError,
    SqliteConnection,
    SqlRecords,
    schema,
)

T = TypeVar("T")

DISTRIBUTION = "kern-broker-sql"
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
        self._waking = waking_of(self.database, self._claiming, self._broadcasts)
        self._settling = Settling(
            dialect,
            self.server,
            self._messages,
            self._routing,
            self._claiming,
            self._quarantining,
            self._waking.announce,
        )
        self._records: SqlRecords | None = None
        self._database_id: str | None = None
        self._owner = Owner("")
        self._announced: tuple[Sequence[str], Mapping[str, Any]] | None = None
        #: Queues that vanish when nobody consumes them.
        self._transient: set[str] = set()
        self._turn = 0

    # -- life

    def open(self, owner: Owner, topics: Sequence[str], queues: Sequence[str]) -> None:
        self._owner = owner
        with self._errors():
            connection = self._link.open()
            self._database_id = schema.database_id(connection)
            self._waking.opened(connection)
            self._waking.listen(connection, queues, topics)
            if self._announced is not None:
                self._presences.announce(connection, owner, *self._announced)

    def close(self) -> None:
        if self._announced is not None and self._link.connected:
            try:
                self._presences.leave(self._link.get(), self._owner)
            except SqlError:
                pass  # it counts as gone soon anyway
        self._link.close()
        self._waking.close()
        if self._records is not None:
            self._records.close()

    def wake_fd(self) -> int | None:
        return self._waking.fileno()

    def look_anyway(self) -> float | None:
        return self._waking.look_anyway()

    def collect(self) -> Iterable[TransportEvent]:
        with self._errors():
            return self._waking.collect(self._link.get())

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
            self._waking.announce(theirs, {queue for insert in inserts for queue in insert.queues})
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
            if queues != list(self._waking.queues):
                self._waking.listen(connection, queues, self._waking.topics)
            self._waking.claiming()
            deliveries: tuple[Delivery, ...] = ()
            # Whoever would only find that there is nothing need not keep a file's writers waiting for that.
            if not isinstance(connection, SqliteConnection) or self._claiming.anything(connection, queues):
                self._turn += 1
                deliveries = connection.in_transaction(
                    lambda: self._claiming.claim(connection, claim, self._owner.id, self._turn)
                )
                seams.reached("claimed")
            next_due = self._claiming.next_due(connection, queues)
        self._waking.claimed(bool(deliveries), next_due)
        return Claimed(deliveries, next_due)

    def settle(self, batch: Sequence[Settlement]) -> list[Settled]:
        return self._settle([Item.of(settlement) for settlement in batch], "settling")

    def park(self, batch: Sequence[Parking]) -> list[Settled]:
        return self._settle([Item(parking.receipt, parking.until) for parking in batch], "parking")

    def _settle(self, items: Sequence[Item], seam: str) -> list[Settled]:
        with self._errors():
            answers = self._settling.write(self._link.get(), items, seam)
        self._waking.wrote()
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
                self._routing.use(connection, sorted(self._transient.intersection(self._waking.queues)))
                return lost

            return connection.in_transaction(write)

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
                    self._waking.announce(connection, set(found.values()))
                return len(found)

            def sweep() -> None:
                self._presences.sweep(connection)
                self._routing.sweep(connection)

            # First without a lock, which would keep others from writing: mostly there is nothing to do.
            if everything or self._claiming.expired(connection):
                # Bounded, for live workers may take new leases faster than all are handed back.
                for _ in range(2 + self._claiming.leased(connection) // BATCH):
                    count += connection.in_transaction(step)
            if self._presences.outdated(connection) or self._routing.unused(connection):
                connection.in_transaction(sweep)
        self._waking.wrote()
        return count

    # -- broadcast

    def broadcast(self, topic: str, payload: bytes) -> None:
        with self._writing() as connection:
            self._broadcasts.send(connection, topic, payload)
            self._waking.announce_broadcast(connection)

    def subscribe(self, topics: Sequence[str]) -> None:
        with self._errors():
            self._waking.subscribe(self._link.get(), topics)

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
                self._waking.announce(connection, queues)
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
        schema.ensure(connection, "broker", LAYOUT, TABLES)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SqlError as error:
            raise transport_error(error) from error

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction of a single command."""
        with self._errors():
            connection = self._link.get()
            with connection.transaction():
                yield connection
        self._waking.wrote()

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
                self._waking.announce(connection, {queue for insert in inserts for queue in insert.queues})

        try:
            connection.in_transaction(write)
        except SqlError as error:
            if error.kind is not Kind.DATA or len(batch) == 1:
                raise
            # One of them does not fit; which one, the database does not say.
            return [answer for publication in batch for answer in self._publish_one(connection, publication)]
        self._waking.wrote()
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


def _file_of(statements: CallersConnection) -> str | None:
    """The file a connection is to; ``None`` where it is to none, or to a server."""
    try:
        found = [str(row[2]) for row in statements.rows("PRAGMA database_list") if row[1] == "main"]
    except SqlError:
        return None
    return found[0] if found and found[0] else None


_RANK = {DELAYED: 0, READY: 1, LEASED: 2}


def _not_published(error: SqlError, publication: Publication) -> Exception:
    sentence = str(error)
    answer = PublishUnknown(sentence, [publication.task_id]) if error.committing else PublishRefused(sentence)
    answer.__cause__ = transport_error(error)
    return answer
