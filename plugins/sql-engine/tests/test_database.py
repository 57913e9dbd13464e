"""Connections: several processes on one file, and what a fork inherits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kern_sql_engine import CallersConnection, Database, Link, SqlError, SqliteConnection, SqlRecords
from kern_sql_engine.records import LAYOUT, TABLES
from kern_sql_engine.schema import database_id, ensure
from kern_testing.servers import PostgreSQL
from kern_testing.waiting import eventually


def test_a_file_is_safe_against_power_loss(tmp_path: Path) -> None:
    """Readers do not wait for the writer, and what is committed is on the disk."""
    connection = Database(f"sqlite:///{tmp_path}/kern.db").connect()
    assert connection.value("PRAGMA journal_mode") == "wal"
    assert connection.value("PRAGMA synchronous") == 2
    assert connection.value("PRAGMA foreign_keys") == 0
    connection.close()


def test_a_new_file_may_be_opened_by_many_at_once(tmp_path: Path, at_once: Callable[..., list[Any]]) -> None:
    """Processes that race for a file that is not there yet: each gets it, with its tables made once."""
    for attempt in range(3):
        url = f"sqlite:///{tmp_path}/{attempt}.db"

        def use(number: int, url: str = url) -> str | None:
            connection = Database(url, patience=20).connect()
            ensure(connection, "records", LAYOUT, TABLES)
            with connection.transaction():
                connection.run("INSERT INTO kern_record VALUES ('k', ?, x'00', 1, NULL)", (str(number),))
            return database_id(connection)

        answers = at_once(6, use)
        assert len(set(answers)) == 1, answers
        connection = Database(url).connect()
        assert connection.value("SELECT COUNT(*) FROM kern_record") == 6
        connection.close()


def test_many_writers_of_one_file_lose_nothing(tmp_path: Path, at_once: Callable[..., list[Any]]) -> None:
    """Four processes that each write a hundred times: none is told that the file is locked, and the sum is right."""
    database = Database(f"sqlite:///{tmp_path}/kern.db", patience=60)
    connection = database.connect()
    connection.run("CREATE TABLE counter (n INTEGER)")
    connection.run("INSERT INTO counter VALUES (0)")
    connection.close()

    def count(_number: int) -> int:
        mine = database.connect()
        for _ in range(100):
            with mine.transaction():
                mine.run("UPDATE counter SET n = ?", (int(mine.value("SELECT n FROM counter")) + 1,))
        return 0

    assert at_once(4, count) == [0] * 4
    connection = database.connect()
    assert connection.value("SELECT n FROM counter") == 400
    connection.close()


def test_tables_of_a_server_are_made_once_by_many(postgresql_url: str, at_once: Callable[..., list[Any]]) -> None:
    def use(_number: int) -> str | None:
        connection = Database(postgresql_url).connect()
        ensure(connection, "records", LAYOUT, TABLES)
        return database_id(connection)

    answers = at_once(6, use)
    assert len(set(answers)) == 1, answers


def test_tables_of_mariadb_are_made_once_by_many(mariadb_url: str, at_once: Callable[..., list[Any]]) -> None:
    def use(_number: int) -> str | None:
        connection = Database(mariadb_url).connect()
        ensure(connection, "records", LAYOUT, TABLES)
        return database_id(connection)

    answers = at_once(6, use)
    assert len(set(answers)) == 1, answers


def test_tables_of_a_newer_kern_are_left_alone(sqlite_url: str) -> None:
    connection = Database(sqlite_url).connect()
    ensure(connection, "records", LAYOUT + 1, TABLES)
    with pytest.raises(SqlError, match=r"made by a newer kern \(layout 2, this one knows 1\); upgrade this one"):
        ensure(connection, "records", LAYOUT, TABLES)
    connection.close()


def test_a_child_leaves_its_parents_connection_alone(postgresql_url: str, forked: Callable[..., Any]) -> None:
    """A forked child closes what it inherited, and the parent's session goes on."""
    connection = Database(postgresql_url).connect()
    link = Link(Database(postgresql_url), lambda connection: None)
    link.open()

    def in_child() -> bool:
        connection.close()
        link.close()
        return connection.ours

    assert forked(in_child) is False
    assert connection.ours
    assert connection.value("SELECT 1") == 1
    assert link.get().value("SELECT 1") == 1
    connection.close()
    link.close()


@pytest.mark.parametrize("fixture", ["sqlite_url", "postgresql_url", "mariadb_url"])
def test_records_may_be_used_after_a_fork(
    request: pytest.FixtureRequest, forked: Callable[..., Any], fixture: str
) -> None:
    """Child and parent go on with connections of their own."""
    records = SqlRecords(Database(request.getfixturevalue(fixture)), lambda error: error)
    records.put("kind", "of-the-parent", b"1")

    def in_child() -> list[str]:
        records.put("kind", "of-the-child", b"2")
        return [record.key for record in records.scan("kind")]

    assert forked(in_child) == ["of-the-child", "of-the-parent"]
    assert [record.key for record in records.scan("kind")] == ["of-the-child", "of-the-parent"]
    records.close()


def test_a_stale_connection_is_made_anew(
    postgresql_server: PostgreSQL, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ended an idle connection is not noticed by who uses the link next."""
    monkeypatch.setattr("kern_sql_engine.link.IDLE", 0.0)
    link = Link(Database(postgresql_url), lambda connection: None)
    number = link.open().value("SELECT pg_backend_pid()")
    postgresql_server.sql(f"SELECT pg_terminate_backend({number})", "postgres")
    assert eventually(lambda: link.get().value("SELECT pg_backend_pid()") != number)
    link.close()
    with pytest.raises(SqlError, match="there is no connection"):
        link.get()


def test_a_file_says_when_others_have_written(sqlite_url: str) -> None:
    """Who asks whether there is news asks for a number, which own changes leave alone."""
    mine, other = Database(sqlite_url).connect(), Database(sqlite_url).connect()
    assert isinstance(mine, SqliteConnection)
    mine.run("CREATE TABLE t (x)")
    version = mine.version()
    mine.run("INSERT INTO t VALUES (1)")
    assert mine.version() == version
    other.run("INSERT INTO t VALUES (2)")
    assert mine.version() != version
    mine.close()
    other.close()


def test_who_watches_records_survives_an_end_of_the_connection(
    postgresql_server: PostgreSQL, postgresql_url: str
) -> None:
    """A server that restarts under a watch: changes are reported again once it is back."""
    records = SqlRecords(Database(postgresql_url), lambda error: error)
    records.put("kind", "first", b"1")
    told: list[str] = []
    end = records.watch("kind", told.append)
    postgresql_server.restart()
    eventually(lambda: written(records))
    eventually(lambda: "second" in told, "the change was reported", timeout=30)
    end()
    threads = [thread for thread in threading.enumerate() if thread.name == "kern records"]
    eventually(lambda: not any(thread.is_alive() for thread in threads), "the watcher has ended")
    records.close()


def written(records: SqlRecords) -> bool:
    try:
        records.put("kind", "second", b"2")
    except SqlError:
        return False
    return True


def test_what_is_no_connection_is_refused(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with pytest.raises(TypeError, match=r"a builtins.str is no connection to publish on; give SQLAlchemy's Connection"):
        CallersConnection("not one", database.url, database.dialect)
