"""What kind of server it is: version, memory, disk; whether it can be worked with, and what "confirmed" then means."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from kern_redis_client.urls import BROKER, Address

#: The oldest version that has all we need.
OLDEST = (6, 2)
TOO_OLD = "the server is Redis {version}; 6.2 or newer is needed, or Valkey"
#: Asked of each server in the segment that greets it. Each may be forbidden, and is then unknown.
QUESTIONS: tuple[Sequence[str], ...] = (
    ("INFO", "memory"),
    ("INFO", "persistence"),
    ("CONFIG", "GET", "save"),
    ("CONFIG", "GET", "appendfsync"),
)


class Durability(enum.Enum):
    """When what the server confirmed is on its disk."""

    #: Before it confirms.
    AT_ONCE = "at-once"
    #: Within a second or so.
    SOON = "soon"
    #: With the next snapshot.
    SNAPSHOTS = "snapshots"
    #: Never.
    NEVER = "never"
    UNKNOWN = "unknown"


#: What a broker is to say at its start.
MEANS: Mapping[Durability, str] = {
    Durability.NEVER: "Redis writes nothing to disk: a confirmed message is in its memory alone, and lost when the "
    "server restarts; set 'appendonly yes' on the server to keep it",
    Durability.SNAPSHOTS: "Redis writes snapshots only: a message confirmed since the last one is lost when the server "
    "crashes; set 'appendonly yes' on the server to keep it",
}


@attrs.frozen
class ServerFacts:
    """A server, as it described itself."""

    #: ``redis`` or ``valkey``.
    flavour: str
    version: str
    #: Number of this connection on the server, as in ``CLIENT TRACKING REDIRECT``.
    client_id: int
    cluster: bool = False
    replica: bool = False
    #: ``""`` where the server does not say.
    maxmemory_policy: str = ""
    #: Bytes; 0: no limit.
    maxmemory: int = 0
    durability: Durability = Durability.UNKNOWN

    @property
    def evicts(self) -> bool:
        """Whether the server deletes keys that it holds, to make room."""
        return self.maxmemory > 0 and self.maxmemory_policy not in ("", "noeviction")

    def warnings(self, purpose: str) -> list[str]:
        """What a driver is to say loudly once, at its start."""
        said = []
        if purpose == BROKER and self.durability in MEANS:
            said.append(MEANS[self.durability])
        if self.evicts:
            said.append(
                f"Redis evicts keys when its memory is full (maxmemory-policy {self.maxmemory_policy}), and was "
                "accepted because allow_eviction is set: messages and results may vanish"
            )
        elif self.maxmemory_policy.startswith("allkeys"):
            said.append(
                f"Redis would evict keys (maxmemory-policy {self.maxmemory_policy}) as soon as it had a maxmemory; set "
                "'maxmemory-policy noeviction' on the server"
            )
        return said


def read(greeting: Mapping[bytes, Any], answers: Sequence[Any]) -> ServerFacts:
    """Of the answer to ``HELLO`` and those to :data:`QUESTIONS`."""
    memory, persistence = _info(answers[0]), _info(answers[1])
    return ServerFacts(
        flavour=_text(greeting.get(b"server")),
        version=_text(greeting.get(b"version")),
        client_id=int(greeting.get(b"id") or 0),
        cluster=greeting.get(b"mode") == b"cluster",
        replica=greeting.get(b"role") not in (b"master", None),
        maxmemory_policy=memory.get("maxmemory_policy", ""),
        maxmemory=_number(memory.get("maxmemory", "")),
        durability=_durability(persistence, _config(answers[2]), _config(answers[3])),
    )


def unfit(found: ServerFacts, address: Address, where: str) -> str | None:
    """Why we cannot work with the server; ``None`` if we can."""
    if found.flavour == "redis" and _version(found.version) < OLDEST:
        return TOO_OLD.format(version=found.version)
    if found.evicts and not address.allow_eviction:
        return (
            f"{where} evicts keys when its memory is full (maxmemory-policy {found.maxmemory_policy}), and messages "
            "and results would vanish; set 'maxmemory-policy noeviction' on the server, or accept it with the "
            "transport option {'allow_eviction': True}"
        )
    return None


def _durability(persistence: Mapping[str, str], save: str | None, fsync: str | None) -> Durability:
    if persistence.get("aof_enabled") == "1":
        return {"always": Durability.AT_ONCE, "no": Durability.SNAPSHOTS}.get(fsync or "", Durability.SOON)
    if not persistence or save is None:
        return Durability.UNKNOWN
    return Durability.SNAPSHOTS if save else Durability.NEVER


def _info(answer: Any) -> dict[str, str]:
    if isinstance(answer, Exception):
        return {}
    lines = (line.partition(":") for line in _text(answer).splitlines())
    return {name: value for name, colon, value in lines if colon}


def _config(answer: Any) -> str | None:
    """The value of one setting; ``None`` where it may not be asked for."""
    if not isinstance(answer, dict) or not answer:
        return None
    return _text(next(iter(answer.values())))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
