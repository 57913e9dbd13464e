"""A worker's connection lives on its event loop: no thread stands between the two."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from kern.contracts.port import Down, TransportEvent, Up, Woken
from kern.contracts.transport import Owner
from kern.outcome import GiveBack
from kern_broker_redis.transport import FAREWELL, RedisTransport
from kern_testing import make
from kern_testing.servers import Redis

from .conftest import Ask

#: Seconds after which a test has failed.
PATIENCE = 20.0


class Party:
    """A transport on the running loop, and what it said."""

    def __init__(self, url: str) -> None:
        self.port = RedisTransport(url)
        self.events: list[TransportEvent] = []
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def start(self) -> Party:
        await asyncio.wrap_future(self.port.start(Owner(make.unique("owner"), "host", "worker"), self._take))
        return self

    def _take(self, event: TransportEvent) -> None:
        self._loop.call_soon_threadsafe(self._note, event)

    def _note(self, event: TransportEvent) -> None:
        self.events.append(event)
        self._changed.set()

    async def told(self, kind: type[TransportEvent]) -> None:
        """Wait until an event of this kind has come."""
        while not any(isinstance(event, kind) for event in self.events):
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), PATIENCE)


def run(test: Callable[[], object]) -> None:
    asyncio.run(asyncio.wait_for(test(), PATIENCE))  # type: ignore[arg-type]


def test_everything_a_worker_does(redis_url: str) -> None:
    """Claimed, woken, settled, renewed and recovered, many commands under way at once, on one thread."""

    async def work() -> None:
        queue = make.unique("queue")
        worker = await Party(redis_url).start()
        port = worker.port
        assert (await asyncio.wrap_future(port.claim(make.claim_of(queue)))).deliveries == ()
        assert await asyncio.wrap_future(port.publish(make.publications(queue, 300))) == [None] * 300
        await worker.told(Woken)
        claims = [asyncio.wrap_future(port.claim(make.claim_of(queue, limit=30))) for _ in range(10)]
        deliveries = [delivery for claim in await asyncio.gather(*claims) for delivery in claim.deliveries]
        assert len({delivery.receipt for delivery in deliveries}) == 300
        settled, lost, back = await asyncio.gather(
            asyncio.wrap_future(port.settle([make.settlement(delivery) for delivery in deliveries[:299]])),
            asyncio.wrap_future(port.renew([deliveries[299].receipt], 30)),
            asyncio.wrap_future(port.recover()),
        )
        assert all(item.error is None for item in settled)
        assert (lost, back) == (frozenset(), 0)
        await asyncio.wrap_future(port.settle([make.settlement(deliveries[299], GiveBack())]))
        (depth,) = await asyncio.wrap_future(port.depth([queue]))
        assert (depth.ready, depth.leased) == (1, 0)
        await asyncio.wrap_future(port.stop())

    before = threading.active_count()
    run(work)
    assert threading.active_count() <= before


def test_a_connection_that_is_cut(redis_url: str, ask: Ask) -> None:
    """It is made anew beside the loop; what was asked meanwhile is answered, what was held is held."""

    async def work() -> None:
        queue = make.unique("queue")
        worker = await Party(redis_url).start()
        port = worker.port
        await asyncio.wrap_future(port.publish(make.publications(queue, 2)))
        (held, _other) = (await asyncio.wrap_future(port.claim(make.claim_of(queue)))).deliveries
        ask("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
        ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await worker.told(Down)
        renewal = asyncio.wrap_future(port.renew([held.receipt, "no such receipt"], 30))
        await worker.told(Up)
        assert await renewal == {"no such receipt"}
        worker.events.clear()
        assert (await asyncio.wrap_future(port.claim(make.claim_of(queue)))).deliveries == ()
        ask("LPUSH", queue, "news")
        await worker.told(Woken)
        await asyncio.wrap_future(port.stop())

    run(work)


def test_a_server_that_is_silent_keeps_nobody_from_stopping(redis_url: str, redis_server: Redis) -> None:
    """Who stops tells it so, and does not wait for long."""

    async def work() -> None:
        worker = await Party(redis_url).start()
        assert (await asyncio.wrap_future(worker.port.claim(make.claim_of("queue")))).deliveries == ()
        redis_server.pause()
        try:
            began = asyncio.get_running_loop().time()
            await asyncio.wrap_future(worker.port.stop())
            assert asyncio.get_running_loop().time() - began < 2 * FAREWELL
        finally:
            redis_server.resume()

    run(work)
