"""What is known of messages that came back, beside the messages: their bytes are never made anew.

A note is a value of the hash ``kern.notes`` under the id of its message. Most messages have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha1
from typing import Any

import attrs

from kern.delivery import Delivery
from kern.errors import DecodeError
from kern.message import Message
from kern.outcome import GiveBack, ParkUntil
from kern.serialization import decode_json, encode_json

NOTES = "kern.notes"


@attrs.frozen
class Note:
    """What is to be remembered of one message."""

    #: Deaths for which it is to blame.
    attempts: int = 0
    suspect: bool = False
    redelivered: bool = False
    parked_since: float | None = None
    parked_reason: str | None = None
    times_parked: int = 0

    def written(self) -> bytes:
        """As the hash keeps it; empty where there is nothing to say."""
        fields = {name: value for name, value in attrs.asdict(self).items() if value}
        return encode_json(fields) if fields else b""


NOTHING = Note()


def key_of(message: Message | None, raw: bytes) -> str:
    """The name of a message's note: its id, or a hash where it has none that can be read."""
    return (message.task_id if message is not None else None) or f"#{sha1(raw, usedforsecurity=False).hexdigest()}"


def read(value: Any) -> Note:
    """The note that *value* is; what cannot be read says nothing."""
    if value is None:
        return NOTHING
    try:
        found = decode_json(value)
    except DecodeError:
        return NOTHING
    if not isinstance(found, Mapping):
        return NOTHING
    since, reason = found.get("parked_since"), found.get("parked_reason")
    return Note(
        attempts=_count(found.get("attempts")),
        suspect=found.get("suspect") is True,
        redelivered=found.get("redelivered") is True,
        parked_since=since if isinstance(since, int | float) else None,
        parked_reason=reason if isinstance(reason, str) else None,
        times_parked=_count(found.get("times_parked")),
    )


def of(delivery: Delivery) -> Note:
    """What a delivery brought along."""
    return Note(
        delivery.attempts,
        delivery.suspect,
        delivery.redelivered,
        delivery.parked_since,
        delivery.parked_reason,
        delivery.times_parked,
    )


def given_back(note: Note, end: GiveBack) -> Note:
    """Given back as *end* says."""
    return attrs.evolve(note, attempts=note.attempts + end.blamed, suspect=note.suspect or end.suspect)


def parked(note: Note, end: ParkUntil, now: float) -> Note:
    """Parked as *end* says; of several times for one reason the first is remembered."""
    since = now if end.since is None else end.since
    if note.parked_reason != end.reason:
        return attrs.evolve(note, parked_reason=end.reason, parked_since=since, times_parked=1)
    if note.parked_since is not None:
        since = min(since, note.parked_since)
    return attrs.evolve(note, parked_since=since, times_parked=note.times_parked + 1)


def handed_back(note: Note, expired: bool, started: bool) -> Note:
    """Taken from a worker that fell silent (*expired*), or was still at it.

    :param started: the task had been marked as started: the death is its fault.
    """
    return attrs.evolve(
        note,
        redelivered=True,
        suspect=note.suspect or expired,
        attempts=note.attempts + (expired and started),
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
