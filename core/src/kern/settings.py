"""Settings: declared in typed sections beside the code that reads them, gathered in one flat ``app.conf``.

A :class:`Section` declares what a module or plugin reads::

    class DemoSettings(Section):
        \"\"\"How the demo behaves.\"\"\"

        demo_interval: float = setting(1.0, "Seconds between two demonstrations.", unit="s")
        demo_names: tuple[str, ...] = setting((), "Who is shown.")

and reads it as a frozen value of that class: ``app.conf.section(DemoSettings).demo_interval``.

Where values come from, highest first; :meth:`Settings.origin` says which it was:

1. assignments and keywords: ``app.conf.x = …``, ``conf.update(…)``, ``Kern(x=…)``, the command line;
2. :meth:`Settings.add_defaults`, the latest first;
3. :meth:`Settings.config_from_object`;
4. the environment: ``KERN_BROKER_URL``, ``KERN_TASK_ACKS_LATE`` …;
5. ``CELERY_BROKER_URL``, ``CELERY_BROKER_READ_URL``, ``CELERY_BROKER_WRITE_URL``, ``CELERY_RESULT_BACKEND``;
6. ``[tool.kern]`` in the nearest ``pyproject.toml`` that has it;
7. the default.

Nothing is read before the first value is asked for; then everything is, and whatever is wrong raises at once. Later
assignments are checked when they are made. Celery's old upper-case names are understood everywhere.

*Celery's heritage.* A configuration written for Celery keeps Celery's defaults where kern's differ
(``task_acks_late``, ``task_reject_on_worker_lost``: off), and :attr:`Settings.celery_heritage` is true. It counts as
written for Celery when ``config_from_object`` is told so (``celery_defaults=True``), or, unless told otherwise, when
its ``namespace`` is ``CELERY``, it has an old upper-case name, or it comes from a module named ``celeryconfig``. In
such an application the four ``CELERY_…`` variables win over all else but ``KERN_…`` ones of the same setting, as they
do in Celery.

A setting of Celery's that nobody reads here is not an error: one line in the log says why, and what does it instead
(:mod:`kern.celery_settings`).
"""

from __future__ import annotations

import copy
import inspect
import os
import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import attrs

from kern.celery_settings import CELERY_NAMES, explain
from kern.config_sources import (
    ConfigObject,
    Given,
    Project,
    is_setting_like,
    read_celery_environment,
    read_environment,
    read_object,
    read_project,
)
from kern.errors import ImproperlyConfigured, InvalidSetting, PluginConflict, UnknownSetting, nearest
from kern.log import Logger
from kern.masking import MASK, is_secret_name, mask
from kern.setting_types import Checker, checker, is_none

T = TypeVar("T")
S = TypeVar("S", bound="Section")

_logger = Logger("kern.settings")
_METADATA = "kern.setting"


# -- declaring ---------------------------------------------------------------------------------------------------------


class _Nothing:
    """No value was given, where ``None`` is one."""

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Any = _Nothing()


@attrs.frozen
class _Declared:
    """What :func:`setting` was told."""

    default: Any
    help: str
    old: tuple[str, ...]
    convert: Callable[[Any], Any] | None
    validate: Callable[[Any], None] | None
    secret: bool
    unit: str | None
    choices: tuple[Any, ...] | None
    celery_default: Any


def setting(
    default: T,
    help: str,
    *,
    old: str | Sequence[str] | None = None,
    convert: Callable[[Any], Any] | None = None,
    validate: Callable[[T], None] | None = None,
    secret: bool = False,
    unit: str | None = None,
    choices: Iterable[T] | None = None,
    celery_default: Any = NOTHING,
) -> T:
    """Declare one setting of a :class:`Section`. Its type is its annotation.

    :param default: of the annotated type; a list or mapping is copied for each application.
    :param help: what it does, in a sentence for the reader of ``kern config``.
    :param old: further names under which it is understood. Those that Celery has had for it are known already.
    :param convert: makes the value of what was given, before its type is checked; raises ``ValueError`` with what is
        accepted. Without one, conversion goes by type.
    :param validate: raises ``ValueError`` with what is accepted.
    :param secret: never shown.
    :param unit: ``"s"``, ``"bytes"`` …, for those who read about it.
    :param choices: the values there are.
    :param celery_default: its default in applications configured for Celery, where that differs.
    """
    declared = _Declared(
        default=default,
        help=help,
        old=(old,) if isinstance(old, str) else tuple(old or ()),
        convert=convert,
        validate=validate,
        secret=secret,
        unit=unit,
        choices=None if choices is None else tuple(choices),
        celery_default=celery_default,
    )
    made: Any = attrs.Factory(lambda: copy.copy(default)) if isinstance(default, list | dict | set) else default
    return typing.cast(T, attrs.field(default=made, metadata={_METADATA: declared}))


class Section:
    """Base of a group of settings: a frozen attrs class, made by inheriting.

    An instance is a snapshot, read by attribute. Its fields are made with :func:`setting`; names are lower-case and
    start with what they are about (``worker_``, ``beat_`` …), for they share one flat space. Settings that must go
    together are checked in ``__attrs_post_init__``, which raises :class:`~kern.errors.InvalidSetting`.
    """

    if TYPE_CHECKING:
        __kern_declared__: ClassVar[Mapping[str, tuple[_Declared, Checker]]]

        def __init__(self, **values: Any) -> None: ...

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, hint in inspect.get_annotations(cls).items():
            if "ClassVar" in str(hint):
                continue
            value = cls.__dict__.get(name)
            if not name.islower() or _METADATA not in (getattr(value, "metadata", None) or {}):
                raise TypeError(
                    f"{cls.__qualname__}.{name}: settings are lower-case and made with kern.settings.setting"
                )
        attrs.define(cls, frozen=True, slots=False, kw_only=True)


@attrs.frozen
class Option:
    """One declared setting, as an application knows it."""

    key: str
    section: type[Section]
    #: Who declared it: ``"kern"``, or the plugin's name.
    owner: str
    declared: _Declared
    checker: Checker

    @property
    def accepts(self) -> str:
        """What it accepts, in words."""
        if self.declared.choices is not None:
            return " or ".join(repr(choice) for choice in self.declared.choices)
        return self.checker.accepts

    def default(self, celery: bool) -> Any:
        """A fresh default: kern's, or Celery's."""
        value = self.declared.default
        if celery and self.declared.celery_default is not NOTHING:
            value = self.declared.celery_default
        return copy.copy(value) if isinstance(value, list | dict | set) else value

    def check(self, given: Given, again: bool = False) -> Any:
        """The value to keep.

        :param again: it was converted before.
        :raises InvalidSetting: it cannot be used.
        """
        declared, value = self.declared, given.value
        try:
            if declared.convert is None or again:
                value = self.checker.convert(value, given.text)
            elif not (self.checker.exact(None) and (value is None or (given.text and is_none(value)))):
                value = self.checker.convert(declared.convert(value))
            else:
                value = None
            if declared.choices is not None and value not in declared.choices:
                raise ValueError(f"expected {self.accepts}")
            if declared.validate is not None:
                declared.validate(value)
        except (ValueError, TypeError) as error:
            shown = "" if declared.secret else f", not {_shown(given.value)}"
            text = str(error) or f"expected {self.accepts}"
            raise InvalidSetting(self.key, f"{text}{shown}", given.origin) from error
        return value


def _shown(value: Any) -> str:
    text = repr(mask(value))
    return text if len(text) <= 100 else f"{text[:97]}..."


def declared_settings(section: type[Section]) -> Mapping[str, tuple[_Declared, Checker]]:
    """The settings of a section by key, with what each accepts; worked out once a class.

    :raises TypeError: an annotation that settings cannot have.
    """
    found: Mapping[str, tuple[_Declared, Checker]] | None = section.__dict__.get("__kern_declared__")
    if found is not None:
        return found
    hints = typing.get_type_hints(section)
    made = {
        field.name: (field.metadata[_METADATA], checker(hints[field.name]))
        for field in attrs.fields(typing.cast(Any, section))
    }
    section.__kern_declared__ = made
    return made


# -- the application's settings ----------------------------------------------------------------------------------------


@attrs.frozen
class SettingRow:
    """One line of ``kern config``."""

    key: str
    #: Secrets and passwords in URLs are masked.
    value: Any
    is_default: bool
    origin: str
    meaning: str
    owner: str
    section: str
    accepts: str
    unit: str | None


@attrs.frozen
class _Entry:
    value: Any
    origin: str


@attrs.frozen
class SettingsSnapshot:
    """What somebody gave, as data for another process that has the same application: it can be pickled.

    Made by :meth:`Settings.snapshot`, taken over by :meth:`Settings.adopt`. It holds passwords, and shows none.
    """

    #: By key: the value, pickled by itself, and where it came from. What nobody gave is not here.
    values: Mapping[str, tuple[bytes, str]] = attrs.field(repr=lambda values: ", ".join(values))
    #: What was given and is read by nobody, likewise.
    kept: Mapping[str, tuple[bytes, str]] = attrs.field(repr=lambda kept: ", ".join(kept))
    #: Keys whose values cannot be sent (a lambda among the routes): the other process has them from its own sources.
    left_out: frozenset[str]
    #: Celery's defaults hold.
    celery_heritage: bool


class _NoSuchSetting(UnknownSetting, AttributeError, KeyError):
    """A setting was read that does not exist; ``getattr(conf, x, None)`` and ``try: conf[x]`` work as usual."""

    def __str__(self) -> str:
        return str(self.args[0])


class Settings(MutableMapping[str, Any]):
    """The settings of one application: flat, by attribute and by item.

    Reading an attribute is a look-up in a dictionary; :meth:`section` gives the typed value that modules work with,
    and is cheap enough for every call. :attr:`version` changes with every change, for those who keep what they derived.

    :param sections: those of kern itself.
    :param changes: keywords given to the application; checked, as all sources, when the first value is asked for.
    :param environ: default: this process's environment.
    :param directory: where to start looking for ``pyproject.toml``; default: the working directory.
    :raises PluginConflict: two sections declare the same setting.
    """

    __slots__ = (
        "_adopted",
        "_aliases",
        "_assigned",
        "_changes",
        "_defaults",
        "_directory",
        "_environ",
        "_explained",
        "_frozen",
        "_heritage",
        "_kept",
        "_layers",
        "_loaded",
        "_lock",
        "_made",
        "_object",
        "_options",
        "_origins",
        "_owners",
        "_pending",
        "_project",
        "_snapshots",
        "_values",
        "version",
    )

    version: int

    def __init__(
        self,
        sections: Iterable[type[Section]] = (),
        *,
        changes: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "_lock", threading.RLock())
        put(self, "_environ", environ)
        put(self, "_directory", directory)
        put(self, "_options", {})
        put(self, "_owners", {})
        # Old names and other spellings, to the key they mean today.
        put(self, "_aliases", {old: key for key, old in CELERY_NAMES.items()})
        put(self, "_changes", {})
        put(self, "_defaults", [])
        put(self, "_object", None)
        put(self, "_layers", [])
        put(self, "_heritage", False)
        put(self, "_project", None)
        # What stands in for all sources, once it was adopted.
        put(self, "_adopted", None)
        # Given, but read by nobody: Celery's other settings, and a module's own names; and those of them assigned.
        put(self, "_kept", {})
        put(self, "_assigned", {})
        # Defaults that can be changed in place are made once.
        put(self, "_made", {})
        put(self, "_explained", set())
        put(self, "_values", {})
        put(self, "_origins", {})
        put(self, "_snapshots", {})
        put(self, "_loaded", False)
        put(self, "_frozen", False)
        put(self, "version", 0)
        for section in sections:
            self.add_section(section)
        # Looked at with the sources: plugins, whose settings may be among them, add their sections first.
        put(self, "_pending", dict(changes or {}))

    # -- sections ------------------------------------------------------------------------------------------------------

    def add_section(self, section: type[Section], owner: str = "kern") -> None:
        """Add the settings of *section*; adding it again does nothing.

        :param owner: who declares it, for messages and ``kern config``: the plugin's name.
        :raises PluginConflict: another section has a setting of that name.
        """
        self._refuse_when_frozen()
        if section in self._owners:
            return
        declared = declared_settings(section)
        for key in declared:
            other = self._options.get(key)
            if other is not None:
                raise PluginConflict(
                    f"setting {key!r} is declared by {other.owner} ({other.section.__qualname__}) "
                    f"and by {owner} ({section.__qualname__})"
                )
        with self._lock:
            self._owners[section] = owner
            for key, (declaration, accepted) in declared.items():
                self._options[key] = Option(key, section, owner, declaration, accepted)
                self._aliases.update(dict.fromkeys(declaration.old, key))
            # What was assigned before anybody read it is checked now.
            for key in declared:
                given = self._assigned.pop(key, None)
                if given is not None:
                    self._changes[key] = _Entry(self._options[key].check(given), given.origin)
            self._changed(reload=True)

    def section(self, section: type[S]) -> S:
        """The typed snapshot of *section*; the same object until a setting changes.

        :raises ImproperlyConfigured: the section was never added.
        """
        found = self._snapshots.get(section)
        if found is not None:
            return typing.cast(S, found)
        if section not in self._owners:
            raise ImproperlyConfigured(f"settings section {section.__qualname__} was not added to this application")
        with self._lock:
            self._load()
            made = section(**{key: self._values[key] for key in declared_settings(section)})
            self._snapshots[section] = made
        return made

    @property
    def sections(self) -> Mapping[type[Section], str]:
        """The sections there are, and who declared each."""
        return MappingProxyType(self._owners)

    @property
    def options(self) -> Mapping[str, Option]:
        """The declared settings by key."""
        return MappingProxyType(self._options)

    # -- reading -------------------------------------------------------------------------------------------------------

    def __getattr__(self, key: str) -> Any:
        # Only called for what is no attribute of the class.
        if key.startswith("_"):
            raise AttributeError(key)
        value = self._values.get(key, NOTHING)
        return self[key] if value is NOTHING else value

    def __getitem__(self, key: str) -> Any:
        self._load()
        canonical = self._canonical(key)
        value = self._values.get(canonical, NOTHING)
        if value is not NOTHING:
            return value
        kept = self._kept.get(canonical)
        if kept is not None:
            return kept.value
        reason = explain(canonical)
        if reason:
            raise _NoSuchSetting(key, f"not used: {reason}")
        raise _NoSuchSetting(key, suggestion=nearest(key, self._options))

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        self._load()
        return self._canonical(key) in self._options or self._canonical(key) in self._kept

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._options))

    def __len__(self) -> int:
        return len(self._options)

    def __repr__(self) -> str:
        return f"<Settings: {len(self._options)} in {len(self._owners)} sections>"

    def __dir__(self) -> Iterable[str]:
        return sorted({*object.__dir__(self), *self._options})

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def origin(self, key: str) -> str:
        """Where the value of *key* comes from, in words; ``"default"`` when nobody gave one.

        :raises UnknownSetting: no such setting.
        """
        self._load()
        canonical = self._canonical(key)
        if canonical in self._origins:
            return str(self._origins[canonical])
        if canonical in self._kept:
            return str(self._kept[canonical].origin)
        raise UnknownSetting(key, suggestion=nearest(key, self._options))

    def is_default(self, key: str) -> bool:
        """Whether nobody gave *key* a value."""
        return self.origin(key) in _DEFAULT_ORIGINS

    @property
    def celery_heritage(self) -> bool:
        """The configuration was written for Celery, and Celery's defaults hold."""
        self._load()
        return bool(self._heritage)

    @property
    def project(self) -> Project | None:
        """``[tool.kern]`` of the nearest ``pyproject.toml``, with its own keys ``app`` and ``plugins``."""
        self._load()
        return typing.cast("Project | None", self._project)

    def without_defaults(self) -> dict[str, Any]:
        """What somebody gave, by key."""
        self._load()
        return {key: value for key, value in self._values.items() if self._origins[key] not in _DEFAULT_ORIGINS}

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Settings by key, for reports; secrets are masked unless *censored* is false."""
        values = dict(self) if with_defaults else self.without_defaults()
        return {key: self._masked(key, value) for key, value in values.items()} if censored else values

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """:meth:`table` as lines ``key: value``."""
        return "\n".join(f"{key}: {value!r}" for key, value in self.table(with_defaults, censored).items())

    def describe(self) -> list[SettingRow]:
        """Every declared setting, for ``kern config``."""
        self._load()
        return [
            SettingRow(
                key=key,
                value=self._masked(key, self._values[key]),
                is_default=self._origins[key] in _DEFAULT_ORIGINS,
                origin=self._origins[key],
                meaning=option.declared.help,
                owner=option.owner,
                section=option.section.__qualname__,
                accepts=option.accepts,
                unit=option.declared.unit,
            )
            for key, option in self._options.items()
        ]

    def unused(self) -> list[SettingRow]:
        """What was given and is read by nobody, with the reason for a meaning; for ``kern config``."""
        self._load()
        return [
            SettingRow(
                key=key,
                value=MASK if is_secret_name(key) else mask(given.value),
                is_default=False,
                origin=given.origin,
                meaning=_why_unused(key),
                owner="",
                section="",
                accepts="",
                unit=None,
            )
            for key, given in self._kept.items()
        ]

    def _masked(self, key: str, value: Any) -> Any:
        option = self._options.get(key)
        return MASK if value and option is not None and option.declared.secret else mask(value)

    # -- writing -------------------------------------------------------------------------------------------------------

    def __setattr__(self, key: str, value: Any) -> None:
        if key.startswith("_") or hasattr(type(self), key):
            raise AttributeError(f"{key!r} is no setting and cannot be assigned")
        self.assign({key: value})

    def __setitem__(self, key: str, value: Any) -> None:
        self.assign({key: value})

    def __delattr__(self, key: str) -> None:
        del self[key]

    def __delitem__(self, key: str) -> None:
        """Forget what was assigned; what other sources say holds again."""
        self._refuse_when_frozen()
        canonical = self._canonical(key)
        with self._lock:
            if self._changes.pop(canonical, None) is None:
                raise KeyError(key)
            self._changed()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Assign several; all are checked before the first is changed."""
        self.assign(dict(*args, **kwargs))

    def assign(self, values: Mapping[str, Any], origin: str = "assignment", text: bool = False) -> None:
        """Assign *values*, and say where they come from; all are checked before the first is changed.

        :param text: they are text, to be parsed by the type of each.
        :raises UnknownSetting: no such setting.
        :raises InvalidSetting: a value that cannot be used.
        """
        self._refuse_when_frozen()
        checked, kept = self._checked(values, origin, text)
        with self._lock:
            self._changes.update(checked)
            for key, given in kept.items():
                self._assigned[key] = given
                self._keep(key, given)
            self._changed()

    def _checked(
        self, values: Mapping[str, Any], origin: str, text: bool = False
    ) -> tuple[dict[str, _Entry], dict[str, Given]]:
        """The values that are read by somebody, checked, and those of Celery's that are not."""
        checked: dict[str, _Entry] = {}
        kept: dict[str, Given] = {}
        for name, value in values.items():
            given = Given(name, value, origin, text)
            key = self._canonical(name)
            option = self._options.get(key)
            if option is not None:
                checked[key] = _Entry(option.check(given), origin)
            elif explain(key):
                kept[key] = given
            else:
                raise UnknownSetting(name, origin, nearest(key, self._options))
        return checked, kept

    def add_defaults(self, defaults: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Add values that win over the configuration object but not over assignments; the latest wins.

        :param defaults: a mapping, or what gives one when settings are first read.
        """
        self._refuse_when_frozen()
        with self._lock:
            self._defaults.insert(0, defaults)
            self._changed(reload=True)

    def config_from_object(
        self,
        source: Any,
        silent: bool = False,
        force: bool = False,
        namespace: str | None = None,
        celery_defaults: bool | None = None,
    ) -> None:
        """Take settings from a module, an object, a mapping, or the dotted name of one. A later call replaces it.

        :param source: ``"proj.settings"``, ``"proj.settings.CONFIG"``, ``"proj.settings:CONFIG"``, or the thing.
        :param silent: a module that does not exist is no error.
        :param force: read it now and not when the first value is asked for.
        :param namespace: prefix of the names: with ``"CELERY"``, ``CELERY_BROKER_URL`` is ``broker_url``. The case of
            the prefix is that of the names.
        :param celery_defaults: whether Celery's defaults hold; ``None``: when it looks written for Celery (see the
            module).
        :raises ImproperlyConfigured: when read: no such module, or old and new names are mixed.
        """
        self._refuse_when_frozen()
        with self._lock:
            was_loaded = self._loaded
            put = object.__setattr__
            put(self, "_object", _ObjectSource(source, silent, namespace or "", celery_defaults))
            self._changed(reload=True)
            if force or was_loaded:
                self._load()

    def update_from_arguments(self, arguments: Iterable[str], namespace: str = "worker") -> None:
        """Assign what was given on the command line: ``worker.prefetch_multiplier=1``, ``broker_heartbeat=(int)5``.

        Dots are underscores; a name that starts with one belongs to *namespace* (``.concurrency=3``). A value may name
        its type in parentheses: ``string int float any bool dict tuple list json``; else it is parsed by the
        setting's own.

        :raises ImproperlyConfigured: not of the form ``key=value``, or no such type.
        :raises UnknownSetting: no such setting.
        :raises InvalidSetting: a value that cannot be used.
        """
        for argument in arguments:
            name, equals, text = argument.partition("=")
            key = name.strip().lower().replace(".", "_")
            if not equals or not key.strip("_"):
                raise ImproperlyConfigured(f"cannot read {argument!r}: settings are given as 'name=value'")
            if key.startswith("_"):
                key = f"{namespace}{key}"
            elif self._canonical(key) not in self._options and f"{namespace}_{key}" in self._options:
                key = f"{namespace}_{key}"
            origin = f"command line {name.strip()!r}"
            value, as_text = _cast(key, text, origin)
            self.assign({key: value}, origin, text=as_text)

    def freeze(self) -> Settings:
        """A copy that cannot be changed, for a running worker.

        :raises InvalidSetting: settings that do not go together, or a list or mapping that was changed in place into
            what its setting refuses.
        """
        self._load()
        frozen = copy.copy(self)
        put = object.__setattr__
        values = {}
        for key, value in self._values.items():
            option = self._options[key]
            if isinstance(value, list | dict | set):
                # It may have been changed in place since it was checked, and must not change from now on.
                value = option.check(Given(key, _copied(value), self._origins[key]), again=True)
            values[key] = value
        put(frozen, "_values", values)
        put(frozen, "_snapshots", {})
        put(frozen, "_frozen", True)
        # What must fit together is checked where the section is made: before a worker starts, not when one is read.
        for section in frozen._owners:
            frozen.section(section)
        return frozen

    def snapshot(self) -> SettingsSnapshot:
        """The settings for another process that has the same application: a pool's, started afresh and not forked."""
        import pickle

        self._load()
        given = {key: Given(key, value, self._origins[key]) for key, value in self.without_defaults().items()}
        values: dict[str, tuple[bytes, str]] = {}
        kept: dict[str, tuple[bytes, str]] = {}
        left_out: set[str] = set()
        for sent, source in ((values, given), (kept, self._kept)):
            for key, each in source.items():
                try:
                    sent[key] = (pickle.dumps(each.value), each.origin)
                except Exception:  # classes may do as they like when they are pickled
                    left_out.add(key)
        return SettingsSnapshot(values, kept, frozenset(left_out), bool(self._heritage))

    def adopt(self, snapshot: SettingsSnapshot) -> None:
        """Go by *snapshot* from now on, whatever the sources here say; they are not read any more.

        Only what it had to leave out, and what cannot be read here (a function of the other process's main module),
        stays as the sources here have it.

        :raises UnknownSetting: it has a setting of a plugin that is not there.
        :raises InvalidSetting: a value is not accepted here.
        """
        import pickle

        self._refuse_when_frozen()
        here = set(snapshot.left_out)
        found: dict[str, Given] = {}
        kept: dict[str, Given] = {}
        for made, sent in ((found, snapshot.values), (kept, snapshot.kept)):
            for key, (pickled, origin) in sent.items():
                try:
                    made[key] = Given(key, pickle.loads(pickled), origin)
                except Exception:
                    here.add(key)
        own: dict[str, _Entry] = {}
        if here:
            self._load()
            own = {
                key: _Entry(self._values[key], self._origins[key])
                for key in here.intersection(self._values)
                if self._origins[key] not in _DEFAULT_ORIGINS
            }
            kept.update((key, self._kept[key]) for key in here.intersection(self._kept))
        with self._lock:
            put = object.__setattr__
            put(self, "_adopted", _Adopted(found, snapshot.celery_heritage))
            put(self, "_pending", {})
            put(self, "_assigned", kept)
            put(self, "_changes", own)
            put(self, "_defaults", [])
            put(self, "_object", None)
            self._changed(reload=True)
            self._load()

    def __copy__(self) -> Settings:
        made = object.__new__(type(self))
        put = object.__setattr__
        for name in Settings.__slots__:
            value = getattr(self, name)
            put(made, name, value.copy() if isinstance(value, dict | list | set) else value)
        put(made, "_lock", threading.RLock())
        put(made, "_snapshots", {})
        return made

    @property
    def frozen(self) -> bool:
        """It is a worker's snapshot."""
        return bool(self._frozen)

    def _refuse_when_frozen(self) -> None:
        if self._frozen:
            raise ImproperlyConfigured("these settings are the snapshot of a running worker and cannot be changed")

    # -- loading -------------------------------------------------------------------------------------------------------

    def _canonical(self, name: str) -> str:
        """Today's key of any name, old or new."""
        if name in self._options:
            return name
        return str(self._aliases.get(name, name))

    def _changed(self, reload: bool = False) -> None:
        put = object.__setattr__
        put(self, "version", self.version + 1)
        put(self, "_snapshots", {})
        if reload:
            put(self, "_loaded", False)
            # Empty, so that reading an attribute loads first.
            put(self, "_values", {})
        elif self._loaded:
            self._merge()

    def _load(self) -> None:
        if self._loaded:
            return
        with self._lock:
            if self._loaded:
                return
            put = object.__setattr__
            if self._adopted is not None:
                self._load_adopted(self._adopted)
                return
            if self._pending:
                checked, kept = self._checked(self._pending, "keyword of the application")
                put(self, "_changes", {**checked, **self._changes})
                self._assigned.update({**kept, **self._assigned})
                for key, given in kept.items():
                    self._keep(key, given)
                put(self, "_pending", {})
            put(self, "_heritage", False)
            put(self, "_kept", dict(self._assigned))
            environ = os.environ if self._environ is None else self._environ
            defaults = [self._layer(_mapping_given(source)) for source in self._defaults]
            configured = self._read_object()
            kern = self._layer(read_environment(environ))
            celery = self._layer(read_celery_environment(environ))
            project = read_project(self._directory)
            put(self, "_project", project)
            layers = [*defaults, configured, kern, celery, self._layer(project.given() if project else ())]
            if self._heritage:
                layers.insert(0, {key: entry for key, entry in celery.items() if key not in kern})
            put(self, "_layers", layers)
            self._merge()
            put(self, "_loaded", True)

    def _load_adopted(self, adopted: _Adopted) -> None:
        layer: dict[str, _Entry] = {}
        for key, given in adopted.values.items():
            option = self._options.get(key)
            if option is None:
                raise UnknownSetting(key, given.origin, nearest(key, self._options))
            layer[key] = _Entry(option.check(given, again=True), given.origin)
        put = object.__setattr__
        put(self, "_heritage", adopted.celery_heritage)
        put(self, "_kept", dict(self._assigned))
        # The first is what stands above all others in a configuration for Celery.
        put(self, "_layers", [{}, layer])
        self._merge()
        put(self, "_loaded", True)

    def _merge(self) -> None:
        """Work out every value anew; lower layers first, so that higher ones overwrite them."""
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for key, option in self._options.items():
            celery = self._heritage and option.declared.celery_default is not NOTHING
            if (key, celery) not in self._made:
                self._made[key, celery] = option.default(celery)
            values[key] = self._made[key, celery]
            origins[key] = _CELERY_DEFAULT if celery else _DEFAULT
        above = self._layers[:1] if self._heritage else []
        for layer in (*reversed(self._layers[len(above) :]), self._changes, *above):
            for key, entry in layer.items():
                values[key], origins[key] = entry.value, entry.origin
        put = object.__setattr__
        put(self, "_origins", origins)
        put(self, "_values", values)

    def _layer(self, found: Iterable[Given], only_settings: bool = True) -> dict[str, _Entry]:
        """Check what a source gave.

        :param only_settings: everything in it is meant as a setting, so that what is none is an error.
        """
        layer: dict[str, _Entry] = {}
        for given in found:
            key = self._canonical(given.name)
            option = self._options.get(key)
            if option is not None:
                layer[key] = _Entry(option.check(given), given.origin)
            elif explain(key):
                self._keep(key, given)
            else:
                suggestion = nearest(given.name.lower(), self._options)
                if only_settings:
                    raise UnknownSetting(given.name, given.origin, suggestion)
                self._keep(given.name, given)
        return layer

    def _keep(self, key: str, given: Given) -> None:
        """Keep what nobody reads, and say so once."""
        self._kept[key] = given
        if key in self._explained:
            return
        self._explained.add(key)
        _logger.warning(f"setting {given.name!r} is not used: {_why_unused(key)}", origin=given.origin)

    def _read_object(self) -> dict[str, _Entry]:
        source: _ObjectSource | None = self._object
        if source is None:
            return {}
        try:
            found = read_object(source.source)
        except ImproperlyConfigured:
            if source.silent:
                return {}
            raise
        if source.namespace:
            given, celery = self._namespaced(found, source.namespace)
        else:
            given, celery = self._plain(found)
        if source.celery_defaults is not None:
            celery = source.celery_defaults
        object.__setattr__(self, "_heritage", celery)
        return self._layer(given, only_settings=found.only_settings or bool(source.namespace))

    def _namespaced(self, found: ConfigObject, namespace: str) -> tuple[list[Given], bool]:
        """The names with the prefix; beside them, kern's own and old names without it, which weigh less."""
        prefix = namespace if namespace.endswith("_") else f"{namespace}_"
        upper = prefix.isupper()
        prefixed: dict[str, Given] = {}
        plain: dict[str, Given] = {}
        for name in found.names:
            rest = name[len(prefix) :] if name.startswith(prefix) else ""
            if rest and rest.isupper() == upper:
                key = self._canonical(rest.lower())
                if key not in self._options and not explain(key) and name in self._aliases:
                    # An old name that happens to start with the prefix: CELERY_TASK_RESULT_EXPIRES.
                    key = self._canonical(name)
                prefixed[key] = Given(key, found.value(name), f"{found.origin}: {name}")
            elif self._canonical(name) in self._options:
                key = self._canonical(name)
                plain[key] = Given(key, found.value(name), f"{found.origin}: {name}")
        return [*{**plain, **prefixed}.values()], namespace.rstrip("_").upper() == "CELERY"

    def _plain(self, found: ConfigObject) -> tuple[list[Given], bool]:
        """The names as they are: today's or old ones, by majority; a mixture is refused as Celery refuses it."""
        new: dict[str, str] = {}
        old: dict[str, str] = {}
        fallback: dict[str, str] = {}
        others: list[str] = []
        for name in found.names:
            key = self._canonical(name)
            if name in self._options or (name == key and explain(key)):
                new[key] = name
            elif CELERY_NAMES.get(key) == name:
                old[key] = name
            elif name in self._aliases:
                fallback[key] = name
            else:
                others.append(name)
        if new and old:
            major, minor = (new, old) if len(new) >= len(old) else (old, new)
            alone = sorted(set(minor) - set(major))
            if alone:
                renames = "\n".join(
                    f"  {minor[key]:<36} -> {key if major is new else CELERY_NAMES.get(key, key)}" for key in alone
                )
                kind = "new lower-case" if major is new else "old upper-case"
                raise ImproperlyConfigured(
                    f"{found.origin} mixes old and new names of settings; most are {kind} ones. Rename:\n{renames}\n"
                    "(with a namespace, each name stands for itself)"
                )
            names = {**fallback, **major}
        else:
            names = {**fallback, **old, **new}
        given = [Given(name, found.value(name), found.origin) for name in names.values()]
        for name in others:
            value = found.value(name)
            if found.only_settings or (is_setting_like(name, value) and not name.isupper()):
                if not found.only_settings and nearest(name, self._options, cutoff=_TYPO):
                    raise UnknownSetting(name, found.origin, nearest(name, self._options))
                given.append(Given(name, value, found.origin))
        celery = bool(old) or "celeryconfig" in found.module.replace(":", ".").split(".")
        return given, celery


@attrs.frozen
class _Adopted:
    """What another process sent, read."""

    values: Mapping[str, Given]
    celery_heritage: bool


@attrs.frozen
class _ObjectSource:
    """What ``config_from_object`` was told."""

    source: Any
    silent: bool
    namespace: str
    celery_defaults: bool | None


_DEFAULT = "default"
_CELERY_DEFAULT = "Celery's default"
_DEFAULT_ORIGINS = frozenset({_DEFAULT, _CELERY_DEFAULT})
#: How like a setting's name a module's attribute must be to be a misspelling and not a helper of its author.
_TYPO = 0.9


def _why_unused(key: str) -> str:
    return explain(key) or "no such setting; it can be read from app.conf, and kern does nothing with it"


def _mapping_given(source: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> list[Given]:
    values = source() if callable(source) else source
    return [Given(name, value, "add_defaults") for name, value in values.items()]


def _copied(value: Any) -> Any:
    """A copy of nested plain containers; what is in them is shared."""
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_copied(item) for item in value)
    return value


_CASTS: Mapping[str, Callable[[str], Any]] = {
    "string": str,
    "str": str,
    "any": str,
    "int": int,
    "float": float,
}


def _cast(key: str, text: str, origin: str) -> tuple[Any, bool]:
    """The value of ``(type)text``, and whether it is still text to be parsed."""
    kind, parenthesis, rest = text.partition(")")
    if not (parenthesis and kind.startswith("(")):
        return text, True
    name = kind[1:].strip().lower()
    try:
        if name in _CASTS:
            return _CASTS[name](rest), False
        if name == "bool":
            return checker(bool).convert(rest, True), False
        if name in ("json", "dict", "list", "tuple"):
            import json

            value = json.loads(rest)
            if name == "tuple":
                value = tuple(value)
            if name != "json" and type(value).__name__ != name:
                raise ValueError(f"not a {name}: {rest!r}")
            return value, False
    except (ValueError, TypeError) as error:
        raise InvalidSetting(key, str(error), origin) from error
    known = "string, int, float, any, bool, dict, tuple, list, json"
    raise ImproperlyConfigured(f"{origin}: there is no type {name!r}; known are {known}")
