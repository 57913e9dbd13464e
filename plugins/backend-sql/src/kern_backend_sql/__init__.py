"""The SQL result store: results in Celery's tables, in SQLite, PostgreSQL, MariaDB and MySQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kern_backend_sql.settings import DatabaseSettings
    from kern_backend_sql.store import SqlResultStore

_EXPORTS = {
    "DatabaseSettings": "kern_backend_sql.settings",
    "SqlResultStore": "kern_backend_sql.store",
}

__all__ = ["DatabaseSettings", "SqlResultStore"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_EXPORTS[name]), name)
