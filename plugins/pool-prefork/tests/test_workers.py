"""Whole workers: ``kern worker -P prefork`` with a broker in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kern import Kern
from kern_testing import crash
from kern_testing.waiting import PATIENCE, eventually

PROJECT = """
import logging, os, sys, threading, time
from kern import Kern

app = Kern("project", broker="sqlite:///{folder}/kern.db", backend="sqlite:///{folder}/kern.db")
loads = open("{folder}/loads", "a")
loads.write(f"{{os.getpid()}}\\n")
loads.close()

@app.task(name="echo")
def echo(value):
    return value

@app.task(name="pid")
def pid():
    return os.getpid()

@app.task(name="setting")
def setting(name):
    return app.conf[name]

@app.task(name="log")
def say(what):
    logging.getLogger("kern.task").warning(what)

@app.task(name="wait")
def wait(gate):
    open(f"{{gate}}-{{os.getpid()}}", "w").close()
    while not os.path.exists(gate):
        time.sleep(0.002)
    return os.getpid()

@app.task(name="hold-gil")
def hold_gil(gate):
    open(f"{{gate}}-{{os.getpid()}}", "w").close()
    sum(range(10**15))
"""

#: What error reporters and tracers do when they are imported, only more of it: threads that hold a lock nearly always.
THREADS = """
lock = threading.Lock()

def hold():
    while True:
        with lock:
            time.sleep(0.001)
        time.sleep(0.0001)

for number in range(50):
    threading.Thread(target=hold, name=f"reporter-{number}", daemon=True).start()

@app.task(name="lock")
def use_lock():
    with lock:
        return os.getpid()
"""


class WorkerProcess:
    """``kern worker`` of the project in *folder*, in a session of its own."""

    def __init__(self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._log = folder / "log"
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kern", "-A", "project", "worker", "--loglevel", "INFO", *arguments],
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def ready(self) -> WorkerProcess:
        eventually(lambda: "ready; Ctrl+C stops" in self.said, "the worker is ready")
        return self

    @property
    def said(self) -> str:
        return self._log.read_text()

    def family(self) -> dict[int, int]:
        """All that came of it and lives, each with its parent."""
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    state, parent = (entry / "stat").read_text().rpartition(") ")[2].split()[:2]
                except OSError:
                    continue
                if state not in "ZX":
                    parents[int(entry.name)] = int(parent)
        found = {self.pid: 0}
        while more := {pid: parent for pid, parent in parents.items() if parent in found and pid not in found}:
            found |= more
        return found

    def zygote(self) -> int:
        """The one child that has children."""
        family = self.family()
        (found,) = {parent for parent in family.values() if family.get(parent) == self.pid}
        return found

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def send_group(self, number: int) -> None:
        os.killpg(self.pid, number)

    def wait(self) -> int:
        return self._process.wait(PATIENCE)

    def end(self) -> None:
        """Whatever becomes of the test, nothing of it is left."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait(PATIENCE)


Start = Callable[..., WorkerProcess]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project.py").write_text(PROJECT.format(folder=tmp_path))
    return tmp_path


@pytest.fixture
def client(project: Path) -> Iterator[Kern]:
    url = f"sqlite:///{project}/kern.db"
    app = Kern("client", broker=url, backend=url)
    yield app
    app.close()


@pytest.fixture
def start(project: Path) -> Iterator[Start]:
    started: list[WorkerProcess] = []

    def start(*arguments: str, **options: Any) -> WorkerProcess:
        started.append(WorkerProcess(project, *arguments, **options))
        return started[-1]

    yield start
    for worker in started:
        worker.end()


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def running_in(gate: Path, count: int = 1) -> list[int]:
    """Processes in which tasks wait at the gate, once there are *count*."""

    def found() -> list[int]:
        pids = [int(path.name.rpartition("-")[2]) for path in gate.parent.glob(f"{gate.name}-*")]
        return pids if len(pids) >= count else []

    return eventually(found, f"{count} tasks run")


def test_it_is_the_pool_of_workers_that_ask_for_none(start: Start, client: Kern) -> None:
    """Where it is installed; it runs what is in the queue, and ends when told to."""
    worker = start("-c", "2").ready()
    assert "2 (prefork)" in worker.said
    results = [client.send_task("echo", (number,)) for number in range(50)]
    assert [result.get(timeout=PATIENCE) for result in results] == list(range(50))
    assert client.send_task("pid").get(timeout=PATIENCE) != worker.pid
    client.send_task("log", ("heard from a fork",)).get(timeout=PATIENCE)
    eventually(lambda: "heard from a fork" in worker.said, "its log is the worker's")
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0


@pytest.mark.parametrize("seam", ["running", "ran"])
def test_a_process_that_dies_at_a_seam_costs_its_task_one_attempt(
    start: Start, client: Kern, tmp_path: Path, seam: str
) -> None:
    """Crash points work in the processes of the pool; the task runs again, all others once."""
    once = tmp_path / "once"
    start("-c", "2", environment=crash.environment(seam, nth=3, once=once)).ready()
    results = [client.send_task("echo", (number,)) for number in range(20)]
    assert [result.get(timeout=PATIENCE) for result in results] == list(range(20))
    assert once.exists()


def test_nothing_outlives_a_killed_worker(start: Start, client: Kern, tmp_path: Path) -> None:
    """Neither idle processes, nor busy ones, nor one whose task never comes back from C."""
    worker = start("-c", "3").ready()
    gate = tmp_path / "gate"
    client.send_task("wait", (str(gate),))
    client.send_task("hold-gil", (str(gate),))
    running_in(gate, 2)
    family = eventually(lambda: found if len(found := worker.family()) == 5 else {}, "all are there")
    worker.send(signal.SIGKILL)
    worker.wait()
    begin = time.monotonic()
    eventually(lambda: not any(exists(pid) for pid in family), "all are gone")
    assert time.monotonic() - begin < 1.0


def test_ctrl_c_lets_tasks_finish(start: Start, client: Kern, tmp_path: Path) -> None:
    """The signal reaches the whole group; what runs is the main process's to end, and it ends it in its own time."""
    worker = start("-c", "2", "worker_soft_shutdown_timeout=20").ready()
    gate = tmp_path / "gate"
    results = [client.send_task("wait", (str(gate),)) for _ in range(2)]
    pids = running_in(gate, 2)
    worker.send_group(signal.SIGINT)
    eventually(lambda: "stopping" in worker.said, "the worker stops")
    gate.touch()
    assert worker.wait() == 0
    assert {result.get(timeout=PATIENCE) for result in results} == set(pids)
    assert not any(exists(pid) for pid in pids)


def test_tasks_survive_the_zygote(start: Start, client: Kern, tmp_path: Path) -> None:
    """It is killed: what runs goes on, and new processes are started afresh, with the settings of the worker."""
    worker = start("-c", "2", "result_expires=77").ready()
    gate = tmp_path / "gate"
    running = client.send_task("wait", (str(gate),))
    (pid,) = running_in(gate)
    zygote = worker.zygote()
    (other,) = {child for child, parent in worker.family().items() if parent == zygote} - {pid}
    os.kill(zygote, signal.SIGKILL)
    eventually(lambda: "from now on they are started afresh" in worker.said, "the worker has noticed")
    os.kill(other, signal.SIGKILL)
    assert client.send_task("pid").get(timeout=PATIENCE) not in (pid, other)
    assert client.send_task("setting", ("result_expires",)).get(timeout=PATIENCE) == 77
    gate.touch()
    assert running.get(timeout=PATIENCE) == pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: client.send_task("pid").get(timeout=PATIENCE) != pid, "it has been replaced")
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    eventually(lambda: set(worker.family()) <= {worker.pid}, "nothing is left")


def test_an_application_that_starts_threads_is_not_forked(start: Start, client: Kern, project: Path) -> None:
    """Many processes, none of which hangs, and one warning that names the threads."""
    with (project / "project.py").open("a") as file:
        file.write(THREADS)
    worker = start("-c", "2", "--max-tasks-per-child", "1", "result_expires=78").ready()
    results = [client.send_task("lock") for _ in range(8)]
    pids = [result.get(timeout=2 * PATIENCE) for result in results]
    assert len(set(pids)) == len(pids)
    assert client.send_task("setting", ("result_expires",)).get(timeout=PATIENCE) == 78
    loaded = set(map(int, (project / "loads").read_text().split()))
    assert set(pids) <= loaded, "each has loaded the application itself"
    (warning,) = [line for line in worker.said.splitlines() if "started threads" in line]
    assert "reporter-0" in warning
    assert "reporter-49" in warning
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0


def test_processes_can_always_be_started_afresh(start: Start, client: Kern, project: Path) -> None:
    """Celery's ``worker_pool_start_method``. To load the application may take its time; they die with the worker."""
    with (project / "project.py").open("a") as file:
        file.write("time.sleep(1.2)\n")
    worker = start("-c", "1", "worker_pool_start_method=spawn", "worker_proc_alive_timeout=1").ready()
    client.send_task("log", ("heard from afresh",)).get(timeout=PATIENCE)
    eventually(lambda: "heard from afresh" in worker.said, "its log is the worker's")
    pid = client.send_task("pid").get(timeout=PATIENCE)
    assert pid in map(int, (project / "loads").read_text().split())
    worker.send(signal.SIGKILL)
    worker.wait()
    eventually(lambda: not exists(pid), "it is gone")
