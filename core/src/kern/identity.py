"""Names for this process, thread and application: where replies go."""

from __future__ import annotations

import os
import threading
from uuid import NAMESPACE_OID, uuid3, uuid4


class Identity:
    """The names of one application in this process."""

    def __init__(self) -> None:
        self._threads = _OfThread()
        self._process: tuple[int, str] = (0, "")

    def of_process(self) -> str:
        """Names this process and application."""
        pid = os.getpid()
        if self._process[0] != pid:
            self._process = (pid, self._name(0))
        return self._process[1]

    def of_thread(self) -> str:
        """Names this process, thread and application."""
        pid = os.getpid()
        if self._threads.pid != pid:
            self._threads.pid, self._threads.name = pid, self._name(threading.get_ident())
        return self._threads.name

    def _name(self, thread: int) -> str:
        return str(uuid3(NAMESPACE_OID, f"{_process_number():x}-{os.getpid():x}-{thread:x}-{id(self):x}"))


class _OfThread(threading.local):
    pid = 0
    name = ""


_numbers: dict[int, int] = {}


def _process_number() -> int:
    """A number that no other process has; a forked one draws its own."""
    return _numbers.setdefault(os.getpid(), uuid4().int)
