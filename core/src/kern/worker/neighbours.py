"""Whether another live worker could run what waits here."""

from __future__ import annotations

import time

from kern.contracts.transport import Transport, TransportCapability
from kern.errors import KernError
from kern.worker.chores import Chores
from kern.worker.claiming import ConsumedQueues
from kern.worker.replies import awaited


class Neighbours:
    """What presence says of others, looked up at most every *interval* seconds, and only when somebody asks.

    :param own_id: id of this worker's connection.
    """

    def __init__(
        self, transport: Transport, own_id: str, queues: ConsumedQueues, chores: Chores, interval: float
    ) -> None:
        self._transport = transport
        self._own_id = own_id
        self._queues = queues
        self._chores = chores
        self._interval = interval
        self._known = TransportCapability.PRESENCE in transport.capabilities
        self._looked_at: float | None = None
        self._there = False

    def consume_the_same(self) -> bool:
        """Whether, when last looked at, another live worker consumed a queue of ours."""
        now = time.monotonic()
        if self._known and (self._looked_at is None or now - self._looked_at >= self._interval):
            self._looked_at = now
            self._chores.spawn("look for neighbours", self._look())
        return self._there

    async def _look(self) -> None:
        try:
            present = await awaited(self._transport.presence())
        except KernError:
            return  # who cannot be asked is not known to be there; the heartbeat reports the connection
        ours = set(self._queues.active())
        self._there = any(other.id != self._own_id and ours.intersection(other.queues) for other in present)
