"""Which workers are alive, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kern.contracts.transport import Owner, Presence
from kern.errors import DecodeError
from kern.serialization import decode_json, encode_json
from kern_broker_redis.names import Names
from kern_redis_client.failures import ConnectionLost, failure
from kern_redis_client.link import Command, Conversation
from kern_redis_client.scripts import load

ANNOUNCE = load("kern_broker_redis", "scripts/announce")
PRESENCE = load("kern_broker_redis", "scripts/presence")
SCRIPTS = (ANNOUNCE, PRESENCE)

#: Seconds without a beat after which a worker does not count as alive.
LASTS = 15.0


class Presences:
    """What one connection says and asks of presence.

    :param name: the server for messages, its URL with the password masked.
    """

    def __init__(self, name: str, names: Names, owner: Owner) -> None:
        self._name = name
        self._names = names
        self._owner = owner
        self._announced: bytes | None = None

    def announce(self, queues: Sequence[str], facts: Mapping[str, Any]) -> Conversation[None]:
        """This worker is there, and consumes these queues."""
        self._announced = encode_json({"hostname": self._owner.hostname, "queues": list(queues), "facts": dict(facts)})
        while True:
            try:
                (answer,) = yield [self._command(self._announced)]
            except ConnectionLost:
                continue
            if isinstance(answer, Exception):
                raise failure(answer, self._name)
            return

    @property
    def announced(self) -> bool:
        """Whether this worker has said that it is there."""
        return self._announced is not None

    def restore(self) -> Conversation[None]:
        """Say it again, on a new connection."""
        if self._announced is not None:
            (answer,) = yield [self._command(self._announced)]
            if isinstance(answer, Exception):
                raise failure(answer, self._name)

    def leave(self) -> Conversation[None]:
        """This worker goes."""
        if self._announced is not None:
            self._announced = None
            owner = self._owner.id
            yield [("ZREM", self._names("kern.workers"), owner), ("HDEL", self._names("kern.worker_facts"), owner)]

    def presence(self) -> Conversation[list[Presence]]:
        """Workers that are alive, by id."""
        (answer,) = yield [PRESENCE.call((self._names("kern.workers"),), (self._names.prefix, int(LASTS * 1000)))]
        if isinstance(answer, Exception):
            raise failure(answer, self._name)
        found = [_presence(*answer[at : at + 3]) for at in range(0, len(answer), 3)]
        return sorted((each for each in found if each is not None), key=lambda each: each.id)

    def _command(self, facts: bytes) -> Command:
        return ANNOUNCE.call((self._names("kern.workers"),), (self._names.prefix, self._owner.id, facts))


def _presence(worker: bytes, last_beat: bytes, said: bytes) -> Presence | None:
    """``None`` where nothing sensible was said."""
    try:
        fields = decode_json(said)
    except DecodeError:
        return None
    if not isinstance(fields, dict):
        return None
    queues, facts = fields.get("queues"), fields.get("facts")
    return Presence(
        id=worker.decode("utf-8", "replace"),
        hostname=str(fields.get("hostname", "")),
        queues=tuple(queues) if isinstance(queues, list) else (),
        last_beat=float(last_beat) / 1000,
        facts=facts if isinstance(facts, dict) else {},
    )
