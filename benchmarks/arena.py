"""Where a measurement takes place: a fresh database, a folder of tallies, a worker, clients in their own processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import counter

ROOT = Path(__file__).resolve().parent.parent
#: Seconds after which a measurement has failed.
PATIENCE = 120.0


class Arena:
    """One measurement of one contestant.

    :param contestant: name of its module in :mod:`benchmarks.contestants`.
    :param python: the interpreter of its environment.
    :param broker: URL of its broker.
    :param backend: URL of its result store.
    :param scale: share of the full amount of work it is given.
    """

    def __init__(
        self, contestant: str, python: str, broker: str, backend: str, folder: Path, scale: float = 1.0
    ) -> None:
        self._contestant = contestant
        self._commands: dict[int, list[str]] = {}
        self._scale = scale
        self._python = python
        self._folder = folder
        self._environment = {
            **os.environ,
            "BENCH_BROKER": broker,
            "BENCH_BACKEND": backend,
            "BENCH_FOLDER": str(folder),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "C_FORCE_ROOT": "1",
        }

    def scaled(self, number: int) -> int:
        """How much work this contestant is given: one that is slower by orders of magnitude gets less."""
        return max(20, int(number * self._scale))

    def client(self, operation: str, number: int) -> dict[str, Any]:
        """Have a client process do *operation* and report."""
        done = subprocess.run(
            [self._python, "-m", "benchmarks.client", self._contestant, operation, str(number)],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if done.returncode:
            raise RuntimeError(f"{self._contestant}: {operation} failed:\n{done.stderr[-2000:]}")
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer

    @contextlib.contextmanager
    def worker(self, processes: int = 1) -> Iterator[subprocess.Popen[bytes]]:
        """A worker, ended by its process id."""
        command = self.worker_command(processes)
        log = (self._folder / "worker.log").open("wb")
        process = subprocess.Popen(
            command, cwd=self._folder, env=self._environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        except TimeoutError as error:
            tail = (self._folder / "worker.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self._contestant}: {error}; its worker said:\n{tail}") from error
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            log.close()

    def worker_command(self, processes: int = 1) -> list[str]:
        """How the contestant starts its worker; asked once, in its own environment."""
        if processes not in self._commands:
            self._commands[processes] = self._ask_for_command(processes)
        return self._commands[processes]

    def _ask_for_command(self, processes: int) -> list[str]:
        source = (
            "import json, importlib; "
            f"print(json.dumps(importlib.import_module('benchmarks.contestants.{self._contestant}')"
            f".worker_command({processes})))"
        )
        said = subprocess.run(
            [self._python, "-c", source], env=self._environment, check=True, capture_output=True, text=True
        )
        command: list[str] = json.loads(said.stdout)
        return command

    def executed(self, number: int) -> float:
        """The time at which *number* executions were counted."""
        return counter.wait_for(self._folder, number, PATIENCE)


@contextlib.contextmanager
def arena(contestant: str, python: str, database: str | None, scale: float = 1.0) -> Iterator[Arena]:
    """An arena over SQLite, or over the empty database at the URL *database*."""
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{contestant}-"))
    try:
        broker, backend = _urls(contestant, database, folder)
        yield Arena(contestant, python, broker, backend, folder, scale)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _urls(contestant: str, database: str | None, folder: Path) -> tuple[str, str]:
    """Both contestants keep messages and results in one database."""
    url = database or f"sqlite:///{folder / 'bench.db'}"
    if contestant == "kern":
        return url, f"db+{url}"
    if database is not None:
        url = url.replace("postgresql://", "postgresql+psycopg://")
    return f"sqla+{url}", f"db+{url}"


def settle_down() -> None:
    """Let the machine come to rest between two measurements."""
    time.sleep(0.3)
