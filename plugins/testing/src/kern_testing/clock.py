"""A clock that only moves when it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds a virtual clock moves when a test waits for something.
STEP = 0.05


class VirtualClock:
    """Time as data: ``clock()`` and ``clock.now()`` are seconds since the epoch, ``advance`` moves it.

    :param start: seconds since the epoch; ``None``: what the machine's clock says now.
    """

    def __init__(self, start: float | None = None) -> None:
        self._now = time.time() if start is None else start
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def __call__(self) -> float:
        return self._now

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> float:
        """Move on by *seconds*; the new time.

        :raises ValueError: a clock does not go back.
        """
        if seconds < 0:
            raise ValueError(f"a clock does not go back (by {-seconds:g} s)")
        with self._lock:
            self._now += seconds
            now, listeners = self._now, list(self._listeners)
        for listener in listeners:
            listener()
        return now

    def advance_to(self, instant: float) -> float:
        """Move on to *instant* (seconds since the epoch); nothing happens if it has passed."""
        return self.advance(max(0.0, instant - self._now))

    def pause(self) -> None:
        """What a test calls while it waits: time passes, and other threads get their turn."""
        self.advance(STEP)
        time.sleep(0.0005)

    def on_advance(self, listener: Callable[[], None]) -> None:
        """Call *listener* after each move, on the mover's thread."""
        with self._lock:
            self._listeners.append(listener)
