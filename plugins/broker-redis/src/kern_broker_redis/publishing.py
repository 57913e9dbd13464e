"""Publishing: batches of messages, each batch a script call or a few, answered item by item.

What is published is remembered for a minute or two by its id and where it went, while it is in the broker: published
again, it is there once. What is said has a name, too, which is remembered as long: a connection that is lost in the
middle is no question, the same is said again on the next and does nothing if it was done, whatever became of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import hiredis

from kern import log
from kern.errors import EncodeError, PublishRefused, PublishUnknown
from kern.message import Publication
from kern.queues import QueueSpec
from kern_broker_redis.names import Names
from kern_redis_client.envelope import encode, new_tag, published_as
from kern_redis_client.failures import ConnectionLost, failure, was_refused
from kern_redis_client.link import Command, Conversation
from kern_redis_client.scripts import load

logger = log.get_logger("kern.publish")

PUBLISH = load("kern_broker_redis", "scripts/publish", include=("deliver",))
PUBLISH_ONE = load("kern_broker_redis", "scripts/publish_one")
SCRIPTS = (PUBLISH, PUBLISH_ONE)

#: How many sayings of one connection the server remembers.
SAYINGS = 64
#: What one script call may hold at most: messages, and bytes.
MESSAGES, BYTES = 300, 256 * 1024

Wire = tuple[str | int | bytes, ...]


def wire(publication: Publication, names: Names) -> Wire:
    """The nine arguments by which scripts know a publication (``deliver.lua``).

    :raises EncodeError: it cannot be written as JSON.
    """
    tag = new_tag()
    envelope = encode(publication, tag)
    exchange, routing_key = publication.exchange, publication.routing_key
    return (
        publication.message.task_id or "",
        exchange,
        publication.exchange_type,
        routing_key,
        names.channel(exchange, routing_key)
        if exchange and publication.exchange_type == "fanout"
        else names.suffix(publication.message.properties.get("priority")),
        _waits_until(publication),
        tag,
        json.dumps({"attempts": publication.attempts}) if publication.attempts else "",
        envelope,
    )


def _waits_until(publication: Publication) -> int:
    """Milliseconds since the epoch before which it is kept apart; 0: it goes to its queue.

    A call that says itself when it is due goes to its queue at once, as Celery sends it: Celery's workers alone would
    never find it elsewhere, and kern's park it.
    """
    if publication.due is None or publication.message.headers.get("eta"):
        return 0
    # Rounded up: never a moment early.
    return max(0, -int(-publication.due * 1000 // 1))


@attrs.define(eq=False)
class _Group:
    """Messages for one list."""

    indexes: list[int] = attrs.field(factory=list)
    arguments: list[str | bytes] = attrs.field(factory=list)


class _Chunk:
    """What one script call publishes.

    :ivar said: its number, once it has been said; numbers are never used again.
    """

    def __init__(self) -> None:
        self.said: int | None = None
        self.groups: dict[tuple[str, str], _Group] = {}
        self.single: list[tuple[int, Wire]] = []
        self.count = self.bytes = 0

    def has_room(self, size: int) -> bool:
        return not self.count or (self.count < MESSAGES and self.bytes + size <= BYTES)

    def add(self, index: int, id: str, routing_key: str, suffix: str, envelope: bytes) -> None:
        group = self.groups.get((routing_key, suffix))
        if group is None:
            group = self.groups[routing_key, suffix] = _Group()
        group.indexes.append(index)
        group.arguments.append(id)
        group.arguments.append(envelope)
        self.count += 1
        self.bytes += len(envelope)

    def add_single(self, index: int, arguments: Wire) -> None:
        self.single.append((index, arguments))
        self.count += 1
        self.bytes += len(arguments[-1])  # type: ignore[arg-type]

    def indexes(self) -> Iterator[int]:
        """Of the answers' messages, in the script's order."""
        for group in self.groups.values():
            yield from group.indexes
        for index, _arguments in self.single:
            yield index

    def command(self, names: Names, sayer: str, again: bool) -> Command:
        assert self.said is not None
        arguments: list[str | bytes | int | float] = [names.prefix, names.separator, f"{sayer}.{self.said}"]
        arguments += ("1" if again else "", f"{sayer}.{self.said - SAYINGS}", len(self.groups))
        for (routing_key, suffix), group in self.groups.items():
            arguments += (routing_key, suffix, len(group.indexes))
            arguments += group.arguments
        for _index, single in self.single:
            arguments += single
        return PUBLISH.call((names("kern.leases"),), arguments)


class Publishing:
    """Hands messages over.

    :param name: the server for messages, its URL with the password masked.
    :param deadletter_queue: receives what no queue is bound for; ``None``: that is refused.
    """

    def __init__(self, name: str, names: Names, deadletter_queue: str | None = None) -> None:
        self._name = name
        self._names = names
        self._deadletter_queue = deadletter_queue
        self._sayer = new_tag()
        self._sayings = 0
        #: Queues that expire when they are not used: the exchanges they are bound to, and after how many milliseconds.
        self._expiring: dict[str, tuple[frozenset[str], int]] = {}

    def declared(self, specs: Sequence[QueueSpec]) -> None:
        """Note which queues expire: every message for one prolongs its life, as in kombu."""
        for spec in specs:
            expires = (spec.queue_arguments or {}).get("x-expires")
            if isinstance(expires, int | float) and expires > 0:
                self._expiring[spec.name] = (frozenset(b.exchange for b in spec.all_bindings()), int(expires))

    def publish(self, batch: Sequence[Publication]) -> Conversation[list[Exception | None]]:
        """Publish all of *batch*, in its order; one answer for each."""
        said: int | None = None
        if len(batch) == 1 and not self._expiring:
            done, said = yield from self._publish_one(batch[0])
            if done:
                return [None]
        answers: list[Exception | None] = [None] * len(batch)
        chunks = self._chunks(batch, answers)
        if said is not None:
            chunks[0].said = said
        yield from self._say(chunks, batch, answers, again=said is not None)
        if self._deadletter_queue is not None:
            undelivered = [index for index, answer in enumerate(answers) if isinstance(answer, _Unroutable)]
            if undelivered:
                yield from self._bury(undelivered, batch, answers)
        return answers

    def _publish_one(self, publication: Publication) -> Conversation[tuple[bool, int | None]]:
        """The plain case, which is most of what clients do.

        :return: whether that was all; if its answer was lost, the number of what was said.
        """
        message, routing_key = publication.message, publication.routing_key
        task_id = message.task_id
        if publication.exchange or publication.due is not None or publication.attempts or not (task_id and routing_key):
            return False, None
        try:
            envelope = encode(publication, new_tag())
        except EncodeError:
            return False, None  # it is said where all errors are
        names, sayer, said = self._names, self._sayer, self._next()
        key = f"{names.prefix}{routing_key}{names.suffix(message.properties.get('priority'))}"
        remembered = published_as(task_id, "", routing_key)
        arguments = (names.prefix, remembered, f"{sayer}.{said}", f"{sayer}.{said - SAYINGS}", envelope)
        try:
            (answer,) = yield [PUBLISH_ONE.call((key,), arguments)]
        except ConnectionLost:
            return False, said
        return answer == 1, None

    def _next(self) -> int:
        self._sayings += 1
        return self._sayings

    def _chunks(self, batch: Sequence[Publication], answers: list[Exception | None]) -> list[_Chunk]:
        names = self._names
        suffix_of = names.suffix
        chunk = _Chunk()
        chunks = [chunk]
        for index, publication in enumerate(batch):
            message = publication.message
            try:
                if publication.exchange or publication.due is not None or publication.attempts:
                    arguments = wire(publication, names)
                    if not chunk.has_room(len(arguments[-1])):  # type: ignore[arg-type]
                        chunk = _Chunk()
                        chunks.append(chunk)
                    chunk.add_single(index, arguments)
                    continue
                if not publication.routing_key:
                    answers[index] = _unroutable(publication)
                    continue
                envelope = encode(publication, new_tag())
            except EncodeError as error:
                answers[index] = _unwritable(publication, error)
                continue
            if not chunk.has_room(len(envelope)):
                chunk = _Chunk()
                chunks.append(chunk)
            suffix = suffix_of(message.properties.get("priority"))
            chunk.add(index, message.task_id or "", publication.routing_key, suffix, envelope)
        return [chunk for chunk in chunks if chunk.count]

    def _say(
        self,
        chunks: Sequence[_Chunk],
        batch: Sequence[Publication],
        answers: list[Exception | None],
        again: bool = False,
    ) -> Conversation[None]:
        """Say all, and all of it again after a lost connection: what was done the first time is known there."""
        for chunk in chunks:
            if chunk.said is None:
                chunk.said = self._next()
        while chunks:
            commands = [chunk.command(self._names, self._sayer, again) for chunk in chunks]
            if self._expiring:
                commands += self._prolongations(batch)
            try:
                answered = yield commands
            except ConnectionLost:
                again = True
                continue
            for chunk, answer in zip(chunks, answered, strict=False):
                self._take(chunk, answer, batch, answers)
            return

    def _take(self, chunk: _Chunk, answer: Any, batch: Sequence[Publication], answers: list[Exception | None]) -> None:
        if answer == 1:
            return
        if isinstance(answer, Exception):
            error = failure(answer, self._name)
            for index in chunk.indexes():
                if was_refused(error):
                    answers[index] = _refused(batch[index], str(error), error)
                else:
                    unknown = PublishUnknown(str(error), [batch[index].task_id])
                    unknown.__cause__ = error
                    answers[index] = unknown
            return
        for index, one in zip(chunk.indexes(), answer, strict=True):
            if isinstance(one, bytes):
                answers[index] = self._problem(batch[index], one.decode("utf-8", "replace"))

    def _problem(self, publication: Publication, said: str) -> Exception:
        if said == "UNROUTABLE":
            return _unroutable(publication)
        error = failure(hiredis.ReplyError(said), self._name)
        return _refused(publication, str(error), error)

    def _prolongations(self, batch: Sequence[Publication]) -> list[Command]:
        queues: dict[str, int] = {}
        for queue, (exchanges, expires) in self._expiring.items():
            if any(p.exchange in exchanges if p.exchange else p.routing_key == queue for p in batch):
                queues[queue] = expires
        return [("PEXPIRE", key, expires) for queue, expires in queues.items() for key in self._names.lists(queue)]

    def _bury(
        self, indexes: Sequence[int], batch: Sequence[Publication], answers: list[Exception | None]
    ) -> Conversation[None]:
        """To the queue for what no queue is bound for, with where it should have gone."""
        assert self._deadletter_queue is not None
        chunk = _Chunk()
        chunks = [chunk]
        for index in indexes:
            publication = batch[index]
            logger.warning(
                "no queue is bound for a message; it goes to the deadletter queue",
                id=publication.task_id,
                exchange=publication.exchange,
                routing_key=publication.routing_key,
                queue=self._deadletter_queue,
            )
            answers[index] = None
            envelope = encode(publication, new_tag())
            if not chunk.has_room(len(envelope)):
                chunk = _Chunk()
                chunks.append(chunk)
            suffix = self._names.suffix(publication.message.properties.get("priority"))
            chunk.add(index, publication.task_id, self._deadletter_queue, suffix, envelope)
        yield from self._say(chunks, batch, answers)


class _Unroutable(PublishRefused):
    """No queue receives the message."""


def _unroutable(publication: Publication) -> PublishRefused:
    if publication.exchange and publication.exchange_type == "fanout":
        why = f"nobody listens to the fanout exchange {publication.exchange!r}"
    elif publication.exchange:
        why = f"no queue is bound to exchange {publication.exchange!r} under {publication.routing_key!r}"
    else:
        why = "it names neither an exchange nor a queue"
    return _Unroutable(f"message {publication.task_id} would be lost: {why}")


def _unwritable(publication: Publication, error: EncodeError) -> EncodeError:
    made = EncodeError(f"message {publication.task_id}: its headers or properties {error}")
    made.__cause__ = error
    return made


def _refused(publication: Publication, text: str, cause: Exception) -> PublishRefused:
    refused = PublishRefused(f"message {publication.task_id}: {text}")
    refused.__cause__ = cause
    return refused
