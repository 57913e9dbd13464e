"""Tasks: registered functions and their options, and the context of the one that runs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, ParamSpec, TypeVar, cast

import attrs

from kern.arguments import Parameters
from kern.call_options import check_options
from kern.errors import (
    AlreadyRegistered,
    InvalidTaskError,
    MaxRetriesExceededError,
    NotRegistered,
    OperationalError,
    Retry,
    nearest,
)
from kern.message import Publication
from kern.outcome import Event
from kern.request import Request
from kern.saferepr import saferepr
from kern.signature import Signature
from kern.task_options import EXECUTION_OPTIONS, FROM_SETTINGS, check_values
from kern.timeutil import clock

if TYPE_CHECKING:
    from kern.app import Kern
    from kern.result import AsyncResult, EagerResult
    from kern.result_client import ResultClient

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


# -- what runs here ----------------------------------------------------------------------------------------------------


@attrs.define
class Running:
    """What a process knows of the task it is running."""

    task: Task[Any, Any]
    request: Request
    #: Calls the task asked for that are to be published with its outcome.
    follow_ups: list[Publication] = attrs.field(factory=list)
    #: Events the task wants told with its outcome.
    events: list[Event] = attrs.field(factory=list)
    #: Retries made here, by identity, each with its message; an eager run makes none.
    retries: dict[int, tuple[Retry, Publication | None]] = attrs.field(factory=dict)
    #: The limit of retries that this run was told, in place of the task's.
    max_retries: int | None = None
    #: The handlers that come before the body are through.
    in_body: bool = False
    #: The body has been called: the next call of the task is one like any function's.
    called: bool = False


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

    #: The application the task belongs to.
    app: Kern = cast("Kern", None)

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The work itself; what a subclass defines."""
        raise TypeError(f"task {self.name!r} has no run method")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it here and now, like a function; one whose body is a coroutine gives a coroutine."""
        if self._is_its_body():
            return self.run(*args, **kwargs)
        if self.is_async:
            return cast(R, self._call_async(*args, **kwargs))
        with entered(self, Request(args=args, kwargs=dict(kwargs), called_directly=True)):
            return self.run(*args, **kwargs)

    async def _call_async(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        with entered(self, Request(args=args, kwargs=dict(kwargs), called_directly=True)):
            return await cast("Coroutine[Any, Any, Any]", self.run(*args, **kwargs))

    def _is_its_body(self) -> bool:
        """Whether this call comes from a subclass's ``__call__`` that the runner has called: the run is that one."""
        entry = running()
        if entry is None or entry.task is not self or entry.called or entry.request.called_directly:
            return False
        entry.called = True
        return True

    # -- binding -------------------------------------------------------------------------------------------------------

    def bind(self, app: Kern) -> None:
        """Make it a task of *app*: options that are ``None`` take the settings' values, once.

        :raises TypeError: an option has a value it cannot have.
        """
        self.app = app
        conf = app.conf
        if self.typing is None:
            self.typing = app.strict_typing
        for attribute, key in FROM_SETTINGS.items():
            if getattr(self, attribute) is None:
                setattr(self, attribute, conf[key])
        for name in ("acks_on_failure", "acks_on_timeout"):
            if getattr(self, name) is None:
                umbrella = self.acks_on_failure_or_timeout
                setattr(self, name, True if umbrella is None else umbrella)
        app.annotate(self)
        given = {name: getattr(self, name) for name in OPTIONS}
        for name, value in check_values(self.name, given).items():
            if value is not given[name]:
                setattr(self, name, value)
        self._check_sensitive()
        self.on_bound(app)

    def _check_sensitive(self) -> None:
        """A misspelt name would show what is to be hidden."""
        parameters = self.arguments.signature.parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        for name in self.sensitive:
            if name not in parameters:
                close = nearest(name, parameters)
                raise TypeError(
                    f"task {self.name!r}: option 'sensitive': there is no parameter {name!r}"
                    + (f"; did you mean {close!r}?" if close else "")
                )

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
        entry = self._entry()
        return entry.request if entry is not None else self._idle_request

    def _entry(self) -> Running | None:
        """The innermost run of this task here."""
        for entry in reversed(_running.get()):
            if entry.task is self:
                return entry
        return None

    @cached_property
    def _idle_request(self) -> Request:
        return Request()

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Run as the current request changed by what is given, until :meth:`pop_request`; for tests of tasks."""
        request = attrs.evolve(self.request, children=[])
        request.update(*args, **kwargs)
        _running.set((*_running.get(), Running(self, request)))

    def pop_request(self) -> None:
        """Undo the last :meth:`push_request`.

        :raises RuntimeError: there is none.
        """
        stack = _running.get()
        if not stack or stack[-1].task is not self:
            raise RuntimeError(f"no request of the task {self.name!r} was pushed here last")
        _running.set(stack[:-1])

    # -- its arguments -------------------------------------------------------------------------------------------------

    @cached_property
    def arguments(self) -> Parameters:
        """The parameters callers use; a bound task's own ``self`` is not one of them."""
        return Parameters.of(self.run, self.name)

    @property
    def parameters(self) -> inspect.Signature:
        """The signature callers use."""
        return self.arguments.signature

    @cached_property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the positional parameters in order, then ``*rest`` and ``**others`` where there are."""
        return self.arguments.names

    @cached_property
    def check_arguments(self) -> Callable[..., None]:
        """Does nothing when called with arguments that fit.

        :raises TypeError: the task cannot be called with these arguments, in Python's own words.
        """
        return self.arguments.check

    def masked_arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments fit to be shown: ``'***'`` stands for the sensitive ones."""
        return self.arguments.masked(args, kwargs, self.sensitive)

    @cached_property
    def is_async(self) -> bool:
        """Whether its body is a coroutine."""
        return inspect.iscoroutinefunction(inspect.unwrap(self.run))

    @property
    def backend(self) -> ResultClient:
        """The client of the application's result store."""
        return self.app.backend

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

        :param options: see :data:`kern.call_options.CALL_OPTIONS`; an unknown one is a ``TypeError``.
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
        eta: datetime | str | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Try again later: ``raise self.retry(exc=exc, countdown=10)``.

        The retry becomes part of this run's outcome: it is written in one step with the release of the message.

        :param args: in place of the call's; what was given for the same parameters by keyword gives way.
        :param kwargs: in place of the call's; what was given for the same parameters by position gives way.
        :param exc: why; raised when the retries are used up.
        :param countdown: seconds from now; without it and *eta*, :attr:`default_retry_delay`.
        :param max_retries: overrides the task's own limit.
        :param throw: ``False`` returns the ``Retry`` instead of raising it: the retry is made, and the run goes on.
        :param options: of the call, such as ``queue``; see :data:`kern.call_options.CALL_OPTIONS`.
        :raises MaxRetriesExceededError: the retries are used up and no *exc* was given.
        :raises kern.errors.EncodeError: an argument cannot be serialised; names it.
        """
        entry = self._entry()
        if entry is None or entry.request.called_directly:
            self._raise_instead_of_retrying(exc)
        request = entry.request
        if options:
            check_options(options)
        retries = request.retries + 1
        if max_retries is None:
            max_retries = self.max_retries
        else:
            entry.max_retries = max_retries
        if eta is None and countdown is None:
            countdown = self.default_retry_delay
        if max_retries is not None and retries > max_retries:
            self._raise_for_the_last_time(request, exc)
        args, kwargs = self.arguments.reconciled(request.args or (), request.kwargs or {}, args, kwargs)
        call = self.signature_from_request(
            request, args, kwargs, countdown=countdown, eta=eta, retries=retries, **options
        )
        retry = Retry(exc=exc, when=cast(Any, eta or countdown), is_eager=request.is_eager, sig=call)
        publication = None if request.is_eager else self.app.retry_publication(request, call)
        entry.retries[id(retry)] = (retry, publication)
        if throw:
            raise retry
        if publication is not None:
            entry.follow_ups.append(publication)
        return retry

    def _raise_instead_of_retrying(self, exc: BaseException | None) -> NoReturn:
        """Called like a function: there is nobody who could try again."""
        current = sys.exc_info()[1]
        if exc is not None:
            _raise(exc, current)
        raise current or Retry("Task can be retried", None)

    def _raise_for_the_last_time(self, request: Request, exc: BaseException | None) -> NoReturn:
        if exc is not None:
            _raise(exc, sys.exc_info()[1])
        args, kwargs = self.masked_arguments(request.args or (), request.kwargs or {})
        raise MaxRetriesExceededError(
            f"Can't retry {self.name}[{request.id}] args:{saferepr(args)} kwargs:{saferepr(kwargs)}",
            task_args=request.args or (),
            task_kwargs=request.kwargs,
        )

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
        options = {**request.as_execution_options(), **extra}
        delivery = request.delivery_info or {}
        if delivery.get("priority") is not None:
            options.setdefault("priority", delivery["priority"])
        if queue:
            options["queue"] = queue
        elif not delivery.get("is_eager") and not {"exchange", "routing_key"} & extra.keys():
            if delivery.get("exchange"):
                options.update({name: delivery.get(name) for name in ("exchange", "routing_key")})
            elif delivery.get("routing_key"):
                options.setdefault("queue", delivery["routing_key"])
        return self.signature(
            request.args if args is None else args, request.kwargs if kwargs is None else kwargs, options
        )

    subtask_from_request = signature_from_request

    def update_state(self, task_id: str | None = None, state: str = "", meta: Any = None, **fields: Any) -> None:
        """Store a state of your own, with data: ``self.update_state(state="PROGRESS", meta={"done": 3})``.

        Works whatever ``ignore_result`` says; does nothing where no result store is configured.

        :param task_id: of another call than this one.
        :raises ValueError: there is no state, or nothing runs whose state it could be.
        """
        request = self.request
        own = task_id is None or task_id == request.id
        task_id = task_id or request.id
        if not state or not task_id:
            raise ValueError(f"task {self.name!r}: update_state needs a state, and a task_id outside a run")
        if self.backend.enabled:
            self.backend.store_result(task_id, meta, state, request=request if own else None, **fields)

    def send_event(self, type_: str, **fields: Any) -> None:
        """Tell monitors something of this run; told with its outcome.

        :raises RuntimeError: the task is not running.
        """
        entry = self._entry()
        if entry is None:
            raise RuntimeError(f"task {self.name!r} is not running here, there is no run to tell of")
        entry.events.append(Event(type_, {"uuid": entry.request.id, **fields}, clock.now()))

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


def _raise(exc: BaseException, current: BaseException | None) -> NoReturn:
    """Raise *exc*, because of what is being handled."""
    if current is None or current is exc:
        raise exc
    raise exc from current


def _find(app_path: str, name: str) -> Task[Any, Any]:
    """A pickled task, found again by the import path of its application."""
    from importlib import import_module

    module, _, attribute = app_path.partition(":")
    return cast("Task[Any, Any]", getattr(import_module(module), attribute).tasks[name])


class AsyncTask(Task[P, R]):
    """A task whose body is a coroutine: calling it like a function gives one, of the value its result will have."""

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
            """A coroutine that runs the body here and now."""
            ...


#: Options of ``@app.task`` that every task has.
OPTIONS: frozenset[str] = frozenset(
    name
    for name in Task.__annotations__
    if not name.startswith("__") and name not in {"app", "MaxRetriesExceededError", "OperationalError"}
)


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
