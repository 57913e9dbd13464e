"""``memory://`` keeps the contract of transports, under a clock that the tests move and under the real one."""

from collections.abc import Callable, Iterator

import pytest

from kern_testing import make
from kern_testing.clock import VirtualClock
from kern_testing.contracts.connection import Connection
from kern_testing.contracts.transport import TransportContract
from kern_testing.memory import MemoryTransport, forget, space


class MemoryContract(TransportContract):
    injects = True
    cuts = True

    def cut(self, connection: Connection) -> None:
        driver = connection.port.driver  # type: ignore[attr-defined]
        driver.space.cut(driver)

    @pytest.fixture
    def name(self) -> Iterator[str]:
        name = make.unique("space")
        yield name
        forget(name)

    @pytest.fixture
    def make_transport(self, name: str) -> Callable[[], MemoryTransport]:
        return lambda: MemoryTransport(f"memory://{name}")

    def inject(self, connection: Connection, queue: str, raw: bytes) -> None:
        driver = connection.port.driver  # type: ignore[attr-defined]
        driver.put_raw(queue, raw)


class TestMemoryTransport(MemoryContract):
    """Time is the machine's."""


class TestMemoryTransportInVirtualTime(MemoryContract):
    """Time is the test's."""

    @pytest.fixture
    def server_clock(self, name: str) -> VirtualClock:
        clock = VirtualClock()
        space(name).use_clock(clock)
        return clock
