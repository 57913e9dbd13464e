"""The store's tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kern_backend_sql.tables import JOIN_TABLES, Names, celery_tables
from kern_sql_engine import Database, schema


@pytest.mark.parametrize("tables", [celery_tables(Names()), JOIN_TABLES], ids=["celery", "joins"])
def test_the_file_for_sqlite_says_what_the_description_says(tables: schema.Tables, tmp_path: Path) -> None:
    """If not: ``tables.sqlite.write_text(schema.written(connection, tables))``, and raise the layout."""
    connection = Database(f"sqlite:///{tmp_path}/kern.db").connect()
    assert tables.sqlite is not None
    assert tables.sqlite.read_text() == schema.written(connection, tables)
    connection.close()


def test_a_new_sqlite_file_is_used_without_sqlalchemy(tmp_path: Path) -> None:
    """Importing it would be half of the time in which a worker starts."""
    code = """
import sys
from kern_backend_sql import SqlResultStore
from kern_testing import make
store = SqlResultStore("sqlite:///new.db")
store.open()
document = make.document(store.document_form)
(plan,) = store.plan([document], [()])
assert store.write([plan])[0].error is None
assert set(store.read([document.task_id])) == {document.task_id}
store.sweep()
store.records().put("kind", "name", b"")
store.close()
print("sqlalchemy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "False"
