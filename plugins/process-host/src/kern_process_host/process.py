"""A process that runs tasks, from the outside."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from kern_process_host import descriptors
from kern_process_host.hosted import ORDERS, order
from kern_process_host.slots import Slot

#: Seconds that a signalled process is watched for having stopped; it takes microseconds.
_STOPPING = 0.002


class Process:
    """One process of a pool; made before it is born.

    :param number: counts the processes of a pool; none is used twice.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        #: 0 until it is born.
        self.pid = 0
        self.slot = Slot.make()
        self.control, self.theirs = descriptors.socket_pair()
        self.control.setblocking(False)
        #: When the application was there for it, by the monotonic clock; ``None``: not yet.
        self.loaded: float | None = None
        #: It has said that it is ready.
        self.up = False
        #: It takes nothing more: it has been told so, or has said so.
        self.leaving = False
        #: Why we ended it; ``None``: we did not.
        self.reason: str | None = None
        self._orders = 0
        #: How often it has been told that there are orders.
        self.reminded = 0
        #: It is to be killed as soon as it is known.
        self._doomed = False

    def attached(self) -> list[int]:
        """What it gets for its birth."""
        return [self.theirs.fileno(), self.slot.file]

    def born(self, pid: int) -> None:
        """Our copy of its end is closed, so that its end says when it is gone."""
        self.pid = pid
        self.theirs.close()
        if self._doomed:
            self.kill()

    def close(self) -> None:
        self.control.close()
        self.theirs.close()
        self.slot.close()

    # -- orders

    def order(self, job: int, error: BaseException | None) -> bool:
        """Have *error* raised in *job*; job 0: leave, once what runs has ended. Whether it was sent."""
        try:
            self.control.send(order(job, error))
        except (BlockingIOError, ConnectionError):
            return False
        except OSError:
            return False
        self._orders += 1
        self.remind()
        return True

    @property
    def obeys(self) -> bool:
        """All orders have been carried out."""
        return self.slot.orders >= self._orders

    def remind(self) -> None:
        """Say that there are orders; once may be too early to be heard."""
        self.reminded += 1
        self.kill(ORDERS)

    def leave(self) -> None:
        """Take nothing more, and end."""
        if not self.leaving:
            self.leaving = self.order(0, None)

    # -- ends

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal; one that is not born yet dies when it is."""
        if not self.pid:
            self._doomed = self._doomed or number == signal.SIGKILL
        else:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def kill_in(self, job: int, number: int, reason: str) -> bool:
        """Kill it if it runs *job*, and not if it has gone on to another; whether it was."""
        self.kill(signal.SIGSTOP)
        self._wait_until_stopped()
        if self.slot.running != job:
            self.kill(signal.SIGCONT)
            return False
        self.reason = reason
        self.kill(number)
        self.kill(signal.SIGCONT)
        return True

    def _wait_until_stopped(self) -> None:
        deadline = time.monotonic() + _STOPPING
        while time.monotonic() < deadline:
            try:
                state = Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b") ")[2][:1]
            except OSError:
                return
            if state in b"TtZX":
                return


def drain(sock: socket.socket) -> list[tuple[bytes, list[int]]]:
    """All messages that are there, with what came with them; ``b""`` is the end."""
    found: list[tuple[bytes, list[int]]] = []
    reset = False
    while True:
        try:
            data, attached = descriptors.receive(sock, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return found
        except OSError:
            # Who ends with messages unread resets the connection, which is told before what it had sent itself.
            if reset:
                return [*found, (b"", [])]
            reset = True
            continue
        found.append((data, attached))
        if not data:
            return found
