"""Connections: the same few verbs over sqlite3, psycopg and PyMySQL.

Outside a transaction each statement is one. Errors are :class:`~kern_sql_engine.failures.SqlError`. A connection
belongs to the process that made it: after a fork the child must make its own, and :meth:`Connection.close` in the child
lets go of the parent's without a word on the wire.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from kern_sql_engine.dialects import Dialect
from kern_sql_engine.failures import Kind, SqlError, failure
from kern_sql_engine.filewatch import FileWatch, watch
from kern_sql_engine.urls import DatabaseUrl

T = TypeVar("T")
Row = tuple[Any, ...]

#: Attempts for a transaction that the database undid in favour of another.
_ATTEMPTS = 5

#: Connections of a parent process: ending them here would end them there.
_inherited: list[Any] = []


class Statements(ABC):
    """Somewhere statements can be run: an own connection, or a caller's."""

    dialect: Dialect

    @abstractmethod
    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run a statement and fetch all its rows."""

    @abstractmethod
    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement; how many rows it changed."""

    @abstractmethod
    def many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        """Run a statement once for each of *parameters*."""

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first column of the first row; ``None`` without one."""
        found = self.rows(sql, parameters)
        return found[0][0] if found else None


class Connection(Statements):
    """A connection of our own."""

    #: Classes of errors its library raises.
    errors: tuple[type[BaseException], ...]

    def __init__(self, raw: Any, database: DatabaseUrl, dialect: Dialect) -> None:
        self.raw = raw
        self.database = database
        self.dialect = dialect
        #: The largest statement the server takes, in bytes; ``None``: no limit of its own.
        self.largest: int | None = None
        self._pid = os.getpid()

    @property
    def ours(self) -> bool:
        """This process made it."""
        return self._pid == os.getpid()

    def failed(self, error: BaseException, committing: bool = False) -> SqlError:
        return failure(error, self.database, committing=committing)

    @abstractmethod
    def begin(self) -> None:
        """Start a transaction that is going to write."""

    @abstractmethod
    def commit(self) -> None: ...

    @abstractmethod
    def rollback(self) -> None:
        """Undo; nothing happens outside a transaction. Must not raise."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction that is going to write; an exception undoes it."""
        self.begin()
        try:
            yield
        except BaseException:
            self.rollback()
            raise
        self.commit()

    def in_transaction(self, write: Callable[[], T]) -> T:
        """What *write* answers, done in a transaction; again if the database undid it in favour of another."""
        for attempt in range(_ATTEMPTS):
            try:
                with self.transaction():
                    return write()
            except SqlError as error:
                if error.kind is not Kind.CONFLICT or attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(random.uniform(0, 0.02 * 2**attempt))
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Safe twice; does not raise."""
        if not self.ours:
            self.disown()
            return
        try:
            self.raw.close()
        except self.errors:
            pass

    def disown(self) -> None:
        """Let go of a connection another process made."""
        if self.raw is not None:
            _inherited.append(self.raw)
            self.raw = None


class SqliteConnection(Connection):
    """One file, several processes: writers take turns, readers wait for nobody."""

    raw: sqlite3.Connection
    errors = (sqlite3.Error,)

    #: Seconds between two attempts to become the writer: shortest and longest. SQLite itself would wait up to 100 ms.
    _PAUSES = (0.0002, 0.005)

    def __init__(self, raw: sqlite3.Connection, database: DatabaseUrl, dialect: Dialect, patience: float) -> None:
        super().__init__(raw, database, dialect)
        #: Seconds to wait for other writers.
        self.patience = patience

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        try:
            return self.raw.execute(sql, parameters).fetchall()
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            raise self.failed(error) from error

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        try:
            return self.raw.execute(sql, parameters).rowcount
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            raise self.failed(error) from error

    def many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        try:
            self.raw.executemany(sql, parameters)
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            raise self.failed(error) from error

    def begin(self) -> None:
        execute = self.raw.execute
        try:
            execute("PRAGMA busy_timeout = 0")
            try:
                self._become_writer()
            finally:
                execute(f"PRAGMA busy_timeout = {int(self.patience * 1000)}")
        except sqlite3.Error as error:
            raise self.failed(error) from error

    def _become_writer(self) -> None:
        deadline: float | None = None
        pause, longest = self._PAUSES
        while True:
            try:
                self.raw.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                now = time.monotonic()
                if deadline is None:
                    deadline = now + self.patience
                if now >= deadline:
                    raise
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(longest, pause * 1.5)

    def commit(self) -> None:
        try:
            self.raw.execute("COMMIT")
        except sqlite3.Error as error:
            self.rollback()
            raise self.failed(error, committing=True) from error

    def rollback(self) -> None:
        try:
            # Some errors have undone the transaction already.
            if self.raw.in_transaction:
                self.raw.execute("ROLLBACK")
        except sqlite3.Error:
            pass

    def version(self) -> int:
        """Changes whenever another connection has committed, never by what this one does."""
        return int(self.rows("PRAGMA data_version")[0][0])

    def watch(self) -> FileWatch | None:
        """A descriptor that becomes readable when any connection, also this one, writes; ``None`` where the system has
        none. It may be readable a moment before the commit is to be seen."""
        return watch(f"{self.database.path}-wal")


class _ServerConnection(Connection):
    """What psycopg and PyMySQL have in common."""

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        try:
            with self.raw.cursor() as cursor:
                cursor.execute(sql, parameters)
                return list(cursor.fetchall())
        except self.errors as error:
            raise self.failed(error) from error

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        try:
            with self.raw.cursor() as cursor:
                cursor.execute(sql, parameters)
                return int(cursor.rowcount)
        except self.errors as error:
            raise self.failed(error) from error

    def many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        try:
            with self.raw.cursor() as cursor:
                cursor.executemany(sql, parameters)
        except self.errors as error:
            raise self.failed(error) from error

    def begin(self) -> None:
        self.run("BEGIN")

    def commit(self) -> None:
        try:
            with self.raw.cursor() as cursor:
                cursor.execute("COMMIT")
        except self.errors as error:
            raise self.failed(error, committing=True) from error

    def rollback(self) -> None:
        try:
            with self.raw.cursor() as cursor:
                cursor.execute("ROLLBACK")
        except self.errors:
            pass


class PostgresqlConnection(_ServerConnection):
    """psycopg 3 in autocommit mode: transactions are begun and ended in so many words."""

    def __init__(self, raw: Any, database: DatabaseUrl, dialect: Dialect) -> None:
        import psycopg

        super().__init__(raw, database, dialect)
        self.errors = (psycopg.Error, UnicodeEncodeError, OSError)

    def many_rows(self, sql: str, parameters: Sequence[Sequence[Any]]) -> list[Row]:
        """Run a statement once for each of *parameters*, and fetch all rows it returns."""
        try:
            with self.raw.cursor() as cursor:
                cursor.executemany(sql, parameters, returning=True)
                found = list(cursor.fetchall())
                while cursor.nextset():
                    found += cursor.fetchall()
                return found
        except self.errors as error:
            raise self.failed(error) from error

    def fileno(self) -> int:
        """The socket: readable when the server has something to say."""
        return int(self.raw.fileno())

    def heard(self) -> list[tuple[str, str]]:
        """What was announced since the last call, as channel and payload. Returns at once.

        :raises SqlError: the connection is gone.
        """
        try:
            wire = self.raw.pgconn
            wire.consume_input()
            found = []
            while (notice := wire.notifies()) is not None:
                found.append((notice.relname.decode(), notice.extra.decode()))
            return found
        except self.errors as error:
            raise self.failed(error) from error


class MysqlConnection(_ServerConnection):
    """PyMySQL in autocommit mode."""

    #: Whether it is MariaDB, and not MySQL.
    mariadb = True
    #: Compares byte by byte and does not pad with spaces.
    exact_collation = "utf8mb4_nopad_bin"

    def __init__(self, raw: Any, database: DatabaseUrl, dialect: Dialect) -> None:
        import pymysql

        super().__init__(raw, database, dialect)
        # PyMySQL's own state is None where the connection broke in the middle of a statement.
        self.errors = (pymysql.MySQLError, UnicodeEncodeError, OSError, AttributeError)

    def many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        head, values, rest = sql.partition(" VALUES ")
        if not values or not parameters:
            super().many(sql, parameters)
            return
        # PyMySQL makes one statement of several rows only where each value is a parameter.
        end = _closing(rest)
        row, tail = rest[:end], rest[end:]
        limit = (self.largest or _LARGEST) // 2
        try:
            with self.raw.cursor() as cursor:
                chunk: list[str] = []
                size = 0
                for each in parameters:
                    written = cursor.mogrify(row, each)
                    if chunk and size + len(written) > limit:
                        cursor.execute(f"{head} VALUES {','.join(chunk)}{tail}")
                        chunk, size = [], 0
                    chunk.append(written)
                    # A character has up to four bytes.
                    size += len(written) if written.isascii() else 4 * len(written)
                cursor.execute(f"{head} VALUES {','.join(chunk)}{tail}")
        except self.errors as error:
            raise self.failed(error) from error


#: Bytes of a statement that every server takes.
_LARGEST = 1_000_000


def _closing(text: str) -> int:
    """Where the bracket that opens *text* has been closed."""
    depth = 0
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return position + 1
    raise ValueError(f"no closing bracket in {text!r}")


class CallersConnection(Statements):
    """A connection of the caller's, inside the transaction that is open on it: nothing is begun, committed or closed.

    :param connection: SQLAlchemy's ``Connection`` or ``Session`` (also scoped), or one of sqlite3, psycopg or PyMySQL.
    :raises TypeError: none of these.
    """

    def __init__(self, connection: Any, database: DatabaseUrl, dialect: Dialect) -> None:
        self.database = database
        self.dialect = dialect
        if hasattr(connection, "exec_driver_sql"):
            self._run = connection.exec_driver_sql
        elif hasattr(connection, "get_bind") and callable(getattr(connection, "connection", None)):
            self._run = connection.connection().exec_driver_sql
        elif callable(getattr(connection, "cursor", None)):
            self._run = self._on_cursor(connection)
        else:
            raise TypeError(
                f"a {type(connection).__module__}.{type(connection).__qualname__} is no connection to publish on; "
                "give SQLAlchemy's Connection or Session, or one of sqlite3, psycopg or PyMySQL"
            )

    @staticmethod
    def _on_cursor(connection: Any) -> Any:
        def run(sql: str, parameters: Any) -> Any:
            cursor = connection.cursor()
            if isinstance(parameters, list):
                cursor.executemany(sql, parameters)
            else:
                cursor.execute(sql, parameters)
            return cursor

        return run

    def _guarded(self, sql: str, parameters: Any) -> Any:
        try:
            return self._run(sql, parameters)
        except Exception as error:
            # SQLAlchemy's error holds the library's.
            raise failure(getattr(error, "orig", None) or error, self.database) from error

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return [tuple(row) for row in self._guarded(sql, tuple(parameters)).fetchall()]

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return int(self._guarded(sql, tuple(parameters)).rowcount)

    def many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        if parameters:
            self._guarded(sql, [tuple(row) for row in parameters])
