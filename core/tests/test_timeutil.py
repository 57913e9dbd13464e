"""Times, durations and rates, and the one clock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kern import timeutil
from kern.timeutil import clock

NOW = 1_700_000_000.0


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system's zone is Berlin's."""
    before = os.environ.get("TZ")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    if before is None:
        monkeypatch.delenv("TZ")
    else:
        monkeypatch.setenv("TZ", before)
    time.tzset()


class TestClock:
    def test_the_clock_is_the_systems(self) -> None:
        """Without a test's doing, now is now."""
        assert abs(clock.now() - time.time()) < 1
        assert abs(clock.monotonic() - time.monotonic()) < 1
        assert clock.utcnow().tzinfo is UTC

    def test_a_virtual_clock_is_read_by_everybody_and_only_for_a_while(self) -> None:
        """Modules hold the clock itself, so a test can move their time, and afterwards it is the system's again."""
        moment = [NOW]
        with clock.use(lambda: moment[0]):
            assert clock.now() == clock.monotonic() == NOW
            moment[0] += 3600
            assert clock.utcnow() == datetime.fromtimestamp(NOW + 3600, UTC)
            assert timeutil.due_time(60, None) == datetime.fromtimestamp(NOW + 3660, UTC)
        assert abs(clock.now() - time.time()) < 1

    def test_the_clock_is_the_systems_again_after_an_error(self) -> None:
        """A test that fails does not leave its time to the next one."""
        with pytest.raises(ZeroDivisionError), clock.use(lambda: 0.0):
            raise ZeroDivisionError
        assert clock.now() > NOW


class TestDates:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("2026-11-20T19:06:03.928472+00:00", datetime(2026, 11, 20, 19, 6, 3, 928472, UTC)),
            ("2026-11-20T19:06:03", datetime(2026, 11, 20, 19, 6, 3, tzinfo=UTC)),
            ("2026-11-20T19:06:03Z", datetime(2026, 11, 20, 19, 6, 3, tzinfo=UTC)),
            (" 2026-11-20 ", datetime(2026, 11, 20, tzinfo=UTC)),
            ("2026-11-20T19:06:03+05:30", datetime(2026, 11, 20, 13, 36, 3, tzinfo=UTC)),
        ],
    )
    def test_iso_text_is_read_and_without_a_zone_it_is_utc(self, text: str, expected: datetime) -> None:
        """Dates come aware from the wire."""
        assert timeutil.parse_datetime(text) == expected
        assert timeutil.timestamp(text) == expected.timestamp()

    def test_text_without_a_zone_is_in_the_zone_the_caller_says(self) -> None:
        """Protocol 1 has local times."""
        found = timeutil.parse_datetime("2026-07-01T12:00:00", ZoneInfo("Europe/Berlin"))
        assert found == datetime(2026, 7, 1, 10, tzinfo=UTC)

    @pytest.mark.parametrize("bad", ["", "tomorrow", "2026-13-01", 5, None, b"2026-11-20"])
    def test_what_is_no_date_is_refused(self, bad: object) -> None:
        """The error shows what was given."""
        with pytest.raises(ValueError, match="not an ISO-8601 date"):
            timeutil.parse_datetime(bad)  # type: ignore[arg-type]

    @given(
        st.datetimes(
            timezones=st.just(UTC) | st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))
        )
    )
    def test_what_is_written_is_read_again(self, value: datetime) -> None:
        """Writing and reading a date gives the same moment."""
        assert timeutil.parse_datetime(timeutil.format_datetime(value)) == value

    def test_seconds_since_the_epoch_are_written_in_utc(self) -> None:
        """A due time kept as a number goes on the wire as text with its zone."""
        assert timeutil.format_datetime(0.5) == "1970-01-01T00:00:00.500000+00:00"
        assert timeutil.format_datetime(datetime(2026, 1, 1)) == "2026-01-01T00:00:00+00:00"


class TestZones:
    def test_a_name_a_zone_and_nothing(self) -> None:
        """What users write in ``timezone``."""
        assert timeutil.zone("Europe/Berlin") == ZoneInfo("Europe/Berlin")
        assert timeutil.zone("utc") is UTC
        assert timeutil.zone(None) is UTC
        zone = timezone(timedelta(hours=1))
        assert timeutil.zone(zone) is zone

    def test_an_unknown_name_is_refused_with_the_nearest(self) -> None:
        """A misspelt zone is found at start."""
        with pytest.raises(ValueError, match=r"no time zone 'Europe/Berln'; did you mean 'Europe/Berlin'\?"):
            timeutil.zone("Europe/Berln")
        with pytest.raises(ValueError, match="IANA"):
            timeutil.zone("qqqqqqqqqqqqqqqqqqqqq")
        with pytest.raises(ValueError, match="no time zone"):
            timeutil.zone("../../etc/passwd")

    @pytest.mark.usefixtures("berlin")
    def test_the_systems_zone_follows_daylight_saving(self) -> None:
        """``local`` is a zone with rules, not the offset of this moment."""
        local = timeutil.zone(None, utc=False)
        assert local == timeutil.zone("local")
        assert datetime(2026, 1, 1, 12, tzinfo=local).utcoffset() == timedelta(hours=1)
        assert datetime(2026, 7, 1, 12, tzinfo=local).utcoffset() == timedelta(hours=2)
        assert datetime(2026, 7, 1, 12, tzinfo=local).dst() == timedelta(hours=1)
        assert datetime(2026, 1, 1, 12, tzinfo=local).dst() == timedelta(0)
        assert datetime(2026, 7, 1, 12, tzinfo=local).tzname() == "CEST"

    @pytest.mark.usefixtures("berlin")
    def test_the_systems_zone_agrees_with_the_database(self) -> None:
        """Converting to ``local`` and back is what the named zone does, on both sides of both changes of the clock."""
        local, named = timeutil.zone("local"), ZoneInfo("Europe/Berlin")
        for hour in range(0, 365 * 24, 7):
            moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour)
            there = moment.astimezone(local)
            assert there.replace(tzinfo=None) == moment.astimezone(named).replace(tzinfo=None)
            assert there.astimezone(UTC) == moment

    @pytest.mark.usefixtures("berlin")
    def test_the_hour_that_comes_twice_is_told_apart(self) -> None:
        """``fold`` says which of the two was meant."""
        local = timeutil.zone("local")
        first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
        for moment in (first, first + timedelta(hours=1)):
            assert moment.astimezone(local).astimezone(UTC) == moment


class TestDurations:
    @pytest.mark.parametrize(
        ("value", "expected"), [(3, 3.0), (0.5, 0.5), ("2.5", 2.5), (timedelta(minutes=2), 120.0), ("1e3", 1000.0)]
    )
    def test_numbers_text_and_timedeltas_are_seconds(self, value: float | str | timedelta, expected: float) -> None:
        """One meaning of a duration everywhere."""
        assert timeutil.seconds(value) == expected

    @pytest.mark.parametrize("bad", [None, True, "soon", float("nan"), "nan", [1]])
    def test_what_is_no_duration_is_refused(self, bad: object) -> None:
        """The error says what one is."""
        with pytest.raises(ValueError, match="a duration is a number of seconds"):
            timeutil.seconds(bad)  # type: ignore[arg-type]


class TestRates:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("10/s", 10.0),
            ("10/m", 10 / 60),
            ("10 / h", 10 / 3600),
            ("0.5/s", 0.5),
            (".5/s", 0.5),
            ("7", 7.0),
            (7, 7.0),
            (0.25, 0.25),
            (0, None),
            ("0/m", None),
            (None, None),
        ],
    )
    def test_rates_are_runs_a_second(self, text: str | float | None, expected: float | None) -> None:
        """Celery's forms; zero and nothing are no limit."""
        assert timeutil.parse_rate(text) == expected

    @pytest.mark.parametrize(
        "bad", ["", "fast", "10/d", "-1/s", "1/ss", -1, True, float("inf"), float("nan"), [], "1e9/s"]
    )
    def test_what_is_no_rate_is_refused(self, bad: object) -> None:
        """The error shows the forms there are."""
        with pytest.raises(ValueError, match="a rate is a number, or '<number>/s', '/m' or '/h'"):
            timeutil.parse_rate(bad)  # type: ignore[arg-type]

    @given(st.integers(0, 10**6), st.sampled_from([("", 1), ("/s", 1), ("/m", 60), ("/h", 3600)]))
    def test_a_rate_is_its_number_over_its_unit(self, number: int, unit: tuple[str, int]) -> None:
        """Whatever the number."""
        assert (timeutil.parse_rate(f"{number}{unit[0]}") or 0.0) == number / unit[1]


class TestDueAndExpiry:
    def test_a_countdown_counts_from_now_and_wins_over_eta(self) -> None:
        """As in Celery."""
        eta = datetime(2030, 1, 1, tzinfo=UTC)
        assert timeutil.due_time(10, eta, now=NOW) == datetime.fromtimestamp(NOW + 10, UTC)
        assert timeutil.due_time(timedelta(seconds=10), None, now=NOW) == datetime.fromtimestamp(NOW + 10, UTC)
        assert timeutil.due_time(-5, None, now=NOW) == datetime.fromtimestamp(NOW - 5, UTC)

    def test_a_countdown_of_zero_is_none(self) -> None:
        """It is due at once, or when eta says."""
        assert timeutil.due_time(0, None) is None
        assert timeutil.due_time(None, None) is None
        eta = datetime(2030, 1, 1, tzinfo=UTC)
        assert timeutil.due_time(0, eta) == eta

    def test_an_eta_without_a_zone_is_in_the_zone_that_is_said(self) -> None:
        """UTC unless the caller says otherwise."""
        assert timeutil.due_time(None, datetime(2026, 7, 1, 12)) == datetime(2026, 7, 1, 12, tzinfo=UTC)
        berlin = timeutil.due_time(None, "2026-07-01T12:00:00", naive=ZoneInfo("Europe/Berlin"))
        assert berlin == datetime(2026, 7, 1, 10, tzinfo=UTC)

    @pytest.mark.parametrize("countdown", [-(2**31) - 1, 1e18, float("inf"), "1e300"])
    def test_a_countdown_nobody_can_mean_is_refused(self, countdown: float) -> None:
        """And not an OverflowError from within."""
        with pytest.raises(ValueError, match="countdown is out of range"):
            timeutil.due_time(countdown, None, now=NOW)

    def test_expiry_is_seconds_from_now_or_a_date(self) -> None:
        """The forms of ``expires``."""
        expected = datetime.fromtimestamp(NOW + 60, UTC)
        for given_form in (60, 60.0, "60", timedelta(minutes=1), expected, expected.isoformat()):
            assert timeutil.expiry_time(given_form, now=NOW) == expected
        assert timeutil.expiry_time(None) is None
        assert timeutil.expiry_time(0, now=NOW) == datetime.fromtimestamp(NOW, UTC)
        assert timeutil.expiry_time(datetime(2026, 1, 1)) == datetime(2026, 1, 1, tzinfo=UTC)

    @pytest.mark.parametrize("bad", ["soon", "nan", True, []])
    def test_an_expiry_that_is_none_is_refused(self, bad: object) -> None:
        """The error comes at the call site."""
        with pytest.raises(ValueError, match=r"duration|ISO-8601"):
            timeutil.expiry_time(bad)  # type: ignore[arg-type]

    def test_an_expiry_beyond_all_time_is_refused(self) -> None:
        """And names what it was."""
        with pytest.raises(ValueError, match="expires is out of range"):
            timeutil.expiry_time(1e30, now=NOW)
