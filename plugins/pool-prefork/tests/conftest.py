"""A pool with real processes, driven as a worker drives it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from kern import Kern
from kern.contracts.pool import PoolOptions
from kern.outcome import Outcome
from kern.request import Request
from kern_pool_prefork.pool import PreforkPool
from kern_testing import make
from kern_testing.contracts.pool import Running
from kern_testing.waiting import PATIENCE, eventually

HOSTNAME = "tests@here"


@attrs.define
class Bench:
    """Starts pools of *app*, makes requests for its tasks, and reads what became of them."""

    app: Kern
    started: list[Running] = attrs.field(factory=list)

    def start(self, slots: int = 2, runner: Callable[[Request], Outcome] | None = None, **options: Any) -> Running:
        """A started pool; it is stopped when the test ends."""
        pool = PreforkPool(self.app, PoolOptions(concurrency=slots, hostname=HOSTNAME, **options))
        self.started.append(Running(pool, runner or self.app.runner(HOSTNAME)))
        return self.started[-1].start()

    def request(self, task: str, *args: Any, **fields: Any) -> Request:
        body = json.dumps([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
        receipt, task_id = make.unique("receipt"), make.unique("id")
        return Request(id=task_id, task=task, receipt=receipt, queue="tests", body=body.encode(), **fields)

    def run(self, pool: Running, task: str, *args: Any, **fields: Any) -> Any:
        """What the task returns."""
        (receipt,) = pool.submit(self.request(task, *args, **fields))
        return self.result(pool, receipt)

    def result(self, pool: Running, receipt: str) -> Any:
        outcome = pool.outcome_of(receipt)
        assert outcome.state == "SUCCESS", outcome.summary
        assert outcome.document is not None
        return json.loads(outcome.document.whole or b"null")["result"]

    def children(self, pool: Running, count: int) -> set[int]:
        """Ids of the pool's processes, once there are *count*."""

        def found() -> set[int]:
            pids = set(pool.pool.info()["processes"])
            return pids if len(pids) == count else set()

        return eventually(found, f"there are {count} processes")

    def stop(self) -> None:
        for running in self.started:
            running.pool.stop(0.0).result(PATIENCE)


@pytest.fixture
def app() -> Kern:
    """Override it where tests need tasks."""
    return Kern("tests", broker="memory://", backend="memory://")


@pytest.fixture
def bench(app: Kern) -> Iterator[Bench]:
    if app.conf.worker_pool_start_method is None:
        app.conf.worker_pool_start_method = "fork"  # threads of pytest's plugins are no reason not to
    app.finalize()
    bench = Bench(app)
    yield bench
    bench.stop()
