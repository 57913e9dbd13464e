"""The scheduler of ``memory://`` keeps the contract of schedulers."""

from collections.abc import Callable, Iterator

import pytest

from kern.contracts.scheduler import Scheduler
from kern.errors import ImproperlyConfigured
from kern_testing import make
from kern_testing.contracts.scheduler import SchedulerContract, entry
from kern_testing.memory import forget
from kern_testing.memory.scheduler import MemoryScheduler


class TestMemoryScheduler(SchedulerContract):
    @pytest.fixture
    def make_scheduler(self) -> Iterator[Callable[[], Scheduler]]:
        name = make.unique("space")
        yield lambda: MemoryScheduler(f"memory://{name}")
        forget(name)

    @pytest.mark.parametrize("schedule", ["every day", 0, -1, None])
    def test_what_is_no_interval_is_refused(self, schedule: object) -> None:
        """The error names the entry and what was given."""
        with pytest.raises(ImproperlyConfigured, match=r"schedule '.+': .+ is not a positive number"):
            MemoryScheduler(f"memory://{make.unique()}").put(entry(schedule))  # type: ignore[arg-type]
