"""``memory://`` keeps the contract of result stores, with whole documents and with parts, and settles jointly."""

from collections.abc import Callable, Iterator

import pytest

from kern.errors import BackendUnavailable, ImproperlyConfigured, TransportError
from kern_testing import make
from kern_testing.clock import VirtualClock
from kern_testing.contracts.connection import StoreConnection
from kern_testing.contracts.joint import JointSettlementContract
from kern_testing.contracts.result_store import MakeStore, ResultStoreContract
from kern_testing.memory import MemoryResultStore, MemoryTransport, forget, space


@pytest.fixture
def name() -> Iterator[str]:
    name = make.unique("space")
    yield name
    forget(name)


class TestWholeDocuments(ResultStoreContract):
    cuts = True

    def cut(self, connection: StoreConnection) -> None:
        driver = connection.port.driver  # type: ignore[attr-defined]
        driver.space.cut(driver)

    @pytest.fixture
    def make_store(self, name: str) -> MakeStore:
        return lambda result_expires=None: MemoryResultStore(f"memory://{name}", result_expires=result_expires)


class TestDocumentsInPartsInVirtualTime(ResultStoreContract):
    @pytest.fixture
    def make_store(self, name: str) -> MakeStore:
        url = f"memory://{name}?form=parts"
        return lambda result_expires=None: MemoryResultStore(url, result_expires=result_expires)

    @pytest.fixture
    def server_clock(self, name: str) -> VirtualClock:
        clock = VirtualClock()
        space(name).use_clock(clock)
        return clock


class TestJointSettlement(JointSettlementContract):
    @pytest.fixture
    def make_transport(self, name: str) -> Callable[[], MemoryTransport]:
        return lambda: MemoryTransport(f"memory://{name}")

    @pytest.fixture
    def make_store(self, name: str) -> Callable[[], MemoryResultStore]:
        return lambda: MemoryResultStore(f"memory://{name}")


def test_an_outage_is_said_and_ends(name: str) -> None:
    """While a test has taken the server away, no command pretends; afterwards all is as it was."""
    store, transport = MemoryResultStore(f"memory://{name}"), MemoryTransport(f"memory://{name}")
    with space(name).outage("maintenance"):
        with pytest.raises(BackendUnavailable, match="maintenance"):
            store.open()
        with pytest.raises(TransportError, match="maintenance"):
            transport.publish([])
    store.open()
    store.close()
    assert transport.publish([]) == []


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("memory://x?form=square", "'form' is whole or parts"),
        ("memory://x?forn=parts", "unknown option 'forn' .known: form."),
        ("redis://x", "is not a memory:// URL"),
    ],
)
def test_a_wrong_url_is_refused(url: str, complaint: str) -> None:
    """With what is wrong about it."""
    with pytest.raises(ImproperlyConfigured, match=complaint):
        MemoryResultStore(url)
