"""A connection that is there and gives nothing is made anew; a broker that stays away is followed by the next."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kern import Kern
from kern.contracts.blocking import threaded
from kern.contracts.port import Down, TransportEvent, Up
from kern.contracts.transport import Claimed, Owner
from kern.errors import TransportError
from kern.queues import QueueSpec
from kern.worker.link import BrokerLink
from kern_testing import make
from kern_testing.memory import MemoryTransport, forget, space
from kern_testing.waiting import eventually, throughout
from kern_testing.worker import WorkerThread

SHORT = {"worker_heartbeat": 0.1, "worker_lease_seconds": 2.0, "worker_soft_shutdown_timeout": 0.5}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a minute takes a moment here."""
    monkeypatch.setattr("kern.worker.leases.STALLED", 0.3)
    monkeypatch.setattr("kern.worker.watchdog.LOOK_EVERY", 0.05)
    monkeypatch.setattr("kern.worker.link.FAILOVER_AFTER", 0.2)
    monkeypatch.setattr("kern.worker.worker.WRITE_FAREWELL", 0.2)


@pytest.mark.parametrize("config", [SHORT])
def test_a_broker_that_is_silent_is_connected_to_anew(bench: Any) -> None:
    """Its driver is stuck in a command; another takes its place, and what waited for answers asks again."""

    @bench.app.task
    def one() -> int:
        return 1

    running = bench.worker(lambda b: b.transport.gates["renew"].shut())
    eventually(lambda: bench.transport.gates["renew"].waiting, "the heartbeat is not answered")
    assert one.delay().get(timeout=10) == 1
    assert running.alive
    (present,) = bench.client.presence()
    assert present.queues == ("celery",)
    bench.transport.gates["renew"].open()


@pytest.mark.parametrize("config", [SHORT])
def test_a_broker_that_stays_silent_ends_the_worker(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alive and consuming nothing is the worst of all: it exits with an error, to be started again."""
    go_on = threading.Event()
    renew = MemoryTransport.renew

    def silent(self: MemoryTransport, *arguments: Any) -> frozenset[str]:
        assert go_on.wait(30)
        return renew(self, *arguments)

    monkeypatch.setattr(MemoryTransport, "renew", silent)
    running = bench.worker()
    eventually(lambda: not running.alive, "the worker has ended")
    assert running.worker.exit_code == 1
    bench.workers.clear()
    go_on.set()


def test_messages_that_are_ready_and_do_not_arrive_are_fetched_anew(
    bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Slots are free, the broker has messages, and claims are answered with nothing."""

    @bench.app.task
    def one() -> int:
        return 1

    def starve(b: Any) -> None:
        b.transport.claim = lambda claim: Claimed()

    running = bench.worker(starve)
    assert one.delay().get(timeout=10) == 1
    assert running.alive
    assert "messages are ready, slots are free, and nothing arrives" in caplog.text


def test_messages_that_never_arrive_end_the_worker(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new connection did not help: exit code 1."""

    @bench.app.task
    def one() -> int:
        return 1

    one.delay()
    monkeypatch.setattr(MemoryTransport, "claim", lambda self, claim: Claimed())
    running = bench.worker(lambda b: setattr(b.transport, "claim", lambda claim: Claimed()))
    eventually(lambda: not running.alive, "the worker has ended")
    assert running.worker.exit_code == 1
    assert bench.depth().ready == 1
    bench.workers.clear()


def test_a_worker_that_is_busy_or_has_nothing_to_do_is_left_alone(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Messages wait while its slot is taken; nothing comes while nothing is there."""
    begun, go_on = threading.Event(), threading.Event()

    @bench.app.task
    def long() -> None:
        begun.set()
        go_on.wait(20)

    bench.worker()
    throughout(lambda: "made anew" not in caplog.text, 0.4, "an idle worker is not disturbed")
    bench.app.send_many([long.s() for _ in range(3)])
    assert begun.wait(5)
    throughout(lambda: "made anew" not in caplog.text, 0.4, "nor is a busy one")
    go_on.set()
    bench.empty()


@pytest.mark.parametrize("config", [{**SHORT, "broker_connection_retry": False}])
def test_a_worker_that_is_not_to_try_again_ends_with_its_connection(
    bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """With an error; what it held is handed to others when its leases end."""
    running = bench.worker()
    with space(bench.app.broker_url.removeprefix("memory://")).outage():
        eventually(lambda: not running.alive, "the worker has ended")
    assert running.worker.exit_code == 1
    assert "broker_connection_retry is off" in caplog.text
    bench.workers.clear()


@pytest.fixture
def brokers() -> Iterator[tuple[str, str]]:
    names = make.unique("first"), make.unique("second")
    yield names
    for name in names:
        forget(name)


@pytest.fixture
def two(brokers: tuple[str, str]) -> Iterator[Kern]:
    """An application with two brokers, each on its own."""
    urls = [f"memory://{name}" for name in brokers]
    with Kern("two", broker=urls, backend=f"memory://{brokers[1]}", plugins="testing", **SHORT) as app:
        yield app


def test_a_worker_goes_on_with_the_next_broker(two: Kern, brokers: tuple[str, str]) -> None:
    """Its broker stays away: it consumes the next one's queues, and says so to who asks there."""
    ran: list[str] = []

    @two.task
    def note(where: str) -> None:
        ran.append(where)

    running = WorkerThread(two).start()
    try:
        note.delay("first")
        eventually(lambda: ran == ["first"])
        with space(brokers[0]).outage():
            second = MemoryTransport(f"memory://{brokers[1]}")
            eventually(lambda: [worker.queues for worker in second.presence()] == [("celery",)], "it is present there")
            note.delay("second")
            eventually(lambda: ran == ["first", "second"], "who publishes goes there, too")
        assert running.alive
    finally:
        running.stop()


def test_what_ran_when_its_broker_went_away_is_not_lost(two: Kern, brokers: tuple[str, str]) -> None:
    """It cannot be settled elsewhere: its lease ends on the first broker, and whoever consumes there runs it again."""
    begun, go_on = threading.Event(), threading.Event()

    @two.task
    def long() -> None:
        begun.set()
        go_on.wait(20)

    running = WorkerThread(two).start()
    try:
        long.delay()
        assert begun.wait(5)
        first, second = (MemoryTransport(f"memory://{name}") for name in brokers)
        with space(brokers[0]).outage():
            eventually(second.presence, "the worker has gone on")
            go_on.set()
            eventually(lambda: running.worker.held == 0, "it holds nothing any more")
        eventually(first.recover, "the lease has ended")
        (depth,) = first.depth(["celery"])
        assert (depth.ready, depth.leased) == (1, 0)
    finally:
        running.stop()


def test_a_broker_that_comes_back_soon_is_kept(two: Kern, brokers: tuple[str, str], monkeypatch: Any) -> None:
    """A restart is no reason to move."""
    monkeypatch.setattr("kern.worker.link.FAILOVER_AFTER", 20.0)
    ran: list[int] = []

    @two.task
    def note() -> None:
        ran.append(1)

    running = WorkerThread(two).start()
    try:
        first = MemoryTransport(f"memory://{brokers[0]}")
        eventually(first.presence)
        with space(brokers[0]).outage():
            eventually(lambda: running.worker.why_not_ready, "the worker has noticed")
        eventually(lambda: running.worker.why_not_ready is None, "it is connected again")
        assert first.publish([make.publication("celery", task=note.name)]) == [None]
        eventually(lambda: ran)
        assert MemoryTransport(f"memory://{brokers[1]}").presence() == []
    finally:
        running.stop()


def test_who_publishes_goes_on_with_the_next_broker_and_stays_there(two: Kern, brokers: tuple[str, str]) -> None:
    """As soon as the connection is known to be down; nothing is sent twice."""
    note = two.task(name="note")(lambda: None)
    first, second = (MemoryTransport(f"memory://{name}") for name in brokers)
    note.delay()
    with space(brokers[0]).outage():
        for _ in range(3):
            note.delay()
    note.delay()
    assert [transport.depth(["celery"])[0].ready for transport in (first, second)] == [1, 4]


# -- the link itself


class Driver(MemoryTransport):
    """Its claims wait until they may answer."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.go_on = threading.Event()

    def claim(self, claim: Any) -> Claimed:
        assert self.go_on.wait(20)
        return super().claim(claim)


def test_whoever_waits_for_an_answer_is_told_that_there_will_be_none(brokers: tuple[str, str]) -> None:
    """And the next driver is told what the first one was."""
    heard: list[TransportEvent] = []
    drivers: list[Driver] = []

    def driver(attempt: int) -> Any:
        drivers.append(Driver(f"memory://{brokers[attempt % 2]}"))
        return threaded(drivers[-1])

    async def scenario() -> None:
        link = BrokerLink(driver, Owner("w", "w@here", "worker"), heard.append)
        assert await asyncio.wrap_future(link.stop()) is None, "stopping is safe before a start"
        port = driver(0)
        await asyncio.wrap_future(link.begin(port))
        link.use(port)
        await asyncio.wrap_future(link.declare([QueueSpec("q", exchange="e", routing_key="k")]))
        await asyncio.wrap_future(link.subscribe(["topic"]))
        await asyncio.wrap_future(link.announce(["q"], {"pid": 1}))
        claim = link.claim(make.claim_of("q"))
        await link.replace(next_url=True)
        with pytest.raises(TransportError, match="given up"):
            await asyncio.wrap_future(claim)
        assert link.server == space(brokers[1]).server
        assert [present.id for present in await asyncio.wrap_future(link.presence())] == ["w"]
        call = make.publication("k", exchange="e")
        assert await asyncio.wrap_future(link.publish([call])) == [None]
        assert [m.task_id for m in await asyncio.wrap_future(link.peek("q"))] == [call.task_id]
        await asyncio.wrap_future(link.broadcast("topic", b"hello"))
        await asyncio.to_thread(
            eventually, lambda: any(getattr(event, "payload", None) == b"hello" for event in heard), "it is subscribed"
        )
        drivers[0].go_on.set()
        await asyncio.wrap_future(link.stop())

    asyncio.run(scenario())
    assert [type(event) for event in heard if isinstance(event, Up | Down)] == [Up]


def test_a_driver_that_cannot_start_takes_nobodys_place(brokers: tuple[str, str]) -> None:
    async def scenario() -> None:
        link = BrokerLink(
            lambda attempt: threaded(MemoryTransport(f"memory://{brokers[attempt % 2]}")),
            Owner("w"),
            lambda event: None,
        )
        port = link._make(0)
        await asyncio.wrap_future(link.begin(port))
        link.use(port)
        with space(brokers[1]).outage("maintenance"), pytest.raises(TransportError, match="maintenance"):
            await link.replace(next_url=True)
        assert link.url == f"memory://{brokers[0]}"
        assert await asyncio.wrap_future(link.queues()) == []
        await asyncio.wrap_future(link.stop())

    asyncio.run(scenario())
