"""What lives in a worker: started in order, ticked, stopped in reverse; none of it takes the worker with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from kern.contracts.service import Service
from kern.errors import ImproperlyConfigured
from kern.hookspecs import hookimpl
from kern_testing.waiting import eventually


class Noted(Service):
    """Says what happens to it."""

    def __init__(self, name: str, said: list[str], interval: float | None = None) -> None:
        self.name, self.said, self.interval = name, said, interval
        self.fails: dict[str, BaseException] = {}
        self.worker: Any = None

    async def _note(self, what: str) -> None:
        self.said.append(f"{what} {self.name}")
        if what in self.fails:
            raise self.fails[what]

    async def start(self, worker: Any) -> None:
        self.worker = worker
        await self._note("start")

    async def tick(self) -> None:
        await self._note("tick")

    async def stop(self) -> None:
        await self._note("stop")


class Offering:
    """A plugin with services."""

    def __init__(self, *services: Service) -> None:
        self.services = services

    @hookimpl
    def kern_services(self, app: Any) -> Sequence[Service]:
        return self.services


def test_services_live_as_long_as_the_worker(bench: Any) -> None:
    """Started in order before the first claim, stopped in reverse after the last write."""
    said: list[str] = []
    first, second = Noted("first", said), Noted("second", said, interval=0.01)
    bench.app.register(Offering(first, second))
    running = bench.worker()
    assert said[:2] == ["start first", "start second"]
    assert first.worker is running.worker
    eventually(lambda: said.count("tick second") >= 3)
    assert "tick first" not in said
    running.stop()
    assert said[-2:] == ["stop second", "stop first"]


def test_an_error_of_a_service_is_its_own(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One that cannot start is left out, one that fails in its tick is asked again; tasks run, the log names them."""
    said: list[str] = []
    unable, stumbling = Noted("unable", said, interval=0.01), Noted("stumbling", said, interval=0.01)
    unable.fails["start"] = RuntimeError("no")
    stumbling.fails["tick"] = stumbling.fails["stop"] = RuntimeError("oops")
    bench.app.register(Offering(unable, stumbling, Noted("fine", said)))

    @bench.app.task
    def one() -> int:
        return 1

    running = bench.worker()
    assert one.delay().get(timeout=5) == 1
    eventually(lambda: said.count("tick stumbling") >= 3, "it is ticked again after an error")
    running.stop()
    assert running.worker.exit_code == 0
    assert said[-2:] == ["stop fine", "stop stumbling"]
    assert "tick unable" not in said
    assert "stop unable" not in said
    assert "service='unable'" in caplog.text
    assert "service='stumbling'" in caplog.text


def test_a_service_may_refuse_its_configuration(bench: Any) -> None:
    """A worker that does not do what was asked of it does not start; what had started is stopped."""
    said: list[str] = []
    picky = Noted("picky", said)
    picky.fails["start"] = ImproperlyConfigured("beat_schedule: 'every' is missing")
    bench.app.register(Offering(Noted("first", said), picky))
    with pytest.raises(ImproperlyConfigured, match="beat_schedule"):
        bench.worker()
    assert said == ["start first", "start picky", "stop first"]
    bench.workers.clear()


def test_a_service_that_does_not_stop_does_not_keep_the_worker(
    bench: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It has its time, and no more."""
    monkeypatch.setattr("kern.worker.services.FAREWELL", 0.1)

    class Clinging(Service):
        name = "clinging"

        async def start(self, worker: Any) -> None: ...

        async def stop(self) -> None:
            await asyncio.sleep(60)

    bench.app.register(Offering(Clinging()))
    bench.worker().stop()
    assert "service='clinging'" in caplog.text
