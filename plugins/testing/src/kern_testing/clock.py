"""Clocks that tests move."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds a virtual clock moves when a test waits for something.
STEP = 0.05


class VirtualClock:
    """Time as data: ``clock()`` and ``clock.now()`` are seconds since the epoch, ``advance`` moves it.

    :param start: seconds since the epoch; ``None``: what the machine's clock says now.
    :param flowing: time also passes by itself, as on the wall; else it stands until it is moved.
    """

    def __init__(self, start: float | None = None, flowing: bool = False) -> None:
        self._now = time.time() if start is None else start
        self._flowing_since = time.monotonic() if flowing else None
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def __call__(self) -> float:
        return self.now()

    def now(self) -> float:
        """Seconds since the epoch."""
        if self._flowing_since is None:
            return self._now
        return self._now + (time.monotonic() - self._flowing_since)

    def advance(self, seconds: float) -> float:
        """Move on by *seconds*; the new time.

        :raises ValueError: a clock does not go back.
        """
        if seconds < 0:
            raise ValueError(f"a clock does not go back (by {-seconds:g} s)")
        with self._lock:
            self._now += seconds
            listeners = list(self._listeners)
        for listener in listeners:
            listener()
        return self.now()

    def advance_to(self, instant: float) -> float:
        """Move on to *instant* (seconds since the epoch); nothing happens if it has passed."""
        return self.advance(max(0.0, instant - self.now()))

    def pause(self) -> None:
        """What a test calls while it waits: time passes, and other threads get their turn."""
        self.advance(STEP)
        time.sleep(0.0005)

    def on_advance(self, listener: Callable[[], None]) -> None:
        """Call *listener* after each move, on the mover's thread."""
        with self._lock:
            self._listeners.append(listener)
