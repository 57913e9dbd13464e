"""Where settings come from: each function reads one source and gives what it found, with its origin in words.

The names found are as written there; what they mean, and what wins, is decided in :mod:`kern.settings`.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs

from kern.errors import ImproperlyConfigured

#: ``KERN_…`` variables that are no settings: those of the command line, and of kern's own tests.
OWN_VARIABLES = frozenset({"KERN_APP", "KERN_PLUGINS", "KERN_WORKDIR", "KERN_NO_COLOR", "KERN_QUIET"})
OWN_PREFIXES = ("KERN_TEST_", "KERN_TESTING_")

#: What is read of Celery's environment, as Celery itself does.
CELERY_VARIABLES: Mapping[str, str] = {
    "CELERY_BROKER_URL": "broker_url",
    "CELERY_BROKER_READ_URL": "broker_read_url",
    "CELERY_BROKER_WRITE_URL": "broker_write_url",
    "CELERY_RESULT_BACKEND": "result_backend",
}

_PLAIN = (str, bytes, bool, int, float, list, tuple, dict, set, timedelta, type(None))

#: Keys of ``[tool.kern]`` that are no settings.
_PROJECT_KEYS = ("app", "plugins")


@attrs.frozen
class Given:
    """A value as it was found."""

    name: str
    value: Any
    #: Where, in words, for messages and ``kern config``.
    origin: str
    #: It is text, to be parsed by the setting's type.
    text: bool = False


# -- the environment ---------------------------------------------------------------------------------------------------


def read_environment(environ: Mapping[str, str]) -> list[Given]:
    """Settings in ``KERN_*`` variables, the names lower-cased and without the prefix."""
    return [
        Given(name[5:].lower(), value, f"environment variable {name}", text=True)
        for name, value in sorted(environ.items())
        if name.startswith("KERN_") and name not in OWN_VARIABLES and not name.startswith(OWN_PREFIXES)
    ]


def read_celery_environment(environ: Mapping[str, str]) -> list[Given]:
    """Settings in the variables that Celery reads."""
    return [
        Given(key, environ[name], f"environment variable {name}", text=True)
        for name, key in CELERY_VARIABLES.items()
        if environ.get(name)
    ]


# -- pyproject.toml ----------------------------------------------------------------------------------------------------


@attrs.frozen
class Project:
    """``[tool.kern]`` of a ``pyproject.toml``."""

    path: Path
    #: ``module:attribute`` of the application, for the command line.
    app: str | None = None
    #: Names of the plugins to load; ``None``: all that are installed.
    plugins: tuple[str, ...] | None = None
    settings: Mapping[str, Any] = attrs.field(factory=dict)

    def given(self) -> list[Given]:
        origin = f"[tool.kern] in {self.path}"
        return [Given(name, value, origin) for name, value in self.settings.items()]


def read_project(directory: Path | None = None) -> Project | None:
    """The nearest ``pyproject.toml`` with a table ``[tool.kern]``, in *directory* (default: the working one) or above.

    :raises ImproperlyConfigured: the file that has the table is no TOML, or ``app`` or ``plugins`` in it is wrong.
    """
    try:
        start = (directory or Path.cwd()).resolve()
    except OSError:  # the working directory is gone
        return None
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        try:
            content = path.read_bytes()
        except OSError:
            continue
        # A file that does not name kern is somebody else's: not parsed, so that its errors are not ours.
        if b"kern" not in content:
            continue
        table = _table(path, content)
        if table is not None:
            return _project(path, table)
    return None


def _table(path: Path, content: bytes) -> dict[str, Any] | None:
    import tomllib  # here: half a millisecond that only projects with such a table pay

    try:
        tool = tomllib.loads(content.decode()).get("tool", {})
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are both
        raise ImproperlyConfigured(f"cannot read [tool.kern] in {path}: {error}") from error
    table = tool.get("kern") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ImproperlyConfigured(f"[tool.kern] in {path} must be a table")
    return table


def _project(path: Path, table: dict[str, Any]) -> Project:
    app, plugins = table.get("app"), table.get("plugins")
    if app is not None and not isinstance(app, str):
        raise ImproperlyConfigured(f"'app' of [tool.kern] in {path} must be text like 'module:app', not {app!r}")
    if plugins is not None and not (isinstance(plugins, list) and all(isinstance(name, str) for name in plugins)):
        raise ImproperlyConfigured(f"'plugins' of [tool.kern] in {path} must be a list of names, not {plugins!r}")
    return Project(
        path=path,
        app=app,
        plugins=None if plugins is None else tuple(plugins),
        settings={name: value for name, value in table.items() if name not in _PROJECT_KEYS},
    )


# -- objects and modules -----------------------------------------------------------------------------------------------


@attrs.frozen
class ConfigObject:
    """What ``config_from_object`` was given, resolved."""

    #: In words: "module 'proj.celeryconfig'".
    origin: str
    #: The names it has.
    names: tuple[str, ...]
    #: The value of one of them.
    value: Callable[[str], Any]
    #: Every name was written as a setting: a mapping. A module also has names that are none.
    only_settings: bool
    #: The dotted name of the module it is or comes from, where there is one.
    module: str = ""


def read_object(source: Any) -> ConfigObject:
    """Resolve the argument of ``config_from_object``: a mapping, any object, or the dotted name of one.

    :raises ImproperlyConfigured: the name cannot be imported.
    """
    origin, module = None, ""
    if isinstance(source, str):
        origin, module = f"config_from_object({source!r})", source
        source = import_name(source, origin)
    if isinstance(source, Mapping):
        mapping = source
        return ConfigObject(
            origin or "config_from_object(a mapping)",
            tuple(name for name in mapping if isinstance(name, str)),
            mapping.__getitem__,
            only_settings=True,
            module=module,
        )
    if isinstance(source, types.ModuleType):
        name = source.__name__
        return ConfigObject(
            origin or f"module {name!r}",
            tuple(vars(source)),
            lambda attribute: getattr(source, attribute),
            only_settings=False,
            module=name,
        )
    kind = source if isinstance(source, type) else type(source)
    return ConfigObject(
        origin or f"config_from_object({kind.__module__}.{kind.__qualname__})",
        tuple(dir(source)),
        lambda attribute: getattr(source, attribute),
        only_settings=False,
        module=module or kind.__module__,
    )


def is_setting_like(name: str, value: Any) -> bool:
    """Whether a module's attribute may be meant as a setting: public plain data."""
    return not name.startswith("_") and isinstance(value, _PLAIN)


def import_name(name: str, what: str | None = None) -> Any:
    """The object of a dotted name: ``module``, ``module.attribute`` or ``module:attribute``.

    The working directory is importable meanwhile, as it is for a Python program started there.

    :param what: what asked for it, for the message.
    :raises ImproperlyConfigured: there is no such thing. An error inside the module comes through as it is.
    """
    prefix = f"{what}: " if what else ""
    directory = os.getcwd()
    added = directory not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, directory)
    try:
        module, colon, attribute = name.partition(":")
        if not module:
            raise ImproperlyConfigured(f"{prefix}{name!r} names no module")
        if colon:
            return (
                _attribute(_import(module, name, prefix), attribute, name, prefix)
                if attribute
                else _import(module, name, prefix)
            )
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not _is_about(error, name):
                raise
            parent, dot, last = name.rpartition(".")
            if not dot:
                raise ImproperlyConfigured(f"{prefix}there is no module {name!r}") from error
            return _attribute(_import(parent, name, prefix), last, name, prefix)
    finally:
        if added and directory in sys.path:
            sys.path.remove(directory)


def _import(module: str, name: str, prefix: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not _is_about(error, module):
            raise
        raise ImproperlyConfigured(f"{prefix}there is no module {error.name!r} (for {name!r})") from error


def _is_about(error: ModuleNotFoundError, module: str) -> bool:
    """Whether the missing module is the one asked for, or a package around it, and not one imported inside it."""
    return error.name is not None and (module == error.name or module.startswith(error.name + "."))


def _attribute(module: Any, path: str, name: str, prefix: str) -> Any:
    found = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            from kern.errors import nearest

            suggestion = nearest(part, _public(found))
            hint = f"; did you mean {suggestion!r}?" if suggestion else ""
            owner = getattr(found, "__name__", None) or type(found).__name__
            raise ImproperlyConfigured(f"{prefix}{owner!r} has no attribute {part!r} (for {name!r}){hint}") from None
    return found


def _public(value: Any) -> Iterable[str]:
    return (name for name in dir(value) if not name.startswith("_"))
