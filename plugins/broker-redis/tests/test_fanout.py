"""Fanout exchanges and broadcasts: what is on channels, what is in lists, and each copy once."""

from __future__ import annotations

import json

import pytest

from kern.errors import CapabilityMissing, PublishRefused
from kern.queues import Binding, QueueSpec
from kern_redis_client.envelope import encode
from kern_testing import make
from kern_testing.contracts.suite import throughout
from kern_testing.waiting import eventually

from .conftest import Ask, Connect


def spec(queue: str, exchange: str, transient: bool = True, routing_key: str = "") -> QueueSpec:
    """A queue of a fanout exchange, such as ``Broadcast`` makes them."""
    return QueueSpec(
        queue, exchange=exchange, exchange_type="fanout", routing_key=routing_key, auto_delete=transient, alias=exchange
    )


def to(exchange: str) -> dict[str, str]:
    return {"exchange": exchange, "exchange_type": "fanout"}


def test_every_worker_gets_a_copy_once(connect: Connect) -> None:
    """Two workers, each with a queue of its own; both listen on the channel, too, and take nothing twice."""
    client, first, second = connect(role="client"), connect(), connect()
    exchange = make.unique("exchange")
    for number, worker in enumerate((first, second)):
        worker.declare(spec(f"bcast.{number}", exchange))
    published = client.publish(*[make.publication("", **to(exchange)) for _ in range(3)])
    for number, worker in enumerate((first, second)):
        claimed = worker.claim_eventually(f"bcast.{number}", count=3)
        assert [delivery.task_id for delivery in claimed] == published
        throughout(lambda worker=worker, number=number: worker.claim(f"bcast.{number}") == [], 0.1)


def test_workers_that_share_a_queue_share_its_copies(connect: Connect) -> None:
    client, first, second = connect(role="client"), connect(), connect()
    exchange = make.unique("exchange")
    for worker in (first, second):
        worker.declare(spec("shared", exchange))
    client.publish(make.publication("", **to(exchange)))
    eventually(lambda: client.depth("shared").ready == 1, "the copy is there")
    throughout(lambda: client.depth("shared").ready == 1, 0.1)


def test_what_celery_publishes_is_claimed_like_anything(connect: Connect, ask: Ask) -> None:
    """A message on kombu's channel, in its envelope, comes out of the worker's queue; also with a routing key."""
    worker, exchange = connect(), make.unique("exchange")
    worker.declare(spec("bcast.1", exchange), spec("bcast.2", exchange, routing_key="k.#"))
    message = make.publication("", **to(exchange))
    assert ask("PUBLISH", f"/0.{exchange}", encode(message, "tag 1")) == 1
    assert ask("PUBLISH", f"/0.{exchange}", encode(message, "tag 1")) == 1
    assert ask("PUBLISH", f"/0.{exchange}/k.l", encode(make.publication("k.l", **to(exchange)), "tag 2")) == 1
    (plain,) = worker.claim_eventually("bcast.1", count=1)
    assert plain.task_id == message.task_id
    (keyed,) = worker.claim_eventually("bcast.2", count=1)
    assert keyed.routing_key == "k.l"
    throughout(lambda: worker.claim("bcast.1") == [], 0.1)


def test_what_kern_publishes_is_on_celerys_channel(connect: Connect) -> None:
    """Celery's consumers hear it: the envelope, on the channel of the exchange, with the routing key behind it."""
    client, listener, exchange = connect(role="client"), connect(), make.unique("exchange")
    listener.subscribe(exchange, f"{exchange}/*")
    published = client.publish(make.publication("", **to(exchange)), make.publication("a.b", **to(exchange)))
    eventually(lambda: len(listener.broadcasts) == 2, "both were heard")
    assert [topic for topic, _payload in listener.broadcasts] == [exchange, f"{exchange}/a.b"]
    assert [json.loads(payload)["headers"]["id"] for _topic, payload in listener.broadcasts] == published


def test_what_nobody_hears_is_refused(connect: Connect) -> None:
    client, exchange = connect(role="client"), make.unique("exchange")
    client.declare(
        spec("bcast.of-the-client", exchange)
    )  # a client declares what it publishes to, and consumes nothing
    (answer,) = client.try_publish([make.publication("", **to(exchange))])
    assert isinstance(answer, PublishRefused)
    assert "nobody listens" in str(answer)
    assert client.depth("bcast.of-the-client").ready == 0
    worker = connect()
    worker.declare(spec("bcast.1", exchange))
    assert client.try_publish([make.publication("", **to(exchange))]) == [None]


def test_copies_do_not_outlive_their_consumer(connect: Connect, ask: Ask) -> None:
    """A queue that lasts as long as its worker expires without its beats, and goes with it when it stops."""
    client, worker, exchange = connect(role="client"), connect(), make.unique("exchange")
    worker.declare(spec("bcast.1", exchange), spec("lasting", exchange, transient=False))
    client.publish(make.publication("", **to(exchange)))
    assert 0 < ask("PTTL", "bcast.1") <= 600_000
    assert ask("PTTL", "lasting") == -1
    ask("PEXPIRE", "bcast.1", 1000)
    worker.renew()
    assert ask("PTTL", "bcast.1") > 1000
    worker.stop()
    assert ask("EXISTS", "bcast.1") == 0
    assert ask("ZRANGE", f"kern.fanout.{exchange}", 0, -1) == [b"lasting"]
    assert ask("SMEMBERS", f"_kombu.binding.{exchange}") == [b"\x06\x16\x06\x16lasting"]
    client.publish(make.publication("", **to(exchange)))
    assert client.depth("lasting").ready == 2


def test_a_consumer_that_is_gone_gets_no_more(connect: Connect, ask: Ask) -> None:
    """Who has not given a sign of life for a minute is left out."""
    client, exchange = connect(role="client"), make.unique("exchange")
    worker = connect()
    worker.declare(spec("bcast.1", exchange), spec("bcast.2", exchange))
    ask("ZINCRBY", f"kern.fanout.{exchange}", -61_000, "bcast.1")
    client.publish(make.publication("", **to(exchange)))
    assert client.depth("bcast.2").ready == 1
    # It is still there in fact, and hears it on the channel.
    eventually(lambda: client.depth("bcast.1").ready == 1, "the copy came by the channel")


def test_a_cut_connection_listens_again(connect: Connect, ask: Ask) -> None:
    worker, exchange = connect(), make.unique("exchange")
    worker.declare(spec("bcast.1", exchange))
    worker.subscribe("topic.*")
    ask("CLIENT", "KILL", "TYPE", "pubsub")
    eventually(lambda: bool(worker.ups), "the connection is there again")
    assert ask("PUBLISH", f"/0.{exchange}", encode(make.publication("", **to(exchange)), "tag")) == 1
    ask("PUBLISH", "/0.topic.a", b"heard")
    worker.claim_eventually("bcast.1", count=1)
    eventually(lambda: worker.broadcasts == [("topic.a", b"heard")], "the subscription was restored")


def test_a_pattern_of_topics_is_heard(connect: Connect) -> None:
    """``*`` stands for any text; what else means something to Redis stands for itself."""
    client, listener = connect(role="client"), connect()
    listener.subscribe("task.*", "plain", "odd[1]?*")
    for topic in ("task.", "task.a.b", "other", "plain", "odd1x", "odd[1]?", "task"):
        client.broadcast(topic, topic.encode())
    expected = ["task.", "task.a.b", "plain", "odd[1]?"]
    eventually(lambda: len(listener.broadcasts) >= len(expected), "all were heard")
    assert listener.broadcasts == [(topic, topic.encode()) for topic in expected]


def test_an_exchange_of_a_type_that_redis_does_not_have_is_refused(connect: Connect) -> None:
    with pytest.raises(CapabilityMissing, match="no exchanges of type 'headers'"):
        connect().declare(QueueSpec("queue", exchange="x", exchange_type="headers"))


def test_bindings_are_kombus(connect: Connect, ask: Ask) -> None:
    """Members of both tables; queues that expire are in the first alone, with a deadline for the table."""
    connect().declare(
        QueueSpec("plain", exchange="direct", routing_key="key", bindings=(Binding("direct", ""),)),
        QueueSpec("topic", exchange="topics", exchange_type="topic", routing_key="a.*.b-c.#"),
        QueueSpec("short", exchange="expiring", routing_key="k", queue_arguments={"x-expires": 100_000}),
        QueueSpec("anonymous"),
    )
    for table in ("binding", "binding_permanent"):
        assert set(ask("SMEMBERS", f"_kombu.{table}.direct")) == {
            b"key\x06\x16\x06\x16plain",
            b"\x06\x16\x06\x16plain",
        }
        assert ask("SMEMBERS", f"_kombu.{table}.topics") == [
            b"a.*.b-c.#\x06\x16^a\\.[^\\.]+\\.b\\-c\\..*?$\x06\x16topic"
        ]
    assert ask("SMEMBERS", "_kombu.binding.expiring") == [b"k\x06\x16\x06\x16short"]
    assert ask("EXISTS", "_kombu.binding_permanent.expiring") == 0
    assert ask("ZSCORE", "_kombu.binding_deadlines", "expiring") is not None
