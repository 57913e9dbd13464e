"""The contract of pools, kept by the pool that core brings and by one of threads made for this test."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import pytest

from kern.contracts.pool import Died, Finished, Pool, PoolCapability, PoolOptions, PoolSink, Started
from kern.contracts.port import Reply
from kern.outcome import Outcome
from kern.request import Request
from kern.worker.solo import SoloPool
from kern_testing.contracts.pool import PoolContract


class TestSoloPool(PoolContract):
    capabilities = SoloPool.capabilities
    slots = 1

    @pytest.fixture
    def make_pool(self) -> Callable[[int], Pool]:
        return lambda slots: SoloPool(None, PoolOptions(concurrency=slots))


class SimpleThreads(Pool):
    """As little as a pool of threads can be: shows that the suite can be kept with several slots."""

    capabilities = frozenset({PoolCapability.RESIZE})
    name = "simple-threads"

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._waiting: deque[Request] = deque()
        self._work = threading.Condition()
        self._running = 0
        self._threads = 0
        self._stopping = False
        self._silent = False
        self._ended: Reply[None] = Future()

    def start(self, run: Callable[[Request], Outcome], sink: PoolSink) -> Reply[None]:
        self._run, self._sink = run, sink
        with self._work:
            self._fill()
        started: Reply[None] = Future()
        started.set_result(None)
        return started

    def _fill(self) -> None:
        while self._threads < self.slots:
            self._threads += 1
            threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self._work:
                self._work.wait_for(
                    lambda: (
                        self._stopping or self._threads > self.slots or (self._waiting and self._running < self.slots)
                    )
                )
                if self._stopping or self._threads > self.slots:
                    self._threads -= 1
                    if self._stopping and not self._threads:
                        self._end()
                    return
                request = self._waiting.popleft()
                self._running += 1
            self._sink([Started(request.receipt, time.time(), os.getpid())])
            try:
                end: Finished | Died = Finished(request.receipt, self._run(request))
            except BaseException as error:
                end = Died(request.receipt, {"reason": repr(error)})
            with self._work:
                self._running -= 1
                if not self._silent:
                    self._sink([end])
                self._work.notify_all()

    def submit(self, batch: Sequence[Request]) -> None:
        with self._work:
            self._waiting.extend(batch)
            self._work.notify_all()

    def withdraw(self, receipts: Sequence[str] | None = None) -> list[str]:
        with self._work:
            taken = [r for r in self._waiting if receipts is None or r.receipt in receipts]
            for request in taken:
                self._waiting.remove(request)
            return [request.receipt for request in taken]

    def terminate(self, receipt: str, signal: int | None = None) -> bool:
        return False

    def interrupt(self, receipt: str, error: BaseException) -> bool:
        return False

    def resize(self, slots: int) -> None:
        with self._work:
            self.slots = slots
            self._fill()
            self._work.notify_all()

    def _end(self) -> None:
        self._silent = True
        if not self._ended.done():
            self._ended.set_result(None)

    def stop(self, timeout: float | None = None) -> Reply[None]:
        with self._work:
            self._stopping = True
            self._work.notify_all()
            if not self._threads:
                self._end()
            elif timeout is not None and not self._ended.done():
                timer = threading.Timer(timeout, self._give_up)
                timer.daemon = True
                timer.start()
                self._ended.add_done_callback(lambda _reply: timer.cancel())
        return self._ended

    def _give_up(self) -> None:
        with self._work:
            self._end()


class TestSimpleThreads(PoolContract):
    capabilities = SimpleThreads.capabilities

    @pytest.fixture
    def make_pool(self) -> Callable[[int], Pool]:
        return SimpleThreads
