"""Keeping leases alive, and taking up those of workers that died."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from kern import log
from kern.contracts.transport import Transport
from kern.errors import KernError
from kern.worker.replies import awaited
from kern.worker.state import FlightTable, InFlight, Phase

logger = log.get_logger("kern.worker")

#: Seconds that a broker may leave a heartbeat unanswered, on a connection that it keeps, before something is done.
STALLED = 60.0


class LeaseKeeper:
    """Renews what is held with each heartbeat, reports what is lost, and hands back what dead workers held.

    :param on_lost: told of each entry whose lease is somebody else's now.
    :param on_stalled: told that the broker has not answered for :data:`STALLED` seconds, each time that is so.
    """

    def __init__(
        self,
        transport: Transport,
        flights: FlightTable,
        on_lost: Callable[[InFlight], None],
        on_stalled: Callable[[], None],
        lease_seconds: float,
        heartbeat: float,
    ) -> None:
        self._transport = transport
        self._flights = flights
        self._on_lost = on_lost
        self._on_stalled = on_stalled
        self._lease_seconds = lease_seconds
        self._heartbeat = heartbeat
        self.connected = True

    async def run(self) -> None:
        """Beat until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._heartbeat)
            began = loop.time()
            beat = loop.create_task(self.beat(), name="heartbeat")
            try:
                while not beat.done():
                    await asyncio.wait([beat], timeout=self._heartbeat)
                    if not self.connected:
                        began = loop.time()  # the driver knows, and is at work
                    elif not beat.done() and self._complain(loop.time() - began):
                        began = loop.time()
            finally:
                beat.cancel()
            beat.result()

    def _complain(self, silence: float) -> bool:
        """Whether it has been for too long."""
        logger.warning("the broker has not answered the heartbeat", seconds=round(silence, 1))
        if silence > STALLED:
            self._on_stalled()
            return True
        return False

    async def beat(self) -> None:
        """Renew once, then hand back what dead workers held."""
        try:
            lost = await awaited(self._transport.renew(self._flights.leased(), self._lease_seconds))
            self.lost(lost)
            recovered = await awaited(self._transport.recover())
        except KernError as error:
            logger.warning("heartbeat failed", error=str(error))
        else:
            if recovered:
                logger.warning("messages of dead workers handed back", messages=recovered)

    def lost(self, receipts: Iterable[str]) -> None:
        """These leases are somebody else's now."""
        for receipt in receipts:
            entry = self._flights.get(receipt)
            # What is being written is told by the answer to its settlement.
            if entry is None or entry.lost or entry.phase is Phase.ENDED:
                continue
            entry.lost = True
            logger.warning("lease lost: somebody else may run this task too", task_id=entry.task_id, task=entry.task)
            self._on_lost(entry)
