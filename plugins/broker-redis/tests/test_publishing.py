"""Publishing: once under one id, item by item, whatever happens to the connection or to the server's keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import attrs
import pytest

from kern.errors import PublishRefused, TransportError
from kern.message import Message, Publication
from kern.queues import Binding, QueueSpec
from kern_broker_redis.names import Names
from kern_broker_redis.publishing import PUBLISH, PUBLISH_ONE, Publishing
from kern_broker_redis.transport import RedisTransport
from kern_testing import make
from kern_testing.contracts.connection import Connection
from kern_testing.servers import Redis

from .conftest import Ask, Connect
from .relay import Relay


@pytest.fixture
def transport(connect: Connect) -> Connection:
    return connect(role="client")


@pytest.mark.parametrize("count", [1, 700])
def test_an_answer_that_gets_lost_is_no_second_message(
    redis_server: Redis, redis_url: str, ask: Ask, connect: Connect, count: int
) -> None:
    """What was said on a connection that broke is said again on the next, and known there."""
    batch = make.publications("queue", count)
    with Relay(redis_server.port) as relay:
        client = connect(redis_url.replace(str(redis_server.port), str(relay.port)), role="client")
        # The last of the batch: all of it has arrived.
        relay.lose_answer_to(batch[-1].task_id.encode())
        client.publish(*batch)
        assert relay.lost.is_set()
        client.stop()
    assert ask("LLEN", "queue") == count


@pytest.mark.parametrize("count", [1, 700])
def test_not_even_when_it_was_done_with_meanwhile(
    redis_server: Redis, redis_url: str, ask: Ask, connect: Connect, count: int
) -> None:
    """A worker is quicker than a connection that has to be made anew: what it has settled is not published again."""
    worker, batch = connect(), make.publications("queue", count)
    with Relay(redis_server.port) as relay:
        client = connect(redis_url.replace(str(redis_server.port), str(relay.port)), role="client")
        relay.open.clear()  # no new connection is made until the worker is done
        relay.lose_answer_to(batch[-1].task_id.encode())
        reply = client.port.publish(batch)
        worker.settle(*worker.claim_eventually("queue", count=count))
        assert relay.lost.is_set()
        relay.open.set()
        assert client.port.drive(reply, 30) == [None] * count
        client.stop()
    assert worker.held("queue") == 0
    worker.publish(*batch)
    assert worker.held("queue") == count, "the same calls may be made again"


def test_little_is_remembered_of_what_was_settled(connect: Connect, ask: Ask) -> None:
    """However much one client publishes: of what has left the broker a few names are kept, for those said last."""
    client, worker = connect(role="client"), connect()
    for _ in range(300):
        client.publish(make.publication("queue"))
    worker.settle(*worker.claim_eventually("queue", count=300))
    kept = sum(ask("SCARD", f"kern.published.{slot}") for slot in range(3))
    assert kept <= 2 * 64, "64 for each minute that went by"


def test_each_list_gets_its_own_in_order(transport: Connection, ask: Ask) -> None:
    """One batch for many lists: priorities and queues apart, the order of each kept."""
    batch = [make.publication(f"queue{n % 3}", priority=(0, 5, 9)[n % 2]) for n in range(900)]
    transport.publish(*batch)
    names = Names()
    for queue in range(3):
        for priority in (0, 5):
            expected = [p.task_id for p in batch if p.routing_key == f"queue{queue}" and p.message.priority == priority]
            found = ask("LRANGE", names.list_of(f"queue{queue}", priority), 0, -1)
            assert [json.loads(raw)["headers"]["id"] for raw in reversed(found)] == expected
    assert ask("KEYS", "*\x06\x160") == [], "the most urgent priority has no suffix"


@pytest.mark.parametrize(
    ("priority", "step"),
    [
        (0, ""),
        (2, ""),
        (3, "3"),
        (5, "3"),
        (8, "6"),
        (9, "9"),
        (12, "9"),
        (-4, ""),
        ("5", "3"),
        ("high", ""),
        (None, ""),
    ],
)
def test_priorities_have_the_lists_they_have_in_kombu(
    transport: Connection, ask: Ask, priority: object, step: str
) -> None:
    transport.publish(make.publication("queue", properties={"priority": priority}))
    assert ask("LLEN", f"queue\x06\x16{step}" if step else "queue") == 1


def test_a_key_of_the_wrong_type_refuses_its_messages_alone(transport: Connection, ask: Ask) -> None:
    """Somebody has a string where a queue should be: the error names the message and the key; others arrive."""
    ask("SET", "taken", "by another program")
    good, bad, after = make.publication("fine"), make.publication("taken"), make.publication("fine")
    answers = transport.try_publish([good, bad, after])
    assert (answers[0], answers[2]) == (None, None)
    for answer in (answers[1], *transport.try_publish([bad])):
        assert isinstance(answer, PublishRefused)
        assert bad.task_id in str(answer)
        assert "key" in str(answer)
    assert ask("LLEN", "fine") == 2
    ask("DEL", "taken")
    assert transport.try_publish([bad]) == [None], "what was refused is not taken for published"
    assert ask("LLEN", "taken") == 1


def test_a_full_server_refuses_and_says_so(redis_server: Redis, transport: Connection, ask: Ask) -> None:
    """At maxmemory nothing is half written; it is worth trying again, and works once there is room."""
    batch = make.publications("queue", 3)
    ask("CONFIG", "SET", "maxmemory", "1mb")
    try:
        for publications in (batch[:1], batch):
            for answer in transport.try_publish(publications):
                assert isinstance(answer, PublishRefused)
                assert "maxmemory" in str(answer)
                assert isinstance(answer.__cause__, TransportError)
                assert answer.__cause__.retryable
        due = [make.publication("queue", due=9e9), make.publication("queue", due=9e9)]
        assert all(isinstance(answer, PublishRefused) for answer in transport.try_publish(due))
    finally:
        ask("CONFIG", "SET", "maxmemory", "0")
    assert ask("KEYS", "*") == []
    transport.publish(*batch)
    assert ask("LLEN", "queue") == 3


def test_one_id_for_two_queues_is_two_messages(transport: Connection, ask: Ask) -> None:
    """A call that is sent on under its id to another queue is not taken for the one that is there."""
    here = make.publication("here")
    there = attrs.evolve(here, routing_key="there")
    transport.publish(here, there, here, there)
    transport.publish(there)
    assert (ask("LLEN", "here"), ask("LLEN", "there")) == (1, 1)


def test_an_eta_goes_to_the_queue_and_other_due_times_do_not(transport: Connection, ask: Ask) -> None:
    """A call that says when it is due is sent as Celery sends it, so that Celery's workers alone would find it."""
    eta = make.publication("queue", due=9e9, headers={"eta": "2255-01-01T00:00:00+00:00"})
    transport.publish(eta, make.publication("queue", due=9e9))
    assert ask("LLEN", "queue") == 1
    ((_entry, due),) = [ask("ZRANGE", "kern.delayed.queue", 0, -1, "WITHSCORES")]
    assert float(due) == 9e12
    assert ask("HLEN", "kern.delayed_messages.queue") == 1


def test_many_large_messages_are_cut_into_scripts(transport: Connection, ask: Ask) -> None:
    """No script takes more than a quarter of a megabyte, or one message."""
    publishing = Publishing("redis://", Names())
    batch = make.publications("queue", 20, body=b"x" * 100_000)
    commands = next(publishing.publish(batch))
    assert len(commands) >= 10
    transport.publish(*batch, make.publication("queue", body=b"y" * 20_000_000))
    assert ask("LLEN", "queue") == 21


def test_no_script_is_long_for_a_large_batch(transport: Connection, ask: Ask) -> None:
    """10,000 messages at once. Each script takes a millisecond or two; a machine of tests does other things, too."""
    ask("SLOWLOG", "RESET")
    ask("CONFIG", "SET", "slowlog-log-slower-than", "25000")
    transport.publish(*make.publications("queue", 10_000))
    assert [entry[2] for entry in ask("SLOWLOG", "GET", 10)] == []


def test_scripts_that_the_server_forgot_are_said_in_full(transport: Connection, ask: Ask) -> None:
    for publications in (make.publications("queue", 1), make.publications("queue", 2)):
        ask("SCRIPT", "FLUSH")
        transport.publish(*publications)
    assert ask("LLEN", "queue") == 3


def test_what_no_queue_is_bound_for_goes_to_the_deadletter_queue(redis_url: str, ask: Ask) -> None:
    """With the option ``deadletter_queue``; the message still says where it should have gone."""
    connection = Connection(RedisTransport(redis_url, options({"deadletter_queue": "dead"})), role="client").start()
    try:
        lost = make.publication("nobody", exchange="nowhere")
        connection.publish(make.publication("queue"), lost)
    finally:
        connection.stop()
    raw = json.loads(ask("LINDEX", "dead", 0))
    assert raw["headers"]["id"] == lost.task_id
    assert raw["properties"]["delivery_info"] == {"exchange": "nowhere", "routing_key": "nobody"}


def test_a_queue_that_expires_is_kept_by_its_messages(transport: Connection, ask: Ask) -> None:
    """Each message for a queue with ``x-expires`` prolongs the life of all its lists."""
    transport.declare(
        QueueSpec("short", queue_arguments={"x-expires": 50_000}, exchange="x", routing_key="k"), QueueSpec("long")
    )
    transport.publish(make.publication("short", priority=9), make.publication("short"), make.publication("long"))
    for key in ("short", "short\x06\x169"):
        assert 0 < ask("PTTL", key) <= 50_000
    ask("PEXPIRE", "short", 1_000_000)
    transport.publish(make.publication("k", exchange="x"))
    assert ask("PTTL", "short") <= 50_000
    assert ask("PTTL", "long") == -1


def test_prefix_steps_and_separator_of_the_options_count(redis_url: str, ask: Ask) -> None:
    conf = options({"global_keyprefix": "{app}.", "sep": ":", "priority_steps": list(range(10))})
    connection = Connection(RedisTransport(redis_url, conf)).start()
    try:
        connection.declare(QueueSpec("queue", exchange="x", routing_key="k", bindings=(Binding("x", "l"),)))
        connection.publish(make.publication("queue", priority=7), make.publication("l", exchange="x"))
        assert ask("LLEN", "{app}.queue:7") == 1
        assert set(ask("SMEMBERS", "{app}._kombu.binding.x")) == {b"k::queue", b"l::queue"}
        assert {delivery.queue for delivery in connection.claim_eventually("queue", count=2)} == {"queue"}
        assert all(key.startswith(b"{app}.") for key in ask("KEYS", "*")), ask("KEYS", "*")
    finally:
        connection.stop()


def test_ids_that_are_odd_are_ids(transport: Connection, connect: Connect) -> None:
    """An id may be any text, and none at all."""
    odd = ["with space", "ünï☃", "a@b", "\x06\x16", "'\"\\", "x" * 500]
    batch = [make.publication("queue", task_id) for task_id in odd]
    transport.publish(*batch)
    transport.publish(*batch)
    transport.publish(*[Publication(Message(b"anonymous", {}, {}), "", "queue")] * 2)
    worker = connect()
    claimed = worker.claim_eventually("queue", count=len(odd) + 2)
    assert {delivery.task_id for delivery in claimed} >= set(odd)
    worker.settle(*claimed)
    assert worker.held("queue") == 0


def test_a_publication_without_a_place_is_refused(transport: Connection) -> None:
    (answer,) = transport.try_publish([make.publication("")])
    assert isinstance(answer, PublishRefused)
    assert "neither an exchange nor a queue" in str(answer)


class _Conf:
    """Settings with nothing but transport options."""

    def __init__(self, given: dict[str, object]) -> None:
        self._given = given

    def section(self, section: Callable[..., object]) -> object:
        return section(broker_transport_options=self._given)


def options(given: dict[str, object]) -> _Conf:
    return _Conf(given)


@pytest.fixture(autouse=True)
def slowlog(ask: Ask) -> Iterator[None]:
    """As it was."""
    yield
    ask("CONFIG", "SET", "slowlog-log-slower-than", "10000")


def test_the_scripts_have_no_syntax_that_only_new_servers_know(ask: Ask) -> None:
    """Both are loaded by the server as they are."""
    for script in (PUBLISH, PUBLISH_ONE):
        assert ask("SCRIPT", "LOAD", script.text) == script.sha.encode()
