"""From the value of ``-A`` to an application.

``module:attribute``, ``module.attribute`` or ``module``; several attributes may follow each other. Of a module, the
first of these that is an application: its ``app``, its ``celery``, the same of the modules ``celery`` and ``kern`` of
a package, any other of its attributes.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kern.cli.failures import WRONG_COMMAND_LINE, Failure, where
from kern.errors import nearest

if TYPE_CHECKING:
    from kern.app import Kern

#: Modules of a package that are looked at when the package itself has no application.
SUBMODULES = ("celery", "kern")


class NoApplication(Failure):
    """The value of ``-A`` leads to no application."""

    def __init__(self, message: str) -> None:
        super().__init__(f"Unable to load the application. {message}", exit_code=WRONG_COMMAND_LINE)


def make_importable(directory: Path | None = None) -> None:
    """Modules in *directory* (default: the working one) can be imported, as if Python had been started there."""
    folder = str(directory or os.getcwd())
    here = folder in sys.path or (directory is None and "" in sys.path)
    if not here:
        sys.path.insert(0, folder)


def find_app(name: str) -> Kern:
    """The application of that name.

    :raises NoApplication: there is none.
    :raises Failure: a module raised when it was imported.
    """
    module_name, colon, path = name.partition(":")
    if not module_name or (colon and not path):
        raise NoApplication(f"{name!r} is not of the form module:attribute.")
    if colon:
        found = _attribute(_import(module_name), path, name)
        return _of_module(found) if isinstance(found, ModuleType) else _checked(found, name)
    module, rest = _longest_module(name)
    if not rest:
        return _of_module(module)
    found = _attribute(module, rest, name)
    return _of_module(found) if isinstance(found, ModuleType) else _checked(found, name)


def _longest_module(name: str) -> tuple[ModuleType, str]:
    """The module a dotted name starts with, and the attributes that are left."""
    try:
        return _import(name), ""
    except NoApplication:
        parent, dot, last = name.rpartition(".")
        if not dot:
            raise
    return _import(parent), last


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise _broken(name, error) from error
        close = nearest(name, modules_here())
        hint = f" Did you mean {close!r}?" if close else ""
        raise NoApplication(f"The module {name} was not found.{hint}") from None
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> Failure:
    place = where(error)
    described = f"{type(error).__name__}: {error}"
    return Failure(f"the module {name!r} cannot be imported: {described}{f' ({place})' if place else ''}", error)


def _attribute(module: Any, path: str, name: str) -> Any:
    found = module
    for part in path.split("."):
        if not hasattr(found, part) and isinstance(found, ModuleType) and hasattr(found, "__path__"):
            try:
                importlib.import_module(f"{found.__name__}.{part}")
            except ModuleNotFoundError as error:
                if error.name != f"{found.__name__}.{part}":
                    raise _broken(f"{found.__name__}.{part}", error) from error
        try:
            found = getattr(found, part)
        except AttributeError:
            owner = found.__name__ if isinstance(found, ModuleType) else type(found).__name__
            close = nearest(part, [key for key in dir(found) if not key.startswith("_")])
            hint = f" Did you mean {close!r}?" if close else ""
            raise NoApplication(f"Module '{owner}' has no attribute '{part}' (for {name!r}).{hint}") from None
    return found


def _of_module(module: ModuleType) -> Kern:
    for candidate in _candidates(module):
        if _is_app(candidate):
            return candidate  # type: ignore[no-any-return]
    for attribute in ("app", "celery"):
        other = getattr(module, attribute, None)
        if other is not None and not isinstance(other, ModuleType):
            return _checked(other, f"{module.__name__}:{attribute}")
    raise NoApplication(f"Module {module.__name__!r} has no application: app = kern.Kern(…).")


def _candidates(module: ModuleType) -> Iterator[Any]:
    for attribute in ("app", "celery"):
        yield getattr(module, attribute, None)
    if hasattr(module, "__path__"):
        present = {found.name for found in pkgutil.iter_modules(module.__path__)}
        for name in SUBMODULES:
            if name in present:
                submodule = _import(f"{module.__name__}.{name}")
                yield getattr(submodule, "app", None)
                yield getattr(submodule, "celery", None)
                yield from vars(submodule).values()
    yield from vars(module).values()


def _is_app(value: Any) -> bool:
    from kern.app import Kern

    return isinstance(value, Kern)


def _checked(found: Any, name: str) -> Kern:
    if _is_app(found):
        return found  # type: ignore[no-any-return]
    kind = found if isinstance(found, type) else type(found)
    raise NoApplication(f"{name!r} is a {kind.__module__}.{kind.__qualname__}, not a kern.Kern.")


def modules_here() -> list[str]:
    """Names of the modules and packages in the working directory."""
    return [found.name for found in pkgutil.iter_modules([os.getcwd()])]


def modules_with_app() -> list[str]:
    """Modules of the working directory in whose text an application is made, to be proposed."""
    found = []
    for module in pkgutil.iter_modules([os.getcwd()]):
        path = Path(module.name)
        files = [path / "__init__.py", *(path / f"{name}.py" for name in SUBMODULES)] if module.ispkg else []
        for file in files or [path.with_suffix(".py")]:
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if "Kern(" in text and "kern" in text.replace("Kern(", ""):
                found.append(module.name)
                break
    return sorted(found)
