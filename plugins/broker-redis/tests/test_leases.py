"""Leases that are kept, lost, and handed back, with servers and connections that go and come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from kern.contracts.port import Lost
from kern.contracts.transport import SettleStatus
from kern.errors import TransportError
from kern.outcome import GiveBack, ParkUntil, Quarantine
from kern_broker_redis.transport import RedisTransport
from kern_testing import make
from kern_testing.contracts.connection import Connection
from kern_testing.servers import Redis, free_port
from kern_testing.waiting import eventually

from .conftest import Ask, Connect
from .relay import Relay


@pytest.fixture
def relay(redis_server: Redis) -> Iterator[Relay]:
    with Relay(redis_server.port) as relay:
        yield relay


def through(relay: Relay) -> str:
    return f"redis://127.0.0.1:{relay.port}/0"


def test_a_claim_whose_answer_was_lost_is_answered_after_all(connect: Connect, relay: Relay) -> None:
    """The messages were leased, and nobody knew: whoever asked gets them with the next connection, unsuspected."""
    worker, queue = connect(through(relay)), make.unique("queue")
    published = worker.publish(*make.publications(queue, 5))
    worker.settle(worker.claim(queue, limit=1)[0], disposition=GiveBack(blamed=True))
    relay.lose_answer_to(b"EVALSHA")
    found = worker.claim(queue, limit=3)
    assert relay.lost.is_set()
    assert [delivery.task_id for delivery in found] == published[:3]
    assert [delivery.attempts for delivery in found] == [1, 0, 0]
    assert not any(delivery.suspect or delivery.redelivered for delivery in found)
    worker.settle(*found)
    assert len(worker.claim(queue)) == 2
    worker.stop()


def test_a_claim_on_a_dead_connection_finds_what_there_is(connect: Connect, relay: Relay, ask: Ask) -> None:
    """The connection was gone before, and nobody had noticed: the next one is used, and nothing is leased twice."""
    worker, other, queue = connect(through(relay)), connect(), make.unique("queue")
    assert worker.claim(queue) == []
    other.publish(*make.publications(queue, 2))
    ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert len(worker.claim_eventually(queue, count=2)) == 2
    worker.stop()


def test_notes_are_asked_for_again(connect: Connect, relay: Relay) -> None:
    """The connection goes between the claim and the look at its notes: the leases are renewed first, then it looks."""
    worker, queue = connect(through(relay)), make.unique("queue")
    worker.publish(make.publication(queue))
    worker.settle(worker.claim_one(queue), disposition=GiveBack(blamed=True))
    relay.lose_answer_to(b"HMGET")
    (found,) = worker.claim(queue)
    assert relay.lost.is_set()
    assert found.attempts == 1
    worker.stop()


def test_what_is_held_is_renewed_before_anything_else(connect: Connect, redis_server: Redis, ask: Ask) -> None:
    """With a new connection leases are as long as ever, before others can claim them; who lost one is told."""
    worker, queue = connect(), make.unique("queue")
    worker.publish(*make.publications(queue, 3))
    kept, taken, _ = worker.claim(queue, lease_seconds=30)
    worker.renew(kept.receipt, taken.receipt, lease_seconds=30)
    past = int(ask("TIME")[0]) * 1000 - 1000
    ask("ZADD", "kern.lease_index", past, kept.receipt)
    ask("ZREM", "kern.lease_index", taken.receipt)
    ask("HDEL", "kern.leases", taken.receipt)
    end_connections(ask)
    eventually(lambda: worker.ups, "the connection is there again")
    (lost,) = [event for event in worker.events if isinstance(event, Lost)]
    assert lost.receipts == {taken.receipt}
    assert float(ask("ZSCORE", "kern.lease_index", kept.receipt)) > past + 20_000
    assert worker.renew(kept.receipt) == frozenset()


def end_connections(ask: Ask) -> None:
    """End all connections but our own."""
    ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    ask("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")


def test_whose_connection_was_gone_takes_nothing_from_others_at_once(connect: Connect, ask: Ask) -> None:
    """Others may not have been able to renew either: they get the time of a lease to come back."""
    worker, other, queue = connect(), connect(), make.unique("queue")
    worker.publish(make.publication(queue))
    (delivery,) = other.claim(queue, lease_seconds=30)
    end_connections(ask)
    eventually(lambda: worker.ups and other.ups, "the connections are there again")
    ask("ZADD", "kern.lease_index", 1, delivery.receipt)
    assert worker.recover() == 0
    assert connect().recover() == 1


def test_a_restarted_server_gives_everybody_time() -> None:
    """Leases outlast a restart by a full term: nobody could renew them while the server was down."""
    server = Redis(append_only=True)
    server.start()
    queue = make.unique("queue")
    try:
        worker = connected(server)
        worker.publish(*make.publications(queue, 2))
        held = worker.claim(queue, lease_seconds=0.05)
        worker.stop()
        server.restart()
        newcomer = connected(server)
        assert newcomer.recover() == 0, "nobody could have renewed these"
        assert newcomer.claim(queue) == []
        assert newcomer.renew(*(delivery.receipt for delivery in held), lease_seconds=0.05) == frozenset()
        assert len(newcomer.claim_eventually(queue, count=2, recover=True)) == 2
        newcomer.stop()
    finally:
        server.stop()


def connected(server: Redis) -> Connection:
    return Connection(RedisTransport(server.url())).start()


def test_a_second_start_prolongs_nothing(connect: Connect) -> None:
    """Only a restart does: a worker that comes to a running server leaves leases as they are."""
    worker, queue = connect(), make.unique("queue")
    worker.publish(make.publication(queue))
    worker.claim_eventually(queue, count=1, lease_seconds=0.01)
    newcomer = connect()
    assert len(newcomer.claim_eventually(queue, count=1, recover=True)) == 1


def test_many_expired_leases_come_back_in_their_order(connect: Connect) -> None:
    """More than one pass takes; what was claimed first is delivered first."""
    worker, other, queue = connect(), connect(), make.unique("queue")
    published = worker.publish(*make.publications(queue, 250))
    started = worker.clock.now()
    early = worker.claim(queue, limit=125, lease_seconds=0.01)
    late = worker.claim(queue, limit=125, lease_seconds=0.05)
    assert len(early) == len(late) == 125
    eventually(lambda: worker.clock.now() > started + 0.1, "they have expired")
    back = 0

    def all_back() -> bool:
        nonlocal back
        back += other.recover()
        return back == 250

    eventually(all_back, "all leases have come back")
    again = other.claim(queue, limit=250)
    assert {delivery.task_id for delivery in again[:125]} == set(published[:125])
    assert {delivery.task_id for delivery in again} == set(published)
    assert all(delivery.suspect and delivery.redelivered for delivery in again)


def test_what_cannot_go_back_is_looked_at_again_later(connect: Connect, ask: Ask) -> None:
    """A queue's key that is no list keeps its leases, and does not keep those of other queues."""
    worker, queue, odd = connect(), make.unique("queue"), make.unique("queue")
    worker.publish(make.publication(odd), make.publication(queue))
    claimed = worker.claim(odd, queue, lease_seconds=0.01)
    assert len(claimed) == 2
    ask("SET", odd, "no list")
    eventually(lambda: worker.recover() == 1, "the other lease has come back")
    assert ask("HLEN", "kern.leases") == 1
    assert worker.recover() == 0


@pytest.mark.parametrize("key", ["kern.leases", "kern.lease_index", "kern.notes", "kern.started", "kern.quarantine"])
def test_nothing_is_lost_where_a_key_of_ours_is_somebody_elses(connect: Connect, ask: Ask, key: str) -> None:
    """Scripts are not rolled back: claiming, settling and handing back stop before they have taken anything away."""
    worker, queue = connect(), make.unique("queue")
    worker.publish(*make.publications(queue, 3))
    held = worker.claim(queue, limit=2, lease_seconds=0.01)
    kept = {name: ask("DUMP", name) for name in ("kern.leases", "kern.lease_index") if name == key}
    ask("SET", key, "somebody else's")
    for act in (
        lambda: worker.claim(queue),
        lambda: worker.try_settle(make.settlement(held[0], GiveBack(blamed=True))),
        lambda: worker.try_settle(make.settlement(held[0], Quarantine("bad"))),
        lambda: worker.recover(),
    ):
        with suppress(TransportError):
            act()
    ask("DEL", key)
    for name, dump in kept.items():
        ask("RESTORE", name, 0, dump)
    worker.recover(everything=True)
    there = {delivery.task_id for delivery in worker.claim_eventually(queue, count=3 - worker.depth(queue).quarantined)}
    assert len(there) + worker.depth(queue).quarantined == 3


def test_wrong_keys_do_not_keep_other_queues_from_being_claimed(connect: Connect, ask: Ask) -> None:
    """One key among those asked for is a string, another a hash: the rest is claimed, and the claim is no error."""
    worker, queue = connect(), make.unique("queue")
    strange, odd = make.unique("queue"), make.unique("queue")
    ask("SET", strange, "no list")
    ask("HSET", f"{odd}\x06\x163", "no", "list")
    worker.publish(make.publication(queue), make.publication(odd))
    assert {delivery.queue for delivery in worker.claim(strange, odd, queue)} == {queue, odd}
    assert worker.claim(strange) == []


def test_a_lease_is_settled_on_another_connection(connect: Connect) -> None:
    """The receipt is the proof, whoever shows it: counts and reasons go on from where they were."""
    worker, other, queue = connect(), connect(), make.unique("queue")
    worker.publish(make.publication(queue))
    worker.settle(worker.claim_one(queue), disposition=GiveBack(blamed=True))
    other.settle(worker.claim_one(queue), disposition=GiveBack(blamed=True, suspect=True))
    delivery = worker.claim_one(queue)
    assert (delivery.attempts, delivery.suspect) == (2, True)
    other.park(delivery, until=ParkUntil(0, "unknown-task"))
    delivery = worker.claim_one(queue)
    assert (delivery.attempts, delivery.suspect, delivery.parked_reason) == (2, True, "unknown-task")
    (settled,) = other.try_settle(make.settlement(delivery))
    assert settled.status is SettleStatus.DONE


def test_notes_go_with_their_messages(connect: Connect, ask: Ask) -> None:
    """Nothing is left of a message that was settled, whatever had been remembered of it."""
    worker, queue = connect(), make.unique("queue")
    worker.publish(*make.publications(queue, 3))
    for _ in range(2):
        for delivery in worker.claim(queue):
            worker.settle(delivery, disposition=GiveBack(blamed=True))
    assert ask("HLEN", "kern.notes") == 3
    worker.settle(*worker.claim(queue))
    left = {key.decode() for key in ask("KEYS", "*") if not key.startswith(b"kern.published.")}
    assert left == {"kern.server_run"}, f"there is still {left}"


def test_a_started_mark_is_gone_with_its_lease(connect: Connect, ask: Ask) -> None:
    """Marks do not pile up; a lease that has ended is not marked any more."""
    worker, queue = connect(), make.unique("queue")
    worker.publish(*make.publications(queue, 2))
    first, second = worker.claim(queue)
    worker.mark_started(first.receipt, second.receipt, "no such receipt")
    assert ask("SCARD", "kern.started") == 2
    worker.settle(first)
    assert ask("SMEMBERS", "kern.started") == [second.receipt.encode()]
    worker.recover(everything=True)
    assert ask("EXISTS", "kern.started") == 0


def test_a_server_that_became_a_replica_is_left_and_found_again(connect: Connect, ask: Ask) -> None:
    """It takes no writes: nothing is settled, nothing lost, and the same command is carried out once it is master."""
    worker, queue, following = connect(), make.unique("queue"), make.unique("queue")
    worker.publish(*make.publications(queue, 3))
    settled, kept, _rest = worker.claim(queue)
    try:
        ask("REPLICAOF", "127.0.0.1", free_port())
        reply = worker.port.settle([make.settlement(settled, follow_ups=[make.publication(following)])])
        renewal = worker.port.renew([kept.receipt], 30)
        eventually(lambda: worker.downs, "the replica was left")
        assert not reply.done()
    finally:
        ask("REPLICAOF", "NO", "ONE")
    worker.written(worker.port.drive(reply, 20))
    assert worker.port.drive(renewal, 20) == frozenset()
    assert [depth.ready for depth in worker.depths(queue, following)] == [0, 1]


def test_who_waits_hands_back_what_has_expired(connect: Connect) -> None:
    """A claim that finds nothing looks whether somebody died: nobody waits for a heartbeat."""
    dying, waiting, queue = connect(), connect(), make.unique("queue")
    (task_id,) = dying.publish(make.publication(queue))
    dying.claim(queue, lease_seconds=0.05)
    (delivery,) = waiting.claim_eventually(queue, count=1)
    assert (delivery.task_id, delivery.suspect) == (task_id, True)


def test_without_tracking_messages_are_found_by_looking(connect: Connect, redis_url: str, ask: Ask) -> None:
    """A server that forbids to be asked for news is one without news, and works."""
    ask("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "&*", "+@all", "-client|tracking", "-client|caching")
    try:
        worker, queue = connect(redis_url.replace("://", "://deaf:secret@")), make.unique("queue")
        assert worker.claim(queue) == []
        worker.publish(make.publication(queue))
        worker.settle(worker.claim_one(queue))
        assert not worker.downs
        worker.stop()
    finally:
        ask("ACL", "DELUSER", "deaf")


@pytest.mark.parametrize("what", ["the clock jumps", "the server was stopped"])
def test_leases_that_expire_all_at_once_are_left_alone(connect: Connect, redis_server: Redis, what: str) -> None:
    """Nobody could renew them in time: whoever notices gives the others the time of a lease."""
    worker, other, queue = connect(), connect(), make.unique("queue")
    worker.publish(*make.publications(queue, 2))
    other.renew(lease_seconds=0.3)
    started = worker.clock.now()
    held = worker.claim(queue, lease_seconds=0.3)
    transport = other.port
    assert isinstance(transport, RedisTransport)
    if what == "the clock jumps":
        transport._leases._clock._origin = (transport._leases._clock._origin or 0.0) - 3600
        eventually(lambda: worker.clock.now() > started + 0.35, "they have expired")
        assert other.claim(queue) == []
    else:
        redis_server.pause()
        try:
            looking = transport.claim(make.claim_of(queue))
            eventually(lambda: worker.clock.now() > started + 0.6, "the leases have expired meanwhile")
        finally:
            redis_server.resume()
        assert transport.drive(looking, 10).deliveries == ()
    assert other.recover() == 0
    assert worker.renew(*(delivery.receipt for delivery in held)) == frozenset()
