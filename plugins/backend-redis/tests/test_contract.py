"""The result store's contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kern.settings import Settings
from kern.settings_core import ResultSettings
from kern_backend_redis.settings import RedisResultSettings
from kern_backend_redis.store import RedisResultStore
from kern_testing.contracts.connection import StoreConnection
from kern_testing.contracts.result_store import MakeStore, ResultStoreContract
from kern_testing.servers import Redis, free_port


def maker(url: str) -> MakeStore:
    def make(result_expires: float | None = None) -> RedisResultStore:
        changes = {"result_expires": result_expires}
        return RedisResultStore(url, Settings([ResultSettings, RedisResultSettings], changes=changes, environ={}))

    return make


class TestRedisResultStore(ResultStoreContract):
    cuts = True
    refuses = True
    #: Its key is a list here.
    refused_id = "not a document"

    @pytest.fixture
    def make_store(self, redis_server: Redis, redis_url: str) -> MakeStore:
        redis_server.command("LPUSH", f"celery-task-meta-{self.refused_id}", "something else")
        self.server = redis_server
        return maker(redis_url)

    @pytest.fixture
    def make_unreachable(self) -> Callable[[], RedisResultStore]:
        return lambda: RedisResultStore(f"redis://user:hunter2@127.0.0.1:{free_port()}/0")

    @pytest.fixture
    def make_refused(self, redis_url: str) -> Callable[[], RedisResultStore]:
        return lambda: RedisResultStore(redis_url.replace("://", "://nobody:hunter2@"))

    def cut(self, connection: StoreConnection) -> None:
        client = connection.port._link.facts.client_id  # type: ignore[attr-defined]
        assert self.server.command("CLIENT", "KILL", "ID", str(client)) == ":1"
