"""Databases that cannot be used: one line says which, why, and what to do; none shows a password."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kern.errors import PluginMissing
from kern_sql_engine import Database, Kind, SqlError
from kern_sql_engine import database as module
from kern_testing.servers import PASSWORD, MariaDB, PostgreSQL, free_port


def refused(url: str) -> SqlError:
    """The error of who tries to use *url*; its sentence is one line and shows no password."""
    with pytest.raises(SqlError) as caught:
        Database(url, patience=0.2).connect()
    assert "\n" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
    return caught.value


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    error = refused(f"sqlite:///{tmp_path}/nowhere/kern.db")
    assert (error.kind, error.retryable) == (Kind.ABSENT, False)
    assert f"the folder {tmp_path}/nowhere does not exist; create it" in str(error)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    error = refused(f"sqlite:///{tmp_path}")
    assert (error.kind, error.retryable) == (Kind.UNUSABLE, False)
    assert "this is a folder" in str(error)


@pytest.mark.parametrize("content", [b"certainly not a database", b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    error = refused(f"sqlite:///{path}")
    assert error.kind is Kind.UNUSABLE
    assert "not an SQLite database" in str(error) or "damaged" in str(error)
    assert path.read_bytes() == content


def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "kern.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE t (x)")
        made.executemany("INSERT INTO t VALUES (?)", [(b"x" * 1000,)] * 100)
    made.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    connection = Database(f"sqlite:///{path}").connect()
    with pytest.raises(SqlError, match=r"damaged; restore a copy") as caught:
        connection.rows("SELECT * FROM t")
    connection.close()
    assert (caught.value.kind, caught.value.retryable) == (Kind.UNUSABLE, False)


@pytest.mark.parametrize(
    ("mode_of_file", "mode_of_folder", "says"),
    [
        (0o000, 0o777, "cannot be read by user"),
        (0o444, 0o777, "read-only for user"),
        (None, 0o555, "may not write to the folder"),
    ],
)
def test_missing_permissions_are_named(
    open_folder: Path, forked: Callable[..., Any], mode_of_file: int | None, mode_of_folder: int, says: str
) -> None:
    """A file that may not be read, not be written, or whose folder is closed."""
    folder = open_folder / "data"
    folder.mkdir()
    path = folder / "kern.db"
    if mode_of_file is not None:
        with sqlite3.connect(path) as made:
            made.execute("CREATE TABLE t (x)")
        made.close()
        path.chmod(mode_of_file)
    folder.chmod(mode_of_folder)

    def use() -> None:
        connection = Database(f"sqlite:///{path}", patience=0.2).connect()
        with connection.transaction():
            connection.run("CREATE TABLE other (x)")

    answer = forked(use, unprivileged=True)
    assert isinstance(answer, str), f"it worked: {answer!r}"
    assert says in answer
    assert str(path) in answer


def test_a_full_disk_is_told_from_other_errors(tmp_path: Path) -> None:
    """SQLite's own limit of pages stands for a disk that has no more."""
    connection = Database(f"sqlite:///{tmp_path}/kern.db").connect()
    connection.run("CREATE TABLE t (x)")
    connection.run(f"PRAGMA max_page_count = {connection.value('PRAGMA page_count') + 1}")
    with pytest.raises(SqlError, match=r"the disk is full") as caught, connection.transaction():
        connection.run("INSERT INTO t VALUES (?)", (b"x" * 100_000,))
    assert (caught.value.kind, caught.value.retryable, caught.value.lost) == (Kind.FULL, True, False)
    assert connection.value("SELECT COUNT(*) FROM t") == 0
    connection.close()


def test_a_lock_held_for_too_long_is_said(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/kern.db", patience=0.1)
    writer, waiting = database.connect(), database.connect()
    writer.begin()
    with pytest.raises(SqlError, match=r"another process keeps the database locked") as caught:
        waiting.begin()
    assert (caught.value.kind, caught.value.retryable) == (Kind.BUSY, True)
    writer.rollback()
    with waiting.transaction():
        waiting.run("CREATE TABLE t (x)")
    writer.close()
    waiting.close()


# -- servers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_server_that_is_not_there_may_come(scheme: str) -> None:
    """Nobody listens: worth trying again."""
    error = refused(f"{scheme}://kern:{PASSWORD}@127.0.0.1:{free_port()}/app")
    assert (error.kind, error.retryable) == (Kind.UNREACHABLE, True)
    assert "the server cannot be reached" in str(error)


def wrong(url: str, part: str, replacement: str) -> str:
    assert part in url
    return url.replace(part, replacement)


def test_postgresql_refuses_wrong_credentials_and_unknown_databases(
    postgresql_server: PostgreSQL, postgresql_url: str
) -> None:
    error = refused(wrong(postgresql_url, PASSWORD, "wrong-password"))
    assert (error.kind, error.retryable) == (Kind.CREDENTIALS, False)
    assert "refuses this user and password" in str(error)
    assert "wrong-password" not in str(error)
    error = refused(postgresql_server.url("no_such_database"))
    assert error.kind is Kind.ABSENT
    assert "no database of that name; create it" in str(error)
    error = refused(wrong(postgresql_url, "//kern:", "//stranger:"))
    assert error.kind is Kind.CREDENTIALS


def test_mariadb_refuses_wrong_credentials_and_unknown_databases(mariadb_server: MariaDB, mariadb_url: str) -> None:
    error = refused(wrong(mariadb_url, PASSWORD, "wrong-password"))
    assert error.kind is Kind.CREDENTIALS
    assert "refuses this user and password" in str(error)
    assert "wrong-password" not in str(error)
    error = refused(mariadb_server.url("no_such_database"))
    assert error.kind is Kind.ABSENT
    assert "no database of that name; create it" in str(error)


def test_a_postgresql_that_stops_is_a_lost_connection(postgresql_server: PostgreSQL, postgresql_url: str) -> None:
    connection = Database(postgresql_url).connect()
    postgresql_server.kill()
    with pytest.raises(SqlError) as caught:
        connection.rows("SELECT 1")
    assert (caught.value.kind, caught.value.lost, caught.value.retryable) == (Kind.UNREACHABLE, True, True)
    connection.close()


def test_a_mariadb_that_stops_is_a_lost_connection(mariadb_server: MariaDB, mariadb_url: str) -> None:
    connection = Database(mariadb_url).connect()
    mariadb_server.kill()
    with pytest.raises(SqlError) as caught:
        connection.rows("SELECT 1")
    assert (caught.value.kind, caught.value.lost, caught.value.retryable) == (Kind.UNREACHABLE, True, True)
    connection.close()


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [("postgresql://h/d", "psycopg", "postgresql"), ("mysql://h/d", "pymysql", "mysql")],
)
def test_a_missing_library_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, url: str, package: str, extra: str
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(PluginMissing) as caught:
        Database(url, "kern-broker-sql")
    assert caught.value.install == f"kern-broker-sql[{extra}]"
    assert str(caught.value) == f"{url} needs the package {package}; install kern-broker-sql[{extra}]"
