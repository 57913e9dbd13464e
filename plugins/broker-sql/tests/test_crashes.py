"""Processes that are killed in the middle: what was being written is there, or it is not."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from kern import seams, states
from kern.contracts.transport import Owner, Parking
from kern.outcome import Document, ParkUntil, Quarantine
from kern_backend_sql.store import SqlResultStore
from kern_broker_sql.transport import SqlTransport
from kern_testing import make


def killed(work: Callable[[], object], at: str) -> None:
    """Run *work* in a process that is killed when it reaches the seam *at*."""
    child = os.fork()
    if child == 0:
        try:
            seams.arm(at, lambda: os.kill(os.getpid(), signal.SIGKILL))
            work()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), (
        f"the process did not reach {at!r} but ended with {os.waitstatus_to_exitcode(status)}"
    )
    assert os.WTERMSIG(status) == signal.SIGKILL


def opened(url: str) -> SqlTransport:
    transport = SqlTransport(url)
    transport.open(Owner(make.unique("owner"), role="worker"), (), ())
    return transport


def settle_one(url: str, queue: str, follow_up: str) -> None:
    """What a worker does with one message: result, follow-up, release."""
    transport, store = opened(url), SqlResultStore(url)
    store.open()
    (delivery,) = transport.claim(make.claim_of(queue, limit=1, lease_seconds=0.2)).deliveries
    document = Document(delivery.task_id, states.SUCCESS, b"1")
    (plan,) = store.plan([document], [()])
    transport.settle(
        [make.settlement(delivery, document=document, plan=plan, follow_ups=[make.publication(follow_up)])]
    )


@pytest.mark.parametrize(("seam", "written"), [("settling", False), ("settled", True)])
def test_a_settlement_is_there_or_not(url: str, seam: str, written: bool) -> None:
    """Killed before the commit: the message comes back, no result and no follow-up. After it: all three are done."""
    queue, following = make.unique("queue"), make.unique("queue")
    transport, store = opened(url), SqlResultStore(url)
    store.open()
    (publication,) = make.publications(queue, 1)
    transport.publish([publication])
    transport.close()
    store.close()
    killed(lambda: settle_one(url, queue, following), seam)
    transport.open(Owner("who looks"), (), ())
    store.open()
    leased, followed = transport.depth([queue, following])
    assert (leased.leased, followed.ready) == ((0, 1) if written else (1, 0))
    assert set(store.read([publication.task_id])) == ({publication.task_id} if written else set())
    transport.close()
    store.close()


def test_a_claim_that_nobody_heard_of_comes_back(url: str) -> None:
    """Killed when the server has leased and the worker does not know yet."""
    queue = make.unique("queue")
    transport = opened(url)
    transport.publish(make.publications(queue, 3))
    transport.close()

    def claim() -> None:
        opened(url).claim(make.claim_of(queue, lease_seconds=0.05))

    killed(claim, "claimed")
    transport.open(Owner("who looks"), (), ())
    back = []
    while len(back) < 3:
        transport.recover()
        back += transport.claim(make.claim_of(queue)).deliveries
    assert all(delivery.redelivered and delivery.suspect and not delivery.attempts for delivery in back)
    transport.close()


@pytest.mark.parametrize(("seam", "there"), [("publishing", 0), ("published", 5)])
def test_a_batch_is_published_as_a_whole(url: str, seam: str, there: int) -> None:
    queue = make.unique("queue")
    killed(lambda: opened(url).publish(make.publications(queue, 5)), seam)
    transport = opened(url)
    assert transport.depth([queue])[0].ready == there
    transport.close()


def test_parking_is_there_or_not(url: str) -> None:
    """Killed inside: the lease is what it was."""
    queue = make.unique("queue")
    transport = opened(url)
    transport.publish(make.publications(queue, 1))
    transport.close()

    def park() -> None:
        mine = opened(url)
        (delivery,) = mine.claim(make.claim_of(queue)).deliveries
        mine.park([Parking(delivery.receipt, ParkUntil(4e9))])

    killed(park, "parking")
    transport.open(Owner("who looks"), (), ())
    (depth,) = transport.depth([queue])
    assert (depth.leased, depth.delayed) == (1, 0)
    transport.close()


def test_a_file_is_whole_after_many_kills(tmp_path: Path) -> None:
    """Processes killed while they settle and quarantine: nothing is lost, and the file is not damaged."""
    url = f"sqlite:///{tmp_path}/kern.db"
    queue = make.unique("queue")
    transport = opened(url)
    transport.publish(make.publications(queue, 40))
    transport.close()

    def work() -> None:
        mine = opened(url)
        while deliveries := mine.claim(make.claim_of(queue, limit=3, lease_seconds=0.01)).deliveries:
            for number, delivery in enumerate(deliveries):
                mine.settle([make.settlement(delivery, Quarantine("poison") if number else None)])

    for nth in range(1, 6):
        reached = 0

        def die(nth: int = nth) -> None:
            nonlocal reached
            reached += 1
            if reached == nth:
                os.kill(os.getpid(), signal.SIGKILL)

        child = os.fork()
        if child == 0:
            seams.arm("settling", die)
            work()
            os._exit(0)
        os.waitpid(child, 0)
    transport.open(Owner("who looks"), (), ())
    (depth,) = transport.depth([queue])
    settled = 40 - depth.ready - depth.leased - depth.quarantined
    assert depth.delayed == 0
    assert 0 < settled <= sum(range(6))
    transport.close()
    with sqlite3.connect(tmp_path / "kern.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
