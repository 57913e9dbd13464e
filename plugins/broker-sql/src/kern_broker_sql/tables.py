"""The tables of the transport.

``kern_message``      one row a message and queue, in one of three states: ready (0), leased (1), delayed (2)
``kern_quarantine``   what is kept for a person to look at
``kern_queue``        queues that were declared
``kern_binding``      which queue gets what is published to which exchange
``kern_presence``     workers and when they were last heard of
``kern_broadcast``    what was sent to everybody lately; ``kern_broadcast_head`` counts it

``nice`` is the negated priority, so that every index is read forwards: smaller is first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kern_sql_engine import Connection, Family
from kern_sql_engine.schema import Tables, bytes_type, name_type, number_type, text_type

if TYPE_CHECKING:
    from sqlalchemy import MetaData

#: Raised when the layout changes.
LAYOUT = 1

READY, LEASED, DELAYED = 0, 1, 2

#: Longest key of a message in quarantine; MySQL indexes no more than 3072 bytes, four a character.
KEY_LENGTH = 760


def _describe(connection: Connection) -> MetaData:
    from sqlalchemy import (
        BigInteger,
        Column,
        Double,
        Index,
        Integer,
        MetaData,
        SmallInteger,
        String,
        Table,
        Text,
        UniqueConstraint,
        text,
    )
    from sqlalchemy.dialects import mysql

    made = MetaData()
    name = name_type(connection)
    key = text_type(connection, KEY_LENGTH)
    long_text = Text().with_variant(mysql.LONGTEXT(charset="utf8mb4"), "mysql", "mariadb")
    zero = text("0")
    message = Table(
        "kern_message",
        made,
        Column("id", number_type(), primary_key=True, autoincrement=True),
        Column("queue", name, nullable=False),
        Column("task_id", name),
        Column("nice", Integer, nullable=False, server_default=zero),
        Column("state", SmallInteger, nullable=False, server_default=zero),
        # When it became ready, which is also its turn; seconds since the epoch, like all times here.
        Column("ready_at", Double, nullable=False),
        Column("due", Double),
        # The lease: half of its receipt, whose it is, how long it lasts, whether the task has started.
        Column("token", String(32)),
        Column("owner", name),
        Column("leased_until", Double),
        Column("started", SmallInteger, nullable=False, server_default=zero),
        # What happened to it so far.
        Column("attempts", Integer, nullable=False, server_default=zero),
        Column("redelivered", SmallInteger, nullable=False, server_default=zero),
        Column("suspect", SmallInteger, nullable=False, server_default=zero),
        Column("parked_reason", name),
        Column("parked_since", Double),
        Column("times_parked", Integer, nullable=False, server_default=zero),
        Column("exchange", name, nullable=False),
        Column("routing_key", name, nullable=False),
        # Bytes of the body alone.
        Column("size", BigInteger, nullable=False),
        Column("raw", bytes_type(), nullable=False),
        UniqueConstraint("task_id", "queue", name="kern_message_task"),
    )
    for index, state, front, columns in (
        ("kern_message_ready", READY, ["queue"], ["nice", "ready_at", "id"]),
        ("kern_message_delayed", DELAYED, ["queue"], ["due"]),
        ("kern_message_leased", LEASED, [], ["leased_until"]),
    ):
        if connection.database.family is Family.MYSQL:
            Index(index, *(message.c[column] for column in [*front, "state", *columns]))
        else:
            # A message is in the index of its state alone.
            only = text(f"state = {state}")
            Index(index, *(message.c[column] for column in front + columns), sqlite_where=only, postgresql_where=only)
    Table(
        "kern_quarantine",
        made,
        Column("id", number_type(), primary_key=True, autoincrement=True),
        Column("name", key, nullable=False, unique=True),
        Column("queue", name, nullable=False, index=True),
        Column("task_id", name, index=True),
        Column("nice", Integer, nullable=False),
        Column("reason", long_text, nullable=False),
        Column("evidence", long_text, nullable=False),
        Column("at", Double, nullable=False),
        Column("exchange", name, nullable=False),
        Column("routing_key", name, nullable=False),
        Column("size", BigInteger, nullable=False),
        Column("raw", bytes_type(), nullable=False),
    )
    Table(
        "kern_queue",
        made,
        Column("name", name, primary_key=True),
        # Seconds without a consumer after which it is deleted; NULL: never.
        Column("idle_limit", Double),
        Column("used_at", Double, nullable=False),
    )
    Table(
        "kern_binding",
        made,
        Column("exchange", name, primary_key=True),
        Column("routing_key", name, primary_key=True),
        Column("queue", name, primary_key=True),
        Column("exchange_type", String(32), nullable=False),
    )
    Table(
        "kern_presence",
        made,
        Column("id", name, primary_key=True),
        Column("hostname", name, nullable=False),
        Column("queues", long_text, nullable=False),
        Column("facts", long_text, nullable=False),
        Column("last_beat", Double, nullable=False),
        # Seconds after the last beat for which it counts as alive.
        Column("lasts", Double, nullable=False),
    )
    Table(
        "kern_broadcast",
        made,
        Column("id", BigInteger, primary_key=True, autoincrement=False),
        Column("topic", name, nullable=False),
        Column("payload", bytes_type(), nullable=False),
        Column("at", Double, nullable=False),
    )
    Table(
        "kern_broadcast_head",
        made,
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("last", BigInteger, nullable=False),
    )
    return made


TABLES = Tables(_describe, Path(__file__).with_name("tables.sql"))
