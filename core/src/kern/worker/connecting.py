"""Reaching broker and result store when a worker starts: patiently, where trying again may help."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, TypeVar

from kern import log
from kern.contracts.port import Reply
from kern.contracts.result_store import ResultStore
from kern.contracts.transport import Transport
from kern.errors import KernError
from kern.settings import Settings
from kern.worker.replies import awaited
from kern.worker.stopping import StopRequest

logger = log.get_logger("kern.worker")

Port = TypeVar("Port", Transport, ResultStore)

#: Seconds between two attempts: first, factor, longest. A random part of up to a half is left out, so that workers that
#: lost the same broker do not come back to it all at once.
PAUSES = (0.1, 2.0, 5.0)


class Patience:
    """How often a driver that could not start is tried again: ``broker_connection_retry`` and the settings beside it.

    :param stop: ends all waiting when the worker is told to stop.
    """

    def __init__(self, conf: Settings, stop: StopRequest) -> None:
        on_startup = conf.broker_connection_retry_on_startup
        self._retry: bool = conf.broker_connection_retry if on_startup is None else on_startup
        self._max_retries: int | None = conf.broker_connection_max_retries
        self._stop = stop

    async def reach(
        self, make: Callable[[], Port], start: Callable[[Port], Reply[None]], what: str, first: Port
    ) -> Port | None:
        """A started driver; ``None`` if the worker was told to stop meanwhile.

        :param make: makes another driver: one that could not start is spent.
        :param first: the driver to begin with.
        :raises KernError: it cannot be reached, and trying again does not help or has helped for long enough.
        """
        port, (pause, factor, longest), retries = first, PAUSES, 0
        while True:
            try:
                if not await self._unless_stopped(start(port)):
                    return None
                return port
            except KernError as error:
                spent = self._max_retries is not None and retries >= self._max_retries
                if not getattr(error, "retryable", False) or not self._retry or spent:
                    raise
                wait = pause * random.uniform(0.5, 1.0)
                logger.error(f"cannot reach the {what}, trying again", error=str(error), seconds=round(wait, 1))
            try:
                await asyncio.wait_for(self._stop.soon.wait(), wait)
                return None
            except TimeoutError:
                pass
            pause, retries, port = min(longest, pause * factor), retries + 1, make()

    async def _unless_stopped(self, reply: Reply[None]) -> bool:
        """Wait for *reply*, or until told to stop."""
        answered = awaited(reply)
        stopped = asyncio.ensure_future(self._stop.soon.wait())
        waited: list[asyncio.Future[Any]] = [answered, stopped]
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        if answered.done():
            await answered
            return True
        # Who waits no longer does not take the attempt back: the driver is stopped in its turn.
        answered.add_done_callback(lambda future: future.cancelled() or future.exception())
        return False
