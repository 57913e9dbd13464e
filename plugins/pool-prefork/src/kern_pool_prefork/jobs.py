"""A request that the pool has."""

from __future__ import annotations

import asyncio

import attrs

from kern.request import Request
from kern_process_host import Process


@attrs.define(eq=False)
class Job:
    """From its submission until its end has been told."""

    #: By which processes know it; no two jobs of a pool have the same.
    number: int
    request: Request
    #: Where it runs; ``None``: nowhere, as far as we know.
    process: Process | None = None
    timers: tuple[asyncio.TimerHandle, ...] = ()
    #: We are killing its process: on request, or at its limit of so many seconds.
    terminated: bool = False
    time_limit: float | None = None

    def cancel_timers(self) -> None:
        for timer in self.timers:
            timer.cancel()
        self.timers = ()
