"""Names of keys: kombu's for queues, ours for the rest, each behind the application's prefix."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import attrs

from kern.errors import ImproperlyConfigured

#: Between the parts of a name, as kombu has it.
SEPARATOR = "\x06\x16"
PRIORITY_STEPS = (0, 3, 6, 9)


@attrs.frozen
class Keys:
    """Names the keys of one application."""

    #: ``global_keyprefix``: put before each key as it is.
    prefix: str = ""
    #: ``sep``.
    separator: str = SEPARATOR
    #: ``priority_steps``, rising: priorities that have a list of their own; 0 is the most urgent.
    steps: tuple[int, ...] = PRIORITY_STEPS

    def __call__(self, name: str) -> str:
        """The key *name*."""
        return f"{self.prefix}{name}"

    def step(self, priority: int | None) -> int:
        """The step that *priority* belongs to: the largest that is not above it."""
        if not isinstance(priority, int):
            priority = 0
        return self.steps[max(bisect_right(self.steps, min(max(priority, 0), 9)) - 1, 0)]

    def suffix(self, priority: int | None) -> str:
        """What the lists of that priority have behind the queue's name."""
        step = self.step(priority)
        return f"{self.separator}{step}" if step else ""

    def list_of(self, queue: str, priority: int | None = 0) -> str:
        """The list where a message of that priority waits."""
        return f"{self.prefix}{queue}{self.suffix(priority)}"

    def lists(self, queue: str) -> tuple[str, ...]:
        """All lists of a queue, the most urgent first."""
        return tuple(self.list_of(queue, step) for step in self.steps)

    def member(self, queue: str, routing_key: str = "", pattern: str = "") -> str:
        """A binding, as it stands in the set of its exchange."""
        return self.separator.join((routing_key, pattern, queue))


def from_options(options: Mapping[str, Any]) -> Keys:
    """The names that *options* (``broker_transport_options``) ask for.

    :raises ImproperlyConfigured: one of them cannot be used.
    """
    prefix, separator = options.get("global_keyprefix") or "", options.get("sep", SEPARATOR)
    steps = options.get("priority_steps", PRIORITY_STEPS)
    if not isinstance(prefix, str):
        raise ImproperlyConfigured(f"transport option 'global_keyprefix' is text, not {type(prefix).__name__}")
    if not isinstance(separator, str) or not separator:
        raise ImproperlyConfigured(f"transport option 'sep' is text of at least one letter, not {separator!r}")
    if (
        not isinstance(steps, list | tuple | range)
        or not steps
        or not all(type(step) is int and 0 <= step <= 9 for step in steps)
        or len(set(steps)) != len(steps)
    ):
        raise ImproperlyConfigured(
            f"transport option 'priority_steps' is a list of different numbers from 0 to 9, not {steps!r}"
        )
    return Keys(prefix, separator, tuple(sorted(steps)))
