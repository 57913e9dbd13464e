"""The SQL transport: messages in tables of SQLite, PostgreSQL, MariaDB and MySQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kern_broker_sql.transport import SqlTransport

_EXPORTS = {
    "SqlTransport": "kern_broker_sql.transport",
}

__all__ = ["SqlTransport"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_EXPORTS[name]), name)
