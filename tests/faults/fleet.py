"""Real worker processes, what they are given to do, and the ledger of all of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from tests.faults.brokers import QUEUE, Broker
from tests.faults.proxy import Proxy

from kern import Kern
from kern.contracts.transport import Quarantined, QueueDepth, TransportCapability
from kern.message import Message, Publication
from kern_testing import crash
from kern_testing.ledger import END, START, Ledger, Report, read
from kern_testing.waiting import eventually
from tools.workspace import ROOT

#: Seconds a lease lasts, and between two heartbeats: short, for the tests wait for their ends.
LEASE, HEARTBEAT = 1.2, 0.2
#: The same where no lease is to end, however busy the machine.
LONG_LEASE, LONG_HEARTBEAT = 10.0, 0.5
#: Seconds after a death within which its work has begun anew: the lease, the next heartbeat, and a busy machine.
RECOVERY = LEASE + 5.0
#: Seconds a question to the broker may take.
PATIENCE = 20.0
#: How often the broker has to be found empty, one time after the other.
LOOKS = 4
#: Seconds within which whatever belongs to a dead worker is gone, too.
ORPHANED = 5.0

#: What workers run: the tasks keep the ledger, and wait for files, so that a test says when they go on.
PROJECTS = Path(__file__).parent / "projects"
#: Of /proc: jiffies a second, bytes a page.
TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


class Process:
    """A process of kern's own: a worker, or a publisher."""

    def __init__(self, command: Sequence[str], place: Path, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=place,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a group of its own, to be signalled as one
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

    def family(self) -> dict[int, int]:
        """Process ids of it and all that came of it and still live, each with its parent."""
        parents = {pid: int(fields[1]) for pid, fields in _processes().items()}
        found = {self.pid: parents.get(self.pid, 0)} if self.running else {}
        while more := {pid: parent for pid, parent in parents.items() if parent in found and pid not in found}:
            found |= more
        return found

    def send_all(self, number: signal.Signals) -> None:
        """To it and to all that came of it; the main process first."""
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def memory(self) -> int:
        """Resident bytes of the main process."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE

    def cpu(self) -> float:
        """Seconds of processor time that it and all that came of it have used, as far as they still live."""
        processes = _processes()
        return (
            sum(int(processes[pid][11]) + int(processes[pid][12]) for pid in self.family() if pid in processes) / TICKS
        )

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
            self.send_all(signal.SIGKILL)
            self._process.wait(20)


def _processes() -> dict[int, list[str]]:
    """Fields of ``/proc/<pid>/stat`` after the name, of every process that is no zombie."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in parentheses may contain anything.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    found[int(entry.name)] = fields
    return found


class Fleet:
    """Workers and publishers of one scenario.

    :param folder: empty; for project, ledger and logs.
    :param broker: empty.
    :param results: URL of the result store; ``None``: it is on the broker's server, and both are written in one step.
    :param settings: further settings of every process, by name.
    """

    def __init__(self, folder: Path, broker: Broker, results: str | None = None, **settings: Any) -> None:
        self.folder = folder
        self.broker, self.results = broker, results or broker.results
        #: How many tasks one worker runs at once.
        self.slots = broker.slots
        self.settings = settings
        self.ledger = Ledger(folder)
        for module in PROJECTS.glob("*.py"):
            shutil.copy(module, folder)
        self._proxies: list[Proxy] = []
        self._apps: list[Kern] = []
        self.app = self.client()
        #: Ids of calls that the scenario has deleted.
        self.cancelled: list[str] = []
        self._processes: list[Process] = []

    def client(self, through: Proxy | None = None, **settings: Any) -> Kern:
        """An application in this process, which only publishes and reads results.

        :param through: the way it takes to broker and result store.
        """
        broker, results = self._urls(through)
        app = Kern("producer", broker_url=broker, result_backend=results, **{**self.settings, **settings})
        self._apps.append(app)
        return app

    def proxy(self) -> Proxy:
        """A new way to the broker; it carries everything."""
        assert self.broker.server is not None
        proxy = Proxy("127.0.0.1", self.broker.server.port).start()
        self._proxies.append(proxy)
        return proxy

    def _urls(self, through: Proxy | None) -> tuple[str, str]:
        if through is None:
            return self.broker.url, self.results
        return through.instead_of(self.broker.url), through.instead_of(self.results)

    def hold_leases(self) -> None:
        """For what follows leases last long: none ends for the machine's being busy."""
        self.settings |= {"worker_lease_seconds": LONG_LEASE, "worker_heartbeat": LONG_HEARTBEAT}

    # -- processes

    def worker(
        self,
        *arguments: str,
        app: str = "project:app",
        environment: Mapping[str, str] | None = None,
        through: Proxy | None = None,
        **settings: Any,
    ) -> Process:
        """Start one; it is not ready yet."""
        command = [sys.executable, "-m", "kern", "-q", "worker", "-A", app, *self.broker.pool, *arguments]
        return self._start(command, settings, environment or {}, through)

    def crashing_worker(self, seam: str, nth: int = 1, **settings: Any) -> Process:
        """A worker of which a process kills itself the *nth* time it reaches *seam*; one process, and once."""
        return self.worker(environment=crash.environment(seam, nth, once=self.folder / "crashed"), **settings)

    def ready(self, worker: Process) -> Process:
        """Wait until it has announced itself; from then on it takes signals."""
        eventually(lambda: worker.pid in self.present() or not worker.running, f"worker {worker.pid} is there")
        assert worker.running, worker.said()
        return worker

    def script(
        self, code: str, environment: Mapping[str, str] | None = None, through: Proxy | None = None, **settings: Any
    ) -> Process:
        """Start a process that runs *code* with the project at hand."""
        return self._start([sys.executable, "-c", code], settings, environment or {}, through)

    def _start(
        self, command: Sequence[str], settings: Mapping[str, Any], more: Mapping[str, str], through: Proxy | None
    ) -> Process:
        broker, results = self._urls(through)
        merged = {"worker_lease_seconds": LEASE, "worker_heartbeat": HEARTBEAT, **self.settings, **settings}
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(self.folder), os.environ.get("PYTHONPATH", ""))),
            "KERN_TEST_PLACE": str(self.folder),
            "KERN_BROKER_URL": broker,
            "KERN_RESULT_BACKEND": results,
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
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Those that are on their way through a proxy may wait for it.
        for proxy in self._proxies:
            proxy.heal()
        for app in self._apps:
            app.close()
        for proxy in self._proxies:
            proxy.stop()

    def alive(self) -> set[int]:
        """Process ids of all that were ever started here and still live, whoever their parent is by now."""
        found = set()
        for pid in _processes():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/cwd") == str(self.folder):
                    found.add(pid)
        return found

    def until_dead(self, pid: int) -> None:
        """Wait until a process that has been killed is no more, or no more than a zombie."""
        for process in self._processes:
            if process.pid == pid:
                process.wait()
        eventually(lambda: pid not in _processes(), f"process {pid} is dead")

    def until_gone(self, timeout: float = ORPHANED) -> None:
        """Wait until no process lives that was ever started here."""
        eventually(lambda: not self.alive(), "no orphan is left", timeout=timeout)

    def complaints(self) -> str:
        """The end of what each process printed; for a failure."""
        return "\n".join(f"--- {process.pid}\n{process.said()[-3000:]}" for process in self._processes)

    # -- work

    def publish(
        self,
        task: str,
        *args: Any,
        count: int = 1,
        due: float | None = None,
        task_id: str | None = None,
        app: Kern | None = None,
        **options: Any,
    ) -> list[str]:
        """Publish *count* calls of a task of the project, or of one with its full name; their ids.

        :param task_id: the one call's; else a new one each.
        :param app: who publishes; else the fleet's own.
        """
        name = task if "." in task else f"project.{task}"
        app = app or self.app
        task_ids = [task_id] if task_id else [str(uuid.uuid4()) for _ in range(count)]
        calls = [app.signature(name, args=args, task_id=each) for each in task_ids]
        with self.ledger.publishing(*task_ids, due=due):
            app.send_many(calls, **options)
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

    def where(self, task_id: str) -> int:
        """Process id of the latest run of a call."""
        return [int(entry["pid"]) for entry in read(self.ledger.executions) if entry["id"] == task_id][-1]

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

    def until_ended(self, calls: int) -> None:
        """Wait until so many different calls have run to their end."""
        eventually(lambda: len(set(self.ended())) >= calls, f"{calls} calls have ended", timeout=60)

    def depths(self) -> list[QueueDepth]:
        """What every queue of the broker has."""
        found: list[QueueDepth] = self.ask(lambda port: port.depth(self.ask(lambda port: port.queues())))
        return found

    def quarantined(self) -> list[Quarantined]:
        found: list[Quarantined] = self.ask(lambda port: port.quarantined(limit=10_000))
        return found

    def left(self) -> int:
        """Messages that somebody has still to do something about."""
        return sum(depth.ready + depth.leased + depth.delayed for depth in self.depths())

    def drain(self, timeout: float = 40.0) -> None:
        """Wait until the broker has nothing left to do.

        Counting is not one step with every broker, so what moves meanwhile may be missed; but not several times.
        """
        try:
            eventually(lambda: all(self.left() == 0 for _ in range(LOOKS)), "the broker is quiet", timeout=timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.depths()}\n{self.complaints()}") from error

    def report(self, healed_at: float | None = None) -> Report:
        """The account, once all is quiet."""
        with contextlib.suppress(AssertionError):
            self.until_gone()
        kept = [entry.message.task_id for entry in self.quarantined() if entry.message is not None]
        fenced = sum(entry["fenced"] for entry in self.told("stopped"))
        return self.ledger.report(
            quarantined=[task_id for task_id in kept if task_id],
            cancelled=self.cancelled,
            depths=self.depths(),
            residue={"processes": len(self.alive()), **self.broker.leftovers()},
            fenced=fenced,
            healed_at=healed_at,
        )


@attrs.define
class Fleets:
    """Makes fleets on one broker, and ends them."""

    folder: Path
    broker: Broker
    made: list[Fleet] = attrs.field(factory=list)

    def __call__(self, results: str | None = None, apart: bool = False, **settings: Any) -> Fleet:
        """A fleet; there is one for each broker.

        :param results: URL of the result store, if not the broker's server.
        :param apart: results are in a file, and never written in one step with the broker's.
        """
        folder = self.folder / f"fleet-{len(self.made)}"
        folder.mkdir()
        if apart:
            results = f"db+sqlite:///{folder / 'results.db'}"
        fleet = Fleet(folder, self.broker, results, **settings)
        self.made.append(fleet)
        return fleet


#: Closes the books of a fleet: the fixture ``balance``.
Balance = Callable[..., Report]
