"""Tasks: registered functions and their options, and the context of the one that runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar, cast

import attrs

from kern.errors import (
    AlreadyRegistered,
    ImproperlyConfigured,
    InvalidTaskError,
    MaxRetriesExceededError,
    NotRegistered,
    OperationalError,
    Retry,
    nearest,
)
from kern.message import Publication
from kern.request import Request
from kern.signature import Signature

if TYPE_CHECKING:
    from kern.app import Kern
    from kern.result import AsyncResult, EagerResult

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

#: Task attributes that take the value of a setting when they are ``None`` at binding.
FROM_SETTINGS: Mapping[str, str] = {
    "serializer": "task_serializer",
    "rate_limit": "task_default_rate_limit",
    "priority": "task_default_priority",
    "track_started": "task_track_started",
    "acks_late": "task_acks_late",
    "acks_on_failure_or_timeout": "task_acks_on_failure_or_timeout",
    "acks_on_failure": "task_acks_on_failure",
    "acks_on_timeout": "task_acks_on_timeout",
    "reject_on_worker_lost": "task_reject_on_worker_lost",
    "ignore_result": "task_ignore_result",
    "store_eager_result": "task_store_eager_result",
    "store_errors_even_if_ignored": "task_store_errors_even_if_ignored",
    "time_limit": "task_time_limit",
    "soft_time_limit": "task_soft_time_limit",
}

#: Options of a call that a task may carry as defaults.
EXECUTION_OPTIONS: tuple[str, ...] = (
    "queue",
    "routing_key",
    "exchange",
    "exchange_type",
    "priority",
    "expires",
    "serializer",
    "delivery_mode",
    "compression",
    "time_limit",
    "soft_time_limit",
    "mandatory",
)


@attrs.define
class Running:
    """What a process knows of the task it is running."""

    task: Task[Any, Any]
    request: Request
    #: Calls the task asked for that are to be published with its outcome.
    follow_ups: list[Publication] = attrs.field(factory=list)


#: The tasks running here, innermost last: the one thing found through a context variable.
_running: ContextVar[tuple[Running, ...]] = ContextVar("kern_running", default=())


def running() -> Running | None:
    """The innermost task running here."""
    stack = _running.get()
    return stack[-1] if stack else None


def running_worker_task() -> Running | None:
    """The innermost task running here that was not called like a function."""
    for entry in reversed(_running.get()):
        if not entry.request.called_directly:
            return entry
    return None


class entered:
    """Context manager: *task* runs *request* here."""

    __slots__ = ("_token", "entry")

    def __init__(self, task: Task[Any, Any], request: Request) -> None:
        self.entry = Running(task, request)

    def __enter__(self) -> Running:
        self._token = _running.set((*_running.get(), self.entry))
        return self.entry

    def __exit__(self, *_exc: object) -> None:
        _running.reset(self._token)


class Task(Generic[P, R]):
    """A function that can be called from elsewhere; the base class of all tasks.

    Made by :meth:`kern.Kern.task`, or by subclassing and :meth:`kern.Kern.register_task`. One instance exists for each
    application. The options below may be given to the decorator or set in the class.
    """

    #: Registered name; generated from module and function when ``None``.
    name: str = cast(str, None)
    #: Check arguments against the function's signature at the call site.
    typing: bool | None = None
    #: How often a task may be retried; ``None``: without end.
    max_retries: int | None = 3
    #: Seconds before a retry that says nothing else.
    default_retry_delay: float = 180
    #: ``"10/s"``, ``"10/m"``, ``"10/h"`` or a number of runs a second, for each worker.
    rate_limit: str | float | None = None
    ignore_result: bool | None = None
    store_eager_result: bool | None = None
    store_errors_even_if_ignored: bool | None = None
    #: Record the calls a task makes as its children.
    trail: bool = True
    #: Emit events for this task.
    send_events: bool = True
    #: Serializer of the messages.
    serializer: str | None = None
    #: Seconds after which the task is killed.
    time_limit: float | None = None
    #: Seconds after which :class:`~kern.errors.SoftTimeLimitExceeded` is raised inside the task.
    soft_time_limit: float | None = None
    #: Store ``STARTED`` when the task starts.
    track_started: bool | None = None
    #: Keep the lease until the task has ended (at least once), or release it before it starts (at most once).
    acks_late: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    #: Run again when the process that ran the task died.
    reject_on_worker_lost: bool | None = None
    #: Exceptions that are expected: logged without a traceback.
    throws: tuple[type[BaseException], ...] = ()
    #: Seconds, datetime or ISO text after which a call is not started any more.
    expires: float | datetime | str | None = None
    priority: int | None = None
    #: Length of the result's representation in logs and events.
    resultrepr_maxsize: int = 1024
    #: Names of arguments shown as ``'***'`` wherever a call is represented.
    sensitive: tuple[str, ...] = ()
    #: Exceptions after which the task is retried by itself, and how.
    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    retry_kwargs: Mapping[str, Any] = {}
    retry_backoff: bool | float = False
    retry_backoff_max: int = 600
    retry_jitter: bool = True
    # where calls go
    queue: str | None = None
    exchange: str | None = None
    exchange_type: str | None = None
    routing_key: str | None = None
    delivery_mode: int | str | None = None
    compression: str | None = None
    mandatory: bool | None = None

    MaxRetriesExceededError: ClassVar[type[Exception]] = MaxRetriesExceededError
    OperationalError: ClassVar[type[Exception]] = OperationalError

    #: The application the task is bound to.
    app: Kern = cast("Kern", None)
    #: A retry's own limit, once :meth:`retry` was given one.
    override_max_retries: int | None

    __wrapped__: Callable[..., Any]

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The work itself; what a subclass defines."""
        raise TypeError(f"task {self.name!r} has no run method")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it here and now, like a function."""
        with entered(self, Request(args=args, kwargs=dict(kwargs), called_directly=True)):
            return self.run(*args, **kwargs)

    # -- binding -------------------------------------------------------------------------------------------------------

    def bind(self, app: Kern) -> None:
        """Make it a task of *app*: options that are ``None`` take the settings' values, once."""
        self.app = app
        conf = app.conf
        if self.typing is None:
            self.typing = app.strict_typing
        explicit = {name: getattr(self, name) for name in ("acks_on_failure", "acks_on_timeout")}
        for attribute, key in FROM_SETTINGS.items():
            if getattr(self, attribute) is None:
                setattr(self, attribute, conf[key])
        for name, given in explicit.items():
            if given is None and getattr(self, name) is None:
                umbrella = self.acks_on_failure_or_timeout
                setattr(self, name, True if umbrella is None else umbrella)
        app.annotate(self)
        if self.soft_time_limit and self.time_limit and self.soft_time_limit > self.time_limit:
            raise ImproperlyConfigured(f"task {self.name!r}: soft_time_limit must be less than or equal to time_limit")
        self.on_bound(app)

    @classmethod
    def on_bound(cls, app: Kern) -> None:
        """Called once the task is bound to *app*; for subclasses."""

    def annotate_with(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes; ``"@name"`` wraps the attribute *name* with the value, a decorator."""
        for name, value in attributes.items():
            if name.startswith("@"):
                wrapped = getattr(self, name[1:])
                wrapper = value(wrapped)
                wrapper.__wrapped__ = wrapped
                setattr(self, name[1:], wrapper)
            else:
                setattr(self, name, value)

    # -- the call in progress ------------------------------------------------------------------------------------------

    @property
    def request(self) -> Request:
        """What this task is running for; outside a run an empty request that stays the same."""
        for entry in reversed(_running.get()):
            if entry.task is self:
                return entry.request
        return self._idle_request

    @cached_property
    def _idle_request(self) -> Request:
        return Request()

    @cached_property
    def parameters(self) -> inspect.Signature:
        """The signature callers use; a bound task's own ``self`` is not part of it."""
        return inspect.signature(self.run)

    @cached_property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the positional parameters, in order."""
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return tuple(p.name for p in self.parameters.parameters.values() if p.kind in kinds)

    @cached_property
    def _check_arguments(self) -> Callable[..., None]:
        """A function of the same parameters that does nothing: calling it is the check, with Python's own message."""
        return _same_parameters(self.name.rpartition(".")[2], self.parameters)

    def check_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """
        :raises TypeError: the task cannot be called with these arguments.
        """
        self._check_arguments(*args, **kwargs)

    # -- calling -------------------------------------------------------------------------------------------------------

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Have a worker call it with these arguments.

        :raises TypeError: the arguments do not fit.
        :raises kern.errors.OperationalError: the broker did not confirm; see :meth:`kern.Kern.send_task`.
        """
        return self.apply_async(args, kwargs)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """:meth:`delay` for asyncio callers."""
        return await self.aapply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Have a worker call it.

        :param options: see :data:`kern.publish.CALL_OPTIONS`; an unknown one is a ``TypeError``.
        """
        return self.app.call(self, args, kwargs, task_id=task_id, **options)

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """:meth:`apply_async` for asyncio callers."""
        return await self.app.acall(self, args, kwargs, task_id=task_id, **options)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        throw: bool | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Run it here and now, as a worker would, and return its result.

        :param throw: raise the task's exception at once; ``None``: as ``task_eager_propagates`` says.
        """
        return self.app.run_eagerly(self, args, kwargs, task_id=task_id, throw=throw, **options)

    def AsyncResult(self, task_id: str, **options: Any) -> AsyncResult[R]:
        """The result of a call of this task."""
        return self.app.AsyncResult(task_id, task_name=self.name, **options)

    def execution_options(self) -> dict[str, Any]:
        """Options of a call that this task sets."""
        return {name: value for name in EXECUTION_OPTIONS if (value := getattr(self, name)) is not None}

    # -- the call as data ----------------------------------------------------------------------------------------------

    def signature(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        immutable: bool = False,
        **more: Any,
    ) -> Signature[R]:
        """The call as data, to be completed, stored, or made later."""
        return Signature(
            self.name, args=args, kwargs=kwargs, options={**(options or {}), **more}, immutable=immutable, app=self.app
        )

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """The call as data; arguments may be added later, in front."""
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """The call as data, complete: what a workflow would add is ignored."""
        return self.signature(args, kwargs, immutable=True)

    # -- from inside a run ---------------------------------------------------------------------------------------------

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Try again later: ``raise self.retry(exc=exc, countdown=10)``.

        The retry becomes part of this run's outcome: it is written in one step with the release of the message.

        :param exc: why; raised when the retries are used up.
        :param countdown: seconds from now; without it and *eta*, :attr:`default_retry_delay`.
        :param max_retries: overrides the task's own limit.
        :param throw: ``False`` returns the ``Retry`` instead of raising it, and the run goes on.
        :raises MaxRetriesExceededError: the retries are used up and no *exc* was given.
        """
        entry = running()
        request = self.request
        retries = request.retries + 1
        if max_retries is not None:
            self.override_max_retries = max_retries
        else:
            max_retries = self.max_retries
        if request.called_directly or entry is None:
            raise_current = exc
            if raise_current is not None:
                raise raise_current
            import sys

            current = sys.exc_info()[1]
            if current is not None:
                raise current
            raise Retry("Task can be retried", None)
        if eta is None and countdown is None:
            countdown = self.default_retry_delay
        if max_retries is not None and retries > max_retries:
            if exc is not None:
                raise exc
            raise MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{request.argsrepr} kwargs:{request.kwargsrepr}",
                task_args=request.args or (),
                task_kwargs=request.kwargs,
            )
        signature = self.signature_from_request(
            request, args, kwargs, countdown=countdown, eta=eta, retries=retries, **options
        )
        retry = Retry(exc=exc, when=eta or countdown, is_eager=request.is_eager, sig=signature)
        if throw:
            raise retry
        if not request.is_eager:
            entry.follow_ups.append(self.app.retry_publication(request, retry))
        return retry

    def signature_from_request(
        self,
        request: Request | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        **extra: Any,
    ) -> Signature[R]:
        """This call once more, as data."""
        request = self.request if request is None else request
        if request.called_directly and not request.is_eager:
            args = request.args if args is None else args
        options = {**request.as_execution_options(), **extra}
        delivery = request.delivery_info or {}
        if delivery.get("priority") is not None:
            options.setdefault("priority", delivery["priority"])
        if queue:
            options["queue"] = queue
        elif not delivery.get("is_eager"):
            if delivery.get("exchange"):
                options.update({k: v for k, v in delivery.items() if k in ("exchange", "routing_key")})
            elif delivery.get("routing_key"):
                options.setdefault("queue", delivery["routing_key"])
        return self.signature(
            request.args if args is None else args, request.kwargs if kwargs is None else kwargs, options
        )

    subtask_from_request = signature_from_request

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **fields: Any
    ) -> None:
        """Store a state of your own, with data: ``self.update_state(state="PROGRESS", meta={"done": 3})``.

        Works whatever ``ignore_result`` says.
        """
        request = self.request
        self.app.backend.store_result(task_id or request.id, meta, state, request=request, **fields)

    def add_trail(self, result: Any) -> Any:
        """Record a result as a child of this run."""
        if self.trail:
            self.request.children.append(result)
        return result

    # -- for subclasses to override ------------------------------------------------------------------------------------

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called before :meth:`run`; an exception here is a failure of the task."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called when the task has returned."""

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when the task has failed for good; ``einfo.traceback`` is text."""

    def on_retry(self, exc: BaseException | None, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when the task will be tried again; *exc* is what was given to :meth:`retry`."""

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called after success and failure, with the state."""

    def shadow_name(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
        """Another name for this call in logs and monitors."""
        return None

    def __repr__(self) -> str:
        where = f" of {self.app.main or '__main__'}" if self.app is not None else ""
        return f"<@task: {self.name}{where}>"

    def __reduce__(self) -> Any:
        return _find, (self.app.import_path, self.name)


def _find(app_path: str, name: str) -> Task[Any, Any]:
    """A pickled task, found again by the import path of its application."""
    from importlib import import_module

    module, _, attribute = app_path.partition(":")
    return cast("Task[Any, Any]", getattr(import_module(module), attribute).tasks[name])


#: Options of ``@app.task`` that every task has.
OPTIONS: frozenset[str] = frozenset(
    name for name in Task.__annotations__ if not name.startswith("_") and name not in {"app", "override_max_retries"}
) - {"MaxRetriesExceededError", "OperationalError"}


def check_option(name: str, base: type, more: Iterable[str]) -> None:
    """
    :raises TypeError: no task, base class or plugin knows the option *name*.
    """
    if name in OPTIONS or name in more or hasattr(base, name):
        return
    close = nearest(name, [*OPTIONS, *more])
    raise TypeError(f"unknown task option {name!r}" + (f"; did you mean {close!r}?" if close else ""))


def _same_parameters(name: str, signature: inspect.Signature) -> Callable[..., None]:
    """A function named *name* with these parameters and an empty body.

    Written as source so that a wrong call gives Python's own words, and a right one costs what a call costs.
    """
    parts: list[str] = []
    positional_only = star = False
    for parameter in signature.parameters.values():
        default = "" if parameter.default is parameter.empty else "=None"
        if positional_only and parameter.kind is not parameter.POSITIONAL_ONLY:
            parts.append("/")
            positional_only = False
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional_only = True
            parts.append(parameter.name + default)
        elif parameter.kind is parameter.VAR_POSITIONAL:
            star = True
            parts.append("*" + parameter.name)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            if not star:
                star = True
                parts.append("*")
            parts.append(parameter.name + default)
        elif parameter.kind is parameter.VAR_KEYWORD:
            parts.append("**" + parameter.name)
        else:
            parts.append(parameter.name + default)
    if positional_only:
        parts.append("/")
    safe = name if name.isidentifier() else "task"
    namespace: dict[str, Any] = {}
    exec(f"def {safe}({', '.join(parts)}): pass", namespace)
    return cast("Callable[..., None]", namespace[safe])


class TaskRegistry(dict[str, Task[Any, Any]]):
    """An application's tasks by name."""

    def __missing__(self, name: str) -> Task[Any, Any]:
        raise NotRegistered(name)

    def register(self, task: Task[Any, Any]) -> None:
        """
        :raises InvalidTaskError: the task has no name.
        :raises AlreadyRegistered: another task has that name.
        """
        if not task.name:
            raise InvalidTaskError(f"task class {type(task).__name__!r} must have a name")
        if task.name in self and self[task.name] is not task:
            raise AlreadyRegistered(f"there is a task {task.name!r} already")
        self[task.name] = task

    def unregister(self, name: str | Task[Any, Any]) -> None:
        """
        :raises NotRegistered: there is no such task.
        """
        key = name if isinstance(name, str) else name.name
        if key not in self:
            raise NotRegistered(key)
        del self[key]

    def regular(self) -> Iterator[str]:
        """Names of the application's own tasks, without the built-in ones."""
        return (name for name in self if not name.startswith("celery."))
