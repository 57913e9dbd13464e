"""The wire form of a call, and where it is sent.

A :class:`Message` is what Celery's message protocol 2 (and 1) puts on a broker: headers that can be read without the
body, a body that only the process that runs the task decodes, and properties. How these three are written down is the
transport's business; their content is the same on every broker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

#: Headers of protocol 2 in the order in which they are written.
PROTOCOL_2_HEADERS: tuple[str, ...] = (
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
)

#: What protocol 2 carries beside arguments: names of continuations, each a list, one signature, or ``None``.
CONTINUATIONS: tuple[str, ...] = ("callbacks", "errbacks", "chain", "chord")


@attrs.frozen
class Message:
    """A call on the wire. Never changed once made; ``attrs.evolve`` makes another."""

    #: The encoded body, compressed where the header ``compression`` says so.
    body: bytes
    #: Protocol headers and the caller's own, at one level.
    headers: Mapping[str, Any]
    #: ``correlation_id``, ``reply_to``, ``delivery_mode``, ``priority``, ``expiration`` and whatever else was sent.
    properties: Mapping[str, Any]
    content_type: str = "application/json"
    content_encoding: str = "utf-8"

    @property
    def task_id(self) -> str | None:
        """The call's id; ``None`` in a protocol 1 message, whose id is in its body."""
        value = self.headers.get("id") or self.properties.get("correlation_id")
        return value if isinstance(value, str) else None

    @property
    def task(self) -> str | None:
        """The task's name; ``None`` in a protocol 1 message."""
        value = self.headers.get("task")
        return value if isinstance(value, str) else None

    @property
    def priority(self) -> int:
        """0 when unset or senseless."""
        value = self.properties.get("priority")
        return value if isinstance(value, int) and not isinstance(value, bool) else 0

    @property
    def size(self) -> int:
        """Bytes of the body; headers are bounded by their representation limits."""
        return len(self.body)


@attrs.frozen
class Publication:
    """A message and where it goes."""

    message: Message
    #: Name of the exchange; ``""`` delivers to the queue named by the routing key.
    exchange: str
    routing_key: str
    #: ``direct``, ``topic`` or ``fanout``; meaningless for the anonymous exchange.
    exchange_type: str = "direct"
    #: Not before this time (seconds since the epoch); ``None`` means at once.
    due: float | None = None
    #: Counted deaths that the message brings along; only ever non-zero when kern itself moves a message.
    attempts: int = 0

    @property
    def task_id(self) -> str:
        return self.message.task_id or ""
