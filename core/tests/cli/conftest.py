"""The command line as a test runs it: in this process with :class:`Cli`, and as a process of its own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kern import Kern
from kern.cli.root import root
from kern.contracts.transport import Claim, Settlement
from kern.outcome import Outcome, Quarantine
from kern_testing.waiting import eventually

#: An application as users write it.
TASKS = """
from kern import Kern

app = Kern("proj")


@app.task
def add(x, y):
    return x + y


@app.task
def fail(message):
    raise ValueError(message)
"""


class Cli:
    """Runs commands in this process, on a broker and result store of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._runner = CliRunner()

    def __call__(self, *arguments: str, input: str | None = None, broker: bool = True) -> Result:
        """One invocation; with *broker*, on this test's."""
        given = ["-b", self.url, "--result-backend", self.url] if broker else []
        result = self._runner.invoke(root, [*given, *arguments], input=input, prog_name="kern")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def json(self, *arguments: str) -> Any:
        """What a successful command prints; all of it is one document."""
        result = self(*arguments)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


class Process:
    """``python -m kern …`` as a process of its own."""

    def __init__(self, arguments: tuple[str, ...], directory: Path, environment: Mapping[str, str]) -> None:
        self._out = directory / f"out-{id(self)}"
        self._err = directory / f"err-{id(self)}"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "kern", *arguments],
                cwd=directory,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def printed(self, text: str) -> None:
        """Wait until it has printed *text*, to either stream."""
        eventually(
            lambda: text in self.out + self.err or self.popen.poll() is not None, f"{text!r} is printed", timeout=30
        )
        assert text in self.out + self.err, f"it ended with {self.popen.returncode}:\n{self.out}{self.err}"

    def ended(self, timeout: float = 30) -> int:
        """Wait for its end; the exit code."""
        return self.popen.wait(timeout)


Start = Callable[..., Process]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory, no settings from outside, and nothing left behind in this process."""
    for name in [name for name in os.environ if name.startswith(("KERN_", "CELERY_")) and "KERN_TEST" not in name]:
        monkeypatch.delenv(name)
    for name in ("KERN_PLUGINS", "KERN_BROKER_URL", "KERN_RESULT_BACKEND"):
        # Set and deleted, so that what a command sets is undone.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules = set(sys.modules)
    logger = logging.getLogger("kern")
    before = logger.level, logger.propagate, [*logger.handlers]
    yield
    logger.level, logger.propagate, logger.handlers[:] = before
    logger.manager._clear_cache()
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A broker and result store in this process."""
    return f"memory://{tmp_path.name}"


@pytest.fixture
def cli(url: str) -> Cli:
    return Cli(url)


@pytest.fixture
def app(url: str) -> Iterator[Kern]:
    """An application on the broker of :func:`cli`."""
    with Kern("test", broker=url, backend=url) as app:
        yield app


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The module ``proj`` with an application, in the working directory."""
    path = tmp_path / "proj.py"
    path.write_text(TASKS)
    return path


@pytest.fixture
def start(tmp_path: Path, sqlite_url: str) -> Iterator[Start]:
    """Starts processes on a database of this test's, and ends those that are left."""
    started: list[Process] = []

    def begin(*arguments: str, **environment: str) -> Process:
        defaults = {"KERN_BROKER_URL": sqlite_url, "KERN_RESULT_BACKEND": sqlite_url}
        process = Process(arguments, tmp_path, {**defaults, **environment})
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.wait()


@pytest.fixture
def quarantined(app: Kern) -> Callable[..., str]:
    """Calls a task and puts the message into quarantine; answers the call's id."""

    def put(name: str = "proj.gone", args: tuple[Any, ...] = (1,), reason: str = "unknown-task", **options: Any) -> str:
        result = app.send_task(name, args, **options)
        queue = options.get("queue", "celery")
        claimed = app.connection.do(lambda port: port.claim(Claim({queue: 10}, 10)), 5)
        (delivery,) = claimed.deliveries
        outcome = Outcome(
            delivery.receipt, result.id, name, "PENDING", Quarantine(reason, {"error": "nobody knows it", "pid": 42})
        )
        (settled,) = app.connection.do(lambda port: port.settle([Settlement(outcome)]), 5)
        assert settled.error is None
        return result.id

    return put
