"""What keys and channels of the broker are called: kombu's names, and kern's own beside them."""

from __future__ import annotations

from typing import Any

import attrs

from kern_redis_client.keys import Keys


@attrs.frozen
class Names(Keys):
    """The names of one broker; every one starts with the prefix, so that several may share a server."""

    #: What channels of exchanges start with, behind the prefix.
    fanout: str = "/0."
    #: Whether the routing key is part of a channel's name.
    fanout_patterns: bool = True
    #: Of each priority from 0 to 9.
    _suffixes: tuple[str, ...] = attrs.field(init=False, repr=False)

    @_suffixes.default
    def _all_suffixes(self) -> tuple[str, ...]:
        return tuple(Keys.suffix(self, priority) for priority in range(10))

    def key(self, name: str) -> str:
        """The key *name*."""
        return self(name)

    def suffix(self, priority: Any) -> str:
        """What the list of a priority has behind the queue's name; what cannot be a priority counts as 0."""
        if not priority:
            return self._suffixes[0]
        try:
            return self._suffixes[max(0, min(int(priority), 9))]
        except (TypeError, ValueError, OverflowError):
            return self._suffixes[0]

    def queue_of(self, key: str) -> str:
        """The queue that has the list *key*."""
        name = key.removeprefix(self.prefix)
        queue, separator, step = name.rpartition(self.separator)
        return queue if separator and step.isdecimal() and int(step) in self.steps else name

    def binding(self, exchange: str) -> str:
        """Who is bound to an exchange."""
        return self(f"_kombu.binding.{exchange}")

    def permanent_binding(self, exchange: str) -> str:
        """Who of them is bound for good: queues that do not expire."""
        return self(f"_kombu.binding_permanent.{exchange}")

    def fanout_queues(self, exchange: str) -> str:
        """Queues of kern's own consumers that are bound to a fanout exchange."""
        return self(f"kern.fanout.{exchange}")

    def delayed(self, queue: str) -> str:
        """When the delayed messages of a queue are due."""
        return self(f"kern.delayed.{queue}")

    def delayed_messages(self, queue: str) -> str:
        """The delayed messages themselves."""
        return self(f"kern.delayed_messages.{queue}")

    def channel(self, exchange: str, routing_key: str = "") -> str:
        """The channel of a fanout exchange, or of a broadcast's topic."""
        name = self(f"{self.fanout}{exchange}")
        return f"{name}/{routing_key}" if routing_key and self.fanout_patterns else name

    def topic_of(self, channel: str) -> str:
        """What :meth:`channel` was made of, a routing key included."""
        return channel[len(self.prefix) + len(self.fanout) :]
