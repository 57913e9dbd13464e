"""Hook implementations; nothing heavy is imported before a URL is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kern.hookspecs import hookimpl

if TYPE_CHECKING:
    from kern.contracts.result_store import BlockingResultStore, ResultStoreFactory
    from kern.settings import Section

KERN_API = 1

#: Names without a URL: the database is that of the setting ``database_url``.
ALIASES = ("db", "database")


@hookimpl
def kern_result_stores() -> Mapping[str, ResultStoreFactory]:
    from kern_sql_engine.urls import schemes

    return dict.fromkeys([*ALIASES, *schemes(prefixes=ALIASES)], make_store)


@hookimpl
def kern_example_urls() -> Mapping[str, str]:
    from kern_sql_engine.urls import EXAMPLES

    return {**EXAMPLES, **{alias: f"{alias}+{EXAMPLES['sqlite']}" for alias in ALIASES}}


@hookimpl
def kern_settings() -> Sequence[type[Section]]:
    from kern_backend_sql.settings import DatabaseSettings

    return [DatabaseSettings]


@hookimpl
def kern_default_backend(broker_url: str) -> str | None:
    from kern_sql_engine.urls import is_sql_url

    # Results beside the messages: then a task's end is one write.
    return broker_url if is_sql_url(broker_url) else None


def make_store(url: str, conf: Any) -> BlockingResultStore:
    """The result store of a database.

    :raises ImproperlyConfigured: no database is named, or none that kern knows; or an option cannot be used.
    :raises PluginMissing: the database's library is not installed.
    """
    from kern_backend_sql.store import SqlResultStore

    return SqlResultStore(url, conf)
