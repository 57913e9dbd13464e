"""What went wrong in a database, in one line: told apart by kind, with the remedy where there is one.

Only this module knows the errors of sqlite3, psycopg and PyMySQL. The drivers turn a :class:`SqlError` into the error
of their contract.
"""

from __future__ import annotations

import enum
import os
import sqlite3
import sys
from collections.abc import Mapping
from typing import Any

import attrs

from kern.errors import KernError
from kern.masking import mask_url
from kern_sql_engine.urls import DatabaseUrl, Family


class Kind(enum.Enum):
    """What went wrong."""

    #: The server cannot be reached, or ended the connection; or the disk does not answer.
    UNREACHABLE = "unreachable"
    #: User or password are wrong.
    CREDENTIALS = "credentials"
    #: There is no such database, or no such folder.
    ABSENT = "absent"
    #: The file is none of SQLite's, or damaged.
    UNUSABLE = "unusable"
    #: Not allowed to write (or read).
    FORBIDDEN = "forbidden"
    #: No space left.
    FULL = "full"
    #: Somebody else holds a lock for too long.
    BUSY = "busy"
    #: The database undid the transaction in favour of another; trying again helps.
    CONFLICT = "conflict"
    #: A value does not fit.
    DATA = "data"
    #: A table or column is missing.
    NO_TABLE = "no-table"
    OTHER = "other"


#: Kinds that pass by themselves or by somebody's doing, while this process goes on.
_PASSING = frozenset({Kind.UNREACHABLE, Kind.BUSY, Kind.FULL, Kind.CONFLICT})


@attrs.frozen
class _Finding:
    kind: Kind
    text: str
    lost: bool = False


class SqlError(KernError):
    """The database could not do what was asked.

    :ivar kind: what went wrong.
    :ivar retryable: whether trying again later may help.
    :ivar lost: the connection cannot be used any more.
    :ivar committing: it happened while a transaction was being committed, so that its end is not known.
    """

    def __init__(self, kind: Kind, text: str, lost: bool = False, committing: bool = False) -> None:
        self.kind, self.lost, self.committing = kind, lost, committing
        super().__init__(text)

    @property
    def retryable(self) -> bool:
        return self.kind in _PASSING


def failure(
    error: BaseException, database: DatabaseUrl, connecting: bool = False, committing: bool = False
) -> SqlError:
    """*error* of a database library as a :class:`SqlError` that names the database and hides the password."""
    found = _FINDERS[database.family](error, database, connecting)
    text = _without_password(f"{database.masked}: {found.text}", database)
    # Whoever still has a connection was told that nothing was committed.
    return SqlError(found.kind, text, lost=found.lost, committing=committing and found.lost)


def _without_password(text: str, database: DatabaseUrl) -> str:
    line = " ".join(mask_url(text).split())
    password = database.password
    return line.replace(password, "********") if len(password) > 3 else line


# -- SQLite ------------------------------------------------------------------------------------------------------------


def _sqlite(error: BaseException, database: DatabaseUrl, connecting: bool) -> _Finding:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    path = database.path
    said = str(error)
    if code == sqlite3.SQLITE_CANTOPEN:
        return _cannot_open(path)
    if code == sqlite3.SQLITE_NOTADB:
        return _Finding(Kind.UNUSABLE, "the file is not an SQLite database; name another file", lost=True)
    if code == sqlite3.SQLITE_CORRUPT:
        return _Finding(
            Kind.UNUSABLE, "the database file is damaged; restore a copy, or try 'sqlite3 FILE .recover'", lost=True
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return _Finding(
            Kind.FORBIDDEN, f"the file is read-only for {_who()}, and SQLite must also write beside it in its folder"
        )
    if code == sqlite3.SQLITE_FULL:
        return _Finding(Kind.FULL, "the disk is full, or the database has reached its largest size; make space")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return _Finding(Kind.BUSY, "another process keeps the database locked")
    if code == sqlite3.SQLITE_TOOBIG or isinstance(error, sqlite3.DataError | OverflowError):
        return _Finding(Kind.DATA, f"a value does not fit ({said})")
    if "no such table" in said or "no such column" in said or "has no column" in said:
        return _Finding(Kind.NO_TABLE, said)
    if code == sqlite3.SQLITE_CONSTRAINT:
        return _Finding(Kind.DATA, said)
    if code == sqlite3.SQLITE_IOERR:
        return _Finding(Kind.UNREACHABLE, f"the disk reports an error ({said})", lost=True)
    if isinstance(error, UnicodeEncodeError):
        return _Finding(Kind.DATA, f"text that is not Unicode: {error.reason}")
    return _Finding(Kind.OTHER, said or type(error).__name__)


def _cannot_open(path: str) -> _Finding:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return _Finding(Kind.ABSENT, f"the folder {folder} does not exist; create it")
    if os.path.isdir(path):
        return _Finding(Kind.UNUSABLE, "this is a folder, not a file")
    if os.path.exists(path) and not os.access(path, os.R_OK):
        return _Finding(Kind.FORBIDDEN, f"the file cannot be read by {_who()}")
    if not os.access(folder, os.W_OK | os.X_OK):
        return _Finding(Kind.FORBIDDEN, f"{_who()} may not write to the folder {folder}")
    return _Finding(Kind.OTHER, "the file cannot be opened")


def _who() -> str:
    if sys.platform == "win32":
        return "this user"
    import pwd

    try:
        return f"user {pwd.getpwuid(os.geteuid()).pw_name!r}"
    except KeyError:
        return f"user {os.geteuid()}"


# -- PostgreSQL --------------------------------------------------------------------------------------------------------

_POSTGRESQL_STATES: Mapping[str, tuple[Kind, bool]] = {
    "28": (Kind.CREDENTIALS, True),
    "3D": (Kind.ABSENT, True),
    "08": (Kind.UNREACHABLE, True),
    "57P": (Kind.UNREACHABLE, True),
    "53100": (Kind.FULL, False),
    "53": (Kind.UNREACHABLE, False),
    "25006": (Kind.FORBIDDEN, False),
    "42501": (Kind.FORBIDDEN, False),
    "40": (Kind.CONFLICT, False),
    "55P03": (Kind.BUSY, False),
    "57014": (Kind.BUSY, False),
    "42P01": (Kind.NO_TABLE, False),
    "42703": (Kind.NO_TABLE, False),
    "22": (Kind.DATA, False),
    "23": (Kind.DATA, False),
    "54": (Kind.DATA, False),
}


def _postgresql(error: BaseException, database: DatabaseUrl, connecting: bool) -> _Finding:
    said = str(error).strip()
    state = str(getattr(error, "sqlstate", None) or "")
    for length in (5, 3, 2):
        if state[:length] in _POSTGRESQL_STATES:
            kind, lost = _POSTGRESQL_STATES[state[:length]]
            return _Finding(kind, _primary(error, said), lost)
    if connecting:
        # libpq hands over the server's words without their code when there is no connection yet.
        lowered = said.lower()
        if "authentication failed" in lowered or "no password supplied" in lowered or "pg_hba.conf" in lowered:
            return _Finding(Kind.CREDENTIALS, "the server refuses this user and password", lost=True)
        if "database" in lowered and "does not exist" in lowered:
            return _Finding(Kind.ABSENT, "the server has no database of that name; create it", lost=True)
        if "role" in lowered and "does not exist" in lowered:
            return _Finding(Kind.CREDENTIALS, "the server knows no user of that name", lost=True)
        return _Finding(Kind.UNREACHABLE, f"the server cannot be reached ({_last_line(said)})", lost=True)
    import psycopg

    if isinstance(error, psycopg.InterfaceError) or (isinstance(error, psycopg.OperationalError) and not state):
        return _Finding(Kind.UNREACHABLE, f"the connection was lost ({_last_line(said)})", lost=True)
    if isinstance(error, psycopg.DataError | UnicodeEncodeError):
        return _Finding(Kind.DATA, _primary(error, said))
    return _Finding(Kind.OTHER, _primary(error, said))


def _primary(error: BaseException, said: str) -> str:
    diagnostic = getattr(error, "diag", None)
    return str(getattr(diagnostic, "message_primary", None) or _last_line(said) or type(error).__name__)


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else ""


# -- MySQL and MariaDB -------------------------------------------------------------------------------------------------

_MYSQL_CODES: Mapping[int, tuple[Kind, bool]] = {
    1040: (Kind.UNREACHABLE, True),  # too many connections
    1044: (Kind.CREDENTIALS, True),
    1045: (Kind.CREDENTIALS, True),
    1698: (Kind.CREDENTIALS, True),
    1049: (Kind.ABSENT, True),
    1021: (Kind.FULL, False),
    1041: (Kind.FULL, False),
    1114: (Kind.FULL, False),
    1290: (Kind.FORBIDDEN, False),
    1142: (Kind.FORBIDDEN, False),
    1792: (Kind.FORBIDDEN, False),
    1836: (Kind.FORBIDDEN, False),
    1205: (Kind.BUSY, False),
    1213: (Kind.CONFLICT, False),
    1020: (Kind.CONFLICT, False),
    1054: (Kind.NO_TABLE, False),
    1146: (Kind.NO_TABLE, False),
    1053: (Kind.UNREACHABLE, True),
    1927: (Kind.UNREACHABLE, True),
    2003: (Kind.UNREACHABLE, True),
    2006: (Kind.UNREACHABLE, True),
    2013: (Kind.UNREACHABLE, True),
    2014: (Kind.UNREACHABLE, True),
    1153: (Kind.DATA, True),  # a packet larger than max_allowed_packet; the server hangs up
    1406: (Kind.DATA, False),
}


def _mysql(error: BaseException, database: DatabaseUrl, connecting: bool) -> _Finding:
    import pymysql.err

    arguments: tuple[Any, ...] = getattr(error, "args", ())
    code = arguments[0] if arguments and isinstance(arguments[0], int) else 0
    said = str(arguments[1]) if len(arguments) > 1 else str(error)
    if code in _MYSQL_CODES:
        kind, lost = _MYSQL_CODES[code]
        if kind is Kind.CREDENTIALS:
            return _Finding(kind, "the server refuses this user and password", lost)
        if kind is Kind.ABSENT:
            return _Finding(kind, "the server has no database of that name; create it", lost)
        if code in (2003, 2013) and connecting:
            return _Finding(kind, f"the server cannot be reached ({said})", lost)
        return _Finding(kind, said, lost)
    if isinstance(error, pymysql.err.InterfaceError | OSError):
        return _Finding(Kind.UNREACHABLE, f"the connection was lost ({said or 'closed'})", lost=True)
    if connecting:
        return _Finding(Kind.UNREACHABLE, f"the server cannot be reached ({said})", lost=True)
    if isinstance(error, pymysql.err.DataError | pymysql.err.IntegrityError | UnicodeEncodeError):
        return _Finding(Kind.DATA, said)
    return _Finding(Kind.OTHER, said or type(error).__name__)


_FINDERS = {Family.SQLITE: _sqlite, Family.POSTGRESQL: _postgresql, Family.MYSQL: _mysql}
