"""The result store: documents as a whole, under Celery's keys, announced on Celery's channels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import hiredis

from kern import log
from kern.contracts.port import Reply, failed, resolved
from kern.contracts.records import Records
from kern.contracts.result_store import (
    DocumentForm,
    GroupDocument,
    Join,
    JoinState,
    Plan,
    ResultStore,
    StoreCapability,
    Written,
)
from kern.errors import BackendError, BackendUnavailable
from kern.message import Publication
from kern.outcome import Document, JoinPart
from kern.serialization import content_type_of
from kern_backend_redis import chords, joins, reading, writing
from kern_backend_redis.chords import Results
from kern_backend_redis.documents import Reader
from kern_backend_redis.joins import Joins
from kern_backend_redis.names import Names
from kern_backend_redis.reading import Groups
from kern_backend_redis.settings import Options
from kern_backend_redis.watching import Watching
from kern_backend_redis.writing import Writer
from kern_redis_client import urls
from kern_redis_client.connect import open_link
from kern_redis_client.failures import Kind, RedisError, closed, failure, is_elsewhere
from kern_redis_client.keys import Keys
from kern_redis_client.link import Conversation, Link
from kern_redis_client.records import SCRIPTS as RECORD_SCRIPTS
from kern_redis_client.records import RedisRecords

T = TypeVar("T")

logger = log.get_logger("kern.connection")

#: Serializers whose bytes are no text.
_BINARY = frozenset({"application/x-python-serialize", "application/x-msgpack", "application/data"})


def _on_a_loop() -> bool:
    """Whether an asyncio loop runs this thread, which then cannot read the socket while it waits."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


#: The server is there, and does not do what it was asked.
_REFUSALS = frozenset({Kind.FORBIDDEN, Kind.WRONG_TYPE, Kind.UNSUITABLE, Kind.OTHER})


class RedisResultStore(ResultStore):
    """Results in Redis, or in what speaks its protocol.

    :param url: see :mod:`kern_redis_client.urls`; ``redis`` alone stands for the settings ``redis_host`` and so on.
    :param conf: the application's settings: :class:`~kern_backend_redis.settings.RedisResultSettings`,
        ``result_expires``, ``result_serializer``.
    :raises ImproperlyConfigured: the URL or an option cannot be used.
    """

    capabilities = frozenset(
        {
            StoreCapability.JOINS,
            StoreCapability.GROUPS,
            StoreCapability.AUTO_EXPIRE,
            StoreCapability.PUSH,
            StoreCapability.RECORDS,
            StoreCapability.SHARED,
        }
    )
    document_form = DocumentForm.WHOLE

    def __init__(self, url: str, conf: Any = None) -> None:
        options = Options.of(conf)
        self.address = urls.parse(
            url if "://" in url else f"{url}://", options.connection, use_ssl=options.use_ssl, purpose=urls.STORE
        )
        self.url = self.address.masked
        self.server = self.address.identity
        content_type = content_type_of(options.serializer)
        encoding = "binary" if content_type in _BINARY else "utf-8"
        self._names = names = Names(options.prefix)
        self._reader = reader = Reader(content_type, encoding)
        self._results = Results(options.serializer, content_type, encoding)
        self._writer = Writer(self.url, self.server, self.address.database, names, options, reader, self._results)
        self._joins = Joins(names, options.join_life)
        self._chord_seconds = options.chord_seconds
        self._groups = Groups(names, self._results, options.life)
        self._link: Link | None = None
        self._watching: Watching | None = None
        self._records = RedisRecords(self._linked, Keys(options.prefix), self.url, self._backend_error)
        self._lends_records = False

    # -- life

    def start(self, on_documents: Callable[[Sequence[Document]], None]) -> Reply[None]:
        watching = Watching(self._names, self._reader, on_documents, self._begin, self._listen)
        link = open_link(
            self.address,
            greet=partial(self._greet, watching),
            on_push=partial(self._take, watching),
            on_up=partial(self._look_again, watching),
            scripts=[writing.WRITE, joins.OPEN, joins.CLOSE, joins.DUE, *RECORD_SCRIPTS],
        )
        self._watching, self._link = watching, link
        started: Reply[None] = Future()
        started.set_running_or_notify_cancel()
        link.start().add_done_callback(partial(self._started, link, started))
        return started

    def _started(self, link: Link, started: Reply[None], reply: Reply[None]) -> None:
        error = reply.exception()
        if error is None:
            assert link.facts is not None  # it has greeted the server
            for warning in link.facts.warnings(urls.STORE):
                logger.warning(warning, server=self.url)
            started.set_result(None)
        else:
            if isinstance(error, RedisError):
                error = BackendUnavailable(str(error), retryable=error.retryable)
            started.set_exception(error)

    def _greet(self, watching: Watching) -> Conversation[None]:
        # Who may write results and may not announce them would leave everybody waiting.
        (answer,) = yield [("PUBLISH", self._names.task(""), b"")]
        if isinstance(answer, Exception):
            raise failure(answer, self.url)
        yield from watching.greet()
        yield from self._records.greet()

    def _take(self, watching: Watching, push: list[Any]) -> None:
        if not self._records.take(push):
            watching.take(push)

    def _look_again(self, watching: Watching) -> None:
        self._found(watching, resolved(None), self._converse(watching.look_again()))

    def stop(self) -> Reply[None]:
        link, self._link = self._link, None
        return resolved(None) if link is None else link.stop()

    def drive(self, reply: Reply[T], timeout: float | None) -> T:
        link = self._link
        if link is None:
            return reply.result(timeout)
        return link.drive(reply, timeout)

    # -- documents

    def plan(
        self,
        documents: Sequence[Document | None],
        parts: Sequence[Sequence[JoinPart]],
        others: Sequence[Sequence[Document]] = (),
    ) -> list[Plan | None]:
        return self._writer.plan(documents, parts, others)

    def write(self, plans: Sequence[Plan]) -> Reply[list[Written]]:
        return self._converse(self._writer.write(plans)) if plans else resolved([])

    def read(self, task_ids: Sequence[str]) -> Reply[dict[str, Document]]:
        return self._converse(reading.read(self._names, self._reader, task_ids))

    def forget(self, task_ids: Sequence[str]) -> Reply[int]:
        self._watching_now().unwatch(task_ids)
        return self._converse(reading.forget(self._names, task_ids))

    # -- waiting

    def watch(self, task_ids: Collection[str]) -> Reply[None]:
        watching = self._watching_now()
        subscribing, looking = watching.watch(task_ids)
        subscribed = self._converse(subscribing)
        return self._found(watching, subscribed, self._converse(looking))

    def unwatch(self, task_ids: Collection[str]) -> Reply[None]:
        self._watching_now().unwatch(task_ids)
        return resolved(None)

    def _found(self, watching: Watching, subscribed: Reply[None], looked: Reply[list[Document]]) -> Reply[None]:
        """Reports what was found, outside all locks, then the answer."""
        reply: Reply[None] = Future()
        reply.set_running_or_notify_cancel()

        def report(_: Reply[None]) -> None:
            error = subscribed.exception() or looked.exception()
            if error is None:
                watching.found(looked.result())
                reply.set_result(None)
            else:
                reply.set_exception(error)

        # Not the replies' own method, which would ask for somebody to read: the caller does, or whoever listens.
        Future.add_done_callback(looked, lambda _: Future.add_done_callback(subscribed, report))
        return reply

    # -- groups

    def save_group(self, group: GroupDocument) -> Reply[None]:
        return self._converse(self._groups.save(group))

    def read_group(self, group_id: str) -> Reply[GroupDocument | None]:
        return self._converse(self._groups.read(group_id))

    def delete_group(self, group_id: str) -> Reply[None]:
        return self._converse(self._groups.delete(group_id))

    def sweep(self) -> Reply[int]:
        return resolved(0)  # the server deletes what has expired

    # -- joins

    def open_join(self, join: Join) -> Reply[None]:
        if join.layout == chords.LAYOUT:
            return self._converse(chords.open_chord(self._names, join, self._chord_seconds))
        if join.layout:
            return failed(chords.unknown_layout(join.layout))
        return self._converse(self._joins.open(join))

    def joins_due(self, limit: int = 100) -> Reply[list[JoinState]]:
        return self._converse(self._joins.due(limit))

    def close_join(self, join_id: str) -> Reply[tuple[Publication, ...]]:
        return self._converse(self._joins.close(join_id))

    # -- records

    def records(self) -> Records | None:
        self._lends_records = True
        return self._records

    # -- inside

    def _watching_now(self) -> Watching:
        if self._watching is None:
            raise BackendUnavailable(f"{self.url}: there is no connection")
        return self._watching

    def _begin(self, conversation: Conversation[None]) -> None:
        """Begin what nobody waits for."""
        self._converse(conversation)

    def _listen(self, wanted: bool) -> None:
        link = self._link
        # Whoever watches records goes on to.
        if link is not None and (wanted or not self._lends_records):
            link.listen(wanted, patient=not _on_a_loop())

    def _linked(self) -> Link:
        if self._link is None:
            raise BackendUnavailable(f"{self.url}: there is no connection")
        return self._link

    def _converse(self, conversation: Conversation[T]) -> Reply[T]:
        link = self._link
        if link is None:
            conversation.close()
            return failed(self._translated(closed(self.url)))
        return link.converse(self._in_our_words(link, conversation))

    def _in_our_words(self, link: Link, conversation: Conversation[T]) -> Conversation[T]:
        try:
            return (yield from conversation)
        except hiredis.ReplyError as error:
            if is_elsewhere(error):
                link.reset(failure(error, self.url))
            raise self._translated(failure(error, self.url)) from error
        except RedisError as error:
            raise self._translated(error) from error

    def _translated(self, error: BaseException) -> BaseException:
        """*error* as the contract has it."""
        return self._backend_error(error) if isinstance(error, RedisError) else error

    def _backend_error(self, error: RedisError) -> BackendError:
        if error.kind in _REFUSALS:
            return BackendError(str(error))
        return BackendUnavailable(str(error), retryable=error.retryable)
