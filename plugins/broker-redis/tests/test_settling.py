"""Settling where things go wrong: what is written and what is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import attrs
import pytest

from kern import Kern
from kern.contracts.result_store import Plan
from kern.contracts.transport import SettleStatus
from kern.delivery import Delivery
from kern.errors import EncodeError, PublishRefused, TransportError
from kern.message import Message, Publication
from kern.outcome import GiveBack, ParkUntil, Quarantine, RetryAt
from kern_broker_redis.transport import RedisTransport
from kern_redis_client.plans import RedisPlan, one_document
from kern_testing import make
from kern_testing.contracts.connection import Connection
from kern_testing.servers import Redis
from kern_testing.waiting import eventually

from .conftest import Ask, Connect
from .relay import Relay

T = TypeVar("T")

#: Milliseconds: twice what a script may take, for the machine of a test does other things meanwhile.
LONGEST = 10.0


def plan_of(transport: Connection, task_id: str, document: bytes) -> RedisPlan:
    """What a result store of this server wants written."""
    arguments = one_document(0, "SUCCESS", f"celery-task-meta-{task_id}", 60_000, document)
    return RedisPlan(transport.port.server, None, arguments=arguments, writer=None)  # type: ignore[arg-type]


def test_a_result_is_written_with_the_release(connect: Connect, ask: Ask) -> None:
    """The plan of the store and the end of the lease are one script."""
    transport, queue = connect(), make.unique("queue")
    transport.publish(*make.publications(queue, 3))
    settlements = [
        make.settlement(delivery, plan=plan_of(transport, delivery.task_id, b'{"status": "SUCCESS"}'))
        for delivery in transport.claim(queue)
    ]
    transport.written(transport.try_settle(*settlements))
    for settlement in settlements:
        assert ask("GET", f"celery-task-meta-{settlement.outcome.task_id}") == b'{"status": "SUCCESS"}'
    again = transport.try_settle(*settlements)
    assert [item.status for item in again] == [SettleStatus.FENCED] * 3


def test_a_stored_success_is_kept(connect: Connect, ask: Ask) -> None:
    """Settled, and the answer says that another success is stored."""
    transport, queue = connect(), make.unique("queue")
    (task_id,) = transport.publish(make.publication(queue))
    ask("SET", f"celery-task-meta-{task_id}", '{"status": "SUCCESS", "result": 1}')
    plan = plan_of(transport, task_id, b'{"status": "SUCCESS", "result": 2}')
    (settled,) = transport.try_settle(make.settlement(transport.claim_one(queue), plan=plan))
    assert settled.status is SettleStatus.RESULT_KEPT
    assert transport.held(queue) == 0


def test_a_result_that_cannot_be_stored_keeps_its_lease(connect: Connect, ask: Ask) -> None:
    """The key of a result holds something else: that item answers so, and its neighbours are settled."""
    transport, queue = connect(), make.unique("queue")
    transport.publish(*make.publications(queue, 3))
    deliveries = transport.claim(queue)
    ask("LPUSH", f"celery-task-meta-{deliveries[1].task_id}", "no document")
    store = _Refusing()
    settlements = [
        make.settlement(delivery, plan=attrs.evolve(plan_of(transport, delivery.task_id, b"{}"), writer=store))
        for delivery in deliveries
    ]
    first, second, third = transport.try_settle(*settlements)
    assert (first.error, third.error) == (None, None)
    assert "WRONGTYPE" in str(second.error)
    assert transport.renew(deliveries[1].receipt) == frozenset()
    assert transport.depth(queue).leased == 1


class _Refusing:
    """A result store that makes errors of what the server says."""

    def refused(self, plan: RedisPlan, said: str) -> Exception:
        return TransportError(said)

    def decide(self, plan: RedisPlan, reports: object) -> object:
        raise AssertionError("nothing is to be decided here")


def test_a_plan_of_another_server_is_refused(connect: Connect) -> None:
    """It is an error of that item, and nothing of it is written."""
    transport, queue = connect(), make.unique("queue")
    transport.publish(*make.publications(queue, 2))
    wrong, right = transport.claim(queue)
    first, second = transport.try_settle(
        make.settlement(wrong, plan=Plan("redis:elsewhere/0", None)), make.settlement(right)
    )
    assert "redis:elsewhere/0" in str(first.error)
    assert second.error is None
    assert transport.depth(queue).leased == 1


@pytest.mark.parametrize("end", ["retry", "give back"])
def test_a_queue_whose_key_is_no_list_keeps_the_lease(connect: Connect, ask: Ask, end: str) -> None:
    """What cannot go back stays leased, with an error that names the key; its result is not written."""
    transport, queue = connect(), make.unique("queue")
    (task_id,) = transport.publish(make.publication(queue))
    delivery = transport.claim_one(queue)
    assert delivery.message is not None
    ask("SET", queue, "no list")
    disposition = RetryAt(delivery.message, 0) if end == "retry" else GiveBack()
    plan = plan_of(transport, task_id, b"{}")
    (settled,) = transport.try_settle(make.settlement(delivery, disposition, plan=plan))
    assert queue in str(settled.error)
    assert ask("EXISTS", f"celery-task-meta-{task_id}") == 0
    assert transport.renew(delivery.receipt) == frozenset()
    ask("DEL", queue)
    transport.written(transport.try_settle(make.settlement(delivery, disposition)))
    assert transport.depth(queue).ready == 1


def test_a_follow_up_that_cannot_be_written_is_its_items_error(connect: Connect) -> None:
    """It names the header's message; neighbours are settled."""
    transport, queue = connect(), make.unique("queue")
    transport.publish(*make.publications(queue, 2))
    failing, fine = transport.claim(queue)
    first, second = transport.try_settle(
        make.settlement(failing, follow_ups=[make.publication(queue, headers={"odd": object()})]),
        make.settlement(fine),
    )
    assert isinstance(first.error, EncodeError)
    assert second.error is None
    retry = RetryAt(attrs.evolve(make.message(), headers={"odd": object()}), 0)
    (third,) = transport.try_settle(make.settlement(failing, retry))
    assert isinstance(third.error, EncodeError)
    assert transport.depth(queue).leased == 1


def test_the_error_of_an_unroutable_follow_up_names_it(connect: Connect) -> None:
    """Which of several, and why."""
    transport, queue = connect(), make.unique("queue")
    transport.publish(make.publication(queue))
    unroutable = make.publication("nowhere", exchange="no-such-exchange")
    follow_ups = [make.publication(queue), unroutable]
    (settled,) = transport.try_settle(make.settlement(transport.claim_one(queue), follow_ups=follow_ups))
    assert isinstance(settled.error, PublishRefused)
    assert unroutable.task_id in str(settled.error)
    assert "no-such-exchange" in str(settled.error)


def test_what_follows_may_end_in_the_deadletter_queue(connect: Connect, redis_url: str) -> None:
    """With that option, what no queue is bound for is kept there, and its task is settled; others go their way."""
    app = Kern("tests", broker_url=redis_url)
    app.conf.broker_transport_options = {"deadletter_queue": "dead letters"}
    worker = Connection(RedisTransport(redis_url, app.conf)).start()
    queue = make.unique("queue")
    worker.publish(make.publication(queue))
    unroutable = [make.publication(f"nowhere.{number}", exchange="no-such-exchange") for number in range(2)]
    follow_ups = [unroutable[0], make.publication(queue), unroutable[1]]
    worker.settle(worker.claim_one(queue), follow_ups=follow_ups)
    assert worker.depth(queue).ready == 1
    kept = worker.claim("dead letters")
    assert {delivery.task_id for delivery in kept} == {publication.task_id for publication in unroutable}
    assert {(d.exchange, d.routing_key) for d in kept} == {
        ("no-such-exchange", "nowhere.0"),
        ("no-such-exchange", "nowhere.1"),
    }
    worker.stop()


def test_full_memory_does_not_keep_workers_from_going_on(connect: Connect, ask: Ask) -> None:
    """At maxmemory publishing is refused; claims, renewals, settlements of every kind and recovery go on."""
    transport, queue = connect(), make.unique("queue")
    transport.publish(*make.publications(queue, 9))
    try:
        ask("CONFIG", "SET", "maxmemory", "1")
        (refused,) = transport.try_publish([make.publication(queue)])
        assert isinstance(refused, PublishRefused)
        assert "maxmemory" in str(refused)
        released, retried, returned, blamed, parked, poison, stored, followed, silent = transport.claim(queue)
        assert retried.message is not None
        far = transport.clock.now() + 1000
        transport.written(
            transport.try_settle(
                make.settlement(released),
                make.settlement(retried, RetryAt(retried.message, far)),
                make.settlement(returned, GiveBack()),
                make.settlement(blamed, GiveBack(blamed=True)),
                make.settlement(poison, Quarantine("bad")),
                make.settlement(stored, plan=plan_of(transport, stored.task_id, b"{}")),
                make.settlement(followed, follow_ups=[make.publication(queue)]),
            )
        )
        transport.park(parked, until=ParkUntil(far))
        transport.mark_started(silent.receipt)
        assert transport.renew(silent.receipt, lease_seconds=0.001) == frozenset()
        assert len(transport.claim_eventually(queue, count=4, recover=True)) == 4
        assert transport.claim(queue) == []  # and is put down as waiting
        depth = transport.depth(queue)
        assert (depth.ready, depth.leased, depth.delayed, depth.quarantined) == (0, 4, 2, 1)
    finally:
        ask("CONFIG", "SET", "maxmemory", "0")


def test_quarantine_has_its_bounds(connect: Connect, redis_url: str, ask: Ask) -> None:
    """What does not fit is refused with the remedy, and stays leased: nothing makes room by itself."""
    transport, queue = connect(), make.unique("queue")
    small = transport.port
    assert isinstance(small, RedisTransport)
    small._settling._quota = 3000
    transport.publish(*make.publications(queue, 10))
    settled = transport.try_settle(*[make.settlement(each, Quarantine("bad")) for each in transport.claim(queue)])
    refused = [item for item in settled if item.error is not None]
    assert 0 < len(refused) < 10
    assert all("quarantine_bytes" in str(item.error) for item in refused)
    assert transport.depth(queue).leased == len(refused)
    assert transport.depth(queue).quarantined == 10 - len(refused)
    assert int(ask("GET", "kern.quarantine_bytes")) <= 3000
    transport.drop(*(entry.key for entry in transport.quarantined(queue)))
    assert int(ask("GET", "kern.quarantine_bytes") or 0) == 0
    (again,) = transport.try_settle(make.settlement(_delivery(transport, refused[0].receipt), Quarantine("bad")))
    assert again.error is None


def _delivery(transport: Connection, receipt: str) -> object:
    port = transport.port
    assert isinstance(port, RedisTransport)
    held = port._settling._holdings.get(receipt)
    assert held is not None
    return held.delivery


def test_two_messages_of_one_name_are_both_kept_in_quarantine(connect: Connect) -> None:
    """One id, one queue, one reason, two messages: each is there."""
    transport, queue = connect(), make.unique("queue")
    publication = make.publication(queue)
    for _ in range(2):
        transport.publish(publication)
        transport.settle(transport.claim_one(queue), disposition=Quarantine("bad"))
    first, second = transport.quarantined(queue)
    assert first.key != second.key
    assert transport.depth(queue).quarantined == 2


def test_a_settlement_whose_answer_was_lost_may_be_repeated(connect: Connect, redis_server: Redis, ask: Ask) -> None:
    """The first attempt counts, whether it arrived or not: no follow-up twice, no result twice."""
    queue, following = make.unique("queue"), make.unique("queue")
    with Relay(redis_server.port) as relay:
        transport = connect(f"redis://127.0.0.1:{relay.port}/0")
        transport.publish(*make.publications(queue, 5))
        settlements = [
            make.settlement(delivery, follow_ups=[make.publication(following)]) for delivery in transport.claim(queue)
        ]
        relay.lose_answer_to(b"EVALSHA")
        with pytest.raises(TransportError) as lost:
            transport.try_settle(*settlements)
        assert lost.value.retryable
        assert relay.lost.is_set()
        again = transport.try_settle(*settlements)
        assert [item.status for item in again] == [SettleStatus.FENCED] * 5
        assert (transport.held(queue), transport.depth(following).ready) == (0, 5)
        transport.stop()


class Stopwatch:
    """How long scripts hold the server up: by its slow log, unless it has worked for less (the machine may be busy)."""

    def __init__(self, ask: Ask, server: Redis) -> None:
        self._ask = ask
        self._worked_for = Path(f"/proc/{server.pid}/schedstat")
        #: Milliseconds, and the script's hash.
        self.longest = (0.0, b"")
        ask("CONFIG", "SET", "slowlog-log-slower-than", "0")

    def __call__(self, work: Callable[[], T]) -> T:
        """Do *work*, a command or a few."""
        self._ask("SLOWLOG", "RESET")
        before = self._worked()
        done = work()
        worked = self._worked() - before
        for entry in self._ask("SLOWLOG", "GET", 128):
            if entry[3][0] in (b"EVALSHA", b"EVAL"):
                self.longest = max(self.longest, (min(entry[2] / 1000, worked), entry[3][1]))
        return done

    @classmethod
    def best(cls, ask: Ask, server: Redis, work: Callable[[Stopwatch], object]) -> float:
        """The longest in the best of a few rounds of *work*."""
        found = []
        for _ in range(5):
            watch = cls(ask, server)
            work(watch)
            found.append(watch.longest[0])
            if found[-1] < LONGEST:
                break
        return min(found)

    def _worked(self) -> float:
        """Milliseconds of processor time."""
        try:
            return int(self._worked_for.read_text().split()[0]) / 1e6
        except OSError:
            return float("inf")  # nobody says


def test_large_batches_hold_the_server_up_for_no_moment(connect: Connect, ask: Ask, redis_server: Redis) -> None:
    """A hundred at a time claimed and settled, with results and follow-ups: no script takes 5 ms."""
    transport = connect()

    def drain(watch: Stopwatch) -> None:
        queue, following = make.unique("queue"), make.unique("queue")
        transport.publish(*make.publications(queue, 2000, body=b"x" * 200))
        while deliveries := watch(lambda: transport.claim(queue)):
            settlements = [
                make.settlement(
                    delivery,
                    plan=plan_of(transport, delivery.task_id, b'{"status": "SUCCESS"}'),
                    follow_ups=[make.publication(following)] if number % 10 == 0 else (),
                )
                for number, delivery in enumerate(deliveries)
            ]
            transport.written(watch(partial(transport.try_settle, *settlements)))
        assert (transport.held(queue), transport.held(following)) == (0, 200)

    assert Stopwatch.best(ask, redis_server, drain) < LONGEST


def test_messages_of_a_megabyte_hold_the_server_up_for_no_moment(
    connect: Connect, ask: Ask, redis_server: Redis
) -> None:
    """Claimed one by one by the byte budget, given back, parked, retried, quarantined, replayed, recovered."""
    transport = connect()

    def detours(watch: Stopwatch) -> None:
        queue = make.unique("queue")
        for _ in range(6):
            transport.publish(make.publication(queue, body=b"x" * 1_000_000))
        deliveries: list[Delivery] = []
        for _ in range(6):
            deliveries += watch(lambda: transport.claim(queue))
        assert len(deliveries) == 6
        returned, parked, retried, poison, kept, silent = deliveries
        assert retried.message is not None
        for settlement in (
            make.settlement(returned, GiveBack()),
            make.settlement(parked, ParkUntil(0)),
            make.settlement(retried, RetryAt(retried.message, 0)),
            make.settlement(poison, Quarantine("bad")),
        ):
            transport.written(watch(partial(transport.try_settle, settlement)))
        for entry in transport.quarantined(queue):
            watch(partial(transport.replay, entry.key))
        transport.renew(silent.receipt, lease_seconds=0.001)
        back: list[Delivery] = []

        def all_back() -> bool:
            watch(transport.recover)
            back.extend(watch(lambda: transport.claim(queue)))
            return len(back) == 5

        eventually(all_back, "what went the long way round was claimed")
        transport.settle(*back, kept)

    assert Stopwatch.best(ask, redis_server, detours) < LONGEST


def test_many_delayed_messages_are_moved_bit_by_bit(connect: Connect, ask: Ask, redis_server: Redis) -> None:
    """A thousand that are due at once become ready in bounded steps, and what is not due costs nothing."""
    transport = connect()

    def wait_and_drain(watch: Stopwatch) -> None:
        queue = make.unique("queue")
        due = transport.clock.now() + 0.05
        transport.publish(*make.publications(queue, 1000, due=due), *make.publications(queue, 3000, due=due + 1000))
        eventually(lambda: transport.clock.now() > due, "they are due")
        claimed = 0
        while found := watch(lambda: transport.claim(queue, limit=100)):
            claimed += len(found)
            transport.settle(*found)
        assert claimed == 1000
        assert transport.depth(queue).delayed == 3000

    assert Stopwatch.best(ask, redis_server, wait_and_drain) < LONGEST


def test_scripts_that_the_server_forgot_are_told_again(connect: Connect, ask: Ask) -> None:
    """After a SCRIPT FLUSH each is sent once more, and the command is carried out once."""
    transport, queue = connect(), make.unique("queue")
    transport.publish(make.publication(queue))
    ask("SCRIPT", "FLUSH")
    delivery = transport.claim_one(queue)
    ask("SCRIPT", "FLUSH")
    assert transport.renew(delivery.receipt) == frozenset()
    ask("SCRIPT", "FLUSH")
    transport.settle(delivery, follow_ups=[make.publication(queue)])
    assert transport.depth(queue).ready == 1


def test_a_message_without_a_tag_and_two_with_one_are_messages(connect: Connect, ask: Ask) -> None:
    """The publisher's tag is nobody's proof: leases are told apart by their receipts."""
    transport, queue = connect(), make.unique("queue")
    copies = [Publication(Message(b"x", {}, {"delivery_tag": "the same"}), "", queue)] * 2
    transport.publish(*copies)
    raw = ask("LINDEX", queue, 0)
    ask("LPUSH", queue, raw)  # the same envelope, tag included
    ask("LPUSH", queue, b'{"body": "e30=", "headers": {}, "properties": {"body_encoding": "base64"}}')
    deliveries = transport.claim(queue)
    assert len({delivery.receipt for delivery in deliveries}) == 4
    first, *rest = deliveries
    transport.settle(first)
    assert transport.depth(queue).leased == 3
    transport.settle(*rest, disposition=GiveBack(blamed=True))
    assert [delivery.attempts > 0 for delivery in transport.claim(queue)] == [True] * 3
