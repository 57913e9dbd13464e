"""Queues, exchanges and bindings as plain values, and how a routing key meets a binding.

kombu's ``Queue`` and ``Exchange`` are what users write in ``task_queues``; :func:`QueueSpec.from_kombu` turns them into
these, so that neither the client's hot path nor a driver needs to import kombu.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import attrs


@attrs.frozen
class Binding:
    """A queue receives what is published to *exchange* under keys that meet *routing_key*."""

    exchange: str
    routing_key: str
    exchange_type: str = "direct"
    arguments: Mapping[str, Any] | None = attrs.field(default=None, eq=False)


@attrs.frozen
class QueueSpec:
    """A queue as it is to be declared."""

    name: str
    exchange: str = ""
    exchange_type: str = "direct"
    routing_key: str = ""
    #: Further bindings, beside that of :attr:`exchange` and :attr:`routing_key`.
    bindings: tuple[Binding, ...] = ()
    durable: bool = True
    auto_delete: bool = False
    exclusive: bool = False
    no_ack: bool = False
    #: Largest priority the queue orders by, where the broker wants to know.
    max_priority: int | None = None
    #: 1 transient, 2 persistent, ``None``: what the settings say.
    delivery_mode: int | None = None
    queue_arguments: Mapping[str, Any] | None = attrs.field(default=None, eq=False)
    binding_arguments: Mapping[str, Any] | None = attrs.field(default=None, eq=False)
    exchange_durable: bool = True
    exchange_auto_delete: bool = False
    exchange_arguments: Mapping[str, Any] | None = attrs.field(default=None, eq=False)
    #: The name by which users know it, where that is not its own (broadcast queues).
    alias: str | None = None

    def all_bindings(self) -> tuple[Binding, ...]:
        """Its own binding first; none for a queue of the anonymous exchange."""
        own = (Binding(self.exchange, self.routing_key or self.name, self.exchange_type, self.binding_arguments),)
        return (own if self.exchange else ()) + self.bindings

    @property
    def is_broadcast(self) -> bool:
        """Every consumer gets a copy."""
        return self.exchange_type == "fanout" and self.alias is not None

    @classmethod
    def from_kombu(cls, queue: Any) -> QueueSpec:
        """The same queue, from a ``kombu.Queue`` (or ``Broadcast``)."""
        exchange = queue.exchange
        arguments = dict(queue.queue_arguments or {})
        for name, argument, factor in (
            ("expires", "x-expires", 1000),
            ("message_ttl", "x-message-ttl", 1000),
            ("max_length", "x-max-length", 1),
            ("max_length_bytes", "x-max-length-bytes", 1),
            ("max_priority", "x-max-priority", 1),
        ):
            value = getattr(queue, name, None)
            if value is not None:
                arguments.setdefault(argument, int(value * factor))
        return cls(
            name=queue.name,
            exchange=exchange.name if exchange else "",
            exchange_type=(exchange.type if exchange else "direct") or "direct",
            routing_key=queue.routing_key or "",
            bindings=tuple(
                Binding(b.exchange.name, b.routing_key or "", b.exchange.type or "direct", b.arguments)
                for b in (queue.bindings or ())
            ),
            durable=bool(queue.durable),
            auto_delete=bool(queue.auto_delete),
            exclusive=bool(queue.exclusive),
            no_ack=bool(queue.no_ack),
            max_priority=arguments.get("x-max-priority"),
            delivery_mode=_delivery_mode(exchange.delivery_mode if exchange else None),
            queue_arguments=arguments or None,
            binding_arguments=queue.binding_arguments or None,
            exchange_durable=bool(exchange.durable) if exchange else True,
            exchange_auto_delete=bool(exchange.auto_delete) if exchange else False,
            exchange_arguments=(exchange.arguments or None) if exchange else None,
            alias=getattr(queue, "alias", None),
        )


def _delivery_mode(mode: Any) -> int | None:
    return {"transient": 1, "persistent": 2}.get(mode, mode) if mode else None


def matches(exchange_type: str, pattern: str, routing_key: str) -> bool:
    """Whether a binding under *pattern* receives *routing_key*, by AMQP's rules for the exchange type."""
    if exchange_type == "fanout":
        return True
    if exchange_type == "topic":
        return _topic(pattern).match(routing_key) is not None
    return pattern == routing_key


@lru_cache(maxsize=1024)
def _topic(pattern: str) -> re.Pattern[str]:
    """``*`` is exactly one word, ``#`` any number of words, also none."""
    expression = ""
    words = pattern.split(".")
    for position, word in enumerate(words):
        first, last = position == 0, position == len(words) - 1
        if word == "#":
            if first and last:
                expression += r".*"
            elif first:
                expression += r"(?:[^.]+\.)*"
            else:
                expression += r"(?:\.[^.]+)*"
            continue
        if not first and not (position == 1 and words[0] == "#"):
            expression += r"\."
        expression += r"[^.]*" if word == "*" else re.escape(word)
    return re.compile(rf"{expression}\Z")


def queues_for(bindings: Iterable[tuple[Binding, str]], exchange: str, routing_key: str) -> list[str]:
    """Names of the queues that receive what is published to *exchange* under *routing_key*, each once.

    The anonymous exchange delivers to the queue of that name without any binding.
    """
    if not exchange:
        return [routing_key]
    found: dict[str, None] = {}
    for binding, queue in bindings:
        if binding.exchange == exchange and matches(binding.exchange_type, binding.routing_key, routing_key):
            found[queue] = None
    return list(found)
