"""Crash points: kill a process at a seam, this one or a child.

A real ``kern worker`` that kills itself the third time it is about to commit a settlement::

    with subprocess.Popen([..., "worker"], env={**os.environ, **crash.environment("settling", nth=3)}) as worker:
        assert worker.wait() == -signal.SIGKILL

The variable is read once, when the plugin is loaded, and only there.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from kern import seams

#: ``seam:nth:signal``, several separated by commas; ``nth`` counts from 1 in each process.
VARIABLE = "KERN_TEST_CRASH"
#: A file that makes a crash happen once among all processes: who creates it dies, the others live.
ONCE_VARIABLE = "KERN_TEST_CRASH_ONCE"


class Crash(BaseException):
    """Raised at a seam instead of killing the process; not an ``Exception``, so that nothing along the way takes it."""


@attrs.frozen
class CrashPoint:
    """The *nth* time that *seam* is reached, the process gets *signal*."""

    seam: str
    nth: int = 1
    signal: signal.Signals = signal.SIGKILL

    @classmethod
    def parse(cls, text: str) -> CrashPoint:
        """From ``settling:3:SIGKILL``; number and signal may be left out.

        :raises ValueError: it is not of that form, or there is no such seam or signal.
        """
        seam, _, rest = text.strip().partition(":")
        nth, _, name = rest.partition(":")
        if seam not in seams.NAMES:
            raise ValueError(f"{VARIABLE}: no seam {seam!r}; known: {', '.join(seams.NAMES)}")
        if nth and not (nth.isdigit() and int(nth)):
            raise ValueError(f"{VARIABLE}: {nth!r} is not a number from 1 on, in {text!r}")
        if name and name not in signal.Signals.__members__:
            raise ValueError(f"{VARIABLE}: no signal {name!r}, in {text!r}")
        return cls(seam, int(nth or 1), signal.Signals[name or "SIGKILL"])

    def __str__(self) -> str:
        return f"{self.seam}:{self.nth}:{self.signal.name}"


def environment(
    seam: str, nth: int = 1, how: signal.Signals = signal.SIGKILL, once: Path | None = None
) -> Mapping[str, str]:
    """What to add to the environment of a process that is to crash.

    :param once: a path where no file is yet; only one process among those that share it dies.
    :raises ValueError: no such seam.
    """
    point = CrashPoint.parse(f"{seam}:{nth}:{how.name}")
    return {VARIABLE: str(point)} | ({ONCE_VARIABLE: str(once)} if once is not None else {})


def arm_from_environment() -> tuple[CrashPoint, ...]:
    """Arm what ``KERN_TEST_CRASH`` says; what was armed.

    :raises ValueError: the variable cannot be understood.
    """
    points = tuple(CrashPoint.parse(part) for part in os.environ.get(VARIABLE, "").split(",") if part.strip())
    once = os.environ.get(ONCE_VARIABLE)
    for point in points:
        seams.arm(point.seam, _Countdown(point, Path(once) if once else None))
    return points


class _Countdown:
    """Counts a seam down and then sends the signal to its own process."""

    def __init__(self, point: CrashPoint, once: Path | None) -> None:
        self._point, self._once = point, once
        self._left, self._lock, self._pid = point.nth, threading.Lock(), os.getpid()

    def __call__(self) -> None:
        with self._lock:
            if self._pid != os.getpid():  # forked since: each process counts for itself
                self._left, self._pid = self._point.nth, os.getpid()
            self._left -= 1
            if self._left != 0:
                return
        if self._once is not None:
            try:
                os.close(os.open(self._once, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            except FileExistsError:
                return
        os.kill(os.getpid(), self._point.signal)
        # An uncatchable signal to ourselves arrives before the call returns; others run on from here.


@contextmanager
def crashing(seam: str, nth: int = 1) -> Iterator[None]:
    """Inside, the *nth* time this process reaches *seam* raises :class:`Crash` where it stands.

    :raises ValueError: no such seam.
    """
    left = nth

    def action() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Crash(seam)

    seams.arm(seam, action)
    try:
        yield
    finally:
        seams.disarm(seam)
