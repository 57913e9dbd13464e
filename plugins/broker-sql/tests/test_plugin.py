"""What the plugin hands over."""

from __future__ import annotations

import subprocess
import sys

from kern_broker_sql import plugin
from kern_broker_sql.transport import SqlTransport


def test_every_way_to_name_a_database_is_offered() -> None:
    offered = plugin.kern_transports()
    for scheme in (
        "sqlite",
        "postgresql",
        "postgres",
        "postgresql+psycopg",
        "mysql",
        "mariadb",
        "mysql+pymysql",
        "sqla+sqlite",
        "sqlalchemy+postgresql",
    ):
        assert scheme in offered
    # Celery's names of result stores are no transports.
    assert "db+sqlite" not in offered


def test_without_a_broker_there_is_a_file() -> None:
    url = plugin.kern_default_broker()
    assert url is not None
    transport = plugin.kern_transports()["sqlite"](url, None)
    assert isinstance(transport, SqlTransport)
    assert transport.url.endswith("/kern.db")


def test_loading_the_plugin_imports_nothing_heavy() -> None:
    """Neither SQLAlchemy nor a database's library; and a file needs none of them at all."""
    code = """
import sys
from kern_broker_sql import plugin
plugin.kern_transports()
print(sorted({"sqlalchemy", "psycopg", "pymysql", "sqlite3", "kern_broker_sql.transport"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
