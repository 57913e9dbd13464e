"""The result store's contract, on each database."""

from __future__ import annotations

import pytest

from kern.settings import Settings
from kern.settings_core import ResultSettings
from kern_backend_sql.settings import DatabaseSettings
from kern_backend_sql.store import SqlResultStore
from kern_testing.contracts.result_store import MakeStore, ResultStoreContract


def maker(url: str) -> MakeStore:
    def make(result_expires: float | None = None) -> SqlResultStore:
        changes = {"result_expires": result_expires}
        return SqlResultStore(url, Settings([ResultSettings, DatabaseSettings], changes=changes, environ={}))

    return make


class OfDatabases(ResultStoreContract):
    #: No column of ids is as long.
    refused_id = "x" * 300


class TestOnSqlite(OfDatabases):
    @pytest.fixture
    def make_store(self, sqlite_url: str) -> MakeStore:
        return maker(sqlite_url)


class TestOnPostgresql(OfDatabases):
    @pytest.fixture
    def make_store(self, postgresql_url: str) -> MakeStore:
        return maker(postgresql_url)


class TestOnMariadb(OfDatabases):
    @pytest.fixture
    def make_store(self, mariadb_url: str) -> MakeStore:
        return maker(mariadb_url)
