"""``memory://`` keeps the contract of result stores, with whole documents and with parts, and settles jointly."""

from collections.abc import Callable, Iterator

import pytest

from kern_testing import make
from kern_testing.clock import VirtualClock
from kern_testing.contracts.joint import JointSettlementContract
from kern_testing.contracts.result_store import MakeStore, ResultStoreContract
from kern_testing.memory import MemoryResultStore, MemoryTransport, forget, space


@pytest.fixture
def name() -> Iterator[str]:
    name = make.unique("space")
    yield name
    forget(name)


class TestWholeDocuments(ResultStoreContract):
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
