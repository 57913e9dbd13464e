"""Rate limits of one worker: each task its own row of slots."""

from __future__ import annotations

from collections import OrderedDict

#: Reserved slots remembered for messages that were parked until then.
REMEMBERED = 10_000
#: Seconds that a message may come after its slot and still use it; later it gets another one, or a worker that was
#: held up would let all that waits run at once.
GRACE = 0.25


class RateLimiter:
    """Gives each run the next free slot of its task; a message that has to wait is parked until its own slot."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        #: Slot of each run that was told to wait, oldest promise first.
        self._reserved: OrderedDict[tuple[str, str], float] = OrderedDict()

    def slot(self, task: str, rate: float, task_id: str, now: float) -> float:
        """When the run *task_id* of *task* may start (seconds since the epoch).

        :param rate: runs a second.
        :param now: seconds since the epoch; the answer is never before it.
        """
        key = (task, task_id)
        reserved = self._reserved.pop(key, None)
        if reserved is not None and now - GRACE <= reserved <= now + 0.005:
            return now
        if reserved is None or reserved < now:
            reserved = max(now, self._last.get(task, 0.0) + 1.0 / rate)
            self._last[task] = reserved
        if reserved > now:
            self._reserved[key] = reserved
            if len(self._reserved) > REMEMBERED:
                self._reserved.popitem(last=False)
        return reserved

    def forget(self, task: str) -> None:
        """Start over with a task, after its limit has changed; what was promised under the old limit is void."""
        self._last.pop(task, None)
        for key in [key for key in self._reserved if key[0] == task]:
            del self._reserved[key]
