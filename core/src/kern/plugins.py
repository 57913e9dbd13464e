"""Finds plugins, loads those that are wanted, and says why the others are not.

Both kinds of extension come in by one door, the entry-point group ``kern.plugins``. stevedore discovers and filters by
name before anything is imported; pluggy registers and checks. A plugin that cannot be loaded is reported by
distribution and version and stops nothing else.
"""

from __future__ import annotations

import enum
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs
import pluggy

from kern import log
from kern.errors import ImproperlyConfigured, PluginConflict, PluginMissing, nearest
from kern.hookspecs import API, Hooks

if TYPE_CHECKING:
    from kern.contracts.continuation import Continuation

T = TypeVar("T")
logger = log.get_logger("kern.plugins")

GROUP = "kern.plugins"

#: What to install for a URL scheme or pool that nothing installed provides.
KNOWN_DRIVERS: Mapping[str, Mapping[str, str]] = {
    "transport": {
        **dict.fromkeys(
            ("sqlite", "postgresql", "postgres", "mysql", "mariadb", "sqla", "sqlalchemy"), "kern-broker-sql"
        ),
        **dict.fromkeys(("redis", "rediss", "redis+socket", "sentinel", "valkey"), "kern-broker-redis"),
        **dict.fromkeys(("amqp", "amqps", "pyamqp", "librabbitmq"), "kern-broker-amqp"),
        "memory": "kern-testing",
    },
    "result store": {
        **dict.fromkeys(("db", "database", "sqlite", "postgresql", "postgres", "mysql", "mariadb"), "kern-backend-sql"),
        **dict.fromkeys(("redis", "rediss", "redis+socket", "sentinel", "valkey"), "kern-backend-redis"),
        **dict.fromkeys(("rpc", "amqp"), "kern-backend-rpc"),
        "memory": "kern-testing",
    },
    "pool": {
        **dict.fromkeys(("prefork", "processes"), "kern-pool-prefork"),
        "threads": "kern-pool-threads",
        "gevent": "kern-pool-gevent",
        "asyncio": "kern-pool-asyncio",
    },
    "scheduler": {},
    "monitor": {},
}


#: What to install for an option of ``@app.task`` that nothing installed makes act.
KNOWN_TASK_OPTIONS: Mapping[str, str] = dict.fromkeys(
    ("pydantic", "pydantic_strict", "pydantic_context", "pydantic_dump_kwargs"), "kern-pydantic"
)


class State(enum.StrEnum):
    """What became of an installed plugin."""

    ACTIVE = "active"
    OFF = "off"
    FAILED = "failed"
    REFUSED = "refused"


@attrs.frozen
class PluginInfo:
    """One installed plugin, for ``kern plugins``."""

    name: str
    distribution: str
    version: str
    state: State
    #: Why it is not active.
    reason: str = ""
    #: What it drives: kind → names.
    drives: Mapping[str, Sequence[str]] = attrs.field(factory=dict)


@attrs.frozen
class Selection:
    """Which plugins are wanted: ``a,b`` (only these), ``-x`` (all but these), or both."""

    only: frozenset[str] | None = None
    without: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str | None) -> Selection:
        """From ``--plugins`` or ``KERN_PLUGINS``; empty means all that are installed."""
        names = [name.strip() for name in (text or "").split(",") if name.strip()]
        only = frozenset(name for name in names if not name.startswith("-"))
        return cls(only or None, frozenset(name[1:] for name in names if name.startswith("-")))

    @classmethod
    def from_environment(cls) -> Selection:
        """From ``KERN_PLUGINS``."""
        return cls.parse(os.environ.get("KERN_PLUGINS"))

    def why_off(self, name: str) -> str | None:
        """Why the plugin *name* is not wanted, or ``None`` when it is."""
        if name in self.without:
            return f"switched off by '-{name}'"
        if self.only is not None and name not in self.only:
            return "not among the plugins asked for"
        return None

    def check(self, known: Iterable[str]) -> None:
        """
        :raises ImproperlyConfigured: a name is not an installed plugin.
        """
        known = sorted(known)
        for name in sorted((self.only or frozenset()) | self.without):
            if name not in known:
                close = nearest(name, known)
                raise ImproperlyConfigured(
                    f"no plugin {name!r} is installed; "
                    + (f"did you mean {close!r}? " if close else "")
                    + f"installed: {', '.join(known) or 'none'}"
                )


class Plugins:
    """The plugins of one application."""

    def __init__(self, selection: Selection | None = None) -> None:
        self._manager = pluggy.PluginManager("kern")
        self._manager.add_hookspecs(Hooks)
        self.hook = cast(Hooks, self._manager.hook)
        self._selection = selection if selection is not None else Selection.from_environment()
        #: Every installed plugin: entry point, state, why. Whose distribution it is costs a look at all that is
        #: installed, and is asked for only when it is shown.
        self._found: dict[str, tuple[Any, State, str]] = {}
        self._drivers: dict[str, dict[str, tuple[str, Any]]] = {}
        self._continuations: dict[str, Continuation] | None = None
        self._listening: frozenset[str] | None = None
        self._lock = threading.RLock()
        self._loaded = self._loading = False

    @property
    def selection(self) -> Selection:
        """Which plugins are wanted."""
        return self._selection

    # -- loading -------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Discover and register what is installed and wanted; once.

        :raises ImproperlyConfigured: a plugin was asked for that is not installed.
        :raises PluginConflict: two distributions have a plugin of the same name.
        """
        if self._loaded:
            return
        with self._lock:
            if self._loaded or self._loading:
                return
            self._loading = True
            try:
                self._load()
                self._loaded = True
            finally:
                self._loading = False

    def _load(self) -> None:
        from stevedore import NamedExtensionManager

        entry_points = NamedExtensionManager(GROUP, names=[]).list_entry_points()
        found: dict[str, Any] = {}
        for entry_point in entry_points:
            other = found.get(entry_point.name)
            if other is not None and other.value != entry_point.value:
                raise PluginConflict(
                    f"two distributions have a plugin {entry_point.name!r}: "
                    f"{_distribution(other)[0]} and {_distribution(entry_point)[0]}; uninstall one"
                )
            found[entry_point.name] = entry_point
        self._selection.check(found)
        wanted = []
        for name, entry_point in sorted(found.items()):
            why_off = self._selection.why_off(name)
            if why_off is None:
                wanted.append(name)
            else:
                self._note(entry_point, State.OFF, why_off)
        failures: list[tuple[Any, BaseException]] = []
        extensions: Any = NamedExtensionManager(
            GROUP,
            names=wanted,
            invoke_on_load=False,
            on_load_failure_callback=lambda _manager, entry_point, error: failures.append((entry_point, error)),
        )
        for entry_point, error in failures:
            self._failed(entry_point, State.FAILED, f"{type(error).__name__}: {error}")
        for extension in sorted(extensions, key=lambda e: e.name):
            self._register(extension.entry_point, extension.plugin)

    def _register(self, entry_point: Any, module: Any) -> None:
        api = getattr(module, "KERN_API", None)
        if api != API:
            built = f"built for API {api}" if api is not None else "does not say which API it was built for (KERN_API)"
            self._failed(entry_point, State.REFUSED, f"{built}, this kern has API {API}")
            return
        try:
            self._add(module, entry_point.name)
        except ImproperlyConfigured as error:
            self._failed(entry_point, State.FAILED, str(error))
            return
        self._note(entry_point, State.ACTIVE)

    def _add(self, plugin: object, name: str | None) -> None:
        """Register what implements hooks.

        :raises ImproperlyConfigured: it implements a hook that does not exist, or not as the hook is.
        """
        for attribute in dir(plugin):
            marked = self._manager.parse_hookimpl_opts(plugin, attribute)
            problem = _problem(attribute, marked, plugin)
            if problem:
                raise ImproperlyConfigured(problem)
        if self._manager.is_registered(plugin) or (name is not None and self._manager.has_plugin(name)):
            raise ImproperlyConfigured("registered already")
        try:
            self._manager.register(plugin, name)
        except pluggy.PluginValidationError as error:
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            raise ImproperlyConfigured(" ".join(str(error).split())) from error

    def _failed(self, entry_point: Any, state: State, reason: str) -> None:
        self._note(entry_point, state, reason)
        distribution, version = _distribution(entry_point)
        logger.error(
            f"plugin {state.value}", plugin=entry_point.name, distribution=f"{distribution} {version}", reason=reason
        )

    def _note(self, entry_point: Any, state: State, reason: str = "") -> None:
        self._found[entry_point.name] = (entry_point, state, reason)

    def register(self, listener: object, name: str | None = None) -> None:
        """Register an object of the application that has hook implementations.

        :raises ImproperlyConfigured: it implements a hook that does not exist, or not as the hook is; or it is
            registered already.
        """
        try:
            self._add(listener, name)
        except ImproperlyConfigured as error:
            raise ImproperlyConfigured(f"{name or type(listener).__name__}: {error}") from error
        self._forget_derived()

    def unregister(self, listener: object) -> None:
        """Take a registered object out again."""
        self._manager.unregister(listener)
        self._forget_derived()

    def _forget_derived(self) -> None:
        self._drivers.clear()
        self._continuations = None
        self._listening = None

    # -- drivers -------------------------------------------------------------------------------------------------------

    def driver(self, kind: str, name: str) -> Any:
        """The factory for *name*; *kind* is ``transport``, ``result store``, ``pool``, ``scheduler`` or ``monitor``.

        :raises PluginMissing: nothing provides it; says what to install.
        :raises PluginConflict: two plugins claim it.
        """
        found = self.drivers(kind).get(name)
        if found is None and "+" in name:
            found = self.drivers(kind).get(name.split("+", 1)[0])
        if found is None:
            raise self._missing(kind, name)
        return found[1]

    def drivers(self, kind: str) -> dict[str, tuple[str, Any]]:
        """All drivers of a kind: name → (plugin, factory)."""
        self.load()
        known = self._drivers.get(kind)
        if known is None:
            known = self._drivers[kind] = self._gather(kind)
        return known

    def _gather(self, kind: str) -> dict[str, tuple[str, Any]]:
        gathered: dict[str, tuple[str, Any]] = {}
        for plugin, offered in self.offered(_DRIVER_HOOKS[kind]):
            for name, factory in offered.items():
                other = gathered.get(name)
                if other is not None:
                    raise PluginConflict(
                        f"the plugins {other[0]!r} and {plugin!r} both provide the {kind} {name!r}; "
                        f"switch one off: --plugins=-{other[0]}"
                    )
                gathered[name] = (plugin, factory)
        return gathered

    def _missing(self, kind: str, name: str) -> PluginMissing:
        install = KNOWN_DRIVERS[kind].get(name)
        for plugin, (entry_point, state, reason) in self._found.items():
            if state is not State.ACTIVE and install and _distribution(entry_point)[0] == install:
                return PluginMissing(
                    f"the {kind} {name!r} is provided by the plugin {plugin!r}, which is {state.value}: {reason}"
                )
        # The forms of a scheme that name a library, too, would make a page of it.
        known = sorted(known for known in self.drivers(kind) if "+" not in known)
        if install:
            return PluginMissing(f"no installed plugin provides the {kind} {name!r}: pip install {install}", install)
        close = nearest(name, [*known, *KNOWN_DRIVERS[kind]])
        return PluginMissing(
            f"no installed plugin provides the {kind} {name!r}"
            + (f"; did you mean {close!r}?" if close else "")
            + f" (installed: {', '.join(known) or 'none'})"
        )

    def continuation(self, kind: str) -> Continuation | None:
        """What understands the continuation *kind*, if anything.

        :raises PluginConflict: two plugins claim to.
        """
        if self._continuations is None:
            gathered: dict[str, tuple[str, Continuation]] = {}
            for plugin, offered in self.offered("kern_continuations"):
                for continuation in offered:
                    for known in continuation.kinds:
                        other = gathered.setdefault(known, (plugin, continuation))
                        if other[0] != plugin:
                            raise PluginConflict(
                                f"the plugins {other[0]!r} and {plugin!r} both continue {known!r}; "
                                f"switch one off: --plugins=-{other[0]}"
                            )
            self._continuations = {known: continuation for known, (_, continuation) in gathered.items()}
        return self._continuations.get(kind)

    # -- listeners -----------------------------------------------------------------------------------------------------

    @property
    def listening(self) -> frozenset[str]:
        """Names of the hooks that somebody implements; cheap to ask, so that a hook nobody wants costs nothing."""
        if self._listening is None:
            self.load()
            relay = self._manager.hook
            names = [name for name in vars(Hooks) if name.startswith("kern_")]
            self._listening = frozenset(name for name in names if getattr(relay, name).get_hookimpls())
        return self._listening

    def listens(self, hook_name: str) -> bool:
        """Whether anybody implements the hook."""
        return hook_name in self.listening

    def notify(self, hook_name: str, **arguments: Any) -> None:
        """Call every listener of a hook; an exception is logged with the plugin's name and stops nothing."""
        self.ask(hook_name, **arguments)

    def ask(self, hook_name: str, **arguments: Any) -> list[Any]:
        """Call every listener of a hook, each by itself, and collect their answers that are not ``None``."""
        self.load()
        answers: list[Any] = []
        for implementation in reversed(getattr(self._manager.hook, hook_name).get_hookimpls()):
            try:
                answer = implementation.function(*[arguments[name] for name in implementation.argnames])
            except Exception as error:
                logger.error(
                    "listener failed",
                    plugin=implementation.plugin_name,
                    hook=hook_name,
                    error=repr(error),
                    exc_info=True,
                )
                continue
            if answer is not None:
                answers.append(answer)
        return answers

    def askers(self, hook_name: str) -> list[Callable[..., Any]]:
        """What implements a hook, in the order in which it is asked; for hooks whose errors are the caller's.

        Each takes all of the hook's arguments by keyword.
        """
        self.load()
        return [
            _asker(implementation)
            for implementation in reversed(getattr(self._manager.hook, hook_name).get_hookimpls())
        ]

    def offered(self, hook_name: str) -> list[tuple[str, Any]]:
        """What each plugin hands over by a hook without arguments, with the plugin's name.

        One that fails hands over nothing: that is logged with its name, and stops nothing else.
        """
        self.load()
        offers = []
        for implementation in getattr(self._manager.hook, hook_name).get_hookimpls():
            try:
                offer = implementation.function()
            except Exception as error:
                logger.error(
                    "plugin's hook failed", plugin=implementation.plugin_name, hook=hook_name, error=repr(error)
                )
                continue
            if offer is not None:
                offers.append((implementation.plugin_name, offer))
        return offers

    # -- looking -------------------------------------------------------------------------------------------------------

    def infos(self) -> list[PluginInfo]:
        """Every installed plugin, with what it drives."""
        self.load()
        drives: dict[str, dict[str, list[str]]] = {}
        for kind in _DRIVER_HOOKS:
            for name, (plugin, _factory) in self.drivers(kind).items():
                drives.setdefault(plugin, {}).setdefault(kind, []).append(name)
        return [
            PluginInfo(name, *_distribution(entry_point), state, reason, drives.get(name, {}))
            for name, (entry_point, state, reason) in sorted(self._found.items())
        ]


_DRIVER_HOOKS = {
    "transport": "kern_transports",
    "result store": "kern_result_stores",
    "pool": "kern_pools",
    "scheduler": "kern_schedulers",
    "monitor": "kern_monitors",
}


def _problem(attribute: str, marked: Any, plugin: object) -> str | None:
    """What is wrong with an attribute of a plugin that is, or should be, the implementation of a hook."""
    known = vars(Hooks)
    if marked is None:
        if attribute in known and attribute.startswith("kern_") and callable(getattr(plugin, attribute)):
            return f"{attribute!r} is named like a hook, and not marked with @hookimpl: it would never be called"
        return None
    hook = marked.get("specname") or attribute
    if hook not in known:
        close = nearest(hook, [name for name in known if name.startswith("kern_")])
        return f"there is no hook {hook!r}" + (f"; did you mean {close!r}?" if close else "")
    if marked.get("wrapper") or marked.get("hookwrapper"):
        return (
            f"{attribute!r} is marked as a wrapper: each listener of a hook is called by itself, none is around another"
        )
    return None


def _asker(implementation: Any) -> Callable[..., Any]:
    """A hook implementation that takes what it wants of the hook's arguments."""

    def ask(**arguments: Any) -> Any:
        return implementation.function(*[arguments[name] for name in implementation.argnames])

    return ask


def _distribution(entry_point: Any) -> tuple[str, str]:
    """Name and version of the distribution behind an entry point; stevedore's cache does not keep it."""
    from importlib.metadata import entry_points

    for candidate in entry_points(group=GROUP, name=entry_point.name):
        if candidate.value == entry_point.value and candidate.dist is not None:
            return candidate.dist.name, candidate.dist.version
    return "unknown distribution", "?"
