"""Virtual clocks stand or flow, and go forward only."""

import time

import pytest

from kern_testing.clock import STEP, VirtualClock


def test_time_stands_still_until_it_is_moved() -> None:
    """However long the test takes."""
    clock = VirtualClock(start=1000.0)
    assert clock() == clock.now() == 1000.0
    assert clock.advance(5.5) == 1005.5
    assert clock.advance_to(1010.0) == 1010.0
    assert clock.advance_to(3.0) == 1010.0
    assert clock() == 1010.0


def test_a_clock_does_not_go_back() -> None:
    """A mistake in a test is told."""
    with pytest.raises(ValueError, match=r"a clock does not go back \(by 3 s\)"):
        VirtualClock().advance(-3)


def test_it_starts_at_the_time_it_is() -> None:
    """Unless told otherwise."""
    assert VirtualClock().now() == pytest.approx(time.time(), abs=5)


def test_a_flowing_clock_goes_by_itself_and_jumps() -> None:
    """As the one on the wall, and further."""
    clock = VirtualClock(start=0.0, flowing=True)
    first = clock.now()
    while clock.now() == first:
        pass
    assert 0 < clock.now() < 60
    assert 3600 <= clock.advance(3600) < 3660


def test_who_listens_is_told_of_each_move() -> None:
    """On the mover's thread, after the move."""
    clock, seen = VirtualClock(start=0.0), []
    clock.on_advance(lambda: seen.append(clock.now()))
    clock.advance(2)
    clock.pause()
    assert seen == [2.0, 2.0 + STEP]
