"""The transport's contract, on each database."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kern_broker_sql.tables import READY
from kern_broker_sql.transport import SqlTransport
from kern_sql_engine import Database
from kern_testing.contracts.connection import Connection
from kern_testing.contracts.transport import TransportContract


class SqlTransportContract(TransportContract):
    """What is the same for all databases."""

    injects = True

    def inject(self, connection: Connection, queue: str, raw: bytes) -> None:
        url = self.url  # type: ignore[attr-defined]
        database = Database(url)
        foreign = database.connect()
        try:
            foreign.run(
                database.dialect.sql(
                    "INSERT INTO kern_message (queue, state, ready_at, exchange, routing_key, size, raw) "
                    f"VALUES (?, {READY}, {{now}}, '', ?, 0, ?)"
                ),
                (queue, queue, raw),
            )
        finally:
            foreign.close()


class TestOnSqlite(SqlTransportContract):
    @pytest.fixture
    def make_transport(self, sqlite_url: str) -> Callable[[], SqlTransport]:
        self.url = sqlite_url
        return lambda: SqlTransport(sqlite_url)


class TestOnPostgresql(SqlTransportContract):
    @pytest.fixture
    def make_transport(self, postgresql_url: str) -> Callable[[], SqlTransport]:
        self.url = postgresql_url
        return lambda: SqlTransport(postgresql_url)


class TestOnMariadb(SqlTransportContract):
    @pytest.fixture
    def make_transport(self, mariadb_url: str) -> Callable[[], SqlTransport]:
        self.url = mariadb_url
        return lambda: SqlTransport(mariadb_url)
