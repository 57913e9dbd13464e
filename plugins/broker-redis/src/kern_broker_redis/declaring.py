"""Declaring: who is bound to which exchange, in kombu's tables. A queue itself is there with its first message."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kern.contracts.transport import TransportCapability
from kern.errors import CapabilityMissing
from kern.queues import Binding, QueueSpec
from kern_broker_redis.fanout import Fanout, binding_key
from kern_broker_redis.names import Names
from kern_broker_redis.publishing import Publishing
from kern_redis_client.failures import ConnectionLost, failure
from kern_redis_client.link import Command, Conversation
from kern_redis_client.scripts import load

BIND_EXPIRING = load("kern_broker_redis", "scripts/bind_expiring")

_TYPES = ("direct", "topic", "fanout")
#: Milliseconds a table with queues that expire is left alone at least.
_TABLE_LASTS = 3_600_000


def pattern_of(exchange_type: str, routing_key: str) -> str:
    """The regular expression by which kombu's publishers match a topic's binding; empty for other exchanges."""
    if exchange_type != "topic":
        return ""
    words = {"*": r"[^\.]+", "#": ".*?"}
    return "^{}$".format(r"\.".join(words.get(word) or re.escape(word) for word in routing_key.split(".")))


class Declaring:
    """Makes bindings.

    :param name: the server for messages, its URL with the password masked.
    """

    def __init__(self, name: str, names: Names, publishing: Publishing, fanout: Fanout) -> None:
        self._name = name
        self._names = names
        self._publishing = publishing
        self._fanout = fanout

    def declare(self, specs: Sequence[QueueSpec]) -> Conversation[None]:
        """Bind queues to their exchanges.

        :raises CapabilityMissing: an exchange of a type that Redis does not have.
        """
        for spec in specs:
            for binding in spec.all_bindings():
                if binding.exchange and binding.exchange_type not in _TYPES:
                    raise CapabilityMissing(
                        f"queue {spec.name!r}: the transport {self._name} has no exchanges of type "
                        f"{binding.exchange_type!r} (capability {TransportCapability.EXCHANGES}: {', '.join(_TYPES)})"
                    )
        self._publishing.declared(specs)
        commands = self._commands(specs)
        while commands:
            try:
                answers = yield commands
            except ConnectionLost:
                continue  # a member is added to a set once
            for answer in answers:
                if isinstance(answer, Exception):
                    raise failure(answer, self._name)
            break
        yield from self._fanout.consume(specs)

    def _commands(self, specs: Sequence[QueueSpec]) -> list[Command]:
        commands: dict[Command, None] = {}
        for spec in specs:
            for binding in spec.all_bindings():
                if binding.exchange:
                    commands.update(dict.fromkeys(self._bind(spec, binding)))
        return list(commands)

    def _bind(self, spec: QueueSpec, binding: Binding) -> list[Command]:
        names, exchange = self._names, binding.exchange
        routing_key = binding_key(spec, binding)
        member = names.member(spec.name, routing_key, pattern_of(binding.exchange_type, routing_key))
        expires = (spec.queue_arguments or {}).get("x-expires")
        if expires:
            keys = (names.binding(exchange), names("_kombu.binding_deadlines"))
            return [BIND_EXPIRING.call(keys, (member, exchange, max(2 * int(expires), _TABLE_LASTS)))]
        return [
            ("SADD", names.binding(exchange), member),
            ("SADD", names.permanent_binding(exchange), member),
        ]
