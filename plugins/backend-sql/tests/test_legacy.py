"""Rows of Celery 5.6: values pickled, columns missing. The bytes below were written by Celery 5.6.3."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kern import states
from kern.documents import decode_document
from kern.errors import ContentDisallowed
from kern.outcome import Document
from kern_backend_sql import legacy
from kern_backend_sql.store import SqlResultStore

SCHEMA = """
CREATE TABLE celery_taskmeta (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, task_id VARCHAR(155), status VARCHAR(50), result BLOB,
    date_done DATETIME, traceback TEXT, name VARCHAR(155), args BLOB, kwargs BLOB, worker VARCHAR(155),
    retries INTEGER, queue VARCHAR(155), UNIQUE (task_id)
);
CREATE INDEX ix_celery_taskmeta_date_done ON celery_taskmeta (date_done);
CREATE TABLE celery_tasksetmeta (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, taskset_id VARCHAR(155), result BLOB, date_done DATETIME,
    UNIQUE (taskset_id)
);
CREATE INDEX ix_celery_tasksetmeta_date_done ON celery_tasksetmeta (date_done);
"""
PLAIN = (
    b"\x80\x05\x95(\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01G@\x04\x00\x00\x00\x00\x00\x00N"
    b"\x8c\x02\xc3\xbc\x94e\x8c\x01t\x94K\x01K\x02\x86\x94u."
)
FIVE = b"\x80\x05K\x05."
FAILED = (
    b"\x80\x05\x95N\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x08exc_type\x94\x8c\nValueError\x94\x8c\x0bexc_message\x94"
    b"\x8c\x04boom\x94K\x01\x86\x94\x8c\nexc_module\x94\x8c\x08builtins\x94u."
)
TYPED = (
    b"\x80\x05\x95\x9b\x00\x00\x00\x00\x00\x00\x00]\x94(\x8c\x08datetime\x94\x8c\x08datetime\x94\x93\x94C\n\x07\xea"
    b"\x01\x02\x03\x04\x05\x00\x02\xa6\x94h\x01\x8c\x08timezone\x94\x93\x94h\x01\x8c\ttimedelta\x94\x93\x94K\x00K\x00"
    b"K\x00\x87\x94R\x94\x85\x94R\x94\x86\x94R\x94\x8c\x07decimal\x94\x8c\x07Decimal\x94\x93\x94\x8c\x041.50\x94\x85"
    b"\x94R\x94\x8c\x04uuid\x94\x8c\x04UUID\x94\x93\x94)\x81\x94}\x94\x8c\x03int\x94K\x05sbe."
)
GROUP = (
    b"\x80\x05\x95m\x01\x00\x00\x00\x00\x00\x00\x8c\x0fcelery.app.base\x94\x8c\x11_unpickle_appattr\x94\x93\x94\x8c"
    b"\x0bGroupResult\x94\x8c\x07group-1\x94]\x94(h\x02\x8c\x0bAsyncResult\x94(\x8c\x02m1\x94\x8c\x14celery.backends."
    b"base\x94\x8c\x10unpickle_backend\x94\x93\x94\x8c\x18celery.backends.database\x94\x8c\x0fDatabaseBackend\x94\x93"
    b"\x94)}\x94(\x8c\x05dburi\x94\x8c\x1asqlite:////tmp/sqlx/c56.db\x94\x8c\x07expires\x94\x8c\x08datetime\x94\x8c\t"
    b"timedelta\x94\x93\x94K\x01K\x00K\x00\x87\x94R\x94\x8c\x0eengine_options\x94}\x94(\x8c\rpool_pre_ping\x94\x88\x8c"
    b"\x0cpool_recycle\x94M\x10\x0euu\x87\x94R\x94NNNt\x94\x86\x94R\x94h\x02h\x06(\x8c\x02m2\x94h\x1cNNNt\x94\x86\x94R"
    b"\x94e\x86\x94\x86\x94R\x94."
)


@pytest.fixture
def store(tmp_path: Path, opened: Callable[..., SqlResultStore]) -> SqlResultStore:
    with sqlite3.connect(tmp_path / "results.db") as old:
        old.executescript(SCHEMA)
        rows = [
            ("plain", "SUCCESS", PLAIN, "2026-11-20 22:17:54.474565", None),
            ("five", "SUCCESS", FIVE, "2026-11-20 22:17:54.496478", None),
            ("failed", "FAILURE", FAILED, "2026-11-20 22:17:54.518476", "tb"),
            ("typed", "SUCCESS", TYPED, "2026-11-20 22:17:54.530988", None),
        ]
        old.executemany(
            "INSERT INTO celery_taskmeta (task_id, status, result, date_done, traceback) VALUES (?, ?, ?, ?, ?)", rows
        )
        old.execute(
            "INSERT INTO celery_tasksetmeta (taskset_id, result, date_done) VALUES ('group-1', ?, ?)",
            (GROUP, "2026-11-20 22:17:54.581576"),
        )
    old.close()
    return opened(f"sqlite:///{tmp_path}/results.db", result_expires=None)


def test_pickled_data_is_read_without_unpickling_anything_else(store: SqlResultStore) -> None:
    """Values, errors and the types JSON has envelopes for, with the default settings."""
    found = store.read(["plain", "five", "failed", "typed"])
    values = {task_id: decode_document(document).result for task_id, document in found.items()}
    assert values["plain"] == {"a": [1, 2.5, None, "ü"], "t": [1, 2]}
    assert values["five"] == 5
    assert [type(value).__name__ for value in values["typed"]] == ["datetime", "Decimal", "UUID"]
    assert values["typed"][0].isoformat() == "2026-01-02T03:04:05.000678+00:00"
    assert isinstance(values["failed"], ValueError)
    assert values["failed"].args == ("boom", 1)
    assert found["failed"].traceback == "tb"


def test_a_saved_group_is_the_tuple_it_stands_for(store: SqlResultStore) -> None:
    group = store.read_group("group-1")
    assert group is not None
    assert json.loads(group.result) == [["group-1", None], [[["m1", None], None], [["m2", None], None]]]


class Evil:
    def __reduce__(self) -> Any:
        return os.putenv, ("KERN_TEST_EVIL", "1")


def test_a_pickle_that_names_more_is_left_for_who_accepts_pickle(store: SqlResultStore, tmp_path: Path) -> None:
    """Nothing it names is run; whoever has not said that he trusts pickles is told so."""
    with sqlite3.connect(tmp_path / "results.db") as old:
        old.execute("UPDATE celery_taskmeta SET result = ? WHERE task_id = 'five'", (pickle.dumps(Evil()),))
    old.close()
    document = store.read(["five"])["five"]
    assert document.result == pickle.dumps(Evil())
    with pytest.raises(ContentDisallowed, match="pickle"):
        decode_document(document)


@pytest.mark.parametrize(
    "body", [b"", b"\x80", b"\x80\x05", b"\x80\x05.", b"\x80\x04\x8c\x01a.", b"\x80\x05" + b"]" * 50]
)
def test_what_only_looks_pickled_is_left_alone(body: bytes) -> None:
    assert not legacy.looks_pickled(body) or legacy.as_json(body) in (None, b'"a"')


def test_missing_columns_are_added_and_used(store: SqlResultStore, tmp_path: Path) -> None:
    """As Celery 5.7 does; old rows stay as they are."""
    new = Document("new", states.SUCCESS, b"1", children=[[["c", None], None]], parent_id="parent")
    (plan,) = store.plan([new], [()])
    assert plan is not None
    store.write([plan])
    read = store.read(["new"])["new"]
    assert (read.children, read.parent_id) == (new.children, "parent")
    with sqlite3.connect(tmp_path / "results.db") as old:
        columns = {row[1]: row[2] for row in old.execute("PRAGMA table_info(celery_taskmeta)")}
        untouched = old.execute("SELECT result, children FROM celery_taskmeta WHERE task_id = 'plain'").fetchone()
    old.close()
    assert (columns["children"], columns["stamps"]) == ("BLOB", "BLOB")
    assert untouched == (PLAIN, None)
