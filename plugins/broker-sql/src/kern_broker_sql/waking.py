"""How a waiting worker learns that there is something to claim, or to hear.

=========================  ==========================================================================================
:class:`FileWaking`        SQLite: the kernel says that the file is written to, where it can (Linux); else the file's
                           ``data_version`` is looked at every few milliseconds, which costs microseconds
:class:`AnnouncedWaking`   PostgreSQL: each queue has a channel, listened to on a connection of its own
:class:`AskingWaking`      MariaDB and MySQL: asked for what is ready, at intervals that grow with the time since the
                           last claim that found something
=========================  ==========================================================================================

A worker is told once of what is ready, and again only after it has claimed or some time has passed: one that is busy
need not be told with each new message.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable

from kern.contracts.port import Broadcast, TransportEvent, Woken
from kern_broker_sql.claiming import Claiming
from kern_broker_sql.presence import Broadcasts
from kern_sql_engine import (
    Connection,
    Database,
    Family,
    FileWatch,
    Link,
    PostgresqlConnection,
    SqliteConnection,
    Statements,
)

BROADCAST_CHANNEL = "kern_broadcast"
#: Seconds after which a worker that did not claim what it was told of is told again.
TELL_AGAIN = 0.25
#: Seconds between two questions to a server that cannot announce: shortest and longest, and the share of the time since
#: something was found that may pass between two.
ASKING = (0.002, 0.05)
ASKING_SHARE = 0.05
#: Seconds between two looks where nothing is expected: a descriptor may be silent for reasons we do not know.
LOOK_ANYWAY = 1.0


class Waking:
    """What is the same for all databases. Called with the transport's connection, on its thread."""

    def __init__(self, database: Database, claiming: Claiming, broadcasts: Broadcasts) -> None:
        self._claiming = claiming
        self._broadcasts = broadcasts
        self.queues: tuple[str, ...] = ()
        self.topics: frozenset[str] = frozenset()
        #: The latest broadcast read; kept when the connection is made anew.
        self._heard: int | None = None
        #: Events that came to light by the way.
        self._pending: list[TransportEvent] = []
        #: Monotonic time before which a worker is not told again.
        self._tell_at = 0.0
        #: Seconds since the epoch at which the worker knows that something is due.
        self._known_due: float | None = None

    # -- life

    def opened(self, connection: Connection) -> None:
        """There is a new connection."""
        self._tell_at = 0.0

    def close(self) -> None:
        """Safe twice."""

    def fileno(self) -> int | None:
        """A descriptor that becomes readable when :meth:`collect` may find something."""
        return None

    def look_anyway(self) -> float | None:
        """Seconds after which to collect although the descriptor is silent."""
        return LOOK_ANYWAY

    # -- what is to be told

    def listen(self, connection: Connection, queues: Iterable[str], topics: Iterable[str]) -> None:
        """From now on tell of these."""
        self.queues, self.topics = tuple(queues), frozenset(topics)
        if self.topics and self._heard is None:
            self._heard = self._broadcasts.last(connection)

    def subscribe(self, connection: Connection, topics: Iterable[str]) -> None:
        """Other topics. What was said before to who did not listen is for nobody."""
        if self.topics:
            self._pending = self._new_broadcasts(connection)
        else:
            self._heard = None
        self.listen(connection, self.queues, topics)

    def claiming(self) -> None:
        """A claim is about to look by itself."""
        self._tell_at = 0.0

    def claimed(self, found: bool, next_due: float | None) -> None:
        """A claim found something or not, and when (in seconds) the next delayed message is due."""
        self._known_due = None if next_due is None else time.time() + next_due

    def wrote(self) -> None:
        """This connection has changed something that may be to claim."""

    def announce(self, statements: Statements, queues: Iterable[str]) -> None:
        """In a transaction: with its commit there is something to claim from *queues*, or a new due time."""

    def announce_broadcast(self, statements: Statements) -> None:
        """In a transaction: with its commit there is something to hear."""

    # -- telling

    def collect(self, connection: Connection) -> list[TransportEvent]:
        """What is to be told now. Cheap."""
        raise NotImplementedError

    def _something_ready(self, connection: Connection) -> list[TransportEvent]:
        if not self.queues:
            return []
        woken = frozenset(self._claiming.ready(connection, self.queues))
        if not woken:
            until = self._claiming.next_due(connection, self.queues)
            if until is None:
                return []
            if self._known_due is not None and time.time() + until >= self._known_due - 0.001:
                return []
            # It is to wait less long than it thinks.
            woken = frozenset(self.queues)
        self._tell_at = time.monotonic() + TELL_AGAIN
        return [Woken(woken)]

    def _new_broadcasts(self, connection: Connection) -> list[TransportEvent]:
        events, self._pending = self._pending, []
        for number, topic, payload in self._broadcasts.after(connection, self._heard or 0):
            self._heard = number
            if topic in self.topics:
                events.append(Broadcast(topic, payload))
        return events


class FileWaking(Waking):
    """A file of SQLite."""

    def __init__(self, database: Database, claiming: Claiming, broadcasts: Broadcasts) -> None:
        super().__init__(database, claiming, broadcasts)
        self._watch: FileWatch | None = None
        self._version: int | None = None
        #: Something may have come that nobody looked at.
        self._changed = False

    def opened(self, connection: Connection) -> None:
        super().opened(connection)
        self.close()
        self._version, self._changed = None, True

    def close(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def listen(self, connection: Connection, queues: Iterable[str], topics: Iterable[str]) -> None:
        super().listen(connection, queues, topics)
        if self._watch is None and (self.queues or self.topics) and isinstance(connection, SqliteConnection):
            self._watch = connection.watch()

    def fileno(self) -> int | None:
        return self._watch.fileno() if self._watch is not None else None

    def look_anyway(self) -> float | None:
        again = self._watch.look_again() if self._watch is not None else LOOK_ANYWAY
        return max(0.0, min(again, self._tell_at - time.monotonic())) if self._changed else again

    def wrote(self) -> None:
        # Own changes leave the version alone.
        self._changed = True

    def collect(self, connection: Connection) -> list[TransportEvent]:
        assert isinstance(connection, SqliteConnection)
        if self._watch is not None:
            self._watch.drain()
        version = connection.version()
        if version != self._version:
            self._version, self._changed = version, True
        if not self._changed:
            return []
        events = self._new_broadcasts(connection) if self.topics else []
        if time.monotonic() >= self._tell_at:
            self._changed = False
            events += self._something_ready(connection)
        return events


class AnnouncedWaking(Waking):
    """PostgreSQL."""

    def __init__(self, database: Database, claiming: Claiming, broadcasts: Broadcasts) -> None:
        super().__init__(database, claiming, broadcasts)
        self._notify = database.dialect.sql("SELECT pg_notify(channel, '') FROM unnest(?::text[]) AS channel")
        self._link = Link(database, lambda connection: None)
        self._channels: set[str] = set()

    def close(self) -> None:
        self._link.close()
        self._channels.clear()

    def fileno(self) -> int | None:
        return self._listener.fileno() if self._link.connected else None

    @property
    def _listener(self) -> PostgresqlConnection:
        listener = self._link.current
        assert isinstance(listener, PostgresqlConnection)
        return listener

    def listen(self, connection: Connection, queues: Iterable[str], topics: Iterable[str]) -> None:
        super().listen(connection, queues, topics)
        wanted = {channel(queue) for queue in self.queues}
        if self.topics:
            wanted.add(BROADCAST_CHANNEL)
        if wanted == self._channels:
            return
        if not self._link.connected:
            self._link.open()
        for name in wanted - self._channels:
            self._listener.run(f'LISTEN "{name}"')
        for name in self._channels - wanted:
            self._listener.run(f'UNLISTEN "{name}"')
        self._channels = wanted

    def announce(self, statements: Statements, queues: Iterable[str]) -> None:
        statements.rows(self._notify, (sorted(map(channel, queues)),))

    def announce_broadcast(self, statements: Statements) -> None:
        statements.rows(self._notify, ([BROADCAST_CHANNEL],))

    def collect(self, connection: Connection) -> list[TransportEvent]:
        channels = {name for name, _ in self._listener.heard()} if self._link.connected else set()
        events: list[TransportEvent] = []
        if BROADCAST_CHANNEL in channels:
            events += self._new_broadcasts(connection)
        woken = frozenset(queue for queue in self.queues if channel(queue) in channels)
        if woken:
            events.append(Woken(woken))
        return events


class AskingWaking(Waking):
    """MariaDB and MySQL."""

    def __init__(self, database: Database, claiming: Claiming, broadcasts: Broadcasts) -> None:
        super().__init__(database, claiming, broadcasts)
        #: Monotonic times: no question before; something was found.
        self._ask_at = self._found_at = 0.0

    def claimed(self, found: bool, next_due: float | None) -> None:
        super().claimed(found, next_due)
        self._ask_at = 0.0
        if found:
            self._found_at = time.monotonic()

    def collect(self, connection: Connection) -> list[TransportEvent]:
        now = time.monotonic()
        if now < self._ask_at:
            return []
        events = self._new_broadcasts(connection) if self.topics else []
        if now >= self._tell_at:
            events += self._something_ready(connection)
        if events:
            self._found_at = now
        shortest, longest = ASKING
        self._ask_at = now + min(longest, max(shortest, ASKING_SHARE * (now - self._found_at)))
        return events


def waking_of(database: Database, claiming: Claiming, broadcasts: Broadcasts) -> Waking:
    """The one for *database*."""
    kinds: dict[Family, type[Waking]] = {
        Family.SQLITE: FileWaking,
        Family.POSTGRESQL: AnnouncedWaking,
        Family.MYSQL: AskingWaking,
    }
    return kinds[database.family](database, claiming, broadcasts)


def channel(queue: str) -> str:
    """The channel of a queue; names of channels are short."""
    return f"kern_{hashlib.sha256(queue.encode()).hexdigest()[:32]}"
