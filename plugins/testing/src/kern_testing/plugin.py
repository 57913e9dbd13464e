"""What ``memory://`` and the pool ``inline`` stand for, and crash points where a test asks for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from kern.contracts.pool import PoolFactory, PoolOptions
from kern.contracts.result_store import ResultStoreFactory
from kern.contracts.transport import TransportFactory
from kern.hookspecs import hookimpl

KERN_API = 1


def _transport(url: str, conf: Any) -> Any:
    from kern_testing.memory import MemoryTransport

    return MemoryTransport(url, conf)


def _result_store(url: str, conf: Any) -> Any:
    from kern_testing.memory import MemoryResultStore

    return MemoryResultStore(url, conf)


@hookimpl
def kern_transports() -> Mapping[str, TransportFactory]:
    return {"memory": _transport}


@hookimpl
def kern_result_stores() -> Mapping[str, ResultStoreFactory]:
    return {"memory": _result_store}


def _inline_pool(app: Any, options: PoolOptions) -> Any:
    from kern_testing.worker import InlinePool

    return InlinePool(app, options)


@hookimpl
def kern_pools() -> Mapping[str, PoolFactory]:
    return {"inline": _inline_pool}


if os.environ.get("KERN_TEST_CRASH"):
    # Loading the plugin is the one moment at which a process of kern's own passes through here.
    from kern_testing.crash import arm_from_environment

    arm_from_environment()
