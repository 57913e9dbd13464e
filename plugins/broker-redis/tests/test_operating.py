"""Looking at queues and operating on them, beside keys of other programs, and in any number."""

from __future__ import annotations

import json

import pytest

from kern.errors import TransportError
from kern.outcome import GiveBack, ParkUntil, Quarantine
from kern.queues import QueueSpec
from kern_testing import make
from kern_testing.contracts.connection import Connection

from .conftest import Ask, Connect


@pytest.fixture
def transport(connect: Connect) -> Connection:
    return connect()


def test_queues_are_told_from_keys_of_others(transport: Connection, ask: Ask) -> None:
    """Bound ones, those with messages, those where all is leased or delayed; no list of another program's."""
    transport.declare(QueueSpec("bound", exchange="x", routing_key="k"))
    transport.publish(
        make.publication("direct"), make.publication("urgent", priority=9), make.publication("delayed", due=9e9)
    )
    transport.publish(make.publication("leased"))
    transport.claim_one("leased")
    ask("LPUSH", "list of numbers", 1, 2, 3)
    ask("LPUSH", "list of JSON", '{"some": "thing"}')
    ask("SET", "a string", "x")
    ask("ZADD", "a zset", 1, "x")
    ask("LPUSH", "mixed", "not a message", ask("LINDEX", "direct", 0))
    ask("SADD", "_kombu.binding.celery.pidbox", "\x06\x16\x06\x16w1@host.celery.pidbox")
    assert transport.queues() == ["bound", "delayed", "direct", "leased", "mixed", "urgent"]


def test_depth_takes_strange_keys(transport: Connection, ask: Ask) -> None:
    """Where a queue should be is a string: it has no messages, and others are counted."""
    ask("SET", "taken", "x")
    transport.publish(make.publication("fine", priority=0), make.publication("fine", priority=9))
    taken, fine = transport.depths("taken", "fine")
    assert (taken.ready, fine.ready) == (0, 2)
    assert transport.peek("taken") == []
    assert transport.purge("taken") == 0
    assert ask("GET", "taken") == b"x"


def test_peek_goes_by_priority_and_leaves_out_what_cannot_be_read(transport: Connection, ask: Ask) -> None:
    published = transport.publish(*[make.publication("queue", priority=priority) for priority in (9, 0, 3, 0)])
    ask("RPUSH", "queue", "nonsense")
    assert [m.task_id for m in transport.peek("queue", 3)] == [published[index] for index in (1, 3, 2)]
    assert [m.task_id for m in transport.peek("queue", 100)] == [published[index] for index in (1, 3, 2, 0)]
    assert transport.peek("queue", 0) == []


def test_a_purge_forgets_ids_and_notes(transport: Connection, ask: Ask) -> None:
    """Everything that was remembered of what is gone is gone, wherever the message was."""
    batch = [*make.publications("queue", 300), *make.publications("queue", 5, due=9e9)]
    batch += make.publications("queue", 5, priority=9)
    transport.publish(*batch)
    *returned, parked = transport.claim("queue", limit=4)
    transport.settle(*returned, disposition=GiveBack(blamed=True))
    transport.park(parked, until=ParkUntil(9e9))
    assert ask("HLEN", "kern.notes") == 4
    assert transport.purge("queue") == 310
    ours = (b"kern.sentries.", b"kern.idle.", b"kern.server_run", b"kern.published.")
    assert [key for key in ask("KEYS", "*") if not key.startswith(ours)] == []
    remembered = [member for slot in range(3) for member in ask("SMEMBERS", f"kern.published.{slot}")]
    assert [member for member in remembered if b"@" in member] == []
    transport.publish(*batch)
    assert transport.held("queue") == 310


def test_delete_finds_calls_in_any_queue(transport: Connection, ask: Ask) -> None:
    """Ready by any priority, and delayed; what is not asked for stays, in its order."""
    kept = transport.publish(*make.publications("one", 150))
    gone = transport.publish(
        make.publication("one"),
        make.publication("two", priority=6),
        make.publication("two", due=9e9),
        make.publication("two", 'odd "id" ☃'),
    )
    kept += transport.publish(*make.publications("one", 150))
    assert transport.delete(*gone, "nobody's") == 4
    assert transport.delete(*gone) == 0
    assert [delivery.task_id for delivery in transport.claim("one", limit=300)] == kept
    assert transport.held("two") == 0
    assert transport.publish(make.publication("two", gone[1])), "its id is free again"
    assert transport.held("two") == 1
    many = transport.publish(*make.publications("three", 40))
    assert transport.delete(*many) == 40


def test_quarantine_gives_back_the_very_bytes_once(transport: Connection, ask: Ask) -> None:
    """Whatever they are; replayed twice and by two it is there once; its bytes and counts are given back."""
    raws = [b"not JSON \x00\xff", json.dumps({"body": "x"}).encode(), b""]
    for raw in raws:
        ask("LPUSH", "queue", raw)
    deliveries = transport.claim_eventually("queue", count=3)
    for delivery in deliveries:
        transport.settle(delivery, disposition=Quarantine("undecodable", {"why": "\x00☃"}))
    found = transport.quarantined("queue")
    assert sorted(entry.raw or b"" for entry in found) == sorted(raws)
    assert [dict(entry.evidence) for entry in found] == [{"why": "\x00☃"}] * 3
    assert transport.quarantined("elsewhere") == []
    assert len(transport.quarantined(limit=2)) == 2
    assert transport.depth("queue").quarantined == 3
    keys = [entry.key for entry in found]
    assert transport.replay(*keys[:2], *keys[:2], "no such key") == 2
    assert transport.replay(*keys) == 1
    assert sorted(ask("LRANGE", "queue", 0, -1)) == sorted(raws)
    assert transport.depth("queue").quarantined == 0
    assert ask("GET", "kern.quarantine_bytes") == b"0"
    assert ask("HGETALL", "kern.quarantine_counts") == []


def test_a_replay_to_a_key_that_is_no_list_is_refused(transport: Connection, ask: Ask) -> None:
    """The message stays where it is."""
    transport.publish(make.publication("queue"))
    transport.settle(transport.claim_one("queue"), disposition=Quarantine("bad"))
    ask("SET", "queue", "x")
    (entry,) = transport.quarantined()
    with pytest.raises(TransportError, match="something else"):
        transport.replay(entry.key)
    assert len(transport.quarantined()) == 1
    assert transport.drop(entry.key) == 1
    assert transport.drop(entry.key) == 0
    assert ask("GET", "kern.quarantine_bytes") == b"0"
    assert ask("EXISTS", "kern.quarantine_counts", "kern.quarantine_index", "kern.quarantine") == 0


def test_what_is_replayed_stays_while_another_of_its_id_is_there(transport: Connection) -> None:
    publication = make.publication("queue")
    transport.publish(publication)
    transport.settle(transport.claim_one("queue"), disposition=Quarantine("bad"))
    transport.publish(publication)
    (entry,) = transport.quarantined()
    assert transport.replay(entry.key) == 0
    transport.settle(transport.claim_one("queue"))
    assert transport.replay(entry.key) == 1
    assert transport.held("queue") == 1


def test_nothing_holds_the_server_up(transport: Connection, ask: Ask) -> None:
    """With 20,000 messages in a queue and 2,000 leased, no command of these takes long.

    Each takes less than five milliseconds; the machine of a test may do other things meanwhile.
    """
    transport.publish(*make.publications("queue", 20_000))
    for _ in range(20):
        transport.claim("queue", limit=100)
    last = transport.peek("queue", 500)[-1].task_id
    assert last is not None
    ask("CONFIG", "SET", "slowlog-log-slower-than", "25000")
    ask("SLOWLOG", "RESET")
    try:
        assert transport.queues() == ["queue"]
        depth = transport.depth("queue")
        assert (depth.ready, depth.leased) == (18_000, 2_000)
        assert transport.delete(last) == 1
        assert transport.purge("queue") == 17_999
        assert [(entry[2], entry[3][0]) for entry in ask("SLOWLOG", "GET", 10)] == []
    finally:
        ask("CONFIG", "SET", "slowlog-log-slower-than", "10000")


def test_the_way_back_to_celery_leaves_nothing_in_structures_that_only_kern_knows(
    transport: Connection, connect: Connect, ask: Ask
) -> None:
    """Everything leased or delayed is in its queue again, the very bytes, what is due first comes first."""
    transport.publish(*[make.publication("queue") for _ in range(3)])
    before = sorted(ask("LRANGE", "queue", 0, -1))
    later, sooner = transport.claim("queue", limit=2)
    transport.park(later, until=ParkUntil(9e9, "eta"))
    transport.park(sooner, until=ParkUntil(8e9, "eta"))
    transport.claim_one("queue")
    operator = connect(role="client")
    assert operator.recover(everything=True) == 1
    assert operator.release_delayed() == 2
    assert sorted(ask("LRANGE", "queue", 0, -1)) == before
    assert ask("EXISTS", "kern.leases", "kern.lease_index", "kern.delayed.queue", "kern.delayed_messages.queue") == 0
    # The first that comes is the one that was handed back, then those that were delayed, earliest first.
    found = transport.claim("queue", limit=3)
    assert [delivery.task_id for delivery in found[1:]] == [sooner.task_id, later.task_id]
    assert {delivery.parked_reason for delivery in found} == {None}
