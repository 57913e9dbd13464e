"""Waiting ends as soon as it can, and a wait in vain explains itself."""

import time

import pytest

from kern_testing.clock import VirtualClock
from kern_testing.waiting import Deadline, eventually, throughout


def test_the_answer_is_given_as_soon_as_it_is_true() -> None:
    """Asked again and again; a failing assertion means "not yet"."""
    answers = iter([0, None, "here", "too late"])
    assert eventually(lambda: next(answers)) == "here"
    asked = 0

    def third_time() -> bool:
        nonlocal asked
        asked += 1
        assert asked == 3
        return True

    assert eventually(third_time)


def test_what_never_comes_is_told() -> None:
    """With what was waited for, and what came instead."""
    with pytest.raises(AssertionError, match=r"after 0.05 s still not: the cow comes home \(last answer: \[\]\)"):
        eventually(list, "the cow comes home", timeout=0.05)

    def complains() -> bool:
        raise AssertionError("17 of 20 are there")

    with pytest.raises(AssertionError, match=r"still not: complains \(17 of 20 are there\)"):
        eventually(complains, timeout=0.05)


def test_other_errors_are_not_waited_away() -> None:
    """A broken condition ends the wait at once."""
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 / 0, timeout=60)


def test_a_virtual_clock_moves_while_a_test_waits() -> None:
    """An hour of it is over in no time."""
    clock, begin = VirtualClock(start=0.0), time.monotonic()
    eventually(lambda: clock.now() >= 60, "a minute has passed", clock=clock)
    throughout(lambda: True, 60, clock=clock)
    assert clock.now() >= 120
    assert time.monotonic() - begin < 30


def test_what_ceases_to_hold_is_told() -> None:
    """Holding at first is not enough."""
    answers = iter([True, True, False])
    with pytest.raises(AssertionError, match=r"not throughout: it holds \(False\)"):
        throughout(lambda: next(answers), 10, "it holds", clock=VirtualClock())


def test_a_deadline_counts_down_to_nothing() -> None:
    """And not below."""
    deadline = Deadline(0.0)
    assert deadline.over
    assert deadline.left == 0.0
    assert not Deadline(60).over
    assert 50 < Deadline(60).left <= 60
