"""How many messages to lease, and when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from kern import log, seams
from kern.contracts.transport import Claim, Transport
from kern.errors import KernError
from kern.worker.state import FlightTable, Phase, RunTimes

if TYPE_CHECKING:
    from kern.delivery import Delivery

logger = log.get_logger("kern.worker")

#: Seconds of work that may lie ready in the pool beside what runs: long enough to hide a round trip to the broker,
#: short enough that nobody waits noticeably behind it.
HORIZON = 0.05
#: Messages a claim asks for at most.
LARGEST_CLAIM = 100
#: Bytes of bodies a claim asks for at most.
BYTE_BUDGET = 262_144
#: Seconds between two claims of an idle worker that nothing has woken.
SAFETY_INTERVAL = 1.0


class ConsumedQueues:
    """The queues a worker consumes: data that may change while it runs, read again at each claim."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self._names: dict[str, None] = dict.fromkeys(names)
        self._paused: set[str] = set()
        self.changed: Callable[[], None] = lambda: None

    def add(self, name: str) -> None:
        self._names[name] = None
        self.changed()

    def cancel(self, name: str) -> None:
        self._names.pop(name, None)
        self.changed()

    def pause(self, name: str) -> None:
        self._paused.add(name)
        self.changed()

    def resume(self, name: str) -> None:
        self._paused.discard(name)
        self.changed()

    def names(self) -> tuple[str, ...]:
        """All, also those that are paused."""
        return tuple(self._names)

    def active(self) -> tuple[str, ...]:
        """Those to claim from."""
        return tuple(name for name in self._names if name not in self._paused)


class Claimer:
    """Claims while there is room, and waits for a reason to claim again when there was nothing.

    The size of a claim is computed from free slots and the run times seen, never counted up and down, so it cannot
    drift.
    """

    def __init__(
        self,
        transport: Transport,
        queues: ConsumedQueues,
        flights: FlightTable,
        run_times: RunTimes,
        slots: Callable[[], int],
        settle_room: Callable[[], bool],
        admit: Callable[[tuple[Delivery, ...]], None],
        prefetch_multiplier: int | None,
        lease_seconds: float,
    ) -> None:
        self._transport = transport
        self._queues = queues
        self._flights = flights
        self._run_times = run_times
        self._slots = slots
        self._settle_room = settle_room
        self._admit = admit
        self._multiplier = prefetch_multiplier
        self._lease_seconds = lease_seconds
        self._changed = asyncio.Event()
        self._woken = asyncio.Event()
        self._connected = True
        self._rotation = 0
        self.stopping = False

    # -- what the loop tells it

    def wake(self) -> None:
        """There may be messages."""
        self._woken.set()
        self._changed.set()

    def room(self) -> None:
        """There may be room."""
        self._changed.set()

    def down(self) -> None:
        self._connected = False

    def up(self) -> None:
        self._connected = True
        self.wake()

    def stop(self) -> None:
        self.stopping = True
        self.wake()

    # -- how many

    def room_for(self) -> int:
        """How many more messages this worker may hold now."""
        waiting = self._flights.count(Phase.ADMITTED, Phase.SUBMITTED)
        started = self._flights.count(Phase.STARTED)
        slots = self._slots()
        if self._multiplier is not None:
            if self._multiplier == 0:
                return LARGEST_CLAIM
            return max(0, slots * self._multiplier - waiting - started)
        predicted = self._run_times.p95
        ahead = 0 if predicted is None else int(slots * HORIZON / max(predicted, 1e-6))
        free = max(0, slots - started)
        return max(0, free + min(ahead, LARGEST_CLAIM) - waiting)

    def _claim(self, room: int) -> Claim:
        names = self._queues.active()
        limit = min(room, LARGEST_CLAIM)
        if len(names) > 1:
            self._rotation = (self._rotation + 1) % len(names)
            names = names[self._rotation :] + names[: self._rotation]
        share = limit if len(names) < 2 else max(1, -(-limit // len(names)))
        wanted: Mapping[str, int] = dict.fromkeys(names, share)
        return Claim(wanted, limit, BYTE_BUDGET, self._lease_seconds)

    # -- the stage

    async def run(self) -> None:
        """Claim until told to stop."""
        while not self.stopping:
            self._changed.clear()
            room = self.room_for() if self._connected and self._settle_room() else 0
            # A claim smaller than half of what is held asks for crumbs, at the price of a whole round trip.
            held = self._flights.count(Phase.ADMITTED, Phase.SUBMITTED)
            if room <= 0 or (held and room < held) or not self._queues.active():
                await self._changed.wait()
                continue
            self._woken.clear()
            claim = self._claim(room)
            seams.reached("claiming")
            try:
                claimed = await asyncio.wrap_future(self._transport.claim(claim))
            except KernError as error:
                logger.warning("claim failed", error=str(error))
                await self._pause(SAFETY_INTERVAL * random.uniform(0.5, 1.0))
                continue
            if claimed.deliveries:
                self._admit(claimed.deliveries)
                # Let outcomes and signals through between two claims.
                await asyncio.sleep(0)
                continue
            wait = SAFETY_INTERVAL * random.uniform(0.8, 1.2)
            if claimed.next_due is not None:
                wait = min(wait, max(0.0, claimed.next_due))
            await self._pause(wait)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._woken.wait(), seconds)
        except TimeoutError:
            pass
