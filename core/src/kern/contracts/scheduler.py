"""The scheduler: says which calls are due.

A schedule is a record that any scheduler node may act on; each firing has the identity *(schedule, due instant)* and
becomes a call with an id made of it, so that two leaders cannot fire twice and a crash between due and sent is
repaired.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs


class MisfirePolicy(enum.StrEnum):
    """What becomes of instants that passed while nobody scheduled."""

    SKIP = "skip"
    ONE = "one"
    ALL = "all"


@attrs.frozen
class ScheduleEntry:
    """One line of a schedule."""

    name: str
    task: str
    #: A number of seconds, or a value that a schedule plugin understands (crontab, solar, …), as data.
    schedule: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = attrs.field(factory=dict)
    options: Mapping[str, Any] = attrs.field(factory=dict)
    enabled: bool = True
    misfire: MisfirePolicy = MisfirePolicy.ONE


@attrs.frozen
class Firing:
    """A call that is due."""

    entry: ScheduleEntry
    #: The instant it is for; with the entry's name its identity.
    due: datetime


class Scheduler(ABC):
    """Methods may block; a service runs them off the loop."""

    @abstractmethod
    def entries(self) -> Sequence[ScheduleEntry]:
        """What is scheduled now."""

    @abstractmethod
    def put(self, entry: ScheduleEntry) -> None:
        """Add or replace an entry by name."""

    @abstractmethod
    def remove(self, name: str) -> bool:
        """Remove an entry; whether it was there."""

    @abstractmethod
    def due(self, now: datetime) -> Sequence[Firing]:
        """Firings due at *now* and not yet marked as sent, oldest first."""

    @abstractmethod
    def sent(self, firings: Sequence[Firing]) -> None:
        """Mark firings as sent; marking one twice changes nothing."""

    @abstractmethod
    def next_due(self, now: datetime) -> datetime | None:
        """When to ask again at the latest; ``None``: when the schedule changes."""


SchedulerFactory = Callable[[Any], Scheduler]
