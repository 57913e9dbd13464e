"""Results settled together with the messages they belong to: in one database, and in two of one server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kern_backend_redis.store import RedisResultStore
from kern_broker_redis.transport import RedisTransport
from kern_testing.contracts.joint import JointSettlementContract


class TestInOneDatabase(JointSettlementContract):
    @pytest.fixture
    def make_transport(self, redis_url: str) -> Callable[[], RedisTransport]:
        return lambda: RedisTransport(redis_url)

    @pytest.fixture
    def make_store(self, redis_url: str) -> Callable[[], RedisResultStore]:
        return lambda: RedisResultStore(redis_url)


class TestInTwoDatabases(JointSettlementContract):
    @pytest.fixture
    def make_transport(self, redis_url: str) -> Callable[[], RedisTransport]:
        return lambda: RedisTransport(redis_url)

    @pytest.fixture
    def make_store(self, redis_url: str) -> Callable[[], RedisResultStore]:
        return lambda: RedisResultStore(redis_url.removesuffix("/0") + "/1")
