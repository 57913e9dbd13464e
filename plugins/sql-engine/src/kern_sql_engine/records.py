"""Records in a table, for either driver."""

from __future__ import annotations

import os
import random
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kern import log
from kern.contracts.records import Record, Records
from kern.errors import KernError
from kern_sql_engine import schema
from kern_sql_engine.connections import Connection, PostgresqlConnection, SqliteConnection
from kern_sql_engine.database import Database
from kern_sql_engine.dialects import Dialect
from kern_sql_engine.failures import SqlError

if TYPE_CHECKING:
    from sqlalchemy import MetaData

T = TypeVar("T")
logger = log.get_logger("kern_sql_engine.records")

#: Raised when the table's layout changes.
LAYOUT = 1
#: Connections kept for the next call.
IDLE_CONNECTIONS = 4
#: Seconds between two looks of who watches, where nothing announces changes.
LOOK_EVERY = 0.25
#: Seconds between two looks where changes are announced, for those written by who cannot announce.
LOOK_ANYWAY = 5.0
CHANNEL = "kern_record"
#: The share of writes that delete what has expired, of whatever kind.
SWEEP_SHARE = 0.01


def _describe(connection: Connection) -> MetaData:
    from sqlalchemy import BigInteger, Column, Double, Index, MetaData, Table

    made = MetaData()
    record = Table(
        "kern_record",
        made,
        Column("kind", schema.name_type(connection), primary_key=True),
        Column("name", schema.name_type(connection), primary_key=True),
        Column("content", schema.bytes_type(), nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("expires", Double),
    )
    Index("kern_record_expires", record.c.expires)
    return made


#: The table ``kern_record``.
TABLES = schema.Tables(_describe, Path(__file__).with_name("records.sql"))


class _Sql:
    """The statements."""

    def __init__(self, dialect: Dialect) -> None:
        columns = ["kind", "name", "content", "version", "expires"]
        alive = "(expires IS NULL OR expires > {now})"
        sql = dialect.sql
        self.now = sql("SELECT {now}")
        self.get = sql(f"SELECT content, version, expires FROM kern_record WHERE kind = ? AND name = ? AND {alive}")
        self.there = sql("SELECT version, expires <= {now} FROM kern_record WHERE kind = ? AND name = ? {lock}")
        self.put = sql(dialect.insert("kern_record", columns, ["kind", "name"], keep=False))
        self.add = sql(dialect.insert("kern_record", columns, ["kind", "name"]))
        self.bury = sql("DELETE FROM kern_record WHERE kind = ? AND name = ? AND expires <= {now}")
        self.swap = sql(
            "UPDATE kern_record SET content = ?, version = ?, expires = ? "
            f"WHERE kind = ? AND name = ? AND version = ? AND {alive}"
        )
        self.expire = sql(f"UPDATE kern_record SET expires = ? WHERE kind = ? AND name = ? AND {alive}")
        self.delete = sql(f"DELETE FROM kern_record WHERE kind = ? AND name = ? AND {alive}")
        self.delete_version = sql(f"DELETE FROM kern_record WHERE kind = ? AND name = ? AND version = ? AND {alive}")
        self.scan = sql(
            "SELECT name, content, version, expires FROM kern_record "
            f"WHERE kind = ? AND name >= ? AND {alive} ORDER BY name"
        )
        self.versions = sql(f"SELECT name, version FROM kern_record WHERE kind = ? AND {alive}")
        self.sweep = sql("DELETE FROM kern_record WHERE expires <= {now}")
        self.notify = sql("SELECT pg_notify(?, ?)")


class SqlRecords(Records):
    """Small shared facts. Each call has a connection to itself.

    :param error: makes the error of the driver's contract out of a :class:`SqlError`.
    """

    def __init__(self, database: Database, error: Callable[[SqlError], KernError]) -> None:
        self.database = database
        self._error = error
        self._sql = _Sql(database.dialect)
        self._idle: deque[Connection] = deque()
        self._pid = os.getpid()
        self._watcher: _Watcher | None = None
        self._lock = threading.Lock()

    # -- reading

    def get(self, kind: str, key: str) -> Record | None:
        with self._connection() as connection:
            found = connection.rows(self._sql.get, (kind, key))
        return Record(kind, key, bytes(found[0][0]), int(found[0][1]), found[0][2]) if found else None

    def scan(self, kind: str, prefix: str = "") -> Iterator[Record]:
        with self._connection() as connection:
            found = connection.rows(self._sql.scan, (kind, prefix))
        records = [
            Record(kind, name, bytes(content), int(version), expires)
            for name, content, version, expires in found
            if name.startswith(prefix)
        ]
        # Databases differ in the order of letters.
        return iter(sorted(records, key=lambda record: record.key))

    # -- writing

    def put(self, kind: str, key: str, value: bytes, ttl: float | None = None) -> Record:
        def write(connection: Connection) -> Record:
            record = self._record(connection, kind, key, value, ttl)
            connection.run(self._sql.put, _row(record))
            return record

        record = self._write(kind, key, write)
        assert record is not None
        return record

    def put_if_absent(self, kind: str, key: str, value: bytes, ttl: float | None = None) -> Record | None:
        def write(connection: Connection) -> Record | None:
            record = self._record(connection, kind, key, value, ttl)
            connection.run(self._sql.bury, (kind, key))
            connection.run(self._sql.add, _row(record))
            # The version tells whose row is there: counts of changed rows differ between databases.
            there = connection.rows(self._sql.there, (kind, key))
            return record if there and int(there[0][0]) == record.version else None

        return self._write(kind, key, write)

    def compare_and_set(self, record: Record, value: bytes, ttl: float | None = None) -> Record | None:
        def write(connection: Connection) -> Record | None:
            new = self._record(connection, record.kind, record.key, value, ttl)
            changed = connection.run(
                self._sql.swap, (new.value, new.version, new.expires, record.kind, record.key, record.version)
            )
            return new if changed else None

        return self._write(record.kind, record.key, write)

    def expire(self, kind: str, key: str, ttl: float | None) -> bool:
        def write(connection: Connection) -> bool:
            expires = None if ttl is None else float(connection.value(self._sql.now)) + ttl
            return connection.run(self._sql.expire, (expires, kind, key)) > 0

        return bool(self._write(kind, key, write))

    def delete(self, kind: str, key: str, version: int | None = None) -> bool:
        def write(connection: Connection) -> bool:
            if version is None:
                return connection.run(self._sql.delete, (kind, key)) > 0
            return connection.run(self._sql.delete_version, (kind, key, version)) > 0

        return bool(self._write(kind, key, write))

    # -- watching

    def watch(self, kind: str, callback: Callable[[str], None]) -> Callable[[], None]:
        known = self.snapshot(kind)
        with self._lock:
            if self._watcher is None or self._watcher.ended:
                self._watcher = _Watcher(self)
                self._watcher.start()
            watcher = self._watcher
            token = watcher.add(kind, callback, known)

        def end() -> None:
            with self._lock:
                watcher.remove(token)

        return end

    def close(self) -> None:
        """End the connections kept for the next call, which makes new ones. Who watches goes on, and ends with his
        watch."""
        while self._idle:
            self._idle.popleft().close()

    # -- inside

    def _record(self, connection: Connection, kind: str, key: str, value: bytes, ttl: float | None) -> Record:
        expires = None if ttl is None else float(connection.value(self._sql.now)) + ttl
        # Random and not counted: a key that was deleted and written again must not repeat a version.
        return Record(kind, key, bytes(value), random.SystemRandom().getrandbits(62), expires)

    def _write(self, kind: str, key: str, write: Callable[[Connection], T]) -> T:
        _check_names(kind, key)
        with self._connection() as connection:
            if random.random() < SWEEP_SHARE:
                connection.run(self._sql.sweep)

            def write_and_tell() -> T:
                answer = write(connection)
                if answer and self.database.dialect.notifies:
                    connection.rows(self._sql.notify, (CHANNEL, kind))
                return answer

            return connection.in_transaction(write_and_tell)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        try:
            connection = self._take()
            try:
                yield connection
            except SqlError as error:
                if error.lost:
                    connection.close()
                else:
                    self._give(connection)
                raise
            except BaseException:
                connection.close()
                raise
            self._give(connection)
        except SqlError as error:
            raise self._error(error) from error

    def _take(self) -> Connection:
        if self._pid != os.getpid():
            # A forked child: the parent's connections are not ours to use or end.
            for connection in self._idle:
                connection.disown()
            self._idle = deque()
            self._pid, self._watcher, self._lock = os.getpid(), None, threading.Lock()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self.connect()
            if isinstance(connection, SqliteConnection):
                return connection
            try:
                connection.rows("SELECT 1")
                return connection
            except SqlError:
                connection.close()

    def _give(self, connection: Connection) -> None:
        if len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()

    def connect(self) -> Connection:
        """A new connection to tables that are there.

        :raises SqlError: the database cannot be used.
        """
        connection = self.database.connect()
        try:
            schema.ensure(connection, "records", LAYOUT, TABLES)
        except BaseException:
            connection.close()
            raise
        return connection

    def snapshot(self, kind: str) -> dict[str, int]:
        """The version of each record of *kind*, on a connection of its own."""
        with self._connection() as connection:
            return self.versions(connection, kind)

    def versions(self, connection: Connection, kind: str) -> dict[str, int]:
        """The version of each record of *kind*."""
        return {name: int(version) for name, version in connection.rows(self._sql.versions, (kind,))}


def _row(record: Record) -> tuple[str, str, bytes, int, float | None]:
    return record.kind, record.key, record.value, record.version, record.expires


def _check_names(kind: str, key: str) -> None:
    for what, name in (("kind", kind), ("key", key)):
        if len(name) > schema.NAME_LENGTH or "\0" in name:
            raise ValueError(
                f"the {what} of a record has at most {schema.NAME_LENGTH} characters and no NUL: {name[:40]!r}…"
            )


class _Watcher(threading.Thread):
    """Compares versions again and again, as soon as something may have changed."""

    def __init__(self, records: SqlRecords) -> None:
        super().__init__(name="kern records", daemon=True)
        self._records = records
        self._callbacks: dict[object, tuple[str, Callable[[str], None]]] = {}
        self._known: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()
        self._reader, self._writer = os.pipe()
        self._ended = False

    @property
    def ended(self) -> bool:
        return self._ended

    def add(self, kind: str, callback: Callable[[str], None], known: dict[str, int]) -> object:
        token = object()
        with self._lock:
            self._known.setdefault(kind, known)
            self._callbacks[token] = (kind, callback)
        return token

    def remove(self, token: object) -> None:
        """Safe twice; with the last one it ends."""
        with self._lock:
            self._callbacks.pop(token, None)
            if self._callbacks or self._ended:
                return
            self._ended = True
        os.write(self._writer, b"\0")

    def run(self) -> None:
        connection: Connection | None = None
        while not self._ended:
            try:
                if connection is None:
                    connection = self._records.connect()
                    if isinstance(connection, PostgresqlConnection):
                        connection.run(f"LISTEN {CHANNEL}")
                # Read first: what changes while looking is looked at again.
                version = connection.version() if isinstance(connection, SqliteConnection) else None
                self._look(connection)
                self._wait(connection, version)
            except SqlError as error:
                logger.debug("watching records was interrupted", error=str(error))
                if connection is not None:
                    connection.close()
                    connection = None
                select.select([self._reader], [], [], 1.0)
        if connection is not None:
            connection.close()
        os.close(self._reader)
        os.close(self._writer)

    def _look(self, connection: Connection) -> None:
        with self._lock:
            callbacks = list(self._callbacks.values())
        for kind in {kind for kind, _ in callbacks}:
            now = self._records.versions(connection, kind)
            before = self._known.get(kind, {})
            self._known[kind] = now
            changed = {key for key, version in now.items() if before.get(key) != version} | (before.keys() - now.keys())
            for key in changed:
                for its_kind, callback in callbacks:
                    if its_kind == kind:
                        self._tell(callback, key)

    def _tell(self, callback: Callable[[str], None], key: str) -> None:
        try:
            callback(key)
        except Exception:
            logger.exception("a watcher of records failed", key=key)

    def _wait(self, connection: Connection, version: int | None) -> None:
        """Until something may have changed since the file was at *version*."""
        if isinstance(connection, PostgresqlConnection):
            select.select([connection.fileno(), self._reader], [], [], LOOK_ANYWAY)
            connection.heard()
            return
        if not isinstance(connection, SqliteConnection):
            select.select([self._reader], [], [], LOOK_EVERY)
            return
        until = time.monotonic() + LOOK_ANYWAY
        while connection.version() == version and time.monotonic() < until:
            if select.select([self._reader], [], [], LOOK_EVERY / 10)[0]:
                return
