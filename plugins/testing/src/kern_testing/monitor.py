"""A monitor that remembers, for tests of what happens."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from kern.contracts.monitor import Monitor
from kern.outcome import Event


class RecordingMonitor(Monitor):
    """Keeps every event it took, in order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: list[Event] = []
        #: How many events were lost because it was too slow.
        self.dropped = 0

    def start(self) -> None:
        pass

    def take(self, events: Sequence[Event], dropped: int) -> None:
        with self._lock:
            self._events.extend(events)
            self.dropped += dropped

    def stop(self) -> None:
        pass

    @property
    def events(self) -> list[Event]:
        """What was taken so far; a copy."""
        with self._lock:
            return list(self._events)

    def of_type(self, *types: str) -> list[Event]:
        """Events of these types, in order."""
        return [event for event in self.events if event.type in types]
