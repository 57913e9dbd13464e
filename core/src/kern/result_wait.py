"""Who waits for which results, until when, and whether the result store still answers.

Nothing here blocks and nothing awaits: a :class:`Wait` says on which future to wait and how long at most, and whoever
owns it does that on its thread or loop, then asks again what has come. A result that nobody waits for leaves nothing
behind: a document for which there is no wait is dropped, and a wait takes its entries with it when it ends.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Any

import attrs

from kern.contracts.port import Reply
from kern.contracts.result_store import ResultStore
from kern.errors import BackendUnavailable, TimeoutError, TransportError
from kern.outcome import Document
from kern.states import READY_STATES

#: Ids in one command.
BATCH = 500
#: Seconds between two questions of somebody who waits. The store tells of results by itself; the question finds out
#: that the server is gone, and repairs a notice that was lost.
PROBE = 5.0
#: Seconds of silence that tell "the server does not answer" from "the result is not there yet" when the time is up. So
#: long before the end a last question is asked.
SILENCE = 1.0

Signal = Future[None]


def new_signal() -> Signal:
    """A future that wakes whoever waits on it; nobody can cancel it for the others."""
    signal: Signal = Future()
    signal.set_running_or_notify_cancel()
    return signal


def unavailable(error: BaseException) -> BaseException:
    """A store's error as a caller is to see it: a lost connection is a store that cannot be reached."""
    if not isinstance(error, TransportError):
        return error
    translated = BackendUnavailable(str(error), retryable=error.retryable)
    translated.__cause__ = error
    return translated


def silent(store: ResultStore, seconds: float) -> BackendUnavailable:
    """The error for a server that does not answer."""
    return BackendUnavailable(f"the result store {store.url} has not answered for {seconds:g} s")


@attrs.frozen
class Patience:
    """How long a result store that fails is borne with."""

    #: Seconds one command may take, and seconds a wait outlives the loss of the server.
    timeout: float = 5.0
    #: How often a failed command is tried again; ``None``: a command not at all, a wait until :attr:`timeout` is over.
    retries: float | None = None
    base_ms: int = 10
    longest_ms: int = 10_000

    def pause(self, attempt: int) -> float:
        """Seconds before the next attempt, the *attempt*-th having failed; random, growing."""
        ceiling = min(self.longest_ms, self.base_ms * 2 ** min(attempt, 32))
        return random.randrange(int(ceiling) + 1) / 1000

    def exhausted(self, failures: int, since: float) -> bool:
        """Whether a wait gives up: after so many failures in a row, for so many seconds."""
        return since >= self.timeout if self.retries is None else failures > self.retries


class Session:
    """What one process has of the result store: the started port, and who waits at it.

    A child of ``fork`` makes its own; it must not touch its parent's.
    """

    def __init__(self) -> None:
        # Reentrant, for a store may report while it is asked to.
        self.lock = threading.RLock()
        self.store: ResultStore | None = None
        self.connecting: Reply[None] | None = None
        self.connected = False
        self._waits: dict[str, list[Wait]] = {}
        self._listeners: list[Wait] = []

    def deliver(self, documents: Sequence[Document]) -> None:
        """Take in documents that the store reports; called on any thread."""
        with self.lock:
            for document in documents:
                if document.status not in READY_STATES:
                    continue
                for wait in self._waits.pop(document.task_id, ()):
                    wait.arrived(document)
                for listener in self._listeners:
                    listener.heard(document)

    def add(self, wait: Wait, task_ids: Iterable[str]) -> None:
        """Have *wait* told of these; the caller holds the lock."""
        for task_id in task_ids:
            self._waits.setdefault(task_id, []).append(wait)

    def drop(self, wait: Wait, task_ids: Iterable[str]) -> None:
        """Tell it no more, and the store not to look for what nobody waits for; the caller holds the lock."""
        nobodys = []
        for task_id in task_ids:
            waits = self._waits.get(task_id)
            if waits is None or wait not in waits:
                continue
            waits.remove(wait)
            if not waits:
                del self._waits[task_id]
                nobodys.append(task_id)
        if nobodys and self.store is not None:
            self.store.unwatch(nobodys)

    def listen(self, wait: Wait, on: bool) -> None:
        """Have *wait* told of every document that arrives, or no more; the caller holds the lock."""
        if on:
            self._listeners.append(wait)
        elif wait in self._listeners:
            self._listeners.remove(wait)

    def waiting(self) -> int:
        """How many results are waited for."""
        return len(self._waits)

    def fail(self, error: Exception) -> None:
        """Wake everybody who waits with *error*: the store has been closed."""
        with self.lock:
            for wait in {id(wait): wait for waits in self._waits.values() for wait in waits}.values():
                wait.fail(error)


class Wait:
    """Results one caller waits for, with a deadline.

    :param timeout: seconds; ``None``: no limit.
    :param tick: seconds between two ticks, for callers that want to be woken regularly.
    :param listen: keep :attr:`news`: states of these results that are not final, looked for at every tick, and final
        documents of others.
    """

    def __init__(
        self,
        session: Session,
        store: ResultStore,
        task_ids: Iterable[str],
        *,
        timeout: float | None = None,
        patience: Patience = Patience(),
        tick: float | None = None,
        listen: bool = False,
    ) -> None:
        self._session, self._store, self._patience = session, store, patience
        #: What has not come yet; asked for in this order.
        self.pending: dict[str, None] = dict.fromkeys(task_ids)
        #: Done when :meth:`take` has something to say; replaced by it.
        self.signal: Signal = new_signal()
        now = time.monotonic()
        self._deadline = math.inf if timeout is None else now + timeout
        self._tick = tick if tick is not None else (0.5 if listen else None)
        self._next_tick = math.inf if self._tick is None else now + self._tick
        self._next_probe = math.inf
        self._arrived: list[Document] = []
        self._listens = listen
        self._news: list[Document] = []
        self._seen: dict[str, Document] = {}
        # Questions that are not answered, and since when the first of them is not.
        self._open = 0
        self._asked = now
        # What the store has refused to watch so far, and why.
        self._owed: dict[str, None] = {}
        self._error: BaseException | None = None
        #: Why nothing will come any more.
        self._over: BaseException | None = None
        self._failures = 0
        self._failing_since = now
        self._next_try = math.inf

    # -- its owner's side

    def begin(self) -> None:
        """Ask for the results, also for those that are there already."""
        with self._session.lock:
            if self._listens:
                self._session.listen(self, True)
            wanted = list(self.pending)
            self._session.add(self, wanted)
            self._ask(wanted)

    def more(self, task_ids: Sequence[str]) -> None:
        """Wait for these, too."""
        with self._session.lock:
            fresh = [task_id for task_id in task_ids if task_id not in self.pending]
            self.pending.update(dict.fromkeys(fresh))
            self._session.add(self, fresh)
            self._ask(fresh)

    def less(self, task_ids: Iterable[str]) -> None:
        """Wait for these no more."""
        with self._session.lock:
            known = [task_id for task_id in task_ids if task_id in self.pending]
            for task_id in known:
                del self.pending[task_id]
                self._owed.pop(task_id, None)
                self._seen.pop(task_id, None)
            self._session.drop(self, known)

    def end(self) -> None:
        """Wait no more; safe twice."""
        with self._session.lock:
            if self._listens:
                self._session.listen(self, False)
            self.less(list(self.pending))

    def take(self) -> list[Document]:
        """The documents that have come since the last time.

        :raises TimeoutError: nothing came, and the time is up.
        :raises BackendUnavailable: nothing came, and the server does not answer, or has not for too long.
        """
        with self._session.lock:
            found, self._arrived = self._arrived, []
            if self.signal.done():
                self.signal = new_signal()
            if not found and self.pending:
                self._look(time.monotonic())
            return found

    @property
    def going(self) -> bool:
        """Whether anything is still to come, or to be taken."""
        with self._session.lock:
            return bool(self.pending) or self.signal.done()

    def news(self) -> list[Document]:
        """What *listen* has found since the last time."""
        with self._session.lock:
            found, self._news = self._news, []
            return found

    def ticked(self) -> bool:
        """Whether a tick is due; it is then the next one's turn."""
        now = time.monotonic()
        if now < self._next_tick or self._tick is None:
            return False
        self._next_tick = now + self._tick
        if self._listens:
            with self._session.lock:
                self._peek()
        return True

    def pause(self) -> float | None:
        """Seconds after which :meth:`take` has to be called though the signal is not done; ``None``: never."""
        until = min(self._deadline, self._next_tick, self._next_probe, self._next_try)
        if self._open:
            until = min(until, self._asked + self._patience.timeout)
        return None if until == math.inf else max(0.0, until - time.monotonic())

    # -- the store's side; the session's lock is held

    def arrived(self, document: Document) -> None:
        if document.task_id in self.pending:
            del self.pending[document.task_id]
            self._owed.pop(document.task_id, None)
            self._seen.pop(document.task_id, None)
            self._arrived.append(document)
            self._wake()

    def heard(self, document: Document) -> None:
        self._news.append(document)
        self._wake()

    def fail(self, error: BaseException) -> None:
        self._over = error
        self._wake()

    def _wake(self) -> None:
        if not self.signal.done():
            self.signal.set_result(None)

    # -- questions; the session's lock is held

    def _ask(self, task_ids: Sequence[str]) -> None:
        """Have the store watch these, in batches, and note what becomes of it."""
        now = time.monotonic()
        self._next_probe = now + PROBE
        last_question = self._deadline - SILENCE
        if now < last_question:
            self._next_probe = min(self._next_probe, last_question)
        for start in range(0, len(task_ids), BATCH):
            batch = task_ids[start : start + BATCH]
            if not self._open:
                self._asked = now
            self._open += 1
            self._store.watch(batch).add_done_callback(partial(self._answered, batch))

    def _answered(self, batch: Sequence[str], reply: Reply[None]) -> None:
        error = unavailable(exception) if (exception := reply.exception()) is not None else None
        with self._session.lock:
            now = time.monotonic()
            self._open -= 1
            self._asked = now
            if error is None:
                for task_id in batch:
                    self._owed.pop(task_id, None)
                if not self._owed:
                    self._error, self._failures, self._next_try = None, 0, math.inf
                return
            self._owed.update((task_id, None) for task_id in batch if task_id in self.pending)
            self._failed(error, now)

    def _failed(self, error: BaseException, now: float) -> None:
        if self._error is None:
            self._failing_since = now
        self._error = error
        self._failures += 1
        self._next_try = now + self._patience.pause(self._failures)
        self._wake()

    def _look(self, now: float) -> None:
        """Raise what is wrong, or ask what has to be asked."""
        if self._over is not None:
            raise self._over
        late = now >= self._deadline
        quiet = now - self._asked if self._open else 0.0
        if quiet >= self._patience.timeout or (late and quiet >= SILENCE):
            if late or self._patience.retries is None or self._failures > self._patience.retries:
                raise silent(self._store, quiet)
            self._asked = now  # silence is a failure like others: it may be borne so often
            self._failures += 1
        error = self._error
        if error is not None:
            retryable = isinstance(error, BackendUnavailable) and error.retryable
            if late or not retryable or self._patience.exhausted(self._failures, now - self._failing_since):
                raise error
            if now >= self._next_try:
                self._next_try = math.inf
                self._ask(list(self._owed))
        if late:
            raise TimeoutError("The operation timed out.")
        if now >= self._next_probe and not self._open:
            asked = list(islice(self.pending, BATCH))
            for task_id in asked:  # the next question is about others
                del self.pending[task_id]
                self.pending[task_id] = None
            self._ask(asked)

    def _peek(self) -> None:
        """Look for states that are not final."""
        self._store.read(list(islice(self.pending, BATCH))).add_done_callback(self._peeked)

    def _peeked(self, reply: Reply[dict[str, Document]]) -> None:
        if reply.exception() is not None:
            return  # the questions find out what is wrong
        with self._session.lock:
            for task_id, document in reply.result().items():
                final = document.status in READY_STATES  # the store will tell of it
                if task_id in self.pending and not final and self._seen.get(task_id) != document:
                    self._seen[task_id] = document
                    self.heard(document)


def batches(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """*items*, a batch at a time."""
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))
