"""Everything at once, in an order that chance makes: each request is taken back or ends, once."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kern.contracts.pool import PoolBroken
from kern.request import Request
from kern_testing.contracts.pool import Orders, Running, run
from kern_testing.waiting import eventually

if TYPE_CHECKING:
    from conftest import Bench

ROUNDS = 150
#: So many may wait at a time.
WAITING = 200


class Chaos:
    """Does to a pool what can be done to one."""

    def __init__(self, pool: Running, orders: Orders, chance: random.Random) -> None:
        self._pool, self._orders, self._chance = pool, orders, chance
        self.submitted: list[str] = []
        self.withdrawn: set[str] = set()

    def submit(self) -> None:
        # Answers repeat the body: some fit into the pipe, some into a packet, some need a file.
        sizes = self._chance.choices([10, 5_000, 70_000], k=self._chance.randint(1, 60))
        self.submitted += self._pool.submit(*[self._request(size) for size in sizes])

    def _request(self, size: int) -> Request:
        return self._orders.request(body=b'{"filler": "%s"}' % (b"x" * size))

    def withdraw(self) -> None:
        some = self._chance.sample(self.submitted, min(20, len(self.submitted)))
        self.withdrawn |= set(self._pool.pool.withdraw(some))

    def withdraw_all(self) -> None:
        self.withdrawn |= set(self._pool.pool.withdraw())

    def recycle(self) -> None:
        self._pool.pool.recycle()

    def resize(self) -> None:
        self._pool.pool.resize(self._chance.randint(1, 5))

    def terminate(self) -> None:
        self._pool.pool.terminate(self._chance.choice(self.submitted))

    def kill(self) -> None:
        for pid in self._pool.pool.info()["processes"][:1]:
            try:
                os.kill(pid, self._chance.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGINT]))
            except ProcessLookupError:
                pass

    def rounds(self) -> Iterator[None]:
        actions = [self.withdraw, self.withdraw_all, self.recycle, self.resize, self.terminate, self.kill, self.kill]
        for _ in range(ROUNDS):
            self.submit()
            self._chance.choice(actions)()
            yield

    @property
    def due(self) -> set[str]:
        """Those that have to end."""
        return set(self.submitted) - self.withdrawn


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    return Orders(tmp_path)


@pytest.mark.parametrize("max_tasks", [None, 5], ids=["long lives", "short lives"])
def test_each_request_is_taken_back_or_ends_once(bench: Bench, orders: Orders, max_tasks: int | None) -> None:
    """While processes are killed, replaced, added, sent away and told to end tasks."""
    pool = bench.start(3, runner=run, max_tasks_per_child=max_tasks)
    chaos = Chaos(pool, orders, random.Random(11))
    for _ in chaos.rounds():
        eventually(lambda: len(chaos.due - pool.ended) < WAITING, "the pool goes on")
    eventually(lambda: chaos.due <= pool.ended, "all have ended")
    assert Counter(end.receipt for end in pool.ends) == Counter(chaos.due)
    assert not [event for event in pool.events if isinstance(event, PoolBroken)]
