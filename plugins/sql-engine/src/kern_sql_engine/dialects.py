"""In what the databases differ, in one place.

Statements are written once, with ``?`` for parameters and these words in braces:

===========  =======================================================================================================
``{now}``    the time in seconds since the epoch: the server's, or for a file the clock of its host
``{in}``     ``id {in}``: one of the values of one parameter, made by :meth:`Dialect.values` and never empty
``{lock}``   at the end of a ``SELECT`` in a transaction: nobody else changes these rows until it ends
``{skip}``   the same, but rows that somebody else has locked are left out
===========  =======================================================================================================

:meth:`Dialect.sql` makes of it what the database's library takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kern_sql_engine.urls import Family


class Dialect:
    """How one family writes it."""

    family: Family
    #: What stands for each word in braces.
    words: Mapping[str, str]
    #: What stands for a parameter.
    parameter: str = "%s"
    #: Whether committed changes can be announced to other connections.
    notifies: bool = False

    def sql(self, text: str) -> str:
        """*text* as the database's library takes it."""
        if self.parameter != "?":
            text = text.replace("%", "%%")
        for word, written in self.words.items():
            text = text.replace(f"{{{word}}}", written)
        return text.replace("?", self.parameter)

    def values(self, values: Sequence[Any]) -> Any:
        """The parameter for ``{in}``; *values* are of one type, integers or text, and at least one."""
        return list(values)

    def insert(self, table: str, columns: Sequence[str], conflict: Sequence[str] = (), keep: bool = True) -> str:
        """``INSERT`` of one row, in the notation of :meth:`sql`.

        :param conflict: columns of a unique key: a row that has them is kept or, without *keep*, overwritten.
        """
        into = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        if not conflict:
            return into
        changed = [] if keep else [column for column in columns if column not in conflict]
        return f"{into} {self.on_conflict(conflict, changed)}"

    def on_conflict(self, key: Sequence[str], changed: Sequence[str], table: str = "", only_if: str = "") -> str:
        """What follows an ``INSERT`` whose row may be there: *changed* columns take the new values.

        :param only_if: a condition on the rows, with ``{old.x}`` and ``{new.x}`` for columns; needs *table*. Not for
            MySQL.
        """
        target = f"ON CONFLICT ({', '.join(key)}) DO "
        if not changed:
            return target + "NOTHING"
        update = target + "UPDATE SET " + ", ".join(f"{column} = excluded.{column}" for column in changed)
        return f"{update} WHERE {_rows(only_if, table + '.{}', 'excluded.{}')}" if only_if else update


class SqliteDialect(Dialect):
    """SQLite: one writer at a time, so that nothing needs a lock of its own."""

    family = Family.SQLITE
    parameter = "?"
    # A function of ours: SQLite's own clock has milliseconds only.
    words: Mapping[str, str] = {
        "now": "kern_now()",
        "in": "IN (SELECT value FROM json_each(?))",
        "lock": "",
        "skip": "",
    }

    def values(self, values: Sequence[Any]) -> str:
        return json.dumps(list(values))


class PostgresqlDialect(Dialect):
    """PostgreSQL through psycopg 3."""

    family = Family.POSTGRESQL
    words: Mapping[str, str] = {
        "now": "extract(epoch from clock_timestamp())::double precision",
        "in": "= ANY(?)",
        "lock": "FOR UPDATE",
        "skip": "FOR UPDATE SKIP LOCKED",
    }
    notifies = True


class MysqlDialect(Dialect):
    """MariaDB and MySQL through PyMySQL."""

    family = Family.MYSQL
    # SYSDATE is the time now, NOW that of the statement's start; connections have the time zone +00:00.
    words: Mapping[str, str] = {
        "now": "(UNIX_TIMESTAMP(SYSDATE(6)) + 0e0)",
        "in": "IN ?",
        "lock": "FOR UPDATE",
        "skip": "FOR UPDATE SKIP LOCKED",
    }

    def on_conflict(self, key: Sequence[str], changed: Sequence[str], table: str = "", only_if: str = "") -> str:
        if not changed:
            return f"ON DUPLICATE KEY UPDATE {key[0]} = {key[0]}"
        if only_if:
            raise ValueError("MySQL knows no condition here; lock the rows and decide before")
        return "ON DUPLICATE KEY UPDATE " + ", ".join(f"{column} = VALUES({column})" for column in changed)


def _rows(condition: str, old: str, new: str) -> str:
    """The *condition* with its columns of the old and the new row written out."""
    import re

    condition = re.sub(r"\{old\.(\w+)\}", lambda found: old.format(found[1]), condition)
    return re.sub(r"\{new\.(\w+)\}", lambda found: new.format(found[1]), condition)


DIALECTS: Mapping[Family, Dialect] = {
    dialect.family: dialect for dialect in (SqliteDialect(), PostgresqlDialect(), MysqlDialect())
}
