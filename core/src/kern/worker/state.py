"""What a worker holds at this moment: the in-flight table, bounded by construction."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Iterator

import attrs

from kern.delivery import Delivery
from kern.request import Request


class Phase(enum.IntEnum):
    """How far a delivery has come."""

    #: Leased and admitted, not handed to the pool.
    ADMITTED = 0
    #: Handed to the pool, not started as far as we know.
    SUBMITTED = 1
    #: Running.
    STARTED = 2
    #: Run, or never to be run here; what became of it is being written.
    ENDED = 3


@attrs.define(eq=False)
class InFlight:
    """One delivery between its claim and its settlement."""

    delivery: Delivery
    #: ``None`` for what ends without having been understood.
    request: Request | None
    #: Monotonic seconds.
    claimed_at: float
    #: Changed by :meth:`FlightTable.move` alone.
    phase: Phase = Phase.ADMITTED
    #: Monotonic seconds.
    started_at: float | None = None
    pid: int | None = None
    #: The message was released before the run (``acks_late`` false): there is no lease any more.
    released: bool = False
    #: The lease is somebody else's now; the outcome would be refused.
    lost: bool = False
    #: The worker stops and the pool ends what it runs: a death now is nobody's fault.
    interrupted: bool = False
    #: What the pool still has to say about it is of no interest: it was decided without the pool.
    abandoned: bool = False
    #: Settled, though the pool has not let go of it yet.
    settled: bool = False
    #: Ends it at its hard limit where the pool cannot.
    timer: asyncio.TimerHandle | None = None

    @property
    def receipt(self) -> str:
        return self.delivery.receipt

    @property
    def task_id(self) -> str:
        return (self.request.id if self.request is not None else None) or self.delivery.task_id

    @property
    def task(self) -> str:
        """The task's name; empty when nobody can tell."""
        name = self.request.task if self.request is not None else None
        return name or (self.delivery.message.task if self.delivery.message is not None else None) or ""


class FlightTable:
    """Every delivery that this worker holds, by receipt, and how many are in which phase."""

    def __init__(self) -> None:
        self._entries: dict[str, InFlight] = {}
        self._counts = [0] * len(Phase)

    def add(self, entry: InFlight) -> None:
        self._entries[entry.delivery.receipt] = entry
        self._counts[entry.phase] += 1

    def get(self, receipt: str) -> InFlight | None:
        return self._entries.get(receipt)

    def holds(self, entry: InFlight) -> bool:
        """Whether it is still in the table."""
        return self._entries.get(entry.delivery.receipt) is entry

    def move(self, entry: InFlight, phase: Phase) -> None:
        if self.holds(entry):
            self._counts[entry.phase] -= 1
            self._counts[phase] += 1
        entry.phase = phase

    def remove(self, entry: InFlight) -> None:
        if self.holds(entry):
            del self._entries[entry.delivery.receipt]
            self._counts[entry.phase] -= 1

    @property
    def waiting(self) -> int:
        """Admitted, and not started as far as we know."""
        return self._counts[Phase.ADMITTED] + self._counts[Phase.SUBMITTED]

    @property
    def running(self) -> int:
        return self._counts[Phase.STARTED]

    @property
    def ending(self) -> int:
        return self._counts[Phase.ENDED]

    def leased(self) -> list[str]:
        """Receipts that have to be renewed."""
        return [
            receipt for receipt, entry in self._entries.items() if not (entry.released or entry.lost or entry.settled)
        ]

    def in_phase(self, *phases: Phase) -> list[InFlight]:
        return [entry for entry in self._entries.values() if entry.phase in phases]

    def unfinished(self) -> list[InFlight]:
        """What has not come to its end here."""
        return [entry for entry in self._entries.values() if entry.phase is not Phase.ENDED and not entry.abandoned]

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

    def note(self, runtime: float) -> None:
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
