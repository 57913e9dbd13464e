"""Calling back when results arrive: ``result.then(callback)``.

The thread that takes results in is the store's and must not run anybody's code, so that calls are made on one thread of
this module: one in a process, there while something is waited for, whatever the number of results.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from kern import log
from kern.contracts.result_store import ResultStore
from kern.documents import Meta
from kern.outcome import Document
from kern.result_wait import Patience, Session, Wait

if TYPE_CHECKING:
    from kern.result import AsyncResult

logger = log.get_logger("kern.results")


class Settles(Protocol):
    """What is told of a final document, or of the error that kept it away."""

    id: str

    def settle(self, meta: Meta) -> None: ...

    def settle_with_error(self, error: Exception) -> None: ...


class Promise:
    """Something that will be there, or fail, once; those who ask are called back, each once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[tuple[Callable[[Any], Any], Callable[[Exception], Any] | None]] = []
        self.ready = False
        self.failed = False
        self.value: Any = None

    def then(self, callback: Callable[[Any], Any], on_error: Callable[[Exception], Any] | None = None) -> Promise:
        """Call *callback* with the value as soon as it is there, which may be now; *on_error* with the error."""
        with self._lock:
            if not self.ready:
                self._listeners.append((callback, on_error))
                return self
        self._call(callback, on_error)
        return self

    def __call__(self, value: Any) -> None:
        """It is there. A second time nothing happens."""
        self._end(value, failed=False)

    def reject(self, error: Exception) -> None:
        """It failed."""
        self._end(error, failed=True)

    def throw(self, error: BaseException | None = None) -> None:
        """Reject it with *error*, and raise that.

        :param error: ``None``: the one that is being handled.
        """
        import sys

        error = error if error is not None else sys.exc_info()[1]
        if error is None:
            raise TypeError("throw() needs an exception")
        if isinstance(error, Exception):
            self.reject(error)
        raise error

    def _end(self, value: Any, failed: bool) -> None:
        with self._lock:
            if self.ready:
                return
            self.ready, self.failed, self.value = True, failed, value
            listeners, self._listeners = self._listeners, []
        for callback, on_error in listeners:
            self._call(callback, on_error)

    def _call(self, callback: Callable[[Any], Any], on_error: Callable[[Exception], Any] | None) -> None:
        try:
            if not self.failed:
                callback(self.value)
            elif on_error is not None:
                on_error(self.value)
        except Exception as error:
            # One caller's mistake is not the others', nor the one's who happened to fetch the result.
            if on_error is not None and not self.failed:
                on_error(error)
            else:
                logger.error("a callback of a result failed", callback=repr(callback), error=repr(error), exc_info=True)


class Callbacks:
    """The results that are to be told, and the thread that tells them."""

    def __init__(self, session: Session, decode: Callable[[Document], Meta]) -> None:
        self._session = session
        self._decode = decode
        self._wait: Wait | None = None
        #: What gives each result, or ``None`` once it is gone.
        self._entries: dict[str, list[Callable[[], Settles | None]]] = {}
        #: Ids of results that are gone. Found when the thread looks around: garbage is collected at any moment, on any
        #: thread, and must not take part in what is going on there.
        self._gone: deque[str] = deque()

    def add(self, store: ResultStore, results: Iterable[AsyncResult[Any]], weak: bool, patience: Patience) -> None:
        """Tell *results* when they are there.

        :param weak: do not keep them: one that nobody else has is forgotten.
        """
        with self._session.lock:
            fresh: list[str] = []
            for result in results:
                entries = self._entries.setdefault(result.id, [])
                if not entries:
                    fresh.append(result.id)
                entries.append(self._weakly(result) if weak else lambda result=result: result)  # type: ignore[misc]
            if self._wait is None:
                self._wait = Wait(self._session, store, fresh, patience=patience)
                self._wait.begin()
                threading.Thread(target=self._run, args=(store, self._wait), name="kern results", daemon=True).start()
            else:
                self._wait.more(fresh)

    def drop(self, task_ids: Sequence[str]) -> None:
        """Forget the results of these ids."""
        with self._session.lock:
            known = [task_id for task_id in task_ids if self._entries.pop(task_id, None) is not None]
            if known and self._wait is not None:
                self._wait.less(known)

    def _weakly(self, result: AsyncResult[Any]) -> Callable[[], AsyncResult[Any] | None]:
        task_id = result.id
        return weakref.ref(result, lambda _gone: self._gone.append(task_id))

    def _run(self, store: ResultStore, wait: Wait) -> None:
        while True:
            try:
                documents = wait.take()
            except Exception as error:
                self._fail(wait, error)
                return
            for document in documents:
                self._tell(document)
            self._bury()
            with self._session.lock:
                if not wait.going:
                    self._wait = None
                    wait.end()
                    return
            try:
                store.drive(wait.signal, wait.pause())
            except TimeoutError:
                pass  # time to look around
            del documents

    def _tell(self, document: Document) -> None:
        with self._session.lock:
            entries = self._entries.pop(document.task_id, [])
        for entry in entries:
            result = entry()
            if result is None:
                continue
            try:
                result.settle(self._decode(document))
            except Exception as error:
                result.settle_with_error(error)

    def _fail(self, wait: Wait, error: Exception) -> None:
        with self._session.lock:
            entries = [entry for entries in self._entries.values() for entry in entries]
            self._entries.clear()
            self._wait = None
            wait.end()
        for entry in entries:
            result = entry()
            if result is not None:
                result.settle_with_error(error)

    def _bury(self) -> None:
        while self._gone:
            task_id = self._gone.popleft()
            with self._session.lock:
                entries = [entry for entry in self._entries.get(task_id, ()) if entry() is not None]
                if entries:
                    self._entries[task_id] = entries
                else:
                    self.drop([task_id])
