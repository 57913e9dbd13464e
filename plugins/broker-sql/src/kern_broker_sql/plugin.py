"""Hook implementations; nothing heavy is imported before a URL is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kern.hookspecs import hookimpl

if TYPE_CHECKING:
    from kern.contracts.transport import BlockingTransport, TransportFactory

KERN_API = 1

#: What is used when no broker is configured: a file in the working directory.
DEFAULT_URL = "sqlite:///kern.db"


@hookimpl
def kern_transports() -> Mapping[str, TransportFactory]:
    from kern_sql_engine.urls import schemes

    return dict.fromkeys(schemes(prefixes=("sqla", "sqlalchemy")), make_transport)


@hookimpl
def kern_example_urls() -> Mapping[str, str]:
    from kern_sql_engine.urls import EXAMPLES

    return EXAMPLES


@hookimpl
def kern_default_broker() -> str | None:
    return DEFAULT_URL


def make_transport(url: str, conf: Any) -> BlockingTransport:
    """The transport of a database.

    :raises ImproperlyConfigured: the URL names no database that kern knows.
    :raises PluginMissing: the database's library is not installed.
    """
    from kern_broker_sql.transport import SqlTransport

    return SqlTransport(url, conf)
