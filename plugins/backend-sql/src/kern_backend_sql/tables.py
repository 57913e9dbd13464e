"""Celery's result tables and kern's tables for joins.

``celery_taskmeta`` and ``celery_tasksetmeta`` are those of Celery 5.7, whoever made them. Columns that an older Celery
did not have are added, as 5.7 does. Made by kern they are the same but for MySQL, where the types of bytes, text and
time are the wide ones (Celery's hold 64 KB and whole seconds) and ids are told apart exactly; Celery works with both.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from kern import log
from kern_sql_engine import Connection, Family, Kind, MysqlConnection, SqlError, schema

if TYPE_CHECKING:
    from sqlalchemy import MetaData

logger = log.get_logger("kern_backend_sql")

TASK_TABLE, GROUP_TABLE = "celery_taskmeta", "celery_tasksetmeta"
#: Columns of a task's row that kern writes, in order; the first four are in every version of the table.
TASK_COLUMNS = (
    "task_id", "status", "result", "date_done", "traceback",
    "children", "name", "args", "kwargs", "worker", "retries", "queue", "stamps",
)  # fmt: skip
#: Those a table of an older Celery may lack.
ADDED_COLUMNS = ("children", "name", "args", "kwargs", "worker", "retries", "queue", "stamps")
#: Longest id of a task or group.
ID_LENGTH = 155

#: Raised when the layout of the tables for joins changes.
JOINS_LAYOUT = 1


@attrs.frozen
class Names:
    """What the tables are called."""

    task: str = TASK_TABLE
    group: str = GROUP_TABLE
    task_schema: str | None = None
    group_schema: str | None = None


@attrs.frozen
class Layout:
    """The tables as they are in one database."""

    #: Names to be used in statements, quoted.
    task: str
    group: str
    #: Those of :data:`TASK_COLUMNS` that are there.
    columns: tuple[str, ...]
    #: The expression that makes a new row's number; ``None``: the database makes it by itself.
    task_number: str | None = None
    group_number: str | None = None
    #: ``date_done`` keeps whole seconds.
    coarse: bool = False
    #: ``traceback`` keeps 64 KB.
    narrow: bool = False


def quoted(name: str, family: Family) -> str:
    """*name* as an identifier."""
    mark = "`" if family is Family.MYSQL else '"'
    return f"{mark}{name.replace(mark, mark * 2)}{mark}"


def _full_name(name: str, schema_name: str | None, family: Family) -> str:
    return ".".join(quoted(part, family) for part in (schema_name, name) if part)


def celery_tables(names: Names) -> schema.Tables:
    """Celery's tables; those of names that a user chose are not written down for SQLite."""
    written = Path(__file__).with_name("celery.sql") if names == Names() else None
    return schema.Tables(lambda connection: _describe_celery(connection, names), written)


def _describe_celery(connection: Connection, names: Names) -> MetaData:
    from sqlalchemy import Column, DateTime, Integer, LargeBinary, MetaData, Sequence, String, Table, Text
    from sqlalchemy.dialects import mysql

    mysql_types = isinstance(connection, MysqlConnection)
    identifier = schema.text_type(connection, ID_LENGTH)
    content: Any = mysql.LONGBLOB() if mysql_types else LargeBinary()
    moment: Any = mysql.DATETIME(fsp=6) if mysql_types else DateTime()
    long_text: Any = mysql.LONGTEXT() if mysql_types else Text()
    made = MetaData()
    Table(
        names.task,
        made,
        Column("id", Integer, Sequence("task_id_sequence", schema=names.task_schema), primary_key=True),
        Column("task_id", identifier, unique=True),
        Column("status", String(50)),
        Column("result", content),
        Column("date_done", moment, index=True),
        Column("traceback", long_text),
        Column("children", content),
        Column("name", String(155)),
        Column("args", content),
        Column("kwargs", content),
        Column("worker", String(155)),
        Column("retries", Integer),
        Column("queue", String(155)),
        Column("stamps", content),
        schema=names.task_schema,
        sqlite_autoincrement=True,
    )
    Table(
        names.group,
        made,
        Column("id", Integer, Sequence("taskset_id_sequence", schema=names.group_schema), primary_key=True),
        Column("taskset_id", identifier, unique=True),
        Column("result", content),
        Column("date_done", moment, index=True),
        schema=names.group_schema,
        sqlite_autoincrement=True,
    )
    return made


def _describe_joins(connection: Connection) -> MetaData:
    from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, SmallInteger, String, Table, Text
    from sqlalchemy.dialects import mysql

    name = schema.name_type(connection)
    long_text: Any = mysql.LONGTEXT(charset="utf8mb4") if isinstance(connection, MysqlConnection) else Text()
    made = MetaData()
    join = Table(
        "kern_join",
        made,
        Column("id", name, primary_key=True),
        # Somebody opened it, and not only its parts told of it.
        Column("opened", SmallInteger, nullable=False),
        Column("policy", String(32), nullable=False),
        Column("needed", Integer),
        # Names of the members as JSON, or how many there are.
        Column("members", long_text),
        Column("size", Integer),
        Column("body", schema.bytes_type()),
        Column("on_error", schema.bytes_type()),
        Column("deadline", Double),
        Column("succeeded", Integer, nullable=False),
        Column("failed", Integer, nullable=False),
        Column("closed", SmallInteger, nullable=False),
        # When a sweeper is to look at it: at once (0) when it is decided, at its deadline, or never.
        Column("look_at", Double),
        # When it may be deleted; NULL: never.
        Column("expires", Double),
    )
    Index("kern_join_look", join.c.closed, join.c.look_at)
    Table(
        "kern_join_part",
        made,
        Column("join_id", name, primary_key=True),
        Column("member", name, primary_key=True),
        Column("number", BigInteger),
        Column("state", String(50), nullable=False),
        Column("result", schema.bytes_type()),
    )
    return made


#: ``kern_join`` and ``kern_join_part``.
JOIN_TABLES = schema.Tables(_describe_joins, Path(__file__).with_name("joins.sql"))


def ensure(connection: Connection, names: Names) -> Layout:
    """Create what is missing, add the columns an older Celery did not have, and see what is there.

    :raises SqlError: a table is missing and cannot be created.
    """
    schema.ensure(connection, "joins", JOINS_LAYOUT, JOIN_TABLES)
    layout = inspect(connection, names)
    if layout is None:
        _create(connection, names)
        layout = inspect(connection, names)
        if layout is None:
            raise SqlError(Kind.NO_TABLE, f"{connection.database.masked}: {names.task} was not created")
    missing = [column for column in ADDED_COLUMNS if column not in layout.columns]
    if missing:
        _add_columns(connection, names, missing)
        layout = inspect(connection, names) or layout
    return layout


def _create(connection: Connection, names: Names) -> None:
    with schema.creating(connection):
        schema.create(connection, celery_tables(names))


def _add_columns(connection: Connection, names: Names, missing: list[str]) -> None:
    described = {table.name: table for table in _describe_celery(connection, names).sorted_tables}[names.task]
    dialect = schema.sqlalchemy_dialect(connection)
    for column in missing:
        kind = described.c[column].type.compile(dialect=dialect)
        name = _full_name(names.task, names.task_schema, connection.database.family)
        try:
            connection.run(f"ALTER TABLE {name} ADD COLUMN {quoted(column, connection.database.family)} {kind}")
        except SqlError as error:
            # Another process may have been first; or nobody may, and then that field is not kept.
            logger.warning(f"column {column!r} is missing in {names.task} and cannot be added", error=str(error))


def inspect(connection: Connection, names: Names) -> Layout | None:
    """The tables as they are; ``None`` where one is missing."""
    columns = _columns(connection, names.task, names.task_schema)
    group_columns = _columns(connection, names.group, names.group_schema)
    if not columns or not group_columns:
        return None
    family = connection.database.family
    return Layout(
        task=_full_name(names.task, names.task_schema, family),
        group=_full_name(names.group, names.group_schema, family),
        columns=tuple(column for column in TASK_COLUMNS if column in columns),
        task_number=_number(columns, "task_id_sequence", names.task_schema, family),
        group_number=_number(group_columns, "taskset_id_sequence", names.group_schema, family),
        coarse="date_done" in columns and columns["date_done"].narrow,
        narrow="traceback" in columns and columns["traceback"].narrow,
    )


@attrs.frozen
class _Column:
    #: The database makes a value by itself.
    automatic: bool = False
    #: Whole seconds, or 64 KB.
    narrow: bool = False


def _columns(connection: Connection, table: str, schema_name: str | None) -> dict[str, _Column]:
    family = connection.database.family
    if family is Family.SQLITE:
        prefix = f"{quoted(schema_name, family)}." if schema_name else ""
        found = connection.rows(f"PRAGMA {prefix}table_info({quoted(table, family)})")
        return {str(row[1]): _Column(automatic=True) for row in found}
    if family is Family.POSTGRESQL:
        found = connection.rows(
            "SELECT a.attname, a.atthasdef OR a.attidentity <> '' FROM pg_attribute a "
            "WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped",
            (_full_name(table, schema_name, family),),
        )
        return {str(name): _Column(automatic=bool(automatic)) for name, automatic in found}
    found = connection.rows(
        "SELECT column_name, extra, data_type = 'text' OR datetime_precision = 0 FROM information_schema.columns "
        "WHERE table_schema = COALESCE(%s, DATABASE()) AND table_name = %s",
        (schema_name, table),
    )
    return {
        str(name): _Column(automatic="auto_increment" in str(extra).lower(), narrow=bool(narrow))
        for name, extra, narrow in found
    }


def _number(columns: dict[str, _Column], sequence: str, schema_name: str | None, family: Family) -> str | None:
    """SQLAlchemy makes tables whose numbers come from a sequence that the writer has to ask."""
    if "id" not in columns or columns["id"].automatic:
        return None
    name = _full_name(sequence, schema_name, family)
    if family is Family.POSTGRESQL:
        return "nextval('{}')".format(name.replace("'", "''"))
    return f"NEXTVAL({name})"
