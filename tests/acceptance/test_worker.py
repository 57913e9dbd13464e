"""``kern worker`` as somebody uses it who has configured nothing: broker and results in a file of the project."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kern_testing.waiting import eventually

PROJECT = """
import os
import time
from pathlib import Path

from kern import Kern

app = Kern("project")


def note(what):
    descriptor = os.open("journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{what} {os.getpid()}\\n".encode())
    os.close(descriptor)


@app.task
def add(x, y):
    return x + y


@app.task(ignore_result=True)
def numbered(number):
    note(number)


@app.task
def hold(until):
    note("begun")
    while not Path(until).exists():
        time.sleep(0.01)
    note("done")
    return "held"


@app.task
def slow(seconds):
    note("begun")
    time.sleep(seconds)
    note("done")
"""

Started = subprocess.Popen[str]


class Project:
    """A folder with an application, and the processes that work on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "project.py").write_text(PROJECT)
        self._started: list[Started] = []

    def _environment(self) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith("KERN_")}
        return {**mine, "PYTHONPATH": str(self.folder)}

    def kern(self, *arguments: str) -> Started:
        """Start ``kern …``."""
        process = subprocess.Popen(
            [sys.executable, "-m", "kern", *arguments],
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(process)
        return process

    def python(self, code: str) -> str:
        """What *code* prints."""
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def journal(self) -> list[tuple[str, str]]:
        """What tasks have noted, and in which process."""
        path = self.folder / "journal"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(what, pid) for what, _, pid in (line.partition(" ") for line in lines)]

    def noted(self, what: str) -> int:
        return sum(1 for noted, _pid in self.journal() if noted == what)

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=20)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    project.close()


def ended(process: Started, within: float = 20.0) -> tuple[int, str]:
    """Exit code, and what was said."""
    said, _ = process.communicate(timeout=within)
    return process.returncode, said


def stopped(worker: Started, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
    worker.send_signal(number)
    return ended(worker)


@pytest.mark.parametrize("name", ["project", "project:app", "project.app"])
def test_a_call_comes_back_with_its_result(name: str, project: Project) -> None:
    """However the application is spelt, and with nothing configured."""
    worker = project.kern("worker", "-A", name)
    assert project.python("from project import add; print(add.delay(20, 22).get(timeout=30))") == "42"
    code, said = stopped(worker)
    assert code == 0, said
    assert "project:app" in said


def test_several_workers_share_the_work_and_each_task_runs_once(project: Project) -> None:
    """500 calls, three processes on one file; more for as long as one of the three has not started yet."""
    workers = [project.kern("-q", "worker", "-A", "project", "-P", "solo") for _ in range(3)]
    sent = 0

    def all_take_part() -> bool:
        nonlocal sent
        if len({pid for _what, pid in project.journal()}) == 3 and sent >= 500:
            return True
        project.python(
            "from project import app, numbered\n"
            f"for start in range({sent}, {sent + 250}, 50):\n"
            "    app.send_many([numbered.s(number) for number in range(start, start + 50)])"
        )
        sent += 250
        return False

    eventually(all_take_part, "all take part", timeout=60)
    eventually(lambda: len(project.journal()) >= sent, "all have run", timeout=40)
    for worker in workers:
        code, said = stopped(worker)
        assert code == 0, said
    assert Counter(what for what, _pid in project.journal()) == {str(number): 1 for number in range(sent)}
    assert {pid for _what, pid in project.journal()} == {str(worker.pid) for worker in workers}


def test_signals_are_answered_while_a_task_runs(project: Project) -> None:
    """The first lets it finish, and the worker says so meanwhile."""
    worker = project.kern("worker", "-A", "project", "-l", "info")
    project.python("from project import hold; hold.delay('go')")
    eventually(lambda: project.noted("begun"), "the task runs")
    worker.send_signal(signal.SIGTERM)
    assert worker.stdout is not None
    for line in worker.stdout:
        if "stopping" in line:
            break
    assert project.noted("done") == 0
    (project.folder / "go").touch()
    code, said = ended(worker)
    assert code == 0, said
    assert project.noted("done") == 1


def test_a_second_signal_ends_it_at_once_and_the_task_is_handed_back(project: Project) -> None:
    worker = project.kern("-q", "worker", "-A", "project")
    project.python("from project import hold; hold.delay('go')")
    eventually(lambda: project.noted("begun"), "the task runs")
    told_at = time.monotonic()
    worker.send_signal(signal.SIGINT)
    worker.send_signal(signal.SIGQUIT)
    code, said = ended(worker)
    assert code == 0, said
    assert time.monotonic() - told_at < 5
    (project.folder / "go").touch()
    other = project.kern("-q", "worker", "-A", "project")
    eventually(lambda: project.noted("done") == 1, "another worker does it at once, not after a lease", timeout=10)
    assert stopped(other)[0] == 0
    assert project.noted("begun") == 2


def test_a_task_that_takes_longer_than_its_lease_runs_once(project: Project) -> None:
    """Another worker waits for something to do all the time; the lease is renewed."""
    settings = ("worker_lease_seconds=0.8", "worker_heartbeat=0.2")
    workers = [project.kern("-q", "worker", "-A", "project", *settings) for _ in range(2)]
    project.python("from project import slow; slow.delay(2.5).get(timeout=30)")
    for worker in workers:
        code, said = stopped(worker)
        assert code == 0, said
    assert [what for what, _pid in project.journal()] == ["begun", "done"]


def test_a_killed_worker_leaves_the_file_usable(project: Project) -> None:
    worker = project.kern("-q", "worker", "-A", "project")
    project.python("from project import add; add.delay(1, 1).get(timeout=30)")
    worker.send_signal(signal.SIGKILL)
    assert ended(worker)[0] == -signal.SIGKILL
    other = project.kern("-q", "worker", "-A", "project")
    assert project.python("from project import add; print(add.delay(2, 2).get(timeout=30))") == "4"
    assert stopped(other)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["-A", "nowhere"], 2, "nowhere"),
        (["-A", "project:nothing"], 2, "nothing"),
        (["-A", "project", "--no-such-option"], 2, "--no-such-option"),
        (["-A", "project", "-P", "no-such-pool"], 1, "no-such-pool"),
        (["-A", "project", "worker_hartbeat=3"], 1, "worker_heartbeat"),
        (["-A", "project", "-b", "nonsense://somewhere"], 1, "nonsense"),
        (
            ["-A", "project", "-b", "postgresql://me:secret@127.0.0.1:1/x", "broker_connection_retry_on_startup=false"],
            1,
            "127.0.0.1",
        ),
    ],
)
def test_what_cannot_work_ends_with_a_sentence_and_an_exit_code(
    arguments: list[str], code: int, says: str, project: Project
) -> None:
    exit_code, said = ended(project.kern("-q", "worker", *arguments))
    assert exit_code == code, said
    assert says in said
    assert "Traceback" not in said
    assert "secret" not in said
