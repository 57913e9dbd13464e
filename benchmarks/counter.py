"""What work leaves behind outside the broker: a byte for every execution, a number for every delay, a sign of life.

Contestants import this in environments of their own: standard library alone.
"""

from __future__ import annotations

import array
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

#: Seconds of processor time of the task that computes.
COMPUTING = 0.002


class Tally:
    """Called by tasks; one ``write`` each, no lock, nothing shared."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._pid = 0
        self._fds: dict[str, int] = {}

    def __call__(self) -> None:
        """Count one execution."""
        os.write(self._file("tally"), b".")

    def late(self, due: float) -> None:
        """Count one execution that was *due* at this time, in seconds since the epoch, and note how late it is."""
        os.write(self._file("late"), struct.pack("d", time.time() - due))
        self()

    def _file(self, kind: str) -> int:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._fds = {}
        fd = self._fds.get(kind)
        if fd is None:
            path = os.path.join(self._folder, f"{self._pid}.{kind}")
            fd = self._fds[kind] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        return fd


def compute() -> None:
    """Use :data:`COMPUTING` seconds of processor time, however long that takes."""
    until = time.thread_time() + COMPUTING
    while time.thread_time() < until:
        pass


def ready(folder: str) -> None:
    """The worker of this process takes messages."""
    Path(folder, f"{os.getpid()}.ready").touch()


def count(folder: Path) -> int:
    """Executions so far."""
    return sum(path.stat().st_size for path in folder.glob("*.tally"))


def count_ready(folder: Path) -> int:
    """Workers that have begun to take messages."""
    return sum(1 for _ in folder.glob("*.ready"))


def lateness(folder: Path) -> list[float]:
    """Seconds that each noted execution was late, in order of size."""
    noted = array.array("d")
    for path in folder.glob("*.late"):
        noted.frombytes(path.read_bytes())
    return sorted(noted)


def wait_for(found: Callable[[], int], expected: int, timeout: float, what: str, pause: float = 0.002) -> float:
    """The time (``perf_counter``) at which *found* gave as much as *expected*.

    :param timeout: seconds.
    :param what: what is counted, for the message.
    :param pause: seconds between two looks.
    :raises TimeoutError: it did not.
    """
    until = time.perf_counter() + timeout
    while True:
        number = found()
        now = time.perf_counter()
        if number >= expected:
            return now
        if now > until:
            raise TimeoutError(f"{number} of {expected} {what} after {timeout:g} s")
        time.sleep(pause)
