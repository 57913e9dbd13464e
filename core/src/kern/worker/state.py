"""What a worker holds at this moment: the in-flight table, bounded by construction."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Iterator

import attrs

from kern.delivery import Delivery
from kern.request import Request


class Phase(enum.Enum):
    """How far a delivery has come."""

    #: Leased and admitted, not handed to the pool.
    ADMITTED = enum.auto()
    #: Handed to the pool, not started as far as we know.
    SUBMITTED = enum.auto()
    #: Running.
    STARTED = enum.auto()
    #: Run; its outcome is being written.
    ENDED = enum.auto()


@attrs.define
class InFlight:
    """One delivery between its claim and its settlement."""

    delivery: Delivery
    request: Request
    phase: Phase
    #: Monotonic seconds.
    claimed_at: float
    started_at: float | None = None
    pid: int | None = None
    #: The message was released before the run (``acks_late`` false): nothing to renew or to settle.
    released: bool = False
    #: The lease is somebody else's now; the outcome will be refused.
    lost: bool = False
    #: Handed back while it runs: its outcome is of no interest any more.
    abandoned: bool = False


class FlightTable:
    """Every delivery that this worker holds, by receipt."""

    def __init__(self) -> None:
        self._entries: dict[str, InFlight] = {}

    def add(self, entry: InFlight) -> None:
        self._entries[entry.delivery.receipt] = entry

    def get(self, receipt: str) -> InFlight | None:
        return self._entries.get(receipt)

    def remove(self, receipt: str) -> InFlight | None:
        return self._entries.pop(receipt, None)

    def leased(self) -> list[str]:
        """Receipts that have to be renewed."""
        return [receipt for receipt, entry in self._entries.items() if not (entry.released or entry.lost)]

    def count(self, *phases: Phase) -> int:
        return sum(1 for entry in self._entries.values() if entry.phase in phases)

    def in_phase(self, *phases: Phase) -> list[InFlight]:
        return [entry for entry in self._entries.values() if entry.phase in phases]

    def __iter__(self) -> Iterator[InFlight]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)


class RunTimes:
    """Run times seen lately, and what they predict.

    A ring of the last 128: enough to follow a change within a second of short tasks, and to see the slow one in twenty.
    """

    _SIZE = 128

    def __init__(self) -> None:
        self._ring: deque[float] = deque(maxlen=self._SIZE)
        self._prediction: float | None = None
        self._fresh = 0

    def note(self, runtimes: Iterable[float]) -> None:
        for runtime in runtimes:
            self._ring.append(runtime)
            self._fresh += 1

    @property
    def p95(self) -> float | None:
        """Seconds that 95 of 100 tasks stay below; ``None`` before the first."""
        if self._fresh and (self._prediction is None or self._fresh >= 16):
            ordered = sorted(self._ring)
            self._prediction = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
            self._fresh = 0
        return self._prediction
