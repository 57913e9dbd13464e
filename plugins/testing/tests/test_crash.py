"""Crash points: a process dies at the seam it was told, the time it was told, and nowhere else."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kern import seams
from kern_testing import crash
from kern_testing.crash import Crash, CrashPoint

#: Reaches seams as a worker does, after it has loaded the plugin.
PROGRAM = """
import sys
import kern_testing.plugin
from kern import seams
for number in range(1, 6):
    seams.reached("claimed")
    seams.reached("settling")
    print(number, flush=True)
"""


def child(**environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KERN_TEST_CRASH")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=clean | environment, capture_output=True, text=True, check=False
    )


def test_a_process_kills_itself_the_third_time() -> None:
    """Twice it passed, the third time it did not."""
    done = child(**crash.environment("settling", nth=3))
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "1\n2\n"


def test_without_the_variable_nothing_is_armed() -> None:
    """And loading the plugin does not even load the module."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, kern_testing.plugin; print('kern_testing.crash' in sys.modules)"],
        env={name: value for name, value in os.environ.items() if not name.startswith("KERN_TEST_CRASH")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
    assert child().stdout == "1\n2\n3\n4\n5\n"


def test_another_signal_and_several_points() -> None:
    """The first point that is reached counts."""
    done = child(KERN_TEST_CRASH="settling:4,claimed:2:SIGTERM")
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == "1\n"


def test_among_many_processes_one_dies(tmp_path: Path) -> None:
    """With a file to agree on, the second process passes where the first died."""
    environment = crash.environment("claimed", once=tmp_path / "once")
    assert child(**environment).returncode == -signal.SIGKILL
    survivor = child(**environment)
    assert survivor.returncode == 0
    assert survivor.stdout == "1\n2\n3\n4\n5\n"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("setling:3", "no seam 'setling'; known: publishing"),
        ("settling:0", "'0' is not a number from 1 on"),
        ("settling:x", "'x' is not a number"),
        ("settling:1:SIGNONE", "no signal 'SIGNONE'"),
    ],
)
def test_what_cannot_be_understood_is_refused(value: str, complaint: str) -> None:
    """A misspelt crash point must not make a test pass."""
    with pytest.raises(ValueError, match=complaint):
        CrashPoint.parse(value)
    done = child(KERN_TEST_CRASH=value)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_inside_this_process_a_crash_is_raised() -> None:
    """It is no ``Exception``, so that nobody along the way swallows it; afterwards nothing is armed."""

    def settle_carelessly() -> None:
        try:
            seams.reached("settling")
        except Exception:
            pytest.fail("a crash was taken for an error")

    with crash.crashing("settling", nth=2):
        settle_carelessly()
        with pytest.raises(Crash):
            settle_carelessly()
    seams.reached("settling")
    with pytest.raises(ValueError, match="no seam"), crash.crashing("nowhere"):
        pass
