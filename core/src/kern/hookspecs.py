"""Every hook of kern, on one page.

A plugin is a module whose functions are decorated with :data:`hookimpl`; an application registers any object with such
methods by ``app.register(obj)``. Hooks are called with keywords, and an implementation takes only those it wants.

*Driver hooks* hand over what a plugin can drive; one of many is chosen by scheme or name and then called directly.
*Listener hooks* are called for all; those around tasks are called with a batch or cost nothing when nobody listens. An
exception in a listener is logged with the plugin's name and stops nothing.

A plugin module says which version of these contracts it was built for: ``KERN_API = 1``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:  # what a hook speaks of is loaded by whoever answers it
    import click

    from kern.app import Kern
    from kern.contracts.continuation import Continuation
    from kern.contracts.monitor import MonitorFactory
    from kern.contracts.pool import PoolFactory
    from kern.contracts.result_store import ResultStoreFactory
    from kern.contracts.scheduler import SchedulerFactory
    from kern.contracts.service import Service
    from kern.contracts.transport import TransportFactory
    from kern.message import Message, Publication
    from kern.outcome import Event, Outcome
    from kern.request import Request
    from kern.settings import Section
    from kern.task import Task

#: Version of the contracts and hooks; raised when one breaks.
API = 1

_spec = pluggy.HookspecMarker("kern")
#: Marks an implementation of a hook.
hookimpl = pluggy.HookimplMarker("kern")


class Hooks:
    """The specifications; ``cast`` a pluggy relay to this and the type checker knows every hook."""

    # -- drivers -------------------------------------------------------------------------------------------------------

    @_spec
    def kern_transports(self) -> Mapping[str, TransportFactory]:  # type: ignore[empty-body]
        """Transports by URL scheme. Called once, when the first URL is looked up; must import nothing heavy."""

    @_spec
    def kern_result_stores(self) -> Mapping[str, ResultStoreFactory]:  # type: ignore[empty-body]
        """Result stores by URL scheme or alias."""

    @_spec
    def kern_pools(self) -> Mapping[str, PoolFactory]:  # type: ignore[empty-body]
        """Pools by the name given to ``-P``."""

    @_spec
    def kern_schedulers(self) -> Mapping[str, SchedulerFactory]:  # type: ignore[empty-body]
        """Schedulers by the name given to ``--scheduler``."""

    @_spec
    def kern_monitors(self) -> Mapping[str, MonitorFactory]:  # type: ignore[empty-body]
        """Monitors by name."""

    @_spec
    def kern_continuations(self) -> Sequence[Continuation]:  # type: ignore[empty-body]
        """What understands links, chains and chords; one for each kind."""

    @_spec
    def kern_example_urls(self) -> Mapping[str, str]:  # type: ignore[empty-body]
        """URLs by scheme, for those the plugin drives of which ``scheme://`` alone is none.

        A driver is made of each, and asked what it can do; nothing is connected to. For ``kern plugins``.
        """

    @_spec(firstresult=True)
    def kern_default_broker(self) -> str | None:
        """The URL to use when no broker is configured."""

    @_spec(firstresult=True)
    def kern_default_backend(self, broker_url: str) -> str | None:
        """The URL to keep results at when the broker is the embedded default and no result store is configured."""

    # -- what plugins add ----------------------------------------------------------------------------------------------

    @_spec
    def kern_settings(self) -> Sequence[type[Section]]:  # type: ignore[empty-body]
        """Sections of settings that the plugin reads. Called when ``app.conf`` is first used."""

    @_spec
    def kern_commands(self) -> Sequence[click.Command]:  # type: ignore[empty-body]
        """Commands for the ``kern`` command line. Import click inside."""

    @_spec
    def kern_options(self, command: str) -> Sequence[click.Option]:  # type: ignore[empty-body]
        """Options to add to the existing command *command* (``worker``, ``call``, …).

        What the user gave for them comes back in :meth:`kern_command_options`.
        """

    @_spec
    def kern_command_options(self, app: Kern, command: str, options: Mapping[str, Any]) -> None:
        """Called before a command runs, with the values of all options that plugins added to it."""

    @_spec
    def kern_services(self, app: Kern) -> Sequence[Service]:  # type: ignore[empty-body]
        """Services to live in a worker of *app*; called when the worker is assembled."""

    @_spec
    def kern_task_options(self) -> Sequence[str]:  # type: ignore[empty-body]
        """Names of options of ``@app.task`` that the plugin makes act."""

    @_spec
    def kern_task_packages(self, app: Kern) -> Sequence[str]:  # type: ignore[empty-body]
        """Packages to look for tasks in, where ``app.autodiscover_tasks()`` names none."""

    @_spec
    def kern_task_registered(self, app: Kern, task: Task[Any, Any]) -> None:
        """A task has been registered; a plugin may wrap its body by ``task.annotate_with({"@run": decorator})``."""

    @_spec
    def kern_prepare_arguments(
        self, app: Kern, task: Task[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any], serializer: str
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Called at the call site before arguments are encoded; an answer replaces them, for the next listener too. An
        exception is the caller's."""

    @_spec
    def kern_encode_message(self, app: Kern, message: Message) -> Message | None:
        """Called with every message before it is published (signing, encryption); an answer replaces it, for the next
        listener too. An exception is the caller's: nothing is published."""

    @_spec
    def kern_decode_message(self, app: Kern, message: Message) -> Message | None:
        """Called with every message before it is admitted, in the reverse order; an answer replaces it.

        An exception, such as :class:`~kern.errors.SecurityError`, sends it to quarantine.
        """

    @_spec(firstresult=True)
    def kern_control(self, app: Kern) -> Any:
        """Remote control: an object with ``revoke``, ``revoke_by_stamped_headers`` and the rest of its interface."""

    # -- questions asked of listeners ----------------------------------------------------------------------------------

    @_spec
    def kern_revoked(self, app: Kern, requests: Sequence[Request]) -> Mapping[str, str]:  # type: ignore[empty-body]
        """Which of these requests are revoked: receipt → reason (``revoked``, ``terminated``). Must not block."""

    @_spec(firstresult=True)
    def kern_rate_slot(self, app: Kern, task: str, rate: float, now: float) -> float | None:
        """Reserve the next slot of a task limited to *rate* runs a second: the time (seconds since the epoch) at which
        it may run. Without an answer the worker limits by itself. Must not block."""

    # -- the application -----------------------------------------------------------------------------------------------

    @_spec
    def kern_configured(self, app: Kern) -> None:
        """The configuration has been read. Celery's ``on_after_configure``."""

    @_spec
    def kern_finalized(self, app: Kern) -> None:
        """All tasks are registered. Celery's ``on_after_finalize``."""

    @_spec
    def kern_import_modules(self, app: Kern) -> None:
        """A worker is about to import the application's modules. Celery's ``import_modules``."""

    # -- publishing ----------------------------------------------------------------------------------------------------

    @_spec
    def kern_before_publish(self, app: Kern, batch: list[Publication]) -> None:
        """A batch is about to be sent; replacing an item of the list changes what is sent. Celery's
        ``before_task_publish``.

        Also called, where the task runs, for the retry it asks for and the calls that follow it: they are sent with its
        outcome."""

    @_spec
    def kern_after_publish(self, app: Kern, batch: Sequence[Publication]) -> None:
        """The broker has confirmed a batch that this process has sent. Celery's ``after_task_publish``.

        What a worker sends with an outcome is told by :meth:`kern_settled`."""

    # -- around a task, in the process that runs it --------------------------------------------------------------------

    @_spec
    def kern_task_prerun(self, task: Task[Any, Any], request: Request) -> None:
        """A task is about to run. Celery's ``task_prerun``."""

    @_spec
    def kern_task_postrun(self, task: Task[Any, Any], request: Request, state: str, value: Any) -> None:
        """A task has ended, one way or the other. Celery's ``task_postrun``."""

    @_spec
    def kern_task_success(self, task: Task[Any, Any], request: Request, result: Any, runtime: float) -> None:
        """A task has returned. *runtime* in seconds. Celery's ``task_success``."""

    @_spec
    def kern_task_failure(
        self, task: Task[Any, Any], request: Request, exception: BaseException, traceback: str | None
    ) -> None:
        """A task has failed for good. Celery's ``task_failure``."""

    @_spec
    def kern_task_retry(
        self, task: Task[Any, Any], request: Request, reason: BaseException | None, traceback: str | None
    ) -> None:
        """A task will be tried again. Celery's ``task_retry``."""

    @_spec
    def kern_task_internal_error(self, task: Task[Any, Any] | None, request: Request, exception: BaseException) -> None:
        """Code of a task's handlers, outside its body, raised. Celery's ``task_internal_error``."""

    # -- the worker's main process -------------------------------------------------------------------------------------

    @_spec
    def kern_received(self, app: Kern, requests: Sequence[Request]) -> None:
        """Requests have been admitted. Celery's ``task_received``."""

    @_spec
    def kern_settled(self, app: Kern, outcomes: Sequence[Outcome]) -> None:
        """Outcomes have been written. Celery's ``task_revoked``, ``task_rejected`` and ``task_unknown`` are among
        them, told apart by state and disposition."""

    @_spec
    def kern_events(self, app: Kern, events: Sequence[Event]) -> None:
        """Events for monitors. Only made when somebody listens."""

    @_spec
    def kern_worker_init(self, worker: Any) -> None:
        """A worker has been assembled and not started. Celery's ``celeryd_init``, ``worker_init``."""

    @_spec
    def kern_worker_ready(self, worker: Any) -> None:
        """A worker is about to claim its first message. Celery's ``worker_ready``."""

    @_spec
    def kern_worker_stopping(self, worker: Any, signal: str | None) -> None:
        """A worker was told to stop. Celery's ``worker_shutting_down``."""

    @_spec
    def kern_worker_stopped(self, worker: Any) -> None:
        """A worker has stopped. Celery's ``worker_shutdown``."""

    @_spec
    def kern_process_init(self, app: Kern) -> None:
        """A process that will run tasks has started. Celery's ``worker_process_init``."""

    @_spec
    def kern_process_shutdown(self, app: Kern, pid: int, exitcode: int) -> None:
        """A process that ran tasks is about to end. Celery's ``worker_process_shutdown``."""
