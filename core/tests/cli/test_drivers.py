"""What is installed is shown without leaving anything behind."""

from __future__ import annotations

from typing import Any

from kern import Kern, hookimpl
from kern.cli.drivers import declared
from kern.contracts.pool import PoolOptions
from kern.worker.solo import SoloPool


class Stopped(SoloPool):
    """Notes that it was told to end."""

    stops = 0

    def stop(self, timeout: float | None = None) -> Any:
        type(self).stops += 1
        return super().stop(timeout)


class Plugin:
    @hookimpl
    def kern_pools(self) -> dict[str, Any]:
        return {"stopped": lambda app, options: Stopped(app, options or PoolOptions())}


def test_a_pool_that_is_made_to_be_asked_is_ended() -> None:
    """A pool may have processes from the moment it is made: who only wants to know what it can do, leaves none."""
    app = Kern("it", broker="memory://", plugins="testing")
    app.register(Plugin())
    found = {name: driver for driver in declared(app, "pool") for name in driver.names}
    assert found["stopped"].error is None
    assert found["stopped"].capabilities == tuple(sorted(capability.value for capability in SoloPool.capabilities))
    assert Stopped.stops == 1
