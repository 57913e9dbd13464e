"""The pool that runs one request at a time in the worker's own process. For debugging.

The task runs in one thread beside the loop, so that leases are renewed and signals answered while it runs. A soft time
limit is raised inside the task at its next bytecode; a hard limit cannot be enforced here, because a thread cannot be
killed.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from kern import log, seams
from kern.contracts.pool import Died, Finished, Pool, PoolCapability, PoolEvent, PoolOptions, PoolSink, Started
from kern.contracts.port import Reply
from kern.errors import Interrupted, SoftTimeLimitExceeded
from kern.outcome import Outcome
from kern.request import Request
from kern.result import set_join_will_block
from kern.states import FAILURE, PENDING
from kern.timeutil import clock

logger = log.get_logger("kern.pool")

#: Seconds that a task has to end once it has been interrupted, before the pool ends without it.
LAST_WORDS = 0.3


class _Dropped(BaseException):
    """Takes the place of an interruption that came too late to be raised in its task."""


class SoloPool(Pool):
    """One thread, one request at a time."""

    capabilities = frozenset({PoolCapability.SOFT_LIMITS, PoolCapability.JOIN_BLOCKS})
    slots = 1
    name = "solo"

    def __init__(self, app: Any, options: PoolOptions) -> None:
        self._app = app
        if options.concurrency and options.concurrency > 1:
            logger.warning(
                "the solo pool runs one task at a time; for more: another pool, such as kern-pool-prefork",
                concurrency=options.concurrency,
            )
        self._run: Callable[[Request], Outcome] | None = None
        self._sink: PoolSink = lambda _events: None
        self._waiting: deque[Request] = deque()
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        #: Taken from those that wait, and its end not told yet.
        self._taken: Request | None = None
        #: Can be interrupted.
        self._current: Request | None = None
        #: Events to be told with the next ones: the end of a request and the start of the next are one wake-up.
        self._said: list[PoolEvent] = []
        #: What was sent to the thread last while it ran the current request.
        self._sent: type[BaseException] | None = None
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
            return self._send(type(error))

    def stop(self, timeout: float | None = None) -> Reply[None]:
        with self._work:
            self._stopping = True
            self._work.notify()
            if self._thread is None:
                self._end()
        if timeout is not None and not self._ended.done():
            threading.Thread(target=self._end_within, args=(timeout,), name="kern solo end", daemon=True).start()
        return self._ended

    def _end_within(self, timeout: float) -> None:
        """The thread may run for ever; who waits for the pool's end must not."""
        assert self._thread is not None
        self._thread.join(timeout)
        with self._lock:
            if self._current is not None:
                self._send(Interrupted)
        self._thread.join(LAST_WORDS)
        with self._lock:
            self._end()

    # -- with the lock held

    def _send(self, error: type[BaseException]) -> bool:
        """Have *error* raised in the thread at its next bytecode."""
        assert self._thread is not None
        if not _raise_in(self._thread, error):
            return False
        self._sent = error
        return True

    def _end(self) -> None:
        """Say what is still to be said, and never anything again."""
        if self._ended.done():
            return
        self._said += [Died(r.receipt, {"reason": "not started"}, started=False) for r in self._waiting]
        if self._taken is not None:
            self._said.append(Died(self._taken.receipt, {"reason": "interrupted"}))
        self._tell()
        self._sink = lambda _events: None
        self._waiting.clear()
        self._ended.set_result(None)

    def _tell(self) -> None:
        if self._said:
            said, self._said = self._said, []
            self._sink(said)

    # -- the thread

    def _work_off(self, ready: Reply[None]) -> None:
        set_join_will_block(True)  # for this thread: the task that would give the result has to wait for this one
        self._notify("kern_process_init")
        ready.set_result(None)
        while (request := self._next()) is not None:
            event = self._run_one(request)
            with self._lock:
                self._taken = None
                self._said.append(event)
        self._notify("kern_process_shutdown", pid=os.getpid(), exitcode=0)
        with self._lock:
            self._end()

    def _notify(self, hook: str, **facts: int) -> None:
        """Tell those who prepare processes; this is the process that runs tasks, too."""
        if self._app is not None:
            self._app.plugins.notify(hook, app=self._app, **facts)

    def _next(self) -> Request | None:
        """The next request, once there is one; ``None``: there will be none."""
        with self._work:
            if not self._waiting:
                self._tell()
            while not self._waiting and not self._stopping:
                self._work.wait()
            if self._stopping:
                return None
            request = self._taken = self._waiting.popleft()
            self._said.append(Started(request.receipt, clock.now(), os.getpid()))
            self._tell()
            return request

    def _run_one(self, request: Request) -> PoolEvent:
        """Run it; an interruption may be raised at any bytecode, until it has been left."""
        assert self._run is not None
        limit: threading.Timer | None = None
        outcome: Outcome | None = None
        problem: BaseException | None = None
        begun = left = False
        while not left:
            try:
                if not begun:
                    begun = True
                    with self._lock:
                        self._current = request
                    limit = self._soft_limit(request)
                    outcome = self._run(request)
                    seams.reached("ran")
                self._leave(limit)
                left = True
            except BaseException as error:
                problem = problem or error
        sent, self._sent = self._sent, None
        if sent is Interrupted and (outcome is None or outcome.state in (FAILURE, PENDING)):
            return Died(request.receipt, {"reason": "interrupted"})
        if outcome is not None:
            return Finished(request.receipt, outcome)
        if isinstance(problem, SoftTimeLimitExceeded):
            return Died(request.receipt, {"reason": "soft time limit"}, time_limit=request.soft_time_limit)
        logger.error("the runner failed", task_id=request.id, exc_info=problem)
        return Died(request.receipt, {"reason": f"the runner failed: {problem!r}"})

    def _soft_limit(self, request: Request) -> threading.Timer | None:
        if not request.soft_time_limit:
            return None
        error = SoftTimeLimitExceeded(request.soft_time_limit)
        limit = threading.Timer(request.soft_time_limit, self.interrupt, (request.receipt, error))
        limit.daemon = True
        limit.start()
        return limit

    def _leave(self, limit: threading.Timer | None) -> None:
        """From here on nobody can interrupt; an interruption already under way ends here."""
        while True:
            try:
                if limit is not None:
                    limit.cancel()
                with self._lock:
                    self._current = None
                if self._sent is not None:
                    # What has not been raised yet is replaced by what can be waited for. Taking it back instead (with
                    # NULL) leaves CPython looking for it at every bytecode from then on, in all threads.
                    assert self._thread is not None
                    _raise_in(self._thread, _Dropped)
                    while True:
                        time.sleep(0)
                return
            except _Dropped:
                return
            except BaseException:
                logger.debug("a late interruption was dropped")


def _raise_in(thread: threading.Thread, error: type[BaseException]) -> bool:
    """Have *error* raised in *thread* at its next bytecode, in place of what was to be raised there before."""
    identity = ctypes.c_ulong(thread.ident or 0)
    return bool(ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(error)))
