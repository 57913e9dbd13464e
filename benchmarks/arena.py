"""Where a measurement takes place: a folder of tallies, workers, clients in their own processes, and the server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from benchmarks import counter
from benchmarks.lineup import ROOT, Contestant
from benchmarks.resp import Connection
from benchmarks.servers import Place, Servers

#: Seconds after which a measurement has failed.
PATIENCE = 120.0
#: Seconds a worker is given to end by itself. What counts has been measured by then.
_GRACE = 3.0
#: The name of a worker, replaced where there are several.
_NODE = "bench-worker"


class Arena:
    """One measurement of one contestant at one place.

    :param server: the name of the server, by which its share of the work is looked up.
    """

    def __init__(self, contestant: Contestant, server: str, place: Place, folder: Path) -> None:
        self.folder = folder
        self.place = place
        self._contestant = contestant
        self._share = contestant.share.get(server, 1.0)
        self._commands: dict[tuple[int, str], list[str]] = {}
        self._workers: list[subprocess.Popen[bytes]] = []
        #: What its processes are given.
        self.environment = {
            **os.environ,
            "BENCH_BROKER": place.broker,
            "BENCH_BACKEND": place.backend,
            "BENCH_FOLDER": str(folder),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "C_FORCE_ROOT": "1",
        }

    def scaled(self, number: int) -> int:
        """How much work this contestant is given: one that is slower by orders of magnitude gets less."""
        return max(20, int(number * self._share))

    # -- clients

    def client(self, operation: str, number: int) -> dict[str, Any]:
        """Have a client process do *operation* and report."""
        with self.clients(operation, number) as process:
            said, complained = process.communicate(timeout=PATIENCE)
        if process.returncode:
            raise RuntimeError(f"{operation} failed:\n{complained[-2000:]}")
        answer: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
        return answer

    @contextlib.contextmanager
    def clients(self, operation: str, number: int) -> Iterator[subprocess.Popen[str]]:
        """A client process that does *operation* meanwhile; ended with the context."""
        process = subprocess.Popen(
            [str(self._contestant.python), "-m", "benchmarks.client", self._contestant.module, operation, str(number)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    # -- workers

    @contextlib.contextmanager
    def worker(self, processes: int = 2) -> Iterator[subprocess.Popen[bytes]]:
        """A worker of so many processes, told to end when the context does."""
        with self._log() as log:
            process = self._start(self.worker_command(processes), log)
            try:
                yield process
            finally:
                self._workers.remove(process)
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(_GRACE)
                except subprocess.TimeoutExpired:
                    _kill(process)

    @contextlib.contextmanager
    def crowd(self, workers: int) -> Iterator[None]:
        """So many workers that run one task at a time in their only process, all of them ready; killed at the end."""
        command = self.worker_command(1, "solo")
        with self._log() as log:
            try:
                for number in range(workers):
                    self._start([word.replace(_NODE, f"worker{number}") for word in command], log)
                self.ready(workers)
                yield
            finally:
                while self._workers:
                    _kill(self._workers.pop())

    def worker_command(self, processes: int = 2, pool: str = "prefork") -> list[str]:
        """How the contestant starts its worker; asked once, in its own environment."""
        if (processes, pool) not in self._commands:
            source = (
                "import json, importlib; "
                f"module = importlib.import_module('benchmarks.contestants.{self._contestant.module}'); "
                f"print(json.dumps(module.worker_command({processes}, {_NODE!r}, {pool!r})))"
            )
            said = subprocess.run(
                [str(self._contestant.python), "-c", source], env=self.environment, capture_output=True, text=True
            )
            if said.returncode:
                raise RuntimeError(f"no command for its worker:\n{said.stderr[-2000:]}")
            self._commands[processes, pool] = json.loads(said.stdout)
        return self._commands[processes, pool]

    def _start(self, command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
        )
        self._workers.append(process)
        return process

    @contextlib.contextmanager
    def _log(self) -> Iterator[IO[bytes]]:
        """Where workers write; its end is told with what goes wrong."""
        path = self.folder / "worker.log"
        try:
            with path.open("wb") as log:
                yield log
        except (TimeoutError, RuntimeError) as error:
            raise RuntimeError(f"{error}; the worker said:\n{path.read_text(errors='replace')[-2000:]}") from error

    # -- what there is to see

    def executed(self, number: int) -> float:
        """Wait for *number* executions; the time at which they were counted."""
        return counter.wait_for(self._while_workers_live(counter.count), number, PATIENCE, "executions")

    def ready(self, workers: int = 1) -> None:
        """Wait until so many workers take messages."""
        counter.wait_for(self._while_workers_live(counter.count_ready), workers, PATIENCE, "workers ready", pause=0.01)

    def _while_workers_live(self, count: Callable[[Path], int]) -> Callable[[], int]:
        def counted() -> int:
            for worker in self._workers:
                if (code := worker.poll()) is not None:
                    raise RuntimeError(f"a worker has ended with {code}")
            return count(self.folder)

        return counted

    @cached_property
    def redis(self) -> Connection:
        """A connection of our own to the server, where it is Redis."""
        return Connection(self.place.broker)

    def close(self) -> None:
        if "redis" in self.__dict__:
            self.redis.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """And all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def arena(contestant: Contestant, server: str, servers: Servers) -> Iterator[Arena]:
    """An arena with an empty place on *server*."""
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{contestant.module}-"))
    try:
        with servers.place(server, contestant, folder) as place:
            made = Arena(contestant, server, place, folder)
            try:
                yield made
            finally:
                made.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settle_down() -> None:
    """Let the machine come to rest between two measurements."""
    time.sleep(0.3)
