"""Who is woken by a new message: few, and at least one who can take it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kern.contracts.transport import Owner
from kern.outcome import GiveBack, ParkUntil, RetryAt
from kern_broker_redis.transport import RedisTransport
from kern_testing import make
from kern_testing.contracts.connection import Connection
from kern_testing.waiting import eventually

from .conftest import Ask, Connect

IDLE = 40


def queue_of_idlers(connect: Connect, count: int) -> tuple[str, list[Connection]]:
    """A queue for which so many workers wait."""
    queue = make.unique("queue")
    workers = [connect() for _ in range(count)]
    for worker in workers:
        assert worker.claim(queue) == []
        worker.forget_events()
    return queue, workers


def woken(workers: list[Connection]) -> list[Connection]:
    return [worker for worker in workers if worker.woken]


def sentries(ask: Ask, queue: str) -> set[str]:
    return {name.decode() for name in ask("ZRANGE", f"kern.sentries.{queue}", 0, -1)}


def test_one_message_wakes_few(connect: Connect, ask: Ask) -> None:
    """Of forty who wait three are told, and whoever takes the message is replaced as a sentry."""
    queue, workers = queue_of_idlers(connect, IDLE)
    assert len(sentries(ask, queue)) == 3
    ask("LPUSH", queue, "a message of another program")
    eventually(lambda: len(woken(workers)) == 3, "the sentries were woken")
    told = woken(workers)
    assert {worker.owner.id for worker in told} == sentries(ask, queue)
    (taken,) = [delivery for worker in told for delivery in worker.claim(queue)]
    assert taken.problem
    # Two of three are left: enough.
    assert len(sentries(ask, queue)) >= 2
    assert woken(workers) == told


def test_what_is_left_over_wakes_the_next(connect: Connect) -> None:
    """Ten messages for workers that take one each: each is taken by somebody who was woken for it."""
    queue, workers = queue_of_idlers(connect, IDLE)
    workers[-1].publish(*make.publications(queue, 10))
    taken: list[str] = []
    asked = 0

    def all_taken() -> bool:
        nonlocal asked
        for worker in woken(workers):
            worker.forget_events()
            asked += 1
            taken.extend(delivery.task_id for delivery in worker.claim(queue, limit=1))
        return len(taken) == 10

    eventually(all_taken, "all messages were taken")
    assert len(set(taken)) == 10
    assert asked <= 2 * 10 + 5, f"{asked} claims for ten messages"


def test_when_all_sentries_are_busy_others_take_their_place(connect: Connect, ask: Ask) -> None:
    """A sentry that has work now leaves its post to one who waits, who is woken for that."""
    queue, workers = queue_of_idlers(connect, 5)
    publisher = connect(role="client")
    for _ in range(5):
        publisher.publish(make.publication(queue))

        def one_has_it() -> bool:
            for worker in woken(workers):
                worker.forget_events()
                if worker.claim(queue, limit=1):
                    workers.remove(worker)  # it is busy from now on
                    return True
            return False

        eventually(one_has_it, "somebody who was woken took the message")
    assert sentries(ask, queue) == set()


def test_a_sentry_that_died_is_replaced_by_the_next_who_looks(connect: Connect, ask: Ask) -> None:
    """Nobody waits for the dead: who has been silent for longer than workers are holds no post."""
    queue, workers = queue_of_idlers(connect, 4)
    dead = sentries(ask, queue)
    long_ago = int(ask("TIME")[0]) * 1000 - 60_000
    for name in dead:
        ask("ZADD", f"kern.sentries.{queue}", long_ago, name)
        ask("ZADD", f"kern.idle.{queue}", long_ago, name)
    (alive,) = [worker for worker in workers if worker.owner.id not in dead]
    assert alive.claim(queue) == []  # as it does each second
    assert sentries(ask, queue) == {alive.owner.id}
    alive.forget_events()
    alive.publish(make.publication(queue))
    eventually(lambda: alive.woken, "the new sentry was told")


def test_a_worker_that_is_rung_and_gone_is_skipped(connect: Connect, ask: Ask) -> None:
    """The ring goes to the next when nobody hears it."""
    queue, workers = queue_of_idlers(connect, 3)
    last = connect()
    assert last.claim(queue) == []
    last.forget_events()
    ask("ZADD", f"kern.idle.{queue}", int(ask("TIME")[0]) * 1000 + 2000, "nobody")
    taker = workers[0]
    taker.publish(*make.publications(queue, 2))
    assert len(taker.claim(queue, limit=1)) == 1
    eventually(lambda: last.woken, "who waits was rung")


def test_a_message_that_comes_just_then_is_not_missed(connect: Connect) -> None:
    """A message that arrives between the look and the watch is found by the watch itself."""
    queue = make.unique("queue")
    worker, other = connect(), connect()
    for _ in range(200):
        published = other.port.publish([make.publication(queue)])
        found = worker.claim(queue)
        assert other.port.drive(published, 10) == [None]
        if not found:
            eventually(lambda: worker.woken, "the worker was woken")
            found = worker.claim_eventually(queue, count=1)
        worker.settle(*found)
        worker.forget_events()


@pytest.mark.parametrize("way", ["park", "retry", "give back", "publish", "follow-up"])
def test_who_sleeps_until_a_later_time_is_told_of_an_earlier_one(connect: Connect, way: str) -> None:
    """A delayed message that is due before all others wakes whoever was told when to come back."""
    queue, elsewhere = make.unique("queue"), make.unique("queue")
    worker, sleeper = connect(), connect()
    worker.publish(make.publication(queue, due=worker.clock.now() + 1000), make.publication(queue))
    (delivery,) = worker.claim(queue)
    worker.publish(make.publication(elsewhere))
    asleep = sleeper.try_claim(make.claim_of(queue))
    assert asleep.next_due is not None
    assert asleep.next_due > 900
    sleeper.forget_events()
    due = worker.clock.now() + 0.3
    assert delivery.message is not None
    acts: dict[str, Callable[[], object]] = {
        "park": lambda: worker.park(delivery, until=ParkUntil(due)),
        "retry": lambda: worker.settle(delivery, disposition=RetryAt(delivery.message, due)),  # type: ignore[arg-type]
        "give back": lambda: worker.settle(delivery, disposition=GiveBack(due=due)),
        "publish": lambda: worker.publish(make.publication(queue, due=due)),
        "follow-up": lambda: worker.settle(worker.claim_one(elsewhere), follow_ups=[make.publication(queue, due=due)]),
    }
    acts[way]()
    eventually(lambda: sleeper.woken, "the sleeper was told")
    again = sleeper.try_claim(make.claim_of(queue))
    assert again.next_due is not None
    assert again.next_due < 0.4


def test_a_worker_that_stops_leaves_no_trace(connect: Connect, ask: Ask) -> None:
    """It waits nowhere any more; its post is taken over."""
    queue, workers = queue_of_idlers(connect, 4)
    for worker in [worker for worker in workers if worker.owner.id in sentries(ask, queue)][:2]:
        worker.stop()
        assert worker.owner.id not in sentries(ask, queue)
        assert ask("ZSCORE", f"kern.idle.{queue}", worker.owner.id) is None
    eventually(lambda: len(woken(workers)) == 1, "one sentry was left, and another worker was asked to join it")


def test_a_client_that_looks_waits_for_nothing(redis_url: str, ask: Ask) -> None:
    """Only workers are put down as waiting."""
    queue = make.unique("queue")
    transport = RedisTransport(redis_url)
    transport.drive(transport.start(Owner(make.unique("client")), lambda event: None), 10)
    assert transport.drive(transport.claim(make.claim_of(queue)), 10).deliveries == ()
    assert ask("EXISTS", f"kern.idle.{queue}", f"kern.sentries.{queue}") == 0
    transport.drive(transport.stop(), 10)
