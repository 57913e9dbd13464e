"""Time as kern means it: aware, in UTC inside, ISO-8601 on the wire, read from one clock.

Everything that asks for the time asks :data:`clock`, so that a test can put a virtual clock in its place
(:meth:`Clock.use`) and let an hour pass in a millisecond. On the wire and in settings a datetime without a zone is UTC.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo

#: Celery's lower bound of ``countdown``; below it nobody meant what was written.
_MIN_COUNTDOWN = -(2**31)


class Clock:
    """What time it is; the one object all of kern asks.

    There is exactly one, :data:`clock`. It is never replaced (modules hold on to it), only told where to read.
    """

    def __init__(self) -> None:
        self._now: Callable[[], float] = time.time
        self._monotonic: Callable[[], float] = time.monotonic

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._now()

    def monotonic(self) -> float:
        """Seconds of a clock that never steps back; only differences mean something."""
        return self._monotonic()

    def utcnow(self) -> datetime:
        """Now, aware, in UTC."""
        return datetime.fromtimestamp(self._now(), UTC)

    @contextmanager
    def use(self, now: Callable[[], float], monotonic: Callable[[], float] | None = None) -> Iterator[None]:
        """Read the time from *now* (and *monotonic*, default *now*) while the context lasts. For tests alone."""
        before = self._now, self._monotonic
        self._now, self._monotonic = now, monotonic or now
        try:
            yield
        finally:
            self._now, self._monotonic = before


#: The clock of this process.
clock = Clock()


# -- datetimes ---------------------------------------------------------------------------------------------------------


def aware(value: datetime, naive: tzinfo = UTC) -> datetime:
    """*value* with a zone; one without is taken to be in *naive*."""
    return value.replace(tzinfo=naive) if value.tzinfo is None else value


def parse_datetime(value: str | datetime, naive: tzinfo = UTC) -> datetime:
    """An aware datetime from ISO-8601 text (or a datetime).

    :param naive: zone of what comes without one.
    :raises ValueError: not a date.
    """
    if isinstance(value, datetime):
        return aware(value, naive)
    if not isinstance(value, str):
        raise ValueError(f"not an ISO-8601 date: {value!r}")
    try:
        return aware(datetime.fromisoformat(value.strip()), naive)
    except ValueError:
        raise ValueError(f"not an ISO-8601 date: {value!r}") from None


def format_datetime(value: datetime | float) -> str:
    """ISO-8601 text of an aware datetime, or of seconds since the epoch (then in UTC)."""
    if isinstance(value, datetime):
        return aware(value).isoformat()
    return datetime.fromtimestamp(value, UTC).isoformat()


def timestamp(value: str | datetime, naive: tzinfo = UTC) -> float:
    """Seconds since the epoch of an ISO-8601 text or a datetime.

    :raises ValueError: not a date.
    """
    return parse_datetime(value, naive).timestamp()


def zone(value: str | tzinfo | None, utc: bool = True) -> tzinfo:
    """The time zone of that name.

    :param value: an IANA name, ``"local"``, a ``tzinfo``, or ``None``: UTC when *utc*, else the system's zone.
    :raises ValueError: no such zone; names the nearest.
    """
    if isinstance(value, tzinfo):
        return value
    if value is None:
        return UTC if utc else _local()
    if value.upper() == "UTC":
        return UTC
    if value.lower() == "local":
        return _local()
    import zoneinfo  # here: reading the zone data costs milliseconds, and most stay with UTC

    try:
        return zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        from kern.errors import nearest

        suggestion = nearest(value, zoneinfo.available_timezones())
        hint = f"; did you mean {suggestion!r}?" if suggestion else " (names are those of the IANA database)"
        raise ValueError(f"no time zone {value!r}{hint}") from None


def _local() -> tzinfo:
    """The zone of this system, which changes with daylight saving, unlike ``datetime.astimezone().tzinfo``."""
    return _SystemZone()


class _SystemZone(tzinfo):
    """The rules the C library follows."""

    def utcoffset(self, value: datetime | None) -> timedelta:
        parts = self._parts(value)
        return timedelta(seconds=parts.tm_gmtoff)

    def dst(self, value: datetime | None) -> timedelta:
        parts = self._parts(value)
        return timedelta(seconds=time.timezone + parts.tm_gmtoff) if parts.tm_isdst > 0 else timedelta(0)

    def tzname(self, value: datetime | None) -> str:
        return self._parts(value).tm_zone

    def _parts(self, value: datetime | None) -> time.struct_time:
        if value is None:
            return time.localtime()
        return time.localtime(value.replace(tzinfo=None, fold=value.fold).timestamp())

    def fromutc(self, value: datetime) -> datetime:
        moment = value.replace(tzinfo=UTC)
        there = moment.astimezone().replace(tzinfo=None)
        # The second of two equal hours: read plainly, it would be the first.
        return there.replace(tzinfo=self, fold=int(there.timestamp() != moment.timestamp()))

    def __repr__(self) -> str:
        return "local"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SystemZone)

    def __hash__(self) -> int:
        return hash(_SystemZone)

    def __reduce__(self) -> tuple[type[_SystemZone], tuple[()]]:
        return _SystemZone, ()


# -- durations and rates -----------------------------------------------------------------------------------------------


def seconds(value: float | str | timedelta) -> float:
    """A duration in seconds, from a number, its text, or a ``timedelta``.

    :raises ValueError: not a duration.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"a duration is a number of seconds or a timedelta, not {value!r}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"a duration is a number of seconds or a timedelta, not {value!r}") from None
    if number != number:
        raise ValueError("a duration is a number of seconds, not NaN")
    return number


_RATE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(?:/\s*([smh]))?\s*\Z")
_RATE_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600}


def parse_rate(value: str | float | None) -> float | None:
    """Runs a second, from ``"10/s"``, ``"10/m"``, ``"10/h"`` or a number (a second); ``None`` and 0: no limit.

    :raises ValueError: not a rate.
    """
    if value is None:
        return None
    problem = f"a rate is a number, or '<number>/s', '/m' or '/h', not {value!r}"
    if isinstance(value, str):
        found = _RATE.match(value)
        if found is None:
            raise ValueError(problem)
        rate = float(found[1]) / _RATE_SECONDS[found[2]]
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(problem)
    else:
        rate = float(value)
    return rate or None


# -- when a call is due, and until when --------------------------------------------------------------------------------


def due_time(
    countdown: float | timedelta | None,
    eta: datetime | str | None,
    naive: tzinfo = UTC,
    now: float | None = None,
) -> datetime | None:
    """When a call is due; ``None``: at once. *countdown* wins over *eta*, and one of zero is none.

    :param countdown: seconds from now.
    :param eta: a datetime or ISO-8601 text; without a zone it is in *naive*.
    :param now: seconds since the epoch; default: the clock's.
    :raises ValueError: *countdown* is out of range, *eta* is not a date.
    """
    if countdown:
        delta = seconds(countdown)
        if delta < _MIN_COUNTDOWN:
            raise ValueError(f"countdown is out of range: {countdown!r}")
        return _after(delta, now, "countdown")
    if eta is None:
        return None
    return parse_datetime(eta, naive)


def expiry_time(
    expires: float | timedelta | datetime | str | None,
    naive: tzinfo = UTC,
    now: float | None = None,
) -> datetime | None:
    """Until when a call may start; ``None``: for ever.

    :param expires: seconds from now, a datetime, or ISO-8601 text; text of a number is seconds.
    :raises ValueError: none of these.
    """
    if expires is None:
        return None
    if isinstance(expires, datetime):
        return aware(expires, naive)
    if isinstance(expires, str):
        try:
            delta = float(expires)
        except ValueError:
            return parse_datetime(expires, naive)
        return _after(seconds(delta), now, "expires")
    return _after(seconds(expires), now, "expires")


def _after(delta: float, now: float | None, what: str) -> datetime:
    try:
        return datetime.fromtimestamp((clock.now() if now is None else now) + delta, UTC)
    except (OverflowError, ValueError, OSError):
        raise ValueError(f"{what} is out of range: {delta!r}") from None
