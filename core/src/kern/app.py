"""The application: settings, tasks and assembled plugins. Made by the user and passed around."""

from __future__ import annotations

import importlib
import inspect
import os
import random
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast, overload

import attrs

from kern import builtin_tasks, documents, eager, log, protocol, serialization, states
from kern.calls import Calls
from kern.config_sources import import_name
from kern.connection import Connection
from kern.contracts.blocking import threaded, threaded_store
from kern.contracts.continuation import Composer, Follows
from kern.contracts.result_store import DocumentForm, ResultStore
from kern.contracts.transport import Transport, TransportCapability, Whereabouts
from kern.decorators import BoundTaskDecorator, TaskDecorator
from kern.errors import CapabilityMissing, ImproperlyConfigured, InvalidTaskError, KernError
from kern.identity import Identity
from kern.masking import mask_url
from kern.message import Message, Publication
from kern.modules import Discovery, Packages, import_module, working_directory_importable
from kern.outcome import Document, Outcome, Release
from kern.plugins import KNOWN_TASK_OPTIONS, Plugins, Selection
from kern.publish import Publisher
from kern.queues import QueueSpec
from kern.request import Request
from kern.result import AsyncResult, EagerResult, GroupResult, ResultSet
from kern.result_client import ResultClient, ResultClientSettings
from kern.routing import Router, RoutingSettings, queue_spec, worker_direct
from kern.runner import Runner
from kern.settings import Settings
from kern.settings_core import CORE_SECTIONS
from kern.shared import SharedTask, shared_tasks
from kern.signature import Signature, signature
from kern.task import OPTIONS, AsyncTask, Task, TaskRegistry, running, running_worker_task
from kern.task_annotations import annotate
from kern.task_options import check_name, check_values
from kern.timeutil import clock, zone

if TYPE_CHECKING:
    from typing import Self

logger = log.get_logger("kern.app")
P = ParamSpec("P")
R = TypeVar("R")


class Kern:
    """An application.

    :param main: name that stands for ``__main__`` in the names of tasks.
    :param broker: URL of the broker (setting ``broker_url``), or several; without one the embedded default.
    :param backend: URL of the result store (setting ``result_backend``).
    :param include: modules a worker imports.
    :param config_source: as given to :meth:`config_from_object`.
    :param namespace: prefix of the settings in *config_source*.
    :param task_cls: base class of the tasks.
    :param strict_typing: check arguments at the call site, unless a task says otherwise.
    :param plugins: which plugins to load, as ``--plugins``: ``"a,b"`` or ``"-x"``; default: ``KERN_PLUGINS``.
    :param settings: any setting, by its name.
    """

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | Sequence[str] | None = None,
        backend: str | None = None,
        include: Sequence[str] | None = None,
        config_source: Any = None,
        namespace: str | None = None,
        task_cls: type[Task[Any, Any]] = Task,
        strict_typing: bool = True,
        plugins: str | None = None,
        **settings: Any,
    ) -> None:
        self.main = main
        self.task_cls = task_cls
        self.strict_typing = strict_typing
        self.plugins = Plugins(Selection.parse(plugins) if plugins is not None else None)
        self._lock = threading.RLock()
        self._tasks = TaskRegistry()
        self._unbound: list[Task[Any, Any]] = []
        #: Whether every task is bound, built-in and shared ones too.
        self.finalized = False
        self._finalizing = False
        self._discovery = Discovery()
        self._imported = False
        self._import_path = ""
        given = {"broker_url": broker, "result_backend": backend, "include": include and tuple(include)}
        self._conf = Settings(
            (*CORE_SECTIONS, RoutingSettings, ResultClientSettings),
            changes={**{key: value for key, value in given.items() if value is not None}, **settings},
        )
        self._configured = self._configuring = False
        self._zone: tuple[int, tzinfo] | None = None
        self._runner: tuple[int, Runner] | None = None
        if config_source is not None:
            self.config_from_object(config_source, namespace=namespace)
        self._identity = Identity()
        #: Where calls go, by the settings as they are at each call.
        self.router = Router(self._conf)
        #: The connection of this process's callers to the broker.
        self.connection = Connection(
            lambda attempt: self.make_transport(attempt, write=True), lambda: len(self.broker_urls(write=True))
        )
        #: The client of the result store.
        self.backend = ResultClient(self)
        self._publisher = Publisher(self, self.connection)
        self._calls = Calls(self, self._publisher)
        shared_tasks.adopt(self)

    # -- settings ------------------------------------------------------------------------------------------------------

    @property
    def conf(self) -> Settings:
        """The settings: flat, by attribute or item; each assignment is checked at once."""
        if not self._configured:
            self._configure()
        return self._conf

    def _configure(self) -> None:
        """Have plugins add their settings, once; a plugin that looks at the settings meanwhile sees what is there."""
        with self._lock:
            if self._configured or self._configuring:
                return
            self._configuring = True
            try:
                for plugin, sections in self.plugins.offered("kern_settings"):
                    for section in sections:
                        self._conf.add_section(section, plugin)
                self.plugins.notify("kern_configured", app=self)
                self._configured = True
            finally:
                self._configuring = False

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None, **options: Any
    ) -> None:
        """Take settings from a module, an object, a mapping, or the dotted name of one; read when first needed.

        :param silent: a module that is missing is no error.
        :param force: read now.
        :param namespace: prefix of the names, such as ``CELERY``.
        :param options: see :meth:`kern.settings.Settings.config_from_object`.
        """
        self._conf.config_from_object(obj, silent=silent, namespace=namespace or "", **options)
        if force:
            _ = self.conf.timezone

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """:meth:`config_from_object` with the module that an environment variable names.

        :raises ImproperlyConfigured: the variable is not set, and *silent* is false.
        """
        module = os.environ.get(variable_name)
        if not module:
            if silent:
                return False
            raise ImproperlyConfigured(f"the environment variable {variable_name} is not set: it is to name a module")
        self.config_from_object(module, silent=silent, force=force)
        return True

    def add_defaults(self, defaults: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Settings that count more than the configuration object and less than assignments."""
        self._conf.add_defaults(defaults)

    @property
    def timezone(self) -> tzinfo:
        """The application's time zone: ``timezone``, else UTC, or the system's without ``enable_utc``."""
        conf = self.conf
        known = self._zone
        if known is None or known[0] != conf.version:
            known = self._zone = (conf.version, zone(conf.timezone, conf.enable_utc))
        return known[1]

    def now(self) -> datetime:
        """The time now, aware, in the application's zone."""
        return clock.utcnow().astimezone(self.timezone)

    @property
    def accept(self) -> frozenset[str]:
        """Content types that messages may have."""
        return serialization.accept_set(self.conf.accept_content)

    # -- plugins -------------------------------------------------------------------------------------------------------

    def register(self, listener: Any, name: str | None = None) -> Any:
        """Register an object with hook implementations; returns it.

        :raises ImproperlyConfigured: it implements a hook that does not exist, or was registered already.
        """
        self.plugins.load()
        self.plugins.register(listener, name)
        return listener

    @property
    def control(self) -> Any:
        """Remote control: ``revoke`` and the rest.

        :raises CapabilityMissing: no plugin provides it.
        """
        for control in self.plugins.ask("kern_control", app=self):
            return control
        raise CapabilityMissing("no installed plugin can control workers: pip install kern-control")

    # -- tasks ---------------------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> TaskRegistry:
        """The tasks by name; finalizes the application."""
        if not self.finalized:
            self.finalize()
        return self._tasks

    @overload
    def task(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, fun: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Any) -> BoundTaskDecorator: ...
    @overload
    def task(self, *, bind: Literal[False] = ..., **options: Any) -> TaskDecorator: ...
    def task(self, *args: Any, **options: Any) -> Any:
        """Decorator: makes a task of a function.

        :param name: its name; else module and name of the function (:meth:`gen_task_name`).
        :param bind: the function's first parameter is the task.
        :param base: its class instead of :attr:`task_cls`.
        :param filter: called with the task; what it returns stands in the task's place.
        :param shared: make it a task of every other application, too.
        :param lazy: ``False`` has the task take its values from the settings now, and not when all are complete.
        :param options: attributes of :class:`kern.task.Task` (``max_retries``, ``queue`` …); what is called like a
            method of it replaces the method.
        :raises TypeError: an option that does not exist, or a value that it cannot have; names the task.
        """
        if args:
            if len(args) > 1:
                raise TypeError(f"@task() takes exactly 1 argument ({len(args)} given)")
            if not callable(args[0]):
                raise TypeError("argument 1 to @task() must be a callable")
            return self._task_from(args[0], **options)
        return lambda fun: self._task_from(fun, **options)

    def _task_from(
        self,
        fun: Callable[..., Any],
        name: str | None = None,
        base: type[Task[Any, Any]] | None = None,
        bind: bool = False,
        shared: bool = False,
        filter: Callable[[Any], Any] | None = None,
        lazy: bool = True,
        **options: Any,
    ) -> Any:
        base = base or self.task_cls
        function_name = getattr(fun, "__name__", None)
        if function_name is None:
            raise TypeError(f"a task is made of a function, and {fun!r} has no name: wrap it in one")
        name = name or self.gen_task_name(function_name, fun.__module__)
        for option in options:
            self.check_task_option(name, option, base)
        options = check_values(name, options)
        with self._lock:
            task = self._tasks.get(name)
            if task is None:
                task = _task_class(fun, name, base, bind, options)()
                task.__name__, task.__qualname__ = function_name, fun.__qualname__
                self._register(task)
            elif getattr(task, "__wrapped__", None) is not fun:
                logger.warning("a task of that name is registered already and stays", name=name)
            if not lazy:
                self._bind_pending(task)
        if shared:
            shared_tasks.add(SharedTask(fun, {"name": name, "base": base, "bind": bind, **options}))
        return filter(task) if filter is not None else task

    def check_task_option(self, task: str, option: str, base: type) -> None:
        """
        :raises TypeError: no task, base class or plugin knows the option; names the nearest, or what to install.
        """
        if option not in OPTIONS and not hasattr(base, option):
            of_plugins = {name for names in self.plugins.ask("kern_task_options") for name in names}
            check_name(task, option, OPTIONS | of_plugins, KNOWN_TASK_OPTIONS)

    def register_task(self, task: Task[Any, Any] | type[Task[Any, Any]], **options: Any) -> Task[Any, Any]:
        """Register a class-based task; returns its instance. A task of the same name is replaced.

        :param options: attributes to set.
        :raises TypeError: an option that does not exist, or a value that it cannot have.
        :raises InvalidTaskError: the instance is a task of another application.
        """
        instance = task() if inspect.isclass(task) else task
        if instance.app is not None and instance.app is not self:
            raise InvalidTaskError(f"{instance!r} is a task of another application: register its class")
        cls = type(instance)
        if not instance.name:
            instance.name = self.gen_task_name(cls.__name__, cls.__module__)
        for option in options:
            self.check_task_option(instance.name, option, cls)
        for option, value in check_values(instance.name, options).items():
            setattr(instance, option, value)
        with self._lock:
            replaced = self._tasks.pop(instance.name, None)
            if replaced is not None and replaced is not instance:
                logger.warning("a task of that name was registered and is replaced", name=instance.name)
            self._register(instance)
        return instance

    def _register(self, task: Task[Any, Any]) -> None:
        """A task is bound when the application is finalized, or at once if it is: binding reads the settings."""
        self._tasks.register(task)
        task.app = self
        self._unbound.append(task)
        if self.finalized:
            self._bind_pending(task)

    def _bind_pending(self, task: Task[Any, Any]) -> None:
        """Bind *task*, unless it is bound; one that cannot be stays, and is an error each time."""
        if task not in self._unbound:
            return
        task.bind(self)
        if "kern_task_registered" in self.plugins.listening:
            self.plugins.notify("kern_task_registered", app=self, task=task)
        self._unbound.remove(task)

    def annotate(self, task: Task[Any, Any]) -> None:
        """Apply ``task_annotations`` to *task*."""
        annotate(
            task,
            self.conf.task_annotations,
            lambda option: self.check_task_option(task.name, option, type(task)),
        )

    def gen_task_name(self, name: str, module: str | None) -> str:
        """The name of a task without one: module and function; ``__main__`` becomes :attr:`main`."""
        module = module or "__main__"
        loaded = sys.modules.get(module)
        if loaded is not None:
            module = loaded.__name__
        if module == "__main__" and self.main:
            return f"{self.main}.{name}"
        return f"{module}.{name}"

    def finalize(self) -> None:
        """Bind every task, once: built-in, shared and the application's own.

        :raises TypeError: a task has an option that does not exist or cannot be.
        """
        if self.finalized:
            return
        with self._lock:
            if self.finalized or self._finalizing:
                return
            self._finalizing = True
            try:
                shared_tasks.define_on(self)
                builtin_tasks.define_on(self)
                while self._unbound:
                    self._bind_pending(self._unbound[0])
                self.finalized = True
            finally:
                self._finalizing = False
            self.plugins.notify("kern_finalized", app=self)

    @property
    def current_task(self) -> Task[Any, Any] | None:
        """The task running here, if any."""
        entry = running()
        return None if entry is None else entry.task

    @property
    def current_worker_task(self) -> Task[Any, Any] | None:
        """The task running here that a worker runs, if any."""
        entry = running_worker_task()
        return None if entry is None else entry.task

    @property
    def import_path(self) -> str:
        """Where this application can be imported from, ``module:name``.

        :raises ImproperlyConfigured: no module has it as an attribute.
        """
        # Remembered: to look at everything in every module unshares the memory of processes that were forked.
        path: str = self._import_path
        module_name, _, attribute = path.partition(":")
        if getattr(sys.modules.get(module_name), attribute or "-", None) is self:
            return path
        for module_name, module in list(sys.modules.items()):
            if module is None or module_name == "__main__":
                continue
            for attribute, value in list(vars(module).items()) if isinstance(module, ModuleType) else ():
                if value is self:
                    path = self._import_path = f"{module_name}:{attribute}"
                    return path
        raise ImproperlyConfigured("no importable module holds this application, so its tasks cannot be pickled")

    # -- modules -------------------------------------------------------------------------------------------------------

    def autodiscover_tasks(
        self, packages: Packages | None = None, related_name: str | None = "tasks", force: bool = False
    ) -> None:
        """Have a worker import the module *related_name* of each package.

        :param packages: their names, or what gives them; ``None``: those that a plugin knows.
        :param force: import now.
        """
        self._discovery.add(packages, related_name)
        if force:
            self._discovery.run(self._packages_of_plugins)

    def _packages_of_plugins(self) -> Iterable[str] | None:
        if not self.plugins.listens("kern_task_packages"):
            return None
        return [package for packages in self.plugins.ask("kern_task_packages", app=self) for package in packages]

    def import_modules(self) -> None:
        """Import what a worker needs: ``imports``, ``include`` and what autodiscovery finds; once.

        :raises ImproperlyConfigured: a module fails to import; names it and the cause.
        """
        if self._imported:
            return
        self.plugins.notify("kern_import_modules", app=self)
        with working_directory_importable():
            for name in (*self.conf.imports, *self.conf.include):
                import_module(name)
            self._discovery.run(self._packages_of_plugins)
        self._imported = True

    def import_object(self, name: str) -> Any:
        """The object ``module:name`` or ``module.name``.

        :raises ImproperlyConfigured: it is not there.
        """
        return import_name(name)

    # -- drivers -------------------------------------------------------------------------------------------------------

    def broker_urls(self, write: bool = False) -> list[str]:
        """URLs of the broker, in the order in which they are to be tried: configured, or the embedded default.

        :param write: for those who publish (``broker_write_url``), else for those who consume (``broker_read_url``).
        :raises ImproperlyConfigured: none is configured and no installed plugin has a default.
        """
        conf = self.conf
        given = (conf.broker_write_url if write else conf.broker_read_url) or conf.broker_url
        urls = given.split(";") if isinstance(given, str) else list(given or ())
        if urls:
            return _in_order([url.strip() for url in urls], conf.broker_failover_strategy)
        for default in self.plugins.ask("kern_default_broker"):
            return [str(default)]
        raise ImproperlyConfigured(
            "no broker is configured and none is installed: pip install kern-broker-sql for the embedded default, "
            "or pass broker= to Kern (setting broker_url, environment KERN_BROKER_URL)"
        )

    @property
    def broker_url(self) -> str:
        """The first URL of the broker; see :meth:`broker_urls`."""
        return self.broker_urls()[0]

    @property
    def result_backend_url(self) -> str | None:
        """The URL of the result store in use; beside the embedded default broker results are kept without asking."""
        conf = self.conf
        url = conf.result_backend
        if url in ("disabled", "disabled://"):
            return None
        if url:
            return str(url)
        if conf.broker_url or conf.broker_write_url or conf.broker_read_url:
            return None
        for default in self.plugins.ask("kern_default_backend", broker_url=self.broker_url):
            return str(default)
        return None

    def make_transport(self, attempt: int = 0, write: bool = False) -> Transport:
        """A new transport, not started.

        :param attempt: how many could not be started before: of several brokers another one is chosen.
        :param write: for those who publish.
        :raises kern.errors.PluginMissing: nothing installed speaks the URL's scheme; says what to install.
        """
        urls = self.broker_urls(write)
        url = urls[attempt % len(urls)]
        return threaded(self.plugins.driver("transport", _scheme(url))(url, self.conf))

    def make_result_store(self) -> ResultStore | None:
        """A new result store, not started; ``None`` where results are not kept."""
        url = self.result_backend_url
        if url is None:
            return None
        return threaded_store(self.plugins.driver("result store", _scheme(url))(url, self.conf))

    @property
    def result_store(self) -> ResultStore | None:
        """:meth:`make_result_store`, for the result client."""
        return self.make_result_store()

    @property
    def whole_documents(self) -> bool | None:
        """Whether the result store keeps whole documents; ``None`` where results are not kept."""
        store = self.make_result_store()
        return None if store is None else store.document_form is DocumentForm.WHOLE

    @property
    def default_pool(self) -> str:
        """``prefork`` where it is installed, else ``solo``."""
        return "prefork" if "prefork" in self.plugins.drivers("pool") else "solo"

    def runner(self, hostname: str) -> Runner:
        """What runs requests of this application, by the settings as they are now."""
        version = self.conf.version
        known = self._runner
        if known is None or known[0] != version or known[1].hostname != hostname:
            known = self._runner = (version, Runner(self, hostname))
        return known[1]

    # -- routing -------------------------------------------------------------------------------------------------------

    def make_router(self, routes: Any) -> Router:
        """A router with *routes* in place of ``task_routes``."""
        return routes if isinstance(routes, Router) else Router(self.conf, self.router.queues, routes)

    def queue_spec(self, queue: Any) -> QueueSpec:
        """The queue meant by a name, a ``kombu.Queue`` or a :class:`QueueSpec`."""
        return self.router.queues[queue] if isinstance(queue, str) else queue_spec(queue)

    def worker_queues(self, include: Sequence[str] | None, exclude: Sequence[str], hostname: str) -> list[QueueSpec]:
        """The queues a worker of that node name consumes.

        :raises QueueNotFound: a name that is not configured and may not be created.
        """
        conf = self.conf
        queues = self.router.queues
        queues.select(include)
        queues.deselect(exclude)
        consumed = list(queues.consume_from.values())
        if conf.worker_direct:
            consumed.append(worker_direct(hostname))
        return consumed

    # -- calling -------------------------------------------------------------------------------------------------------

    def call(
        self,
        task: Task[Any, Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Publish a call of *task*; see :meth:`Task.apply_async`."""
        return self._calls.call(task, args, kwargs, options)

    async def acall(
        self,
        task: Task[Any, Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """:meth:`call` for asyncio."""
        return await self._calls.acall(task, args, kwargs, options)

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Publish a call of a task by its name; the task need not be known here.

        :param options: see :data:`kern.call_options.CALL_OPTIONS`; an unknown one is a ``TypeError``.
        :raises PublishRefused: the broker does not have the call.
        :raises PublishUnknown: nobody can tell; publish again with ``task_id=error.task_ids[0]``.
        """
        return self._calls.send_task(name, args, kwargs, options)

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """:meth:`send_task` for asyncio."""
        return await self._calls.asend_task(name, args, kwargs, options)

    def send_many(
        self, calls: Iterable[Signature[Any]], timeout: float | None = None, **options: Any
    ) -> list[AsyncResult[Any]]:
        """Publish many calls, a few hundred in one round trip; the results in order.

        Nothing is sent when one of them is refused beforehand, for its arguments or options.

        :param timeout: seconds for all of them; default ``publish_timeout`` for each 10,000.
        :param options: options for all of them.
        :raises PublishRefused: some were refused; ``task_ids`` names those that are not known to be in the broker.
        :raises PublishUnknown: of some nobody can tell; likewise.
        """
        return self._calls.send_many(calls, timeout, options)

    async def asend_many(
        self, calls: Iterable[Signature[Any]], timeout: float | None = None, **options: Any
    ) -> list[AsyncResult[Any]]:
        """:meth:`send_many` for asyncio."""
        return await self._calls.asend_many(calls, timeout, options)

    def publication(self, call: Signature[Any], **options: Any) -> Publication:
        """The message of a call, to be published with an outcome, by a schedule, or by :meth:`publish`."""
        return self._calls.publication(call, options)

    def publish(self, publications: Sequence[Publication]) -> None:
        """Publish messages that are ready.

        :raises PublishRefused: some were refused; ``task_ids`` names those that are not known to be in the broker.
        :raises PublishUnknown: of some nobody can tell; likewise.
        """
        self._calls.publish(publications)

    def signature(self, *args: Any, **kwargs: Any) -> Signature[Any]:
        """A call as data, of a task, a name or a mapping."""
        return signature(*args, app=self, **kwargs)

    def compose(self, left: Any, right: Any) -> Any:
        """``left | right``, by a plugin that can.

        :raises CapabilityMissing: none is installed.
        """
        for kind in ("chain", "callbacks"):
            continuation = self.plugins.continuation(kind)
            if isinstance(continuation, Composer):
                return continuation.compose(left, right)
        raise CapabilityMissing("nothing installed can compose calls: pip install kern-canvas")

    def run_eagerly(
        self,
        task: Task[Any, Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        throw: bool | None = None,
        **options: Any,
    ) -> EagerResult[Any]:
        """Run *task* here and now, as a worker would; see :meth:`Task.apply`."""
        return eager.run(self, task, args, kwargs, options, task_id, throw)

    # -- what the stages ask for ---------------------------------------------------------------------------------------

    def continuations(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What is to follow a call with these options, as it travels.

        :raises CapabilityMissing: nothing installed can continue it; says what to install.
        """
        return self._publisher.continuations(options)

    def prepare_arguments(
        self, task: Task[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any], serializer: str
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """What plugins make of a call's arguments before they are encoded with *serializer*."""
        if "kern_prepare_arguments" in self.plugins.listening:
            for ask in self.plugins.askers("kern_prepare_arguments"):
                answer = ask(app=self, task=task, args=tuple(args), kwargs=dict(kwargs), serializer=serializer)
                if answer is not None:
                    args, kwargs = answer
        return args, kwargs

    def encode_message(self, message: Message) -> Message:
        """What plugins make of a message before it is published; an error of theirs keeps it from being sent."""
        if "kern_encode_message" in self.plugins.listening:
            for ask in self.plugins.askers("kern_encode_message"):
                message = ask(app=self, message=message) or message
        return message

    def decode_message(self, message: Message) -> Message:
        """What plugins make of a message before it is admitted: the way back.

        :raises kern.errors.SecurityError: a plugin refuses it.
        """
        if "kern_decode_message" in self.plugins.listening:
            for ask in reversed(self.plugins.askers("kern_decode_message")):
                message = ask(app=self, message=message) or message
        return message

    def retry_publication(self, request: Request, call: Signature[Any]) -> Publication:
        """The message by which *request* is tried again as *call*: the same id, one retry more."""
        return self._calls.retry_publication(request, call)

    def repeat(self, request: Request, document: Document) -> Outcome:
        """The outcome of a request whose final result is stored already: what follows it is sent again."""
        runner = self.runner(request.hostname or "")
        try:
            if request.args is None:
                protocol.attach(request, protocol.read(protocol.message_of(request), self.accept))
            meta = documents.decode_document(document, self.accept)
        except KernError as error:
            return attrs.evolve(runner.unreadable(request, error), document=None)
        follows = runner.follow(request, meta.status, meta.result) if meta.status != states.REVOKED else Follows()
        return Outcome(
            receipt=request.receipt,
            task_id=request.id or "",
            task=request.task or "",
            state=meta.status,
            disposition=Release(),
            documents=runner.documents_of(follows, meta.result, meta.traceback),
            follow_ups=follows.publications,
            join_parts=follows.join_parts,
            summary="completed before",
        )

    def locate(self, task_ids: Sequence[str]) -> dict[str, Whereabouts] | None:
        """Where the broker has these calls; ``None`` where it cannot tell."""
        timeout = self.conf.publish_timeout
        port = self.connection.port(timeout)
        if TransportCapability.LOCATE not in port.capabilities:
            return None
        return self.connection.do(lambda transport: transport.locate(task_ids), timeout)

    # -- results -------------------------------------------------------------------------------------------------------

    def AsyncResult(self, task_id: str, **options: Any) -> AsyncResult[Any]:
        """The result of the call *task_id*."""
        return AsyncResult(task_id, app=self, **options)

    def ResultSet(self, results: Sequence[Any], **options: Any) -> ResultSet[Any]:
        """A set of results."""
        return ResultSet(results, app=self, **options)

    def GroupResult(self, id: str | None = None, results: Sequence[Any] | None = None, **options: Any) -> Any:
        """The result of a group."""
        return GroupResult(id, results, app=self, **options)

    # -- identity and life ---------------------------------------------------------------------------------------------

    @property
    def thread_oid(self) -> str:
        """Names this process, thread and application, where replies go."""
        return self._identity.of_thread()

    @property
    def oid(self) -> str:
        """Names this process and application."""
        return self._identity.of_process()

    def either(self, default_key: str, *defaults: Any) -> Any:
        """The first of *defaults* that is not ``None``, else the setting."""
        for value in defaults:
            if value is not None:
                return value
        return self.conf.get(default_key)

    def close(self) -> None:
        """Close every connection; the application can be used again."""
        shared_tasks.release(self)
        self.connection.close()
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        return _imported, (self.import_path,)

    def __repr__(self) -> str:
        return f"<Kern {self.main or '__main__'} at {id(self):#x}>"


def _task_class(
    fun: Callable[..., Any], name: str, base: type[Task[Any, Any]], bind: bool, options: Mapping[str, Any]
) -> type[Task[Any, Any]]:
    """The class of which the task of *fun* is the one instance."""
    bases: tuple[type, ...] = (base,)
    if inspect.iscoroutinefunction(fun) and not issubclass(base, AsyncTask):
        # The base first: its own ``__call__`` is around the body.
        bases = (AsyncTask,) if base is Task else (base, AsyncTask)
    attributes = {
        "name": name,
        "run": fun if bind else staticmethod(fun),
        "__doc__": fun.__doc__,
        "__module__": fun.__module__,
        "__wrapped__": staticmethod(fun),
        **options,
    }
    return type(fun.__name__, bases, attributes)


def _in_order(urls: list[str], strategy: Any) -> list[str]:
    """The setting ``broker_failover_strategy``."""
    if strategy == "shuffle":
        return random.sample(urls, len(urls))
    if callable(strategy):
        # Such as itertools.cycle, which never ends.
        return list(islice(strategy(urls), len(urls))) or urls
    return urls


def _scheme(url: str) -> str:
    """The scheme of a URL, or the alias that stands for one.

    :raises ImproperlyConfigured: not a URL.
    """
    scheme, separator, _rest = url.partition("://")
    if not separator and ("/" in url or not url.replace("-", "").replace("_", "").isalnum()):
        # Without a scheme it may still hold a password.
        shown = mask_url(f"x://{url}").removeprefix("x://")
        raise ImproperlyConfigured(f"not a URL: {shown!r}; expected scheme://…")
    return scheme.lower()


def _imported(path: str) -> Kern:
    """A pickled application, found again where it can be imported from."""
    module, _, attribute = path.partition(":")
    return cast(Kern, getattr(importlib.import_module(module), attribute))
