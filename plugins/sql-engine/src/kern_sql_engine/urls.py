"""Database URLs: the forms people write, and the database they mean.

========================================================  ==========================================================
written                                                   meant
========================================================  ==========================================================
``sqlite:///kern.db``, ``sqlite://kern.db``               a file, relative to the working directory
``sqlite:////var/lib/kern.db``                            a file
``postgresql://``, ``postgres://``, ``postgresql+X://``   PostgreSQL, always through psycopg 3
``mysql://``, ``mariadb://``, ``mysql+X://``              MySQL or MariaDB, always through PyMySQL
any of these behind ``sqla+ sqlalchemy+ db+ database+``   the same: Celery's way to name its SQL drivers
========================================================  ==========================================================
"""

from __future__ import annotations

import enum
import os
from typing import TYPE_CHECKING

import attrs

from kern.errors import ImproperlyConfigured, nearest
from kern.masking import mask_url

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

#: What Celery and kombu put before a database URL to choose their SQL drivers.
PREFIXES: tuple[str, ...] = ("sqla", "sqlalchemy", "db", "database")


class Family(enum.StrEnum):
    """Databases that differ in more than their name."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"
    MYSQL = "mysql"


#: Families by the name in a URL's scheme.
FAMILIES: dict[str, Family] = {
    "sqlite": Family.SQLITE,
    "postgresql": Family.POSTGRESQL,
    "postgres": Family.POSTGRESQL,
    "mysql": Family.MYSQL,
    "mariadb": Family.MYSQL,
}

#: URLs to show, by scheme.
EXAMPLES: dict[str, str] = {
    name: "sqlite:///kern.db" if family is Family.SQLITE else f"{name}://user@host/database"
    for name, family in FAMILIES.items()
}

_DRIVERS = {Family.POSTGRESQL: "postgresql+psycopg", Family.MYSQL: "mysql+pymysql"}
_PORTS = {Family.POSTGRESQL: 5432, Family.MYSQL: 3306}
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
#: Parameters of a URL that decide which database it is; all others say how to connect.
_IDENTIFYING = ("host", "port", "dbname", "service", "options", "unix_socket")


@attrs.frozen
class DatabaseUrl:
    """A database, as a URL names it."""

    family: Family
    #: The URL as it may be shown.
    masked: str
    #: The same for every spelling of the same database and user; never holds a password.
    identity: str
    #: For SQLAlchemy; ``None`` for a file.
    url: URL | None = attrs.field(default=None, repr=False, eq=False)
    #: Absolute path of the file; ``""`` for a server.
    path: str = ""

    @property
    def password(self) -> str:
        """The password, so that it can be kept out of messages; ``""`` when there is none."""
        return str(self.url.password or "") if self.url is not None else ""


def is_sql_url(text: str) -> bool:
    """Whether *text* is a URL of a database that :func:`parse` knows."""
    return _split(text)[0] in FAMILIES


def schemes(prefixes: tuple[str, ...] = ()) -> list[str]:
    """Every scheme :func:`parse` understands, with each of *prefixes* and without."""
    plain = [
        *FAMILIES,
        *(f"postgresql+{driver}" for driver in ("psycopg", "psycopg2", "psycopg2cffi", "pg8000", "asyncpg")),
        *(f"mysql+{driver}" for driver in ("pymysql", "mysqldb", "mysqlconnector", "mariadbconnector")),
        *(f"mariadb+{driver}" for driver in ("pymysql", "mysqldb", "mysqlconnector", "mariadbconnector")),
        *(f"sqlite+{driver}" for driver in ("pysqlite", "aiosqlite")),
    ]
    return plain + [f"{prefix}+{scheme}" for prefix in prefixes for scheme in plain]


def parse(text: str) -> DatabaseUrl:
    """The database that *text* names; relative paths are taken from the working directory of this moment.

    :raises ImproperlyConfigured: no URL, no database that kern knows, or none is named.
    """
    name, rest = _split(text)
    if name not in FAMILIES:
        known = ", ".join(f"{known}://" for known in FAMILIES)
        meant = nearest(name, FAMILIES) if name else None
        hint = f"; did you mean {meant}://?" if meant else ""
        raise ImproperlyConfigured(f"{mask_url(text)!r} is not the URL of a database kern knows ({known}){hint}")
    family = FAMILIES[name]
    return _file(text, rest) if family is Family.SQLITE else _server(family, text, rest)


def _split(text: str) -> tuple[str, str]:
    """The database's name in the scheme, without prefix and driver, and what follows ``://``."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return "", ""
    words = scheme.lower().split("+")
    if len(words) > 1 and words[0] in PREFIXES:
        words = words[1:]
    return words[0], rest


def _file(text: str, rest: str) -> DatabaseUrl:
    path, _, query = rest.partition("?")
    if path.startswith("/"):
        path = path[1:]
    if path in ("", ":memory:") or path.startswith("file:"):
        raise ImproperlyConfigured(
            f"{mask_url(text)!r} names no file, and a database in memory cannot be shared between processes; "
            "write sqlite:///kern.db (relative) or sqlite:////var/lib/kern.db (absolute)"
        )
    if query:
        raise ImproperlyConfigured(f"{mask_url(text)!r}: an SQLite URL takes no parameters here, remove '?{query}'")
    absolute = os.path.abspath(path)
    return DatabaseUrl(
        family=Family.SQLITE,
        masked=f"sqlite:///{absolute}",
        identity=f"sqlite:{os.path.realpath(absolute)}",
        path=absolute,
    )


def _server(family: Family, text: str, rest: str) -> DatabaseUrl:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    shown = mask_url(text)
    try:
        url = make_url(f"{_DRIVERS[family]}://{rest}")
    except (ArgumentError, ValueError) as error:
        # What SQLAlchemy says quotes the URL with its password.
        raise ImproperlyConfigured(
            f"{shown!r} cannot be read as a URL; write {family}://user:password@host/database "
            "with special characters of the password percent-encoded"
        ) from error
    query = {key: value if isinstance(value, str) else ",".join(value) for key, value in url.query.items()}
    if not (url.database or query.get("dbname") or query.get("service")):
        raise ImproperlyConfigured(f"{shown!r} names no database; write {family}://user:password@host/database")
    host = (url.host or "").lower()
    if host in _LOCAL:
        host = "localhost"
    where = f"{host}:{url.port or _PORTS[family]}" if host or url.port else ""
    more = "&".join(f"{key}={query[key]}" for key in _IDENTIFYING if query.get(key))
    identity = f"{family}://{url.username or ''}@{where}/{url.database or ''}{'?' if more else ''}{more}"
    return DatabaseUrl(family=family, masked=shown, identity=identity, url=url)
