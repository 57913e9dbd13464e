"""What several tests of the transport use."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import hiredis
import pytest

from kern_testing.servers import Redis

#: Sends a command to the test's server past the driver, and gives its answer.
Ask = Callable[..., Any]


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
