"""How many messages to lease, and when."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kern import log, seams
from kern.contracts.transport import Claim, Transport
from kern.errors import KernError
from kern.worker.replies import awaited
from kern.worker.state import FlightTable, Phase, RunTimes

if TYPE_CHECKING:
    from kern.delivery import Delivery

logger = log.get_logger("kern.worker")

#: Seconds of work that may lie ready in the pool beside what runs: long enough to hide a round trip to the broker,
#: short enough that nobody waits noticeably behind it.
HORIZON = 0.05
#: Messages a claim asks for at most, and messages that may lie ready beside what runs.
LARGEST_CLAIM = 100
#: Bytes of bodies a claim asks for at most.
BYTE_BUDGET = 262_144
#: Seconds between two claims of an idle worker that nothing has woken.
SAFETY_INTERVAL = 1.0
#: Seconds to the next claim at least, if the broker says that something is due now and yet hands out nothing.
SHORTEST_PAUSE = 0.002


class ConsumedQueues:
    """The queues a worker consumes: data that may change while it runs, read again at each claim."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names: dict[str, None] = dict.fromkeys(names)
        self._paused: set[str] = set()
        #: Called after each change.
        self.changed: Callable[[], None] = lambda: None

    def add(self, name: str) -> None:
        self._names[name] = None
        self.changed()

    def cancel(self, name: str) -> None:
        self._names.pop(name, None)
        self._paused.discard(name)
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


class Room:
    """How many messages a worker may hold: computed from what is, never counted up and down, so it cannot drift.

    :param slots: requests the pool runs at once, now.
    :param exclusive: whether a request runs alone, or waits to; then nothing else is of use here.
    :param prefetch_multiplier: messages for each slot, instead of what run times say; 0: no limit.
    :param ahead: whether messages may be taken for slots that are not free yet.
    """

    def __init__(
        self,
        flights: FlightTable,
        run_times: RunTimes,
        slots: Callable[[], int],
        exclusive: Callable[[], bool],
        prefetch_multiplier: int | None = None,
        ahead: bool = True,
    ) -> None:
        self._flights = flights
        self._run_times = run_times
        self._slots = slots
        self._exclusive = exclusive
        self._multiplier = prefetch_multiplier
        self._may_run_ahead = ahead

    def left(self) -> int:
        """How many more messages this worker may hold now."""
        if self._exclusive():
            return 0
        flights, slots = self._flights, self._slots()
        free = max(0, slots - flights.running)
        if not self._may_run_ahead:
            return max(0, free - flights.waiting)
        if self._multiplier is None:
            return max(0, free + self._ahead(slots) - flights.waiting)
        if self._multiplier == 0:
            return LARGEST_CLAIM
        return max(0, slots * self._multiplier - flights.waiting - flights.running)

    def _ahead(self, slots: int) -> int:
        """Messages that the slots will have come to within the horizon."""
        predicted = self._run_times.p95
        if predicted is None or predicted > HORIZON * slots:
            return 0
        # A slot that is busy for longer than predicted comes to nothing soon, whatever its neighbours did before.
        slow = max(HORIZON, 4 * predicted)
        now = time.monotonic()
        stuck = sum(
            1
            for entry in self._flights.in_phase(Phase.STARTED)
            if entry.started_at is not None and now - entry.started_at > slow
        )
        return min(int(max(0, slots - stuck) * HORIZON / max(predicted, 1e-6)), LARGEST_CLAIM)


class Claimer:
    """Claims while there is room, and waits for a reason to claim again when there was nothing.

    :param may_claim: whether what waits to be written leaves room for more.
    :param admit: takes what was claimed, also when the worker has been told to stop meanwhile.
    """

    def __init__(
        self,
        transport: Transport,
        queues: ConsumedQueues,
        flights: FlightTable,
        room: Room,
        may_claim: Callable[[], bool],
        admit: Callable[[Sequence[Delivery]], None],
        lease_seconds: float,
    ) -> None:
        self._transport = transport
        self._queues = queues
        self._flights = flights
        self._room = room
        self._may_claim = may_claim
        self._admit = admit
        self._lease_seconds = lease_seconds
        self._changed = asyncio.Event()
        #: Whether there may be messages that the last claim has not seen, and what a pause waits for.
        self._woken = False
        self._awake: asyncio.Future[None] | None = None
        #: How many queues had something for the last claim that brought anything.
        self._busy_queues = 1
        self.connected = True
        self.stopping = False

    # -- what the loop tells it

    def wake(self) -> None:
        """There may be messages."""
        self._woken = True
        self._end_pause(self._awake)
        self._changed.set()

    def room(self) -> None:
        """There may be room."""
        self._changed.set()

    def down(self) -> None:
        self.connected = False

    def up(self) -> None:
        self.connected = True
        self.wake()

    def stop(self) -> None:
        """Ask for no more; what a claim under way brings is still admitted."""
        self.stopping = True
        self.wake()

    # -- the stage

    async def run(self) -> None:
        """Claim until told to stop."""
        while not self.stopping:
            self._changed.clear()
            claim = self._next_claim()
            if claim is None:
                await self._changed.wait()
                continue
            self._woken = False
            seams.reached("claiming")
            try:
                claimed = await awaited(self._transport.claim(claim))
            except KernError as error:
                logger.warning("claim failed", error=str(error))
                await self._pause(SAFETY_INTERVAL * random.uniform(0.5, 1.0))
                continue
            if claimed.deliveries:
                self._busy_queues = len({delivery.queue for delivery in claimed.deliveries})
                self._admit(claimed.deliveries)
                # Let outcomes and signals through between two claims.
                await asyncio.sleep(0)
                continue
            wait = SAFETY_INTERVAL * random.uniform(0.8, 1.2)
            if claimed.next_due is not None:
                wait = min(wait, max(SHORTEST_PAUSE, claimed.next_due))
            await self._pause(wait)

    def _next_claim(self) -> Claim | None:
        """What to ask for now; ``None``: nothing."""
        queues = self._queues.active()
        if not queues or not self.connected or not self._may_claim():
            return None
        room = min(self._room.left(), LARGEST_CLAIM)
        # A claim smaller than what waits here asks for crumbs, at the price of a whole round trip.
        if room <= 0 or room < self._flights.waiting:
            return None
        # The broker takes queues in turn; their shares spare it from looking at ten times what it may hand out.
        share = -(-room // min(self._busy_queues, len(queues)))
        return Claim(dict.fromkeys(queues, share), room, BYTE_BUDGET, self._lease_seconds)

    async def _pause(self, seconds: float) -> None:
        """Until woken, *seconds* at most. Every call to an idle worker comes this way: no task and no event for it."""
        if self._woken:
            return
        loop = asyncio.get_running_loop()
        self._awake = awake = loop.create_future()
        timer = loop.call_later(seconds, self._end_pause, awake)
        try:
            await awake
        finally:
            timer.cancel()

    @staticmethod
    def _end_pause(awake: asyncio.Future[None] | None) -> None:
        if awake is not None and not awake.done():
            awake.set_result(None)
