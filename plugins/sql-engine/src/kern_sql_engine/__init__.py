"""What the SQL drivers of kern share: URLs, connections, dialects, one transaction for broker and results, records.

Everything is imported when it is first used: to know the schemes of URLs costs no database library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kern_sql_engine.connections import (
        CallersConnection,
        Connection,
        MysqlConnection,
        PostgresqlConnection,
        SqliteConnection,
        Statements,
    )
    from kern_sql_engine.database import Database
    from kern_sql_engine.dialects import Dialect
    from kern_sql_engine.failures import Kind, SqlError
    from kern_sql_engine.filewatch import FileWatch
    from kern_sql_engine.link import Link
    from kern_sql_engine.plans import PlanWriter, SqlPlan
    from kern_sql_engine.records import SqlRecords
    from kern_sql_engine.urls import DatabaseUrl, Family

_EXPORTS = {
    "CallersConnection": "kern_sql_engine.connections",
    "Connection": "kern_sql_engine.connections",
    "Database": "kern_sql_engine.database",
    "DatabaseUrl": "kern_sql_engine.urls",
    "Dialect": "kern_sql_engine.dialects",
    "Family": "kern_sql_engine.urls",
    "FileWatch": "kern_sql_engine.filewatch",
    "Kind": "kern_sql_engine.failures",
    "Link": "kern_sql_engine.link",
    "MysqlConnection": "kern_sql_engine.connections",
    "PlanWriter": "kern_sql_engine.plans",
    "PostgresqlConnection": "kern_sql_engine.connections",
    "SqlError": "kern_sql_engine.failures",
    "SqlPlan": "kern_sql_engine.plans",
    "SqlRecords": "kern_sql_engine.records",
    "SqliteConnection": "kern_sql_engine.connections",
    "Statements": "kern_sql_engine.connections",
}

__all__ = [
    "CallersConnection",
    "Connection",
    "Database",
    "DatabaseUrl",
    "Dialect",
    "Family",
    "FileWatch",
    "Kind",
    "Link",
    "MysqlConnection",
    "PlanWriter",
    "PostgresqlConnection",
    "SqlError",
    "SqlPlan",
    "SqlRecords",
    "SqliteConnection",
    "Statements",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(_EXPORTS[name]), name)
    return found
