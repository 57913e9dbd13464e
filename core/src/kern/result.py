"""What a caller holds of calls that were made: results, sets and groups of them.

An :class:`AsyncResult` is an id and what is known of it. What is final is fetched once and kept; everything else is
fetched each time it is asked for. Reading never waits; :meth:`AsyncResult.get` does, and ``await result`` waits without
blocking.

Waiting for a task inside a task can wait for ever: nobody may be left to run what is waited for. Where that can happen
:func:`task_join_will_block` is true, and waiting is refused (:func:`assert_will_not_block`). The flag is a context
variable and not one of the process: it is true for the code of tasks and not for the rest of a process that hosts a
worker, and two threads that allow or deny waiting for a moment do not undo each other's choice.
"""

from __future__ import annotations

import importlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from kern.documents import Meta
from kern.errors import (
    ImproperlyConfigured,
    IncompleteStream,
    TaskRevokedError,
    TimeoutError,
)
from kern.graph import DependencyGraph, GraphFormatter
from kern.result_callbacks import Promise
from kern.saferepr import saferepr
from kern.states import FAILURE, PENDING, PROPAGATE_STATES, READY_STATES, REVOKED, SUCCESS
from kern.task import running

if TYPE_CHECKING:
    from kern.app import Kern
    from kern.result_client import ResultClient

R = TypeVar("R", covariant=True)
T = TypeVar("T")

# -- waiting inside tasks ----------------------------------------------------------------------------------------------

_join_will_block: ContextVar[bool] = ContextVar("kern_join_will_block", default=False)


def task_join_will_block() -> bool:
    """Whether waiting for a result here could wait for ever."""
    return _join_will_block.get()


def set_join_will_block(flag: bool) -> None:
    """Say so for the current context. A pool does, where it runs tasks."""
    _join_will_block.set(flag)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Inside, results may be waited for, also in a task."""
    token = _join_will_block.set(False)
    try:
        yield
    finally:
        _join_will_block.reset(token)


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Inside, waiting for a result is refused."""
    token = _join_will_block.set(True)
    try:
        yield
    finally:
        _join_will_block.reset(token)


def assert_will_not_block() -> None:
    """
    :raises RuntimeError: waiting here could wait for ever.
    """
    if task_join_will_block():
        raise RuntimeError(
            "Never call result.get() within a task!\n"
            "It keeps a place busy that the awaited task may need. Let a callback, chain or chord go on with the "
            "value, await the result in an async task, or, where that place cannot be missing, wait inside "
            "kern.result.allow_join_result().\n"
        )


# -- one result --------------------------------------------------------------------------------------------------------


class ResultBase:
    """What results of one call and of several have in common."""

    #: The application of results of this class; set in the subclasses an application makes for itself.
    bound_app: ClassVar[Kern | None] = None

    parent: ResultBase | None = None
    _app: Kern | None = None
    #: Where a result that was pickled says its application is.
    _app_path: str | None = None

    @property
    def app(self) -> Kern:
        """The application whose call it was.

        :raises ImproperlyConfigured: it was never told one, and no task is running here.
        """
        found = self._app or self.bound_app
        if found is None and self._app_path:
            found = _imported(self._app_path)
        if found is None and (entry := running()) is not None:
            found = entry.task.app
        if found is None:
            raise ImproperlyConfigured(
                f"{self!r} does not know its application; make it with app.{type(self).__name__}(…), or give it app="
            )
        self._app = found
        return found

    @app.setter
    def app(self, app: Kern | None) -> None:
        self._app = app

    # What the classes answer each in its way.

    def leaves(self) -> Iterator[AsyncResult[Any]]:
        """The results of single calls it is made of."""
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    def get(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def forget(self) -> None:
        raise NotImplementedError

    def as_tuple(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def as_list(self) -> list[str]:
        raise NotImplementedError

    def raise_known(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        """What :meth:`AsyncResult.maybe_throw` does, by what is known and nothing else."""
        raise NotImplementedError

    @property
    def children(self) -> Sequence[ResultBase] | None:
        raise NotImplementedError

    def ancestors(self) -> list[ResultBase]:
        """What came before it, oldest first."""
        found: list[ResultBase] = []
        node = self.parent
        while node is not None:
            found.append(node)
            node = node.parent
        found.reverse()
        return found

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[ResultBase | None, ResultBase]]:
        """This result and those of the calls that it made, and so on, each after the one that made it.

        :param intermediate: go on though some are not there yet.
        :raises IncompleteStream: one is not there yet.
        """
        queue: deque[tuple[ResultBase | None, ResultBase]] = deque([(None, self)])
        while queue:
            parent, node = queue.popleft()
            yield parent, node
            if node.ready():
                queue.extend((node, child) for child in node.children or ())
            elif not intermediate:
                raise IncompleteStream

    def collect(self, intermediate: bool = False, **options: Any) -> Iterator[tuple[ResultBase, Any]]:
        """Each result of the tree with its value, waiting for each in turn.

        :param options: those of :meth:`AsyncResult.get`.
        """
        for _parent, node in self.iterdeps(intermediate=intermediate):
            yield node, node.get(**options)

    def get_leaf(self) -> Any:
        """The value of the last result of the tree."""
        value = None
        for _parent, node in self.iterdeps():
            value = node.get()
        return value

    def build_graph(
        self, intermediate: bool = False, formatter: GraphFormatter | None = None
    ) -> DependencyGraph[ResultBase]:
        """The tree, to be looked at or drawn."""
        graph: DependencyGraph[ResultBase] = DependencyGraph(
            formatter=formatter or GraphFormatter(root=getattr(self, "id", None), shape="oval")
        )
        for parent, node in self.iterdeps(intermediate=intermediate):
            graph.add_arc(node)
            if parent is not None:
                graph.add_edge(parent, node)
        return graph


class AsyncResult(ResultBase, Generic[R]):
    """The result of one call.

    :param id: the call's id.
    :param backend: what it is read from; the application's by default.
    :param task_name: accepted, and not needed.
    :param parent: the result of the call before it in a workflow.
    :raises ValueError: there is no id.
    """

    TimeoutError = TimeoutError

    def __init__(
        self,
        id: str,
        backend: ResultClient | None = None,
        task_name: str | None = None,
        app: Kern | None = None,
        parent: ResultBase | None = None,
    ) -> None:
        if id is None:
            raise ValueError(f"AsyncResult requires valid id, not {type(id)}")
        self.id = id
        self.parent = parent
        #: The call was told to leave no result, so that there is none to wait for.
        self.ignored = False
        self._backend = backend
        if app is not None:
            self._app = app
        self._cache: Meta | None = None
        self._children: list[ResultBase] | None = None
        self._on_ready: Promise | None = None

    @property
    def task_id(self) -> str:
        """The same as :attr:`id`."""
        return self.id

    @task_id.setter
    def task_id(self, value: str) -> None:
        self.id = value

    @property
    def backend(self) -> ResultClient:
        """What it is read from."""
        if self._backend is None:
            self._backend = self.app.backend
        return self._backend

    @backend.setter
    def backend(self, backend: ResultClient | None) -> None:
        self._backend = backend

    @property
    def app(self) -> Kern:
        return self._backend.app if self._app is None and self._backend is not None else super().app

    @app.setter
    def app(self, app: Kern | None) -> None:
        self._app = app

    # -- what is known -------------------------------------------------------------------------------------------------

    def settle(self, meta: Meta) -> None:
        """Take in the final document of the call."""
        if self._cache is None:
            self._cache = meta
            if self._on_ready is not None:
                self._on_ready(self)

    def settle_with_error(self, error: Exception) -> None:
        """Take in that its document cannot be had."""
        self.on_ready.reject(error)

    def _fetch(self) -> Meta | None:
        """The document, read anew unless it is final; ``None``: there is none."""
        if self._cache is not None:
            return self._cache
        meta = self.backend.find([self.id]).get(self.id)
        return self._taken(meta)

    async def _afetch(self) -> Meta | None:
        if self._cache is not None:
            return self._cache
        return self._taken((await self.backend.afind([self.id])).get(self.id))

    def _taken(self, meta: Meta | None) -> Meta | None:
        if meta is not None and meta.status in READY_STATES:
            self.settle(meta)
        return meta

    def _field(self, name: str) -> Any:
        meta = self._fetch()
        return None if meta is None else getattr(meta, name)

    @property
    def state(self) -> str:
        """The state that is stored.

        With nothing stored the broker is asked, where it can tell: ``PENDING`` if it has the call, ``UNKNOWN`` if it
        has never heard of it (or the call left no result). Where it cannot tell: ``PENDING``.
        """
        meta = self._fetch()
        return meta.status if meta is not None else self._taken_state(self.backend.look_for([self.id]))

    async def astate(self) -> str:
        """:attr:`state` for asyncio callers."""
        meta = await self._afetch()
        return meta.status if meta is not None else self._taken_state(await self.backend.alook_for([self.id]))

    def _taken_state(self, found: dict[str, Meta | str]) -> str:
        answer = found[self.id]
        if isinstance(answer, str):
            return answer
        self._taken(answer)
        return answer.status

    @property
    def status(self) -> str:
        """The same as :attr:`state`."""
        return self.state

    @property
    def result(self) -> Any:
        """The stored value; for ``RETRY``, ``FAILURE`` and ``REVOKED`` the exception; ``None`` if nothing is stored."""
        return self._field("result")

    @property
    def info(self) -> Any:
        """The same as :attr:`result`."""
        return self.result

    @property
    def traceback(self) -> str | None:
        """Text of the traceback of the last attempt that failed."""
        return cast("str | None", self._field("traceback"))

    @property
    def children(self) -> list[ResultBase] | None:
        """Results of the calls that this call made; ``None`` while that is not known."""
        if self._children is not None:
            return self._children
        meta = self._fetch()
        if meta is None or meta.children is None:
            return None
        children = [result_from_tuple(child, self.app) for child in meta.children]
        if self._cache is not None:
            self._children = children
        return children

    @property
    def date_done(self) -> datetime | None:
        """When it became final."""
        return cast("datetime | None", self._field("date_done"))

    @property
    def name(self) -> str | None:
        """Name of the task; this and the next five are stored with ``result_extended`` only."""
        return cast("str | None", self._field("name"))

    @property
    def args(self) -> Any:
        return self._field("args")

    @property
    def kwargs(self) -> Any:
        return self._field("kwargs")

    @property
    def worker(self) -> str | None:
        """Name of the worker that ran it."""
        return cast("str | None", self._field("worker"))

    @property
    def retries(self) -> int | None:
        """How often it had been retried."""
        return cast("int | None", self._field("retries"))

    @property
    def queue(self) -> str | None:
        """The routing key it was delivered with."""
        return cast("str | None", self._field("queue"))

    def ready(self) -> bool:
        """Whether it has come to its end, one way or the other."""
        meta = self._fetch()
        return meta is not None and meta.status in READY_STATES

    async def aready(self) -> bool:
        """:meth:`ready` for asyncio callers."""
        meta = await self._afetch()
        return meta is not None and meta.status in READY_STATES

    def successful(self) -> bool:
        """Whether it has succeeded."""
        meta = self._fetch()
        return meta is not None and meta.status == SUCCESS

    def failed(self) -> bool:
        """Whether it has failed for good."""
        meta = self._fetch()
        return meta is not None and meta.status == FAILURE

    def exists(self) -> bool:
        """Whether anything is stored."""
        return self._fetch() is not None

    @property
    def supports_native_join(self) -> bool:
        return self.backend.supports_native_join

    def leaves(self) -> Iterator[AsyncResult[Any]]:
        yield self

    # -- waiting -------------------------------------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Wait until it is there, and return its value.

        :param timeout: seconds; ``0`` looks once, ``None`` waits as long as it takes.
        :param propagate: raise what the task raised; else the exception is returned in place of the value.
        :param interval: seconds between two calls of *on_interval*. Waiting itself goes by the store's notices.
        :param no_ack: accepted, and of no account.
        :param follow_parents: raise at once when a call before it in its workflow has failed.
        :param callback: called with id and value (or the exception that is not raised).
        :param on_message: called with every document that comes meanwhile, as a dict, also with those of custom states,
            which are looked for every *interval* seconds.
        :param on_interval: called regularly meanwhile.
        :param disable_sync_subtasks: refuse to wait where that could wait for ever.
        :raises TimeoutError: it was not there in time.
        :raises BackendUnavailable: the result store does not answer.
        :raises RuntimeError: see *disable_sync_subtasks*.
        """
        if self.ignored:
            return cast(R, None)
        if disable_sync_subtasks:
            assert_will_not_block()
        family = _Family(self, follow_parents and propagate)
        if family.unknown:
            family.take(self.backend.find(family.unknown))
        if self._cache is None:
            with closing(
                self.backend.collect(
                    [self.id, *family.unknown],
                    timeout=timeout,
                    interval=interval,
                    on_message=on_message,
                    on_interval=on_interval,
                )
            ) as metas:
                for meta in metas:
                    if family.arrived(meta):
                        break
        if family.in_doubt:
            family.take(self.backend.find(family.unknown))
        return cast(R, self.raise_known(propagate, callback))

    wait = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> R:
        """:meth:`get` for asyncio callers: waits on the caller's loop, blocks nothing, and may be used inside tasks."""
        if self.ignored:
            return cast(R, None)
        family = _Family(self, follow_parents and propagate)
        if family.unknown:
            family.take(await self.backend.afind(family.unknown))
        if self._cache is None:
            async with aclosing(
                self.backend.acollect(
                    [self.id, *family.unknown],
                    timeout=timeout,
                    interval=interval,
                    on_message=on_message,
                    on_interval=on_interval,
                )
            ) as metas:
                async for meta in metas:
                    if family.arrived(meta):
                        break
        if family.in_doubt:
            family.take(await self.backend.afind(family.unknown))
        return cast(R, self.raise_known(propagate, callback))

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        """The value that is stored now; raises it if it is the error of a task that failed or was revoked."""
        meta = self._fetch()
        return self._raised(meta, propagate, callback)

    maybe_reraise = maybe_throw

    def raise_known(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        return self._raised(self._cache, propagate, callback)

    def _raised(self, meta: Meta | None, propagate: bool, callback: Callable[[str, Any], Any] | None) -> Any:
        value: Any = meta.result if meta is not None else None
        if propagate and meta is not None and meta.status in PROPAGATE_STATES:
            raise value.with_traceback(self._remote_traceback(meta.traceback))
        if callback is not None:
            callback(self.id, value)
        return value

    def _remote_traceback(self, text: str | None) -> TracebackType | None:
        """The worker's traceback as an object, if the settings ask for it."""
        if not text or not self.backend.remote_tracebacks:
            return None
        try:
            tblib = importlib.import_module("tblib")
        except ImportError:
            raise ImproperlyConfigured("'task_remote_tracebacks' needs tblib: pip install 'kern-core[tblib]'") from None
        try:
            return cast("TracebackType", tblib.Traceback.from_string(text, strict=False).as_traceback())
        except tblib.TracebackParseError:
            return None

    # -- being told ----------------------------------------------------------------------------------------------------

    @property
    def on_ready(self) -> Promise:
        """Kept when the result is there, with this object as its value; rejected when it cannot be had."""
        if self._on_ready is None:
            self._on_ready = Promise()
            if self._cache is not None:
                self._on_ready(self)
        return self._on_ready

    def then(
        self,
        callback: Callable[[Any], Any],
        on_error: Callable[[Exception], Any] | None = None,
        weak: bool = False,
    ) -> Promise:
        """Call ``callback(result)`` when the result is there: at once if it is, else on a thread of kern's.

        :param on_error: called with the error when it cannot be had (:meth:`throw`, or a store that is gone). What a
            task raised is a result like another.
        :param weak: forget it all when nobody else has this object any more.
        """
        promise = self.on_ready.then(callback, on_error)
        if not promise.ready:
            self.backend.add_pending_results([self], weak=weak)
        return promise

    def throw(self, *args: Any, **kwargs: Any) -> None:
        """Reject :attr:`on_ready` with an exception, and raise that."""
        self.on_ready.throw(*args, **kwargs)

    # -- acting on it --------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Delete what is stored, here and for the calls before it in its workflow.

        :raises NotImplementedError: there is no result store.
        """
        self._cache = self._children = None
        if self.parent is not None:
            self.parent.forget()
        self.backend.forget(self.id)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Have the call not run any more.

        :param terminate: also end it where it runs, with *signal*.
        :param wait: for the workers' answers, *timeout* seconds, and return them.
        :raises CapabilityMissing: no installed plugin controls workers; says which one to install.
        """
        return self.app.control.revoke(self.id, **_control_options(connection, terminate, signal, wait, timeout))

    def revoke_by_stamped_headers(
        self,
        headers: dict[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Have all calls not run any more that carry these stamps."""
        options = _control_options(connection, terminate, signal, wait, timeout)
        return self.app.control.revoke_by_stamped_headers(headers, **options)

    # -- as data -------------------------------------------------------------------------------------------------------

    @cached_property
    def graph(self) -> DependencyGraph[ResultBase]:
        """:meth:`build_graph`, once."""
        return self.build_graph()

    def as_tuple(self) -> tuple[Any, ...]:
        """The form in which results are stored."""
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), None

    def as_list(self) -> list[str]:
        """The id, and the ids of what came before."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return bool(other.id == self.id)
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __copy__(self) -> AsyncResult[R]:
        return type(self)(self.id, self._backend, None, self._app, self.parent)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, ("AsyncResult", _app_path(self), self.id, self.parent)


class _Family:
    """A result that is waited for, and the calls before it whose failure ends the waiting."""

    def __init__(self, result: AsyncResult[Any], follow: bool) -> None:
        self._result = result
        self._ancestors = result.ancestors() if follow and result.parent is not None else []
        self._leaves = {
            leaf.id: leaf
            for node in self._ancestors
            for leaf in node.leaves()
            if leaf._cache is None and not leaf.ignored
        }
        self._leaves.pop(result.id, None)

    @property
    def unknown(self) -> list[str]:
        """Ids of ancestors that are not known to have ended."""
        return list(self._leaves)

    @property
    def in_doubt(self) -> bool:
        """Whether the result failed, and maybe only because an ancestor did, whose own exception is to be raised."""
        cache = self._result._cache
        return bool(self._leaves) and cache is not None and cache.status in PROPAGATE_STATES

    def take(self, metas: dict[str, Meta]) -> None:
        """Take in what was read of ancestors, and raise what they failed with."""
        for task_id, meta in metas.items():
            if meta.status in READY_STATES:
                self._leaves.pop(task_id).settle(meta)
        for node in self._ancestors:
            for leaf in node.leaves():
                leaf.raise_known()

    def arrived(self, meta: Meta) -> bool:
        """Take in what has come; whether it is what is waited for."""
        if meta.task_id == self._result.id:
            self._result.settle(meta)
            return True
        self.take({meta.task_id: meta})
        return False


class EagerResult(AsyncResult[R]):
    """The result of a call that was run at once, in the caller's thread. There is nothing to wait for, so that what
    options of waiting say is of no account; the value of a task that neither succeeded nor failed is ``None``."""

    def __init__(
        self,
        id: str,
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(id)
        self._cache = Meta(id, state, ret_value, traceback=traceback, name=name)

    @property
    def _known(self) -> Meta:
        return cast(Meta, self._cache)

    def ready(self) -> bool:
        return True

    async def aready(self) -> bool:
        return True

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        return self.raise_known(propagate, callback)

    maybe_reraise = maybe_throw

    def raise_known(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        state, value = self._known.status, self._known.result
        if state in PROPAGATE_STATES and propagate:
            raise value if isinstance(value, BaseException) else Exception(value)
        if state != SUCCESS and state not in PROPAGATE_STATES:
            value = None
        if callback is not None:
            callback(self.id, value)
        return value

    def exists(self) -> bool:
        return True

    @property
    def children(self) -> None:
        return None

    @property
    def supports_native_join(self) -> bool:
        return False

    def forget(self) -> None:
        """Nothing is stored."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """It has run; from now on it says that it was revoked."""
        self._cache = Meta(self.id, REVOKED, TaskRevokedError("revoked"), name=self._known.name)

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    def __copy__(self) -> EagerResult[R]:
        made, args = self.__reduce__()
        copied = cast("EagerResult[R]", made(*args))
        copied.parent = self.parent
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        known = self._known
        return EagerResult, (self.id, known.result, known.status, known.traceback, known.name)


# -- several results ---------------------------------------------------------------------------------------------------


class ResultSet(ResultBase, Generic[R]):
    """Results that are looked at and waited for together.

    :param results: in the order in which their values are given; a group of results counts as one, its value is a list.
    """

    def __init__(self, results: Iterable[AsyncResult[R] | ResultSet[Any]], app: Kern | None = None) -> None:
        self.results: list[Any] = list(results)
        if app is not None:
            self._app = app
        self._on_ready: Promise | None = None

    @property
    def app(self) -> Kern:
        if self._app is None and self.bound_app is None and self.results:
            return cast("Kern", self.results[0].app)
        return super().app

    @app.setter
    def app(self, app: Kern | None) -> None:
        self._app = app

    @property
    def backend(self) -> ResultClient:
        """What its members are read from."""
        if self._app is None and self.results:
            return cast("ResultClient", self.results[0].backend)
        return self.app.backend

    @property
    def supports_native_join(self) -> bool | None:
        """Whether :meth:`get` collects results as they arrive; ``None`` for an empty set."""
        return cast(bool, self.results[0].supports_native_join) if self.results else None

    @property
    def children(self) -> Sequence[ResultBase] | None:
        return cast("list[ResultBase]", self.results)

    def leaves(self) -> Iterator[AsyncResult[Any]]:
        for member in self.results:
            yield from member.leaves()

    # -- its members ---------------------------------------------------------------------------------------------------

    def add(self, result: AsyncResult[Any] | ResultSet[Any]) -> None:
        """Append *result* unless it is there."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: AsyncResult[Any] | ResultSet[Any] | str) -> None:
        """Take one out, by itself or its id.

        :raises KeyError: it is not there.
        """
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: AsyncResult[Any] | ResultSet[Any] | str) -> None:
        """Take one out if it is there."""
        try:
            self.remove(result)
        except KeyError:
            pass

    def update(self, results: Iterable[AsyncResult[Any] | ResultSet[Any]]) -> None:
        """Append those that are not there."""
        known = {getattr(result, "id", None) for result in self.results}
        for result in results:
            task_id = getattr(result, "id", None)
            if task_id is None:
                self.add(result)
            elif task_id not in known:
                known.add(task_id)
                self.results.append(result)

    def clear(self) -> None:
        """Take all out."""
        self.results.clear()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: int) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    # -- what is known -------------------------------------------------------------------------------------------------

    def _unknown(self) -> dict[str, list[AsyncResult[Any]]]:
        """Those of its results, by id, that are not known to have ended."""
        found: dict[str, list[AsyncResult[Any]]] = {}
        for leaf in self.leaves():
            if leaf._cache is None and not leaf.ignored:
                found.setdefault(leaf.id, []).append(leaf)
        return found

    def _look(self) -> None:
        """Read what is not known to be final, all at once."""
        unknown = self._unknown()
        if unknown:
            for task_id, meta in self.backend.find(list(unknown)).items():
                if meta.status in READY_STATES:
                    for leaf in unknown[task_id]:
                        leaf.settle(meta)

    def _statuses(self) -> list[str]:
        """The final state of each leaf, ``PENDING`` where it has not come."""
        self._look()
        return [leaf._cache.status if leaf._cache is not None else PENDING for leaf in self.leaves()]

    def ready(self) -> bool:
        """Whether all have come to their end."""
        return PENDING not in self._statuses()

    def waiting(self) -> bool:
        """Whether any has not."""
        return not self.ready()

    def successful(self) -> bool:
        """Whether all have succeeded."""
        return all(status == SUCCESS for status in self._statuses())

    def failed(self) -> bool:
        """Whether any has failed."""
        return FAILURE in self._statuses()

    def completed_count(self) -> int:
        """How many members have succeeded."""
        self._look()
        return sum(
            all(leaf._cache is not None and leaf._cache.status == SUCCESS for leaf in member.leaves())
            for member in self.results
        )

    def maybe_throw(self, callback: Callable[[str, Any], Any] | None = None, propagate: bool = True) -> None:
        """Raise the error of the first member that failed, by what is stored now.

        :param callback: called with id and value of each member before it.
        """
        self._look()
        self.raise_known(propagate, callback)

    maybe_reraise = maybe_throw

    def raise_known(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        return [member.raise_known(propagate, callback) for member in self.results]

    # -- waiting -------------------------------------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[R]:
        """Wait for all, and return their values in order; see :meth:`join_native` and :meth:`join`."""
        wait = self.join_native if self.supports_native_join else self.join
        return cast(
            "list[R]",
            wait(
                timeout=timeout,
                propagate=propagate,
                interval=interval,
                callback=callback,
                no_ack=no_ack,
                on_message=on_message,
                on_interval=on_interval,
                disable_sync_subtasks=disable_sync_subtasks,
            ),
        )

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[R]:
        """Wait for one after the other: the first error in order is the one that is raised.

        :param timeout: seconds for all together.
        :param callback: called with id and value of each, in order; the list that is returned is then empty.
        :raises ImproperlyConfigured: *on_message* was given; :meth:`join_native` takes it.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        if on_message is not None:
            raise ImproperlyConfigured("join() does not support the on_message callback; use join_native()")
        until = time.monotonic() + timeout if timeout else None
        values: list[R] = []
        for result in self.results:
            left = timeout
            if until is not None:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError("join operation timed out")
            try:
                value = result.get(
                    timeout=left,
                    propagate=propagate,
                    interval=interval,
                    on_interval=on_interval,
                    disable_sync_subtasks=disable_sync_subtasks,
                )
            except TimeoutError as error:
                # The task's own error may be one, too.
                if result.ready():
                    raise
                raise TimeoutError("join operation timed out") from error
            if callback is not None:
                callback(result.id, value)
            else:
                values.append(value)
        return values

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[R] | None:
        """Take results as they arrive, all with one wait: the first error to arrive is the one that is raised.

        :param callback: called with id and value of each as it arrives; ``None`` is returned then.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        gathering = _Gathering(self, propagate)
        for index in self._complete(gathering, timeout, interval, on_message, on_interval):
            if callback is not None:
                callback(self.results[index].id, self.results[index].raise_known(propagate))
        return None if callback is not None else self.raise_known(propagate)

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[R] | None:
        """:meth:`join_native` for asyncio callers."""
        gathering = _Gathering(self, propagate)
        async for index in self._acomplete(gathering, timeout, interval, on_message, on_interval):
            if callback is not None:
                callback(self.results[index].id, self.results[index].raise_known(propagate))
        return None if callback is not None else self.raise_known(propagate)

    def __await__(self) -> Generator[Any, None, list[R]]:
        return cast("Generator[Any, None, list[R]]", self.aget().__await__())

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Id and document (a dict) of each member as it arrives; for a group among them its id and its results."""
        for index in self._complete(_Gathering(self, False), timeout, interval, on_message, on_interval):
            yield self._document(index)

    async def aiter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> AsyncIterator[tuple[str, Any]]:
        """:meth:`iter_native` for asyncio callers."""
        async for index in self._acomplete(_Gathering(self, False), timeout, interval, on_message, on_interval):
            yield self._document(index)

    def _document(self, index: int) -> tuple[str, Any]:
        member = self.results[index]
        if isinstance(member, ResultSet):
            return getattr(member, "id", ""), member.results
        return member.id, as_dict(member._cache or Meta(member.id, PENDING))

    def _complete(
        self, gathering: _Gathering, timeout: Any, interval: float, on_message: Any, on_interval: Any
    ) -> Iterator[int]:
        """Places of members, as they are complete."""
        yield from gathering.known
        if gathering.unknown:
            with closing(
                self.backend.collect(
                    list(gathering.unknown),
                    timeout=timeout,
                    interval=interval,
                    on_message=on_message,
                    on_interval=on_interval,
                )
            ) as metas:
                for meta in metas:
                    yield from gathering.arrived(meta)

    async def _acomplete(
        self, gathering: _Gathering, timeout: Any, interval: float, on_message: Any, on_interval: Any
    ) -> AsyncIterator[int]:
        for index in gathering.known:
            yield index
        if gathering.unknown:
            async with aclosing(
                self.backend.acollect(
                    list(gathering.unknown),
                    timeout=timeout,
                    interval=interval,
                    on_message=on_message,
                    on_interval=on_interval,
                )
            ) as metas:
                async for meta in metas:
                    for index in gathering.arrived(meta):
                        yield index

    # -- being told ----------------------------------------------------------------------------------------------------

    @property
    def on_ready(self) -> Promise:
        """Kept when all results are there, with this object as its value."""
        if self._on_ready is None:
            self._on_ready = Promise()
            self._await_members(self._on_ready)
        return self._on_ready

    def _await_members(self, promise: Promise) -> None:
        unknown = self._unknown()
        missing = set(unknown)
        if not missing:
            promise(self)

        def arrived(result: AsyncResult[Any]) -> None:
            missing.discard(result.id)
            if not missing:
                promise(self)

        for leaves in unknown.values():
            leaves[0].on_ready.then(arrived, promise.reject)

    def then(
        self,
        callback: Callable[[Any], Any],
        on_error: Callable[[Exception], Any] | None = None,
        weak: bool = False,
    ) -> Promise:
        """Call ``callback(results)`` when all are there; see :meth:`AsyncResult.then`."""
        promise = self.on_ready.then(callback, on_error)
        if not promise.ready:
            self.backend.add_pending_results([leaves[0] for leaves in self._unknown().values()], weak=weak)
        return promise

    # -- acting on them ------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Delete what is stored of each."""
        for result in self.results:
            result.forget()

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Have none of the calls run any more; see :meth:`AsyncResult.revoke`."""
        ids = [leaf.id for leaf in self.leaves()]
        return self.app.control.revoke(ids, **_control_options(connection, terminate, signal, wait, timeout))

    # -- as data -------------------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return other.results == self.results if isinstance(other, ResultSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(map(str, self.results))}]>"


class _Gathering:
    """Members of a set, and which of their results are still to come."""

    def __init__(self, results: ResultSet[Any], propagate: bool) -> None:
        self._propagate = propagate
        #: What is to come, by id.
        self.unknown = results._unknown()
        #: Places of members of which nothing is to come.
        self.known: list[int] = []
        self._left: list[set[str]] = []
        self._places: dict[str, list[int]] = {}
        if propagate:
            for leaf in results.leaves():
                leaf.raise_known()
        for index, member in enumerate(results.results):
            ids = {leaf.id for leaf in member.leaves() if leaf.id in self.unknown}
            self._left.append(ids)
            if not ids:
                self.known.append(index)
            for task_id in ids:
                self._places.setdefault(task_id, []).append(index)

    def arrived(self, meta: Meta) -> Iterator[int]:
        """Take in what has come; the places of members that are complete by it."""
        for leaf in self.unknown[meta.task_id]:
            leaf.settle(meta)
        if self._propagate:
            self.unknown[meta.task_id][0].raise_known()
        for index in self._places[meta.task_id]:
            self._left[index].discard(meta.task_id)
            if not self._left[index]:
                yield index


class GroupResult(ResultSet[R]):
    """The results of a group of calls, which has an id of its own and can be saved under it."""

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[AsyncResult[R] | ResultSet[Any]] | None = None,
        parent: ResultBase | None = None,
        app: Kern | None = None,
    ) -> None:
        super().__init__(results or (), app)
        self.id = id
        self.parent = parent

    @property
    def children(self) -> Sequence[ResultBase] | None:
        """Its members."""
        return cast("list[ResultBase]", self.results)

    def save(self, backend: ResultClient | None = None) -> None:
        """Save it, to be restored by its id; kept as long as results are."""
        (backend or self.backend).save_group(_id_of(self), self)

    def delete(self, backend: ResultClient | None = None) -> None:
        """Delete what was saved; results of members stay."""
        (backend or self.backend).delete_group(_id_of(self))

    @classmethod
    def restore(cls, id: str, backend: ResultClient | None = None, app: Kern | None = None) -> GroupResult[Any] | None:
        """The group that was saved under *id*, or ``None``."""
        if backend is None:
            backend = cls(id, app=app).app.backend
        return backend.restore_group(id)

    def as_tuple(self) -> tuple[Any, ...]:
        """The form in which results are stored."""
        parent = self.parent.as_tuple() if self.parent is not None else None
        return (self.id, parent), [member.as_tuple() for member in self.results]

    def as_list(self) -> list[str]:
        return [_id_of(self), *(self.parent.as_list() if self.parent is not None else ())]

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return other.id == self.id and other.results == self.results and other.parent == self.parent
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(map(str, self.results))}]>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, ("GroupResult", _app_path(self), self.id, self.results)


# -- the stored form ---------------------------------------------------------------------------------------------------


def result_from_tuple(r: Any, app: Kern | None = None) -> Any:
    """The result that the tuple form *r* stands for, with what came before it; a result is given back as it is.

    :param r: ``((id, parent), None)`` or ``((id, parent), [members])``, lists or tuples; ``(id, None)`` does as well.
    :raises ValueError: it is none of these.
    """
    if isinstance(r, ResultBase):
        return r
    try:
        head, members = r
        task_id, parent = head if isinstance(head, list | tuple) else (head, None)
    except (TypeError, ValueError):
        raise ValueError(f"not the stored form of a result: {saferepr(r, 200)}") from None
    before = result_from_tuple(parent, app) if parent else None
    if members is not None:
        return GroupResult(task_id, [result_from_tuple(member, app) for member in members], parent=before, app=app)
    return AsyncResult(task_id, app=app, parent=before)


def bound_to(app: Kern, cls: type[T]) -> type[T]:
    """The class of an application's own results: ``app.GroupResult`` and the like."""
    return type(cls.__name__, (cls,), {"bound_app": app, "__doc__": cls.__doc__, "__module__": cls.__module__})


def as_dict(meta: Meta) -> dict[str, Any]:
    """A document as a dict of Celery's keys; group, parent, extended fields and stamps where they are known."""
    fields: dict[str, Any] = {
        "status": meta.status,
        "result": meta.result,
        "traceback": meta.traceback,
        "children": meta.children,
        "date_done": meta.date_done,
    }
    for name in ("group_id", "parent_id", "name", "args", "kwargs", "worker", "retries", "queue", "stamped_headers"):
        value = getattr(meta, name)
        if value is not None:
            fields[name] = value
    fields.update(meta.stamps or {})
    fields["task_id"] = meta.task_id
    return fields


def _control_options(
    connection: Any, terminate: bool, signal: str | None, wait: bool, timeout: float | None
) -> dict[str, Any]:
    options = {"terminate": terminate, "signal": signal, "reply": wait, "timeout": timeout}
    return options if connection is None else {**options, "connection": connection}


def _id_of(group: GroupResult[Any]) -> str:
    if not group.id:
        raise ValueError("the group has no id")
    return group.id


def _app_path(result: ResultBase) -> str | None:
    """Where the result's application can be imported from, if anywhere."""
    try:
        return cast("str | None", result.app.import_path)
    except ImproperlyConfigured:
        return result._app_path


def _imported(path: str) -> Kern:
    module, _, attribute = path.partition(":")
    return cast("Kern", getattr(importlib.import_module(module), attribute))


def _unpickled(kind: str, app_path: str | None, *fields: Any) -> ResultBase:
    """A pickled result; its application is imported when it is first needed."""
    made: ResultBase
    if kind == "GroupResult":
        made = GroupResult(*fields)
    else:
        task_id, parent = fields
        made = AsyncResult(task_id, parent=parent)
    made._app_path = app_path
    return made
