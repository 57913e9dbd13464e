"""Signals, and the one way in which a worker stops.

1. Stop claiming.
2. Hand back what has not started.
3. Let what runs finish, for ``worker_soft_shutdown_timeout`` seconds.
4. Interrupt the rest and hand it back: uncounted, no failure.
5. Exit 0.

A second signal goes to step 4 at once, and so does SIGQUIT. Leases, limits, heartbeats and services go on to the end.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable

from kern import log

logger = log.get_logger("kern.worker")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class StopRequest:
    """Whether the worker has been told to stop, how urgently, and by what."""

    def __init__(self) -> None:
        #: Set by the first request.
        self.soon = asyncio.Event()
        #: Set by the second one: what runs may not finish.
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

    def listen(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Take the signals; ``False`` where that cannot be done: outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return False
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        return True

    def unlisten(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the signals back."""
        for number in SIGNALS:
            loop.remove_signal_handler(number)

    def _signalled(self, number: signal.Signals) -> None:
        self.stop(signal.Signals(number).name)
        if number == signal.SIGQUIT:
            self.now.set()
