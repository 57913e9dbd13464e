"""Requests on their way into the pool, and how long they may wait there."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from kern import log, seams
from kern.contracts.pool import Pool
from kern.contracts.transport import Transport
from kern.errors import KernError
from kern.worker.state import FlightTable, InFlight, Phase, RunTimes

logger = log.get_logger("kern.worker")

#: A lease that has not started after so many seconds, or four times its prediction, is handed back while others could
#: run it.
PATIENCE = 0.1


class Dispatcher:
    """Hands requests to the pool.

    A request under suspicion (its last worker died with it) runs alone: it is held until nothing else runs, its start
    is marked on the server first, and nothing else is handed over until it has ended. So a death then is its own.
    """

    def __init__(
        self,
        pool: Pool,
        transport: Transport,
        flights: FlightTable,
        run_times: RunTimes,
        give_back: Callable[[Sequence[InFlight]], None],
    ) -> None:
        self._pool = pool
        self._transport = transport
        self._flights = flights
        self._run_times = run_times
        self._give_back = give_back
        self._held: deque[InFlight] = deque()
        self._suspects: deque[InFlight] = deque()
        self._alone: InFlight | None = None
        #: Whether another live worker consumes one of our queues; kept up to date by the worker.
        self.others = False

    def submit(self, entries: Sequence[InFlight]) -> None:
        """Hand over admitted requests, or hold them while a suspect runs alone."""
        ready = []
        for entry in entries:
            if entry.delivery.suspect and not entry.released:
                self._suspects.append(entry)
            elif self._suspects or self._alone is not None:
                self._held.append(entry)
            else:
                ready.append(entry)
        if ready:
            self._hand_over(ready)
        self._next_suspect()

    def ended(self, entry: InFlight) -> None:
        """A request has left the pool."""
        if entry is self._alone:
            self._alone = None
        if self._suspects or self._alone is not None:
            self._next_suspect()
        elif self._held:
            held = list(self._held)
            self._held.clear()
            self._hand_over(held)

    def _hand_over(self, entries: Sequence[InFlight]) -> None:
        for entry in entries:
            entry.phase = Phase.SUBMITTED
        self._pool.submit([entry.request for entry in entries])
        seams.reached("submitted")

    def _next_suspect(self) -> None:
        if self._alone is not None or not self._suspects:
            return
        if self._flights.count(Phase.SUBMITTED, Phase.STARTED):
            return
        self._alone = self._suspects.popleft()
        asyncio.get_running_loop().create_task(self._run_alone(self._alone))

    async def _run_alone(self, entry: InFlight) -> None:
        while True:
            try:
                await asyncio.wrap_future(self._transport.mark_started([entry.delivery.receipt]))
                break
            except KernError as error:
                logger.warning("start could not be marked", task_id=entry.request.id, error=str(error))
                await asyncio.sleep(0.5)
        if entry.lost or self._flights.get(entry.delivery.receipt) is not entry:
            self._alone = None
            self.ended(entry)
            return
        logger.info("running alone: its last worker died with it", task_id=entry.request.id, task=entry.request.task)
        self._hand_over([entry])

    # -- patience

    def overdue(self) -> bool:
        """Whether something waits longer than it should while others could run it."""
        if not self.others:
            return False
        patience = max(PATIENCE, 4 * (self._run_times.p95 or 0.0))
        before = time.monotonic() - patience
        return any(
            entry.claimed_at < before
            for entry in self._flights.in_phase(Phase.SUBMITTED, Phase.ADMITTED)
            if not entry.released
        )

    def withdraw(self) -> list[InFlight]:
        """Take back everything that has not started and whose message is still leased."""
        taken = [entry for receipt in self._pool.withdraw() if (entry := self._flights.get(receipt)) is not None]
        taken += [*self._held, *self._suspects]
        self._held.clear()
        self._suspects.clear()
        back = [entry for entry in taken if not entry.released]
        kept = [entry for entry in taken if entry.released]
        if kept:
            self._hand_over(kept)
        return back

    def hand_back_waiting(self) -> None:
        """Hand back everything that has not started."""
        entries = self.withdraw()
        if entries:
            self._give_back(entries)
