"""Being told by the kernel that a file is written to."""

from __future__ import annotations

import select
import sys
from pathlib import Path

import pytest

from kern_sql_engine import Database, FileWatch, SqliteConnection, filewatch


def readable(watch: FileWatch, seconds: float = 0.0) -> bool:
    return bool(select.select([watch.fileno()], [], [], seconds)[0])


@pytest.fixture
def connection(sqlite_url: str) -> SqliteConnection:
    made = Database(sqlite_url).connect()
    assert isinstance(made, SqliteConnection)
    made.run("CREATE TABLE t (x)")
    return made


def test_who_watches_a_file_is_told_of_a_commit(connection: SqliteConnection, sqlite_url: str) -> None:
    """By whichever connection, and no more once it has taken note."""
    watch, other = connection.watch(), Database(sqlite_url).connect()
    assert (watch is not None) == sys.platform.startswith("linux")
    if watch is None:
        return
    watch.drain()
    assert not readable(watch)
    other.run("INSERT INTO t VALUES (1)")
    assert readable(watch, 10)
    watch.drain()
    assert not readable(watch)
    watch.close()
    watch.close()
    other.close()
    connection.close()


def test_looks_become_rare_after_a_write(connection: SqliteConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is written to before the commit is to be seen: at first often, then seldom, never not at all."""
    clock = [100.0]
    monkeypatch.setattr(filewatch.time, "monotonic", lambda: clock[0])
    watch = FileWatch(-1)
    pauses = []
    while clock[0] < 103:
        pauses.append(watch.look_again())
        clock[0] += pauses[-1]
    assert pauses[0] == filewatch.LOOK_AGAIN
    assert pauses == sorted(pauses)
    assert pauses[-1] == filewatch.LOOK_ANYWAY
    assert len(pauses) < 100
    connection.close()


def test_a_file_that_is_not_there_is_not_watched(tmp_path: Path) -> None:
    assert filewatch.watch(str(tmp_path / "nothing")) is None


def test_a_system_that_says_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(filewatch.sys, "platform", "plan9")
    assert filewatch.watch(str(tmp_path)) is None
