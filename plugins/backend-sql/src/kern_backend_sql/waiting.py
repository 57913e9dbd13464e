"""How who waits for results learns of them.

==========================  =========================================================================================
:class:`FileWaiting`        SQLite: the kernel says that the file is written to, where it can (Linux); else the file's
                            ``data_version`` is looked at. Rows are numbered as they come, so that only new ones, and
                            those known to be on the way, are looked at
:class:`AnnouncedWaiting`   PostgreSQL: ids are announced; for a Celery, which announces nothing, there is a look now
                            and then
:class:`AskingWaiting`      MariaDB and MySQL: asked, at intervals that grow with the time since something was found
==========================  =========================================================================================
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

from kern.outcome import Document
from kern.states import READY_STATES
from kern_backend_sql.writer import CHANNEL, Statements, announced
from kern_sql_engine import Connection, Database, Family, FileWatch, Link, PostgresqlConnection, SqliteConnection

#: Reads final documents among some ids.
ReadFinal = Callable[[Connection, Statements, Iterable[str]], list[Document]]

#: Seconds between two questions: shortest and longest, and the share of the time since something was found that may
#: pass between two.
ASKING = (0.002, 0.05)
ASKING_SHARE = 0.05
#: Of all time, the share that questions for thousands of ids may take.
BUSY_SHARE = 0.2
#: Seconds between two looks where results are announced, for those of a Celery.
ASK_ANYWAY = 0.5
#: New rows that are looked at one by one, beside twice as many as are waited for; more, and the ids are asked for.
FEW = 500


class Waiting:
    """What is the same for all databases. Called on the store's thread."""

    def __init__(self, database: Database, read_final: ReadFinal) -> None:
        self._read_final = read_final

    def opened(self) -> None:
        """There is a new connection: everything is to be looked at."""

    def close(self) -> None:
        """Nobody waits. Safe twice."""

    def fileno(self) -> int | None:
        """A descriptor that becomes readable when :meth:`collect` may find something."""
        return None

    def look_anyway(self) -> float | None:
        """Seconds after which to collect although the descriptor is silent."""
        return None

    def wrote(self) -> None:
        """This connection has written."""

    def seen(self, task_id: str, status: str) -> None:
        """A row was read."""

    def collect(self, connection: Connection, statements: Statements, watched: Collection[str]) -> list[Document]:
        """Final documents among *watched* that may be new. Cheap when nothing happened."""
        raise NotImplementedError


class FileWaiting(Waiting):
    """A file of SQLite."""

    def __init__(self, database: Database, read_final: ReadFinal) -> None:
        super().__init__(database, read_final)
        self._watch: FileWatch | None = None
        self._version: int | None = None
        #: Number of the newest row that was looked at.
        self._newest = 0
        #: Ids of which a row is there that is not final.
        self._on_the_way: set[str] = set()

    def opened(self) -> None:
        self.close()
        self._version = None

    def close(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def fileno(self) -> int | None:
        return self._watch.fileno() if self._watch is not None else None

    def look_anyway(self) -> float | None:
        return self._watch.look_again() if self._watch is not None else None

    def wrote(self) -> None:
        # Own changes leave the version alone.
        self._version = None

    def seen(self, task_id: str, status: str) -> None:
        if status in READY_STATES:
            self._on_the_way.discard(task_id)
        else:
            self._on_the_way.add(task_id)

    def collect(self, connection: Connection, statements: Statements, watched: Collection[str]) -> list[Document]:
        assert isinstance(connection, SqliteConnection)
        if self._watch is None:
            self._watch = connection.watch()
        if self._watch is not None:
            self._watch.drain()
        version = connection.version()
        if version == self._version:
            return []
        newest = int(connection.value(statements.newest) or 0)
        wanted: Iterable[str] = watched
        if self._version is not None and newest - self._newest <= 2 * len(watched) + FEW:
            # What was there before and not final has been seen.
            wanted = self._on_the_way.intersection(watched)
            for number, task_id, status in connection.rows(statements.newer, (self._newest,)):
                newest = max(newest, number)
                if task_id in watched:
                    wanted.add(task_id)
                    self.seen(task_id, status)
        self._version, self._newest = version, newest
        return self._read_final(connection, statements, wanted)


class AnnouncedWaiting(Waiting):
    """PostgreSQL."""

    def __init__(self, database: Database, read_final: ReadFinal) -> None:
        super().__init__(database, read_final)
        self._link = Link(database, lambda connection: None)
        #: Monotonic time of the next look at everything.
        self._look_at = 0.0

    def opened(self) -> None:
        self.close()

    def close(self) -> None:
        # What is announced to who does not listen would only pile up.
        self._link.close()

    def fileno(self) -> int | None:
        return self._listener.fileno() if self._link.connected else None

    @property
    def _listener(self) -> PostgresqlConnection:
        listener = self._link.current
        assert isinstance(listener, PostgresqlConnection)
        return listener

    def look_anyway(self) -> float | None:
        return ASK_ANYWAY

    def collect(self, connection: Connection, statements: Statements, watched: Collection[str]) -> list[Document]:
        if not self._link.connected:
            self._link.open().run(f"LISTEN {CHANNEL}")
            self._look_at = 0.0
        wanted = {task_id for _, text in self._listener.heard() for task_id in announced(text) if task_id in watched}
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + ASK_ANYWAY
            return self._read_final(connection, statements, watched)
        return self._read_final(connection, statements, wanted)


class AskingWaiting(Waiting):
    """MariaDB and MySQL."""

    def __init__(self, database: Database, read_final: ReadFinal) -> None:
        super().__init__(database, read_final)
        #: Monotonic times: no question before; the last call; something was found, or it was begun to wait.
        self._ask_at = self._called_at = self._found_at = 0.0

    def collect(self, connection: Connection, statements: Statements, watched: Collection[str]) -> list[Document]:
        now = time.monotonic()
        if now - self._called_at > 10 * ASKING[1]:
            self._ask_at, self._found_at = 0.0, now
        self._called_at = now
        if now < self._ask_at:
            return []
        found = self._read_final(connection, statements, watched)
        took = time.monotonic() - now
        if found:
            self._found_at = now
        shortest, longest = ASKING
        pause = min(longest, max(shortest, ASKING_SHARE * (now - self._found_at)))
        self._ask_at = now + max(pause, took / BUSY_SHARE)
        return found


def waiting_of(database: Database, read_final: ReadFinal) -> Waiting:
    """The one for *database*."""
    kinds: dict[Family, type[Waiting]] = {
        Family.SQLITE: FileWaiting,
        Family.POSTGRESQL: AnnouncedWaiting,
        Family.MYSQL: AskingWaiting,
    }
    return kinds[database.family](database, read_final)
