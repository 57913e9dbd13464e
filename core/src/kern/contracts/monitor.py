"""The monitor: takes in what happens, as events.

Events come in batches, in order for each task; a monitor that is slow loses events and is told how many, it never slows
the worker down.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from kern.outcome import Event


class Monitor(ABC):
    """Called on a thread of its own; may block."""

    @abstractmethod
    def start(self) -> None:
        """Get ready."""

    @abstractmethod
    def take(self, events: Sequence[Event], dropped: int) -> None:
        """Take in a batch; *dropped* events were lost before it because this monitor was too slow."""

    @abstractmethod
    def stop(self) -> None:
        """Flush and end. Safe twice."""


MonitorFactory = Callable[[Any], Monitor]
