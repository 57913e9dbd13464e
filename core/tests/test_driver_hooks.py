"""Every kind of driver is handed over by its hook, and found by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from kern import Kern, hookimpl
from kern.errors import PluginConflict, PluginMissing


def factory(*_given: Any) -> str:
    return "a driver"


class Drivers:
    """One driver of each kind."""

    @hookimpl
    def kern_transports(self) -> Mapping[str, Callable[..., Any]]:
        return {"pigeon": factory}

    @hookimpl
    def kern_result_stores(self) -> Mapping[str, Callable[..., Any]]:
        return {"cupboard": factory}

    @hookimpl
    def kern_pools(self) -> Mapping[str, Callable[..., Any]]:
        return {"puddle": factory}

    @hookimpl
    def kern_schedulers(self) -> Mapping[str, Callable[..., Any]]:
        return {"diary": factory}

    @hookimpl
    def kern_monitors(self) -> Mapping[str, Callable[..., Any]]:
        return {"window": factory}


KINDS = {
    "transport": "pigeon",
    "result store": "cupboard",
    "pool": "puddle",
    "scheduler": "diary",
    "monitor": "window",
}


@pytest.mark.parametrize(("kind", "name"), KINDS.items())
def test_a_driver_is_found_by_kind_and_name(kind: str, name: str) -> None:
    app = Kern("drivers")
    app.register(Drivers())
    assert app.plugins.driver(kind, name) is factory


@pytest.mark.parametrize(("kind", "name"), KINDS.items())
def test_a_driver_that_is_not_there_is_named_with_the_nearest(kind: str, name: str) -> None:
    app = Kern("drivers")
    app.register(Drivers())
    with pytest.raises(PluginMissing, match=rf"the {kind} '{name}s'.*did you mean '{name}'"):
        app.plugins.driver(kind, f"{name}s")


@pytest.mark.parametrize("kind", KINDS)
def test_two_plugins_for_one_name_are_both_named(kind: str) -> None:
    app = Kern("drivers")
    app.register(Drivers(), "first")
    app.register(Drivers(), "second")
    with pytest.raises(PluginConflict, match=r"(?s)'first'.*'second'|'second'.*'first'"):
        app.plugins.driver(kind, KINDS[kind])
