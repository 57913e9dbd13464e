"""Chords in Celery's layout (5.7, which 5.6 counts along with): what a part looks like, and what follows the last one.

Beside the group's key stand ``.j`` parts, sorted by index or in the order of ends, ``.t`` and ``.s`` how many will be
there, ``.d`` who has been counted, ``.c`` who ends it, or that it is over. Parts are counted by ``kern_plan``; the
script that counts the last one ends the chord, too, once Python has read the parts and made the body of their results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from kern.contracts.result_store import Join
from kern.documents import encode_document, rebuild_exception
from kern.errors import BackendError, ChordError, KernError
from kern.message import Message, Publication
from kern.outcome import Document, JoinPart
from kern.serialization import JSON, compress, decode, decode_json, decompress, encode, encode_json, serializer_of
from kern.states import FAILURE, PROPAGATE_STATES, SUCCESS
from kern_backend_redis.answers import checked, in_database
from kern_backend_redis.documents import Reader
from kern_backend_redis.names import Names
from kern_redis_client.link import Conversation

#: :attr:`JoinPart.layout` of these parts.
LAYOUT = "celery"
#: Parts in one command.
PAGE = 500
#: Bytes a compressed body may have once unpacked.
_LIMIT = 256 * 1024 * 1024


@attrs.frozen
class Ended:
    """What follows a chord's end."""

    publications: tuple[Publication, ...]
    failed: bool = False
    #: Of the body that never runs.
    failure: Document | None = None


class Results:
    """Encoded values of one serializer, put together without being decoded where it is JSON."""

    def __init__(self, serializer: str, content_type: str, content_encoding: str) -> None:
        self.serializer = serializer
        self.content_type, self.content_encoding = content_type, content_encoding
        self._accept = frozenset({content_type})

    @property
    def is_json(self) -> bool:
        return self.content_type == JSON

    def value(self, encoded: bytes) -> Any:
        return decode(encoded, self.content_type, self.content_encoding, self._accept)

    def part(self, part: JoinPart) -> bytes:
        """A part as Celery keeps it: ``[1, id, state, result]``."""
        result = part.result
        if self.is_json and self.serializer == "json":
            head = encode_json([1, part.member, part.state])
            return b"%b, %b]" % (head[:-1], b"null" if result is None else result)
        value = None if result is None else self.value(result)
        return encode([1, part.member, part.state, value], self.serializer).body

    def read(self, kept: bytes) -> tuple[str, str, Any]:
        """Id, state and result of a part; the result as it is encoded where this is JSON."""
        if self.is_json:
            try:
                _, task_id, state, result = _raw_list(kept)
                return decode_json(task_id), decode_json(state), result
            except (ValueError, TypeError):
                pass  # NaN, say: Python's JSON has it, and this reader has not
            _, task_id, state, result = decode_json(kept)
            return task_id, state, encode_json(result)
        _, task_id, state, result = self.value(kept)
        return task_id, state, result

    def plain(self, result: Any) -> Any:
        """The value of what :meth:`read` answered."""
        return decode_json(result) if self.is_json else result


def open_chord(names: Names, join: Join, life: int) -> Conversation[None]:
    """Say how many parts there will be; said before the last of them is published.

    :param life: seconds; 0: for ever.
    """
    key = names.group(join.id)
    size = len(join.members) or join.needed or 0
    expiry = ("EX", life) if life else ()
    checked((yield [("DEL", f"{key}.c"), ("SET", f"{key}.s", size, *expiry)]))


def unknown_layout(layout: str) -> BackendError:
    return BackendError(f"no join is laid out as {layout!r} here; known is {LAYOUT!r}")


class Chords:
    """Finds out what follows a chord's last part."""

    def __init__(self, database: int, names: Names, results: Results, reader: Reader, ordered: bool) -> None:
        self._database, self._names = database, names
        self._results, self._reader, self._ordered = results, reader, ordered

    def end(self, part: JoinPart, score: str, record: bytes | None, document: Document | None) -> Conversation[Ended]:
        """What follows *part*, which is the last one.

        :param score: of the part, by which it is sorted.
        :param record: the part as it will be kept; ``None``: it is there already.
        :param document: what is written with it.
        """
        parts = yield from self._parts(part, score, record)
        (saved,) = checked((yield [in_database(self._database, "GET", self._names.group(part.join_id))]))
        try:
            read = [self._results.read(each) for each in parts]
            for task_id, state, result in read:
                if state in PROPAGATE_STATES:
                    return self._failed(part, _dependency(task_id, self._results.plain(result)))
            values = [result for _, _, result in read]
            if saved is not None:
                values = yield from self._restored(saved, document)
            if part.body is None:
                return Ended(())
            return Ended((attrs.evolve(part.body, message=self._filled(part.body.message, values)),))
        except ChordError as error:
            return self._failed(part, error)
        except (KernError, ValueError, TypeError) as error:
            return self._failed(part, ChordError(f"Join error: {error!r}"))

    def _parts(self, part: JoinPart, score: str, own: bytes | None) -> Conversation[list[bytes]]:
        """All parts in their order, with the one that is to be written."""
        key = f"{self._names.group(part.join_id)}.j"
        found: list[tuple[float, bytes]] = []
        start = 0
        while True:
            page = start, start + PAGE - 1
            if self._ordered:
                command = in_database(self._database, "ZRANGE", key, *page, "WITHSCORES")
            else:
                command = in_database(self._database, "LRANGE", key, *page)
            (answer,) = checked((yield [command]))
            more = (
                list(zip(answer[::2], answer[1::2], strict=True)) if self._ordered else [(each, 0) for each in answer]
            )
            found += [(float(scored), kept) for kept, scored in more]
            if len(more) < PAGE:
                break
            start += PAGE
        if own is not None:
            found.append((float(score), own))
        return [kept for _, kept in (sorted(found) if self._ordered else found)]

    def _restored(self, saved: bytes, own: Document | None) -> Conversation[list[Any]]:
        """Results in the shape of a saved group, from the documents of its members."""
        stored = self._results.value(saved)
        _, children = stored["result"]
        ids: list[str] = []
        _leaves(children, ids)
        bodies: dict[str, bytes] = {}
        for at in range(0, len(ids), PAGE):
            chunk = ids[at : at + PAGE]
            names = [self._names.task(task_id) for task_id in chunk]
            (answer,) = checked((yield [in_database(self._database, "MGET", *names)]))
            bodies.update((task_id, body) for task_id, body in zip(chunk, answer, strict=True) if body is not None)
        if own is not None and own.whole is not None:
            bodies[own.task_id] = own.whole

        def values(nodes: Sequence[Any]) -> list[Any]:
            made: list[Any] = []
            for node in nodes:
                identity, inner = node
                if inner is not None:
                    made.append(values(inner))
                else:
                    made.append(self._result_of(_id(identity), bodies))
            return made

        found = values(children)
        return [encode_json(value) for value in found] if self._results.is_json else found

    def _result_of(self, task_id: str, bodies: dict[str, bytes]) -> Any:
        if task_id not in bodies:
            raise ChordError(f"Join error: the result of {task_id} is not there")
        document = self._reader.document(task_id, bodies[task_id])
        result = self._results.value(bodies[task_id])["result"]
        if document.status in PROPAGATE_STATES:
            raise _dependency(task_id, result)
        if document.status != SUCCESS:
            raise ChordError(f"Join error: the result of {task_id} is not final")
        return result

    def _filled(self, message: Message, values: list[Any]) -> Message:
        """*message* with the results as its first argument."""
        body, header = message.body, message.headers.get("compression")
        if header:
            body = decompress(body, header, _LIMIT)
        if message.content_type == JSON and self._results.is_json:
            made = _insert_json(body, b"[%b]" % b", ".join(values))
        else:
            plain = [self._results.plain(value) for value in values]
            serializer = serializer_of(message.content_type)
            content = decode(body, message.content_type, message.content_encoding, frozenset({message.content_type}))
            made = encode(_insert(content, plain), serializer).body
        if header:
            made, _ = compress(made, header)
        return attrs.evolve(message, body=made)

    def _failed(self, part: JoinPart, error: ChordError) -> Ended:
        if part.body is None:
            return Ended(part.on_error, True)
        failure = encode_document(
            part.body.task_id,
            FAILURE,
            error,
            whole=True,
            serializer=self._results.serializer,
            traceback=_traceback(error),
        )
        return Ended(part.on_error, True, failure)


def _dependency(task_id: str, described: Any) -> ChordError:
    """The error of a chord of which a part failed, in Celery's words."""
    try:
        cause = rebuild_exception(described)
    except (KernError, ValueError, TypeError):
        cause = Exception(described)
    made = ChordError(f"Dependency {task_id} raised {cause!r}")
    made.__cause__ = cause
    return made


def _traceback(error: ChordError) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


def _leaves(nodes: Sequence[Any], ids: list[str]) -> None:
    for identity, inner in nodes:
        if inner is None:
            ids.append(_id(identity))
        else:
            _leaves(inner, ids)


def _id(identity: Any) -> str:
    return str(identity[0] if isinstance(identity, list | tuple) else identity)


def _insert(content: Any, values: list[Any]) -> Any:
    """*content* (a message's, of either protocol) with *values* as its first argument."""
    if isinstance(content, dict):
        return {**content, "args": [values, *(content.get("args") or ())]}
    args, kwargs, embed = content
    return [[values, *args], kwargs, embed]


def _insert_json(body: bytes, values: bytes) -> bytes:
    try:
        args, kwargs, embed = _raw_list(body)
        inner = _raw_list(args)
    except (ValueError, TypeError):
        # Protocol 1, or text that only Python's JSON writes.
        return encode_json(_insert(decode_json(body), decode_json(values)))
    return b"[[%b], %b, %b]" % (b", ".join([values, *inner]), kwargs, embed)


def _raw_list(body: bytes) -> list[bytes]:
    """The items of a JSON list, each as it is written.

    :raises ValueError: it is none.
    """
    import msgspec

    return [bytes(item) for item in msgspec.json.decode(body, type=list[msgspec.Raw])]
