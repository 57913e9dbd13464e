"""Publishing inside the caller's own transaction: a call is there if and only if what it belongs to is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from kern.contracts.port import Woken
from kern.contracts.transport import Owner
from kern.errors import EncodeError, ImproperlyConfigured, PublishRefused
from kern.queues import QueueSpec
from kern_broker_sql.transport import SqlTransport
from kern_sql_engine import Database
from kern_testing import make
from kern_testing.contracts.connection import Connection
from kern_testing.waiting import eventually


@pytest.fixture
def transport(url: str) -> Iterator[SqlTransport]:
    made = SqlTransport(url)
    made.open(Owner("client"), (), ())
    yield made
    made.close()


@pytest.fixture
def engine(url: str) -> Iterator[sqlalchemy.Engine]:
    made = Database(url).engine()
    with made.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE orders (id INTEGER PRIMARY KEY)"))
    yield made
    made.dispose()


def orders(engine: sqlalchemy.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sqlalchemy.text("SELECT COUNT(*) FROM orders")).scalar_one())


def ready(transport: SqlTransport, queue: str) -> int:
    return transport.depth([queue])[0].ready


def test_a_call_is_committed_with_its_row(transport: SqlTransport, engine: sqlalchemy.Engine) -> None:
    queue = make.unique("queue")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO orders VALUES (1)"))
        transport.publish_within(make.publications(queue, 3), connection)
    assert (orders(engine), ready(transport, queue)) == (1, 3)


def test_a_call_is_gone_when_the_transaction_is_undone(transport: SqlTransport, engine: sqlalchemy.Engine) -> None:
    queue = make.unique("queue")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO orders VALUES (1)"))
        transport.publish_within([make.publication(queue)], connection)
        connection.rollback()
    assert (orders(engine), ready(transport, queue)) == (0, 0)


def test_nobody_sees_it_before_the_commit(transport: SqlTransport, engine: sqlalchemy.Engine) -> None:
    queue = make.unique("queue")
    with engine.connect() as connection:
        transport.publish_within([make.publication(queue)], connection)
        assert ready(transport, queue) == 0
        connection.commit()
    assert ready(transport, queue) == 1


@pytest.mark.parametrize("scoped", [False, True])
def test_a_session_does_as_well(transport: SqlTransport, engine: sqlalchemy.Engine, scoped: bool) -> None:
    """SQLAlchemy's ORM session, also a scoped one."""
    queue = make.unique("queue")
    session: Any = scoped_session(sessionmaker(engine)) if scoped else Session(engine)
    transport.publish_within([make.publication(queue)], session)
    session.rollback()
    assert ready(transport, queue) == 0
    transport.publish_within([make.publication(queue)], session)
    session.commit()
    session.close()
    assert ready(transport, queue) == 1


def test_a_connection_of_the_library_does_as_well(transport: SqlTransport, url: str) -> None:
    """That of sqlite3, psycopg or PyMySQL."""
    queue = make.unique("queue")
    connection = Database(url).connect()
    connection.begin()
    transport.publish_within(make.publications(queue, 2), connection.raw)
    connection.rollback()
    assert ready(transport, queue) == 0
    connection.begin()
    transport.publish_within(make.publications(queue, 2), connection.raw)
    connection.commit()
    connection.close()
    assert ready(transport, queue) == 2


def test_bindings_count(transport: SqlTransport, engine: sqlalchemy.Engine) -> None:
    """An exchange delivers to the queues bound to it, and what no queue receives is refused."""
    exchange, queue = make.unique("exchange"), make.unique("queue")
    transport.declare([QueueSpec(queue, exchange=exchange, routing_key="key")])
    with engine.begin() as connection:
        transport.publish_within([make.publication("key", exchange=exchange)], connection)
        with pytest.raises(PublishRefused, match=f"no queue is bound to exchange '{exchange}' under 'other'"):
            transport.publish_within([make.publication("other", exchange=exchange)], connection)
    assert ready(transport, queue) == 1


def test_what_cannot_be_written_leaves_the_transaction_usable(
    transport: SqlTransport, engine: sqlalchemy.Engine
) -> None:
    queue = make.unique("queue")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO orders VALUES (1)"))
        with pytest.raises(EncodeError, match="header 'bad'"):
            transport.publish_within([make.publication(queue, headers={"bad": object()})], connection)
    assert (orders(engine), ready(transport, queue)) == (1, 0)


def test_a_waiting_worker_is_woken_by_the_commit(transport: SqlTransport, engine: sqlalchemy.Engine, url: str) -> None:
    queue = make.unique("queue")
    worker = Connection(SqlTransport(url)).start()
    assert worker.claim(queue) == []
    worker.forget_events()
    with engine.begin() as connection:
        transport.publish_within([make.publication(queue)], connection)
        assert not worker.woken
    eventually(lambda: any(isinstance(event, Woken) for event in worker.events), "the worker was woken")
    assert len(worker.claim(queue)) == 1
    worker.stop()


def test_another_database_is_refused(transport: SqlTransport, tmp_path: Path) -> None:
    """The call would go where no worker looks."""
    with (
        sqlite3.connect(tmp_path / "other.db") as other,
        pytest.raises(PublishRefused, match=r"the connection is .*to"),
    ):
        transport.publish_within([make.publication("queue")], other)


def test_a_database_with_tables_of_another_kern_is_refused(postgresql_url: str, sqlite_url: str) -> None:
    """Not the tables count but whose they are."""
    ours = SqlTransport(postgresql_url)
    with Database(postgresql_url).engine().connect() as connection:
        # It was never opened: its tables are made by the way.
        ours.publish_within([make.publication("queue")], connection)
        connection.execute(sqlalchemy.text("UPDATE kern_meta SET content = 'another' WHERE name = 'database'"))
        with pytest.raises(PublishRefused, match="another database than the broker's"):
            ours.publish_within([make.publication("queue")], connection)
        connection.rollback()


def test_what_is_no_connection_is_refused(transport: SqlTransport) -> None:
    with pytest.raises(ImproperlyConfigured, match="give SQLAlchemy's Connection or Session"):
        transport.publish_within([make.publication("queue")], "connection")


def test_an_id_that_is_there_is_not_doubled(transport: SqlTransport, engine: sqlalchemy.Engine) -> None:
    publication = make.publication(make.unique("queue"))
    transport.publish([publication])
    with engine.begin() as connection:
        transport.publish_within([publication, publication], connection)
    assert ready(transport, publication.routing_key) == 1
