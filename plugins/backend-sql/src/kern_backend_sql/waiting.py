"""How who waits for results learns of them.

==========================  =========================================================================================
:class:`FileWaiting`        SQLite: the kernel says that the file is written to, where it can (Linux); else the file's
                            ``data_version`` is looked at. Rows are numbered as they come, so that only new ones, and
                            those known to be on the way, are looked at. Needs a connection that is kept
:class:`AnnouncedWaiting`   PostgreSQL: ids are announced; for a Celery, which announces nothing, there is a look now
                            and then
:class:`AskingWaiting`      MariaDB and MySQL, and a file with a connection for each operation: asked, at intervals
                            that grow with the time since something was found
==========================  =========================================================================================
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

from kern.outcome import Document
from kern_backend_sql.writer import CHANNEL, Statements, announced
from kern_sql_engine import Connection, Database, Family, FileWatch, Link, PostgresqlConnection, SqliteConnection

#: Reads final documents among some ids, with a statement that finds all of their rows or the final ones.
ReadFinal = Callable[[Connection, Statements, str, Iterable[str]], list[Document]]

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

    def on_the_way(self, task_id: str) -> None:
        """A row was read that holds no document to report, and may come to."""

    def collect(self, connection: Connection, statements: Statements, watched: Collection[str]) -> list[Document]:
        """Final documents among *watched* that may be new. Cheap when nothing happened."""
        raise NotImplementedError


class FileWaiting(Waiting):
    """A file of SQLite."""

    def __init__(self, database: Database, read_final: ReadFinal) -> None:
        super().__init__(database, read_final)
        self._watch: FileWatch | None = None
        #: Whose versions are compared: those of two connections have nothing to do with each other.
        self._connection: Connection | None = None
        #: The version up to which all was looked at; ``None``: everything is to be looked at.
        self._version: int | None = None
        #: Number of the newest row that was looked at.
        self._newest = 0
        #: Ids of which a row is there that was not final, until they are reported. Kept while there is a version.
        self._on_the_way: set[str] = set()

    def opened(self) -> None:
        self.close()

    def close(self) -> None:
        self._connection = self._version = None
        self._on_the_way.clear()
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

    def on_the_way(self, task_id: str) -> None:
        # Else everything is to be looked at anyway.
        if self._version is not None:
            self._on_the_way.add(task_id)

    def collect(self, connection: Connection, statements: Statements, watched: Collection[str]) -> list[Document]:
        assert isinstance(connection, SqliteConnection)
        if connection is not self._connection:
            self.close()
            self._connection = connection
        if self._watch is None:
            self._watch = connection.watch()
        if self._watch is not None:
            self._watch.drain()
        version = connection.version()
        if version == self._version:
            return []
        newest, last = int(connection.value(statements.newest) or 0), self._newest
        known, self._version, self._newest = self._version is not None, version, newest
        # Numbers begin anew where the table was made anew.
        if not known or not 0 <= newest - last <= 2 * len(watched) + FEW:
            # Also what is not final: a row keeps its number when it becomes so, and would not be looked at again.
            self._on_the_way.clear()
            return self._read_final(connection, statements, statements.read, watched)
        for number, task_id in connection.rows(statements.newer, (last,)):
            self._newest = max(self._newest, number)
            if task_id in watched:
                self._on_the_way.add(task_id)
        # Who begins to watch another reads it.
        self._on_the_way.intersection_update(watched)
        found = self._read_final(connection, statements, statements.read_final, tuple(self._on_the_way))
        self._on_the_way.difference_update(document.task_id for document in found)
        return found


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
            return self._read_final(connection, statements, statements.read_final, watched)
        return self._read_final(connection, statements, statements.read_final, wanted)


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
        found = self._read_final(connection, statements, statements.read_final, watched)
        took = time.monotonic() - now
        if found:
            self._found_at = now
        shortest, longest = ASKING
        pause = min(longest, max(shortest, ASKING_SHARE * (now - self._found_at)))
        self._ask_at = now + max(pause, took / BUSY_SHARE)
        return found


def waiting_of(database: Database, read_final: ReadFinal, keep: bool = True) -> Waiting:
    """The one for *database*.

    :param keep: whether one connection is kept, and not one made for each operation.
    """
    if database.family is Family.SQLITE and not keep:
        return AskingWaiting(database, read_final)
    kinds: dict[Family, type[Waiting]] = {
        Family.SQLITE: FileWaiting,
        Family.POSTGRESQL: AnnouncedWaiting,
        Family.MYSQL: AskingWaiting,
    }
    return kinds[database.family](database, read_final)
