"""Waiting workers are told of what comes, whatever the system says by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from kern.outcome import ParkUntil
from kern_broker_sql import waking
from kern_broker_sql.transport import SqlTransport
from kern_sql_engine import SqliteConnection
from kern_testing import make
from kern_testing.contracts.connection import Connection
from kern_testing.waiting import eventually


@pytest.fixture
def worker(url: str) -> Iterator[Connection]:
    made = Connection(SqlTransport(url)).start()
    yield made
    made.stop()


@pytest.fixture
def client(url: str) -> Iterator[Connection]:
    made = Connection(SqlTransport(url), role="client").start()
    yield made
    made.stop()


def test_each_message_wakes_who_waits(worker: Connection, client: Connection) -> None:
    """A hundred times, with a claim between: none is overlooked until the worker looks by itself."""
    queue = make.unique("queue")
    waits = []
    for _ in range(100):
        assert worker.claim(queue) == []
        worker.forget_events()
        client.publish(make.publication(queue))
        started = time.monotonic()
        eventually(lambda: worker.woken, "the worker was woken")
        waits.append(time.monotonic() - started)
        worker.settle(*worker.claim(queue))
    # Whoever is overlooked waits for a second; a busy machine makes everybody wait now and then.
    assert sorted(waits)[90] < 0.5


def test_a_system_that_says_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> None:
    """Without the kernel's help the file is looked at."""
    monkeypatch.setattr(SqliteConnection, "watch", lambda self: None)
    queue = make.unique("queue")
    worker, client = Connection(SqlTransport(sqlite_url)).start(), Connection(SqlTransport(sqlite_url)).start()
    assert worker.claim(queue) == []
    worker.forget_events()
    client.publish(make.publication(queue))
    eventually(lambda: worker.woken, "the worker was woken")
    worker.stop()
    client.stop()


def test_a_message_for_later_corrects_what_the_worker_waits_for(worker: Connection, client: Connection) -> None:
    """It knows of one due in a long time; one due soon is told of, so that it does not oversleep."""
    queue = make.unique("queue")
    client.publish(make.publication(queue, due=time.time() + 1000))
    assert worker.try_claim(make.claim_of(queue)).next_due == pytest.approx(1000, abs=5)
    worker.forget_events()
    client.publish(make.publication(queue, due=time.time() + 100))
    eventually(lambda: worker.woken, "the worker was woken")
    assert worker.try_claim(make.claim_of(queue)).next_due == pytest.approx(100, abs=5)


def test_own_changes_wake_too(worker: Connection) -> None:
    """What a worker parks, gives back or sends to itself."""
    queue = make.unique("queue")
    worker.publish(make.publication(queue))
    (delivery,) = worker.claim(queue)
    assert worker.claim(queue) == []
    worker.forget_events()
    worker.park(delivery, until=ParkUntil(time.time()))
    eventually(lambda: worker.woken, "the worker was woken")


@pytest.mark.parametrize("fixture", ["sqlite_url", "mariadb_url"])
def test_a_busy_worker_is_not_told_again_and_again(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fixture: str
) -> None:
    """Where it is looked at what is ready: it was told of that, and has not claimed yet."""
    monkeypatch.setattr(waking, "TELL_AGAIN", 1000.0)
    url = request.getfixturevalue(fixture)
    worker, client = Connection(SqlTransport(url)).start(), Connection(SqlTransport(url), role="client").start()
    queue = make.unique("queue")
    assert worker.claim(queue) == []
    worker.forget_events()
    for _ in range(20):
        client.publish(make.publication(queue))
    eventually(lambda: worker.woken, "the worker was woken")
    client.publish(make.publication(queue))
    assert len(worker.events) == 1
    worker.settle(*worker.claim(queue))
    client.publish(make.publication(queue))
    eventually(lambda: len(worker.events) == 2, "after its claim it was told anew")
    worker.stop()
    client.stop()
