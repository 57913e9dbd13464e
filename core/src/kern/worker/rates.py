"""Rate limits of one worker: each task its own row of slots."""

from __future__ import annotations

from collections import OrderedDict

#: Reserved slots remembered for messages that were parked until then.
_REMEMBERED = 10_000


class RateLimiter:
    """Gives each run the next free slot of its task; a message that has to wait is parked until its own slot."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._reserved: OrderedDict[str, float] = OrderedDict()

    def slot(self, task: str, rate: float, task_id: str, now: float) -> float:
        """When the run *task_id* of *task* may start (seconds since the epoch); *rate* is in runs a second."""
        reserved = self._reserved.pop(task_id, None)
        if reserved is not None and reserved <= now + 0.005:
            return now
        if reserved is None:
            reserved = max(now, self._last.get(task, 0.0) + 1.0 / rate)
            self._last[task] = reserved
        if reserved > now:
            self._reserved[task_id] = reserved
            if len(self._reserved) > _REMEMBERED:
                self._reserved.popitem(last=False)
        return reserved

    def forget(self, task: str) -> None:
        """Start over with a task, after its limit has changed."""
        self._last.pop(task, None)
