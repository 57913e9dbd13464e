"""Running an application's calls inside a test, through everything they go through in production.

Messages are encoded, published, claimed under leases, run by core's own worker and settled; nothing is eager and
nothing is mocked. Two ways::

    def test_signup(kern_app):
        sign_up.delay("ada")
        assert [call.task for call in enqueued(kern_app)] == ["accounts.sign_up"]
        run_until_idle(kern_app).check()                 # also what follows, what is retried, what is due in a week
        assert sent_mails == ["welcome, ada"]

    def test_in_background(kern_app, kern_worker):
        assert add.delay(2, 3).get(timeout=5) == 5

:func:`run_until_idle` runs tasks one at a time, in the order in which the broker hands them out, *on the thread that
called it*: breakpoints, database transactions and patches of the test hold inside tasks. When only delayed messages are
left, time jumps to the next one (on ``memory://`` with a virtual clock, as ``kern_app`` has it).
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from kern import protocol, states
from kern.contracts.pool import Died, Finished, Pool, PoolCapability, PoolOptions, PoolSink, Started
from kern.contracts.port import Reply, resolved
from kern.outcome import Outcome
from kern.request import Request
from kern.timeutil import clock as kern_clock
from kern.worker.worker import Worker
from kern_testing.clock import VirtualClock
from kern_testing.make import unique
from kern_testing.memory.space import Space, forget, parse, space

if TYPE_CHECKING:
    from kern.app import Kern

#: Seconds between two looks whether all is done.
LOOK = 0.002
#: Seconds a worker of a test may take to start and to end.
PATIENCE = 10.0


class InlinePool(Pool):
    """Runs requests on the thread that asks it to: :meth:`work`. One at a time, in order, without time limits."""

    capabilities = frozenset({PoolCapability.JOIN_BLOCKS})
    slots = 1
    name = "inline"

    def __init__(self, _app: Any = None, _options: PoolOptions | None = None) -> None:
        self._waiting: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._withdrawn: set[str] = set()
        self._submitted: dict[str, None] = {}
        self._lock = threading.Lock()
        self._run: Callable[[Request], Outcome] | None = None
        self._sink: PoolSink = lambda _events: None
        #: What was run, in order.
        self.outcomes: list[Outcome] = []

    def start(self, run: Callable[[Request], Outcome], sink: PoolSink) -> Reply[None]:
        self._run, self._sink = run, sink
        return resolved(None)

    def submit(self, batch: Sequence[Request]) -> None:
        with self._lock:
            for request in batch:
                self._submitted[request.receipt] = None
                self._waiting.put(request)

    def withdraw(self, receipts: Sequence[str] | None = None) -> list[str]:
        with self._lock:
            wanted = set(self._submitted) if receipts is None else set(receipts)
            taken = [receipt for receipt in self._submitted if receipt in wanted]
            for receipt in taken:
                del self._submitted[receipt]
            return taken

    def terminate(self, receipt: str, signal: int | None = None) -> bool:
        return False

    def interrupt(self, receipt: str, error: BaseException) -> bool:
        return False

    def stop(self, timeout: float | None = None) -> Reply[None]:
        return resolved(None)

    def work(self, patience: float) -> bool:
        """Run the next request, here and now; whether there was one within *patience* seconds."""
        try:
            request = self._waiting.get(timeout=patience)
        except queue.Empty:
            return False
        with self._lock:
            if request.receipt not in self._submitted:  # taken back
                return True
            del self._submitted[request.receipt]
        assert self._run is not None
        self._sink((Started(request.receipt, kern_clock.now(), os.getpid()),))
        try:
            outcome = self._run(request)
        except BaseException as error:
            self._sink((Died(request.receipt, {"reason": f"the runner failed: {error!r}"}),))
            raise
        self.outcomes.append(outcome)
        self._sink((Finished(request.receipt, outcome),))
        return True


@attrs.frozen
class Ran:
    """What :func:`run_until_idle` ran: the outcome of each attempt, in order."""

    outcomes: tuple[Outcome, ...]
    #: Messages that are left because they are due beyond the horizon.
    left: int = 0

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def states(self) -> Counter[str]:
        """How many attempts ended in which state."""
        return Counter(outcome.state for outcome in self.outcomes)

    @property
    def tasks(self) -> list[str]:
        """Names of what ran, in order."""
        return [outcome.task for outcome in self.outcomes]

    def of(self, task: Any) -> list[Outcome]:
        """Attempts of one task, given itself or by name."""
        name = task if isinstance(task, str) else task.name
        return [outcome for outcome in self.outcomes if outcome.task == name]

    def check(self) -> Ran:
        """Nothing failed.

        :raises AssertionError: something did; shows its traceback.
        """
        failed = [outcome for outcome in self.outcomes if outcome.state == states.FAILURE]
        if failed:
            told = [
                f"{o.task} [{o.task_id}]: {o.summary}\n{(o.document and o.document.traceback) or ''}" for o in failed
            ]
            raise AssertionError(f"{len(failed)} of {len(self.outcomes)} attempts failed:\n" + "\n".join(told))
        return self


@attrs.frozen
class Enqueued:
    """A call that waits in the broker."""

    id: str
    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    queue: str
    #: When it is due; ``None``: now.
    due: datetime | None
    headers: dict[str, Any] = attrs.field(repr=False)


def enqueued(app: Kern, task: Any = None) -> list[Enqueued]:
    """Calls that wait in the broker of *app*, ready or delayed, in the order they were published.

    :param task: only calls of this task, given itself or by name.
    :raises LookupError: the broker is not ``memory://``.
    """
    found = []
    where = space_of(app)
    with where.lock:
        waiting = where.broker.waiting()
    for its_queue, message, delayed in waiting:
        head, body = protocol.peek(message, app.accept), protocol.read(message, app.accept)
        due = head.eta if delayed is None else datetime.fromtimestamp(delayed, UTC)
        found.append(
            Enqueued(head.id, head.task, tuple(body.args), dict(body.kwargs), its_queue, due, dict(message.headers))
        )
    name = task if isinstance(task, str) or task is None else task.name
    return [call for call in found if name is None or call.task == name]


def space_of(app: Kern) -> Space:
    """The space *app* publishes to.

    :raises LookupError: its broker is not ``memory://``; says what to do.
    """
    url = app.broker_url
    if not url.startswith("memory://"):
        scheme = url.partition("://")[0]
        raise LookupError(f"the application's broker is {scheme}://, not memory://; use in_memory(app) in the test")
    return space(parse(url)[0])


@contextmanager
def in_memory(app: Kern, clock: VirtualClock | None = None) -> Iterator[Kern]:
    """*app* with a broker and result store of its own in memory, while the context lasts.

    :param clock: what time it is there and in kern; ``None``: time flows, and can be moved by :func:`run_until_idle`.
    """
    name = unique("test")
    url, clock = f"memory://{name}", clock or VirtualClock(flowing=True)
    changed = {"broker_url": url, "broker_read_url": None, "broker_write_url": None, "result_backend": url}
    before = {key: app.conf.get(key) for key in changed}
    space(name).use_clock(clock)
    _reconnect(app, changed)
    try:
        with kern_clock.use(clock, time.monotonic):
            yield app
    finally:
        _reconnect(app, before)
        forget(name)


def _reconnect(app: Kern, settings: dict[str, Any]) -> None:
    """Close what is open, and have the next connection made by *settings*."""
    app.close()
    app.conf.update(settings)
    app.__dict__.pop("whole_documents", None)  # remembered from the store before


class WorkerThread:
    """A worker of *app* in a thread of this process.

    :param pool: name of the pool.
    :param options: further arguments of :class:`kern.worker.worker.Worker`.
    """

    def __init__(self, app: Kern, pool: str = "solo", **options: Any) -> None:
        self.worker = Worker(app, pool=pool, signals=False, **options)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, name="kern test worker", daemon=True)

    def start(self) -> WorkerThread:
        """Start, and return when it is about to claim.

        :raises Exception: what kept it from starting.
        """
        self._thread.start()
        self._ready.result(PATIENCE)
        return self

    def stop(self) -> None:
        """Stop gracefully: what runs is handed back. Safe twice.

        :raises AssertionError: it does not end, or ended by an error of its own.
        """
        if not self._thread.is_alive():
            return
        self.worker.stop()
        self._thread.join(2 * PATIENCE)
        assert not self._thread.is_alive(), f"the worker does not end: {self._thread.name}"
        assert self.worker.exit_code == 0, "a stage of the worker failed; see the log"

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _serve(self) -> None:
        try:
            asyncio.run(self.worker.serve(self._on_ready))
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    def _on_ready(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._ready.set_result(None)

    async def _look(self) -> tuple[bool, int]:
        """Whether anything is under way, and how many messages are delayed."""
        worker = self.worker
        names = [spec.name for spec in worker.queue_specs]
        depths = await asyncio.wrap_future(worker.transport.depth(names))
        busy = bool(worker.held or any(d.ready or d.leased for d in depths))
        return busy, sum(depth.delayed for depth in depths)

    def look(self) -> tuple[bool, int]:
        """:meth:`_look`, from any thread."""
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(self._look(), self.loop).result(PATIENCE)


def run_until_idle(
    app: Kern, horizon: float | None = None, timeout: float = 30.0, queues: Sequence[str] | None = None
) -> Ran:
    """Run everything that is in the broker, and everything that follows, on this thread; return when all is quiet.

    :param horizon: seconds by which time may jump in all; what is due later stays. ``None``: no bound.
    :param timeout: real seconds.
    :param queues: names of the queues to consume; ``None``: as ``kern worker``.
    :raises AssertionError: it does not become quiet, as with a task that retries for ever.
    """
    clock = _virtual_clock(app)
    limit = None if clock is None or horizon is None else clock.now() + horizon
    running = WorkerThread(app, pool="inline", queues=queues).start()
    pool = running.worker.pool
    assert isinstance(pool, InlinePool)
    names = [spec.name for spec in running.worker.queue_specs]
    deadline, quiet, left = time.monotonic() + timeout, 0, 0
    try:
        while quiet < 2:  # twice in a row: a message may pass from a queue not seen yet to one seen already
            if pool.work(LOOK):
                quiet = 0
                continue
            busy, left = running.look()
            if busy:
                quiet = 0
            elif left and not _jump(app, clock, names, limit):
                if clock is not None:
                    break
                quiet = 0  # the server's time cannot be moved
            else:
                quiet = 0 if left else quiet + 1
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"not quiet after {timeout:g} s: {len(pool.outcomes)} attempts, last "
                    f"{[(outcome.task, outcome.state) for outcome in pool.outcomes[-5:]]}, {left} delayed"
                )
    finally:
        running.stop()
    return Ran(tuple(pool.outcomes), left)


def _virtual_clock(app: Kern) -> VirtualClock | None:
    return space_of(app).clock if app.broker_url.startswith("memory://") else None


def _jump(app: Kern, clock: VirtualClock | None, queues: Sequence[str], limit: float | None) -> bool:
    """Move time to the next message that is due; ``False``: it cannot be moved, or not that far."""
    if clock is None:
        return False
    where = space_of(app)
    with where.lock:
        seconds = where.broker.next_due(queues)
    if seconds is None:
        return True  # it has become due by itself
    if limit is not None and clock.now() + seconds > limit:
        return False
    clock.advance(seconds)
    return True
