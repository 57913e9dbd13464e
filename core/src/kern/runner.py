"""Running a task: a sequence of named steps from one value to the next, where the task runs.

::

    decode → find → limits → call → classify → encode → what follows

The runner is the only place that calls user code. It makes everything that leaves the process: document, follow-ups and
disposition are made here, and whoever settles them moves bytes.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import time
import traceback as traceback_module
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from kern import documents, log, protocol, seams, states
from kern.contracts.continuation import Follows, unsupported
from kern.errors import (
    CapabilityMissing,
    Ignore,
    InvalidTaskError,
    MessageError,
    NotRegistered,
    Reject,
    Retry,
    SecurityError,
)
from kern.message import CONTINUATIONS, Publication
from kern.outcome import Disposition, Document, Event, GiveBack, Outcome, Quarantine, Release, RetryAt
from kern.request import Request
from kern.saferepr import saferepr
from kern.task import Running, Task, entered
from kern.timeutil import clock

if TYPE_CHECKING:
    from kern.app import Kern

logger = log.get_logger("kern.task")


@attrs.frozen
class ExceptionInfo:
    """What handlers get as ``einfo``."""

    exception: BaseException
    #: Text.
    traceback: str | None

    @property
    def type(self) -> type[BaseException]:
        return type(self.exception)

    def __str__(self) -> str:
        return self.traceback or repr(self.exception)


@attrs.define
class Execution:
    """One run of a task's body, classified."""

    state: str
    #: The value, or the exception.
    value: Any
    traceback: str | None = None
    runtime: float = 0.0
    #: What the task asked for with ``retry()``.
    retry: Retry | None = None
    reject: Reject | None = None
    follow_ups: list[Publication] = attrs.field(factory=list)


class Runner:
    """Runs requests of *app* and says what became of each.

    :param hostname: the worker's node name, as tasks see it.
    """

    def __init__(self, app: Kern, hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        conf = app.conf
        self._accept = app.accept
        self._limit = conf.message_size_limit
        self._serializer: str = conf.result_serializer
        self._extended: bool = conf.result_extended
        self._compression: str | None = conf.result_compression
        self._whole = app.whole_documents

    def __call__(self, request: Request) -> Outcome:
        """Run one request; never raises what the task raises."""
        seams.reached("running")
        try:
            self._decode(request)
            task = self._find(request)
        except (MessageError, InvalidTaskError, SecurityError, NotRegistered) as error:
            return self._unreadable(request, error)
        missing = self._missing_continuations(request)
        if missing:
            return self._quarantined(request, "continuation", CapabilityMissing(unsupported(missing)))
        request.hostname = self._hostname
        context = log.task_context.set({"task_id": request.id, "task_name": request.task})
        try:
            execution = self.execute(task, request)
            return self._outcome(task, request, execution)
        except BaseException as error:
            # Nothing that user code does may take the runner with it.
            logger.exception("internal error", error=repr(error))
            self._notify("kern_task_internal_error", task=task, request=request, exception=error)
            return self._outcome(
                task, request, Execution(states.FAILURE, error, "".join(traceback_module.format_exception(error)))
            )
        finally:
            log.task_context.reset(context)

    # -- decode, find --------------------------------------------------------------------------------------------------

    def _decode(self, request: Request) -> None:
        if request.args is None:
            protocol.attach(request, protocol.read(protocol.message_of(request), self._accept, self._limit or 0))

    def _find(self, request: Request) -> Task[Any, Any]:
        return self._app.tasks[request.task or ""]

    def _missing_continuations(self, request: Request) -> list[str]:
        return [
            kind for kind in CONTINUATIONS if getattr(request, kind) and self._app.plugins.continuation(kind) is None
        ]

    # -- call, classify ------------------------------------------------------------------------------------------------

    def execute(self, task: Task[Any, Any], request: Request, throw: bool = False) -> Execution:
        """Call the task and its handlers, and classify how it ended.

        :param throw: raise the task's exception at once (eager runs).
        """
        args, kwargs = request.args or (), request.kwargs or {}
        task_id = request.id or ""
        with entered(task, request) as running:
            self._notify("kern_task_prerun", task=task, request=request)
            started = time.perf_counter()
            try:
                task.before_start(task_id, args, kwargs)
                value = task.run(*args, **kwargs)
                if inspect.iscoroutine(value):
                    value = asyncio.run(value)
                execution = Execution(states.SUCCESS, value)
            except BaseException as error:
                execution = self._classify(task, request, error, throw)
            execution.runtime = time.perf_counter() - started
            execution.follow_ups = running.follow_ups
            self._handlers(task, request, execution, running)
            self._notify("kern_task_postrun", task=task, request=request, state=execution.state, value=execution.value)
        return execution

    def _classify(self, task: Task[Any, Any], request: Request, error: BaseException, throw: bool) -> Execution:
        if isinstance(error, Ignore):
            return Execution(states.IGNORED, None)
        if isinstance(error, Reject):
            return Execution(states.REJECTED, error, _text(error), reject=error)
        if isinstance(error, Retry):
            return Execution(states.RETRY, error.exc, _text(error), retry=error)
        if (
            task.autoretry_for
            and isinstance(error, task.autoretry_for)
            and not isinstance(error, task.dont_autoretry_for)
        ):
            try:
                self._autoretry(task, request, error)
            except Retry as retry:
                return Execution(states.RETRY, retry.exc, _text(retry), retry=retry)
            except Exception as final:
                error = final
        if throw or not isinstance(error, Exception | SystemExit):
            raise error
        return Execution(states.FAILURE, error, _text(error))

    def _autoretry(self, task: Task[Any, Any], request: Request, error: BaseException) -> None:
        options = dict(task.retry_kwargs)
        if task.retry_backoff:
            countdown = int(max(1.0, float(task.retry_backoff))) * 2**request.retries
            countdown = min(int(task.retry_backoff_max), countdown)
            if task.retry_jitter:
                countdown = random.randrange(countdown + 1)
            options["countdown"] = countdown
        override = getattr(task, "override_max_retries", None)
        if override is not None:
            options.setdefault("max_retries", override)
        raise task.retry(exc=error, **options)

    def _handlers(self, task: Task[Any, Any], request: Request, execution: Execution, running: Running) -> None:
        """What a task's class and its listeners want to know; an error of theirs changes nothing."""
        args, kwargs, task_id = request.args or (), request.kwargs or {}, request.id or ""
        state, value = execution.state, execution.value
        if state == states.SUCCESS:
            self._handler(task, request, task.on_success, value, task_id, args, kwargs)
            self._notify("kern_task_success", task=task, request=request, result=value, runtime=execution.runtime)
        elif state == states.FAILURE:
            einfo = ExceptionInfo(value, execution.traceback)
            self._handler(task, request, task.on_failure, value, task_id, args, kwargs, einfo)
            self._notify(
                "kern_task_failure", task=task, request=request, exception=value, traceback=execution.traceback
            )
        elif state == states.RETRY and execution.retry is not None:
            einfo = ExceptionInfo(execution.retry, execution.traceback)
            self._handler(task, request, task.on_retry, value, task_id, args, kwargs, einfo)
            self._notify("kern_task_retry", task=task, request=request, reason=value, traceback=execution.traceback)
        if state in (states.SUCCESS, states.FAILURE):
            self._handler(task, request, task.after_return, state, value, task_id, args, kwargs, None)

    def _handler(self, task: Task[Any, Any], request: Request, handler: Any, *arguments: Any) -> None:
        if getattr(handler, "__func__", None) in _EMPTY_HANDLERS:
            return
        try:
            handler(*arguments)
        except Exception as error:
            logger.exception("handler failed", handler=handler.__name__, error=repr(error))
            self._notify("kern_task_internal_error", task=task, request=request, exception=error)

    def _notify(self, hook: str, **arguments: Any) -> None:
        if hook in self._app.plugins.listening:
            self._app.plugins.notify(hook, **arguments)

    # -- encode, what follows ------------------------------------------------------------------------------------------

    def _outcome(self, task: Task[Any, Any], request: Request, execution: Execution) -> Outcome:
        follows = self._follow(request, execution)
        document = self._document(task, request, execution)
        summary = self._summary(task, execution)
        follow_ups = [*follows.publications, *execution.follow_ups]
        retry = None
        if execution.retry is not None:
            retry = self._app.retry_publication(request, execution.retry)
            if _goes_elsewhere(retry, request):
                follow_ups.append(retry)
                retry = None
        return Outcome(
            receipt=request.receipt,
            task_id=request.id or "",
            task=task.name,
            state=execution.state,
            disposition=self._disposition(task, execution, retry),
            document=document,
            follow_ups=tuple(follow_ups),
            join_parts=follows.join_parts,
            events=self._events(task, request, execution, summary),
            runtime=execution.runtime,
            pid=os.getpid(),
            summary=summary,
        )

    def _follow(self, request: Request, execution: Execution) -> Follows:
        if execution.state not in (states.SUCCESS, states.FAILURE):
            return _NOTHING_FOLLOWS
        return self.follow(request, execution.state, execution.value)

    def follow(self, request: Request, state: str, value: Any) -> Follows:
        """What follows *request* having ended this way, from whatever understands its continuations."""
        continuations = {}
        for kind in CONTINUATIONS:
            if getattr(request, kind):
                continuation = self._app.plugins.continuation(kind)
                if continuation is not None:
                    continuations[id(continuation)] = continuation
        if not continuations:
            return _NOTHING_FOLLOWS
        parts = [continuation.follow(request, state, value) for continuation in continuations.values()]
        children = [child for part in parts for child in part.children]
        request.children.extend(children)
        return Follows(
            tuple(publication for part in parts for publication in part.publications),
            tuple(join_part for part in parts for join_part in part.join_parts),
            tuple(document for part in parts for document in part.documents),
            tuple(children),
        )

    def _disposition(self, task: Task[Any, Any], execution: Execution, retry: Publication | None) -> Disposition:
        if execution.reject is not None:
            if execution.reject.requeue:
                return GiveBack()
            return Quarantine("rejected", {"reason": repr(execution.reject.reason)})
        if retry is not None:
            return RetryAt(retry.message, retry.due if retry.due is not None else clock.now())
        if execution.state == states.FAILURE and task.acks_late and task.acks_on_failure is False:
            return Quarantine("failed", {"error": repr(execution.value)})
        return Release()

    def _document(self, task: Task[Any, Any], request: Request, execution: Execution) -> Document | None:
        state = execution.state
        if self._whole is None or state == states.IGNORED:
            return None
        ignored = request.ignore_result if request.ignore_result is not None else bool(task.ignore_result)
        if ignored and not (state == states.FAILURE and task.store_errors_even_if_ignored):
            return None
        if state == states.REJECTED:
            if execution.reject is None or execution.reject.requeue:
                return None
            state = states.FAILURE
        return documents.encode_document(
            request.id or "",
            state,
            execution.value,
            whole=self._whole,
            serializer=self._serializer,
            traceback=execution.traceback,
            request=request,
            extended=self._extended,
            compression=self._compression,
        )

    def _summary(self, task: Task[Any, Any], execution: Execution) -> str:
        if execution.state == states.SUCCESS:
            return saferepr(execution.value, task.resultrepr_maxsize)
        if execution.retry is not None:
            return str(execution.retry)
        return saferepr(execution.value, task.resultrepr_maxsize) if execution.value is not None else ""

    def _events(self, task: Task[Any, Any], request: Request, execution: Execution, summary: str) -> tuple[Event, ...]:
        if "kern_events" not in self._app.plugins.listening or not task.send_events:
            return ()
        fields: dict[str, Any] = {"uuid": request.id}
        if execution.state == states.SUCCESS:
            return (Event("task-succeeded", {**fields, "result": summary, "runtime": execution.runtime}, clock.now()),)
        if execution.state == states.RETRY:
            return (
                Event("task-retried", {**fields, "exception": summary, "traceback": execution.traceback}, clock.now()),
            )
        if execution.state == states.FAILURE:
            return (
                Event("task-failed", {**fields, "exception": summary, "traceback": execution.traceback}, clock.now()),
            )
        if execution.reject is not None:
            return (Event("task-rejected", {**fields, "requeue": execution.reject.requeue}, clock.now()),)
        return ()

    # -- what could not be run -----------------------------------------------------------------------------------------

    def _unreadable(self, request: Request, error: Exception) -> Outcome:
        reason = "invalid" if isinstance(error, InvalidTaskError | SecurityError) else "undecodable"
        return self._quarantined(request, reason, error)

    def _quarantined(self, request: Request, reason: str, error: Exception) -> Outcome:
        logger.error("message quarantined", task_id=request.id, task=request.task, reason=reason, error=str(error))
        document = None
        if self._whole is not None and request.id and not request.ignore_result:
            document = documents.encode_document(
                request.id,
                states.FAILURE,
                error,
                whole=self._whole,
                serializer=self._serializer,
                request=request,
                extended=self._extended and request.args is not None,
            )
        return Outcome(
            receipt=request.receipt,
            task_id=request.id or "",
            task=request.task or "",
            state=states.FAILURE,
            disposition=Quarantine(reason, {"error": str(error), "error_type": type(error).__name__}),
            document=document,
            pid=os.getpid(),
            summary=str(error),
        )


def _goes_elsewhere(publication: Publication, request: Request) -> bool:
    """Whether it goes to another queue than the one its message came from."""
    delivery = request.delivery_info or {}
    came_from = {(delivery.get("exchange") or "", delivery.get("routing_key")), ("", request.queue)}
    return (publication.exchange, publication.routing_key) not in came_from


def run_eagerly(runner: Runner, task: Task[Any, Any], request: Request, throw: bool) -> Execution:
    """Run with the same semantics here and now; a retry is made at once, without its pause."""
    while True:
        execution = runner.execute(task, request, throw=throw)
        if execution.retry is None:
            return execution
        signature: Mapping[str, Any] = execution.retry.sig or {}
        options: Mapping[str, Any] = signature.get("options") or {}
        request = attrs.evolve(
            request,
            retries=options.get("retries", request.retries + 1),
            args=_sequence(signature.get("args"), request.args),
            kwargs=signature.get("kwargs", request.kwargs),
            children=request.children,
        )


def _sequence(value: Any, default: Sequence[Any] | None) -> Any:
    return default if value is None else value


def _text(error: BaseException) -> str:
    """The traceback as text, from the task's own frame on."""
    frames = error.__traceback__
    # The first frame is the runner's.
    return "".join(traceback_module.format_exception(type(error), error, frames.tb_next if frames else None))


_NOTHING_FOLLOWS = Follows()
_EMPTY_HANDLERS = frozenset({Task.before_start, Task.on_success, Task.on_failure, Task.on_retry, Task.after_return})
