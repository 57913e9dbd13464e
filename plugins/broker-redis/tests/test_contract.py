"""The transport's contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kern_broker_redis.transport import RedisTransport
from kern_testing.contracts.connection import Connection
from kern_testing.contracts.transport import TransportContract
from kern_testing.servers import free_port

from .conftest import Ask


class TestOnRedis(TransportContract):
    higher_first = False
    injects = True
    cuts = True
    refuses = True

    @pytest.fixture
    def make_transport(self, redis_url: str, ask: Ask) -> Callable[[], RedisTransport]:
        self.ask = ask
        return lambda: RedisTransport(redis_url)

    def inject(self, connection: Connection, queue: str, raw: bytes) -> None:
        self.ask("LPUSH", queue, raw)

    def cut(self, connection: Connection) -> None:
        transport = connection.port
        assert isinstance(transport, RedisTransport)
        assert self.ask("CLIENT", "KILL", "ID", transport._link.facts.client_id) == 1

    @pytest.fixture
    def make_unreachable(self) -> Callable[[], RedisTransport]:
        return lambda: RedisTransport(f"redis://user:hunter2@127.0.0.1:{free_port()}/0")

    @pytest.fixture
    def make_refused(self, redis_url: str) -> Callable[[], RedisTransport]:
        return lambda: RedisTransport(redis_url.replace("://", "://nobody:hunter2@"))
