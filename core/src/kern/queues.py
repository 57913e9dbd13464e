"""Queues, exchanges and bindings as plain values, and how a routing key meets a binding.

kombu's ``Queue`` and ``Exchange`` are what users write in ``task_queues``; :meth:`QueueSpec.from_kombu` turns them into
these, so that neither the client's hot path nor a driver needs to import kombu.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import attrs

from kern.errors import nearest


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
        arguments = _arguments(queue.queue_arguments, {name: getattr(queue, name, None) for name in _ARGUMENTS})
        return cls(
            name=queue.name,
            exchange=exchange.name if exchange else "",
            exchange_type=(exchange.type if exchange else "direct") or "direct",
            routing_key=queue.routing_key or "",
            bindings=tuple(
                Binding(b.exchange.name, b.routing_key or "", b.exchange.type or "direct", b.arguments)
                for b in sorted(queue.bindings or (), key=lambda b: (b.exchange.name, b.routing_key or ""))
            ),
            durable=bool(queue.durable),
            auto_delete=bool(queue.auto_delete),
            exclusive=bool(queue.exclusive),
            no_ack=bool(queue.no_ack),
            max_priority=arguments.get("x-max-priority"),
            delivery_mode=delivery_mode(exchange.delivery_mode if exchange else None),
            queue_arguments=arguments or None,
            binding_arguments=queue.binding_arguments or None,
            exchange_durable=bool(exchange.durable) if exchange else True,
            exchange_auto_delete=bool(exchange.auto_delete) if exchange else False,
            exchange_arguments=(exchange.arguments or None) if exchange else None,
            alias=getattr(queue, "alias", None),
        )

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> QueueSpec:
        """A queue written as a mapping: ``{"exchange": "media", "exchange_type": "topic", "routing_key": "media.#"}``.

        ``binding_key`` is another name of ``routing_key``, whose default is *name*. ``durable`` and ``auto_delete``
        hold for queue and exchange; with ``queue_`` or ``exchange_`` before them, for one of the two.

        :raises ValueError: an option that queues do not have, or a value it cannot have.
        """
        for option in options:
            if option not in _OPTIONS:
                suggestion = nearest(str(option), _OPTIONS)
                hint = f"did you mean {suggestion!r}?" if suggestion else f"known are {', '.join(sorted(_OPTIONS))}"
                raise ValueError(f"queue {name!r} has no option {option!r}; {hint}")
        exchange = options.get("exchange") or ""
        exchange_type = options.get("exchange_type") or getattr(exchange, "type", None) or "direct"
        exchange = getattr(exchange, "name", exchange)
        for what, value in (("exchange", exchange), ("exchange_type", exchange_type)):
            if not isinstance(value, str):
                raise ValueError(f"queue {name!r}: {what} must be text, not {value!r}")

        def flag(prefix: str, option: str, default: bool) -> bool:
            value = options.get(f"{prefix}_{option}")
            value = options.get(option) if value is None else value
            return default if value is None else bool(value)

        arguments = _arguments(options.get("queue_arguments"), {key: options.get(key) for key in _ARGUMENTS})
        return cls(
            name=name,
            exchange=exchange,
            exchange_type=exchange_type,
            routing_key=options.get("routing_key") or options.get("binding_key") or name,
            durable=flag("queue", "durable", True),
            auto_delete=flag("queue", "auto_delete", False),
            exclusive=bool(options.get("exclusive")),
            no_ack=bool(options.get("no_ack")),
            max_priority=arguments.get("x-max-priority"),
            delivery_mode=delivery_mode(options.get("delivery_mode")),
            queue_arguments=arguments or None,
            binding_arguments=options.get("binding_arguments") or None,
            exchange_durable=flag("exchange", "durable", True),
            exchange_auto_delete=flag("exchange", "auto_delete", False),
            exchange_arguments=options.get("exchange_arguments") or None,
            alias=options.get("alias"),
        )


#: Options of a queue that the broker is told as arguments, and what one of them counts in the argument's unit.
_ARGUMENTS: Mapping[str, tuple[str, int]] = {
    "expires": ("x-expires", 1000),
    "message_ttl": ("x-message-ttl", 1000),
    "max_length": ("x-max-length", 1),
    "max_length_bytes": ("x-max-length-bytes", 1),
    "max_priority": ("x-max-priority", 1),
}

#: What :meth:`QueueSpec.from_options` knows.
_OPTIONS = frozenset(
    {
        *("exchange", "exchange_type", "exchange_durable", "exchange_auto_delete", "exchange_arguments"),
        *("routing_key", "binding_key", "binding_arguments"),
        *("durable", "auto_delete", "queue_durable", "queue_auto_delete", "queue_arguments"),
        *("exclusive", "no_ack", "delivery_mode", "alias"),
        *_ARGUMENTS,
    }
)


def _arguments(given: Mapping[str, Any] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a queue; those written as arguments win over those written as options."""
    arguments = dict(given or {})
    for option, value in options.items():
        if value is not None:
            argument, factor = _ARGUMENTS[option]
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"queue option {option!r} must be a number, 0 or more, not {value!r}")
            arguments.setdefault(argument, int(value * factor))
    return arguments


_DELIVERY_MODES: Mapping[Any, int] = {"transient": 1, "persistent": 2, 1: 1, 2: 2, "1": 1, "2": 2}


def delivery_mode(mode: Any) -> int | None:
    """1 or 2, from either or its word; ``None`` for nothing.

    :raises ValueError: neither.
    """
    if mode is None or mode == "":
        return None
    try:
        return _DELIVERY_MODES[mode]
    except (KeyError, TypeError):
        raise ValueError(f"a delivery mode is 1 or 'transient', 2 or 'persistent', not {mode!r}") from None


def matches(exchange_type: str, pattern: str, routing_key: str) -> bool:
    """Whether a binding under *pattern* receives *routing_key*, by AMQP's rules for the exchange type."""
    if exchange_type == "fanout":
        return True
    if exchange_type == "topic":
        return _topic(pattern).match(f"{routing_key}." if routing_key else "") is not None
    return pattern == routing_key


@lru_cache(maxsize=1024)
def _topic(pattern: str) -> re.Pattern[str]:
    """``*`` is exactly one word, ``#`` any number of words, also none; a word may be empty.

    Matched against the key with a dot behind each of its words, so that every word looks alike.
    """
    expression, before = "", ""
    for word in pattern.split(".") if pattern else ():
        if word == "#":
            # Two of them say no more than one, and would have to be tried in every combination.
            expression += r"(?:[^.]*\.)*" if before != "#" else ""
        else:
            expression += (r"[^.]*" if word == "*" else re.escape(word)) + r"\."
        before = word
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
