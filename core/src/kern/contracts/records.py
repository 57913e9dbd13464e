"""Records: small shared facts with atomic updates, a capability of transports and result stores.

Schedules, revocations, pauses, limits, unique keys and leader locks stand on them. A record is bytes under a key in a
*kind* (a namespace), with a version that changes with each write.

All methods block and may be called from any thread; a service that uses them runs them off the loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import attrs


@attrs.frozen
class Record:
    """One record as it was read."""

    kind: str
    key: str
    value: bytes
    #: Differs after each write of this key.
    version: int
    #: Seconds since the epoch at which it ceases to be; ``None``: never.
    expires: float | None = None


class Records(ABC):
    """What a driver with the capability ``RECORDS`` owes. An expired record is as good as absent everywhere."""

    @abstractmethod
    def get(self, kind: str, key: str) -> Record | None:
        """The record, or ``None``."""

    @abstractmethod
    def put(self, kind: str, key: str, value: bytes, ttl: float | None = None) -> Record:
        """Write, whatever was there. *ttl* in seconds."""

    @abstractmethod
    def put_if_absent(self, kind: str, key: str, value: bytes, ttl: float | None = None) -> Record | None:
        """Write only if there is none; the new record, or ``None`` if somebody was first. Atomic."""

    @abstractmethod
    def compare_and_set(self, record: Record, value: bytes, ttl: float | None = None) -> Record | None:
        """Write only if the record is still the version read; the new record, or ``None``. Atomic."""

    @abstractmethod
    def expire(self, kind: str, key: str, ttl: float | None) -> bool:
        """Set the remaining life in seconds (``None``: for ever); whether the record is there."""

    @abstractmethod
    def delete(self, kind: str, key: str, version: int | None = None) -> bool:
        """Delete, only this *version* if given; whether something was deleted."""

    @abstractmethod
    def scan(self, kind: str, prefix: str = "") -> Iterator[Record]:
        """All records of a kind whose key starts with *prefix*, in order of their keys."""

    @abstractmethod
    def watch(self, kind: str, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call *callback* with the key after each change, from any thread, soon; returns what ends it.

        Changes may be reported more than once, and several as one.
        """
