"""What a process says about itself in memory that it shares with the worker's main process.

What is pulled from the shared socket is received *into* this memory: at whatever instant the process dies, the main
process can read which request it had, and whether that had started.

::

    0    8       16          24       32               64          72
    job  time    monotonic   orders   (unused)         pulled job  its encoded request …   | stack traces
    └ running since          └ carried out             └ the datagram, as received

A number is written as one aligned word, which other processes see before or after, never half.
"""

from __future__ import annotations

import mmap
import os
import tempfile

LINUX = os.uname().sysname == "Linux"
#: Offset of the datagram.
_DATAGRAM = 64
#: Longest datagram; what is longer goes by file. Elsewhere than on Linux datagrams are short.
LONGEST = 60_000 if LINUX else 2_000
#: Bytes of a slot that are memory; what follows in its file is written by the dumper of stacks.
SIZE = (_DATAGRAM + LONGEST + mmap.PAGESIZE) // mmap.PAGESIZE * mmap.PAGESIZE


def memory_file(name: str) -> int:
    """Descriptor of a file that is only memory where the system has such files, and without a name everywhere."""
    if LINUX:
        return os.memfd_create(name, os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(prefix=name) as file:
        return os.dup(file.fileno())


class Slot:
    """The memory of one process, as it and the main process see it.

    :param file: descriptor of a :func:`memory_file`; the slot owns it.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self._memory = mmap.mmap(file, SIZE)
        view = memoryview(self._memory)
        self._view = view
        self._words = view[: _DATAGRAM + 8].cast("Q")
        self._times = view[: _DATAGRAM + 8].cast("d")
        #: Where what is pulled is received.
        self.datagram = view[_DATAGRAM : _DATAGRAM + LONGEST]

    @classmethod
    def make(cls) -> Slot:
        """A new one, all zero."""
        file = memory_file("kern-slot")
        os.ftruncate(file, SIZE)
        os.lseek(file, SIZE, os.SEEK_SET)  # stacks are appended behind the memory
        return cls(file)

    def close(self) -> None:
        """Let go of it; safe twice."""
        if self.file < 0:
            return
        for view in (self._words, self._times, self.datagram, self._view):
            view.release()
        self._memory.close()
        os.close(self.file)
        self.file = -1

    # -- the process's side

    def stamp(self, job: int, at: float, monotonic: float) -> None:
        """*job* runs from now on."""
        times = self._times
        times[1], times[2] = at, monotonic
        self._words[0] = job

    def clear(self) -> None:
        """Nothing runs."""
        self._words[0] = 0

    def expect(self) -> None:
        """Nothing is pulled."""
        self._words[8] = 0

    # -- both

    @property
    def running(self) -> int:
        """The job that runs, or 0."""
        return self._words[0]

    @property
    def since(self) -> tuple[float, float]:
        """When it began to run: seconds since the epoch, and by the monotonic clock."""
        return self._times[1], self._times[2]

    @property
    def pulled(self) -> int:
        """The job that was pulled last; 0 before the first, and while the next is waited for."""
        return self._words[8]

    @property
    def orders(self) -> int:
        """How many orders have been carried out."""
        return self._words[3]

    @orders.setter
    def orders(self, count: int) -> None:
        self._words[3] = count

    # -- the main process's side

    def stacks(self) -> str:
        """What the dumper of stacks has written."""
        data = os.pread(self.file, 64_000, SIZE)
        return data.decode("utf-8", "replace").strip("\0\n")
