"""Keeping leases alive, and taking up those of workers that died."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kern import log
from kern.contracts.transport import Transport
from kern.errors import KernError
from kern.worker.state import FlightTable, InFlight, Phase

logger = log.get_logger("kern.worker")


class LeaseKeeper:
    """Renews what is held with each heartbeat, and reports what is lost."""

    def __init__(
        self,
        transport: Transport,
        flights: FlightTable,
        on_lost: Callable[[InFlight], None],
        lease_seconds: float,
        heartbeat: float,
    ) -> None:
        self._transport = transport
        self._flights = flights
        self._on_lost = on_lost
        self._lease_seconds = lease_seconds
        self._heartbeat = heartbeat
        self._now = asyncio.Event()

    def renew_now(self) -> None:
        """Do not wait for the next heartbeat: the connection is new."""
        self._now.set()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            try:
                await asyncio.wait_for(self._now.wait(), self._heartbeat)
            except TimeoutError:
                pass
            self._now.clear()
            await self.beat()

    async def beat(self) -> None:
        """Renew once, then hand back what dead workers held."""
        try:
            lost = await asyncio.wrap_future(self._transport.renew(self._flights.leased(), self._lease_seconds))
            self.lost(lost)
            recovered = await asyncio.wrap_future(self._transport.recover())
            if recovered:
                logger.warning("messages of dead workers handed back", messages=recovered)
        except KernError as error:
            logger.warning("heartbeat failed", error=str(error))

    def lost(self, receipts: frozenset[str]) -> None:
        """These leases are somebody else's now."""
        for receipt in receipts:
            entry = self._flights.get(receipt)
            if entry is None or entry.lost or entry.phase is Phase.ENDED:
                continue
            entry.lost = True
            logger.warning(
                "lease lost: somebody else may run this task too", task_id=entry.request.id, task=entry.request.task
            )
            self._on_lost(entry)
