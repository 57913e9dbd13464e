"""What several tests of the transport use."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import hiredis
import pytest

from kern_broker_redis.transport import RedisTransport
from kern_testing.contracts.connection import Connection
from kern_testing.servers import Redis

#: Sends a command to the test's server past the driver, and gives its answer.
Ask = Callable[..., Any]
#: Opens a worker's connection: ``connect()``, or elsewhere: ``connect(url)``.
Connect = Callable[..., Connection]


@pytest.fixture
def ask(redis_server: Redis, redis_url: str) -> Iterator[Ask]:
    """A foreign program on the same server."""
    with socket.create_connection(("127.0.0.1", redis_server.port), timeout=10) as connection:
        reader = hiredis.Reader()

        def ask(*words: str | bytes | int | float) -> Any:
            connection.sendall(hiredis.pack_command(words))
            while (answer := reader.gets()) is False:
                reader.feed(connection.recv(65536))
            return answer

        yield ask


@pytest.fixture
def connect(redis_url: str) -> Iterator[Connect]:
    """Opens connections, and stops them in the end."""
    opened: list[Connection] = []

    def connect(url: str = redis_url, role: str = "worker") -> Connection:
        opened.append(Connection(RedisTransport(url), role).start())
        return opened[-1]

    yield connect
    for connection in opened:
        connection.stop()
