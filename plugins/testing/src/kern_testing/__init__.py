"""Contract suites, an in-memory transport and store, fixtures, crash points and the loss ledger.

Nothing that runs in production imports this package.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kern_testing.clock import VirtualClock
    from kern_testing.contracts import (
        JointSettlementContract,
        MonitorContract,
        PoolContract,
        ResultStoreContract,
        SchedulerContract,
        TransportContract,
    )
    from kern_testing.ledger import Ledger
    from kern_testing.memory import MemoryResultStore, MemoryTransport
    from kern_testing.waiting import eventually
    from kern_testing.worker import enqueued, in_memory, run_until_idle

_EXPORTS = {
    "JointSettlementContract": "kern_testing.contracts",
    "Ledger": "kern_testing.ledger",
    "MemoryResultStore": "kern_testing.memory",
    "MemoryTransport": "kern_testing.memory",
    "MonitorContract": "kern_testing.contracts",
    "PoolContract": "kern_testing.contracts",
    "ResultStoreContract": "kern_testing.contracts",
    "SchedulerContract": "kern_testing.contracts",
    "TransportContract": "kern_testing.contracts",
    "VirtualClock": "kern_testing.clock",
    "enqueued": "kern_testing.worker",
    "eventually": "kern_testing.waiting",
    "in_memory": "kern_testing.worker",
    "run_until_idle": "kern_testing.worker",
}

__all__ = [
    "JointSettlementContract",
    "Ledger",
    "MemoryResultStore",
    "MemoryTransport",
    "MonitorContract",
    "PoolContract",
    "ResultStoreContract",
    "SchedulerContract",
    "TransportContract",
    "VirtualClock",
    "enqueued",
    "eventually",
    "in_memory",
    "run_until_idle",
]

# A worker under test loads this package as well, for its transport and crash points, and must not pay for pytest.
if "pytest" in sys.modules:
    import pytest

    # Otherwise a failing contract says "AssertionError" and nothing else.
    pytest.register_assert_rewrite("kern_testing.contracts", "kern_testing.waiting", "kern_testing.ledger")


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(module), name)
