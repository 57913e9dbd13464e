"""F24 on Redis: what others may have put into its keys. The worker serves on, and nothing vanishes."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.faults.brokers import QUEUE, on
from tests.faults.fleet import Balance, Fleet, Process
from tests.faults.redis_wire import Raw, envelope, write

from kern.contracts.transport import Quarantined
from kern_testing.waiting import eventually

pytestmark = on("redis")

MEGABYTE = 1024 * 1024
MANY = 5_000
LARGE = 20

#: What is no message; each ends in quarantine, byte for byte.
GARBAGE = {
    "empty": b"",
    "a space": b" ",
    "no JSON": b"delivered by hand",
    "truncated": write(envelope("truncated"))[:-20],
    "not UTF-8": b'{"body": "\xff\xfe\xfd", "headers": {}, "properties": {}}',
    "binary": bytes(range(256)),
    "nested deeply": b"[" * 200_000 + b"]" * 200_000,
    "nested deeply in a field": b'{"body": "", "properties": {}, "headers": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number": b"7",
    "null": b"null",
    "text": b'"call me"',
    "a list": b'["project.step", [], {}]',
    "no body": b'{"headers": {"task": "project.step", "id": "no-body"}, "properties": {}}',
    "a list for headers": write(envelope("h", headers=["task", "project.step"])),
    "a number for properties": write(envelope("p", properties=7)),
    "a number for a body": write(envelope("b", body=7)),
    "no base64": write(envelope("n", body="!!!")),
    "an unknown encoding of the body": write(
        envelope("e", properties={"body_encoding": "rot13", "delivery_tag": "e", "delivery_info": {}})
    ),
    "somebody else's": write({"event": "paid", "order": 7}),
}


@pytest.fixture
def raw(fleet: Fleet) -> Iterator[Raw]:
    assert fleet.broker.server is not None
    with Raw(fleet.broker.server.port) as connection:
        yield connection


@pytest.fixture
def worker(fleet: Fleet) -> Process:
    fleet.hold_leases()
    return fleet.ready(fleet.worker())


def serves(fleet: Fleet) -> None:
    """See that a call is run, by whoever is there."""
    (after,) = fleet.publish("step")
    assert fleet.app.AsyncResult(after).get(timeout=20) == after


def kept(fleet: Fleet) -> list[Quarantined]:
    """All that is in quarantine."""
    found: list[Quarantined] = fleet.ask(lambda port: port.quarantined(limit=2 * MANY))
    return found


def test_f24_what_is_no_message_is_quarantined_byte_for_byte(fleet: Fleet, raw: Raw, balance: Balance) -> None:
    """Each one, with what is wrong with it; calls between them run."""
    good = []
    for data in GARBAGE.values():
        raw("LPUSH", QUEUE, data)
        good += fleet.publish("step")
    worker = fleet.worker()
    fleet.drain()
    serves(fleet)
    fleet.stop(worker)
    found = kept(fleet)
    assert Counter(entry.raw for entry in found) == Counter(GARBAGE.values())
    assert {entry.reason for entry in found} <= {"undecodable", "invalid"}
    assert all(entry.evidence for entry in found)
    assert set(good) <= set(fleet.ended())
    balance(fleet, "F24 bytes that are no message")


def test_f24_messages_without_what_is_of_no_use_run(fleet: Fleet, raw: Raw, balance: Balance) -> None:
    """Without a tag, with the tag of another, without properties but an id: they are calls all the same."""
    sound = envelope("sound")
    odd = {
        "tagless": envelope("tagless", properties={"correlation_id": "tagless", "body_encoding": "base64"}),
        "twin-1": envelope("twin-1", properties={**sound["properties"], "correlation_id": "twin-1"}),
        "twin-2": envelope("twin-2", properties={**sound["properties"], "correlation_id": "twin-2"}),
        "plain": envelope("plain", properties={"correlation_id": "plain"}, body="[[], {}, {}]"),
        "a-number-for-a-tag": envelope(
            "a-number-for-a-tag",
            properties={**sound["properties"], "correlation_id": "a-number-for-a-tag", "delivery_tag": 7},
        ),
        "no-info": envelope("no-info", properties={"body_encoding": "base64", "delivery_info": "celery"}),
    }
    fleet.ledger.intend("sound", *odd)
    for message in (sound, *odd.values()):
        raw("LPUSH", QUEUE, write(message))
    fleet.ledger.answered("confirmed", "sound", *odd)
    worker = fleet.worker()
    fleet.drain()
    fleet.stop(worker)
    assert sorted(fleet.ended()) == sorted(["sound", *odd])
    assert not kept(fleet)
    balance(fleet, "F24 messages without a tag, with a doubled tag, and such")


def test_f24_five_thousand_at_once(fleet: Fleet, raw: Raw, worker: Process, balance: Balance) -> None:
    """All of them are kept, and what came behind them is run."""
    before = worker.memory()
    for start in range(0, MANY, 500):
        raw("LPUSH", QUEUE, *(f"garbage {number}" for number in range(start, start + 500)))
    fleet.publish("step", count=10)
    fleet.drain()
    serves(fleet)
    assert worker.memory() - before < 16 * MEGABYTE
    fleet.stop(worker)
    assert {entry.raw for entry in kept(fleet)} == {f"garbage {number}".encode() for number in range(MANY)}
    balance(fleet, f"F24 {MANY:,} at once")


def test_f24_a_megabyte_each(fleet: Fleet, raw: Raw, worker: Process, balance: Balance) -> None:
    """Garbage and sound calls in turns."""
    calls = []
    for number in range(LARGE):
        raw("LPUSH", QUEUE, bytes([65 + number]) * MEGABYTE)
        calls += fleet.publish("echo", "a" * MEGABYTE)
    fleet.drain()
    serves(fleet)
    fleet.stop(worker)
    assert {entry.raw for entry in kept(fleet)} == {bytes([65 + number]) * MEGABYTE for number in range(LARGE)}
    assert set(calls) <= set(fleet.ended())
    balance(fleet, f"F24 {LARGE} of one megabyte each")


def test_f24_a_call_that_was_written_twice_runs_twice(fleet: Fleet, raw: Raw, balance: Balance) -> None:
    """By a client that does not ask whether it is there: counted, and stated. Neither is lost, and neither blocks."""
    fleet.ledger.intend("twice")
    raw("LPUSH", QUEUE, write(envelope("twice")), write(envelope("twice")))
    fleet.ledger.answered("confirmed", "twice")
    worker = fleet.worker()
    fleet.drain()
    fleet.stop(worker)
    assert set(fleet.ended()) == {"twice"}
    assert fleet.app.AsyncResult("twice").get(timeout=10) == "twice"
    balance(fleet, "F29 written twice by another client", 1, concurrent=1)


WRONG: dict[str, tuple[Any, ...]] = {
    "text": ("SET", "text"),
    "hash": ("HSET", "a field", "a value"),
    "set": ("SADD", "a member"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_f24_a_queue_that_is_no_list_stops_nobody_but_itself(
    kind: str, fleet: Fleet, raw: Raw, balance: Balance
) -> None:
    """Another queue is served; who publishes is told; the queue is served again once the key is gone."""
    command, *values = WRONG[kind]
    raw(command, QUEUE, *values)
    worker = fleet.worker("-Q", f"{QUEUE},other")
    (other,) = fleet.publish("step", queue="other")
    assert fleet.app.AsyncResult(other).get(timeout=20) == other
    (refused,) = fleet.publish("step", retry=False)
    assert fleet.ledger.published()[refused] == "refused"
    raw("DEL", QUEUE)
    serves(fleet)
    fleet.drain()
    assert worker.said().count("something else than a list") == 1
    fleet.stop(worker)
    balance(fleet, f"F24 queue whose key is a {kind}")


OWN_KEYS = ["kern.leases", "kern.lease_index", "kern.notes", f"kern.delayed.{QUEUE}", f"kern.idle.{QUEUE}"]


@pytest.mark.parametrize("key", OWN_KEYS)
def test_f24_own_keys_of_the_wrong_type_lose_nothing(key: str, fleet: Fleet, raw: Raw, balance: Balance) -> None:
    """The worker complains and waits; once the key is gone, everything runs, once."""
    worker = fleet.ready(fleet.worker())
    worker.send(signal.SIGSTOP)
    calls = fleet.publish("step", count=10)
    raw("DEL", key)
    raw("SET", key, "not what it should be")
    worker.send(signal.SIGCONT)
    eventually(lambda: key in worker.said() or "WRONGTYPE" in worker.said() or fleet.ended(), "it complains, or works")
    raw("DEL", key)
    serves(fleet)
    fleet.drain()
    fleet.stop(worker)
    assert set(calls) <= set(fleet.ended())
    balance(fleet, f"F24 `{key}` of the wrong type")
