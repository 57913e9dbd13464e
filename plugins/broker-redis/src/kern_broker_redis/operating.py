"""Looking at queues and operating on them: names, depths, what comes next, purge, delete.

Nothing here holds the server up: what may be long is read in pieces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from kern import log
from kern.contracts.transport import QueueDepth
from kern.errors import DecodeError
from kern.identity import new_id
from kern.message import Message
from kern_broker_redis import notes
from kern_broker_redis.names import Names
from kern_broker_redis.records import parts
from kern_redis_client.envelope import Envelope, decode, published_as
from kern_redis_client.failures import failure
from kern_redis_client.link import Command, Conversation
from kern_redis_client.scripts import load

logger = log.get_logger("kern.connection")

DEPTH = load("kern_broker_redis", "scripts/depth")
LEASED = load("kern_broker_redis", "scripts/leased", include=("record",))
SET_ASIDE = load("kern_broker_redis", "scripts/set_aside")
DELETE_DELAYED = load("kern_broker_redis", "scripts/delete_delayed")
FORGET = load("kern_broker_redis", "scripts/forget", include=("deliver",))
UNDELAY = load("kern_broker_redis", "scripts/undelay", include=("record",))
SCRIPTS = (DEPTH, LEASED, SET_ASIDE, DELETE_DELAYED, FORGET, UNDELAY)

#: Bytes of messages that one command reads, about; and how many messages at most.
BYTES, MESSAGES = 1024 * 1024, 1000
#: Keys that one step of a search for queues looks at, and how many steps there are at most.
KEYS, STEPS = 1000, 2000
#: Exchanges of Celery's remote control and events: their queues are no business of those who look for tasks.
_INTERNAL = ("celery.pidbox", "reply.celery.pidbox", "celeryev")


class Operating:
    """For one connection.

    :param name: the server for messages, its URL with the password masked.
    """

    def __init__(self, name: str, names: Names) -> None:
        self._name = name
        self._names = names

    # -- names ---------------------------------------------------------------------------------------------------------

    def queues(self) -> Conversation[list[str]]:
        """Names of all queues: those that are bound, and those that have messages.

        A list that holds no message of ours at either end is somebody else's.
        """
        names = self._names
        exchanges, delayed, lists = names.binding(""), names.delayed(""), names("")
        found = yield from self._scan(((exchanges, "set"), (delayed, "zset"), (lists, "list")))
        queues: set[str] = {key.removeprefix(delayed) for key in found[1]}
        tables = [key for key in found[0] if key.removeprefix(exchanges) not in _INTERNAL]
        for members in (yield from self._ask([("SMEMBERS", key) for key in tables])):
            queues.update(_bound_queue(member, names.separator) for member in members)
        candidates = [
            key for key in found[2] if not key.startswith(names("kern.")) and names.queue_of(key) not in queues
        ]
        for start in range(0, len(candidates), 100):
            keys = candidates[start : start + 100]
            ends = yield from self._ask([("LINDEX", key, end) for key in keys for end in (0, -1)])
            queues.update(
                names.queue_of(key)
                for key, *messages in zip(keys, ends[::2], ends[1::2], strict=True)
                if any(_is_message(raw) for raw in messages)
            )
        for key in (yield from self._leased()):
            queues.add(names.queue_of(key))
        return sorted(queues - {""})

    def _scan(self, kinds: Sequence[tuple[str, str]]) -> Conversation[list[list[str]]]:
        """Keys that begin with a text and are of a type, for each of *kinds*."""
        match = [("MATCH", f"{_literal(begin)}*") for begin, _type in kinds]
        cursors: list[bytes | None] = [b"0"] * len(kinds)
        found: list[set[str]] = [set() for _ in kinds]
        for _ in range(STEPS):
            going = [number for number, cursor in enumerate(cursors) if cursor is not None]
            if not going:
                break
            answers = yield from self._ask(
                [
                    ("SCAN", cursors[number] or b"0", *match[number], "COUNT", KEYS, "TYPE", kinds[number][1])
                    for number in going
                ]
            )
            for number, (cursor, keys) in zip(going, answers, strict=True):
                cursors[number] = None if cursor in (b"0", 0) else cursor
                found[number].update(key.decode("utf-8", "surrogateescape") for key in keys)
        else:
            logger.warning("the server has too many keys to look at all; some queues may be missing", server=self._name)
        return [sorted(keys) for keys in found]

    # -- depth ---------------------------------------------------------------------------------------------------------

    def depth(self, queues: Sequence[str]) -> Conversation[list[QueueDepth]]:
        """Counts, in the order asked."""
        names = self._names
        leased: Counter[str] = Counter()
        if queues:
            for key, count in (yield from self._leased()).items():
                leased[names.queue_of(key)] += count
        depths: list[QueueDepth] = []
        for start in range(0, len(queues), 50):
            asked = queues[start : start + 50]
            keys = [key for queue in asked for key in names.lists(queue)]
            (counts,) = yield from self._ask([DEPTH.call(keys, (names.prefix, len(names.steps), *asked))])
            depths += [
                QueueDepth(queue, ready=ready, leased=leased[queue], delayed=delayed, quarantined=quarantined)
                for queue, ready, delayed, quarantined in zip(
                    asked, counts[::3], counts[1::3], counts[2::3], strict=True
                )
            ]
        return depths

    def _leased(self) -> Conversation[Counter[str]]:
        """How many leased messages are of which list."""
        names = self._names
        (receipts,) = yield from self._ask([("ZRANGE", names("kern.lease_index"), 0, -1)])
        found: Counter[str] = Counter()
        start = 0
        while start < len(receipts):
            asked = receipts[start : start + MESSAGES]
            command = LEASED.call((names("kern.leases"),), (names.prefix, BYTES, *asked))
            (lists,) = yield from self._ask([command])
            found.update(key.decode("utf-8", "surrogateescape") for key in lists if key)
            start += len(lists)
        return found

    # -- peek ----------------------------------------------------------------------------------------------------------

    def peek(self, queue: str, limit: int) -> Conversation[list[Message]]:
        """The next ready messages that can be read, in the order in which they come."""
        found: list[Message] = []
        for key in self._names.lists(queue):
            taken, size = 0, min(limit, 64)
            while len(found) < limit:
                raws = yield from self._range(key, -taken - size, -taken - 1)
                found += [envelope.message for envelope in map(_envelope, reversed(raws)) if envelope is not None]
                taken += len(raws)
                if len(raws) < size:
                    break
                size = _next_size(raws)
        return found[: max(limit, 0)]

    # -- purge and delete ----------------------------------------------------------------------------------------------

    def purge(self, queue: str) -> Conversation[int]:
        """Delete what is ready or delayed; how many that was.

        It is out of reach in one step; what is remembered of it is looked up afterwards.
        """
        names = self._names
        command = SET_ASIDE.call(names.lists(queue), (names.prefix, queue, new_id()))
        ((count, *aside),) = yield from self._ask([command])
        sets = [("SCARD", names(f"kern.published.{slot}")) for slot in range(3)]
        if aside and any((yield from self._ask([*sets, ("HLEN", names("kern.notes"))]))):
            for key in aside:
                yield from (self._forget_delayed(key) if key.endswith(b".delayed") else self._forget_list(key))
        if aside:
            yield from self._ask([("UNLINK", *aside)])
        return int(count)

    def _forget_list(self, key: bytes) -> Conversation[None]:
        start, size = 0, 64
        while raws := (yield from self._range(key, start, start + size - 1)):
            yield from self._forget(map(_envelope, raws))
            start += len(raws)
            size = _next_size(raws)

    def _forget_delayed(self, key: bytes) -> Conversation[None]:
        cursor: Any = b"0"
        while True:
            ((cursor, fields),) = yield from self._ask([("HSCAN", key, cursor, "COUNT", 64)])
            yield from self._forget(_recorded(record) for record in fields[1::2])
            if cursor in (b"0", 0):
                return

    def delete(self, task_ids: Sequence[str]) -> Conversation[int]:
        """Delete ready and delayed calls by id; how many that were."""
        wanted = _Wanted(task_ids)
        count = 0
        if wanted.ids:
            for queue in (yield from self.queues()):
                for key in self._names.lists(queue):
                    count += yield from self._delete_ready(key, wanted)
                count += yield from self._delete_delayed(queue, wanted)
        return count

    def _delete_ready(self, key: str, wanted: _Wanted) -> Conversation[int]:
        # From the left: what is taken on the right meanwhile moves nothing, what is added on the left is seen twice.
        count, start, size = 0, 0, 64
        while raws := (yield from self._range(key, start, start + size - 1)):
            found = {raw: envelope for raw in raws if (envelope := wanted.found(raw, _envelope)) is not None}
            start += len(raws)
            size = _next_size(raws)
            if found:
                (length,) = yield from self._ask([("LLEN", key)])
                # Looked for from the nearer end.
                direction = 1 if 2 * start < length else -1
                removed = yield from self._ask([("LREM", key, direction, raw) for raw in found])
                yield from self._forget(
                    envelope for envelope, gone in zip(found.values(), removed, strict=True) if gone
                )
                start -= sum(removed)
                count += sum(removed)
        return count

    def _delete_delayed(self, queue: str, wanted: _Wanted) -> Conversation[int]:
        names = self._names
        count, cursor = 0, b"0"
        while True:
            ((cursor, fields),) = yield from self._ask([("HSCAN", names.delayed_messages(queue), cursor, "COUNT", 64)])
            found: dict[bytes, Envelope] = {}
            for entry, record in zip(fields[::2], fields[1::2], strict=True):
                envelope = wanted.found(record, _recorded)
                if envelope is not None:
                    found[entry] = envelope
            if found:
                command = DELETE_DELAYED.call((names.delayed(queue),), (names.prefix, queue, *found))
                (removed,) = yield from self._ask([command])
                yield from self._forget(found.values())
                count += removed
            if cursor in (b"0", 0):
                return count

    # -- the way back to Celery ----------------------------------------------------------------------------------------

    def undelay(self) -> Conversation[int]:
        """Put what is delayed into its queue, where Celery's workers see it, and hold back by themselves what has an
        ``eta``; the earliest first. Answers how many messages."""
        prefix = self._names.delayed("")
        (found,) = yield from self._scan(((prefix, "zset"),))
        count = 0
        for queue in (key.removeprefix(prefix) for key in found):
            count += yield from self._undelay(queue)
        return count

    def _undelay(self, queue: str) -> Conversation[int]:
        names = self._names
        count = 0
        while True:
            (entries,) = yield from self._ask([("ZRANGE", names.delayed(queue), 0, 49)])
            if not entries:
                return count
            (records,) = yield from self._ask([("HMGET", names.delayed_messages(queue), *entries)])
            keys = [_note_key(record) for record in records]
            (noted,) = yield from self._ask([("HMGET", names(notes.NOTES), *keys)])
            arguments: list[str | bytes] = []
            for entry, key, value in zip(entries, keys, noted, strict=True):
                # Whoever finds it again must not take it for one that has waited until it was due.
                note = attrs.evolve(notes.read(value), parked_reason=None, parked_since=None, times_parked=0)
                arguments += (entry, key, note.written())
            command = UNDELAY.call((names.delayed(queue),), (names.prefix, queue, *arguments))
            moved = int((yield from self._ask([command]))[0])
            count += moved
            if moved < len(entries):  # the rest cannot be moved, or somebody else has done so
                return count

    def _forget(self, envelopes: Iterable[Envelope | None]) -> Conversation[None]:
        """What is remembered beside messages that are gone."""
        members: list[str] = []
        ids: list[str] = []
        for envelope in envelopes:
            task_id = envelope.message.task_id if envelope is not None else None
            if envelope is not None and task_id:
                members.append(published_as(task_id, envelope.exchange, envelope.routing_key))
                ids.append(task_id)
        names = self._names
        if ids:
            arguments: tuple[str | int, ...] = (names.prefix, names.separator, len(members), *members, *ids)
            yield from self._ask([FORGET.call((names("kern.leases"),), arguments)])

    # -- asking --------------------------------------------------------------------------------------------------------

    def _range(self, key: str | bytes, first: int, last: int) -> Conversation[list[bytes]]:
        """Messages of a list; none where there is no list."""
        (answer,) = yield [("LRANGE", key, first, last)]
        if isinstance(answer, Exception):
            if str(answer).startswith("WRONGTYPE"):
                return []
            raise failure(answer, self._name)
        return answer  # type: ignore[no-any-return]

    def _ask(self, commands: Sequence[Command]) -> Conversation[list[Any]]:
        if not commands:
            return []
        answers = yield commands
        for answer in answers:
            if isinstance(answer, Exception):
                raise failure(answer, self._name)
        return answers


class _Wanted:
    """Looks for calls by their ids."""

    def __init__(self, task_ids: Sequence[str]) -> None:
        self.ids = frozenset(task_ids)
        # Text that JSON writes as it is can be looked for without reading the JSON.
        plain = len(self.ids) <= 16 and all(task_id.isascii() and task_id.isprintable() for task_id in self.ids)
        plain = plain and not any(letter in task_id for task_id in self.ids for letter in '"\\')
        self._texts = [task_id.encode() for task_id in self.ids] if plain else None

    def found(self, raw: bytes, read: Callable[[bytes], Envelope | None]) -> Envelope | None:
        """The message, if it is one of them.

        :param read: makes the message of *raw*.
        """
        if self._texts is not None and not any(text in raw for text in self._texts):
            return None
        envelope = read(raw)
        return envelope if envelope is not None and envelope.message.task_id in self.ids else None


def _envelope(raw: bytes) -> Envelope | None:
    try:
        return decode(raw)
    except DecodeError:
        return None


def _recorded(record: bytes) -> Envelope | None:
    try:
        return decode(parts(record)[1])
    except DecodeError:
        return None


def _note_key(record: bytes | None) -> str:
    try:
        envelope = parts(record or b"")[1]
    except DecodeError:
        return ""
    found = _envelope(envelope)
    return notes.key_of(found.message if found is not None else None, envelope)


def _is_message(raw: bytes | None) -> bool:
    return raw is not None and raw.startswith(b"{") and _envelope(raw) is not None


def _next_size(raws: Sequence[bytes]) -> int:
    """How many messages the next piece has, so that it is about :data:`BYTES`."""
    return max(1, min(MESSAGES, BYTES * max(1, len(raws)) // (1 + sum(map(len, raws)))))


def _bound_queue(member: bytes, separator: str) -> str:
    return member.decode("utf-8", "surrogateescape").rpartition(separator)[2]


def _literal(text: str) -> str:
    """*text* as a pattern that matches nothing else."""
    for special in "\\*?[]":
        text = text.replace(special, f"\\{special}")
    return text
