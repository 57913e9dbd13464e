"""What several tests of the store use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kern.settings import Settings
from kern.settings_core import ResultSettings
from kern_backend_redis.settings import RedisResultSettings
from kern_backend_redis.store import RedisResultStore
from kern_testing.contracts.connection import StoreConnection


def settings(**changes: Any) -> Settings:
    return Settings([ResultSettings, RedisResultSettings], changes=changes, environ={})


@pytest.fixture
def opened(redis_url: str) -> Iterator[Callable[..., StoreConnection]]:
    """Makes a started store of an empty server: ``opened(result_expires=None)``."""
    connections: list[StoreConnection] = []

    def opened(url: str = redis_url, **changes: Any) -> StoreConnection:
        connections.append(StoreConnection(RedisResultStore(url, settings(**changes))).start())
        return connections[-1]

    yield opened
    for connection in connections:
        connection.stop()
