"""A database: its URL, its dialect, and new connections to it."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kern.errors import ImproperlyConfigured, PluginMissing
from kern_sql_engine.connections import (
    Connection,
    MysqlConnection,
    PostgresqlConnection,
    SqliteConnection,
)
from kern_sql_engine.dialects import DIALECTS, Dialect
from kern_sql_engine.failures import Kind, SqlError, failure
from kern_sql_engine.urls import DatabaseUrl, Family, parse

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

#: Seconds to wait for a server to answer a connection attempt, where the URL does not say.
CONNECT_TIMEOUT = 4
#: Seconds to wait for other writers of a file, and for locks of a server.
PATIENCE = 5.0
#: Oldest servers that skip locked rows.
_OLDEST = {"MariaDB": (10, 6), "MySQL": (8, 0)}


class Database:
    """Where messages and results are.

    :param url: see :mod:`kern_sql_engine.urls`.
    :param needed_by: the distribution that asks, for the message that names what to install.
    :param patience: seconds to wait for locks others hold.
    :raises ImproperlyConfigured: the URL names no database that kern knows.
    :raises PluginMissing: the database's library is not installed.
    """

    def __init__(self, url: str, needed_by: str = "kern-sql-engine", patience: float = PATIENCE) -> None:
        self.url: DatabaseUrl = parse(url)
        self.dialect: Dialect = DIALECTS[self.url.family]
        self.patience = patience
        module, extra = _LIBRARIES.get(self.family, ("sqlite3", ""))
        if find_spec(module) is None:
            raise PluginMissing(
                f"{self.url.masked} needs the package {module}; install {needed_by}[{extra}]", f"{needed_by}[{extra}]"
            )

    @property
    def family(self) -> Family:
        return self.url.family

    @property
    def identity(self) -> str:
        """The same string for every spelling of the same database and user."""
        return self.url.identity

    def connect(self, engine: Engine | None = None) -> Connection:
        """A new connection.

        :param engine: take it from this SQLAlchemy engine, made by :meth:`engine`.
        :raises SqlError: the database cannot be used.
        """
        try:
            raw = self._raw(engine)
        except Exception as error:
            # SQLAlchemy's error holds the library's.
            raise failure(getattr(error, "orig", None) or error, self.url, connecting=True) from error
        return self._prepared(raw)

    def engine(self, **options: Any) -> Engine:
        """A SQLAlchemy engine for it.

        :param options: as ``sqlalchemy.create_engine`` takes them.
        :raises ImproperlyConfigured: an option that SQLAlchemy does not take.
        """
        from sqlalchemy import create_engine
        from sqlalchemy.engine import URL
        from sqlalchemy.exc import ArgumentError

        url = self.url.url or URL.create("sqlite", database=self.url.path)
        try:
            return create_engine(url, **options)
        except (TypeError, ArgumentError) as error:
            raise ImproperlyConfigured(f"setting 'database_engine_options': {error}") from error

    # -- inside

    def _raw(self, engine: Engine | None) -> Any:
        if engine is not None:
            # Taken out of the pool's books: it is ours to close, and never goes back.
            fairy = engine.raw_connection()
            raw = fairy.driver_connection
            fairy.detach()
            return raw
        if self.family is Family.SQLITE:
            return sqlite3.connect(
                self.url.path,
                timeout=self.patience,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
        url = self.url.url
        assert url is not None
        arguments, keywords = url.get_dialect()().create_connect_args(url)
        if self.family is Family.POSTGRESQL:
            import psycopg

            return psycopg.connect(*arguments, **{**_KEEPALIVE, "connect_timeout": CONNECT_TIMEOUT, **keywords})
        import pymysql

        return pymysql.connect(*arguments, **{"connect_timeout": CONNECT_TIMEOUT, "charset": "utf8mb4", **keywords})

    def _prepared(self, raw: Any) -> Connection:
        connection: Connection
        if self.family is Family.SQLITE:
            connection = SqliteConnection(raw, self.url, self.dialect, self.patience)
            prepare = self._prepare_sqlite
        elif self.family is Family.POSTGRESQL:
            connection = PostgresqlConnection(raw, self.url, self.dialect)
            prepare = self._prepare_postgresql
        else:
            connection = MysqlConnection(raw, self.url, self.dialect)
            prepare = self._prepare_mysql
        try:
            prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare_sqlite(self, connection: Connection) -> None:
        raw: sqlite3.Connection = connection.raw
        raw.isolation_level = None
        raw.create_function("kern_now", 0, time.time)
        connection.run(f"PRAGMA busy_timeout = {int(self.patience * 1000)}")
        self._write_ahead(connection)
        # Confirmed means on the disk: each commit waits for it.
        connection.run("PRAGMA synchronous = FULL")
        connection.run("PRAGMA foreign_keys = OFF")

    def _write_ahead(self, connection: Connection) -> None:
        """Readers and the writer out of each other's way. Stays with the file.

        Changing the mode needs the file alone, and SQLite does not wait for that: of several processes that open a new
        file at once all but one are told that it is locked.
        """
        deadline = time.monotonic() + self.patience
        while True:
            try:
                if str(connection.value("PRAGMA journal_mode")).lower() == "wal":
                    return
                connection.run("PRAGMA journal_mode = WAL")
                return
            except SqlError as error:
                if error.kind is not Kind.BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.002)

    def _prepare_postgresql(self, connection: Connection) -> None:
        raw = connection.raw
        with _translated(connection):
            raw.autocommit = True
        connection.run(f"SET lock_timeout = {int(self.patience * 1000)}")

    def _prepare_mysql(self, connection: Connection) -> None:
        raw = connection.raw
        with _translated(connection):
            raw.autocommit(True)
        connection.run(
            "SET SESSION time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', "
            f"innodb_lock_wait_timeout = {max(1, int(self.patience))}"
        )
        connection.run("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        version, packet = connection.rows("SELECT VERSION(), @@max_allowed_packet")[0]
        connection.largest = int(packet)
        server = "MariaDB" if "mariadb" in str(version).lower() else "MySQL"
        if server == "MySQL" and isinstance(connection, MysqlConnection):
            connection.mariadb, connection.exact_collation = False, "utf8mb4_0900_bin"
        numbers = tuple(int(word) for word in str(version).split("-")[0].split(".")[:2] if word.isdigit())
        if numbers < _OLDEST[server]:
            oldest = ".".join(map(str, _OLDEST[server]))
            raise SqlError(Kind.UNUSABLE, f"{self.url.masked}: {server} {version} is too old, {oldest} is needed")


@contextlib.contextmanager
def _translated(connection: Connection) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise connection.failed(error) from error


#: Module of the library and extra of the distribution that brings it.
_LIBRARIES = {Family.POSTGRESQL: ("psycopg", "postgresql"), Family.MYSQL: ("pymysql", "mysql")}

#: A peer that vanished is noticed within a minute, also by who only listens.
_KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30000,
    "application_name": "kern",
}
