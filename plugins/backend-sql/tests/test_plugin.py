"""What the plugin hands over."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kern_backend_sql import plugin
from kern_backend_sql.settings import DatabaseSettings


def test_every_way_to_name_a_database_is_offered() -> None:
    offered = plugin.kern_result_stores()
    for scheme in ("db", "database", "sqlite", "db+sqlite", "db+postgresql+psycopg2", "database+mysql", "postgres"):
        assert scheme in offered
    # Celery's names of transports are no result stores.
    assert "sqla+sqlite" not in offered


def test_its_settings_are_celerys() -> None:
    assert plugin.kern_settings() == [DatabaseSettings]
    settings = DatabaseSettings()
    assert settings.database_engine_options == {"pool_pre_ping": True, "pool_recycle": 3600}
    assert settings.database_create_tables_at_setup
    assert not settings.database_short_lived_sessions


@pytest.mark.parametrize(
    ("broker", "backend"),
    [
        ("sqlite:///kern.db", "sqlite:///kern.db"),
        ("postgresql://h/d", "postgresql://h/d"),
        ("redis://localhost", None),
        ("memory://", None),
    ],
)
def test_results_go_where_the_messages_are(broker: str, backend: str | None) -> None:
    assert plugin.kern_default_backend(broker) == backend


def test_loading_the_plugin_imports_nothing_heavy() -> None:
    code = """
import sys
from kern_backend_sql import plugin
plugin.kern_result_stores(), plugin.kern_settings(), plugin.kern_default_backend("sqlite:///kern.db")
print(sorted({"sqlalchemy", "psycopg", "pymysql", "sqlite3", "kern_backend_sql.store"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
