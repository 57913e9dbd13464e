"""The transport's tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kern_broker_sql.tables import TABLES
from kern_sql_engine import Database, schema


def test_the_file_for_sqlite_says_what_the_description_says(tmp_path: Path) -> None:
    """If not: ``TABLES.sqlite.write_text(schema.written(connection, TABLES))``, and raise ``LAYOUT``."""
    connection = Database(f"sqlite:///{tmp_path}/kern.db").connect()
    assert TABLES.sqlite is not None
    assert TABLES.sqlite.read_text() == schema.written(connection, TABLES)
    connection.close()


def test_a_new_sqlite_file_is_used_without_sqlalchemy(tmp_path: Path) -> None:
    """Importing it would be half of the time in which a worker starts."""
    code = """
import sys
from kern.contracts.transport import Owner
from kern_broker_sql import SqlTransport
from kern_testing import make
transport = SqlTransport("sqlite:///new.db")
transport.open(Owner("me"), [], ["q"])
assert transport.publish([make.publication("q")]) == [None]
(delivery,) = transport.claim(make.claim_of("q")).deliveries
assert transport.settle([make.settlement(delivery)])[0].error is None
transport.records().put("kind", "name", b"")
transport.close()
print("sqlalchemy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "False"
