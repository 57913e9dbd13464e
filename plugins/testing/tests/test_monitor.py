"""The monitor that remembers keeps the contract of monitors."""

from collections.abc import Callable

import pytest

from kern.contracts.monitor import Monitor
from kern_testing.contracts.monitor import MonitorContract, event
from kern_testing.monitor import RecordingMonitor


class TestRecordingMonitor(MonitorContract):
    shows = True

    @pytest.fixture
    def make_monitor(self) -> Callable[[], Monitor]:
        return RecordingMonitor

    def taken(self, monitor: Monitor) -> list[tuple[str, str]]:
        assert isinstance(monitor, RecordingMonitor)
        return [(one.type, one.fields["uuid"]) for one in monitor.events]


def test_events_are_found_by_type_and_losses_counted() -> None:
    """What a test asks for is what happened."""
    monitor = RecordingMonitor()
    monitor.take([event("task-started"), event("task-failed")], 3)
    monitor.take([event("task-started")], 4)
    assert [one.type for one in monitor.of_type("task-failed")] == ["task-failed"]
    assert len(monitor.of_type("task-started", "task-failed")) == 3
    assert monitor.dropped == 7
