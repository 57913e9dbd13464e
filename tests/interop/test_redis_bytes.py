"""What kern and Celery leave on a Redis server: lists, bindings, channels; byte for byte the same, and read by either.

What Celery wrote is the measure; nothing here is compared with what kern thinks it should be.
"""

import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import attrs
import hiredis
import pytest
from tests.interop.conftest import Probe

from kern.app import Kern
from kern.message import Publication
from kern.queues import QueueSpec
from kern_broker_redis.transport import RedisTransport
from kern_redis_client.envelope import decode, encode
from kern_testing import make
from kern_testing.contracts.connection import Connection
from kern_testing.servers import Redis
from kern_testing.waiting import eventually


@pytest.fixture
def ask(redis_server: Redis, redis_url: str) -> Iterator[Callable[..., Any]]:
    """Looks at the server past kern and Celery."""
    with socket.create_connection(("127.0.0.1", redis_server.port), timeout=10) as connection:
        reader = hiredis.Reader()

        def ask(*words: Any) -> Any:
            connection.sendall(hiredis.pack_command(words))
            while (answer := reader.gets()) is False:
                reader.feed(connection.recv(65536))
            return answer

        yield ask


@pytest.fixture(scope="module")
def process(celery_python: str, redis_server: Redis) -> Iterator[Probe]:
    redis_server.start()
    started = Probe(celery_python, "celery_redis.py", PEER_BROKER=redis_server.url())
    yield started
    started.close()


@pytest.fixture
def celery(process: Probe, redis_url: str) -> Probe:
    """A Celery whose broker is empty."""
    return process


@pytest.fixture
def transport(redis_url: str) -> Iterator[Connection]:
    connection = Connection(RedisTransport(redis_url)).start()
    yield connection
    connection.stop()


CALLS: list[dict[str, Any]] = [
    {},
    {"priority": 5},
    {"priority": 12},
    {"expires": 60, "countdown": 10, "time_limit": 30, "soft_time_limit": 20.5, "ignore_result": True},
    {"headers": {"text": "ünï☃", "nested": {"list": [1, None, 2.5]}, "when": datetime(2024, 1, 2, tzinfo=UTC)}},
    {"serializer": "pickle", "compression": "zlib", "reply_to": "somewhere", "delivery_mode": 1, "shadow": "nick"},
    {"app_id": "an app", "message_id": "an id", "type": "a type"},
    {"task_id": 'odd "id" ☃'},
]


@pytest.mark.parametrize("options", CALLS, ids=lambda options: "-".join(options) or "plain")
def test_a_message_of_celerys_is_written_again_byte_for_byte(
    celery: Probe, ask: Callable[..., Any], options: dict[str, Any]
) -> None:
    """Read, and written under its own tag: not one byte differs; the order of keys and all encodings are kombu's."""
    celery.publish(args=(2, 3), kwargs={"text": "ünï"}, options={"queue": "queue", **options})
    (key,) = ask("KEYS", "queue*")
    (raw,) = ask("LRANGE", key, 0, -1)
    found = decode(raw)
    assert encode(Publication(found.message, found.exchange, found.routing_key), found.tag) == raw


@pytest.mark.parametrize("options", CALLS, ids=lambda options: "-".join(options) or "plain")
def test_a_call_leaves_what_celerys_call_leaves(
    celery: Probe, ask: Callable[..., Any], redis_url: str, options: dict[str, Any]
) -> None:
    """The same call by Celery and by kern: one list, and one text but for ids, times and names of processes."""
    options = {"queue": "queue", **options}
    celery.publish(args=(2, 3), kwargs={"text": "ünï"}, options=options)
    (key,) = ask("KEYS", "queue*")
    (theirs,) = ask("LRANGE", key, 0, -1)
    ask("FLUSHALL")
    app = Kern("bytes", broker=redis_url, accept_content=["json", "pickle"])
    app.task(lambda x, y=0, text="": x, name="peer.add").apply_async((2, 3), {"text": "ünï"}, **options)
    app.close()
    (ours,) = ask("LRANGE", key, 0, -1)
    assert skeleton(ours) == skeleton(theirs)


def skeleton(raw: bytes) -> list[tuple[str, Any]]:
    """Keys in their order at every level, and values but for those that are different each time."""
    found: list[tuple[str, Any]] = []

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict):
            found.append((path, list(value)))
            for name, inner in value.items():
                walk(f"{path}.{name}", inner)
        elif path.rpartition(".")[2] in ("id", "root_id", "correlation_id", "delivery_tag", "reply_to", "origin"):
            found.append((path, type(value)))
        elif path.rpartition(".")[2] in ("eta", "expires"):
            found.append((path, None if value is None else len(value)))
        elif path.rpartition(".")[2] == "expiration":
            found.append((path, abs(int(value) - 60_000) < 5_000))
        else:
            found.append((path, value))

    walk("", json.loads(raw))
    return found


QUEUES: list[dict[str, Any]] = [
    {"name": "direct", "exchange": "d", "routing_key": "key"},
    {"name": "topic", "exchange": "t", "exchange_type": "topic", "routing_key": "a.*.b-c.#"},
    {"name": "topics", "exchange": "t", "exchange_type": "topic", "routing_key": "#"},
    {"name": "fan", "exchange": "f", "exchange_type": "fanout"},
    {"name": "keyed", "exchange": "f", "exchange_type": "fanout", "routing_key": "k"},
    {"name": "short", "exchange": "d", "routing_key": "key", "expires": 7200},
]


def test_bindings_are_celerys(celery: Probe, ask: Callable[..., Any], transport: Connection) -> None:
    """The same queues declared by Celery and by kern: the same tables with the same members, and the same deadline."""

    def tables() -> dict[bytes, Any]:
        keys = sorted(key for key in ask("KEYS", "_kombu*") if key != b"_kombu.binding_deadlines")
        return {key: sorted(ask("SMEMBERS", key)) for key in keys}

    celery.declare(queues=QUEUES)
    theirs = tables()
    deadline = float(ask("ZSCORE", "_kombu.binding_deadlines", "d"))
    ask("FLUSHALL")
    transport.declare(*map(spec, QUEUES))
    assert tables() == theirs
    assert abs(float(ask("ZSCORE", "_kombu.binding_deadlines", "d")) - deadline) < 60_000


def spec(given: dict[str, Any]) -> QueueSpec:
    arguments = {"x-expires": given["expires"] * 1000} if "expires" in given else None
    return QueueSpec(
        given["name"],
        exchange=given["exchange"],
        exchange_type=given.get("exchange_type", "direct"),
        routing_key=given.get("routing_key", ""),
        queue_arguments=arguments,
    )


def test_celerys_bindings_route_kerns_messages(celery: Probe, transport: Connection) -> None:
    """Nothing was declared by kern: what Celery bound receives what kern publishes."""
    celery.declare(queues=QUEUES)
    transport.publish(
        make.publication("key", exchange="d"),
        make.publication("a.x.b-c", exchange="t", exchange_type="topic"),
        make.publication("other", exchange="t", exchange_type="topic"),
    )
    depths = transport.depths("direct", "short", "topic", "topics")
    assert [depth.ready for depth in depths] == [1, 1, 1, 2]


def test_celery_reads_what_kern_writes(celery: Probe, transport: Connection) -> None:
    """Body, headers, properties and delivery info, with kombu's own consumer, from any list of the queue."""
    sent = make.message(body=bytes(range(256)), priority=5, headers={"text": "ünï☃"}, content_type="application/x-any")
    transport.publish(Publication(attrs.evolve(sent, content_encoding="binary"), "", "queue"))
    found = celery.get(queue="queue")
    assert found["body"] == sent.body
    assert found["headers"] == sent.headers
    assert (found["content_type"], found["content_encoding"]) == ("application/x-any", "binary")
    assert found["delivery_info"] == {"exchange": "", "routing_key": "queue"}
    assert found["properties"]["priority"] == 5
    assert found["delivery_tag"]
    assert celery.get(queue="queue") is None


@pytest.mark.parametrize("routing_key", ["", "k"])
def test_celerys_consumers_hear_kerns_fanout(celery: Probe, transport: Connection, routing_key: str) -> None:
    exchange = f"fan-{routing_key}"
    celery.fanout_listen(
        queue={"name": "theirs", "exchange": exchange, "exchange_type": "fanout", "routing_key": routing_key}
    )
    (task_id,) = transport.publish(make.publication(routing_key, exchange=exchange, exchange_type="fanout"))
    heard = eventually(celery.heard, "Celery's consumer heard it")
    assert [message["headers"]["id"] for message in heard] == [task_id]


@pytest.mark.parametrize("routing_key", ["", "k"])
def test_kerns_consumers_hear_celerys_fanout(celery: Probe, transport: Connection, routing_key: str) -> None:
    exchange = f"fan-{routing_key}"
    transport.declare(
        QueueSpec("ours", exchange=exchange, exchange_type="fanout", routing_key=routing_key, auto_delete=True)
    )
    celery.fanout_publish(exchange=exchange, routing_key=routing_key, body=[[1], {}, {}])
    (delivery,) = transport.claim_eventually("ours", count=1)
    assert delivery.task_id == "from-celery"
    assert (delivery.exchange, delivery.routing_key) == (exchange, routing_key)
