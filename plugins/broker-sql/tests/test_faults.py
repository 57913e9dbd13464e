"""Databases that fail while they are used: answers are true, and work goes on when they are back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kern.contracts.transport import Owner
from kern.errors import PublishRefused, PublishUnknown, TransportError
from kern.outcome import Document, Quarantine
from kern.queues import QueueSpec
from kern_backend_sql.store import SqlResultStore
from kern_broker_sql import routing
from kern_broker_sql.transport import SqlTransport
from kern_sql_engine import Connection as SqlConnection
from kern_sql_engine import Database, PostgresqlConnection
from kern_testing import make
from kern_testing.contracts.connection import Connection
from kern_testing.servers import PASSWORD, MariaDB, PostgreSQL
from kern_testing.waiting import eventually


def opened(url: str, **settings: float) -> SqlTransport:
    transport = SqlTransport(url, SimpleNamespace(**settings))
    transport.open(Owner(make.unique("owner"), role="worker"), (), ())
    return transport


@pytest.fixture
def file_transport(sqlite_url: str) -> Iterator[SqlTransport]:
    transport = opened(sqlite_url)
    yield transport
    transport.close()


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_full_disk_refuses_and_keeps_draining(file_transport: SqlTransport) -> None:
    """Publishing says that the disk is full; what is there is claimed and settled; with space it goes on."""
    queue = make.unique("queue")
    file_transport.publish(make.publications(queue, 5))
    connection: SqlConnection = file_transport._link.get()
    connection.run(f"PRAGMA max_page_count = {connection.value('PRAGMA page_count') + 2}")
    large = make.publication(queue, body=b"x" * 100_000)
    (answer,) = file_transport.publish([large])
    assert isinstance(answer, PublishRefused)
    assert "the disk is full" in str(answer)
    assert isinstance(answer.__cause__, TransportError)
    assert answer.__cause__.retryable
    deliveries = file_transport.claim(make.claim_of(queue)).deliveries
    assert len(deliveries) == 5
    assert not any(item.error for item in file_transport.settle([make.settlement(each) for each in deliveries]))
    connection.run("PRAGMA max_page_count = 1000000")
    assert file_transport.publish([large]) == [None]


def test_a_locked_file_refuses_within_the_deadline(sqlite_url: str) -> None:
    transport = opened(sqlite_url, publish_timeout=0.5)
    holder = Database(sqlite_url).connect()
    holder.begin()
    started = time.monotonic()
    (answer,) = transport.publish([make.publication("queue")])
    assert time.monotonic() - started < 0.5
    assert isinstance(answer, PublishRefused)
    assert "another process keeps the database locked" in str(answer)
    holder.rollback()
    holder.close()
    assert transport.publish([make.publication("queue")]) == [None]
    transport.close()


@pytest.mark.parametrize("problem", ["no folder", "not a database"])
def test_a_file_that_cannot_be_used_is_an_error_that_does_not_pass(tmp_path: Path, problem: str) -> None:
    path = tmp_path / "folder" / "kern.db"
    if problem == "not a database":
        path.parent.mkdir()
        path.write_text("shopping list " * 100)
    with pytest.raises(TransportError) as refused:
        opened(f"sqlite:///{path}")
    assert not refused.value.retryable
    assert str(path) in str(refused.value)


# -- servers -----------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_an_error_that_does_not_pass(postgresql_url: str, mariadb_url: str) -> None:
    for url in (postgresql_url, mariadb_url):
        with pytest.raises(TransportError, match="refuses this user and password") as refused:
            opened(url.replace(PASSWORD, "not-the-password"))
        assert not refused.value.retryable
        assert "not-the-password" not in str(refused.value)


def test_a_server_that_stopped_refuses_and_is_found_again(postgresql_server: PostgreSQL, postgresql_url: str) -> None:
    """Nothing is there while it is down; leases and messages are when it is back."""
    queue = make.unique("queue")
    client, worker = opened(postgresql_url), Connection(SqlTransport(postgresql_url)).start()
    worker.publish(*make.publications(queue, 3))
    held = worker.claim(queue, limit=1)
    postgresql_server.kill()
    (answer,) = client.publish([make.publication(queue)])
    assert isinstance(answer, PublishRefused)
    assert isinstance(answer.__cause__, TransportError)
    assert answer.__cause__.retryable
    with pytest.raises(TransportError):
        client.claim(make.claim_of(queue))
    eventually(lambda: bool(worker.downs), "the worker was told")
    postgresql_server.start()
    eventually(lambda: bool(worker.ups), "the connection is back", timeout=30)
    assert worker.renew(held[0].receipt) == frozenset()
    worker.settle(*held, *worker.claim(queue))
    assert worker.held(queue) == 0
    worker.forget_events()
    assert client.publish([make.publication(queue)]) == [None]
    eventually(lambda: worker.woken, "the worker listens again")
    client.close()
    worker.stop()


def test_a_connection_that_broke_while_idle_is_not_noticed(mariadb_server: MariaDB, mariadb_url: str) -> None:
    """The server ended it: the next message goes over a new one."""
    transport = opened(mariadb_url)
    number = transport._link.get().value("SELECT CONNECTION_ID()")
    mariadb_server.sql(f"KILL {number}")
    assert transport.publish([make.publication("queue")]) == [None]
    transport.close()


def test_an_end_during_the_commit_is_unknown(
    postgresql_server: PostgreSQL, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither confirmed nor refused; published again under its id it is one message."""
    transport = opened(postgresql_url)
    queue = make.unique("queue")
    commit = PostgresqlConnection.commit

    def break_off(connection: PostgresqlConnection) -> None:
        monkeypatch.setattr(PostgresqlConnection, "commit", commit)
        number = connection.value("SELECT pg_backend_pid()")
        commit(connection)
        postgresql_server.sql(f"SELECT pg_terminate_backend({number})", "postgres")
        commit(connection)

    monkeypatch.setattr(PostgresqlConnection, "commit", break_off)
    publication = make.publication(queue)
    (answer,) = transport.publish([publication])
    assert isinstance(answer, PublishUnknown), answer
    assert answer.task_ids == (publication.task_id,)
    assert transport.publish([publication]) == [None]
    assert transport.depth([queue])[0].ready == 1
    transport.close()


def test_a_message_too_large_for_the_server_is_refused_alone(mariadb_server: MariaDB, mariadb_url: str) -> None:
    """The server would hang up; so it is not asked."""
    transport = opened(mariadb_url)
    queue = make.unique("queue")
    largest = transport._link.get().largest
    assert largest is not None
    answers = transport.publish(
        [make.publication(queue), make.publication(queue, body=b"x" * largest), make.publication(queue)]
    )
    assert [type(answer) for answer in answers] == [type(None), PublishRefused, type(None)]
    assert f"max_allowed_packet of {largest}" in str(answers[1])
    assert transport.depth([queue])[0].ready == 2
    transport.close()


# -- what stays with its item ------------------------------------------------------------------------------------------


def test_a_result_that_cannot_be_written_stays_with_its_item(url: str) -> None:
    """Its lease is kept, and its neighbours are settled."""
    queue = make.unique("queue")
    transport, store = opened(url), SqlResultStore(url)
    store.open()
    too_long = make.publication(queue, "i" * 200)
    transport.publish([make.publication(queue), too_long, make.publication(queue)])
    deliveries = transport.claim(make.claim_of(queue)).deliveries
    documents = [Document(delivery.task_id, "SUCCESS", b"1") for delivery in deliveries]
    plans = store.plan(documents, [()] * 3)
    settled = transport.settle(
        [make.settlement(delivery, plan=plan) for delivery, plan in zip(deliveries, plans, strict=True)]
    )
    assert [item.error is None for item in settled] == [True, False, True]
    assert "155 characters" in str(settled[1].error)
    (depth,) = transport.depth([queue])
    assert (depth.ready, depth.leased) == (0, 1)
    assert transport.settle([make.settlement(deliveries[1], Quarantine("id too long"))])[0].error is None
    transport.close()
    store.close()


# -- queues of one consumer --------------------------------------------------------------------------------------------


def test_a_queue_vanishes_some_time_after_its_consumer(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's own queue of broadcasts does not gather messages for ever once the worker is gone."""
    monkeypatch.setattr(routing, "IDLE_LIMIT", 0.3)
    exchange = make.unique("exchange")
    own, lasting = make.unique("own"), make.unique("lasting")
    transport, other = opened(url), opened(url)
    transport.declare(
        [
            QueueSpec(own, exchange=exchange, exchange_type="fanout", auto_delete=True),
            QueueSpec(lasting, exchange=exchange, exchange_type="fanout"),
        ]
    )
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        transport.claim(make.claim_of(own))
        transport.renew([], 15)
        other.recover()
        assert own in other.queues(), "a queue with a consumer has vanished"
    other.publish([make.publication("key", exchange=exchange, exchange_type="fanout") for _ in range(2)])
    (held,) = transport.claim(make.claim_of(own, limit=1)).deliveries

    def swept() -> bool:
        other.recover()
        return other.depth([own])[0].ready == 0

    eventually(swept, "what nobody will take is gone")
    assert transport.settle([make.settlement(held)])[0].error is None

    def vanished() -> bool:
        other.recover()
        return own not in other.queues()

    eventually(vanished, "the queue is gone")
    assert lasting in other.queues()
    assert other.publish([make.publication("key", exchange=exchange, exchange_type="fanout")]) == [None]
    assert other.depth([lasting])[0].ready == 3
    transport.close()
    other.close()
