"""What the drivers of the installed plugins can do, as each declares it; nothing is connected to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from kern.contracts.pool import Pool, PoolOptions
from kern.errors import KernError
from kern.masking import mask_url
from kern.worker.solo import SoloPool

if TYPE_CHECKING:
    from kern.app import Kern


@attrs.frozen
class Declared:
    """One driver, under each of the names that mean it."""

    names: tuple[str, ...]
    #: The plugin, or ``kern itself``.
    plugin: str
    capabilities: tuple[str, ...] = ()
    #: Why it could not be made: a library that is missing, say.
    error: str | None = None


def declared(app: Kern, kind: str) -> list[Declared]:
    """The drivers of *kind* (``transport``, ``result store``, ``pool``); schemes that say more than a plain one, such
    as the name of a library, are left out."""
    make = _pool(app) if kind == "pool" else _by_url(app)
    found: dict[tuple[str, tuple[str, ...], str | None], list[str]] = {}
    if kind == "pool":
        found["kern itself", _sorted(SoloPool.capabilities), None] = ["solo"]
    drivers = app.plugins.drivers(kind)
    for name, (plugin, factory) in sorted(drivers.items()):
        if "+" in name and not drivers.keys().isdisjoint(name.split("+")):
            continue
        capabilities, error = _declared(make, plugin, name, factory)
        found.setdefault((plugin, capabilities, error), []).append(name)
    return [
        Declared(tuple(names), plugin, capabilities, error) for (plugin, capabilities, error), names in found.items()
    ]


def _declared(
    make: Callable[[str, str, Any], Any], plugin: str, name: str, factory: Any
) -> tuple[tuple[str, ...], str | None]:
    try:
        driver = make(plugin, name, factory)
        if isinstance(driver, Pool):  # which may have processes before it starts
            driver.stop(0.0)
        return _sorted(driver.capabilities), None
    except KernError as error:
        return (), mask_url(str(error))
    except Exception as error:  # somebody's plugin: the others are to be shown all the same
        return (), mask_url(f"{type(error).__name__}: {error}")


def _by_url(app: Kern) -> Callable[[str, str, Any], Any]:
    examples = dict(app.plugins.offered("kern_example_urls"))

    def make(plugin: str, name: str, factory: Any) -> Any:
        return factory(examples.get(plugin, {}).get(name, f"{name}://"), app.conf)

    return make


def _pool(app: Kern) -> Callable[[str, str, Any], Any]:
    return lambda _plugin, _name, factory: factory(app, PoolOptions())


def _sorted(capabilities: Any) -> tuple[str, ...]:
    return tuple(sorted(capability.value for capability in capabilities))
