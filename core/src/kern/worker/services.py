"""The services of a worker: started in order, ticked, stopped in reverse. None of them can take the worker with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from kern import log
from kern.contracts.service import Service
from kern.errors import ImproperlyConfigured
from kern.worker.chores import Chores

if TYPE_CHECKING:
    from kern.worker.worker import Worker

logger = log.get_logger("kern.worker")

#: Seconds a service may take to stop.
FAREWELL = 2.0


class Services:
    """The services of one worker, those that started."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = services
        self._started: list[Service] = []

    async def start(self, worker: Worker, chores: Chores) -> None:
        """Start them all; one that fails is left out.

        :raises ImproperlyConfigured: a service refuses its configuration.
        """
        for service in self._services:
            try:
                await service.start(worker)
            except ImproperlyConfigured:
                raise
            except Exception:
                logger.exception("service could not start, the worker goes on without it", service=_name(service))
                continue
            self._started.append(service)
            if service.interval is not None:
                chores.spawn(f"service {_name(service)}", self._tick(service, service.interval))

    async def stop(self) -> None:
        """Stop them, the last one first."""
        while self._started:
            service = self._started.pop()
            await self._guarded(service, "stop", asyncio.wait_for(service.stop(), FAREWELL))

    async def _tick(self, service: Service, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            await self._guarded(service, "tick", service.tick())

    async def _guarded(self, service: Service, what: str, awaitable: Coroutine[Any, Any, None]) -> None:
        try:
            await awaitable
        except Exception:
            logger.exception("service failed", service=_name(service), method=what)


def _name(service: Service) -> str:
    return service.name or type(service).__name__
