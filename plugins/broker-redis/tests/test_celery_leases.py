"""Messages that Celery workers held and did not settle: handed back as kombu does, and never lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from kern import Kern
from kern.queues import QueueSpec
from kern_broker_redis.celery_leases import RESTORE
from kern_broker_redis.transport import RedisTransport
from kern_redis_client.envelope import decode
from kern_testing import make
from kern_testing.contracts.connection import Connection

from .conftest import Ask, Connect

HOUR = 3600.0
#: As kombu writes it, up to the spaces.
SEPARATOR = "\x06\x16"


@pytest.fixture
def leased(ask: Ask) -> Callable[..., str]:
    """Puts a message where a Celery worker that has it puts it."""

    def leased(routing_key: str, exchange: str = "", age: float = HOUR + 10, priority: int = 0, **extra: Any) -> str:
        tag = make.unique("tag")
        envelope = {
            "body": "W1tdLCB7fSwge31d",
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"id": make.unique("id"), "task": "tasks.add", "empty": [], "nothing": {}},
            "properties": {
                "delivery_info": {"exchange": exchange, "routing_key": routing_key},
                "priority": priority,
                "body_encoding": "base64",
                "delivery_tag": tag,
            },
            **extra,
        }
        ask("HSET", "unacked", tag, json.dumps([envelope, exchange, routing_key]))
        ask("ZADD", "unacked_index", time.time() - age, tag)
        return tag

    return leased


def test_what_is_too_old_is_handed_back(connect: Connect, ask: Ask, leased: Callable[..., str]) -> None:
    """To come next, marked as redelivered; what is young stays with its worker."""
    worker, queue = connect(), make.unique("queue")
    old, young = leased(queue), leased(queue, age=60)
    worker.publish(make.publication(queue))
    assert worker.recover() == 1
    first, second = worker.claim(queue)
    assert first.message is not None
    assert first.message.properties["delivery_tag"] == old
    assert first.redelivered
    assert not first.suspect
    assert first.message.headers["redelivered"] is True
    assert (first.message.headers["empty"], first.message.headers["nothing"]) == ([], {})
    assert second.redelivered is False
    assert ask("HKEYS", "unacked") == ask("ZRANGE", "unacked_index", 0, -1) == [young.encode()]
    assert ask("EXISTS", "unacked_mutex") == 0


def test_priorities_outlive_it(connect: Connect, ask: Ask, leased: Callable[..., str]) -> None:
    """It goes back to the list of its priority."""
    worker, queue = connect(), make.unique("queue")
    leased(queue, priority=7)
    assert worker.recover() == 1
    assert ask("LLEN", f"{queue}{SEPARATOR}6") == 1


def test_exchanges_are_asked_where_it_goes(connect: Connect, leased: Callable[..., str], ask: Ask) -> None:
    """Direct and topic bindings lead back; what nothing is bound for stays where it is, and is not lost."""
    worker = connect()
    exchange, direct, topic = make.unique("exchange"), make.unique("queue"), make.unique("queue")
    worker.declare(
        QueueSpec(direct, exchange=exchange, routing_key="red"),
        QueueSpec(topic, exchange=f"{exchange}.topic", exchange_type="topic", routing_key="log.#"),
    )
    leased("red", exchange)
    leased("log.web", f"{exchange}.topic")
    lost = leased("blue", exchange)
    assert worker.recover() == 2
    assert [depth.ready for depth in worker.depths(direct, topic)] == [1, 1]
    assert ask("HKEYS", "unacked") == [lost.encode()]


def test_what_cannot_be_read_stays_and_keeps_nothing_else(
    connect: Connect, leased: Callable[..., str], ask: Ask
) -> None:
    """Odd values are left alone; an index entry without a message is swept."""
    worker, queue = connect(), make.unique("queue")
    leased(queue)
    ask("HSET", "unacked", "odd", "[1, 2")
    ask("ZADD", "unacked_index", 1, "odd", 1, "nothing")
    assert worker.recover() == 1
    assert ask("HKEYS", "unacked") == ask("ZRANGE", "unacked_index", 0, -1) == [b"odd"]


def test_one_looks_at_a_time(connect: Connect, leased: Callable[..., str], ask: Ask) -> None:
    """While somebody has kombu's mutex nobody else looks; it is not taken away, and expires."""
    worker, queue = connect(), make.unique("queue")
    leased(queue)
    ask("SET", "unacked_mutex", "somebody else's")
    assert worker.recover() == 0
    assert ask("GET", "unacked_mutex") == b"somebody else's"


def test_passes_are_bounded_and_not_too_frequent(connect: Connect, leased: Callable[..., str]) -> None:
    """So many leases at once, and then not again for a while."""
    worker, queue = connect(), make.unique("queue")
    assert isinstance(worker.port, RedisTransport)
    worker.port._celery_leases._limit = 3
    for _ in range(5):
        leased(queue)
    assert worker.recover() == 3
    assert worker.recover() == 0
    worker.port._celery_leases._look_at = 0.0
    assert worker.recover() == 2


def test_a_lease_that_is_settled_meanwhile_is_left_alone(
    connect: Connect, leased: Callable[..., str], ask: Ask
) -> None:
    """The script looks again: what has changed since it was read is somebody's."""
    tag, queue = leased(make.unique("queue")), make.unique("queue")
    connect()
    before = ask("HGET", "unacked", tag)
    ask("HSET", "unacked", tag, "somebody else's by now")
    answer = ask("EVAL", RESTORE.text, 2, "unacked", "unacked_index", tag, before, "envelope", queue)
    assert answer == 0
    assert ask("EXISTS", queue) == 0


def test_kern_puts_nothing_there(connect: Connect, ask: Ask) -> None:
    """kern's own leases are elsewhere: kombu watches the whole hash for each of its own."""
    worker, queue = connect(), make.unique("queue")
    worker.publish(*make.publications(queue, 3))
    held = worker.claim(queue)
    assert ask("EXISTS", "unacked", "unacked_index") == 0
    assert worker.recover(everything=True) == 3
    raw = ask("LRANGE", queue, 0, -1)
    assert {decode(each).message.task_id for each in raw} == {delivery.task_id for delivery in held}


def test_other_names_of_the_keys_are_used(redis_url: str, ask: Ask) -> None:
    """The transport options that kombu has for them."""
    queue = make.unique("queue")
    app = Kern("tests", broker_url=redis_url)
    app.conf.broker_transport_options = {
        "unacked_key": "u",
        "unacked_index_key": "ui",
        "unacked_mutex_key": "um",
        "visibility_timeout": 10,
    }
    worker = Connection(RedisTransport(redis_url, app.conf)).start()
    envelope = {"body": "", "headers": {}, "properties": {}}
    ask("HSET", "u", "tag", json.dumps([envelope, "", queue]))
    ask("ZADD", "ui", time.time() - 11, "tag")
    assert worker.recover() == 1
    assert worker.depth(queue).ready == 1
    worker.stop()
