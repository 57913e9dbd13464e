"""The pool that runs one request at a time in the worker's own process. For debugging.

The task runs in one thread beside the loop, so that leases are renewed and signals answered while it runs. A soft time
limit is raised inside the task at its next bytecode; a hard limit cannot be enforced here, because a thread cannot be
killed: the worker says so at its start.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from kern import log, seams
from kern.contracts.pool import Died, Finished, Pool, PoolCapability, PoolOptions, PoolSink, Started
from kern.contracts.port import Reply
from kern.errors import SoftTimeLimitExceeded
from kern.outcome import Outcome
from kern.request import Request
from kern.timeutil import clock

logger = log.get_logger("kern.pool")


class SoloPool(Pool):
    """One thread, one request at a time."""

    capabilities = frozenset({PoolCapability.SOFT_LIMITS, PoolCapability.JOIN_BLOCKS})
    slots = 1
    name = "solo"

    def __init__(self, _app: Any, options: PoolOptions) -> None:
        if options.concurrency and options.concurrency > 1:
            logger.warning(
                "the solo pool runs one task at a time; install kern-pool-prefork for more",
                concurrency=options.concurrency,
            )
        self._run: Callable[[Request], Outcome] | None = None
        self._sink: PoolSink = lambda _events: None
        self._waiting: deque[Request] = deque()
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._current: Request | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._ended: Reply[None] = Future()

    def start(self, run: Callable[[Request], Outcome], sink: PoolSink) -> Reply[None]:
        self._run, self._sink = run, sink
        ready: Reply[None] = Future()
        self._thread = threading.Thread(target=self._work_off, args=(ready,), name="kern solo", daemon=True)
        self._thread.start()
        return ready

    def submit(self, batch: Sequence[Request]) -> None:
        with self._work:
            self._waiting.extend(batch)
            self._work.notify()

    def withdraw(self, receipts: Sequence[str] | None = None) -> list[str]:
        with self._lock:
            wanted = None if receipts is None else set(receipts)
            taken = [r.receipt for r in self._waiting if wanted is None or r.receipt in wanted]
            gone = set(taken)
            self._waiting = deque(r for r in self._waiting if r.receipt not in gone)
            return taken

    def terminate(self, receipt: str, signal: int | None = None) -> bool:
        return False

    def interrupt(self, receipt: str, error: BaseException) -> bool:
        with self._lock:
            if self._current is None or self._current.receipt != receipt:
                return False
            return _raise_in(self._thread, error)

    def stop(self, timeout: float | None = None) -> Reply[None]:
        if self._thread is None:
            if not self._ended.done():
                self._ended.set_result(None)
            return self._ended
        with self._work:
            self._stopping = True
            self._work.notify()
        if timeout is not None:
            timer = threading.Timer(timeout, self._give_up)
            timer.daemon = True
            timer.start()
        return self._ended

    def _give_up(self) -> None:
        """The thread may run for ever; who waits for the pool's end must not."""
        with self._lock:
            if not self._ended.done():
                self._ended.set_result(None)

    # -- the thread

    def _work_off(self, ready: Reply[None]) -> None:
        ready.set_result(None)
        while True:
            with self._work:
                while not self._waiting and not self._stopping:
                    self._work.wait()
                if self._stopping:
                    break
                request = self._current = self._waiting.popleft()
            self._run_one(request)
        with self._lock:
            if not self._ended.done():
                self._ended.set_result(None)

    def _run_one(self, request: Request) -> None:
        assert self._run is not None
        limit: threading.Timer | None = None
        outcome: Outcome | None = None
        self._sink((Started(request.receipt, clock.now(), os.getpid()),))
        if request.soft_time_limit:
            limit = threading.Timer(
                request.soft_time_limit,
                self.interrupt,
                (request.receipt, SoftTimeLimitExceeded(request.soft_time_limit)),
            )
            limit.daemon = True
            limit.start()
        try:
            outcome = self._run(request)
            seams.reached("ran")
        except BaseException as error:
            if outcome is None:
                logger.exception("the runner failed", task_id=request.id, error=repr(error))
        self._leave(limit)
        if outcome is not None:
            self._sink((Finished(request.receipt, outcome),))
        else:
            self._sink((Died(request.receipt, {"reason": "the runner failed"}),))

    def _leave(self, limit: threading.Timer | None) -> None:
        """From here on nobody can interrupt; an interruption already under way ends here."""
        while self._current is not None:
            try:
                if limit is not None:
                    limit.cancel()
                with self._lock:
                    self._current = None
                    _raise_in(self._thread, None)
            except BaseException:
                logger.debug("a late interruption was dropped")


def _raise_in(thread: threading.Thread | None, error: BaseException | None) -> bool:
    """Have *error*'s type raised in *thread* at its next bytecode; ``None`` takes back what is not raised yet."""
    if thread is None or thread.ident is None:
        return False
    what = ctypes.py_object(type(error)) if error is not None else None
    return bool(ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), what))
