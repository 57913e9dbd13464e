"""The modules of an application that define tasks: named, or found beside its packages."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import attrs

from kern.errors import ImproperlyConfigured

#: Names of packages, or what gives them.
Packages = Sequence[str] | Callable[[], Sequence[str]]


@attrs.define
class Discovery:
    """Which packages are to be looked through, once tasks are needed."""

    _pending: list[tuple[Packages | None, str | None]] = attrs.field(factory=list)

    def add(self, packages: Packages | None, related_name: str | None) -> None:
        """Look through *packages* for modules named *related_name*; ``None``: those that plugins know."""
        self._pending.append((packages, related_name))

    def run(self, known_to_plugins: Callable[[], Iterable[str] | None]) -> None:
        """Import what is pending, once.

        :param known_to_plugins: packages that plugins know; ``None`` when there is no plugin that would.
        :raises ImproperlyConfigured: a module fails to import, or nobody named any package.
        """
        pending, self._pending = self._pending, []
        for packages, related_name in pending:
            for package in self._packages(packages, known_to_plugins):
                import_related(package, related_name)

    @staticmethod
    def _packages(packages: Packages | None, known_to_plugins: Callable[[], Iterable[str] | None]) -> Iterable[str]:
        named = packages() if callable(packages) else packages
        if isinstance(named, str):
            raise ImproperlyConfigured(f"autodiscover_tasks takes a list of packages, not {named!r}: [{named!r}]")
        if named:
            return named
        known = known_to_plugins()
        if known is None and packages is None:
            raise ImproperlyConfigured(
                "autodiscover_tasks() names no packages, and no installed plugin knows any: "
                "autodiscover_tasks(['package'])"
            )
        return known or ()


@contextmanager
def working_directory_importable() -> Iterator[None]:
    """Inside, modules of the working directory can be imported, as by a Python program started there."""
    directory = os.getcwd()
    added = directory not in sys.path
    if added:
        sys.path.insert(0, directory)
    try:
        yield
    finally:
        if added and directory in sys.path:
            sys.path.remove(directory)


def import_module(name: str) -> ModuleType:
    """
    :raises ImproperlyConfigured: it cannot be imported; names the module and the cause.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise _failed("module", name, error) from error


def import_related(package: str, related_name: str | None) -> None:
    """Import *package*, and its module *related_name* if it has one.

    :raises ImproperlyConfigured: something that is there fails to import; names it and the cause.
    """
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        parent = package.rpartition(".")[0]
        # The name of a class in a module of the package is taken for the module.
        if not parent or error.name != package:
            raise _failed("package", package, error) from error
        package = parent
    except Exception as error:
        raise _failed("package", package, error) from error
    if not related_name:
        return
    module = f"{package}.{related_name}"
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise _failed("module", module, error) from error
    except Exception as error:
        raise _failed("module", module, error) from error


def _failed(what: str, name: str, error: Exception) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"the {what} {name!r} cannot be imported: {type(error).__name__}: {error}")
