"""Workers on ``memory://`` with drivers that are watched, and held up where a test wants it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from kern import Kern
from kern.contracts.blocking import threaded, threaded_store
from kern.contracts.transport import Claim, Claimed, Parking, QueueDepth, Settled, Settlement
from kern_testing.clock import VirtualClock
from kern_testing.make import unique
from kern_testing.memory import MemoryResultStore, MemoryTransport, forget, space
from kern_testing.waiting import eventually
from kern_testing.worker import WorkerThread, in_memory


class Gate:
    """Lets through, until it is shut; then whoever comes waits until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        #: How many wait at it.
        self.waiting = 0

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        if not self._open.is_set():
            self.waiting += 1
            assert self._open.wait(30), "a test left a gate shut"
            self.waiting -= 1


class WatchedTransport(MemoryTransport):
    """Notes what it is asked for; each method has a gate, and may be told to fail."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.gates: defaultdict[str, Gate] = defaultdict(Gate)
        #: Errors to be raised instead of an answer, by method, one for each call.
        self.failing: defaultdict[str, list[Exception]] = defaultdict(list)
        self.claims: list[Claim] = []
        self.settled: list[list[Settlement]] = []
        self.parked: list[Parking] = []
        self.renewals = 0
        self.marked: list[str] = []

    def _enter(self, method: str) -> None:
        self.gates[method].pass_through()
        if self.failing[method]:
            raise self.failing[method].pop(0)

    def claim(self, claim: Claim) -> Claimed:
        self.claims.append(claim)
        claimed = super().claim(claim)
        self._enter("claim")  # the server has leased, the answer is on its way
        return claimed

    def settle(self, batch: Sequence[Settlement]) -> list[Settled]:
        self._enter("settle")
        self.settled.append(list(batch))
        return super().settle(batch)

    def park(self, batch: Sequence[Parking]) -> list[Settled]:
        self._enter("park")
        self.parked.extend(batch)
        return super().park(batch)

    def renew(self, receipts: Sequence[str], lease_seconds: float) -> frozenset[str]:
        self._enter("renew")
        self.renewals += 1
        return super().renew(receipts, lease_seconds)

    def mark_started(self, receipts: Sequence[str]) -> None:
        self._enter("mark_started")
        self.marked.extend(receipts)
        super().mark_started(receipts)


class WatchedStore(MemoryResultStore):
    """Likewise."""

    def __init__(self, url: str, conf: Any) -> None:
        super().__init__(url, conf)
        self.gates: defaultdict[str, Gate] = defaultdict(Gate)
        self.failing: defaultdict[str, list[Exception]] = defaultdict(list)
        #: Ids and states in the order in which they were written here, and not in one step with the lease.
        self.written: list[tuple[str, str]] = []

    def open(self) -> None:
        if self.failing["open"]:
            raise self.failing["open"].pop(0)
        super().open()

    def write(self, plans: Sequence[Any]) -> Any:
        self.gates["write"].pass_through()
        if self.failing["write"]:
            raise self.failing["write"].pop(0)
        self.written += [(plan.document.task_id, plan.document.status) for plan in plans if plan.document is not None]
        return super().write(plans)

    def read(self, task_ids: Sequence[str]) -> Any:
        self.gates["read"].pass_through()
        return super().read(task_ids)


class Bench:
    """One application on a broker of its own, its workers, and their drivers."""

    def __init__(self, app: Kern, clock: VirtualClock) -> None:
        self.app = app
        self.clock = clock
        #: Driver of each worker, in the order in which they were started.
        self.transports: list[WatchedTransport] = []
        self.stores: list[WatchedStore] = []
        self.workers: list[WorkerThread] = []

    @property
    def transport(self) -> WatchedTransport:
        return self.transports[-1]

    @property
    def store(self) -> WatchedStore:
        return self.stores[-1]

    def worker(
        self, prepare: Callable[[Bench], None] | None = None, start: bool = True, **options: Any
    ) -> WorkerThread:
        """A worker with drivers of its own.

        :param prepare: called between the making of the drivers and the start.
        """
        watched = _Watching(self)
        with watched:
            running = WorkerThread(self.app, **options)
        self.workers.append(running)
        if prepare is not None:
            prepare(self)
        return running.start() if start else running

    @property
    def client(self) -> MemoryTransport:
        """What looks at the broker from outside."""
        return MemoryTransport(self.app.broker_url)

    def depth(self, queue: str = "celery") -> QueueDepth:
        (depth,) = self.client.depth([queue])
        return depth

    def empty(self, queue: str = "celery") -> None:
        """Wait until the broker has nothing of *queue* but what is in quarantine."""

        def left() -> bool:
            depth = self.depth(queue)
            return not (depth.ready or depth.leased or depth.delayed)

        eventually(left, f"queue {queue!r} is empty")

    def document(self, task_id: str) -> Any:
        """The stored document, or ``None``."""
        return MemoryResultStore(self.app.result_backend_url or "", None).read([task_id]).get(task_id)

    def stop(self) -> None:
        for driver in (*self.transports, *self.stores):
            for gate in driver.gates.values():
                gate.open()
        for running in self.workers:
            running.stop()


class _Watching:
    """While it lasts, drivers that the application makes are watched."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def __enter__(self) -> None:
        app, bench = self._bench.app, self._bench

        def make_transport(*_attempt: int) -> Any:
            bench.transports.append(WatchedTransport(app.broker_url))
            return threaded(bench.transports[-1])

        def make_result_store() -> Any:
            if app.result_backend_url is None:
                return None
            bench.stores.append(WatchedStore(app.result_backend_url, app.conf))
            return threaded_store(bench.stores[-1])

        app.make_transport, app.make_result_store = make_transport, make_result_store  # type: ignore[method-assign]

    def __exit__(self, *_error: object) -> None:
        del self._bench.app.make_transport, self._bench.app.make_result_store


@pytest.fixture
def config() -> dict[str, Any]:
    """Settings of the application; override it by ``pytest.mark.parametrize``."""
    return {}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(flowing=True)


@pytest.fixture
def bench(config: dict[str, Any], clock: VirtualClock) -> Iterator[Bench]:
    """Broker and results on one server."""
    settings = {"worker_soft_shutdown_timeout": 0.5, **config}
    with in_memory(Kern("tests", **settings), clock) as app:
        made = Bench(app, clock)
        yield made
        made.stop()


@pytest.fixture
def apart(bench: Bench) -> Iterator[Bench]:
    """Broker and results on two servers."""
    name = unique("results")
    space(name).use_clock(bench.clock)
    bench.app.conf.result_backend = f"memory://{name}"
    yield bench
    bench.stop()
    forget(name)
