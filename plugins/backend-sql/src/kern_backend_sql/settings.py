"""Settings of the SQL result store; names and defaults are Celery's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kern.settings import Section, setting

#: What an engine is made with when nobody says otherwise.
ENGINE_OPTIONS: Mapping[str, Any] = {"pool_pre_ping": True, "pool_recycle": 3600}


def _known_parts(value: Mapping[str, str | None] | None) -> None:
    unknown = sorted(set(value or ()) - {"task", "group"})
    if unknown:
        raise ValueError(f"expected the keys 'task' and 'group', not {', '.join(map(repr, unknown))}")


class DatabaseSettings(Section):
    """How results are kept in a database."""

    database_url: str | None = setting(
        None, "URL of the result database, when result_backend is 'db' or 'database' without one."
    )
    database_engine_options: dict[str, Any] | None = setting(
        dict(ENGINE_OPTIONS),
        "Options of SQLAlchemy's create_engine. pool_pre_ping tries an idle connection before it is used, pool_recycle "
        "(seconds) replaces an old one.",
    )
    database_engine_callback: Callable[..., Any] | str | None = setting(
        None, "Called with each new engine; a callable or the dotted name of one."
    )
    database_short_lived_sessions: bool = setting(
        False, "Each operation has a connection of its own, closed when it is done."
    )
    database_table_schemas: dict[str, str | None] | None = setting(
        None, "Schemas of the tables: {'task': ..., 'group': ...}.", validate=_known_parts
    )
    database_table_names: dict[str, str | None] | None = setting(
        None,
        "Names of the tables: {'task': ..., 'group': ...}; by default celery_taskmeta and celery_tasksetmeta.",
        validate=_known_parts,
    )
    database_create_tables_at_setup: bool = setting(
        True, "Tables that are missing are created when the store connects, and not with the first result."
    )
