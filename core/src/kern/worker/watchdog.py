"""Alive, and consuming nothing, is the worst of all: noticed, mended once, and then an end with an error.

Two ways in which a broker that is there gives nothing: it leaves a heartbeat unanswered on a connection that it keeps,
or it says that messages are ready in queues of ours while slots are free, and claims bring none. Either way the
connection is made anew, once; if that does not help, the worker ends with exit code 1, for whoever started it to start
it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from kern import log
from kern.contracts.transport import Transport
from kern.errors import KernError
from kern.worker.claiming import ConsumedQueues

logger = log.get_logger("kern.worker")

#: Seconds between two looks at a worker that has room.
LOOK_EVERY = 20.0
#: Looks in a row that find messages ready and none come, before something is done about it.
LOOKS = 3
#: Seconds after a connection was made anew in which it counts as the same trouble.
LATELY = 600.0


class Watchdog:
    """Looks whether a worker that has room gets what is ready.

    :param hungry: whether the worker takes messages at this moment, and has room for them.
    :param received: how many messages it has got so far.
    :param mend: makes the connection to the broker anew.
    :param failed: the worker cannot go on.
    """

    def __init__(
        self,
        transport: Transport,
        queues: ConsumedQueues,
        hungry: Callable[[], bool],
        received: Callable[[], int],
        mend: Callable[[], Coroutine[Any, Any, None]],
        failed: Callable[[str], None],
    ) -> None:
        self._transport = transport
        self._queues = queues
        self._hungry = hungry
        self._received = received
        self._mend = mend
        self._failed = failed
        #: Monotonic time at which the connection was made anew last.
        self._mended_at: float | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        before, looks = self._received(), 0
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._received() != before:
                before, looks = self._received(), 0
                continue
            looks = looks + 1 if self._hungry() and await self._ready() else 0
            # What has come meanwhile is seen at the next look.
            if looks >= LOOKS and self._received() == before:
                looks = 0
                await self.bark("messages are ready, slots are free, and nothing arrives")

    async def bark(self, what: str) -> None:
        """Mend the connection; if that was done lately, and nothing came of it, give up."""
        now = time.monotonic()
        if self._mended_at is not None and now - self._mended_at < LATELY:
            self._failed(what)
            return
        self._mended_at = now
        logger.error("the connection to the broker is made anew", reason=what)
        try:
            await self._mend()
        except KernError as error:
            logger.error("the connection to the broker could not be made anew", error=str(error))

    async def _ready(self) -> bool:
        """Whether the broker says that something is ready for us; one that does not answer says nothing."""
        try:
            reply = asyncio.wrap_future(self._transport.depth(self._queues.active()))
            return any(depth.ready for depth in await asyncio.wait_for(reply, LOOK_EVERY))
        except (KernError, TimeoutError):
            return False
