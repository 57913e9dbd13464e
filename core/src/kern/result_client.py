"""The client of the result store: what ``app.backend`` is.

It owns the started port, reads documents and decodes them, and knows who waits (:mod:`kern.result_wait`). The blocking
methods are deadline loops over the port; those for asyncio, with an ``a`` in front, wait on the caller's loop. All may
be used from any thread; a forked process connects anew.

Names are those of Celery's backends where Celery has the method.
"""

from __future__ import annotations

import builtins
import itertools
import math
import os
import time
import warnings
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from kern.contracts.port import Reply
from kern.contracts.result_store import DocumentForm, GroupDocument, ResultStore, StoreCapability, Written
from kern.contracts.transport import Whereabouts
from kern.documents import Meta, decode_document, encode_document
from kern.errors import (
    BackendError,
    BackendGetMetaError,
    BackendStoreError,
    BackendUnavailable,
    OperationalError,
    TimeoutError,
)
from kern.outcome import Document
from kern.result import GroupResult, as_dict, result_from_tuple
from kern.result_callbacks import Callbacks
from kern.result_wait import Patience, Session, Wait, batches, silent, unavailable
from kern.serialization import accept_set, decode, encode
from kern.settings import Section, setting
from kern.states import FAILURE, PENDING, READY_STATES, RETRY, REVOKED, STARTED, SUCCESS, UNKNOWN
from kern.timeutil import seconds

if TYPE_CHECKING:
    from kern.app import Kern
    from kern.request import Request
    from kern.result import AsyncResult

T = TypeVar("T")


def _above_zero(value: float) -> None:
    if not value > 0:
        raise ValueError("expected a number above 0")


def _not_below_zero(value: float) -> None:
    if not value >= 0:
        raise ValueError("expected 0 or more")


class ResultClientSettings(Section):
    """How results are read and waited for."""

    result_backend_timeout: float = setting(
        5.0,
        "How long the result store may take to answer one command, and how long a wait outlives its loss.",
        unit="s",
        convert=seconds,
        validate=_above_zero,
    )
    result_backend_always_retry: bool = setting(
        False, "A command that failed because the result store could not be reached is tried again."
    )
    result_backend_max_retries: float = setting(
        math.inf, "With result_backend_always_retry: how often.", validate=_not_below_zero
    )
    result_backend_base_sleep_between_retries_ms: int = setting(
        10,
        "With result_backend_always_retry: the pause, doubled with each attempt, of which a random part is taken.",
        unit="ms",
        validate=_not_below_zero,
    )
    result_backend_max_sleep_between_retries_ms: int = setting(
        10_000, "With result_backend_always_retry: the longest pause.", unit="ms", validate=_not_below_zero
    )
    task_remote_tracebacks: bool = setting(
        False, "Errors are raised with the worker's traceback. Needs tblib where they are raised."
    )


def _nothing(_answer: Any) -> None:
    """Any answer will do."""


class ResultClient:
    """Reads, waits for and writes results of one application."""

    def __init__(self, app: Kern) -> None:
        self.app = app
        # One for each process that uses this object. A parent's stays untouched, and is never collected: its end would
        # say good-bye on connections that are still the parent's.
        self._sessions: dict[int, _ClientSession] = {}

    # -- the connection ------------------------------------------------------------------------------------------------

    def _session(self) -> _ClientSession:
        pid = os.getpid()
        session = self._sessions.get(pid)
        if session is None:
            session = self._sessions.setdefault(pid, _ClientSession(self.decode, self.app.conf.result_cache_max))
        return session

    def _patience(self) -> Patience:
        conf = self.app.conf.section(ResultClientSettings)
        return Patience(
            timeout=conf.result_backend_timeout,
            retries=conf.result_backend_max_retries if conf.result_backend_always_retry else None,
            base_ms=conf.result_backend_base_sleep_between_retries_ms,
            longest_ms=conf.result_backend_max_sleep_between_retries_ms,
        )

    def _made(self, session: _ClientSession) -> ResultStore | None:
        """The store, connected or not; ``None``: none is configured."""
        with session.lock:
            if session.store is None:
                session.store, session.connecting, session.connected = self.app.result_store, None, False
            return session.store

    def _begin(self) -> tuple[_ClientSession, ResultStore]:
        """The store, told to connect.

        :raises NotImplementedError: none is configured.
        """
        session = self._session()
        with session.lock:
            store = self._made(session)
            if store is None:
                raise NotImplementedError(NO_STORE)
            if session.connecting is None:
                session.connecting = store.start(session.deliver)
            return session, store

    def _failed_to_begin(self, session: _ClientSession, store: ResultStore) -> None:
        """The next command begins anew."""
        with session.lock:
            if session.store is store:
                session.store = session.connecting = None
        store.stop()

    def _connect(self, patience: Patience) -> tuple[_ClientSession, ResultStore]:
        session, store = self._begin()
        if not session.connected:
            assert session.connecting is not None
            try:
                _driven(store, session.connecting, patience.timeout)
            except BaseException:
                self._failed_to_begin(session, store)
                raise
            session.connected = True
        return session, store

    async def _aconnect(self, patience: Patience) -> tuple[_ClientSession, ResultStore]:
        session, store = self._begin()
        if not session.connected:
            assert session.connecting is not None
            try:
                await _awaited(store, session.connecting, patience.timeout)
            except Exception:
                self._failed_to_begin(session, store)
                raise
            session.connected = True
        return session, store

    def close(self) -> None:
        """Disconnect; whoever waits gets an error, and the next use connects again."""
        session = self._sessions.get(os.getpid())
        if session is None:
            return
        with session.lock:
            store, session.store, session.connecting, session.connected = session.store, None, None, False
            if store is not None:
                session.fail(BackendUnavailable(f"the connection to {store.url} was closed", retryable=False))
        if store is not None:
            try:
                _driven(store, store.stop(), 2.0)
            except BackendError:
                pass  # it was to end, and is not used any more

    def _command(
        self,
        ask: Callable[[ResultStore], Reply[T]],
        exhausted: Callable[[], Exception],
        check: Callable[[T], None] = _nothing,
    ) -> T:
        """Give one command and wait for its answer; again and again, if the settings say so.

        :param exhausted: makes the error of the last attempt.
        :param check: raises what is wrong with an answer.
        """
        patience = self._patience()
        for attempt in itertools.count(1):
            try:
                _session, store = self._connect(patience)
                reply = ask(store)
                try:
                    answer = _driven(store, reply, patience.timeout)
                finally:
                    reply.cancel()  # what has not begun shall not be done when nobody waits for it
                check(answer)
                return answer
            except BackendUnavailable as error:
                pause = _pause(patience, attempt, error, exhausted)
            time.sleep(pause)
        raise AssertionError

    async def _acommand(self, ask: Callable[[ResultStore], Reply[T]], exhausted: Callable[[], Exception]) -> T:
        import asyncio

        patience = self._patience()
        for attempt in itertools.count(1):
            try:
                _session, store = await self._aconnect(patience)
                reply = ask(store)
                try:
                    return await _awaited(store, reply, patience.timeout)
                finally:
                    reply.cancel()
            except BackendUnavailable as error:
                pause = _pause(patience, attempt, error, exhausted)
            await asyncio.sleep(pause)
        raise AssertionError

    # -- about the store -----------------------------------------------------------------------------------------------

    @property
    def _store(self) -> ResultStore | None:
        return self._made(self._session())

    @property
    def enabled(self) -> bool:
        """Whether there is a result store."""
        return self._store is not None

    @property
    def is_async(self) -> bool:
        """Whether the server tells of results, without polling."""
        return self._has(StoreCapability.PUSH)

    @property
    def supports_native_join(self) -> bool:
        """Whether many results can be waited for at once: any store can."""
        return self.enabled

    @property
    def supports_autoexpire(self) -> bool:
        """Whether the server deletes expired results by itself, so that nobody has to call :meth:`cleanup`."""
        return self._has(StoreCapability.AUTO_EXPIRE)

    def _has(self, capability: StoreCapability) -> bool:
        store = self._store
        return store is not None and capability in store.capabilities

    def as_uri(self, include_password: bool = False) -> str:
        """The store's URL."""
        store = self._store
        if store is None:
            return "disabled://"
        return str(self.app.conf.result_backend or store.url) if include_password else store.url

    @property
    def remote_tracebacks(self) -> bool:
        """Whether errors are raised with the worker's traceback."""
        return self.app.conf.section(ResultClientSettings).task_remote_tracebacks

    # -- reading -------------------------------------------------------------------------------------------------------

    def decode(self, document: Document) -> Meta:
        """What a document says.

        :raises ContentDisallowed: see the setting ``result_accept_content``.
        """
        conf = self.app.conf
        accepted = conf.result_accept_content
        meta = decode_document(document, accept_set(conf.accept_content if accepted is None else accepted))
        # The key it was stored under is whose it is, whatever it says of itself.
        return meta if meta.task_id == document.task_id else attrs.evolve(meta, task_id=document.task_id)

    def _remembered(self, session: _ClientSession, documents: Iterable[Document]) -> dict[str, Meta]:
        metas = {}
        for document in documents:
            meta = metas[document.task_id] = self.decode(document)
            if meta.status == SUCCESS:
                session.remember(meta)
        return metas

    def find(self, task_ids: Sequence[str], cache: bool = True) -> dict[str, Meta]:
        """The documents there are of these calls, read in batches.

        :param cache: also those this client remembers (setting ``result_cache_max``).
        :raises BackendUnavailable: the store cannot be reached.
        :raises NotImplementedError: there is no store.
        """
        self._warn_if_eager()
        session = self._session()
        found, unknown = session.recall(task_ids) if cache else ({}, list(task_ids))
        for batch in batches(unknown):
            documents = self._command(lambda store, batch=batch: store.read(batch), _unreadable(batch))  # type: ignore[misc]
            found.update(self._remembered(session, documents.values()))
        return found

    async def afind(self, task_ids: Sequence[str], cache: bool = True) -> dict[str, Meta]:
        """:meth:`find` for asyncio callers."""
        self._warn_if_eager()
        session = self._session()
        found, unknown = session.recall(task_ids) if cache else ({}, list(task_ids))
        for batch in batches(unknown):
            documents = await self._acommand(lambda store, batch=batch: store.read(batch), _unreadable(batch))  # type: ignore[misc]
            found.update(self._remembered(session, documents.values()))
        return found

    def look_for(self, task_ids: Sequence[str]) -> dict[str, Meta | str]:
        """Of calls that have no document: what the broker knows of each.

        ``PENDING``: it has the call, or cannot tell. ``UNKNOWN``: it has never heard of it, or the call is done and has
        left no result. A document that has come meanwhile takes the place of the state.
        """
        found: dict[str, Meta | str] = dict(_states_of(task_ids, self._locate(task_ids)))
        gone = [task_id for task_id, state in found.items() if state == UNKNOWN]
        if gone:
            # It may have ended between the two questions.
            found.update(self.find(gone))
        return found

    async def alook_for(self, task_ids: Sequence[str]) -> dict[str, Meta | str]:
        """:meth:`look_for` for asyncio callers."""
        import asyncio

        loop = asyncio.get_running_loop()
        located = await loop.run_in_executor(None, self._locate, task_ids)
        found: dict[str, Meta | str] = dict(_states_of(task_ids, located))
        gone = [task_id for task_id, state in found.items() if state == UNKNOWN]
        if gone:
            found.update(await self.afind(gone))
        return found

    def _locate(self, task_ids: Sequence[str]) -> Mapping[str, Whereabouts] | None:
        try:
            return self.app.locate(task_ids)
        except OperationalError:
            return None  # a broker that cannot be reached cannot tell

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """The document of a call, as a dict; of one without, ``{"status": "PENDING", "result": None}``."""
        meta = self.find([_checked(task_id)], cache).get(task_id)
        return {"status": PENDING, "result": None} if meta is None else as_dict(meta)

    def get_state(self, task_id: str) -> str:
        """The state of a call; see :attr:`kern.result.AsyncResult.state`."""
        found = self.find([_checked(task_id)]).get(task_id) or self.look_for([task_id])[task_id]
        return found.status if isinstance(found, Meta) else found

    get_status = get_state

    def get_result(self, task_id: str) -> Any:
        """The stored value or exception; ``None`` when nothing is stored."""
        return self.get_task_meta(task_id)["result"]

    def get_traceback(self, task_id: str) -> str | None:
        """The stored traceback, as text."""
        return self.get_task_meta(task_id).get("traceback")

    def get_children(self, task_id: str) -> list[Any] | None:
        """Results of the calls it made, in the form in which they are stored."""
        return self.get_task_meta(task_id).get("children")

    def task_result_exists(self, task_id: str) -> bool:
        """Whether anything is stored."""
        return bool(self.find([_checked(task_id)]))

    def reload_task_result(self, task_id: str) -> None:
        """Read it anew into what this client remembers."""
        self._session().unremember(task_id)
        self.find([_checked(task_id)], cache=False)

    def _warn_if_eager(self) -> None:
        conf = self.app.conf
        if conf.task_always_eager and not conf.task_store_eager_result:
            warnings.warn(
                "Results are not stored in backend and should not be retrieved when task_always_eager is enabled, "
                "unless task_store_eager_result is enabled.",
                RuntimeWarning,
                stacklevel=4,
            )

    # -- waiting -------------------------------------------------------------------------------------------------------

    def collect(
        self,
        task_ids: Sequence[str],
        timeout: float | None = None,
        interval: float = 0.5,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Generator[Meta, None, None]:
        """Final documents of these calls as they arrive, each once; ends when all have.

        :param timeout: seconds for all together; 0: only those that are there.
        :raises TimeoutError: not all came in time.
        :raises BackendUnavailable: the store does not answer.
        """
        known, unknown = self._first(task_ids)
        yield from known
        if not unknown:
            return
        if timeout is not None and timeout <= 0:
            final = [meta for meta in self.find(unknown).values() if meta.status in READY_STATES]
            yield from final
            if len(final) < len(unknown):
                raise TimeoutError("The operation timed out.")
            return
        collecting = _Collecting(self, *self._connect_retrying(), unknown, timeout, interval, on_message, on_interval)
        with collecting:
            while collecting.going:
                yield from collecting.take()
                if collecting.going:
                    collecting.block()

    async def acollect(
        self,
        task_ids: Sequence[str],
        timeout: float | None = None,
        interval: float = 0.5,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> AsyncGenerator[Meta, None]:
        """:meth:`collect` for asyncio callers; no thread waits."""
        known, unknown = self._first(task_ids)
        for meta in known:
            yield meta
        if not unknown:
            return
        if timeout is not None and timeout <= 0:
            final = [meta for meta in (await self.afind(unknown)).values() if meta.status in READY_STATES]
            for meta in final:
                yield meta
            if len(final) < len(unknown):
                raise TimeoutError("The operation timed out.")
            return
        connected = await self._aconnect_retrying()
        collecting = _Collecting(self, *connected, unknown, timeout, interval, on_message, on_interval)
        with collecting:
            while collecting.going:
                for meta in collecting.take():
                    yield meta
                if collecting.going:
                    await collecting.sleep()

    def _first(self, task_ids: Sequence[str]) -> tuple[list[Meta], list[str]]:
        self._warn_if_eager()
        known, unknown = self._session().recall(list(dict.fromkeys(task_ids)))
        return list(known.values()), unknown

    def _connect_retrying(self) -> tuple[_ClientSession, ResultStore]:
        patience = self._patience()
        for attempt in itertools.count(1):
            try:
                return self._connect(patience)
            except BackendUnavailable as error:
                pause = _pause(patience, attempt, error, _unreadable([]))
            time.sleep(pause)
        raise AssertionError

    async def _aconnect_retrying(self) -> tuple[_ClientSession, ResultStore]:
        import asyncio

        patience = self._patience()
        for attempt in itertools.count(1):
            try:
                return await self._aconnect(patience)
            except BackendUnavailable as error:
                pause = _pause(patience, attempt, error, _unreadable([]))
            await asyncio.sleep(pause)
        raise AssertionError

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Id and final document (a dict) of each call as it arrives; see :meth:`collect`."""
        for meta in self.collect(list(task_ids), timeout, interval, on_message, on_interval):
            yield meta.task_id, as_dict(meta)

    async def aget_many(
        self, task_ids: Iterable[str], timeout: float | None = None
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """:meth:`get_many` for asyncio callers."""
        async for meta in self.acollect(list(task_ids), timeout):
            yield meta.task_id, as_dict(meta)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> dict[str, Any]:
        """The final document of a call, once it is there."""
        return dict(self.get_many([_checked(task_id)], timeout, interval, on_interval=on_interval))[task_id]

    def add_pending_results(self, results: Iterable[AsyncResult[Any]], weak: bool = False) -> None:
        """Tell results when they are there, on a thread of this client's.

        :param weak: only as long as somebody else has them.
        """
        results = list(results)
        if not results:
            return
        self._warn_if_eager()
        session, store = self._connect_retrying()
        session.callbacks.add(store, results, weak, self._patience())

    def remove_pending_result(self, task_id: str) -> None:
        """Tell results of this id no more."""
        self._session().callbacks.drop([task_id])

    # -- writing -------------------------------------------------------------------------------------------------------

    def store_result(
        self,
        task_id: str | None,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Request | None = None,
        **fields: Any,
    ) -> Any:
        """Store what is known of a call; without a store nothing happens. A final document that is there stays.

        :param fields: of the request: ``name`` of a call about which nothing else is known, say.
        :returns: *result*.
        :raises EncodeError: *result* cannot be serialised.
        """
        if not self.enabled:
            return result
        document = self._document(_checked(task_id), result, state, traceback, request)
        self._command(
            lambda store: store.write([plan for plan in store.plan([document], [()]) if plan is not None]),
            _unstorable(document),
            _raise_errors,
        )
        return result

    def _document(
        self, task_id: str, result: Any, state: str, traceback: str | None, request: Request | None
    ) -> Document:
        conf = self.app.conf
        store = self._store
        return encode_document(
            task_id,
            state,
            result,
            whole=store is not None and store.document_form is DocumentForm.WHOLE,
            serializer=conf.result_serializer,
            traceback=traceback,
            request=request,
            extended=conf.result_extended,
            compression=conf.result_compression,
            strict=True,
        )

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        """Store ``STARTED``, with *meta* as the value."""
        return self.store_result(task_id, meta, STARTED)

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Request | None = None,
        store_result: bool = True,
        state: str = SUCCESS,
    ) -> None:
        """Store the value of a call that succeeded."""
        if store_result:
            self.store_result(task_id, result, state, request=request)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Request | None = None,
        store_result: bool = True,
        state: str = FAILURE,
    ) -> None:
        """Store the error of a call that failed. What is to follow a failure is the runner's affair."""
        if store_result:
            self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def mark_as_revoked(
        self, task_id: str, reason: str = "", request: Request | None = None, store_result: bool = True
    ) -> None:
        """Store that a call was revoked."""
        from kern.errors import TaskRevokedError

        if store_result:
            self.store_result(task_id, TaskRevokedError(reason), REVOKED, request=request)

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException | None,
        traceback: str | None = None,
        request: Request | None = None,
        store_result: bool = True,
        state: str = RETRY,
    ) -> Any:
        """Store that a call will be tried again."""
        return self.store_result(task_id, exc, state, traceback=traceback, request=request) if store_result else None

    def forget(self, task_id: str) -> None:
        """Delete what is stored of a call, and tell nobody of it any more."""
        session = self._session()
        session.unremember(_checked(task_id))
        session.callbacks.drop([task_id])
        if not self.enabled:
            raise NotImplementedError("backend does not implement forget.")
        self._command(lambda store: store.forget([task_id]), _unreadable([task_id]))

    async def aforget(self, task_id: str) -> None:
        """:meth:`forget` for asyncio callers."""
        session = self._session()
        session.unremember(_checked(task_id))
        session.callbacks.drop([task_id])
        await self._acommand(lambda store: store.forget([task_id]), _unreadable([task_id]))

    def cleanup(self) -> int:
        """Delete what has expired; answers how many documents. Nothing happens without a store."""
        if not self.enabled:
            return 0
        return self._command(lambda store: store.sweep(), _unreadable([]))

    # -- groups --------------------------------------------------------------------------------------------------------

    def save_group(self, group_id: str, result: GroupResult[Any]) -> GroupResult[Any]:
        """Save a group under its id.

        :raises CapabilityMissing: the store keeps no groups.
        """
        encoded = encode(result.as_tuple(), self.app.conf.result_serializer)
        group = GroupDocument(
            _checked(group_id, "group_id"), encoded.body, encoded.content_type, encoded.content_encoding
        )
        self._command(lambda store: store.save_group(group), _unreadable([group_id]))
        return result

    def get_group_meta(self, group_id: str, cache: bool = True) -> dict[str, Any] | None:
        """``{"result": group}``, or ``None``.

        :param cache: accepted; groups are always read anew.
        """
        document = self._command(
            lambda store: store.read_group(_checked(group_id, "group_id")), _unreadable([group_id])
        )
        if document is None:
            return None
        conf = self.app.conf
        accepted = conf.result_accept_content
        stored = decode(
            document.result,
            document.content_type,
            document.content_encoding,
            accept_set(conf.accept_content if accepted is None else accepted),
        )
        if isinstance(stored, Mapping):  # Celery's whole document
            stored = stored["result"]
        return {"result": result_from_tuple(stored, self.app)}

    def restore_group(self, group_id: str, cache: bool = True) -> GroupResult[Any] | None:
        """The group saved under *group_id*, or ``None``."""
        meta = self.get_group_meta(group_id, cache)
        return meta["result"] if meta is not None else None

    reload_group_result = restore_group

    def delete_group(self, group_id: str) -> None:
        """Delete what was saved under *group_id*."""
        self._command(lambda store: store.delete_group(_checked(group_id, "group_id")), _unreadable([group_id]))


#: What there is to say where results are asked for and kept nowhere.
NO_STORE = (
    "No result backend is configured: set 'result_backend' (or Kern(backend=…)) to the URL of a result store, and "
    "install the plugin that speaks to it: kern-backend-sql, kern-backend-redis or another; 'kern plugins' lists what "
    "there is."
)


class _ClientSession(Session):
    """What one process has, with the results it remembers and those it is to tell."""

    def __init__(self, decode: Callable[[Document], Meta], remembers: int | None) -> None:
        super().__init__()
        self.callbacks = Callbacks(self, decode)
        #: The latest last. -1: none are kept, 0 or ``None``: all are.
        self._metas: OrderedDict[str, Meta] = OrderedDict()
        self._limit = remembers

    def remember(self, meta: Meta) -> None:
        if self._limit == -1:
            return
        with self.lock:
            self._metas[meta.task_id] = meta
            self._metas.move_to_end(meta.task_id)
            while self._limit and len(self._metas) > self._limit:
                self._metas.popitem(last=False)

    def unremember(self, task_id: str) -> None:
        with self.lock:
            self._metas.pop(task_id, None)

    def recall(self, task_ids: Sequence[str]) -> tuple[dict[str, Meta], list[str]]:
        """What is remembered of these, and the ids of the others."""
        if not self._metas:
            return {}, list(task_ids)
        with self.lock:
            known = {}
            for task_id in task_ids:
                meta = self._metas.get(task_id)
                if meta is not None:
                    known[task_id] = meta
                    self._metas.move_to_end(task_id)
            return known, [task_id for task_id in task_ids if task_id not in known]


class _Collecting:
    """One wait of :meth:`ResultClient.collect`, with its owner's callbacks."""

    def __init__(
        self,
        client: ResultClient,
        session: _ClientSession,
        store: ResultStore,
        task_ids: Sequence[str],
        timeout: float | None,
        interval: float,
        on_message: Callable[[dict[str, Any]], Any] | None,
        on_interval: Callable[[], Any] | None,
    ) -> None:
        self._client, self._session, self._store = client, session, store
        self._on_message, self._on_interval = on_message, on_interval
        self._wait = Wait(
            session,
            store,
            task_ids,
            timeout=timeout,
            patience=client._patience(),
            tick=interval if on_interval is not None or on_message is not None else None,
            listen=on_message is not None,
        )

    def __enter__(self) -> _Collecting:
        self._wait.begin()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._wait.end()

    @property
    def going(self) -> bool:
        """Whether something is still to come, or to be taken."""
        return self._wait.going

    def take(self) -> list[Meta]:
        metas = list(self._client._remembered(self._session, self._wait.take()).values())
        if self._on_message is not None:
            for document in self._wait.news():
                self._on_message(as_dict(self._client.decode(document)))
        if self._wait.ticked() and self._on_interval is not None:
            self._on_interval()
        return metas

    def block(self) -> None:
        try:
            self._store.drive(self._wait.signal, self._wait.pause())
        except builtins.TimeoutError:
            pass  # time to look around

    async def sleep(self) -> None:
        import asyncio

        await asyncio.wait([asyncio.wrap_future(self._wait.signal)], timeout=self._wait.pause())


# -- replies -----------------------------------------------------------------------------------------------------------


def _driven(store: ResultStore, reply: Reply[T], seconds: float) -> T:
    """The answer, waited for by this thread."""
    try:
        return store.drive(reply, seconds)
    except BaseException as error:
        raise _what_happened(store, reply, error, seconds) from error.__cause__


async def _awaited(store: ResultStore, reply: Reply[T], seconds: float) -> T:
    """The answer, waited for on this loop; the reply goes on if the waiting is cancelled."""
    import asyncio

    waiting = asyncio.wrap_future(reply)
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody has seen it
    await asyncio.wait([waiting], timeout=seconds)
    try:
        if not reply.done():
            raise builtins.TimeoutError
        return reply.result()
    except Exception as error:
        raise _what_happened(store, reply, error, seconds) from error.__cause__


def _what_happened(store: ResultStore, reply: Reply[Any], error: BaseException, seconds: float) -> BaseException:
    if isinstance(error, builtins.TimeoutError) and not reply.done():
        return silent(store, seconds)
    return unavailable(error)


def _raise_errors(answers: Sequence[Written]) -> None:
    """Errors of single documents are errors of the command that wrote them."""
    for answer in answers:
        if answer.error is not None:
            raise unavailable(answer.error)


def _pause(patience: Patience, attempt: int, error: BackendUnavailable, exhausted: Callable[[], Exception]) -> float:
    """Seconds before the next attempt; raises when there is none."""
    if patience.retries is None or not error.retryable:
        raise error
    if attempt > patience.retries:
        raise exhausted() from error
    return patience.pause(attempt)


def _unreadable(task_ids: Sequence[str]) -> Callable[[], Exception]:
    return lambda: BackendGetMetaError("failed to get meta", task_id=task_ids[0] if task_ids else "")


def _unstorable(document: Document) -> Callable[[], Exception]:
    return lambda: BackendStoreError(
        "failed to store result on the backend", state=document.status, task_id=document.task_id
    )


def _checked(task_id: str | None, what: str = "task_id") -> str:
    if not task_id:
        raise ValueError(f"{what} must not be empty. Got {task_id!r} instead.")
    return task_id


def _states_of(task_ids: Sequence[str], located: Mapping[str, Whereabouts] | None) -> dict[str, str]:
    if located is None:
        return dict.fromkeys(task_ids, PENDING)
    return {
        task_id: UNKNOWN if located.get(task_id, Whereabouts.UNKNOWN) is Whereabouts.UNKNOWN else PENDING
        for task_id in task_ids
    }
