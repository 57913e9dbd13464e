"""The pool keeps what every pool owes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kern import Kern
from kern.contracts.pool import Pool, PoolOptions
from kern_pool_prefork.pool import PreforkPool
from kern_testing.contracts.pool import PoolContract


class TestPrefork(PoolContract):
    capabilities = PreforkPool.capabilities
    cycles = 30

    @pytest.fixture
    def make_pool(self) -> Callable[[int], Pool]:
        app = Kern("tests", worker_pool_start_method="fork")
        return lambda slots: PreforkPool(app, PoolOptions(concurrency=slots, hostname="tests@here"))
