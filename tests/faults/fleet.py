"""Real worker processes, what they are given to do, and the ledger of all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from kern import Kern
from kern.contracts.transport import Quarantined, QueueDepth, TransportCapability
from kern.message import Message, Publication
from kern_testing import crash
from kern_testing.ledger import END, START, Ledger, Report, read
from kern_testing.waiting import eventually
from tools.workspace import ROOT

QUEUE = "celery"
#: Seconds a lease lasts, and between two heartbeats: short, for the tests wait for their ends.
LEASE, HEARTBEAT = 1.2, 0.2
#: Seconds after a death within which its work has begun anew: the lease, the next heartbeat, and a busy machine.
RECOVERY = LEASE + 5.0
#: Seconds a question to the broker may take.
PATIENCE = 20.0

#: The tasks. They keep the ledger, and wait for files, so that a test says when they go on.
PROJECT = '''
"""What the workers of a fault scenario run."""

import os
import signal
import time
from pathlib import Path

from kern import Kern, hookimpl
from kern_testing.ledger import record, running

PLACE = Path(os.environ["KERN_TEST_PLACE"])
LEDGER = PLACE / "executions.jsonl"
WORKERS = PLACE / "workers.jsonl"

app = Kern("faults")


class Bookkeeper:
    @hookimpl
    def kern_worker_stopping(self, worker, signal):
        record(WORKERS, "stopping", worker.id, signal=signal)

    @hookimpl
    def kern_worker_stopped(self, worker):
        record(WORKERS, "stopped", worker.id, fenced=worker.flow.fenced if worker.flow else 0)


app.register(Bookkeeper())


@app.task(bind=True)
def step(self, seconds=0.0):
    with running(LEDGER, self.request.id):
        time.sleep(seconds)
    return self.request.id


@app.task(bind=True)
def hold(self, until):
    """Until the file *until* is there; can be interrupted."""
    with running(LEDGER, self.request.id):
        while not (PLACE / until).exists():
            time.sleep(0.01)
    return self.request.id


@app.task(bind=True)
def echo(self, text):
    with running(LEDGER, self.request.id):
        return len(text)


@app.task(bind=True)
def kill(self):
    record(LEDGER, "start", self.request.id)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True)
def unserialisable(self):
    with running(LEDGER, self.request.id):
        return lambda: None


class Awkward(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, first, *, second):
        super().__init__(f"{first} and {second}")


@app.task(bind=True)
def awkward(self):
    with running(LEDGER, self.request.id):
        pass
    raise Awkward("this", second=object())


@app.task(bind=True, rate_limit="20/s")
def rationed(self):
    with running(LEDGER, self.request.id):
        pass


@app.task(ignore_result=True)
def count():
    """One byte for each run: for more runs than a synced line each."""
    descriptor = os.open(PLACE / "count", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b".")
    os.close(descriptor)


@app.task(bind=True)
def measure(self):
    """Resident memory of the worker, in bytes."""
    with running(LEDGER, self.request.id):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
'''

#: A task that a part of the workers knows.
NEWER = '''
"""The project one deployment later."""

from project import LEDGER, app, running


@app.task(bind=True)
def newcomer(self):
    with running(LEDGER, self.request.id):
        return self.request.id
'''


class Process:
    """A process of kern's own: a worker, or a publisher."""

    def __init__(self, command: Sequence[str], place: Path, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def said(self) -> str:
        """What it printed."""
        return self._log.read_text("utf-8", "replace")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        """Its exit code, once it has ended.

        :raises AssertionError: it did not; says what it printed.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"process {self.pid} does not end:\n{self.said()}") from None

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()

    def died(self) -> None:
        """Wait until it has been killed.

        :raises AssertionError: it ended in another way.
        """
        code = self.wait()
        assert code == -signal.SIGKILL, f"process {self.pid} ended with {code}:\n{self.said()}"

    def end(self) -> None:
        """Whatever it is doing; for the end of a test."""
        if self.running:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(20)


class Fleet:
    """Workers and publishers of one scenario.

    :param folder: empty; for project, ledger and logs.
    :param broker: URL.
    :param results: URL of the result store; ``None``: it is the broker's database, and both are written in one step.
    :param settings: further settings of every process, by name.
    """

    def __init__(self, folder: Path, broker: str, results: str | None = None, **settings: Any) -> None:
        self.folder = folder
        self.broker, self.results = broker, results or f"db+{broker}"
        self.settings = settings
        self.ledger = Ledger(folder)
        (folder / "project.py").write_text(PROJECT)
        (folder / "newer.py").write_text(NEWER)
        self.app = self._make_app()
        #: Ids of calls that the scenario has deleted.
        self.cancelled: list[str] = []
        self._processes: list[Process] = []

    def _make_app(self) -> Kern:
        return Kern("producer", broker_url=self.broker, result_backend=self.results, **self.settings)

    # -- processes

    def worker(
        self,
        *arguments: str,
        app: str = "project:app",
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Process:
        """Start one; it is not ready yet."""
        command = [sys.executable, "-m", "kern", "-q", "worker", "-A", app, "-P", "solo", *arguments]
        return self._start(command, settings, environment or {})

    def crashing_worker(self, seam: str, nth: int = 1, **settings: Any) -> Process:
        """A worker that kills itself the *nth* time it reaches *seam*."""
        return self.worker(environment=crash.environment(seam, nth), **settings)

    def ready(self, worker: Process) -> Process:
        """Wait until it has announced itself; from then on it takes signals."""
        eventually(lambda: worker.pid in self.present() or not worker.running, f"worker {worker.pid} is there")
        assert worker.running, worker.said()
        return worker

    def script(self, code: str, environment: Mapping[str, str] | None = None) -> Process:
        """Start a process that runs *code* with the project at hand."""
        return self._start([sys.executable, "-c", code], {}, environment or {})

    def _start(self, command: Sequence[str], settings: Mapping[str, Any], more: Mapping[str, str]) -> Process:
        merged = {"worker_lease_seconds": LEASE, "worker_heartbeat": HEARTBEAT, **self.settings, **settings}
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(self.folder))),
            "KERN_TEST_PLACE": str(self.folder),
            "KERN_BROKER_URL": self.broker,
            "KERN_RESULT_BACKEND": self.results,
            **{f"KERN_{name.upper()}": str(value) for name, value in merged.items()},
            **more,
        }
        process = Process(command, self.folder, environment, self.folder / f"process-{len(self._processes)}.log")
        self._processes.append(process)
        return process

    def stop(self, *workers: Process) -> None:
        """Ask workers to stop, and see that they end in order."""
        for worker in workers:
            worker.send(signal.SIGTERM)
        for worker in workers:
            code = worker.wait()
            assert code == 0, f"worker {worker.pid} ended with {code}:\n{worker.said()}"

    def close(self) -> None:
        """End whatever is left."""
        for process in self._processes:
            process.end()
        self.app.close()

    def complaints(self) -> str:
        """The end of what each process printed; for a failure."""
        return "\n".join(f"--- {process.pid}\n{process.said()[-3000:]}" for process in self._processes)

    # -- work

    def publish(self, task: str, *args: Any, count: int = 1, due: float | None = None, **options: Any) -> list[str]:
        """Publish *count* calls of a task of the project, or of one with its full name; their ids."""
        name = task if "." in task else f"project.{task}"
        task_ids = [str(uuid.uuid4()) for _ in range(count)]
        calls = [self.app.signature(name, args=args, task_id=task_id) for task_id in task_ids]
        with self.ledger.publishing(*task_ids, due=due):
            self.app.send_many(calls, **options)
        return task_ids

    def publish_raw(self, *messages: Message, due: float | None = None) -> None:
        """Hand messages to the broker as they are, and see that it takes them."""
        self.declare()
        publications = [Publication(message, "", QUEUE) for message in messages]
        with self.ledger.publishing(*[message.task_id for message in messages if message.task_id], due=due):
            assert self.ask(lambda port: port.publish(publications)) == [None] * len(publications)

    def ask(self, command: Callable[[Any], Any]) -> Any:
        """Give the broker one command."""
        return self.app.connection.do(command, PATIENCE)

    def declare(self) -> None:
        """Make the queue before a worker does."""
        self.ask(lambda port: port.declare([self.app.queue_spec(QUEUE)]))

    def release(self, name: str) -> None:
        """Let tasks go on that wait for the file *name*."""
        (self.folder / name).touch()

    # -- looking

    def present(self) -> set[int]:
        """Process ids of the workers that the broker knows."""
        port = self.app.connection.port(PATIENCE)
        assert TransportCapability.PRESENCE in port.capabilities
        return {presence.facts["pid"] for presence in self.ask(lambda port: port.presence())}

    def told(self, what: str) -> list[Mapping[str, Any]]:
        """What workers have noted of themselves: ``stopping`` and ``stopped``."""
        return [entry for entry in read(self.folder / "workers.jsonl") if entry["what"] == what]

    def started(self) -> list[str]:
        """Ids in the order in which they were started, each time."""
        return [entry["id"] for entry in read(self.ledger.executions) if entry["what"] == START]

    def ended(self) -> list[str]:
        """Ids in the order in which they ended, each time."""
        return [entry["id"] for entry in read(self.ledger.executions) if entry["what"] == END]

    def counted(self) -> int:
        """How often the task ``count`` has run."""
        path = self.folder / "count"
        return path.stat().st_size if path.exists() else 0

    def until_started(self, task_ids: Iterable[str], times: int = 1) -> None:
        """Wait until each has been started so many times."""
        wanted = list(task_ids)
        eventually(
            lambda: all(self.started().count(task_id) >= times for task_id in wanted),
            f"{len(wanted)} calls have been started {times} times",
            timeout=30,
        )

    def depths(self) -> list[QueueDepth]:
        """What every queue of the broker has."""
        found: list[QueueDepth] = self.ask(lambda port: port.depth(self.ask(lambda port: port.queues())))
        return found

    def quarantined(self) -> list[Quarantined]:
        found: list[Quarantined] = self.ask(lambda port: port.quarantined(limit=1000))
        return found

    def left(self) -> int:
        """Messages that somebody has still to do something about."""
        return sum(depth.ready + depth.leased + depth.delayed for depth in self.depths())

    def drain(self, timeout: float = 40.0) -> None:
        """Wait until the broker has nothing left to do."""
        try:
            eventually(lambda: self.left() == 0, "the broker is quiet", timeout=timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.depths()}\n{self.complaints()}") from error

    def report(self, healed_at: float | None = None) -> Report:
        """The account, once all is quiet."""
        processes = sum(process.running for process in self._processes)
        kept = [entry.message.task_id for entry in self.quarantined() if entry.message is not None]
        fenced = sum(entry["fenced"] for entry in self.told("stopped"))
        return self.ledger.report(
            quarantined=[task_id for task_id in kept if task_id],
            cancelled=self.cancelled,
            depths=self.depths(),
            residue={"processes": processes},
            fenced=fenced,
            healed_at=healed_at,
        )


@attrs.define
class Fleets:
    """Makes fleets, and ends them."""

    folder: Path
    made: list[Fleet] = attrs.field(factory=list)

    def __call__(
        self, broker: str | None = None, results: str | None = None, apart: bool = False, **settings: Any
    ) -> Fleet:
        """A fleet on *broker*; on an SQLite file of its own when none is given.

        :param apart: results are in another file, and never written in one step with the broker's.
        """
        folder = self.folder / f"fleet-{len(self.made)}"
        folder.mkdir()
        if apart:
            results = f"db+sqlite:///{folder / 'results.db'}"
        fleet = Fleet(folder, broker or f"sqlite:///{folder / 'broker.db'}", results, **settings)
        self.made.append(fleet)
        return fleet


#: Closes the books of a fleet: the fixture ``balance``.
Balance = Callable[..., Report]
