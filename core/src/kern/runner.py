"""Running a task: a sequence of named steps from one value to the next, where the task runs.

::

    decode → find → call → classify → tell → encode, with what follows

The runner is the only place that calls user code. It makes everything that leaves the process: document, follow-ups and
disposition are made here, and whoever settles them moves bytes. Time limits are the pool's: it raises inside the task
what the runner classifies.
"""

from __future__ import annotations

import inspect
import os
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from kern import documents, log, protocol, seams, states
from kern.contracts.continuation import Follows, unsupported
from kern.errors import (
    CapabilityMissing,
    ContentDisallowed,
    Ignore,
    Interrupted,
    InvalidTaskError,
    KernError,
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
from kern.tracebacks import traceback_text

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
    #: The value, or the exception; of a retry, what it was given as its cause.
    value: Any
    traceback: str | None = None
    #: Seconds.
    runtime: float = 0.0
    #: The failure is one the task says may happen (``throws``).
    expected: bool = False
    #: What the task asked for with ``retry()``, and the message it makes; an eager run makes none.
    retry: Retry | None = None
    publication: Publication | None = None
    reject: Reject | None = None
    #: What the task wants published and told with its outcome.
    follow_ups: list[Publication] = attrs.field(factory=list)
    events: list[Event] = attrs.field(factory=list)


class Runner:
    """Runs requests of *app* and says what became of each.

    :param hostname: the worker's node name, as tasks see it.
    """

    def __init__(self, app: Kern, hostname: str) -> None:
        self._app = app
        self.hostname = hostname
        conf = app.conf
        self._accept = app.accept
        self._limit = conf.message_size_limit or protocol.DEFAULT_LIMIT
        self._serializer: str = conf.result_serializer
        self._extended: bool = conf.result_extended
        self._compression: str | None = conf.result_compression
        self._whole = app.whole_documents

    def __call__(self, request: Request) -> Outcome:
        """Run one request; never raises what the task raises."""
        task = self._begin(request)
        if isinstance(task, Outcome):
            return task
        return self._outcome_of(task, request, lambda: self.execute(task, request))

    async def arun(self, request: Request, interruptions: list[BaseException] | None = None) -> Outcome:
        """Run one request on the running loop: a task that is a coroutine is awaited there.

        :param interruptions: what is put in here before this is cancelled is raised inside the task instead.
        """
        task = self._begin(request)
        if isinstance(task, Outcome):
            return task
        try:
            execution = await self.aexecute(task, request, interruptions)
        except BaseException as error:
            execution = self._broken(task, request, error)
        return self._outcome_of(task, request, lambda: execution)

    def _begin(self, request: Request) -> Task[Any, Any] | Outcome:
        """Decode, find; an outcome for what cannot be run."""
        seams.reached("running")
        try:
            self._decode(request)
            task = self._find(request)
        except (MessageError, InvalidTaskError, SecurityError, NotRegistered) as error:
            return self.unreadable(request, error)
        missing = self._missing_continuations(request)
        if missing:
            return self._quarantined(request, "continuation", CapabilityMissing(unsupported(missing)))
        request.hostname = self.hostname
        return task

    def _outcome_of(self, task: Task[Any, Any], request: Request, execute: Callable[[], Execution]) -> Outcome:
        """The outcome, whatever happens on the way: nothing that user code does may take the runner with it."""
        try:
            try:
                return self._outcome(task, request, execute())
            except BaseException as error:
                return self._outcome(task, request, self._broken(task, request, error))
        except BaseException as error:
            logger.exception("outcome could not be written", task_id=request.id, task=request.task, error=repr(error))
            return self._quarantined(request, "internal", InvalidTaskError(f"{type(error).__name__}: {error}"))

    def _broken(self, task: Task[Any, Any], request: Request, error: BaseException) -> Execution:
        """An error outside the task's body."""
        logger.exception("internal error", task_id=request.id, task=request.task, error=saferepr(error))
        self._notify("kern_task_internal_error", task=task, request=request, exception=error)
        return Execution(states.FAILURE, error, traceback_text(error))

    # -- decode, find --------------------------------------------------------------------------------------------------

    def _decode(self, request: Request) -> None:
        if request.args is None:
            protocol.attach(request, protocol.read(protocol.message_of(request), self._accept, self._limit))

    def _find(self, request: Request) -> Task[Any, Any]:
        return self._app.tasks[request.task or ""]

    def _missing_continuations(self, request: Request) -> list[str]:
        if not _continues(request):
            return []
        return [
            kind for kind in CONTINUATIONS if getattr(request, kind) and self._app.plugins.continuation(kind) is None
        ]

    # -- call, classify ------------------------------------------------------------------------------------------------

    def execute(self, task: Task[Any, Any], request: Request, eager: bool = False, throw: bool = False) -> Execution:
        """Call the task and its handlers, and classify how it ended.

        :param eager: in the caller's thread: what is no ``Exception`` is the caller's, as are errors of handlers.
        :param throw: raise the task's exception at once.
        """
        with _Run(self, task, request, eager, throw) as run:
            try:
                value = run.call()
                if inspect.iscoroutine(value):
                    from kern.loops import complete  # here: it imports asyncio, which others can do without

                    value = complete(value)
            except BaseException as raised:
                error = raised
            else:
                return run.returned(value)
            return run.failed(error)

    async def aexecute(
        self, task: Task[Any, Any], request: Request, interruptions: list[BaseException] | None = None
    ) -> Execution:
        """:meth:`execute`, on the running loop."""
        from kern.loops import interruptible

        with _Run(self, task, request, False, False) as run:
            try:
                value = run.call()
                if inspect.iscoroutine(value):
                    value = await interruptible(value, interruptions if interruptions is not None else [])
            except BaseException as raised:
                error = raised
            else:
                return run.returned(value)
            return run.failed(error)

    def _notify(self, hook: str, **arguments: Any) -> None:
        if hook in self._app.plugins.listening:
            self._app.plugins.notify(hook, **arguments)

    # -- encode, what follows ------------------------------------------------------------------------------------------

    def _outcome(self, task: Task[Any, Any], request: Request, execution: Execution) -> Outcome:
        follows = self._follows(request, execution)
        summary = self._summary(task, execution)
        follow_ups = [*follows.publications, *execution.follow_ups]
        retry = execution.publication
        if retry is not None and _goes_elsewhere(retry, request):
            follow_ups.append(retry)
            retry = None
        return Outcome(
            receipt=request.receipt,
            task_id=request.id or "",
            task=task.name,
            state=execution.state,
            disposition=self._disposition(task, execution, retry),
            document=self._document(task, request, execution),
            documents=self.documents_of(follows, execution.value, execution.traceback) if follows.endings else (),
            follow_ups=tuple(follow_ups),
            join_parts=follows.join_parts,
            events=self._events(task, request, execution),
            runtime=execution.runtime,
            pid=os.getpid(),
            summary=summary,
            traceback=None if execution.expected else execution.traceback,
            expected=execution.expected,
        )

    def _follows(self, request: Request, execution: Execution) -> Follows:
        if execution.state not in (states.SUCCESS, states.FAILURE):
            return _NOTHING_FOLLOWS
        return self.follow(request, execution.state, execution.value)

    def follow(self, request: Request, state: str, value: Any) -> Follows:
        """What follows *request* having ended this way, from whatever understands its continuations."""
        if not _continues(request):
            return _NOTHING_FOLLOWS
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
            tuple(ending for part in parts for ending in part.endings),
            tuple(children),
        )

    def documents_of(self, follows: Follows, value: Any, traceback: str | None = None) -> tuple[Document, ...]:
        """What is stored of the calls that end with one that ended with *value* and *traceback*; who has that value,
        too, has its traceback."""
        if self._whole is None:
            return ()
        made: list[Document] = []
        for ending in follows.endings:
            task = self._app.tasks.get(ending.request.task or "")
            if ending.request.id and not is_ignored(ending.request, task, ending.state):
                its_traceback = traceback if ending.value is value else None
                made.append(self._encoded(task, ending.request, ending.state, ending.value, its_traceback, self._whole))
        return tuple(made)

    def _disposition(self, task: Task[Any, Any], execution: Execution, retry: Publication | None) -> Disposition:
        if execution.reject is not None:
            if execution.reject.requeue:
                return GiveBack()
            return Quarantine("rejected", {"reason": saferepr(execution.reject.reason)})
        if retry is not None:
            return RetryAt(retry.message, retry.due if retry.due is not None else clock.now())
        if execution.state == states.PENDING:
            return GiveBack()
        if execution.state == states.FAILURE and task.acks_late and task.acks_on_failure is False:
            return Quarantine("failed", {"error": saferepr(execution.value)})
        return Release()

    def _document(self, task: Task[Any, Any], request: Request, execution: Execution) -> Document | None:
        state = execution.state
        if self._whole is None or state in (states.IGNORED, states.PENDING) or is_ignored(request, task, state):
            return None
        if state == states.REJECTED:
            if execution.reject is None or execution.reject.requeue:
                return None
            state = states.FAILURE
        return self._encoded(task, request, state, execution.value, execution.traceback, self._whole)

    def _encoded(
        self, task: Task[Any, Any] | None, request: Request, state: str, value: Any, traceback: str | None, whole: bool
    ) -> Document:
        if self._extended and task is not None and task.sensitive:
            args, kwargs = task.masked_arguments(request.args or (), request.kwargs or {})
            request = attrs.evolve(request, args=args, kwargs=kwargs)
        return documents.encode_document(
            request.id or "",
            state,
            value,
            whole=whole,
            serializer=self._serializer,
            traceback=traceback,
            request=request,
            extended=self._extended,
            compression=self._compression,
        )

    def _summary(self, task: Task[Any, Any], execution: Execution) -> str:
        if execution.retry is not None:
            return str(execution.retry)
        if execution.state in (states.SUCCESS, states.FAILURE, states.REJECTED):
            return saferepr(execution.value, task.resultrepr_maxsize)
        return ""

    def _events(self, task: Task[Any, Any], request: Request, execution: Execution) -> tuple[Event, ...]:
        if "kern_events" not in self._app.plugins.listening:
            return ()
        events = list(execution.events)
        if task.send_events:
            error = {
                "uuid": request.id,
                "exception": saferepr(execution.value, task.resultrepr_maxsize),
                "traceback": execution.traceback,
            }
            now = clock.now()
            if execution.state == states.SUCCESS:
                result = saferepr(execution.value, task.resultrepr_maxsize)
                fields = {"uuid": request.id, "result": result, "runtime": execution.runtime}
                events.append(Event("task-succeeded", fields, now))
            elif execution.state == states.RETRY:
                events.append(Event("task-retried", error, now))
            elif execution.state == states.FAILURE:
                events.append(Event("task-failed", error, now))
            elif execution.reject is not None:
                if not execution.reject.requeue:
                    events.append(Event("task-failed", error, now))
                fields = {"uuid": request.id, "requeue": execution.reject.requeue}
                events.append(Event("task-rejected", fields, now))
        return tuple(events)

    # -- what could not be run -----------------------------------------------------------------------------------------

    def unreadable(self, request: Request, error: Exception) -> Outcome:
        """The outcome of a request whose message cannot be run here."""
        reason = "undecodable"
        if isinstance(error, ContentDisallowed):
            reason = "content-type"
        elif isinstance(error, NotRegistered):
            reason = "unknown-task"
        elif isinstance(error, InvalidTaskError | SecurityError):
            reason = "invalid"
        return self._quarantined(request, reason, error)

    def _quarantined(self, request: Request, reason: str, error: Exception) -> Outcome:
        logger.error("message quarantined", task_id=request.id, task=request.task, reason=reason, error=str(error))
        document = None
        if self._whole is not None and request.id and not request.ignore_result:
            try:
                document = documents.encode_document(
                    request.id,
                    states.FAILURE,
                    error,
                    whole=self._whole,
                    serializer=self._serializer,
                    request=request,
                    compression=self._compression,
                )
            except KernError as problem:
                logger.error("document could not be encoded", task_id=request.id, error=str(problem))
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


class _Run:
    """One call of a task: a context that tells who listens what happens, and classifies how it ends."""

    __slots__ = ("_args", "_context", "_eager", "_entered", "_kwargs", "_result", "_runner", "_started", "_throw",
                 "request", "running", "task")  # fmt: skip

    def __init__(self, runner: Runner, task: Task[Any, Any], request: Request, eager: bool, throw: bool) -> None:
        self._runner = runner
        self.task = task
        self.request = request
        self._eager = eager
        self._throw = throw
        self._args: Any = request.args or ()
        self._kwargs: dict[str, Any] = request.kwargs or {}
        self._result: Execution | None = None

    def __enter__(self) -> _Run:
        self._context = log.task_context.set({"task_id": self.request.id, "task_name": self.request.task})
        self._entered = entered(self.task, self.request)
        self.running: Running = self._entered.__enter__()
        self._runner._notify("kern_task_prerun", task=self.task, request=self.request)
        self._started = time.perf_counter()
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        result, notify = self._result, self._runner._notify
        state, value = (result.state, result.value) if result is not None else (states.FAILURE, error)
        try:
            notify("kern_task_postrun", task=self.task, request=self.request, state=state, value=value)
            if error is not None and self._eager:
                notify("kern_task_internal_error", task=self.task, request=self.request, exception=error)
            elif result is not None and result.reject is not None and not result.reject.requeue:
                self._tell_failure(result)
        finally:
            self._entered.__exit__()
            log.task_context.reset(self._context)

    def call(self) -> Any:
        """The task's body, by way of a ``__call__`` of its own if it has one."""
        task, args, kwargs = self.task, self._args, self._kwargs
        before = task.before_start
        if getattr(before, "__func__", None) is not Task.before_start:
            before(self.request.id or "", args, kwargs)
        self.running.in_body = True
        if type(task).__call__ is Task.__call__:
            self.running.called = True
            return task.run(*args, **kwargs)
        return task(*args, **kwargs)

    def returned(self, value: Any) -> Execution:
        """The body has returned."""
        return self._ended(Execution(states.SUCCESS, value))

    def failed(self, error: BaseException) -> Execution:
        """The body has raised.

        :raises BaseException: it is the caller's, who runs it eagerly.
        """
        return self._ended(self._classified(error))

    def _ended(self, execution: Execution) -> Execution:
        execution.runtime = time.perf_counter() - self._started
        execution.follow_ups = self.running.follow_ups
        execution.events = self.running.events
        self._result = execution
        self._tell(execution)
        return execution

    # -- classify

    def _classified(self, error: BaseException) -> Execution:
        if isinstance(error, Interrupted) and not self._eager:
            return Execution(states.PENDING, None)
        if isinstance(error, Ignore):
            return Execution(states.IGNORED, None)
        if isinstance(error, Reject):
            return Execution(states.REJECTED, error, traceback_text(error), reject=error)
        task = self.task
        if (
            task.autoretry_for
            and self.running.in_body
            and isinstance(error, task.autoretry_for)
            and not isinstance(error, Retry)
            and not isinstance(error, task.dont_autoretry_for)
        ):
            error = self._autoretried(error)
        if isinstance(error, Retry) and id(error) not in self.running.retries:
            # Raised by hand, not by retry(): it is meant the same.
            error = self._asked_by_hand(error)
        if isinstance(error, Retry):
            _, publication = self.running.retries[id(error)]
            return Execution(states.RETRY, error.exc, traceback_text(error), retry=error, publication=publication)
        if self._throw or (self._eager and not isinstance(error, Exception)):
            raise error
        return Execution(states.FAILURE, error, traceback_text(error), expected=isinstance(error, task.throws))

    def _autoretried(self, error: BaseException) -> BaseException:
        """The retry that *error* leads to, or the error that is left when there is none any more."""
        task = self.task
        options = dict(task.retry_kwargs)
        if task.retry_backoff:
            countdown = int(max(1.0, float(task.retry_backoff))) * 2**self.request.retries
            countdown = min(int(task.retry_backoff_max), countdown)
            if task.retry_jitter:
                countdown = random.randrange(countdown + 1)
            options["countdown"] = countdown
        if self.running.max_retries is not None:
            options.setdefault("max_retries", self.running.max_retries)
        try:
            return task.retry(exc=error, throw=True, **options)
        except Exception as final:
            if final is not error:
                final.__context__ = error
            return final

    def _asked_by_hand(self, asked: Retry) -> BaseException:
        when: dict[str, Any] = {}
        if isinstance(asked.when, int | float):
            when = {"countdown": asked.when}
        elif asked.when is not None:
            when = {"eta": asked.when}
        try:
            return self.task.retry(exc=asked.exc, throw=True, **when)
        except Exception as final:
            return final

    # -- tell

    def _tell(self, execution: Execution) -> None:
        """What a task's class and its listeners want to know; an error of theirs changes nothing."""
        task, request, args, kwargs = self.task, self.request, self._args, self._kwargs
        state, value, task_id, notify = execution.state, execution.value, request.id or "", self._runner._notify
        if state == states.SUCCESS:
            self._handler("on_success", value, task_id, args, kwargs)
            notify("kern_task_success", task=task, request=request, result=value, runtime=execution.runtime)
        elif state == states.FAILURE:
            einfo = ExceptionInfo(value, execution.traceback)
            self._handler("on_failure", value, task_id, args, kwargs, einfo)
            self._tell_failure(execution)
        elif execution.retry is not None:
            einfo = ExceptionInfo(execution.retry, execution.traceback)
            self._handler("on_retry", value, task_id, args, kwargs, einfo)
            notify("kern_task_retry", task=task, request=request, reason=value, traceback=execution.traceback)
        if state in (states.SUCCESS, states.FAILURE):
            self._handler("after_return", state, value, task_id, args, kwargs, None)

    def _tell_failure(self, execution: Execution) -> None:
        self._runner._notify(
            "kern_task_failure",
            task=self.task,
            request=self.request,
            exception=execution.value,
            traceback=execution.traceback,
        )

    def _handler(self, name: str, *arguments: Any) -> None:
        handler = getattr(self.task, name)
        if getattr(handler, "__func__", None) in _EMPTY_HANDLERS:
            return
        try:
            handler(*arguments)
        except Exception as error:
            if self._eager:
                raise
            logger.exception("handler failed", handler=name, error=saferepr(error))
            self._runner._notify("kern_task_internal_error", task=self.task, request=self.request, exception=error)


def is_ignored(request: Request, task: Task[Any, Any] | None, state: str) -> bool:
    """Whether no result of *request* in *state* is to be stored; *task* is the one it calls, where that is known."""
    ignored = request.ignore_result if request.ignore_result is not None else bool(task and task.ignore_result)
    stored_even_so = state == states.FAILURE and task is not None and task.store_errors_even_if_ignored
    return ignored and not stored_even_so


def _continues(request: Request) -> bool:
    """Whether anything may follow; of most requests nothing does, and each is asked twice."""
    return bool(request.callbacks or request.errbacks or request.chain or request.chord)


def _goes_elsewhere(publication: Publication, request: Request) -> bool:
    """Whether it goes to another queue than the one its message came from."""
    delivery = request.delivery_info or {}
    came_from = {(delivery.get("exchange") or "", delivery.get("routing_key")), ("", request.queue)}
    return (publication.exchange, publication.routing_key) not in came_from


_NOTHING_FOLLOWS = Follows()
_EMPTY_HANDLERS = frozenset({Task.on_success, Task.on_failure, Task.on_retry, Task.after_return})
