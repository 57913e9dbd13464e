"""Quarantine: what is in it, and how it leaves. Messages get there by settling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kern.contracts.transport import Quarantined
from kern.errors import DecodeError
from kern.message import Message
from kern.serialization import decode_json
from kern_broker_redis.names import Names
from kern_redis_client.envelope import decode, published_as
from kern_redis_client.failures import failure
from kern_redis_client.link import Command, Conversation
from kern_redis_client.scripts import load

REPLAY = load("kern_broker_redis", "scripts/replay", include=("deliver",))
DROP = load("kern_broker_redis", "scripts/drop")
SCRIPTS = (REPLAY, DROP)

#: How many are read at once.
PIECE = 20


class Quarantining:
    """For one connection.

    :param name: the server for messages, its URL with the password masked.
    """

    def __init__(self, name: str, names: Names) -> None:
        self._name = name
        self._names = names

    def quarantined(self, queue: str | None, limit: int) -> Conversation[list[Quarantined]]:
        """What is there, oldest first."""
        names = self._names
        found: list[Quarantined] = []
        start = 0
        while len(found) < limit:
            (index,) = yield from self._ask(
                [("ZRANGE", names("kern.quarantine_index"), start, start + PIECE - 1, "WITHSCORES")]
            )
            # RESP3 answers pairs.
            entries = [(key, score) for key, score in index]
            if not entries:
                break
            start += len(entries)
            (values,) = yield from self._ask([("HMGET", names("kern.quarantine"), *(key for key, _ in entries))])
            for (key, at), value in zip(entries, values, strict=True):
                if value is not None:
                    entry = _entry(key, float(at) / 1000, value)
                    if queue is None or entry.queue == queue:
                        found.append(entry)
        return found[: max(limit, 0)]

    def replay(self, keys: Sequence[str]) -> Conversation[int]:
        """Put messages back where they were claimed from; how many.

        One whose id is on its way again already stays where it is.
        """
        names = self._names
        count = 0
        for key in dict.fromkeys(keys):
            head, envelope, size = yield from self._head(key)
            if head is None:
                continue
            member = _member(envelope)
            arguments = (names.prefix, names.separator, key, str(head.get("list", "")), member, size)
            (answer,) = yield from self._ask([REPLAY.call((names("kern.quarantine"),), arguments)])
            count += answer == 1
        return count

    def drop(self, keys: Sequence[str]) -> Conversation[int]:
        """Delete messages; how many."""
        names = self._names
        count = 0
        for key in dict.fromkeys(keys):
            head, _envelope, _size = yield from self._head(key)
            if head is None:
                continue
            command = DROP.call((names("kern.quarantine"),), (names.prefix, key, str(head.get("list", ""))))
            (answer,) = yield from self._ask([command])
            count += answer
        return count

    def _head(self, key: str) -> Conversation[tuple[Mapping[str, Any] | None, bytes, int]]:
        """What is known of a message, its envelope, and the length of what stands before that."""
        (value,) = yield from self._ask([("HGET", self._names("kern.quarantine"), key)])
        if value is None:
            return None, b"", 0
        head, envelope = _parts(value)
        return head, envelope, len(value) - len(envelope)

    def _ask(self, commands: Sequence[Command]) -> Conversation[list[Any]]:
        answers = yield commands
        for answer in answers:
            if isinstance(answer, Exception):
                raise failure(answer, self._name)
        return answers


def _parts(value: bytes) -> tuple[Mapping[str, Any], bytes]:
    line, _, envelope = value.partition(b"\n")
    try:
        head = decode_json(line)
    except DecodeError:
        head = None
    return (head if isinstance(head, dict) else {}), envelope


def _member(envelope: bytes) -> str:
    try:
        found = decode(envelope)
    except DecodeError:
        return ""
    task_id = found.message.task_id
    return published_as(task_id, found.exchange, found.routing_key) if task_id else ""


def _entry(key: bytes, at: float, value: bytes) -> Quarantined:
    head, raw = _parts(value)
    message: Message | None
    try:
        message = decode(raw).message
    except DecodeError:
        message = None
    evidence = head.get("evidence")
    return Quarantined(
        key=key.decode("utf-8", "surrogateescape"),
        queue=str(head.get("queue", "")),
        reason=str(head.get("reason", "")),
        at=at,
        evidence=evidence if isinstance(evidence, dict) else {},
        message=message,
        raw=raw,
        exchange=str(head.get("exchange", "")),
        routing_key=str(head.get("routing_key", "")),
    )
