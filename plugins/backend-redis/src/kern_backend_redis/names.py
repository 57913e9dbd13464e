"""Names of the keys: Celery's, and those of kern's own joins."""

from __future__ import annotations

import attrs

_TASK, _GROUP, _JOIN = "celery-task-meta-", "celery-taskset-meta-", "kern.join."


@attrs.frozen
class Names:
    """Names the keys of one application."""

    #: Before each key, with whatever stands between.
    prefix: str = ""

    def task(self, task_id: str) -> str:
        """A document; also the channel on which it is announced."""
        return f"{self.prefix}{_TASK}{task_id}"

    def group(self, group_id: str) -> str:
        """A saved group; of a chord's other keys each has a letter behind this name."""
        return f"{self.prefix}{_GROUP}{group_id}"

    def join(self, join_id: str) -> str:
        """A join; its parts and members stand beside it."""
        return f"{self.prefix}{_JOIN}{join_id}"

    @property
    def joins_due(self) -> str:
        """Open joins, by the time at which somebody has to look at them."""
        return f"{self.prefix}kern.joins_due"
