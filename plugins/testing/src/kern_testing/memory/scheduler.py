"""A scheduler whose schedule is kept in a space: intervals in seconds alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from kern.contracts.records import Record, Records
from kern.contracts.scheduler import Firing, MisfirePolicy, ScheduleEntry, Scheduler
from kern.errors import ImproperlyConfigured
from kern.timeutil import clock
from kern_testing.memory.space import parse, space

KIND = "schedule"
#: An instant this long ago is late; before that it has passed.
GRACE = timedelta(seconds=1)


@attrs.frozen
class Line:
    """An entry and how far it is: everything up to :attr:`done` was sent or skipped."""

    entry: ScheduleEntry
    done: datetime

    @property
    def interval(self) -> timedelta:
        return timedelta(seconds=float(self.entry.schedule))

    def next_after(self, instant: datetime) -> datetime:
        """The first instant after *instant*, on the grid that starts at :attr:`done`."""
        steps = max(0, (instant - self.done) // self.interval)
        return self.done + (steps + 1) * self.interval

    def missed(self, now: datetime) -> list[datetime]:
        """Instants up to *now* that were not sent."""
        found, instant = [], self.done + self.interval
        while instant <= now:
            found.append(instant)
            instant += self.interval
        return found

    def due(self, now: datetime) -> list[datetime]:
        missed = self.missed(now) if self.entry.enabled else []
        match self.entry.misfire:
            case MisfirePolicy.ALL:
                return missed
            case MisfirePolicy.ONE:
                return missed[-1:]
            case MisfirePolicy.SKIP:
                return [instant for instant in missed if now - instant <= GRACE]


class MemoryScheduler(Scheduler):
    """For tests of what schedulers are used for; schedulers of one space share its schedule."""

    def __init__(self, url: str = "memory://") -> None:
        name, _options = parse(url)
        self._records: Records = space(name).records

    def entries(self) -> Sequence[ScheduleEntry]:
        return [line.entry for line in self._lines()]

    def put(self, entry: ScheduleEntry) -> None:
        """
        :raises ImproperlyConfigured: the schedule is not a number of seconds.
        """
        if not isinstance(entry.schedule, int | float) or entry.schedule <= 0:
            raise ImproperlyConfigured(
                f"schedule {entry.name!r}: {entry.schedule!r} is not a positive number of seconds"
            )
        record = self._records.get(KIND, entry.name)
        done = _decode(record).done if record is not None else clock.utcnow()
        self._records.put(KIND, entry.name, _encode(Line(entry, done)))

    def remove(self, name: str) -> bool:
        return self._records.delete(KIND, name)

    def due(self, now: datetime) -> Sequence[Firing]:
        firings = [Firing(line.entry, instant) for line in self._lines() for instant in line.due(now)]
        return sorted(firings, key=lambda firing: firing.due)

    def sent(self, firings: Sequence[Firing]) -> None:
        for firing in firings:
            while (record := self._records.get(KIND, firing.entry.name)) is not None:
                line = _decode(record)
                if firing.due <= line.done:
                    break
                if self._records.compare_and_set(record, _encode(attrs.evolve(line, done=firing.due))) is not None:
                    break

    def next_due(self, now: datetime) -> datetime | None:
        return min((line.next_after(now) for line in self._lines() if line.entry.enabled), default=None)

    def _lines(self) -> list[Line]:
        return [_decode(record) for record in self._records.scan(KIND)]


def _encode(line: Line) -> bytes:
    fields: dict[str, Any] = attrs.asdict(line.entry)
    return json.dumps({"entry": fields, "done": line.done.isoformat()}).encode()


def _decode(record: Record) -> Line:
    value = json.loads(record.value)
    fields = value["entry"]
    fields["args"], fields["misfire"] = tuple(fields["args"]), MisfirePolicy(fields["misfire"])
    return Line(ScheduleEntry(**fields), datetime.fromisoformat(value["done"]).astimezone(UTC))
