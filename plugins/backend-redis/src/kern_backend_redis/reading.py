"""Reading documents and saved groups."""

from __future__ import annotations

from collections.abc import Sequence

from kern.contracts.result_store import GroupDocument
from kern.outcome import Document
from kern.serialization import JSON, decode, encode
from kern_backend_redis.answers import checked
from kern_backend_redis.chords import Results
from kern_backend_redis.documents import Reader
from kern_backend_redis.names import Names
from kern_redis_client.link import Conversation

#: Documents in one question: at first, and at most.
FIRST, MOST = 100, 500
#: Bytes of one answer from which on the next question asks for less.
BYTES = 1024 * 1024
#: Keys in one deletion.
KEYS = 500

_JSON_GROUP = (b'{"result": ', b"}")
_MSGPACK_GROUP = (b"\x81\xa6result", b"")


def read(names: Names, reader: Reader, task_ids: Sequence[str]) -> Conversation[dict[str, Document]]:
    """The documents that are there, in answers of bounded size."""
    found: dict[str, Document] = {}
    at, count = 0, FIRST
    while at < len(task_ids):
        asked = task_ids[at : at + count]
        (answer,) = checked((yield [("MGET", *[names.task(task_id) for task_id in asked])]))
        size = 0
        for task_id, body in zip(asked, answer, strict=True):
            if body is not None:
                size += len(body)
                found[task_id] = reader.document(task_id, body)
        at += count
        count = max(1, count // 4) if size > BYTES else min(MOST, count * 2)
    return found


def forget(names: Names, task_ids: Sequence[str]) -> Conversation[int]:
    """Delete documents; how many were there."""
    deleted = 0
    for at in range(0, len(task_ids), KEYS):
        (count,) = checked((yield [("DEL", *[names.task(task_id) for task_id in task_ids[at : at + KEYS]])]))
        deleted += count
    return deleted


# -- groups ------------------------------------------------------------------------------------------------------------


class Groups:
    """Saved groups, as Celery has them: ``{"result": …}``, encoded like results.

    :param life: milliseconds; 0: for ever.
    """

    def __init__(self, names: Names, results: Results, life: int) -> None:
        self._names, self._results, self._life = names, results, life

    def save(self, group: GroupDocument) -> Conversation[None]:
        key, value = self._names.group(group.group_id), self._wrapped(group)
        life = ("PX", self._life) if self._life else ()
        checked((yield [("SET", key, value, *life), ("PUBLISH", key, value)]))

    def read(self, group_id: str) -> Conversation[GroupDocument | None]:
        (value,) = checked((yield [("GET", self._names.group(group_id))]))
        return None if value is None else self._unwrapped(group_id, value)

    def delete(self, group_id: str) -> Conversation[None]:
        checked((yield [("DEL", self._names.group(group_id))]))

    def _wrapped(self, group: GroupDocument) -> bytes:
        before, after = _around(group.content_type)
        if before:
            return before + group.result + after
        # What this process has just encoded.
        value = decode(group.result, group.content_type, group.content_encoding, frozenset({group.content_type}))
        return encode({"result": value}, self._results.serializer).body

    def _unwrapped(self, group_id: str, value: bytes) -> GroupDocument:
        for content_type, content_encoding in ((JSON, "utf-8"), (_MSGPACK, "binary")):
            before, after = _around(content_type)
            if value.startswith(before) and value.endswith(after):
                inner = value[len(before) : len(value) - len(after)]
                return GroupDocument(group_id, inner, content_type, content_encoding)
        # Whoever restores it decodes it, if he accepts that.
        return GroupDocument(group_id, value, self._results.content_type, self._results.content_encoding)


_MSGPACK = "application/x-msgpack"


def _around(content_type: str) -> tuple[bytes, bytes]:
    return {JSON: _JSON_GROUP, _MSGPACK: _MSGPACK_GROUP}.get(content_type, (b"", b""))
