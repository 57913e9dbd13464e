"""Tables of SQLite are written down, and are what SQLAlchemy makes of their description."""

from __future__ import annotations

from pathlib import Path

import pytest

from kern_sql_engine import Database, records, schema


@pytest.mark.parametrize("tables", [schema.META, records.TABLES], ids=["meta", "records"])
def test_the_file_says_what_the_description_says(tables: schema.Tables, tmp_path: Path) -> None:
    """If not: ``tables.sqlite.write_text(schema.written(connection, tables))``, and raise the layout."""
    connection = Database(f"sqlite:///{tmp_path}/kern.db").connect()
    assert tables.sqlite is not None
    assert tables.sqlite.read_text() == schema.written(connection, tables)
    connection.close()


def test_tables_without_a_file_are_made_from_their_description(tmp_path: Path) -> None:
    """The same tables, in another file."""
    found = []
    for name, tables in (("file", records.TABLES), ("description", schema.Tables(records.TABLES.describe))):
        connection = Database(f"sqlite:///{tmp_path}/{name}.db").connect()
        schema.ensure(connection, "records", records.LAYOUT, tables)
        found.append(connection.rows("SELECT name, sql FROM sqlite_master ORDER BY name"))
        connection.close()
    assert found[0] == found[1]
    assert {"kern_record", "kern_record_expires", "kern_meta"} <= {name for name, _ in found[0]}
