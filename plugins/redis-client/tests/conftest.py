"""What several tests of the client use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kern_redis_client import urls
from kern_redis_client.connect import open_link
from kern_redis_client.link import Conversation, Link


def say(*commands: Any) -> Conversation[list[Any]]:
    """A conversation of one batch; its outcome is the answers."""
    return (yield list(commands))


def ask(link: Link, *words: Any, timeout: float = 20.0) -> Any:
    """The answer to one command."""
    return link.ask(say(words), timeout)[0]


@pytest.fixture
def connect(redis_url: str) -> Iterator[Callable[..., Link]]:
    """Opens links to an empty Redis, or to another URL, started; stops them in the end."""
    opened: list[Link] = []

    def open_started(url: str = redis_url, options: dict[str, Any] | None = None, **given: Any) -> Link:
        link = open_link(urls.parse(url, options), **given)
        opened.append(link)
        link.start().result(20)
        return link

    yield open_started
    for link in opened:
        link.stop()


@pytest.fixture
def link(connect: Callable[..., Link]) -> Link:
    """A started link to an empty Redis."""
    return connect()
