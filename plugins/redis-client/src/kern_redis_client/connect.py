"""A link to an address in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kern_redis_client.dialling import Dialler
from kern_redis_client.link import Conversation, Link
from kern_redis_client.scripts import Script
from kern_redis_client.urls import Address


def _ignore(*_: object) -> None:
    """Nobody wants to know."""


def _nothing_to_say() -> Conversation[None]:
    return
    yield


def open_link(
    address: Address,
    *,
    greet: Callable[[], Conversation[None]] = _nothing_to_say,
    on_push: Callable[[list[Any]], None] = _ignore,
    on_down: Callable[[Exception], None] = _ignore,
    on_up: Callable[[], None] = _ignore,
    scripts: Iterable[Script] = (),
) -> Link:
    """A link to *address*, not started yet; the parameters are those of :class:`~kern_redis_client.link.Link`."""
    return Link(
        address.masked,
        Dialler(address).dial,
        greet,
        on_push,
        on_down,
        on_up,
        scripts,
        silence=address.silence,
        ping_after=address.health_check_interval,
    )
