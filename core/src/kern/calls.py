"""Making calls: of a task, by name, many at once; each blocking and for asyncio."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kern import eager, log
from kern.call_options import NO_RETRY, RetryPolicy, check_options
from kern.errors import PublishRefused, PublishUnknown
from kern.message import Publication
from kern.publish import Answer, Prepared, Publisher
from kern.request import Request
from kern.result import AsyncResult, EagerResult
from kern.settings_core import PublishSettings
from kern.signature import COMPOSED, Signature
from kern.task import Task, running_worker_task

if TYPE_CHECKING:
    from kern.app import Kern

logger = log.get_logger("kern.app")

#: Calls for which ``send_many`` takes the time of one ``publish_timeout``.
CALLS_A_TIMEOUT = 10_000


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Nothing that a batch is made of is garbage before it is sent, and looking for some in tens of thousands of new
    messages again and again takes a fifth of the time of making and sending them."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Calls:
    """Makes calls of *app*, with messages from *publisher*."""

    def __init__(self, app: Kern, publisher: Publisher) -> None:
        self._app = app
        self._publisher = publisher

    # -- one call ------------------------------------------------------------------------------------------------------

    def call(self, task: Task[Any, Any], args: Any, kwargs: Any, options: dict[str, Any]) -> AsyncResult[Any]:
        """Publish a call of *task*, or run it with ``task_always_eager``."""
        prepared = self._prepare_task(task, args, kwargs, options)
        return prepared if isinstance(prepared, EagerResult) else self._send(prepared)

    async def acall(self, task: Task[Any, Any], args: Any, kwargs: Any, options: dict[str, Any]) -> AsyncResult[Any]:
        """:meth:`call` for asyncio."""
        prepared = self._prepare_task(task, args, kwargs, options)
        return prepared if isinstance(prepared, EagerResult) else await self._asend(prepared)

    def send_task(self, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> AsyncResult[Any]:
        """Publish a call by name."""
        return self._send(self._prepare_name(name, args, kwargs, options))

    async def asend_task(self, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> AsyncResult[Any]:
        """:meth:`send_task` for asyncio."""
        return await self._asend(self._prepare_name(name, args, kwargs, options))

    def _send(self, prepared: Prepared) -> AsyncResult[Any]:
        (prepared,) = self._publisher.announce([prepared])
        if prepared.connection is not None:
            self._publisher.send_within([prepared], prepared.connection)
        else:
            _raise_for(self._publisher.send([prepared], prepared.timeout, prepared.policy))
        return self._result(prepared)

    async def _asend(self, prepared: Prepared) -> AsyncResult[Any]:
        _refuse_connection([prepared])
        (prepared,) = self._publisher.announce([prepared])
        _raise_for(await self._publisher.asend([prepared], prepared.timeout, prepared.policy))
        return self._result(prepared)

    # -- many calls ----------------------------------------------------------------------------------------------------

    def send_many(
        self, calls: Iterable[Signature[Any]], timeout: float | None, options: Mapping[str, Any]
    ) -> list[AsyncResult[Any]]:
        """Publish many calls, a few hundred in one round trip."""
        items, batch = self._prepare_many(calls, options)
        if batch and batch[0].connection is not None:
            self._publisher.send_within(batch, batch[0].connection)
        elif batch:
            answers = self._publisher.send(batch, self._timeout(timeout, batch), batch[0].policy)
            _raise_for_some(batch, answers)
        return self._results(items, batch)

    async def asend_many(
        self, calls: Iterable[Signature[Any]], timeout: float | None, options: Mapping[str, Any]
    ) -> list[AsyncResult[Any]]:
        """:meth:`send_many` for asyncio."""
        items, batch = self._prepare_many(calls, options)
        _refuse_connection(batch)
        if batch:
            answers = await self._publisher.asend(batch, self._timeout(timeout, batch), batch[0].policy)
            _raise_for_some(batch, answers)
        return self._results(items, batch)

    def _prepare_many(
        self, calls: Iterable[Signature[Any]], options: Mapping[str, Any]
    ) -> tuple[list[Prepared | EagerResult[Any]], Sequence[Prepared]]:
        """The calls in order, and those of them that are to be published, as listeners want them."""
        with _collector_paused():
            items = [self._prepare_signature(call, options) for call in calls]
        batch = [item for item in items if isinstance(item, Prepared)]
        return items, self._publisher.announce(batch) if batch else batch

    def _timeout(self, timeout: float | None, batch: Sequence[Prepared]) -> float:
        return timeout if timeout is not None else batch[0].timeout * (1 + len(batch) // CALLS_A_TIMEOUT)

    def _results(
        self, items: Sequence[Prepared | EagerResult[Any]], batch: Sequence[Prepared]
    ) -> list[AsyncResult[Any]]:
        published = iter(batch)
        return [item if isinstance(item, EagerResult) else self._result(next(published)) for item in items]

    # -- messages without a caller who waits for a result --------------------------------------------------------------

    def publication(self, call: Signature[Any], options: Mapping[str, Any]) -> Publication:
        """The message of a call, to be published by somebody else."""
        args, kwargs, merged = call._merge((), {}, options)
        given = {key: value for key, value in merged.items() if value is not None}
        check_options(given)
        task = self._app.tasks.get(call.task)
        return self._announced(self._publisher.prepare(call.task, args, kwargs, given, task))

    def _announced(self, prepared: Prepared) -> Publication:
        """As listeners want it: whoever publishes it does not ask them."""
        (announced,) = self._publisher.announce([prepared])
        return announced.publication

    def publish(self, publications: Sequence[Publication]) -> None:
        """Publish messages that are ready."""
        conf = self._app.conf.section(PublishSettings)
        policy = RetryPolicy.of(conf.task_publish_retry_policy) if conf.task_publish_retry else NO_RETRY
        batch = [
            Prepared(item, None, ignored=True, timeout=conf.publish_timeout, policy=policy, add_to_parent=False)
            for item in publications
        ]
        if batch:
            _raise_for_some(batch, self._publisher.send(batch, self._timeout(None, batch), policy))

    # -- trying again --------------------------------------------------------------------------------------------------

    def retry_publication(self, request: Request, call: Signature[Any]) -> Publication:
        """The message by which *request* is tried again: the same id, one retry more.

        What the task says by default does not count: the call said otherwise, or had it already.
        """
        options = {**call.options, "parent_id": request.id, "root_id": request.root_id or request.id}
        stamped = options.get("stamped_headers")
        if stamped:
            options["stamped_headers"] = [name for name in stamped if name in options]
        if request.ignore_result is not None:
            options.setdefault("ignore_result", request.ignore_result)
        task = self._app.tasks.get(call.task)
        return self._announced(self._publisher.prepare(call.task, call.args, call.kwargs, options, task, again=request))

    # -- preparing -----------------------------------------------------------------------------------------------------

    def _prepare_task(
        self, task: Task[Any, Any], args: Any, kwargs: Any, options: dict[str, Any]
    ) -> Prepared | EagerResult[Any]:
        self._app.finalize()
        if args is not None and not isinstance(args, list | tuple):
            raise TypeError("task args must be a list or tuple")
        if kwargs is not None and not isinstance(kwargs, Mapping):
            raise TypeError("task keyword arguments must be a mapping")
        if task.typing:
            task.check_arguments(*(args or ()), **(kwargs or {}))
        if options:
            check_options(options)
        if self._app.conf.task_always_eager:
            return eager.run_instead_of_publishing(self._app, task, args or (), kwargs or {}, options)
        return self._publisher.prepare(task.name, args, kwargs, options, task)

    def _prepare_name(self, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Prepared:
        if not isinstance(name, str):
            raise TypeError(f"send_task takes the name of a task, not {name!r}")
        if options:
            check_options(options)
        if self._app.conf.task_always_eager:
            logger.warning("task_always_eager does not concern calls by name: published", name=name)
        task = self._app.tasks.get(name)
        return self._publisher.prepare(name, args, kwargs, options, task, by_name=True)

    def _prepare_signature(self, call: Signature[Any], more: Mapping[str, Any]) -> Prepared | EagerResult[Any]:
        if not isinstance(call, Signature):
            raise TypeError(f"send_many takes calls as data, such as task.s(…), not {call!r}")
        if call.subtask_type in COMPOSED:
            raise TypeError(f"send_many takes calls of single tasks; publish {call.task!r} by its apply_async()")
        args, kwargs, merged = call._merge((), {}, more)
        options = {key: value for key, value in merged.items() if value is not None}
        task = self._app.tasks.get(call.task)
        prepared: Prepared | EagerResult[Any]
        if task is None:
            prepared = self._prepare_name(call.task, args, kwargs, options)
        else:
            prepared = self._prepare_task(task, args, kwargs, options)
        if isinstance(prepared, Prepared) and prepared.connection is not more.get("connection"):
            raise TypeError("connection= is for all calls of send_many, not for one of them")
        return prepared

    # -- the result ----------------------------------------------------------------------------------------------------

    def _result(self, prepared: Prepared) -> AsyncResult[Any]:
        cls = prepared.result_cls or AsyncResult
        result: AsyncResult[Any] = cls(prepared.publication.task_id, app=self._app)
        if prepared.ignored:
            result.ignored = True
        if prepared.add_to_parent:
            parent = running_worker_task()
            if parent is not None:
                parent.task.add_trail(result)
        return result


def _raise_for(answers: Sequence[Answer]) -> None:
    if answers[0] is not None:
        raise answers[0]


def _raise_for_some(batch: Sequence[Prepared], answers: Sequence[Answer]) -> None:
    """One error for all that are not confirmed; it names them."""
    missing = [item.publication.task_id for item, answer in zip(batch, answers, strict=True) if answer is not None]
    if not missing:
        return
    unknown = next((answer for answer in answers if isinstance(answer, PublishUnknown)), None)
    cause = unknown or next(answer for answer in answers if answer is not None)
    sentence = f"{len(missing)} of {len(batch)} calls are not confirmed: {cause}"
    if unknown is not None:
        raise PublishUnknown(sentence, missing) from unknown
    refused = PublishRefused(sentence)
    refused.task_ids = tuple(missing)
    raise refused from cause


def _refuse_connection(batch: Sequence[Prepared]) -> None:
    if any(item.connection is not None for item in batch):
        raise TypeError(
            "connection= blocks and cannot be used on a loop; make the call where the connection is used: "
            "await connection.run_sync(lambda connection: task.apply_async(args, connection=connection))"
        )
