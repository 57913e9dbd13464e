"""From blocking drivers to ports: one thread a driver, which owns its connection."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from kern.contracts import blocking
from kern.contracts.blocking import ThreadedResultStore, ThreadedTransport, threaded, threaded_store
from kern.contracts.port import Down, TransportEvent, Up, Woken
from kern.contracts.transport import Claim, Owner
from kern.errors import TransportError
from kern.outcome import Document
from kern_testing.make import claim_of, publication, unique
from kern_testing.memory import MemoryResultStore, MemoryTransport, forget, space
from kern_testing.waiting import eventually

SECONDS = 10


class Driver(MemoryTransport):
    """A driver that a test can hold up and break."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.threads: set[int] = set()
        self.opened = 0
        self.go_on = threading.Event()
        self.busy = threading.Event()
        self.open_errors: list[Exception] = []
        self.descriptor_errors: list[Exception] = []
        self.blind = False
        self.collected: list[float] = []

    def open(self, *args: Any) -> None:
        self.threads.add(threading.get_ident())
        if self.open_errors:
            raise self.open_errors.pop(0)
        super().open(*args)
        self.opened += 1

    def wake_fd(self) -> int | None:
        if self.descriptor_errors:
            raise self.descriptor_errors.pop(0)
        return None if self.blind else super().wake_fd()

    def collect(self) -> Iterable[TransportEvent]:
        self.collected.append(time.monotonic())
        return super().collect()

    def wait(self) -> str:
        self.threads.add(threading.get_ident())
        self.busy.set()
        assert self.go_on.wait(SECONDS)
        return "waited"

    def fail(self, error: Exception) -> None:
        raise error


@pytest.fixture
def server() -> Iterator[str]:
    name = unique("blocking")
    yield name
    forget(name)


@pytest.fixture
def driver(server: str) -> Driver:
    return Driver(f"memory://{server}")


@pytest.fixture
def events() -> list[TransportEvent]:
    return []


@pytest.fixture
def port(driver: Driver, events: list[TransportEvent]) -> Iterator[ThreadedTransport]:
    made = ThreadedTransport(driver)
    made.start(Owner("me"), events.append).result(SECONDS)
    yield made
    driver.go_on.set()
    made.stop().result(SECONDS)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class TestLife:
    def test_what_is_never_started_leaves_nothing_open(self, server: str) -> None:
        before = descriptors()
        ports = [threaded(Driver(f"memory://{server}")) for _ in range(20)]
        stores = [threaded_store(MemoryResultStore(f"memory://{server}")) for _ in range(20)]
        assert descriptors() == before
        for port in (*ports, *stores):
            port.stop().result(SECONDS)

    def test_started_and_stopped_again_and_again_nothing_is_left(self, server: str) -> None:
        before, threads = descriptors(), threading.active_count()
        for _ in range(50):
            port = ThreadedTransport(Driver(f"memory://{server}"))
            port.start(Owner("me"), lambda _event: None).result(SECONDS)
            port.stop().result(SECONDS)
            port.stop().result(SECONDS)
        eventually(lambda: (descriptors(), threading.active_count()) == (before, threads), "all is closed")

    def test_one_that_cannot_connect_says_so_and_is_spent(self, driver: Driver) -> None:
        before = descriptors()
        driver.open_errors = [TransportError("wrong password", retryable=False)]
        port = ThreadedTransport(driver)
        with pytest.raises(TransportError, match=r"wrong password"):
            port.start(Owner("me"), lambda _event: None).result(SECONDS)
        with pytest.raises(TransportError, match=r"is closed") as caught:
            port.queues().result(SECONDS)
        assert not caught.value.retryable
        port.stop().result(SECONDS)
        eventually(lambda: descriptors() == before, "all is closed")

    def test_all_of_a_driver_happens_on_one_thread(self, driver: Driver, port: ThreadedTransport) -> None:
        driver.go_on.set()
        for _ in range(5):
            port.call(driver.wait).result(SECONDS)
        assert len(driver.threads) == 1
        assert threading.get_ident() not in driver.threads

    def test_stopping_finishes_what_was_asked_before_and_refuses_what_comes_after(
        self, driver: Driver, port: ThreadedTransport
    ) -> None:
        first, second = port.call(driver.wait), port.queues()
        assert driver.busy.wait(SECONDS)
        stopped = port.stop()
        after = port.queues()
        driver.go_on.set()
        assert first.result(SECONDS) == "waited"
        assert second.result(SECONDS) == []
        stopped.result(SECONDS)
        with pytest.raises(TransportError, match=r"is closed"):
            after.result(SECONDS)

    def test_nobody_who_asks_meanwhile_waits_for_ever(self, server: str) -> None:
        for _ in range(20):
            port = ThreadedTransport(Driver(f"memory://{server}"))
            port.start(Owner("me"), lambda _event: None).result(SECONDS)
            replies: list[Any] = []
            asking = threading.Event()

            def ask(port: ThreadedTransport = port, replies: Any = replies, asking: Any = asking) -> None:
                for _ in range(200):
                    replies.append(port.queues())
                    asking.set()

            thread = threading.Thread(target=ask)
            thread.start()
            assert asking.wait(SECONDS)
            port.stop()
            thread.join(SECONDS)
            for reply in replies:
                assert reply.exception(SECONDS) is None or "is closed" in str(reply.exception())

    def test_a_port_is_left_as_it_is(self, port: ThreadedTransport) -> None:
        assert threaded(port) is port
        store = threaded_store(MemoryResultStore("memory://x"))
        assert isinstance(store, ThreadedResultStore)
        assert threaded_store(store) is store


class TestCommands:
    def test_one_that_is_cancelled_before_it_began_is_not_run(
        self, driver: Driver, port: ThreadedTransport, server: str
    ) -> None:
        port.call(driver.wait)
        assert driver.busy.wait(SECONDS)
        late = port.publish([publication("q")])
        assert late.cancel()
        driver.go_on.set()
        with pytest.raises(CancelledError):
            late.result(SECONDS)
        assert port.depth(["q"]).result(SECONDS)[0].ready == 0

    def test_one_that_has_begun_cannot_be_cancelled(self, driver: Driver, port: ThreadedTransport) -> None:
        begun = port.call(driver.wait)
        assert driver.busy.wait(SECONDS)
        assert not begun.cancel()
        driver.go_on.set()
        assert begun.result(SECONDS) == "waited"

    def test_an_error_is_its_own_and_the_connection_stays(
        self, driver: Driver, port: ThreadedTransport, events: list[TransportEvent]
    ) -> None:
        for error in (ValueError("odd"), TransportError("refused", retryable=False)):
            with pytest.raises(type(error)):
                port.call(driver.fail, error).result(SECONDS)
        assert port.queues().result(SECONDS) == []
        assert (driver.opened, events) == (1, [])


class TestReconnecting:
    @pytest.fixture(autouse=True)
    def _quickly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(blocking, "BACKOFF", (0.005, 2.0, 0.05))

    def test_a_lost_connection_is_told_and_made_again(
        self, driver: Driver, port: ThreadedTransport, events: list[TransportEvent], caplog: pytest.LogCaptureFixture
    ) -> None:
        driver.open_errors = [TransportError("not yet"), OSError("still not")]
        with pytest.raises(TransportError, match=r"gone"):
            port.call(driver.fail, TransportError("gone")).result(SECONDS)
        assert port.queues().result(SECONDS) == [], "what is asked meanwhile waits"
        assert driver.opened == 2
        assert [type(event) for event in events] == [Down, Up]
        assert "connection lost" in caplog.text

    def test_what_waits_meanwhile_can_be_given_up(self, driver: Driver, port: ThreadedTransport) -> None:
        with space(driver.space.name).outage():
            port.call(driver.fail, TransportError("gone"))
            waiting = port.queues()
            assert waiting.cancel()
        assert port.queues().result(SECONDS) == []

    def test_it_can_be_stopped_meanwhile(self, driver: Driver, port: ThreadedTransport) -> None:
        with space(driver.space.name).outage():
            port.call(driver.fail, TransportError("gone"))
            waiting = port.queues()
            port.stop().result(SECONDS)
            with pytest.raises(TransportError, match=r"is closed"):
                waiting.result(SECONDS)

    def test_a_descriptor_that_is_no_good_any_more_is_a_lost_connection(
        self, driver: Driver, port: ThreadedTransport, events: list[TransportEvent]
    ) -> None:
        driver.descriptor_errors = [ValueError("closed behind our back")]
        port.claim(claim_of("q")).result(SECONDS)
        eventually(lambda: any(isinstance(event, Up) for event in events), "it is connected again")
        assert port.queues().result(SECONDS) == []

    def test_a_connection_that_breaks_while_it_listens_is_noticed(
        self, driver: Driver, port: ThreadedTransport, events: list[TransportEvent]
    ) -> None:
        port.claim(claim_of("q")).result(SECONDS)
        driver.space.cut(driver)
        eventually(lambda: [type(event) for event in events if not isinstance(event, Woken)] == [Down, Up], "both told")


class TestListening:
    def woken(self, events: list[TransportEvent]) -> Callable[[], bool]:
        return lambda: any(isinstance(event, Woken) for event in events)

    @pytest.mark.parametrize("blind", [False, True])
    def test_what_happens_unasked_comes_by_descriptor_or_by_looking(
        self, driver: Driver, port: ThreadedTransport, events: list[TransportEvent], server: str, blind: bool
    ) -> None:
        driver.blind = blind
        port.claim(Claim(queues={"q": 1}, limit=1)).result(SECONDS)
        other = ThreadedTransport(Driver(f"memory://{server}"))
        other.start(Owner("other"), lambda _event: None).result(SECONDS)
        other.publish([publication("q")]).result(SECONDS)
        eventually(self.woken(events), "it was woken")
        other.stop().result(SECONDS)

    def test_one_that_only_publishes_never_looks(self, driver: Driver, port: ThreadedTransport) -> None:
        driver.blind = True
        port.publish([publication("q")]).result(SECONDS)
        port.queues().result(SECONDS)
        assert driver.collected == []

    def test_looking_becomes_rarer_while_nothing_happens(self, driver: Driver, port: ThreadedTransport) -> None:
        driver.blind = True
        port.claim(claim_of("q")).result(SECONDS)
        eventually(lambda: len(driver.collected) >= 12, "it looks")
        pauses = [later - earlier for earlier, later in zip(driver.collected, driver.collected[1:], strict=False)]
        assert sum(pauses[-3:]) > sum(pauses[:3])

    def test_errors_of_looking_end_nothing(
        self, driver: Driver, port: ThreadedTransport, events: list[TransportEvent], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blocking, "BACKOFF", (0.005, 2.0, 0.05))
        driver.blind = True
        errors = [ZeroDivisionError("bug")]
        collect = driver.collect

        def broken() -> Iterable[TransportEvent]:
            if errors:
                raise errors.pop()
            return collect()

        monkeypatch.setattr(driver, "collect", broken)
        port.claim(claim_of("q")).result(SECONDS)
        eventually(lambda: any(isinstance(event, Up) for event in events), "it is connected again")


class TestStore:
    def test_final_documents_of_watched_ids_are_reported_once(self, server: str) -> None:
        from kern_testing.make import document

        reported: list[str] = []

        def report(documents: Collection[Document]) -> None:
            reported.extend(each.task_id for each in documents)

        store = threaded_store(MemoryResultStore(f"memory://{server}"))
        store.start(report).result(SECONDS)
        ids = ["early", "late", "unwatched"]

        def write(task_id: str) -> None:
            plans = store.plan([document(store.document_form, task_id)], [()])
            store.write([plan for plan in plans if plan is not None]).result(SECONDS)

        write("early")
        store.watch(ids).result(SECONDS)
        store.unwatch(["unwatched"]).result(SECONDS)
        for task_id in ("late", "unwatched"):
            write(task_id)
        eventually(lambda: sorted(reported) == ["early", "late"], "both are reported")
        store.stop().result(SECONDS)
