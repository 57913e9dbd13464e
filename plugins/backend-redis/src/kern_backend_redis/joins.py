"""Kern's own joins: how they are kept, and the conversations about whole ones. Parts are counted by ``kern_plan``.

``kern.join.<id>`` is a hash (opened, policy, needed, size, members, body, errors, deadline, succeeded, failed, closed),
``….parts`` a hash from members to parts, ``….members`` a sorted set of those who count, in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kern.contracts.result_store import Join, JoinPolicy, JoinState
from kern.errors import DecodeError
from kern.message import Publication
from kern.outcome import JoinPart
from kern.serialization import decode_json, encode_json
from kern_backend_redis.answers import checked
from kern_backend_redis.names import Names
from kern_redis_client import envelope, scripts
from kern_redis_client.link import Command, Conversation

OPEN = scripts.load("kern_backend_redis", "scripts/open_join", include=("plans",))
CLOSE = scripts.load("kern_backend_redis", "scripts/close_join", include=("plans",))
DUE = scripts.load("kern_backend_redis", "scripts/joins_due", include=("plans",))

#: Members in one command; a join of more is opened in several.
MEMBERS = 1000


# -- what is kept ------------------------------------------------------------------------------------------------------


def encode_part(part: JoinPart) -> bytes:
    """Index and state, then the result on a line of its own, if there is one."""
    head = f"{'-' if part.index is None else part.index} {part.state}".encode()
    return head if part.result is None else b"%b\n%b" % (head, part.result)


def decode_part(join_id: str, member: str, kept: bytes) -> JoinPart:
    """What :func:`encode_part` wrote."""
    head, line_break, result = kept.partition(b"\n")
    index, _, state = head.decode().partition(" ")
    return JoinPart(join_id, member, None if index == "-" else int(index), state, result if line_break else None)


def encode_publications(publications: Iterable[Publication]) -> bytes:
    """Messages that wait for a join's end, and where each goes.

    :raises EncodeError: one cannot be written down.
    """
    return encode_json(
        [
            {
                "exchange_type": publication.exchange_type,
                "due": publication.due,
                "attempts": publication.attempts,
                "envelope": envelope.encode(publication, envelope.new_tag()).decode("ascii"),
            }
            for publication in publications
        ]
    )


def decode_publications(kept: bytes) -> tuple[Publication, ...]:
    """What :func:`encode_publications` wrote.

    :raises DecodeError: it is not that.
    """
    if not kept:
        return ()
    try:
        return tuple(_publication(each) for each in decode_json(kept))
    except (TypeError, KeyError, AttributeError) as error:
        raise DecodeError(f"not a list of publications: {error}") from error


def _publication(kept: dict[str, Any]) -> Publication:
    found = envelope.decode(kept["envelope"].encode("ascii"))
    return Publication(
        found.message, found.exchange, found.routing_key, kept["exchange_type"], kept["due"], kept["attempts"]
    )


# -- conversations -----------------------------------------------------------------------------------------------------


class Joins:
    """Opens, finds and closes joins.

    :param life: milliseconds a join is kept after its last change; 0: for ever.
    """

    def __init__(self, names: Names, life: int) -> None:
        self._names = names
        self._life = life

    def open(self, join: Join) -> Conversation[None]:
        """Create it; nothing happens if somebody has."""
        key = self._names.join(join.id)
        members = list(join.members)
        if len(members) > MEMBERS:
            (known,) = checked((yield [("HMGET", key, "opened", "closed")]))
            if any(known):
                return
            # It counts nobody out before it is open, so they may come in several commands.
            commands = [_members(key, members, start) for start in range(MEMBERS, len(members), MEMBERS)]
            if self._life:
                commands.append(("PEXPIRE", f"{key}.members", self._life))
            for start in range(0, len(commands), 8):
                checked((yield commands[start : start + 8]))
        first = members[:MEMBERS]
        deadline = "" if join.deadline is None else round(join.deadline * 1000)
        body = encode_publications([join.body]) if join.body is not None else b""
        errors = encode_publications(join.on_error) if join.on_error else b""
        arguments: list[str | bytes | int | float] = [
            join.id, self._life, join.policy.value, join.needed or "", len(members) or "", encode_json(members),
            body, errors, deadline, *(field for number, name in enumerate(first) for field in (number, name)),
        ]  # fmt: skip
        checked((yield [OPEN.call([key, self._names.joins_due], arguments)]))

    def due(self, limit: int) -> Conversation[list[JoinState]]:
        """Joins that somebody has to close."""
        (ids,) = checked((yield [DUE.call([self._names.joins_due], [limit, self._names.join("")])]))
        found: list[JoinState] = []
        for raw in ids:
            join_id = raw.decode()
            key = self._names.join(join_id)
            row, parts = checked((yield [("HGETALL", key), ("HGETALL", f"{key}.parts")]))
            fields = {bytes(name).decode(): value for name, value in _pairs(row)}
            if not fields:
                continue
            kept = {
                bytes(member).decode(): decode_part(join_id, bytes(member).decode(), value)
                for member, value in _pairs(parts)
            }
            found.append(JoinState(_join(join_id, fields), kept, "closed" in fields))
        return found

    def close(self, join_id: str) -> Conversation[tuple[Publication, ...]]:
        """Evaluate and close; what is to be published, once."""
        key = self._names.join(join_id)
        (kept,) = checked((yield [CLOSE.call([key, self._names.joins_due], [join_id, self._life])]))
        return decode_publications(kept)


def _members(key: str, members: Sequence[str], start: int) -> Command:
    chunk = members[start : start + MEMBERS]
    return ("ZADD", f"{key}.members", *(field for number, name in enumerate(chunk, start) for field in (number, name)))


def _join(join_id: str, fields: dict[str, bytes]) -> Join:
    deadline, needed = fields.get("deadline"), fields.get("needed")
    bodies = decode_publications(fields.get("body", b""))
    return Join(
        id=join_id,
        members=tuple(decode_json(fields["members"])) if "members" in fields else (),
        policy=JoinPolicy(fields.get("policy", b"all").decode()),
        needed=int(needed) if needed else None,
        body=bodies[0] if bodies else None,
        on_error=decode_publications(fields.get("errors", b"")),
        deadline=float(deadline) / 1000 if deadline else None,
    )


def _pairs(answer: Any) -> Iterable[tuple[Any, Any]]:
    """A hash, as it is answered: a map, or names and values in turn."""
    return answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
