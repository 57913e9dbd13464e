"""How an application comes by the pool."""

from __future__ import annotations

import pytest

from kern import Kern
from kern.contracts.pool import PoolOptions
from kern.errors import InvalidSetting
from kern_pool_prefork.pool import PreforkPool


@pytest.mark.parametrize("name", ["prefork", "processes"])
def test_it_has_celerys_names(app: Kern, name: str) -> None:
    """Both lead to it, and workers that ask for none get it."""
    app.conf.worker_pool_start_method = "fork"
    pool = app.plugins.driver("pool", name)(app, PoolOptions(concurrency=1))
    assert isinstance(pool, PreforkPool)
    assert pool.name == app.default_pool == "prefork"
    pool.stop().result(10)


def test_its_settings_are_checked(app: Kern) -> None:
    """Celery's, with Celery's default."""
    assert app.conf.worker_proc_alive_timeout == 4.0
    with pytest.raises(InvalidSetting, match="worker_pool_start_method"):
        app.conf.worker_pool_start_method = "forkserver"
