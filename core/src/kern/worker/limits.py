"""Hard limits where the pool cannot kill: the lease is fenced instead.

A thread cannot be killed. What the task's caller sees is the same all the same: the task ends as ``FAILURE`` at its
limit, its lease is not kept for it any longer, and whatever it still returns counts for nothing. The slot is busy until
the code lets go of it; an exception raised inside asks it to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kern import log
from kern.contracts.pool import Pool, PoolCapability
from kern.errors import TimeLimitExceeded
from kern.worker.state import InFlight

logger = log.get_logger("kern.worker")


class HardLimits:
    """Watches what runs in a pool that cannot enforce hard limits itself; does nothing for one that can.

    :param on_exceeded: told of an entry that ran into its limit, with the limit in seconds.
    """

    def __init__(self, pool: Pool, on_exceeded: Callable[[InFlight, float], None]) -> None:
        self._pool = pool
        self._on_exceeded = on_exceeded
        self.needed = PoolCapability.HARD_LIMITS not in pool.capabilities

    def started(self, entry: InFlight) -> None:
        """Count from now."""
        limit = entry.request.time_limit if entry.request is not None else None
        if self.needed and limit:
            entry.timer = asyncio.get_running_loop().call_later(limit, self._exceeded, entry, limit)

    def ended(self, entry: InFlight) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None

    def _exceeded(self, entry: InFlight, limit: float) -> None:
        entry.timer = None
        self._pool.interrupt(entry.receipt, TimeLimitExceeded(limit))
        self._on_exceeded(entry, limit)
