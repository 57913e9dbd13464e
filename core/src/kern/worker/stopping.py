"""Signals, and the one way in which a worker stops.

1. Stop claiming.
2. Hand back what has not started.
3. Let what runs finish, for ``worker_soft_shutdown_timeout`` seconds.
4. Hand back the rest, as interrupted: uncounted, no failure.
5. Exit 0.

A second signal goes to step 4 at once. Leases, limits and heartbeats go on to the end.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from kern import log

logger = log.get_logger("kern.worker")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class StopRequest:
    """How often the worker has been told to stop, and by what."""

    def __init__(self) -> None:
        self.soon = asyncio.Event()
        self.now = asyncio.Event()
        self.cause: str | None = None
        self.on_stop: Callable[[str | None], None] = lambda _cause: None

    def stop(self, cause: str | None = None) -> None:
        """Ask once for a graceful stop, again for one at once."""
        if not self.soon.is_set():
            self.cause = cause
            logger.info("stopping: what runs may finish, again to stop at once", cause=cause)
            self.soon.set()
            self.on_stop(cause)
        elif not self.now.is_set():
            logger.info("stopping at once", cause=cause)
            self.now.set()

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the signals. SIGQUIT asks for a stop at once."""
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)

    def unlisten(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the signals back."""
        for number in SIGNALS:
            loop.remove_signal_handler(number)

    def _signalled(self, number: signal.Signals) -> None:
        self.stop(signal.Signals(number).name)
        if number == signal.SIGQUIT:
            self.now.set()
