"""What the contract leaves to the database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kern import states
from kern.contracts.result_store import WriteStatus
from kern.errors import BackendStoreError, BackendUnavailable
from kern.outcome import Document
from kern_backend_sql.store import SqlResultStore
from kern_sql_engine import Database
from kern_testing import make as making
from kern_testing.contracts.connection import StoreConnection
from kern_testing.servers import PASSWORD, MariaDB, PostgreSQL
from kern_testing.waiting import eventually

Make = Callable[..., SqlResultStore]

#: As SQLAlchemy makes Celery's tables in MariaDB: 64 KB, whole seconds, letters of either case alike.
NARROW = (
    "CREATE SEQUENCE task_id_sequence",
    "CREATE SEQUENCE taskset_id_sequence",
    "CREATE TABLE celery_taskmeta (id INTEGER NOT NULL PRIMARY KEY, task_id VARCHAR(155) UNIQUE, status VARCHAR(50), "
    "result BLOB, date_done DATETIME, traceback TEXT, children BLOB, name VARCHAR(155), args BLOB, kwargs BLOB, "
    "worker VARCHAR(155), retries INTEGER, queue VARCHAR(155), stamps BLOB) CHARACTER SET utf8mb4 "
    "COLLATE utf8mb4_general_ci",
    "CREATE TABLE celery_tasksetmeta (id INTEGER NOT NULL PRIMARY KEY, taskset_id VARCHAR(155) UNIQUE, result BLOB, "
    "date_done DATETIME)",
)


def written(store: SqlResultStore, *documents: Document) -> list[WriteStatus | Exception]:
    answers = store.write([plan for plan in store.plan(documents, [()] * len(documents)) if plan is not None])
    return [item.error or item.status for item in answers]


@pytest.mark.parametrize("problem", ["nothing listens", "wrong password", "unknown database"])
def test_a_store_that_cannot_be_used_says_so(
    make: Make, postgresql_server: PostgreSQL, postgresql_url: str, problem: str
) -> None:
    """Unreachable, and never absent; only what may pass by itself is worth trying again."""
    url = {
        "nothing listens": postgresql_url.replace(f":{postgresql_server.port}/", ":1/"),
        "wrong password": postgresql_url.replace(PASSWORD, "not-the-password"),
        "unknown database": postgresql_server.url("no_such_database"),
    }[problem]
    with pytest.raises(BackendUnavailable) as refused:
        make(url).open()
    assert refused.value.retryable == (problem == "nothing listens")
    assert "not-the-password" not in str(refused.value)
    assert PASSWORD not in str(refused.value)


def test_a_server_that_stops_is_no_answer(opened: Make, mariadb_server: MariaDB, mariadb_url: str) -> None:
    store = opened(mariadb_url)
    written(store, Document("id", states.SUCCESS, b"1"))
    mariadb_server.kill()
    with pytest.raises(BackendUnavailable) as lost:
        store.read(["id"])
    assert lost.value.retryable
    mariadb_server.start()
    store.open()
    assert store.read(["id"])["id"].result == b"1"


def test_who_watches_through_a_restart_is_told(make: Make, postgresql_server: PostgreSQL, postgresql_url: str) -> None:
    watcher = StoreConnection(make(postgresql_url)).start()
    task_id = making.unique("id")
    watcher.watch(task_id)
    postgresql_server.restart()
    other = StoreConnection(make(postgresql_url)).start()
    other.write(other.document(task_id))
    eventually(lambda: task_id in watcher.told, "the result was reported", timeout=30)
    watcher.stop()
    other.stop()


def test_announcements_do_not_pile_up(make: Make, postgresql_url: str) -> None:
    """Who waits for nothing any more listens no more."""
    store = make(postgresql_url)
    watcher, other = StoreConnection(store).start(), StoreConnection(make(postgresql_url)).start()
    watcher.watch("wanted")
    eventually(lambda: store.wake_fd() is not None, "it listens")
    watcher.unwatch("wanted")
    other.write(other.document("something else"))
    eventually(lambda: store.wake_fd() is None, "it listens no more")
    watcher.stop()
    other.stop()


def test_an_id_too_long_is_an_error_of_its_document(opened: Make, url: str) -> None:
    store = opened(url)
    answers = written(store, *(Document(task_id, "SUCCESS", b"1") for task_id in ("a", "i" * 156, "b")))
    assert [answers[0], answers[2]] == [WriteStatus.WRITTEN] * 2
    assert isinstance(answers[1], BackendStoreError)
    assert "155 characters" in str(answers[1])


@pytest.fixture
def narrow(opened: Make, mariadb_url: str) -> SqlResultStore:
    """On tables that a Celery made in MariaDB."""
    connection = Database(mariadb_url).connect()
    for statement in NARROW:
        connection.run(statement)
    connection.close()
    return opened(mariadb_url)


def test_a_result_too_large_for_celerys_column_is_an_error_of_its_document(narrow: SqlResultStore) -> None:
    """Never half of it; its neighbours are written."""
    answers = written(
        narrow,
        Document("before", "SUCCESS", b"1"),
        Document("large", "SUCCESS", b"x" * 70_000),
        Document("after", "SUCCESS", b"1"),
    )
    assert [answers[0], answers[2]] == [WriteStatus.WRITTEN] * 2
    assert isinstance(answers[1], BackendStoreError)
    assert "result" in str(answers[1])
    assert set(narrow.read(["before", "large", "after"])) == {"before", "after"}


def test_a_long_traceback_is_cut_where_celerys_column_ends(narrow: SqlResultStore) -> None:
    """Its end says what happened."""
    traceback = "File …\n" * 20_000 + "ValueError: the reason"
    assert written(narrow, Document("id", "FAILURE", b"{}", traceback=traceback)) == [WriteStatus.WRITTEN]
    read = narrow.read(["id"])["id"].traceback
    assert read is not None
    assert read.endswith("File …\nValueError: the reason")
    assert len(read.encode()) <= 65_535


def test_times_are_kept_where_celerys_column_has_whole_seconds(narrow: SqlResultStore) -> None:
    done = datetime(2100, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    written(narrow, Document("id", "SUCCESS", b"1", date_done=done))
    assert narrow.read(["id"])["id"].date_done == done


def test_ids_that_celerys_table_takes_for_one_do_not_overwrite_each_other(narrow: SqlResultStore) -> None:
    assert written(narrow, Document("Id", "FAILURE", b"1")) == [WriteStatus.WRITTEN]
    (answer,) = written(narrow, Document("iD", "SUCCESS", b"2"))
    assert isinstance(answer, BackendStoreError)
    assert "collation" in str(answer)
    assert narrow.read(["Id", "iD"])["Id"].result == b"1"
    assert set(narrow.read(["iD"])) == set()


def test_two_stores_may_make_the_tables_at_once(make: Make, url: str) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(4)

    def start() -> None:
        store = make(url)
        barrier.wait(20)
        try:
            store.open()
            store.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors


def test_tables_that_were_dropped_are_made_again(opened: Make, sqlite_url: str) -> None:
    store = opened(sqlite_url)
    connection = Database(sqlite_url).connect()
    connection.run("DROP TABLE celery_taskmeta")
    with pytest.raises(BackendUnavailable) as missing:
        store.read(["id"])
    assert missing.value.retryable, "the connection is to be opened anew, which makes the tables"
    store.open()
    assert store.read(["id"]) == {}
    connection.close()


def test_a_full_disk_is_said(opened: Make, tmp_path: Path) -> None:
    store = opened(f"sqlite:///{tmp_path}/kern.db")
    assert store._link is not None
    connection = store._link.get()
    connection.run(f"PRAGMA max_page_count = {connection.value('PRAGMA page_count') + 1}")
    with pytest.raises(BackendUnavailable, match="the disk is full") as full:
        written(store, Document("id", "SUCCESS", b"x" * 100_000))
    assert full.value.retryable
    connection.run("PRAGMA max_page_count = 1000000")
    assert written(store, Document("id", "SUCCESS", b"x" * 100_000)) == [WriteStatus.WRITTEN]
