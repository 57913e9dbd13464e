"""What every scheduler owes, as tests. The promises are those of :mod:`kern.contracts.scheduler`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import attrs
import pytest

from kern.contracts.scheduler import Firing, MisfirePolicy, ScheduleEntry, Scheduler
from kern.timeutil import clock as kern_clock
from kern_testing import make
from kern_testing.clock import VirtualClock
from kern_testing.contracts.suite import Suite, applies, missing

#: The smallest difference in time the tests make.
TICK = timedelta(milliseconds=1)


def entry(every: float = 10.0, **fields: Any) -> ScheduleEntry:
    return ScheduleEntry(name=fields.pop("name", make.unique("entry")), task="tests.tick", schedule=every, **fields)


class SchedulerContract(Suite):
    """Subclass it, and give ``make_scheduler()``: a scheduler with no entries, on storage that one test uses.

    Time is given to ``due`` and ``next_due``; for what a scheduler notes down by itself, kern's clock stands still.
    """

    #: ``False`` where each scheduler knows only its own entries, and a restart forgets what was sent.
    shared: ClassVar[bool] = True

    @pytest.fixture
    def make_scheduler(self) -> Callable[[], Scheduler]:
        missing("make_scheduler", "return lambda: DatabaseScheduler(app)")

    @pytest.fixture
    def now(self) -> Iterator[datetime]:
        """An instant long before anything is due, at which the clock stands."""
        start = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
        with kern_clock.use(VirtualClock(start.timestamp())):
            yield start

    @pytest.fixture
    def scheduler(self, make_scheduler: Callable[[], Scheduler], now: datetime) -> Scheduler:
        return make_scheduler()

    # -- entries

    def test_entries_are_put_replaced_and_removed(self, scheduler: Scheduler) -> None:
        """By name; what was put is what is listed."""
        first = entry(
            args=(1, "ü"), kwargs={"a": [None, {"b": 1.5}]}, options={"queue": "q"}, misfire=MisfirePolicy.SKIP
        )
        second = entry(60.0, enabled=False)
        scheduler.put(first)
        scheduler.put(second)
        assert {one.name: one for one in scheduler.entries()} == {first.name: first, second.name: second}
        changed = attrs.evolve(first, task="tests.other", args=())
        scheduler.put(changed)
        assert {one.name: one for one in scheduler.entries()} == {first.name: changed, second.name: second}
        assert scheduler.remove(first.name) is True
        assert scheduler.remove(first.name) is False
        assert [one.name for one in scheduler.entries()] == [second.name]

    def test_nothing_scheduled_is_nothing_due(self, scheduler: Scheduler, now: datetime) -> None:
        """Without entries it needs not be asked again."""
        assert list(scheduler.entries()) == []
        assert list(scheduler.due(now)) == []
        assert scheduler.next_due(now) is None

    def test_disabled_and_removed_entries_are_never_due(self, scheduler: Scheduler, now: datetime) -> None:
        """Switched off is off, until it is switched on; removed is gone."""
        disabled, removed = entry(enabled=False), entry()
        scheduler.put(disabled)
        scheduler.put(removed)
        scheduler.remove(removed.name)
        much_later = now + timedelta(days=2)
        assert list(scheduler.due(much_later)) == []
        assert scheduler.next_due(now) is None
        scheduler.put(attrs.evolve(disabled, enabled=True))
        assert [firing.entry.name for firing in scheduler.due(much_later)] == [disabled.name]

    # -- due

    def test_an_entry_is_due_at_its_instant(self, scheduler: Scheduler, now: datetime) -> None:
        """Not before; from then on until it is marked as sent, always with the same instant."""
        scheduler.put(entry(10.0))
        instant = self.instant(scheduler, now)
        assert now <= instant <= now + timedelta(seconds=10)
        assert list(scheduler.due(instant - TICK)) == []
        (firing,) = scheduler.due(instant)
        assert firing.due == instant
        (again,) = scheduler.due(instant + TICK)
        assert identity(again) == identity(firing), "a firing that was not marked as sent changed its identity"

    def test_what_was_sent_is_not_due_again(self, scheduler: Scheduler, now: datetime) -> None:
        """Marking as sent ends this instant, once; the next one is an interval later."""
        scheduler.put(entry(10.0))
        instant = self.instant(scheduler, now)
        firings = scheduler.due(instant)
        scheduler.sent(firings)
        assert list(scheduler.due(instant)) == []
        scheduler.sent(firings)
        following = self.instant(scheduler, instant)
        assert following == instant + timedelta(seconds=10)
        assert [firing.due for firing in scheduler.due(following)] == [following]

    def test_marking_late_does_not_swallow_the_next(self, scheduler: Scheduler, now: datetime) -> None:
        """An old firing marked again, after the next has come, leaves that one due."""
        scheduler.put(entry(10.0))
        instant = self.instant(scheduler, now)
        old = scheduler.due(instant)
        scheduler.sent(old)
        following = self.instant(scheduler, instant)
        scheduler.sent(old)
        assert [firing.due for firing in scheduler.due(following)] == [following]

    def test_firings_come_oldest_first(self, scheduler: Scheduler, now: datetime) -> None:
        """Over all entries."""
        for every in (30.0, 10.0, 20.0):
            scheduler.put(entry(every, misfire=MisfirePolicy.ALL))
        dues = [firing.due for firing in scheduler.due(now + timedelta(seconds=61))]
        assert dues == sorted(dues)
        assert len(dues) >= 6 + 3 + 2

    def test_the_next_instant_is_that_of_the_earliest_entry(self, scheduler: Scheduler, now: datetime) -> None:
        """However many there are."""
        for every in (3600.0, 5.0, 60.0):
            scheduler.put(entry(every))
        assert self.instant(scheduler, now) <= now + timedelta(seconds=5)

    def test_instants_are_aware(self, scheduler: Scheduler, now: datetime) -> None:
        """No time without its zone."""
        scheduler.put(entry())
        instant = self.instant(scheduler, now)
        assert instant.tzinfo is not None
        assert all(firing.due.tzinfo is not None for firing in scheduler.due(instant))

    def test_a_changed_entry_keeps_what_was_sent(self, scheduler: Scheduler, now: datetime) -> None:
        """Editing arguments does not fire an instant again."""
        one = entry(10.0)
        scheduler.put(one)
        instant = self.instant(scheduler, now)
        scheduler.sent(scheduler.due(instant))
        scheduler.put(attrs.evolve(one, args=("changed",)))
        assert list(scheduler.due(instant)) == []

    # -- misfires

    @pytest.mark.parametrize(
        ("policy", "fired"), [(MisfirePolicy.SKIP, 0), (MisfirePolicy.ONE, 1), (MisfirePolicy.ALL, 5)]
    )
    def test_missed_instants_follow_the_policy(
        self, scheduler: Scheduler, now: datetime, policy: MisfirePolicy, fired: int
    ) -> None:
        """Nobody scheduled for five instants: all of them, one, or none; and then it goes on as ever."""
        scheduler.put(entry(10.0, misfire=policy))
        first = self.instant(scheduler, now)
        back = first + timedelta(seconds=45)  # between the fifth instant and the sixth
        firings = list(scheduler.due(back))
        assert len(firings) == fired
        assert len(set(map(identity, firings))) == fired, "each firing has an identity of its own"
        assert all(first <= firing.due <= back for firing in firings)
        scheduler.sent(firings)
        assert list(scheduler.due(back)) == []
        following = self.instant(scheduler, back)
        assert following == first + timedelta(seconds=50), "the instants after a pause are those they always were"
        assert [firing.due for firing in scheduler.due(following)] == [following]

    # -- several

    @applies(lambda suite: suite.shared)
    def test_two_schedulers_agree(
        self, make_scheduler: Callable[[], Scheduler], scheduler: Scheduler, now: datetime
    ) -> None:
        """Both see the entries; both name a firing alike, and what one has sent is not due for the other."""
        other = make_scheduler()
        one = entry(10.0)
        scheduler.put(one)
        assert [seen.name for seen in other.entries()] == [one.name]
        instant = self.instant(scheduler, now)
        mine, theirs = list(scheduler.due(instant)), list(other.due(instant))
        assert list(map(identity, mine)) == list(map(identity, theirs))
        scheduler.sent(mine)
        assert list(other.due(instant)) == []
        other.sent(theirs)
        assert self.instant(other, instant) == instant + timedelta(seconds=10)
        assert other.remove(one.name) is True
        assert list(scheduler.entries()) == []

    @applies(lambda suite: suite.shared)
    def test_a_crash_between_due_and_sent_is_repaired(
        self, make_scheduler: Callable[[], Scheduler], scheduler: Scheduler, now: datetime
    ) -> None:
        """A successor gets the very firing that was not marked, so that the call's id is the same."""
        scheduler.put(entry(10.0))
        instant = self.instant(scheduler, now)
        (lost,) = scheduler.due(instant)
        (found,) = make_scheduler().due(instant + timedelta(seconds=3))
        assert identity(found) == identity(lost)

    @staticmethod
    def instant(scheduler: Scheduler, now: datetime) -> datetime:
        """When something is due next; there is something."""
        found = scheduler.next_due(now)
        assert found is not None, "an entry is scheduled, and nothing is due next"
        return found


def identity(firing: Firing) -> tuple[str, datetime]:
    return firing.entry.name, firing.due
