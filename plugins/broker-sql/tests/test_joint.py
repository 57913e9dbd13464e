"""Joint settlement with the result store of the same database."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kern_backend_sql.store import SqlResultStore
from kern_broker_sql.transport import SqlTransport
from kern_testing.contracts.joint import JointSettlementContract


class SqlJointSettlement(JointSettlementContract):
    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def make_transport(self, url: str) -> Callable[[], SqlTransport]:
        return lambda: SqlTransport(url)

    @pytest.fixture
    def make_store(self, url: str) -> Callable[[], SqlResultStore]:
        return lambda: SqlResultStore(url)


class TestOnSqlite(SqlJointSettlement):
    @pytest.fixture
    def url(self, sqlite_url: str) -> str:
        return sqlite_url


class TestOnPostgresql(SqlJointSettlement):
    @pytest.fixture
    def url(self, postgresql_url: str) -> str:
        return postgresql_url


class TestOnMariadb(SqlJointSettlement):
    @pytest.fixture
    def url(self, mariadb_url: str) -> str:
        return mariadb_url
