"""Where a call goes: queues as configured, routes as configured, and the destination of one call.

:class:`Queues` is the set of queues an application knows, :class:`Router` finds the :class:`Destination` of a call
among them, by Celery's rules:

1. Routers are asked in order; the first answer that is not ``None`` is the route. What the call itself says wins over
   it, option by option; an option that is ``None`` says nothing. A call that names its queue goes there: of the route's
   ``exchange``, ``exchange_type`` and ``routing_key`` nothing is left then (in Celery they are, and win).
2. Neither names a queue or an exchange: the default queue.
3. A direct exchange is not needed to reach a queue: unless both exchange and routing key are given, the message goes to
   the anonymous exchange, under the queue's name.

The *priority* is that of the call, else the parent task's (``task_inherit_parent_priority``), else the route's, else
the task's, else ``task_default_priority``.

``task_routes`` is one router or a list of them:

=======================================  ===============================================================================
``{pattern: route}``                     exact names first, then in order: names with ``*`` as globs, compiled regular
                                         expressions matched from the start
``[(pattern, route), …]``                the same as pairs
callable                                 ``(name, args, kwargs, options, task=None)``, gives a route or ``None``
object or class                          with ``route_for_task(name, args, kwargs)``
``"module:object"``                      imported when the first call is routed
=======================================  ===============================================================================

A *route* is the name of a queue, a queue, or a mapping of options: ``queue``, ``exchange``, ``exchange_type``,
``routing_key``, ``priority``, ``delivery_mode`` and whatever else calls may have (``serializer``, ``expires`` …).
"""

from __future__ import annotations

import fnmatch
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import attrs

from kern.config_sources import import_name
from kern.errors import ImproperlyConfigured, QueueNotFound, nearest
from kern.queues import QueueSpec, delivery_mode
from kern.settings import Section, Settings, setting

#: The exchange of the queues that belong to one worker each.
WORKER_DIRECT_EXCHANGE = "C.dq2"

#: Options that decide where a call goes.
_PLACES = ("queue", "exchange", "exchange_type", "routing_key", "delivery_mode", "priority")
_PLACE_NAMES = frozenset(_PLACES)
#: Options that calls are known to have, to notice a misspelt one in a route.
_CALL_OPTIONS = _PLACE_NAMES | {
    *("serializer", "compression", "expires", "time_limit", "soft_time_limit", "countdown", "eta", "headers"),
    *("retry", "retry_policy", "immediate", "mandatory", "ignore_result", "shadow", "reply_to", "task_id"),
}
#: Names whose destination is remembered; a client that makes up names must not fill the memory.
_CACHE_LIMIT = 4096


# -- settings ----------------------------------------------------------------------------------------------------------


def _mode(value: Any) -> Any:
    return delivery_mode(value)


def _priority(value: int | None) -> None:
    if value is not None and not 0 <= value <= 255:
        raise ValueError("expected a priority from 0 to 255")


def _exchange_type(value: str | None) -> None:
    if value is not None and value not in ("direct", "topic", "fanout", "headers") and not value.startswith("x-"):
        raise ValueError("expected 'direct', 'topic', 'fanout', 'headers' or a type of the broker's that starts 'x-'")


def _check_queues(value: Any) -> None:
    _configured_queues(value)


def _check_routes(value: Any) -> None:
    _routers(value, imports=False)


class RoutingSettings(Section):
    """Where calls go."""

    task_queues: Any = setting(
        None,
        "The queues there are: a list of kombu's Queue, or {name: options}. Unset: the default queue.",
        validate=_check_queues,
    )
    task_routes: Any = setting(
        None,
        "Routers, asked in order: {pattern: route}, a callable, the dotted name of one, or a list of these.",
        validate=_check_routes,
    )
    task_default_queue: str = setting("celery", "Queue of a call that no route sends elsewhere.")
    task_default_queue_type: Literal["classic", "quorum"] = setting("classic", "Type of the default queue.")
    task_default_exchange: str | None = setting(
        None, "Exchange of queues that do not name one. Unset: task_default_queue."
    )
    task_default_exchange_type: str = setting("direct", "Its type.", validate=_exchange_type)
    task_default_routing_key: str | None = setting(
        None, "Routing key of queues that do not name one. Unset: task_default_queue."
    )
    task_default_delivery_mode: int = setting(2, "1 or 'transient', 2 or 'persistent'.", convert=_mode)
    task_default_priority: int | None = setting(None, "Priority of calls that have none.", validate=_priority)
    task_inherit_parent_priority: bool = setting(False, "A call made in a task has the priority of that task.")
    task_queue_max_priority: int | None = setting(
        None, "Largest priority of queues that do not say (x-max-priority).", validate=_priority
    )
    task_create_missing_queues: bool = setting(True, "Queues that task_queues does not have are made when named.")
    task_create_missing_queue_type: Literal["classic", "quorum"] = setting("classic", "Type of queues so made.")
    task_create_missing_queue_exchange_type: str | None = setting(
        None, "Type of the exchange of queues so made. Unset: direct.", validate=_exchange_type
    )
    worker_direct: bool = setting(False, "A worker also consumes a queue of its own, <node>.dq2 on exchange C.dq2.")


# -- queues ------------------------------------------------------------------------------------------------------------


def worker_direct(node: str | QueueSpec) -> QueueSpec:
    """The queue that only the worker *node* consumes (``worker_direct``)."""
    if isinstance(node, QueueSpec):
        return node
    return QueueSpec(f"{node}.dq2", exchange=WORKER_DIRECT_EXCHANGE, routing_key=node)


def queue_spec(value: Any) -> QueueSpec:
    """The queue that was written: a :class:`QueueSpec` or a ``kombu.Queue``.

    :raises ValueError: neither.
    """
    if isinstance(value, QueueSpec):
        return value
    # By shape, so that kombu is not imported by whoever has no queue of it.
    if hasattr(value, "routing_key") and hasattr(value, "queue_arguments") and hasattr(value, "exchange"):
        if not value.name:
            raise ValueError(f"a queue needs a name: {value!r}")
        return QueueSpec.from_kombu(value)
    raise ValueError(f"expected a queue (kombu.Queue), not {value!r}")


def _configured_queues(value: Any) -> list[tuple[str, QueueSpec | None]]:
    """The queues of ``task_queues`` by name; ``None`` for a plain name, a queue made as automatic ones are."""
    if not value:
        return []
    if isinstance(value, Mapping):
        return [(name, _named_queue(name, options)) for name, options in value.items()]
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError("expected a list of queues, or {name: options}")
    specs = [(item, None) if isinstance(item, str) else (None, queue_spec(item)) for item in value]
    return [(name or (spec.name if spec else ""), spec) for name, spec in specs]


def _named_queue(name: Any, options: Any) -> QueueSpec:
    if not isinstance(name, str) or not name:
        raise ValueError(f"expected {{name: options}} with text for a name, not {name!r}")
    if options is None or isinstance(options, Mapping):
        return QueueSpec.from_options(name, options or {})
    return queue_spec(options)


#: What else than ``task_queues`` the queues depend on.
_QUEUE_SETTINGS = (
    *("task_default_queue", "task_default_queue_type", "task_default_exchange", "task_default_exchange_type"),
    *("task_default_routing_key", "task_queue_max_priority", "task_create_missing_queues"),
    *("task_create_missing_queue_type", "task_create_missing_queue_exchange_type"),
)


class Queues(Mapping[str, QueueSpec]):
    """The queues an application knows, by name; a broadcast queue also by its alias.

    A name that nobody declared gives a queue too (``task_create_missing_queues``), which is not counted among those
    declared: whoever publishes to a queue does not thereby consume it. Safe for use by several threads.

    :ivar changes: raised with every change, for those who keep what they derived.
    """

    def __init__(self, settings: RoutingSettings | None = None) -> None:
        self._lock = threading.RLock()
        self._settings = settings or RoutingSettings()
        self._declared: dict[str, QueueSpec] = {}
        self._added: dict[str, QueueSpec] = {}
        self._created: dict[str, QueueSpec] = {}
        self._aliases: dict[str, str] = {}
        self._selected: dict[str, QueueSpec] | None = None
        self.changes = 0
        self._configure()

    def use(self, settings: RoutingSettings) -> None:
        """Take other settings; what was added and selected by hand stays."""
        if settings is self._settings:
            return
        with self._lock:
            before, self._settings = self._settings, settings
            # By identity: kombu's queues are equal in spite of some differences.
            if before.task_queues is not settings.task_queues or any(
                getattr(before, key) != getattr(settings, key) for key in _QUEUE_SETTINGS
            ):
                self._configure()

    def _configure(self) -> None:
        settings = self._settings
        self._declared, self._created, self._aliases = {}, {}, {}
        for name, spec in _configured_queues(settings.task_queues):
            queue = self._put(self.automatic(name) if spec is None else self._completed(spec))
            if name != queue.name:
                self._aliases[name] = queue.name
        if not self._declared:
            arguments = {"x-queue-type": "quorum"} if settings.task_default_queue_type == "quorum" else None
            self._put(self._completed(QueueSpec(settings.task_default_queue, queue_arguments=arguments)))
        for queue in self._added.values():
            self._put(queue)
        if self._selected is not None:
            self._selected = {name: self._declared.get(name, queue) for name, queue in self._selected.items()}
        self.changes += 1

    def _put(self, queue: QueueSpec) -> QueueSpec:
        self._declared[queue.name] = queue
        self._created.pop(queue.name, None)
        if queue.alias:
            self._aliases[queue.alias] = queue.name
        return queue

    def _completed(self, queue: QueueSpec) -> QueueSpec:
        """With what the settings say where it says nothing."""
        settings = self._settings
        changes: dict[str, Any] = {}
        if not queue.exchange:
            changes["exchange"] = settings.task_default_exchange or settings.task_default_queue
            changes["exchange_type"] = settings.task_default_exchange_type
        if not queue.routing_key:
            changes["routing_key"] = settings.task_default_routing_key or settings.task_default_queue
        if settings.task_queue_max_priority is not None and queue.max_priority is None:
            limit = settings.task_queue_max_priority
            changes["max_priority"] = limit
            changes["queue_arguments"] = {**(queue.queue_arguments or {}), "x-max-priority": limit}
        return attrs.evolve(queue, **changes) if changes else queue

    def automatic(self, name: str) -> QueueSpec:
        """The queue that is made for a name nobody declared; it is not added."""
        settings = self._settings
        quorum = settings.task_create_missing_queue_type == "quorum"
        return self._completed(
            QueueSpec(
                name,
                exchange=name,
                exchange_type=settings.task_create_missing_queue_exchange_type or "direct",
                routing_key=name,
                queue_arguments={"x-queue-type": "quorum"} if quorum else None,
            )
        )

    # -- reading -------------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> QueueSpec:
        """The queue *name*, made if need be.

        :raises QueueNotFound: not declared, and not to be made. It is a ``KeyError``.
        """
        found = self._declared.get(name) or self._created.get(name)
        if found is not None:
            return found
        with self._lock:
            found = self._declared.get(self._aliases.get(name, name))
            if found is not None:
                return found
            if not self._settings.task_create_missing_queues:
                suggestion = nearest(name, (*self._declared, *self._aliases))
                hint = f"; did you mean {suggestion!r}?" if suggestion else ""
                raise QueueNotFound(f"Queue {name!r} missing from task_queues{hint}")
            if not isinstance(name, str) or not name:
                raise QueueNotFound(f"a queue has a name, not {name!r}")
            if len(self._created) >= _CACHE_LIMIT:
                self._created.clear()
            return self._created.setdefault(name, self.automatic(name))

    def __contains__(self, name: object) -> bool:
        """Whether *name* is declared; one that would be made is not."""
        return name in self._declared or name in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._declared))

    def __len__(self) -> int:
        return len(self._declared)

    def __repr__(self) -> str:
        return f"<Queues: {', '.join(self._declared)}>"

    @property
    def default(self) -> QueueSpec:
        """The queue of calls that nothing sends elsewhere."""
        return self[self._settings.task_default_queue]

    def exchange_type(self, exchange: str) -> str | None:
        """The type of an exchange that a declared queue is bound to."""
        if exchange == (self._settings.task_default_exchange or self._settings.task_default_queue):
            return self._settings.task_default_exchange_type
        for queue in tuple(self._declared.values()):
            for binding in queue.all_bindings():
                if binding.exchange == exchange:
                    return binding.exchange_type
        return None

    # -- changing ------------------------------------------------------------------------------------------------------

    def add(self, queue: Any, **options: Any) -> QueueSpec:
        """Declare another queue.

        :param queue: a ``kombu.Queue``, a :class:`QueueSpec`, or a name with *options* as in ``task_queues``.
        :raises ValueError: no queue, or options that queues do not have.
        """
        if isinstance(queue, str):
            made = QueueSpec.from_options(queue, options)
        elif options:
            raise ValueError(f"options go with a queue's name, not with {queue!r}")
        else:
            made = queue_spec(queue)
        with self._lock:
            made = self._completed(made)
            self._added[made.name] = made
            self._put(made)
            self.changes += 1
        return made

    # -- what a worker consumes ----------------------------------------------------------------------------------------

    @property
    def consume_from(self) -> Mapping[str, QueueSpec]:
        """The queues a worker consumes: those selected, else all that are declared."""
        with self._lock:
            return dict(self._declared if self._selected is None else self._selected)

    def select(self, names: Iterable[str] | str | None) -> None:
        """Consume these queues and no others; nothing changes for ``None`` and an empty list.

        :raises QueueNotFound: one is not declared, and not to be made.
        """
        if names:
            with self._lock:
                chosen = [self[name] for name in _listed(names)]
                self._selected = {queue.name: queue for queue in chosen}
                self.changes += 1

    def deselect(self, names: Iterable[str] | str | None) -> None:
        """Do not consume these queues."""
        if names:
            with self._lock:
                left_out = {self._aliases.get(name, name) for name in _listed(names)}
                self._selected = {name: q for name, q in self.consume_from.items() if name not in left_out}
                self.changes += 1

    def select_add(self, queue: Any, **options: Any) -> QueueSpec:
        """Declare another queue, and consume it too."""
        with self._lock:
            made = self.add(queue, **options)
            if self._selected is not None:
                self._selected[made.name] = made
        return made

    def format(self, indent: int = 0, indent_first: bool = True) -> str:
        """The consumed queues as lines for people."""
        lines = [
            f".> {queue.name:<16} exchange={queue.exchange}({queue.exchange_type}) key={queue.routing_key}"
            for _, queue in sorted(self.consume_from.items())
        ]
        text = "\n".join(" " * indent + line for line in lines)
        return text if indent_first else text[indent:]


def _listed(names: Iterable[str] | str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else list(names)


# -- routers -----------------------------------------------------------------------------------------------------------

#: Asked with name, arguments, keyword arguments, options and task; gives a route or ``None``.
_Ask = Callable[[str, Any, Any, Mapping[str, Any], Any], Any]


class MapRoute:
    """Routes by the name of the task: exact names first, then patterns in order.

    :param routes: ``{pattern: route}`` or pairs of these; a pattern is a name, a glob with ``*``, or a compiled regular
        expression.
    :raises ValueError: a pattern or route that cannot be one.
    """

    def __init__(self, routes: Mapping[Any, Any] | Iterable[Sequence[Any]]) -> None:
        pairs = routes.items() if isinstance(routes, Mapping) else routes
        self.exact: dict[str, Any] = {}
        self.patterns: list[tuple[re.Pattern[str], Any]] = []
        for pair in pairs:
            if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
                raise ValueError(f"expected pairs of pattern and route, not {pair!r}")
            pattern, route = pair
            _check_route(route, f"the route of {pattern!r}")
            if isinstance(pattern, re.Pattern):
                self.patterns.append((pattern, route))
            elif not isinstance(pattern, str):
                raise ValueError(
                    f"a pattern is a task's name, a glob or a compiled regular expression, not {pattern!r}"
                )
            elif "*" in pattern:
                self.patterns.append((re.compile(fnmatch.translate(pattern)), route))
            else:
                self.exact[pattern] = route

    def __call__(self, name: str, *_: Any, **__: Any) -> Any:
        found = self.exact.get(name)
        if found is not None:
            return found
        for pattern, route in self.patterns:
            if pattern.match(name):
                return route
        return None


def _check_route(route: Any, what: str) -> None:
    """Refuse what can be no route, with a ``ValueError``."""
    if route is None or isinstance(route, str):
        return
    if not isinstance(route, Mapping):
        try:
            queue_spec(route)
        except ValueError:
            raise ValueError(
                f"{what} must be the name of a queue, a queue, or a mapping of options, not {route!r}"
            ) from None
        return
    for option in route:
        if not isinstance(option, str):
            raise ValueError(f"{what} has an option {option!r} that is no text")
        # Calls may have options of anybody's making; only what is almost one of ours is a mistake for certain.
        suggestion = None if option in _CALL_OPTIONS else nearest(option, _CALL_OPTIONS, cutoff=0.8)
        if suggestion:
            raise ValueError(f"{what} has an option {option!r}; did you mean {suggestion!r}?")
    priority, queue = route.get("priority"), route.get("queue")
    if priority is not None:
        _check_priority(priority)
    delivery_mode(route.get("delivery_mode"))
    if queue is not None and not isinstance(queue, str):
        queue_spec(queue)


def _check_priority(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"a priority is an integer from 0 to 255, not {value!r}")
    _priority(value)


class _Imported:
    """A router given by its dotted name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._routers: list[tuple[_Ask, bool]] | None = None

    def __call__(self, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any) -> Any:
        if self._routers is None:
            what = f"setting 'task_routes', router {self.name!r}"
            found = import_name(self.name, what)
            if isinstance(found, str):
                raise ImproperlyConfigured(f"{what}: {found!r} is no router")
            try:
                self._routers = _routers([found])
            except ValueError as error:
                raise ImproperlyConfigured(f"{what}: {error}") from error
        return _first(self._routers, name, args, kwargs, options, task)


def _first(
    routers: Iterable[tuple[_Ask, bool]], name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any
) -> Any:
    for ask, _ in routers:
        route = ask(name, args, kwargs, options, task)
        if route is not None:
            return route
    return None


def _routers(value: Any, imports: bool = True) -> list[tuple[_Ask, bool]]:
    """What ``task_routes`` names, in order; each with whether its answer depends on the name alone.

    :param imports: dotted names and classes may be used; else they are only looked at.
    """
    if value is None or value == () or value == [] or value == {}:
        return []
    if isinstance(value, list | tuple):
        if all(_is_pair(item) for item in value):
            return [(MapRoute(value), True)]
        return [_router(item, imports) for item in value]
    return [_router(value, imports)]


def _is_pair(item: Any) -> bool:
    return (
        isinstance(item, list | tuple)
        and len(item) == 2
        and isinstance(item[0], str | re.Pattern)
        and not isinstance(item[1], list | tuple)
    )


def _router(value: Any, imports: bool) -> tuple[_Ask, bool]:
    if isinstance(value, Mapping | list | tuple):
        return MapRoute(value), True
    if isinstance(value, str):
        if not value.strip(":."):
            raise ValueError(f"a router's name is 'module:object', not {value!r}")
        return _Imported(value), False
    if hasattr(value, "route_for_task"):
        instance = value() if isinstance(value, type) and imports else value
        return lambda name, args, kwargs, options, task: instance.route_for_task(name, args, kwargs), False
    if callable(value):
        return lambda name, args, kwargs, options, task: value(name, args, kwargs, options, task=task), False
    raise ValueError(
        f"a router is a mapping, a list of pairs, a callable, an object with route_for_task, or the dotted name of one,"
        f" not {value!r}"
    )


# -- the destination of a call -----------------------------------------------------------------------------------------


@attrs.frozen
class Destination:
    """Where one call goes."""

    #: ``""``: straight to the queue named by :attr:`routing_key`.
    exchange: str
    exchange_type: str
    routing_key: str
    #: The queue it was sent to; ``None`` when only an exchange was named.
    queue: QueueSpec | None
    #: Whether the broker is to know :attr:`queue` before the message is published; not so with broadcast queues.
    declare: bool
    #: 1 transient, 2 persistent.
    delivery_mode: int
    priority: int | None
    #: What else the call and its route say: ``serializer``, ``expires`` …; nothing in it is ``None``.
    options: Mapping[str, Any]


@attrs.frozen
class _Prepared:
    """What follows from one state of settings and queues."""

    version: int
    queue_changes: int
    settings: RoutingSettings
    routers: tuple[tuple[_Ask, bool], ...]
    #: The route depends on nothing but the name.
    by_name: bool
    #: Destinations of calls that name no place themselves, by task name and the task's own priority.
    cache: dict[tuple[str, int | None], Destination]


_NO_OPTIONS: Mapping[str, Any] = {}


class Router:
    """Finds the destination of calls, by the settings as they are at each call.

    Safe for use by several threads. A mapping in ``task_routes`` that is changed in place after the first call is not
    looked at again; assign it.

    :param conf: the application's settings, with :class:`RoutingSettings` among them.
    :param queues: the queues to find; default: those of the settings.
    :param routes: in place of ``task_routes``, in any of its forms.
    """

    def __init__(self, conf: Settings, queues: Queues | None = None, routes: Any = None) -> None:
        self._conf = conf
        self._routes = routes
        self._lock = threading.Lock()
        self._prepared: _Prepared | None = None
        self._queues = queues

    @property
    def queues(self) -> Queues:
        """The queues of the application, by the settings as they are now."""
        settings = self._conf.section(RoutingSettings)
        if self._queues is None:
            with self._lock:
                if self._queues is None:
                    self._queues = Queues(settings)
        self._queues.use(settings)
        return self._queues

    def route(
        self,
        options: Mapping[str, Any] | None,
        name: str,
        args: Any = (),
        kwargs: Any = None,
        task: Any = None,
        parent_priority: int | None = None,
    ) -> Destination:
        """Where the call of the task *name* goes.

        :param options: of the call, with the task's own ``queue``, ``exchange`` and ``routing_key`` where the call has
            none, but without the task's ``priority``: that weighs less than the route's.
        :param name: what routers see; a wrapper around another task gives that task's.
        :param task: the task, if it is known here; its ``priority`` is read, and callable routers get it.
        :param parent_priority: priority of the message of the task that makes this call, unless the caller named a
            parent or root explicitly.
        :raises QueueNotFound: a queue is named that does not exist and may not be made.
        :raises ValueError: an option or a route that cannot be one.
        """
        prepared = self._current()
        own_priority = None if task is None else getattr(task, "priority", None)
        inherited = parent_priority if prepared.settings.task_inherit_parent_priority else None
        if not options:
            if prepared.by_name and inherited is None:
                cached = prepared.cache.get((name, own_priority))
                if cached is not None:
                    return cached
            given = _NO_OPTIONS
        else:
            given = {option: value for option, value in options.items() if value is not None}
        if prepared.by_name and inherited is None and _PLACE_NAMES.isdisjoint(given):
            cached = prepared.cache.get((name, own_priority))
            if cached is None:
                route = _first(prepared.routers, name, (), {}, {}, task)
                cached = self._destination(prepared, _NO_OPTIONS, route, name, own_priority, None)
                if len(prepared.cache) >= _CACHE_LIMIT:
                    prepared.cache.clear()
                prepared.cache[name, own_priority] = cached
            if not given:
                return cached
            return Destination(
                cached.exchange,
                cached.exchange_type,
                cached.routing_key,
                cached.queue,
                cached.declare,
                cached.delivery_mode,
                cached.priority,
                {**cached.options, **given},
            )
        route = _first(prepared.routers, name, args, kwargs if kwargs is not None else {}, given, task)
        return self._destination(prepared, given, route, name, own_priority, inherited)

    @property
    def changes(self) -> int:
        """Raised with every change of the queues by hand; those of settings have the settings' version."""
        return -1 if self._queues is None else self._queues.changes

    @property
    def asks_arguments(self) -> bool:
        """Whether a call's destination may depend on more than the task's name and the call's options."""
        return not self._current().by_name

    def _current(self) -> _Prepared:
        """What follows from settings and queues as they are now."""
        prepared = self._prepared
        if (
            prepared is None
            or prepared.version != self._conf.version
            or (self._queues is not None and prepared.queue_changes != self._queues.changes)
        ):
            return self._prepare()
        return prepared

    def _prepare(self) -> _Prepared:
        queues = self.queues
        version, settings = self._conf.version, self._conf.section(RoutingSettings)
        before = self._prepared
        if before is not None and before.settings.task_routes is settings.task_routes:
            # A router may remember things; another setting's change is no reason to make it anew.
            routers = before.routers
        else:
            routers = tuple(_routers(settings.task_routes if self._routes is None else self._routes))
        prepared = _Prepared(
            version=version,
            queue_changes=queues.changes,
            settings=settings,
            routers=routers,
            by_name=all(by_name for _, by_name in routers),
            cache={},
        )
        self._prepared = prepared
        return prepared

    def _destination(
        self,
        prepared: _Prepared,
        given: Mapping[str, Any],
        route: Any,
        name: str,
        own_priority: int | None,
        inherited: int | None,
    ) -> Destination:
        options = _as_options(route, name)
        if "queue" in given:
            for place in ("exchange", "exchange_type", "routing_key"):
                options.pop(place, None)
        options.update(given)
        queues, settings = self.queues, prepared.settings
        queue = options.pop("queue", None)
        exchange = options.pop("exchange", None)
        exchange_type = options.pop("exchange_type", None)
        routing_key = options.pop("routing_key", None)
        mode = options.pop("delivery_mode", None)
        priority = _first_given(
            given.get("priority"),
            inherited,
            options.pop("priority", None),
            own_priority,
            settings.task_default_priority,
        )
        spec = _resolved(queue, queues) if queue else None
        if spec is None and exchange is None:
            spec = queues.default
        if exchange is not None and not isinstance(exchange, str):
            exchange_type = exchange_type or getattr(exchange, "type", None)
            exchange = getattr(exchange, "name", exchange)
        _check_text("exchange", exchange)
        _check_text("routing_key", routing_key)
        _check_text("exchange_type", exchange_type)
        _exchange_type(exchange_type)
        if priority is not None:
            _check_priority(priority)
        if not exchange_type:
            known = queues.exchange_type(exchange) if exchange and spec is None else None
            exchange_type = spec.exchange_type if spec is not None else known or "direct"
        if exchange_type == "direct" and spec is not None and not (exchange and routing_key):
            exchange, routing_key = "", spec.name
        else:
            default = settings.task_default_exchange or settings.task_default_queue
            if exchange is None:
                exchange = (spec.exchange if spec is not None else "") or default
            if not routing_key:
                routing_key = spec.routing_key if spec is not None and spec.routing_key else None
                routing_key = routing_key or settings.task_default_routing_key or settings.task_default_queue
        return Destination(
            exchange=exchange,
            exchange_type=exchange_type,
            routing_key=routing_key,
            queue=spec,
            declare=spec is not None and not spec.is_broadcast,
            delivery_mode=delivery_mode(mode)
            or (spec.delivery_mode if spec is not None else None)
            or settings.task_default_delivery_mode,
            priority=priority,
            options=MappingProxyType(options),
        )


def _as_options(route: Any, name: str) -> dict[str, Any]:
    """A route as options; one that names a queue."""
    if not route:
        return {}
    if isinstance(route, str):
        return {"queue": route}
    if isinstance(route, Mapping):
        return {option: value for option, value in route.items() if value is not None}
    _check_route(route, f"the route of {name!r}")
    return {"queue": route}


def _resolved(queue: Any, queues: Queues) -> QueueSpec:
    if isinstance(queue, str):
        return queues[queue]
    return queue_spec(queue)


def _first_given(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _check_text(what: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{what} must be text, not {value!r}")
