"""Hook implementations; nothing heavy is imported before the pool is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kern.hookspecs import hookimpl

if TYPE_CHECKING:
    from kern.contracts.pool import Pool, PoolFactory, PoolOptions
    from kern.settings import Section

KERN_API = 1


@hookimpl
def kern_pools() -> Mapping[str, PoolFactory]:
    return {"prefork": make_pool, "processes": make_pool}


@hookimpl
def kern_settings() -> Sequence[type[Section]]:
    from kern_pool_prefork.settings import PreforkSettings

    return [PreforkSettings]


def make_pool(app: Any, options: PoolOptions) -> Pool:
    """The pool for a worker of *app*."""
    from kern_pool_prefork.pool import PreforkPool
    from kern_process_host.sharing import prepare

    prepare(app, options.hostname)
    return PreforkPool(app, options)
