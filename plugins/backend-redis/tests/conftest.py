"""What several tests of the store use."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import hiredis
import pytest

from kern.settings import Settings
from kern.settings_core import ResultSettings
from kern_backend_redis.settings import RedisResultSettings
from kern_backend_redis.store import RedisResultStore
from kern_testing.contracts.connection import StoreConnection
from kern_testing.servers import Redis

#: Sends a command to the test's server past the driver, and gives its answer.
Ask = Callable[..., Any]
#: Opens a store: ``opened()``, or elsewhere and otherwise: ``opened(url, result_expires=10)``.
Opened = Callable[..., StoreConnection]


def made(url: str, **changes: Any) -> RedisResultStore:
    """A store that is not started, with these settings."""
    sections = [ResultSettings, RedisResultSettings]
    return RedisResultStore(url, Settings(sections, changes=changes, environ={}))


@pytest.fixture
def make() -> Callable[..., RedisResultStore]:
    return made


@pytest.fixture
def opened(redis_url: str) -> Iterator[Opened]:
    """Opens stores, and stops them in the end."""
    connections: list[StoreConnection] = []

    def opened(url: str = redis_url, **changes: Any) -> StoreConnection:
        connections.append(StoreConnection(made(url, **changes)).start())
        return connections[-1]

    yield opened
    for connection in connections:
        connection.stop()


@pytest.fixture
def ask(redis_server: Redis, redis_url: str) -> Iterator[Ask]:
    """A foreign program on the same server."""
    with socket.create_connection(("127.0.0.1", redis_server.port), timeout=10) as connection:
        reader = hiredis.Reader(notEnoughData=Ellipsis)

        def ask(*words: str | bytes | int | float) -> Any:
            if words:
                connection.sendall(hiredis.pack_command(words))
            while (answer := reader.gets()) is Ellipsis:
                reader.feed(connection.recv(65536))
            return answer

        yield ask
