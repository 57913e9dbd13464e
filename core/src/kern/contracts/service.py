"""A service: something that lives in a worker, such as a scheduler, a monitor, remote control or a sweeper."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Service(ABC):
    """Started in order, stopped in reverse. Runs on the worker's loop: no method may block."""

    #: Seconds between two calls of :meth:`tick`; ``None``: never.
    interval: float | None = None
    name: str = ""

    @abstractmethod
    async def start(self, worker: Any) -> None:
        """Get ready; *worker* is the :class:`kern.worker.Worker` it lives in."""

    async def tick(self) -> None:  # noqa: B027  (a service may do all of its work elsewhere)
        """Called every :attr:`interval` seconds; an error is logged with the service's name and ends nothing."""

    @abstractmethod
    async def stop(self) -> None:
        """End. Safe before a start, and twice; over when it returns."""
