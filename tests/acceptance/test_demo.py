"""The demo survives the death of its worker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kern_testing.ledger import EFFECT, END, START, read
from kern_testing.waiting import eventually
from tools.workspace import ROOT

FILES = 150
#: What a worker does in a turn of its loop, at most: outcomes are written with the next one.
MOMENT, MOMENT_TASKS = 1.0, 10

#: The demo's application, with a listener that keeps the ledger.
LEDGERED = """
import os

from demo.app import app
from kern import hookimpl
from kern_testing.ledger import END, EFFECT, START, record

LEDGER = os.environ["KERN_TEST_LEDGER"]


class Bookkeeper:
    @hookimpl
    def kern_task_prerun(self, task, request):
        record(LEDGER, START, request.id)

    @hookimpl
    def kern_task_success(self, task, request):
        record(LEDGER, EFFECT, request.id)
        record(LEDGER, END, request.id)


app.register(Bookkeeper())
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "ledgered.py").write_text(LEDGERED)
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(place))),
        "KERN_TEST_LEDGER": str(place / "executions"),
        # Leases that end soon: the test waits for them.
        "KERN_WORKER_LEASE_SECONDS": "1.5",
        "KERN_WORKER_HEARTBEAT": "0.3",
    }


@contextmanager
def worker(place: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "kern", "-q", "worker", "-A", "ledgered:app", "-l", "error"],
        cwd=place,
        env=environment(place),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def executions(place: Path, what: str) -> list[str]:
    path = place / "executions"
    return [line["id"] for line in read(path) if line["what"] == what] if path.exists() else []


def test_killing_the_worker_in_mid_demo_loses_nothing(place: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "demo", "--workers", "0", "--folder", str(place), "--limit", str(FILES)],
        cwd=ROOT,
        env=environment(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with worker(place) as first:
            eventually(
                lambda: len(executions(place, END)) >= FILES // 10 or first.poll() is not None,
                "the first worker is at work",
                timeout=60,
            )
            assert first.poll() is None, "the first worker ended by itself"
            killed_at = time.time()
            first.send_signal(signal.SIGKILL)
            first.wait(10)
        done_before = len(set(executions(place, END)))
        with worker(place):
            said, complained = demo.communicate(timeout=90)
    finally:
        if demo.poll() is None:
            demo.kill()
    assert demo.returncode == 0, said + complained
    assert "nothing lost" in said
    assert done_before < FILES, "the first worker had done everything before it was killed"
    ended = executions(place, END)
    assert len(set(ended)) == FILES + 1, "every file, and the stubborn task"
    # What ran when the worker died runs again, and what had just ended and was not written yet; nothing older.
    again = Counter(executions(place, EFFECT))
    lines = read(place / "executions")
    repeated = [line for line in lines if line["what"] == START and again[line["id"]] > 1 and line["at"] < killed_at]
    assert len(repeated) <= MOMENT_TASKS
    assert all(killed_at - line["at"] < MOMENT for line in repeated)


def test_the_demo_shows_what_it_did_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--workers", "1", "--limit", "20"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"files +20\b", done.stdout)
    for what in ("bytes", "lines", "tokens", "seconds", "files a second"):
        assert re.search(rf"^  {what} +[\d,.]+$", done.stdout, re.MULTILINE), f"the summary has no {what}"
    assert re.search(r"most frequent names +\w+ [\d,]+", done.stdout)
    assert re.search(r"failing on purpose +done after 3 attempts", done.stdout)
    assert re.search(r"in quarantine +poison-0001: undecodable", done.stdout)
    assert "working" in done.stderr, "there is no progress bar"
    assert not list(tmp_path.iterdir())
