"""What every monitor owes, as tests. The promises are those of :mod:`kern.contracts.monitor`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest

from kern.contracts.monitor import Monitor
from kern.outcome import Event
from kern_testing import make
from kern_testing.contracts.records import in_parallel
from kern_testing.contracts.suite import Suite, applies, eventually, missing


def event(kind: str = "task-succeeded", **fields: Any) -> Event:
    return Event(kind, {"uuid": make.unique("id"), "hostname": "worker@host", **fields}, time.time())


class MonitorContract(Suite):
    """Subclass it, and give ``make_monitor()``, which makes a monitor that is not started."""

    #: ``True`` where :meth:`taken` is given.
    shows: ClassVar[bool] = False

    @pytest.fixture
    def make_monitor(self) -> Callable[[], Monitor]:
        missing("make_monitor", "return lambda: EventMonitor(app)")

    def taken(self, monitor: Monitor) -> Sequence[tuple[str, str]]:
        """Type and ``uuid`` of the events that *monitor* has passed on or shows, in their order."""
        raise NotImplementedError

    @pytest.fixture
    def monitor(self, make_monitor: Callable[[], Monitor]) -> Iterator[Monitor]:
        monitor = make_monitor()
        monitor.start()
        yield monitor
        monitor.stop()

    def test_it_is_stopped_twice_and_without_events(self, make_monitor: Callable[[], Monitor]) -> None:
        """Stopping is safe twice, and when nothing ever happened."""
        monitor = make_monitor()
        monitor.start()
        monitor.stop()
        monitor.stop()

    def test_it_takes_whatever_happens(self, monitor: Monitor) -> None:
        """Events of every type, with every JSON value, known or not, many or none; gaps are no error."""
        monitor.take([], 0)
        monitor.take([event("task-sent"), event("worker-heartbeat", active=0, loadavg=[0.1, 0.2, 0.3])], 0)
        monitor.take([event("something-of-a-plugin", nested={"list": [None, True, 1.5, "ü☃\x00"]}, text="")], 0)
        monitor.take([Event("bare", {}, 0.0)], dropped=1000)
        for _ in range(10):
            monitor.take([event(number=number) for number in range(1000)], 0)

    def test_it_is_called_on_another_thread(self, make_monitor: Callable[[], Monitor]) -> None:
        """Started, fed and stopped on a thread that is not the main one."""
        monitor = make_monitor()

        def live() -> None:
            monitor.start()
            monitor.take([event()], 0)
            monitor.stop()

        in_parallel([live])

    @applies(lambda suite: suite.shows)
    def test_it_keeps_the_order(self, monitor: Monitor) -> None:
        """What it shows is what it took, in that order."""
        events = [event("task-started" if number % 2 else "task-received") for number in range(200)]
        for start in range(0, 200, 50):
            monitor.take(events[start : start + 50], 0)
        expected = [(one.type, one.fields["uuid"]) for one in events]
        eventually(lambda: list(self.taken(monitor)) == expected, "all events are shown, in their order")

    @applies(lambda suite: suite.shows)
    def test_stopping_flushes(self, make_monitor: Callable[[], Monitor]) -> None:
        """Nothing taken is forgotten by stopping."""
        monitor, last = make_monitor(), event()
        monitor.start()
        monitor.take([last], 0)
        monitor.stop()
        eventually(lambda: (last.type, last.fields["uuid"]) in self.taken(monitor), "the last event is shown")
