"""Waiting for results in a file, at moments that a clock would seldom hit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kern import states
from kern.contracts.result_store import DocumentForm
from kern.outcome import Document
from kern_backend_sql import waiting
from kern_backend_sql.store import SqlResultStore
from kern_sql_engine import Database
from kern_testing import make as making
from kern_testing.contracts.connection import StoreConnection
from kern_testing.waiting import eventually

Make = Callable[..., SqlResultStore]


def document(task_id: str | None = None, status: str = states.SUCCESS) -> Document:
    return making.document(DocumentForm.PARTS, task_id, status=status)


def write(store: SqlResultStore, *documents: Document) -> None:
    plans = [plan for plan in store.plan(documents, [()] * len(documents)) if plan is not None]
    assert [written.error for written in store.write(plans)] == [None] * len(documents)


@pytest.fixture
def watcher(opened: Make, sqlite_url: str) -> SqlResultStore:
    return opened(sqlite_url)


@pytest.fixture
def writer(opened: Make, sqlite_url: str) -> SqlResultStore:
    return opened(sqlite_url)


def told(watcher: SqlResultStore, *task_ids: str) -> set[str]:
    return {document.task_id for document in watcher.collect(set(task_ids))}


@pytest.fixture
def begun() -> Document:
    """Not final yet."""
    return document(status=states.STARTED)


def test_a_row_that_came_before_the_first_look_is_reported_when_it_is_final(
    watcher: SqlResultStore, writer: SqlResultStore, begun: Document
) -> None:
    """It comes after the watch has read, and before the file is looked at for the first time."""
    assert not watcher.read([begun.task_id])
    write(writer, begun)
    assert not told(watcher, begun.task_id)
    write(writer, document(begun.task_id))
    assert told(watcher, begun.task_id) == {begun.task_id}


def test_a_row_that_came_before_an_own_write_is_reported_when_it_is_final(
    watcher: SqlResultStore, writer: SqlResultStore, begun: Document
) -> None:
    """After an own write all is looked at anew, as at first."""
    assert not told(watcher, begun.task_id)
    write(writer, begun)
    write(watcher, document())
    assert not told(watcher, begun.task_id)
    write(writer, document(begun.task_id))
    assert told(watcher, begun.task_id) == {begun.task_id}


def test_a_row_among_very_many_is_reported_when_it_is_final(
    watcher: SqlResultStore, writer: SqlResultStore, begun: Document
) -> None:
    """So many that they are not looked at one by one."""
    assert not told(watcher, begun.task_id)
    write(writer, begun, *(document() for _ in range(waiting.FEW + 10)))
    assert not told(watcher, begun.task_id)
    write(writer, document(begun.task_id))
    assert told(watcher, begun.task_id) == {begun.task_id}


def test_what_was_read_meanwhile_is_reported_too(
    watcher: SqlResultStore, writer: SqlResultStore, begun: Document
) -> None:
    """Who asks for a state takes nothing from who waits for it."""
    assert not told(watcher, begun.task_id)
    write(writer, begun)
    assert not told(watcher, begun.task_id)
    write(writer, document(begun.task_id))
    assert watcher.read([begun.task_id])[begun.task_id].status == states.SUCCESS
    assert told(watcher, begun.task_id) == {begun.task_id}


def test_a_row_that_has_expired_is_reported_when_it_is_final(
    opened: Make, sqlite_url: str, writer: SqlResultStore, begun: Document
) -> None:
    """A task may run for longer than its state is kept."""
    write(opened(sqlite_url, result_expires=0.001), begun)
    eventually(lambda: not writer.read([begun.task_id]), "it has expired")
    watcher = opened(sqlite_url)
    assert not told(watcher, begun.task_id)
    write(writer, document(begun.task_id))
    assert told(watcher, begun.task_id) == {begun.task_id}


def test_rows_of_a_table_that_was_emptied_are_reported(
    watcher: SqlResultStore, writer: SqlResultStore, sqlite_url: str
) -> None:
    """Whose numbers begin anew."""
    write(writer, document(), document())
    wanted = document()
    assert not told(watcher, wanted.task_id)
    connection = Database(sqlite_url).connect()
    connection.run("DELETE FROM celery_taskmeta")
    connection.run("DELETE FROM sqlite_sequence")
    connection.close()
    write(writer, wanted)
    assert told(watcher, wanted.task_id) == {wanted.task_id}


def test_who_has_a_new_connection_is_told(opened: Make, sqlite_url: str, writer: SqlResultStore) -> None:
    """What one connection says of the file is not compared with what another said."""
    watcher, wanted = opened(sqlite_url, database_engine_options={"pool_recycle": 0}), document()
    assert not told(watcher, wanted.task_id)
    assert not told(watcher, wanted.task_id)
    write(writer, wanted)
    assert told(watcher, wanted.task_id) == {wanted.task_id}


def test_who_has_a_connection_for_each_operation_is_told(make: Make, sqlite_url: str, writer: SqlResultStore) -> None:
    watcher = StoreConnection(make(sqlite_url, database_short_lived_sessions=True)).start()
    try:
        for wanted in (document(), document()):
            watcher.watch(wanted.task_id)
            write(writer, document(wanted.task_id, states.STARTED))
            write(writer, wanted)
            eventually(lambda wanted=wanted: wanted.task_id in watcher.told, "the document was reported")
    finally:
        watcher.stop()
