"""Requests on their way into the pool, and how long they may wait there."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from kern import log, seams
from kern.contracts.pool import Pool
from kern.contracts.transport import Transport
from kern.worker.chores import Chores, until_answered
from kern.worker.state import FlightTable, InFlight, Phase, RunTimes

logger = log.get_logger("kern.worker")

#: A lease that has not started after so many seconds, or four times its prediction, is handed back while others could
#: run it.
PATIENCE = 0.1

GiveBack = Callable[[Sequence[InFlight]], None]


class Dispatcher:
    """Hands requests to the pool.

    A request under suspicion (its last worker died with it) runs alone: it is held until nothing else runs, its start
    is marked on the server first, and nothing else is handed over until it has ended. So a death then is its own.

    :param give_back: takes what is not to be run here after all.
    :param others: asked when something has waited for too long: whether another live worker could run it.
    """

    def __init__(
        self,
        pool: Pool,
        transport: Transport,
        flights: FlightTable,
        run_times: RunTimes,
        chores: Chores,
        give_back: GiveBack,
        others: Callable[[], bool],
    ) -> None:
        self._pool = pool
        self._transport = transport
        self._flights = flights
        self._run_times = run_times
        self._chores = chores
        self._give_back = give_back
        self._others = others
        self._held: deque[InFlight] = deque()
        self._suspects: deque[InFlight] = deque()
        self._alone: InFlight | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def exclusive(self) -> bool:
        """Whether a request runs alone, or waits to."""
        return self._alone is not None or bool(self._suspects)

    def submit(self, entries: Sequence[InFlight]) -> None:
        """Hand over admitted requests, or hold them while a suspect runs alone."""
        if self._closed:
            self._give_back(entries)
            return
        ready = []
        for entry in entries:
            if entry.delivery.suspect and not entry.released:
                self._suspects.append(entry)
            elif self.exclusive:
                self._held.append(entry)
            else:
                ready.append(entry)
        self._hand_over(ready)
        self._next_suspect()
        self._watch()

    def ended(self, entry: InFlight) -> None:
        """A request has left the pool, or will never get there."""
        if entry is self._alone:
            self._alone = None
        if self._suspects:
            self._next_suspect()
        if self._held and not self.exclusive:
            held = list(self._held)
            self._held.clear()
            self._hand_over(held)

    def close(self) -> None:
        """Hand back everything that has not started, and from now on everything that comes."""
        self._closed = True
        if self._patience is not None:
            self._patience.cancel()
        self.take_back(self._flights.in_phase(Phase.ADMITTED, Phase.SUBMITTED))

    def take_back(self, entries: Sequence[InFlight]) -> None:
        """Hand back those of *entries* that have not started."""
        waiting = {*self._held, *self._suspects}
        withdrawn = set(self._pool.withdraw([entry.receipt for entry in entries if entry.phase is Phase.SUBMITTED]))
        back = [entry for entry in entries if entry in waiting or entry.receipt in withdrawn]
        gone = set(back)
        self._held = deque(entry for entry in self._held if entry not in gone)
        self._suspects = deque(entry for entry in self._suspects if entry not in gone)
        if back:
            self._give_back(back)
        for entry in back:
            self.ended(entry)

    def forget(self, entry: InFlight) -> bool:
        """The lease of *entry* is lost: whether it could be kept from starting."""
        if entry.phase is Phase.SUBMITTED:
            kept = bool(self._pool.withdraw([entry.receipt]))
        else:
            kept = entry.phase is Phase.ADMITTED
        if kept:
            for waiting in (self._held, self._suspects):
                if entry in waiting:
                    waiting.remove(entry)
            self.ended(entry)
        return kept

    def _hand_over(self, entries: Sequence[InFlight]) -> None:
        if not entries:
            return
        for entry in entries:
            self._flights.move(entry, Phase.SUBMITTED)
        self._pool.submit([entry.request for entry in entries if entry.request is not None])
        seams.reached("submitted")

    # -- suspects

    def _next_suspect(self) -> None:
        if self._alone is not None or not self._suspects or self._closed:
            return
        if any(not entry.abandoned for entry in self._flights.in_phase(Phase.SUBMITTED, Phase.STARTED)):
            return
        self._alone = self._suspects.popleft()
        self._chores.spawn("mark a suspect", self._run_alone(self._alone))

    async def _run_alone(self, entry: InFlight) -> None:
        await until_answered(lambda: self._transport.mark_started([entry.receipt]), "start could not be marked")
        if self._closed:
            self._give_back([entry])
        elif not self._flights.holds(entry) or entry.lost:
            self.ended(entry)
        else:
            logger.info("running alone: its last worker died with it", task_id=entry.task_id, task=entry.task)
            self._hand_over([entry])

    # -- patience

    def _watch(self) -> None:
        """Look again once what waits now should have started; there is no timer while nothing waits."""
        if self._patience is None and self._flights.waiting:
            self._patience = asyncio.get_running_loop().call_later(self._patience_now(), self._look)

    def _patience_now(self) -> float:
        return max(PATIENCE, 4 * (self._run_times.p95 or 0.0))

    def _look(self) -> None:
        self._patience = None
        before = time.monotonic() - self._patience_now()
        overdue = [
            entry
            for entry in self._flights.in_phase(Phase.SUBMITTED, Phase.ADMITTED)
            if entry.claimed_at <= before and not entry.released
        ]
        if overdue and self._others():
            self.take_back(overdue)
        self._watch()
