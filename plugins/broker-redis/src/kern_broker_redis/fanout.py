"""Broadcasts and fanout exchanges: channels, which keep nothing, and lists of the queues that are bound to them.

kombu publishes to a fanout exchange on a channel and nowhere else. So that claims work as for any queue, kern's queues
of such exchanges have lists: kern's publishers push to them, and a worker that consumes one listens on the channel and
puts there what Celery published. Each copy has a name, so that it is put there once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha1
from typing import Any

import attrs

from kern.contracts.port import Broadcast
from kern.errors import DecodeError
from kern.queues import Binding, QueueSpec
from kern.serialization import decode_json
from kern_broker_redis.names import Names
from kern_redis_client.envelope import decode
from kern_redis_client.failures import ConnectionLost, failure
from kern_redis_client.link import Command, Conversation
from kern_redis_client.scripts import load

TAKE_COPY = load("kern_broker_redis", "scripts/take_copy", include=("deliver",))
CONSUME = load("kern_broker_redis", "scripts/consume_fanout")
SCRIPTS = (TAKE_COPY, CONSUME)


@attrs.frozen
class _Consumed:
    """A queue of a fanout exchange that this worker consumes."""

    exchange: str
    queue: str
    #: Its binding, as it stands in the exchange's table.
    member: str
    #: The channel to listen on, as a pattern.
    pattern: str
    #: It lasts as long as its consumer.
    transient: bool


class Fanout:
    """What one connection says and hears on channels.

    :param name: the server for messages, its URL with the password masked.
    :param worker: whether it consumes; a client declares queues only for others.
    """

    def __init__(self, name: str, names: Names, worker: bool) -> None:
        self._name = name
        self._names = names
        self._worker = worker
        self._topics: frozenset[str] = frozenset()
        self._consumed: dict[tuple[str, str, str], _Consumed] = {}
        # What is subscribed on the server, by name of the channel or pattern.
        self._channels: frozenset[str] = frozenset()
        self._patterns: frozenset[str] = frozenset()

    # -- broadcasts ----------------------------------------------------------------------------------------------------

    def broadcast(self, topic: str, payload: bytes) -> Conversation[None]:
        """Send to whoever listens now; what is lost with a connection may have been heard."""
        (answer,) = yield [("PUBLISH", self._names.channel(topic), payload)]
        if isinstance(answer, Exception):
            raise failure(answer, self._name)

    def subscribe(self, topics: Sequence[str]) -> Conversation[None]:
        """Hear these topics, in which ``*`` stands for any text, and no others."""
        self._topics = frozenset(topics)
        yield from self._subscribe()

    @property
    def listening(self) -> bool:
        """Whether there is anything to be heard."""
        return bool(self._topics or self._consumed)

    def restore(self) -> Conversation[None]:
        """Everything anew, on a new connection."""
        self._channels = self._patterns = frozenset()
        yield from self._subscribe(once=True)
        yield from self._say_consumed(once=True)

    def _subscribe(self, once: bool = False) -> Conversation[None]:
        """Say what is to be heard and what no more.

        :param once: a lost connection is the caller's business.
        """
        while True:
            channels = frozenset(self._names.channel(topic) for topic in self._topics if "*" not in topic)
            patterns = frozenset(self._pattern(topic) for topic in self._topics if "*" in topic)
            patterns |= {consumed.pattern for consumed in self._consumed.values()}
            # New ones first: what is both old and new is heard without a gap.
            batches: list[Command] = [
                (word, *sorted(found))
                for word, found in (
                    ("SUBSCRIBE", channels - self._channels),
                    ("PSUBSCRIBE", patterns - self._patterns),
                    ("UNSUBSCRIBE", self._channels - channels),
                    ("PUNSUBSCRIBE", self._patterns - patterns),
                )
                if found
            ]
            if not batches:
                return
            # Now and not with the answer: who says more meanwhile says it after this.
            self._channels, self._patterns = channels, patterns
            try:
                errors = yield batches
            except ConnectionLost:
                if once:
                    raise
                continue  # restored by now, mostly; then nothing is left to say
            if errors:
                raise failure(errors[0], self._name)
            return

    # -- queues of fanout exchanges ------------------------------------------------------------------------------------

    def consume(self, specs: Sequence[QueueSpec]) -> Conversation[None]:
        """Make sure that queues of fanout exchanges receive what is published there."""
        lasting: list[str] = []
        for spec in specs:
            for binding in spec.all_bindings():
                if not binding.exchange or binding.exchange_type != "fanout":
                    continue
                transient = spec.auto_delete or spec.exclusive
                if self._worker:
                    routing_key = binding_key(spec, binding)
                    member = self._names.member(spec.name, routing_key)
                    pattern = self._pattern(binding.exchange, routing_key.replace("#", "*"))
                    key = (binding.exchange, spec.name, pattern)
                    self._consumed[key] = _Consumed(binding.exchange, spec.name, member, pattern, transient)
                elif not transient:
                    lasting += (binding.exchange, spec.name, "")
        if lasting:
            yield from self._say([CONSUME.call((self._names("kern.leases"),), (self._names.prefix, *lasting))])
        if self._worker and self._consumed:
            yield from self._subscribe()
            yield from self._say_consumed()

    def beat_commands(self) -> list[Command]:
        """What a heartbeat says for queues that last as long as their consumer; mostly nothing."""
        return self._consume_commands(consumed for consumed in self._consumed.values() if consumed.transient)

    def leave(self) -> Conversation[None]:
        """The consumer goes: its own queues go with it, unless another worker consumes them, too."""
        own = [consumed for consumed in self._consumed.values() if consumed.transient]
        if not own:
            return
        (facts,) = yield [("HVALS", self._names("kern.worker_facts"))]
        others = set() if isinstance(facts, Exception) else _queues_in(facts)
        commands: list[Command] = []
        for consumed in own:
            if consumed.queue not in others:
                commands.append(("ZREM", self._names.fanout_queues(consumed.exchange), consumed.queue))
                commands.append(("UNLINK", *self._names.lists(consumed.queue)))
                commands.append(("SREM", self._names.binding(consumed.exchange), consumed.member))
                commands.append(("SREM", self._names.permanent_binding(consumed.exchange), consumed.member))
        if commands:
            yield commands

    def _say_consumed(self, once: bool = False) -> Conversation[None]:
        yield from self._say(self._consume_commands(self._consumed.values()), once)

    def _consume_commands(self, found: Iterable[_Consumed]) -> list[Command]:
        queues = {(consumed.exchange, consumed.queue): consumed.transient for consumed in found}
        if not queues:
            return []
        arguments = [self._names.prefix]
        for (exchange, queue), transient in queues.items():
            arguments += (exchange, queue, _flag(transient))
        return [CONSUME.call((self._names("kern.leases"),), arguments)]

    def _say(self, commands: Sequence[Command], once: bool = False) -> Conversation[None]:
        while commands:
            try:
                answers = yield commands
            except ConnectionLost:
                if once:
                    raise
                continue
            for answer in answers:
                if isinstance(answer, Exception):
                    raise failure(answer, self._name)
            return

    def _pattern(self, exchange: str, routing_key: str = "") -> str:
        """The channel as a pattern, in which only ``*`` stands for something else."""
        channel = self._names.channel(exchange, routing_key)
        for special in "\\?[]":
            channel = channel.replace(special, f"\\{special}")
        return channel

    # -- what is heard -------------------------------------------------------------------------------------------------

    def take(self, push: Sequence[Any]) -> list[Broadcast | Conversation[None]]:
        """What a message on a channel means: broadcasts to be told, conversations to be held; nothing for others."""
        if push[0] == b"message":
            pattern, channel, payload = None, _text(push[1]), push[2]
        elif push[0] == b"pmessage":
            pattern, channel, payload = _text(push[1]), _text(push[2]), push[3]
        else:
            return []
        found: list[Broadcast | Conversation[None]] = []
        topic = self._names.topic_of(channel)
        if pattern is None or any("*" in each and self._pattern(each) == pattern for each in self._topics):
            found.append(Broadcast(topic, payload))
        if pattern is not None:
            consumed = [each for each in self._consumed.values() if each.pattern == pattern]
            if consumed:
                found.append(self._take_copies(consumed, payload))
        return found

    def _take_copies(self, consumed: Sequence[_Consumed], envelope: bytes) -> Conversation[None]:
        try:
            tag = decode(envelope).tag
        except DecodeError:
            tag = ""  # it is for whoever claims it to say so
        tag = tag or sha1(envelope, usedforsecurity=False).hexdigest()
        names = self._names
        yield from self._say(
            [
                TAKE_COPY.call(
                    (names("kern.leases"),),
                    (names.prefix, names.separator, each.queue, f"{tag}@{each.queue}", _flag(each.transient), envelope),
                )
                for each in consumed
            ]
        )


def binding_key(spec: QueueSpec, binding: Binding) -> str:
    """The key of a binding as kombu has it: a queue of a fanout exchange that names none has none."""
    unnamed = binding.exchange_type == "fanout" and not spec.routing_key and binding.routing_key == spec.name
    return "" if unnamed else binding.routing_key


def _flag(value: bool) -> str:
    return "1" if value else ""


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _queues_in(facts: Iterable[bytes]) -> set[str]:
    """Queues that more than one worker consumes."""
    seen: set[str] = set()
    shared: set[str] = set()
    for fact in facts:
        try:
            queues = set(decode_json(fact)["queues"])
        except (DecodeError, KeyError, TypeError):
            continue
        shared |= seen & queues
        seen |= queues
    return shared
