"""Creating tables, by several processes at once and only once.

What tables there are is written down in ``kern_meta`` under a component's name; while that is current nothing is asked
of SQLAlchemy, which is then not even imported. Nor is it for the tables of a new SQLite file: importing it would take
half of the time in which a worker starts, so what it makes of them is kept beside their description, as files of SQL.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from kern_sql_engine.connections import Connection, MysqlConnection, Statements
from kern_sql_engine.failures import Kind, SqlError
from kern_sql_engine.urls import Family

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table
    from sqlalchemy.engine import Dialect as SqlalchemyDialect

#: Number of the lock that creators of tables take; any number that nobody else takes.
_LOCK = 0x6B65726E
#: Seconds to wait for another process that is creating tables.
_PATIENCE = 30

#: Longest name that is looked up, in characters.
NAME_LENGTH = 255
#: Between two statements of a file.
_BETWEEN = ";\n\n"
#: The entry of ``kern_meta`` that tells databases apart.
_DATABASE = "database"


@attrs.frozen
class Tables:
    """Tables and their indexes, described twice."""

    #: For SQLAlchemy, which makes each database's own words of it.
    describe: Callable[[Connection], MetaData]
    #: A file with what it makes of it for SQLite; ``None``: it is asked. See :func:`written`.
    sqlite: Path | None = None


def text_type(connection: Connection, length: int) -> Any:
    """The type of a column of text that tells all texts apart, also by case and by spaces at the end."""
    from sqlalchemy import String
    from sqlalchemy.dialects import mysql

    if isinstance(connection, MysqlConnection):
        return mysql.VARCHAR(length, charset="utf8mb4", collation=connection.exact_collation)
    return String(length)


def name_type(connection: Connection) -> Any:
    """The type of a column that holds a name; see :func:`text_type`."""
    return text_type(connection, NAME_LENGTH)


def bytes_type() -> Any:
    """The type of a column that holds bytes of any length."""
    from sqlalchemy import LargeBinary
    from sqlalchemy.dialects import mysql

    return LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def number_type() -> Any:
    """The type of a key that the database counts up."""
    from sqlalchemy import BigInteger, Integer

    # In SQLite only INTEGER is the row's own number.
    return BigInteger().with_variant(Integer(), "sqlite")


def ensure(connection: Connection, component: str, version: int, tables: Tables) -> None:
    """Create the tables of *component* that are missing.

    :param version: of the layout; raised when it changes.
    :raises SqlError: they are not there and cannot be created, or are those of a newer kern.
    """
    known = _version(connection, component)
    if known == version:
        return
    if known is not None and known > version:
        raise SqlError(
            Kind.UNUSABLE,
            f"{connection.database.masked}: its {component} tables were made by a newer kern (layout {known}, this one "
            f"knows {version}); upgrade this one",
        )
    with creating(connection):
        if _version(connection, component) == version:
            return
        create(connection, tables)
        create(connection, META)
        columns, key = ["name", "content"], ["name"]
        dialect = connection.dialect
        connection.run(dialect.sql(dialect.insert("kern_meta", columns, key)), (_DATABASE, uuid.uuid4().hex))
        # Last: whoever reads it finds the rest.
        connection.run(dialect.sql(dialect.insert("kern_meta", columns, key, keep=False)), (component, str(version)))


def database_id(statements: Statements) -> str | None:
    """What tells this database from all others, wherever it is reached; ``None`` where kern has no tables."""
    found = _noted(statements, _DATABASE)
    return str(found) if found is not None else None


@contextmanager
def creating(connection: Connection) -> Iterator[None]:
    """One at a time, of all processes; a transaction where tables are created in one."""
    if connection.database.family is Family.MYSQL:
        # A table is there at once and for all: what keeps others away is not the transaction.
        connection.value("SELECT GET_LOCK(CONCAT('kern:', DATABASE()), %s)", (_PATIENCE,))
        try:
            yield
        finally:
            connection.value("SELECT RELEASE_LOCK(CONCAT('kern:', DATABASE()))")
        return
    with connection.transaction():
        if connection.database.family is Family.POSTGRESQL:
            connection.run("SET LOCAL lock_timeout = 0")
            connection.rows(f"SELECT pg_advisory_xact_lock({_LOCK})")
        yield


def create(connection: Connection, tables: Tables) -> None:
    """Create tables and indexes that are missing; inside :func:`creating`."""
    if connection.database.family is Family.SQLITE and tables.sqlite is not None:
        for statement in tables.sqlite.read_text().split(_BETWEEN):
            connection.run(statement)
    else:
        for statement in _statements(connection, tables.describe(connection)):
            connection.run(statement)


def written(connection: Connection, tables: Tables) -> str:
    """What the file :attr:`Tables.sqlite` has to say, by a *connection* to SQLite."""
    return _BETWEEN.join(_statements(connection, tables.describe(connection))) + ";\n"


def _statements(connection: Connection, tables: MetaData) -> Iterator[str]:
    from sqlalchemy import Sequence
    from sqlalchemy.schema import CreateIndex, CreateSequence, CreateTable

    dialect = sqlalchemy_dialect(connection)
    for table in tables.sorted_tables:
        for column in table.columns if dialect.supports_sequences else ():
            if isinstance(column.default, Sequence):
                yield _ddl(CreateSequence(column.default, if_not_exists=True), dialect)
        existing = _indexes(connection, table) if connection.database.family is Family.MYSQL else None
        yield _ddl(CreateTable(table, if_not_exists=True), dialect)
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if existing is None:
                yield _ddl(CreateIndex(index, if_not_exists=True), dialect)
            elif index.name not in existing:
                yield _ddl(CreateIndex(index), dialect)


def sqlalchemy_dialect(connection: Connection) -> SqlalchemyDialect:
    """SQLAlchemy's idea of the database."""
    if connection.database.family is Family.SQLITE:
        from sqlalchemy.dialects import sqlite

        return sqlite.dialect()
    url = connection.database.url
    assert url is not None
    if isinstance(connection, MysqlConnection) and connection.mariadb:
        dialect = url.set(drivername="mariadb+pymysql").get_dialect()()
        # SQLAlchemy asks the server for its version to know that; ours have them.
        dialect.supports_sequences = True
        return dialect
    return url.get_dialect()()


def _ddl(statement: Any, dialect: SqlalchemyDialect) -> str:
    text = str(statement.compile(dialect=dialect)).strip().replace("%%", "%").expandtabs(4)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _indexes(connection: Connection, table: Table) -> set[str]:
    """MySQL, unlike MariaDB, cannot create an index only if it is missing."""
    found = connection.rows(
        "SELECT DISTINCT index_name FROM information_schema.statistics WHERE table_schema = DATABASE() "
        "AND table_name = %s",
        (table.name,),
    )
    return {str(row[0]) for row in found}


def _version(connection: Connection, component: str) -> int | None:
    found = _noted(connection, component)
    return int(found) if found is not None else None


def _noted(statements: Statements, name: str) -> Any:
    """An entry of ``kern_meta``; ``None`` where there is none, or no table."""
    # Asking PostgreSQL for a table that is not there would end the transaction.
    there = "SELECT to_regclass('kern_meta')::text"
    if statements.dialect.family is Family.POSTGRESQL and statements.value(there) is None:
        return None
    try:
        return statements.value(statements.dialect.sql("SELECT content FROM kern_meta WHERE name = ?"), (name,))
    except SqlError as error:
        if error.kind is Kind.NO_TABLE:
            return None
        raise


def _describe_meta(connection: Connection) -> MetaData:
    from sqlalchemy import Column, MetaData, String, Table

    tables = MetaData()
    Table(
        "kern_meta",
        tables,
        Column("name", name_type(connection), primary_key=True),
        Column("content", String(255), nullable=False),
    )
    return tables


#: The table ``kern_meta``.
META = Tables(_describe_meta, Path(__file__).with_name("meta.sql"))
