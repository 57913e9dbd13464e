"""What is known of a death."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from kern_process_host.evidence import CUT_OFF, Ending, OomCounter, of_death


def test_a_signal_is_named() -> None:
    ending = Ending(signal.SIGSEGV, 1234)
    assert str(ending) == "signal 11 (SIGSEGV)"
    assert of_death(ending) == {"signal": 11, "rss": 1234, "reason": "killed by SIGSEGV"}


def test_a_kill_nobody_owns_up_to_may_be_the_kernels() -> None:
    """Signal 9 that we did not send."""
    assert "possibly by the kernel" in of_death(Ending(signal.SIGKILL))["reason"]
    assert of_death(Ending(signal.SIGKILL), "hard time limit")["reason"] == "hard time limit"


def test_an_exit_code_is_told() -> None:
    evidence = of_death(Ending(7 << 8), stack="File …")
    assert evidence == {"exit_code": 7, "reason": "exited with code 7 in the middle of a task", "stack": "File …"}
    assert "descriptors were closed" in of_death(Ending(CUT_OFF << 8))["reason"]


def test_what_nobody_saw_is_not_made_up() -> None:
    assert of_death(Ending(None)) == {"reason": "ended, and nobody could see how"}
    assert str(Ending(None)) == "unknown"


@pytest.mark.parametrize(
    ("membership", "file"),
    [
        ("0::/kern/worker\n", "kern/worker/memory.events"),
        ("0::/elsewhere\n", "memory.events"),
        ("5:cpu:/x\n4:memory:/kern\n", "memory/kern/memory.oom_control"),
    ],
    ids=["own group", "a container's root", "the first version"],
)
def test_the_kernels_count_is_read_where_it_is(tmp_path: Path, membership: str, file: str) -> None:
    """A count that has risen since the last look says that somebody has been killed."""
    groups, own = tmp_path / "groups", tmp_path / "own"
    own.write_text(membership)
    events = groups / file
    events.parent.mkdir(parents=True)
    events.write_text("low 0\noom 3\noom_kill 2\n")
    counter = OomCounter(groups, own)
    assert not counter.has_risen()
    events.write_text("low 0\noom 4\noom_kill 3\n")
    assert counter.has_risen()
    assert not counter.has_risen()


def test_without_a_count_nothing_has_risen(tmp_path: Path) -> None:
    assert not OomCounter(tmp_path, tmp_path / "missing").has_risen()
    assert OomCounter().has_risen() in (True, False)
