"""The application: settings, tasks and assembled plugins. Made by the user and passed around."""

from __future__ import annotations

import importlib
import inspect
import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, cast, overload
from uuid import NAMESPACE_OID, uuid3, uuid4

from kern import documents, log, serialization, states
from kern.contracts.blocking import threaded, threaded_store
from kern.contracts.result_store import DocumentForm, ResultStore
from kern.contracts.transport import Transport, TransportCapability, Whereabouts
from kern.errors import CapabilityMissing, ImproperlyConfigured, PublishRefused, PublishUnknown, Retry
from kern.masking import mask_url
from kern.message import Message, Publication
from kern.outcome import Document, Outcome, Release
from kern.plugins import Plugins, Selection
from kern.publish import Connection, Prepared, Publisher
from kern.queues import QueueSpec
from kern.request import Request
from kern.result import AsyncResult, EagerResult, GroupResult, ResultSet
from kern.result_client import ResultClient, ResultClientSettings
from kern.routing import Router, RoutingSettings, queue_spec, worker_direct
from kern.runner import Runner, run_eagerly
from kern.settings import Settings
from kern.settings_core import CORE_SECTIONS
from kern.signature import Signature, signature
from kern.task import Task, TaskRegistry, check_option, running, running_worker_task
from kern.timeutil import clock, zone

if TYPE_CHECKING:
    from kern.result import AsyncResult as AsyncResultType

logger = log.get_logger("kern.app")
P = ParamSpec("P")
R = TypeVar("R")


class Kern:
    """An application.

    :param main: name that stands for ``__main__`` in the names of tasks.
    :param broker: URL of the broker (setting ``broker_url``); without one the embedded default.
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
        include: Sequence[str] = (),
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
        self._tasks = TaskRegistry()
        self._lock = threading.RLock()
        self._finalized = False
        self._sections_added = False
        self._discovering: list[tuple[Any, str | None]] = []
        self._imported = False
        given = dict(settings)
        if broker is not None:
            given["broker_url"] = broker
        if backend is not None:
            given["result_backend"] = backend
        if include:
            given["include"] = tuple(include)
        self._conf = Settings((*CORE_SECTIONS, RoutingSettings, ResultClientSettings), changes=given)
        if config_source is not None:
            self.config_from_object(config_source, namespace=namespace)
        self.connection = Connection(self.make_transport)
        self._publisher = Publisher(self, self.connection)
        shared.adopt(self)

    # -- settings ------------------------------------------------------------------------------------------------------

    @property
    def conf(self) -> Settings:
        """The settings: flat, by attribute or item; each assignment is checked at once."""
        if not self._sections_added:
            with self._lock:
                if not self._sections_added:
                    self._sections_added = True
                    for plugin, sections in self._plugin_sections():
                        for section in sections:
                            self._conf.add_section(section, plugin)
                    self.plugins.notify("kern_configured", app=self)
        return self._conf

    def _plugin_sections(self) -> Iterable[tuple[str, Sequence[Any]]]:
        return self.plugins.offered("kern_settings")

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None, **options: Any
    ) -> None:
        """Take settings from a module, an object, a mapping, or the dotted name of one; read when first needed.

        :param silent: a module that is missing is no error.
        :param force: read now.
        :param namespace: prefix of the names, such as ``CELERY``.
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
        cached = self.__dict__.get("_zone")
        if cached is None or cached[0] != conf.version:
            cached = self.__dict__["_zone"] = (conf.version, zone(conf.timezone, conf.enable_utc))
        return cast(tzinfo, cached[1])

    def now(self) -> datetime:
        """The time now, aware, in the application's zone."""
        return clock.utcnow().astimezone(self.timezone)

    @property
    def accept(self) -> frozenset[str]:
        """Content types that messages may have."""
        return serialization.accept_set(self.conf.accept_content)

    # -- plugins -------------------------------------------------------------------------------------------------------

    def register(self, listener: object, name: str | None = None) -> Any:
        """Register an object with hook implementations; returns it, so it serves as a decorator of classes' instances.

        :raises ImproperlyConfigured: it implements a hook that does not exist.
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
        if not self._finalized:
            self.finalize()
        return self._tasks

    @overload
    def task(self, fun: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self, *, bind: Literal[True], **options: Any
    ) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...
    @overload
    def task(self, *, bind: Literal[False] = ..., **options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...
    def task(self, *args: Any, **options: Any) -> Any:
        """Decorator: makes a task of a function.

        :param options: attributes of :class:`kern.task.Task` (``name``, ``bind``, ``max_retries`` …); an unknown one
            is a ``TypeError``.
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
        shared: bool = True,
        filter: Callable[[Any], Any] | None = None,
        lazy: bool = True,
        **options: Any,
    ) -> Any:
        base = base or self.task_cls
        more: frozenset[str] | None = None
        for option in options:
            if more is None and not hasattr(base, option):
                more = frozenset(n for names in self.plugins.ask("kern_task_options") for n in names)
            check_option(option, base, more or ())
        name = name or self.gen_task_name(fun.__name__, fun.__module__)
        with self._lock:
            known = self._tasks.get(name)
            if known is not None:
                if getattr(known, "__wrapped__", None) is not fun:
                    logger.warning("a task of that name is registered already and stays", name=name)
                return known
            attributes = {
                "name": name,
                "run": fun if bind else staticmethod(fun),
                "__doc__": fun.__doc__,
                "__module__": fun.__module__,
                "__wrapped__": staticmethod(fun),
                "__annotations__": {},
                **{key: _as_attribute(value) for key, value in options.items()},
            }
            task: Task[Any, Any] = type(fun.__name__, (base,), attributes)()
            task.__qualname__ = fun.__qualname__  # type: ignore[attr-defined]
            self._register(task)
        return filter(task) if filter is not None else task

    def register_task(self, task: Task[Any, Any] | type[Task[Any, Any]]) -> Task[Any, Any]:
        """Register a class-based task; returns its instance."""
        instance = task() if inspect.isclass(task) else task
        if not instance.name:
            cls = type(instance)
            instance.name = self.gen_task_name(cls.__name__, cls.__module__)
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
        if self._finalized:
            self._bind(task)

    def _bind(self, task: Task[Any, Any]) -> None:
        task.bind(self)
        if "kern_task_registered" in self.plugins.listening:
            self.plugins.notify("kern_task_registered", app=self, task=task)

    def annotate(self, task: Task[Any, Any]) -> None:
        """Apply ``task_annotations`` to *task*: first what fits its name, then what fits every task."""
        annotations = self.conf.task_annotations
        if not annotations:
            return
        sources = annotations if isinstance(annotations, list | tuple) else (annotations,)
        resolved = [self._annotation(source) for source in sources]
        for method in ("annotate", "annotate_any"):
            for source in resolved:
                found = source(method, task)
                if found is not None:
                    task.annotate_with(found)
                    break

    def _annotation(self, source: Any) -> Callable[[str, Task[Any, Any]], Mapping[str, Any] | None]:
        if isinstance(source, str):
            source = self.import_object(source)
        if inspect.isclass(source):
            source = source()
        if isinstance(source, Mapping):
            mapping = source
            return lambda method, task: mapping.get(task.name if method == "annotate" else "*")

        def ask(method: str, task: Task[Any, Any]) -> Mapping[str, Any] | None:
            function = getattr(source, method, None)
            if function is None:
                return None
            return cast("Mapping[str, Any] | None", function(task) if method == "annotate" else function())

        return ask

    def gen_task_name(self, name: str, module: str | None) -> str:
        """The name of a task without one: module and function; ``__main__`` becomes :attr:`main`."""
        module = module or "__main__"
        loaded = sys.modules.get(module)
        if loaded is not None:
            module = loaded.__name__
        if module == "__main__" and self.main:
            return f"{self.main}.{name}"
        return f"{module}.{name}"

    def finalize(self, auto: bool = False) -> None:
        """Bind every task, once: built-in, shared and the application's own."""
        with self._lock:
            if self._finalized:
                return
            shared.define_on(self)
            _define_built_in(self)
            self._finalized = True
            for task in list(self._tasks.values()):
                self._bind(task)
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
        for module_name, module in list(sys.modules.items()):
            if module is None or module_name == "__main__":
                continue
            for attribute, value in list(vars(module).items()) if isinstance(module, ModuleType) else ():
                if value is self:
                    return f"{module_name}:{attribute}"
        raise ImproperlyConfigured("no importable module holds this application, so its tasks cannot be pickled")

    # -- modules -------------------------------------------------------------------------------------------------------

    def autodiscover_tasks(
        self,
        packages: Sequence[str] | Callable[[], Sequence[str]] | None = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Have a worker import the module *related_name* of each package.

        :param packages: their names, or what gives them.
        :param force: import now.
        """
        self._discovering.append((packages or (), related_name))
        if force:
            self._discover()

    def _discover(self) -> None:
        pending, self._discovering = self._discovering, []
        for packages, related_name in pending:
            for package in packages() if callable(packages) else packages:
                _import_related(package, related_name)

    def import_modules(self) -> None:
        """Import what a worker needs: ``imports``, ``include`` and what autodiscovery finds; once.

        :raises ImproperlyConfigured: a module fails to import; names it and the cause.
        """
        if self._imported:
            return
        self._imported = True
        self.plugins.notify("kern_import_modules", app=self)
        directory = os.getcwd()
        added = directory not in sys.path
        if added:
            sys.path.insert(0, directory)
        try:
            for name in (*self.conf.imports, *self.conf.include):
                import_module(name)
            self._discover()
        finally:
            if added and directory in sys.path:
                sys.path.remove(directory)

    def import_object(self, name: str) -> Any:
        """The object ``module:name`` or ``module.name``.

        :raises ImproperlyConfigured: it is not there.
        """
        module_name, _, attribute = name.replace(":", ".").rpartition(".")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ImproperlyConfigured(f"cannot import {name!r}: {error}") from error

    # -- drivers -------------------------------------------------------------------------------------------------------

    @property
    def broker_url(self) -> str:
        """The URL of the broker in use: configured, or the embedded default.

        :raises ImproperlyConfigured: none is configured and no installed plugin has a default.
        """
        url = self.conf.broker_write_url or self.conf.broker_url
        if isinstance(url, str):
            url = url.split(";")[0] or None
        elif url:
            url = url[0]
        if url:
            return str(url)
        for default in self.plugins.ask("kern_default_broker"):
            return str(default)
        raise ImproperlyConfigured(
            "no broker is configured and none is installed: pip install kern-broker-sql for the embedded default, "
            "or pass broker= to Kern (setting broker_url, environment KERN_BROKER_URL)"
        )

    @property
    def result_backend_url(self) -> str | None:
        """The URL of the result store in use; beside the embedded default broker results are kept without asking."""
        url = self.conf.result_backend
        if url in ("disabled", "disabled://"):
            return None
        if url:
            return str(url)
        if self.conf.broker_url or self.conf.broker_write_url:
            return None
        for default in self.plugins.ask("kern_default_backend", broker_url=self.broker_url):
            return str(default)
        return None

    def make_transport(self) -> Transport:
        """A new transport, not started.

        :raises kern.errors.PluginMissing: nothing installed speaks the URL's scheme; says what to install.
        """
        url = self.broker_url
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

    @cached_property
    def whole_documents(self) -> bool | None:
        """Whether the result store keeps whole documents; ``None`` where results are not kept."""
        store = self.make_result_store()
        return None if store is None else store.document_form is DocumentForm.WHOLE

    @cached_property
    def backend(self) -> ResultClient:
        """The client of the result store."""
        return ResultClient(self)

    @property
    def default_pool(self) -> str:
        """``prefork`` where it is installed, else ``solo``."""
        return "prefork" if "prefork" in self.plugins.drivers("pool") else "solo"

    def runner(self, hostname: str) -> Runner:
        """What runs requests of this application."""
        return Runner(self, hostname)

    # -- routing -------------------------------------------------------------------------------------------------------

    @cached_property
    def router(self) -> Router:
        """Where calls go, by the settings as they are at each call."""
        return Router(self.conf)

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
        queues = self.router.queues
        queues.select(include)
        queues.deselect(exclude)
        consumed = list(queues.consume_from.values())
        if self.conf.worker_direct:
            consumed.append(worker_direct(hostname))
        return consumed

    # -- calling -------------------------------------------------------------------------------------------------------

    def call(
        self,
        task: Task[Any, Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Publish a call of *task*; see :meth:`Task.apply_async`."""
        prepared = self._prepare_task(task, args, kwargs, options)
        if isinstance(prepared, EagerResult):
            return prepared
        self._publisher.send(prepared)
        return self._published(prepared)

    async def acall(
        self,
        task: Task[Any, Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """:meth:`call` for asyncio."""
        prepared = self._prepare_task(task, args, kwargs, options)
        if isinstance(prepared, EagerResult):
            return prepared
        await self._publisher.asend(prepared)
        return self._published(prepared)

    def _prepare_task(
        self, task: Task[Any, Any], args: Any, kwargs: Any, options: dict[str, Any]
    ) -> Prepared | EagerResult[Any]:
        if not self._finalized:
            self.finalize()
        if args is not None and not isinstance(args, list | tuple):
            raise TypeError("task args must be a list or tuple")
        if kwargs is not None and not isinstance(kwargs, Mapping):
            raise TypeError("task keyword arguments must be a mapping")
        if task.typing:
            task.check_arguments(args or (), kwargs or {})
        if options.get("task_id", "") is None:
            del options["task_id"]
        if self.conf.task_always_eager:
            return self._always_eager(task, args, kwargs, options)
        return self._publisher.prepare(task.name, args, kwargs, options, task)

    def _always_eager(self, task: Task[Any, Any], args: Any, kwargs: Any, options: dict[str, Any]) -> EagerResult[Any]:
        """Run instead of publishing, with arguments that have been through the serializer."""
        from kern import protocol

        prepared = self._publisher.prepare(task.name, args, kwargs, {**options, "ignore_result": None}, task)
        body = protocol.read(prepared.publication.message, serialization.accept_set(None) | self._own_types(prepared))
        options.setdefault("task_id", prepared.publication.task_id)
        from kern.result import denied_join_result

        with denied_join_result():
            return self.run_eagerly(task, body.args, body.kwargs, **options)

    def _own_types(self, prepared: Prepared) -> frozenset[str]:
        """What we have encoded ourselves may be decoded."""
        return frozenset({prepared.publication.message.content_type})

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Publish a call of a task by its name; the task need not be known here.

        :raises PublishRefused: the broker does not have the call.
        :raises PublishUnknown: nobody can tell; publish again with ``task_id=error.task_ids[0]``.
        """
        prepared = self._prepare_name(name, args, kwargs, options)
        self._publisher.send(prepared)
        return self._published(prepared)

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """:meth:`send_task` for asyncio."""
        prepared = self._prepare_name(name, args, kwargs, options)
        await self._publisher.asend(prepared)
        return self._published(prepared)

    def _prepare_name(self, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Prepared:
        if options.get("task_id", "") is None:
            del options["task_id"]
        task = options.pop("task_type", None) or self.tasks.get(name)
        if self.conf.task_always_eager:
            logger.warning("task_always_eager does not concern calls by name: published", name=name)
        if task is not None:
            # By name the task's own words on results do not count, as in Celery.
            options = {**task.execution_options(), **options}
        return self._publisher.prepare(name, args, kwargs, options)

    def send_many(
        self,
        calls: Iterable[Signature[Any]],
        timeout: float | None = None,
        **options: Any,
    ) -> list[AsyncResult[Any]]:
        """Publish many calls, a few hundred in one round trip; the results in order.

        :param timeout: seconds for all of them; default ``publish_timeout`` for each 10,000.
        :param options: options for all of them.
        :raises PublishRefused: some were refused; ``task_ids`` names those that are not known to be in the broker.
        :raises PublishUnknown: of some nobody can tell; likewise.
        """
        batch = [self._prepare_signature(call, options) for call in calls]
        if not batch:
            return []
        if batch[0].connection is not None:
            self._publisher._send_within(batch)
            return [self._published(item) for item in batch]
        errors = self._publisher.send_batch(batch, self._many_timeout(timeout, batch), batch[0].policy)
        return self._published_many(batch, errors)

    async def asend_many(
        self, calls: Iterable[Signature[Any]], timeout: float | None = None, **options: Any
    ) -> list[AsyncResult[Any]]:
        """:meth:`send_many` for asyncio."""
        batch = [self._prepare_signature(call, options) for call in calls]
        if not batch:
            return []
        errors = await self._publisher.asend_batch(batch, self._many_timeout(timeout, batch), batch[0].policy)
        return self._published_many(batch, errors)

    def _many_timeout(self, timeout: float | None, batch: Sequence[Prepared]) -> float:
        return timeout if timeout is not None else batch[0].timeout * (1 + len(batch) // 10_000)

    def _prepare_signature(self, call: Signature[Any], options: Mapping[str, Any]) -> Prepared:
        args, kwargs, merged = call._merge((), {}, options)
        task = self.tasks.get(call.task)
        given = {key: value for key, value in merged.items() if value is not None}
        if task is None:
            return self._publisher.prepare(call.task, args, kwargs, given)
        if task.typing:
            task.check_arguments(args, kwargs)
        return self._publisher.prepare(call.task, args, kwargs, given, task)

    def _published_many(
        self, batch: Sequence[Prepared], errors: Sequence[PublishRefused | PublishUnknown | None]
    ) -> list[AsyncResult[Any]]:
        missing = [item.publication.task_id for item, error in zip(batch, errors, strict=True) if error is not None]
        if missing:
            first = next(error for error in errors if error is not None)
            unknown = next((error for error in errors if isinstance(error, PublishUnknown)), None)
            sentence = f"{len(missing)} of {len(batch)} calls are not confirmed: {unknown or first}"
            error: PublishRefused | PublishUnknown
            error = PublishUnknown(sentence, missing) if unknown else PublishRefused(sentence)
            error.task_ids = tuple(missing)
            raise error from (unknown or first)
        return [self._published(item) for item in batch]

    def _published(self, prepared: Prepared) -> AsyncResult[Any]:
        cls = prepared.result_cls or AsyncResult
        result: AsyncResult[Any] = cls(prepared.publication.task_id, app=self)
        if prepared.ignored:
            result.ignored = True
        if prepared.add_to_parent:
            parent = running_worker_task()
            if parent is not None:
                parent.task.add_trail(result)
        return result

    def signature(self, *args: Any, **kwargs: Any) -> Signature[Any]:
        """A call as data, of a task, a name or a mapping."""
        return signature(*args, app=self, **kwargs)

    def compose(self, left: Any, right: Any) -> Any:
        """``left | right``, by a plugin that can.

        :raises CapabilityMissing: none is installed.
        """
        from kern.contracts.continuation import Composer

        for kind in ("chain", "callbacks"):
            continuation = self.plugins.continuation(kind)
            if isinstance(continuation, Composer):
                return continuation.compose(left, right)
        raise CapabilityMissing("nothing installed can compose calls: pip install kern-canvas")

    # -- what the stages ask for ---------------------------------------------------------------------------------------

    def ask_arguments(
        self, task: Task[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any], serializer: str
    ) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """What plugins make of a call's arguments."""
        if "kern_prepare_arguments" not in self.plugins.listening:
            return []
        return self.plugins.ask(
            "kern_prepare_arguments", app=self, task=task, args=args, kwargs=kwargs, serializer=serializer
        )

    def encode_message(self, message: Message) -> Message:
        """What plugins make of a message before it is published."""
        if "kern_encode_message" in self.plugins.listening:
            for answer in self.plugins.ask("kern_encode_message", app=self, message=message):
                message = answer
        return message

    def decode_message(self, message: Message) -> list[Message]:
        """What plugins make of a message before it is admitted.

        :raises kern.errors.SecurityError: a plugin refuses it.
        """
        return self.plugins.ask("kern_decode_message", app=self, message=message)

    def retry_publication(self, request: Request, retry: Retry) -> Publication:
        """The message by which *request* is tried again: the same id, one retry more."""
        call: Signature[Any] = retry.sig
        options = {key: value for key, value in call.options.items() if value is not None}
        options["parent_id"] = request.id
        options["root_id"] = request.root_id or request.id
        if request.ignore_result is not None:
            options.setdefault("ignore_result", request.ignore_result)
        task = self._tasks.get(call.task)
        return self._publisher.prepare(call.task, call.args, call.kwargs, options, task).publication

    def repeat(self, request: Request, document: Document) -> Outcome:
        """The outcome of a request whose final result is stored already: what follows it is sent again."""
        from kern import protocol

        runner = self.runner(request.hostname or "")
        if request.args is None:
            protocol.attach(request, protocol.read(protocol.message_of(request), self.accept))
        meta = documents.decode_document(document, self.accept)
        follows = runner.follow(request, meta.status, meta.result) if meta.status != states.REVOKED else None
        return Outcome(
            receipt=request.receipt,
            task_id=request.id or "",
            task=request.task or "",
            state=meta.status,
            disposition=Release(),
            follow_ups=follows.publications if follows is not None else (),
            join_parts=follows.join_parts if follows is not None else (),
            summary="completed before",
        )

    def locate(self, task_ids: Sequence[str]) -> dict[str, Whereabouts] | None:
        """Where the broker has these calls; ``None`` where it cannot tell."""
        timeout = self.conf.publish_timeout
        port = self.connection.port(timeout)
        if TransportCapability.LOCATE not in port.capabilities:
            return None
        return self.connection.do(lambda transport: transport.locate(task_ids), timeout)

    # -- eager runs ----------------------------------------------------------------------------------------------------

    def run_eagerly(
        self,
        task: Task[Any, Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        throw: bool | None = None,
        retries: int = 0,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> EagerResult[Any]:
        """Run *task* here and now, as a worker would."""
        if not self._finalized:
            self.finalize()
        task_id = task_id or str(uuid4())
        throw = self.conf.task_eager_propagates if throw is None else throw
        parent = running()
        stamped = options.get("stamped_headers")
        request = Request(
            id=task_id,
            task=task.name,
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            retries=retries,
            called_directly=False,
            is_eager=True,
            hostname=socket.gethostname(),
            headers=dict(headers) if headers else None,
            ignore_result=options.get("ignore_result"),
            root_id=options.get("root_id") or (parent.request.root_id or parent.request.id if parent else task_id),
            parent_id=options.get("parent_id") or (parent.request.id if parent else None),
            group=options.get("group_id"),
            group_index=options.get("group_index"),
            stamped_headers=list(stamped) if stamped else None,
            stamps={name: options.get(name) for name in stamped} if stamped else None,
            callbacks=options.get("link"),
            errbacks=options.get("link_error"),
            delivery_info={
                "is_eager": True,
                "exchange": options.get("exchange"),
                "routing_key": options.get("routing_key"),
                "priority": options.get("priority"),
            },
        )
        execution = run_eagerly(self.runner(request.hostname or ""), task, request, throw)
        self._store_eager(task, request, execution)
        return EagerResult(task_id, execution.value, execution.state, traceback=execution.traceback, name=task.name)

    def _store_eager(self, task: Task[Any, Any], request: Request, execution: Any) -> None:
        ignored = request.ignore_result if request.ignore_result is not None else task.ignore_result
        if task.store_eager_result and not ignored and execution.state in states.READY_STATES:
            self.backend.store_result(
                request.id, execution.value, execution.state, traceback=execution.traceback, request=request
            )

    # -- results -------------------------------------------------------------------------------------------------------

    def AsyncResult(self, task_id: str, **options: Any) -> AsyncResultType[Any]:
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
        key = (os.getpid(), threading.get_ident())
        cached = _oids.get(self)
        if cached is None:
            cached = _oids[self] = {}
        oid = cached.get(key)
        if oid is None:
            oid = cached[key] = str(uuid3(NAMESPACE_OID, f"{_process_id():x}-{key[0]:x}-{key[1]:x}-{id(self):x}"))
        return oid

    @property
    def oid(self) -> str:
        """Names this process and application."""
        return str(uuid3(NAMESPACE_OID, f"{_process_id():x}-{os.getpid():x}-0-{id(self):x}"))

    def either(self, default_key: str, *defaults: Any) -> Any:
        """The first of *defaults* that is not ``None``, else the setting."""
        for value in defaults:
            if value is not None:
                return value
        return self.conf.get(default_key)

    def close(self) -> None:
        """Close every connection; the application can be used again."""
        self.connection.close()
        client = self.__dict__.pop("backend", None)
        if client is not None:
            client.close()

    def __enter__(self) -> Kern:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Kern {self.main or '__main__'} at {id(self):#x}>"


# -- shared tasks ------------------------------------------------------------------------------------------------------


class SharedTask:
    """A task defined for whichever application there is: finds its own when it is used."""

    def __init__(self, fun: Callable[..., Any], options: Mapping[str, Any]) -> None:
        self.__wrapped__ = fun
        self._options = options
        self.__name__, self.__doc__, self.__module__ = fun.__name__, fun.__doc__, fun.__module__

    def define_on(self, app: Kern) -> Task[Any, Any]:
        """The task of *app*."""
        return cast("Task[Any, Any]", app._task_from(self.__wrapped__, **self._options))

    def _task(self) -> Task[Any, Any]:
        entry = running()
        app = entry.task.app if entry is not None else shared.only_app(self.__name__)
        name = self._options.get("name") or app.gen_task_name(self.__name__, self.__module__)
        found = app.tasks.get(name)
        return found if found is not None else self.define_on(app)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._task()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task(), name)

    def __repr__(self) -> str:
        return f"<@shared_task: {self.__module__}.{self.__name__}>"


class SharedTasks:
    """Definitions made by ``@shared_task``, for every application of the process.

    The one declared global: a library that defines tasks does not know the application that will run them.
    """

    def __init__(self) -> None:
        self._pending: list[SharedTask] = []
        self._apps: weakref.WeakSet[Kern] = weakref.WeakSet()

    def adopt(self, app: Kern) -> None:
        self._apps.add(app)

    def add(self, definition: SharedTask) -> None:
        self._pending.append(definition)
        for app in list(self._apps):
            if app._finalized:
                definition.define_on(app)

    def define_on(self, app: Kern) -> None:
        for definition in self._pending:
            definition.define_on(app)

    def only_app(self, name: str) -> Kern:
        """
        :raises ImproperlyConfigured: there is none, or more than one.
        """
        apps = list(self._apps)
        if len(apps) == 1:
            return apps[0]
        if not apps:
            raise ImproperlyConfigured(f"shared task {name!r} was called before an application was made: app = Kern(…)")
        raise ImproperlyConfigured(
            f"shared task {name!r} belongs to {len(apps)} applications; call it through one: app.tasks[…]"
        )


shared = SharedTasks()


@overload
def shared_task(fun: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Any) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...
@overload
def shared_task(*, bind: Literal[False] = ..., **options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def shared_task(*args: Any, **options: Any) -> Any:
    """Decorator: a task of every application, for libraries that do not have one. Options as :meth:`Kern.task`."""

    def define(fun: Callable[..., Any]) -> SharedTask:
        definition = SharedTask(fun, options)
        shared.add(definition)
        return definition

    return define(args[0]) if args else define


# -- built-in tasks ----------------------------------------------------------------------------------------------------


def _define_built_in(app: Kern) -> None:
    """Celery's own tasks that need no workflow, under their names."""

    def backend_cleanup() -> None:
        """Delete expired results where the server does not."""
        app.backend.cleanup()

    def accumulate(*args: Any, index: int | None = None) -> Any:
        """All arguments, or the one at *index*."""
        return args if index is None else args[index]

    app._task_from(backend_cleanup, name="celery.backend_cleanup", shared=False)
    app._task_from(accumulate, name="celery.accumulate", shared=False)


# -- helpers -----------------------------------------------------------------------------------------------------------

_oids: weakref.WeakKeyDictionary[Kern, dict[tuple[int, int], str]] = weakref.WeakKeyDictionary()
_process: dict[int, int] = {}


def _process_id() -> int:
    pid = os.getpid()
    if pid not in _process:
        _process[pid] = uuid4().int
    return _process[pid]


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


def _as_attribute(value: Any) -> Any:
    """A function given as an option is a value, not a method."""
    return staticmethod(value) if inspect.isfunction(value) else value


def import_module(name: str) -> ModuleType:
    """
    :raises ImproperlyConfigured: it cannot be imported; names the module and the cause.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ImproperlyConfigured(
            f"the module {name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _import_related(package: str, related_name: str | None) -> None:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        parent = package.rpartition(".")[0]
        if not parent or error.name != package:
            raise ImproperlyConfigured(f"the package {package!r} cannot be imported: {error}") from error
        package = parent
    if not related_name:
        return
    module = f"{package}.{related_name}"
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise ImproperlyConfigured(f"the module {module!r} cannot be imported: {error}") from error
    except Exception as error:
        raise ImproperlyConfigured(
            f"the module {module!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
