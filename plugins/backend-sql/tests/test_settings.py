"""Each setting acts, or is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from kern.errors import ImproperlyConfigured, InvalidSetting
from kern.outcome import Document
from kern.serialization import encode
from kern_backend_sql.store import SqlResultStore
from kern_sql_engine import Database

Make = Callable[..., SqlResultStore]


def write(store: SqlResultStore, *documents: Document) -> None:
    written = store.write([plan for plan in store.plan(documents, [()] * len(documents)) if plan is not None])
    assert not [item.error for item in written if item.error is not None]


def tables(url: str) -> set[str]:
    engine = Database(url).engine()
    try:
        return set(sqlalchemy.inspect(engine).get_table_names())
    finally:
        engine.dispose()


@pytest.mark.parametrize("alias", ["db", "database"])
def test_an_alias_stands_for_the_setting_database_url(opened: Make, sqlite_url: str, alias: str) -> None:
    store = opened(alias, database_url=sqlite_url)
    assert store.server == Database(sqlite_url).identity
    write(store, Document("id", "SUCCESS", b"1"))
    assert store.read(["id"])["id"].result == b"1"


def test_an_alias_alone_is_refused(make: Make) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"result_backend is 'db' and names no database; write db\+sqlite"):
        make("db")


def test_tables_have_the_names_they_are_given(opened: Make, url: str) -> None:
    """Also names that have to be quoted, and another store finds them by the same names."""
    names = {"task": 'Task "results"', "group": "group-results"}
    store = opened(url, database_table_names=names)
    write(store, Document("id", "SUCCESS", b"1"))
    found = tables(url)
    assert set(names.values()) <= found
    assert not {"celery_taskmeta", "celery_tasksetmeta"} & found
    assert opened(url, database_table_names=names).read(["id"])["id"].result == b"1"
    assert opened(url).read(["id"]) == {}


def test_tables_are_in_the_schemas_they_are_given(opened: Make, postgresql_url: str) -> None:
    connection = Database(postgresql_url).connect()
    connection.run('CREATE SCHEMA "Results"')
    store = opened(postgresql_url, database_table_schemas={"task": "Results", "group": "Results"})
    write(store, Document("id", "SUCCESS", b"1"))
    assert connection.value("""SELECT COUNT(*) FROM "Results".celery_taskmeta""") == 1
    assert connection.value("SELECT to_regclass('celery_taskmeta')::text") is None
    connection.close()


@pytest.mark.parametrize("setting", ["database_table_names", "database_table_schemas"])
def test_an_unknown_part_is_refused(make: Make, sqlite_url: str, setting: str) -> None:
    with pytest.raises(InvalidSetting, match="expected the keys 'task' and 'group', not 'taskset'"):
        make(sqlite_url, **{setting: {"taskset": "x"}})


def test_tables_can_wait_for_the_first_result(opened: Make, url: str) -> None:
    store = opened(url, database_create_tables_at_setup=False)
    assert "celery_taskmeta" not in tables(url)
    assert store.read(["id"]) == {}
    assert "celery_taskmeta" in tables(url)


def test_the_engine_gets_its_options_and_the_callback_the_engine(opened: Make, url: str) -> None:
    """``connect_args`` reach the library; the callback may add listeners."""
    engines: list[Any] = []
    connected: list[Any] = []

    def callback(engine: Any) -> None:
        engines.append(engine)
        sqlalchemy.event.listen(engine, "connect", lambda raw, record: connected.append(raw))

    store = opened(url, database_engine_callback=callback, database_engine_options={"pool_recycle": 5})
    write(store, Document("id", "SUCCESS", b"1"))
    assert store.read(["id"])["id"].result == b"1"
    assert len(engines) == 1
    assert connected


def test_the_engines_arguments_reach_the_database(opened: Make, postgresql_url: str) -> None:
    store = opened(
        postgresql_url, database_engine_options={"connect_args": {"application_name": "the results of somebody"}}
    )
    connection = Database(postgresql_url).connect()
    found = connection.value("SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'the results of somebody'")
    assert found == 1
    connection.close()
    # What the engine leads to may be elsewhere: the transport does not write there.
    assert store.server != Database(postgresql_url).identity


def test_a_callback_may_be_named(
    opened: Make, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_module.py").write_text("seen = []\ndef look(engine):\n    seen.append(engine)\n")
    monkeypatch.syspath_prepend(tmp_path)
    opened(sqlite_url, database_engine_callback="their_module:look")
    import their_module  # type: ignore[import-not-found]

    assert len(their_module.seen) == 1


@pytest.mark.parametrize(
    ("callback", "says"),
    [
        ("no_such_module.look", "'no_such_module.look' cannot be imported"),
        ("json.no_such_name", "'json.no_such_name' cannot be imported"),
        ("json.__doc__", "'json.__doc__' is not callable"),
    ],
)
def test_a_callback_that_is_none_is_refused(make: Make, sqlite_url: str, callback: str, says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=says):
        make(sqlite_url, database_engine_callback=callback)


def test_an_option_the_engine_does_not_know_is_refused(make: Make, sqlite_url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"database_engine_options.*no_such_option"):
        make(sqlite_url, database_engine_options={"no_such_option": 1}).open()


def test_short_lived_sessions_leave_no_connection_open(opened: Make, postgresql_url: str) -> None:
    store = opened(postgresql_url, database_short_lived_sessions=True)
    write(store, Document("id", "SUCCESS", b"1"))
    assert store.read(["id"])["id"].result == b"1"
    watcher = Database(postgresql_url).connect()
    others = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert watcher.value(others) == 0
    watcher.close()


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
def test_results_are_of_the_serializer_that_is_set(opened: Make, sqlite_url: str, serializer: str) -> None:
    """Whoever reads with the same setting knows how; what was written otherwise says so itself."""
    store = opened(sqlite_url, result_serializer=serializer)
    encoded = encode({"a": [1, 2]}, serializer)
    same = Document("same", "SUCCESS", encoded.body, encoded.content_type, encoded.content_encoding, children=[["c"]])
    other = Document("other", "SUCCESS", json.dumps(1).encode(), "application/json", "utf-8", group_id="g")
    write(store, same, other)
    found = store.read(["same", "other"])
    for document in (same, other):
        read = found[document.task_id]
        assert (read.result, read.content_type, read.content_encoding) == (
            document.result,
            document.content_type,
            document.content_encoding,
        )
    assert [list(child) for child in found["same"].children or []] == [["c"]]
    assert found["other"].group_id == "g"
