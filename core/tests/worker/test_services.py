"""What lives in a worker: started in order, ticked, stopped in reverse; none of it takes the worker with it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
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
            await asyncio.Event().wait()

    bench.app.register(Offering(Clinging()))
    bench.worker().stop()
    assert "service='clinging'" in caplog.text


PLUGIN = """
from kern import hookimpl
from kern.contracts.service import Service

KERN_API = 1
greetings = {}


@hookimpl
def kern_options(command):
    import click

    return [click.Option(["--greet"], help="Whom to greet.")] if command == "worker" else []


@hookimpl
def kern_command_options(app, command, options):
    greetings[app] = options.get("greet")


class Greeter(Service):
    name = "greeter"

    def __init__(self, greeting):
        self.greeting = greeting

    async def start(self, worker):
        print("hello", self.greeting, "from", worker.hostname, flush=True)
        worker.stop()

    async def stop(self):
        print("bye", self.greeting, flush=True)


@hookimpl
def kern_services(app):
    return [Greeter(greetings[app])] if greetings.get(app) else []
"""


def test_options_of_a_plugin_reach_its_service(tmp_path: Path) -> None:
    """What the user gives to ``kern worker`` behind a plugin's option is there when its services are made."""
    (tmp_path / "greeter.py").write_text(PLUGIN)
    distribution = tmp_path / "greeter-1.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: greeter\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text("[kern.plugins]\ngreeter = greeter\n")
    (tmp_path / "proj.py").write_text("from kern import Kern\n\napp = Kern('proj', broker='memory://proj')\n")
    done = subprocess.run(
        [sys.executable, "-m", "kern", "-q", "worker", "-A", "proj", "-P", "solo", "-n", "w@h", "--greet", "you"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["hello you from w@h", "bye you"]
