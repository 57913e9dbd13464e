"""Processes that are killed in the middle: what was being written is there, or it is not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from kern import seams
from kern.outcome import GiveBack, ParkUntil, Quarantine, RetryAt
from kern_broker_redis.transport import RedisTransport
from kern_redis_client.plans import RedisPlan, one_document
from kern_testing import make
from kern_testing.contracts.connection import Connection

from .conftest import Ask, Connect


def killed(work: Callable[[], object], at: str, nth: int = 1) -> None:
    """Run *work* in a process that is killed when it reaches the seam *at* for the *nth* time."""
    child = os.fork()
    if child == 0:
        reached = 0

        def die() -> None:
            nonlocal reached
            reached += 1
            if reached == nth:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            seams.arm(at, die)
            work()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), (
        f"the process did not reach {at!r} but ended with {os.waitstatus_to_exitcode(status)}"
    )
    assert os.WTERMSIG(status) == signal.SIGKILL


def opened(url: str) -> Connection:
    return Connection(RedisTransport(url)).start()


def settle_one(url: str, queue: str, follow_up: str) -> None:
    """What a worker does with one message: result, follow-up, release."""
    transport = opened(url)
    (delivery,) = transport.claim(queue, limit=1, lease_seconds=0.2)
    arguments = one_document(0, "SUCCESS", f"celery-task-meta-{delivery.task_id}", 60_000, b"{}")
    plan = RedisPlan(transport.port.server, None, arguments=arguments, writer=None)  # type: ignore[arg-type]
    transport.try_settle(make.settlement(delivery, plan=plan, follow_ups=[make.publication(follow_up)]))


@pytest.mark.parametrize(("seam", "written"), [("settling", False), ("settled", True)])
def test_a_settlement_is_there_or_not(connect: Connect, redis_url: str, ask: Ask, seam: str, written: bool) -> None:
    """Killed before it is sent: the message comes back, no result and no follow-up. After it: all three are done."""
    queue, following = make.unique("queue"), make.unique("queue")
    transport = connect()
    (task_id,) = transport.publish(make.publication(queue))
    killed(lambda: settle_one(redis_url, queue, following), seam)
    leased, followed = transport.depths(queue, following)
    assert (leased.leased, followed.ready) == ((0, 1) if written else (1, 0))
    assert ask("EXISTS", f"celery-task-meta-{task_id}") == written
    if not written:
        (again,) = transport.claim_eventually(queue, count=1, recover=True)
        assert (again.suspect, again.attempts) == (True, 0)


def test_a_claim_that_nobody_heard_of_comes_back(connect: Connect, redis_url: str) -> None:
    """Killed when the server has leased and the worker does not know yet."""
    queue = make.unique("queue")
    transport = connect()
    transport.publish(*make.publications(queue, 3))
    killed(lambda: opened(redis_url).claim(queue, lease_seconds=0.05), "claimed")
    back = transport.claim_eventually(queue, count=3, recover=True)
    assert all(delivery.redelivered and delivery.suspect and not delivery.attempts for delivery in back)


def test_parking_is_there_or_not(connect: Connect, redis_url: str) -> None:
    """Killed before it is sent: the lease is what it was."""
    queue = make.unique("queue")
    transport = connect()
    transport.publish(make.publication(queue))

    def park() -> None:
        mine = opened(redis_url)
        mine.park(mine.claim_one(queue), until=ParkUntil(4e9))

    killed(park, "parking")
    depth = transport.depth(queue)
    assert (depth.leased, depth.delayed) == (1, 0)


@pytest.mark.parametrize("seam", ["claiming", "claimed", "settling", "settled"])
def test_nothing_is_lost_by_many_kills(connect: Connect, redis_url: str, seam: str) -> None:
    """Workers that end leases in every way and are killed again and again: each message is somewhere, once."""
    queue = make.unique("queue")
    transport = connect()
    published = set(transport.publish(*make.publications(queue, 40)))

    def work() -> None:
        mine = opened(redis_url)
        ends = (None, Quarantine("poison"), GiveBack(), ParkUntil(4e9), RetryAt(make.message(), 4e9))
        turn = 0
        while deliveries := mine.claim(queue, limit=3, lease_seconds=0.01):
            for delivery in deliveries:
                turn += 1
                mine.try_settle(make.settlement(delivery, ends[turn % len(ends)]))

    for nth in (1, 2, 4):
        killed(work, seam, nth)
    depth = transport.depth(queue)
    released = 40 - depth.ready - depth.leased - depth.delayed - depth.quarantined
    assert 0 <= released <= 3
    transport.recover(everything=True)
    left = transport.drain(queue)
    assert len(left) == len({delivery.task_id for delivery in left}), "a message is there twice"
    assert {delivery.task_id for delivery in left} <= published
    depth = transport.depth(queue)
    assert len(left) + depth.delayed + depth.quarantined + released == 40
