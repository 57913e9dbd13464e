"""Waiting for something to become true, with a deadline; never for time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """The time a driver goes by, as a test sees it."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def pause(self) -> None:
        """Let a little time pass between two looks."""
        ...


class RealClock:
    """The time of the machine, for drivers whose server has a clock of its own."""

    def now(self) -> float:
        return time.time()

    def pause(self) -> None:
        time.sleep(0.005)


REAL = RealClock()

#: Real seconds to wait for what is to become true; the machine may be busy.
PATIENCE = 30.0


class Deadline:
    """So many seconds from now, whatever becomes of the system's clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._until

    @property
    def left(self) -> float:
        """Seconds left; not below zero."""
        return max(0.0, self._until - time.monotonic())


def eventually(condition: Callable[[], T], what: str = "", timeout: float | None = None, clock: Clock = REAL) -> T:
    """What *condition* answers as soon as it is true.

    :param condition: asked again and again; an ``AssertionError`` in it means "not yet".
    :param what: what is waited for, for the failure.
    :param timeout: real seconds, also with a virtual *clock*, which advances between two looks; else :data:`PATIENCE`.
    :raises AssertionError: it did not become true; says what it answered last.
    """
    timeout = PATIENCE if timeout is None else timeout
    deadline = Deadline(timeout)
    while True:
        complaint: AssertionError | None = None
        answer: T | None = None
        try:
            answer = condition()
        except AssertionError as error:
            complaint = error
        if answer:
            return answer
        if deadline.over:
            described = what or getattr(condition, "__doc__", None) or getattr(condition, "__name__", "the condition")
            last = f"{complaint}" if complaint else f"last answer: {answer!r}"
            raise AssertionError(f"after {timeout:g} s still not: {described} ({last})") from complaint
        clock.pause()


def throughout(
    condition: Callable[[], object], seconds: float, what: str = "", clock: Clock = REAL, timeout: float = 60.0
) -> None:
    """Look again and again for *seconds* of *clock*: *condition* is true each time, and at least twice.

    :raises AssertionError: it was not.
    """
    until, deadline, looks = clock.now() + seconds, Deadline(timeout), 0
    while looks < 2 or clock.now() < until:
        answer = condition()
        assert answer, f"not throughout: {what or getattr(condition, '__name__', 'the condition')} ({answer!r})"
        assert not deadline.over, f"the clock did not advance by {seconds:g} s within {timeout:g} s"
        looks += 1
        clock.pause()
