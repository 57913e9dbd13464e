"""Names for this process, thread and application: where replies go; and ids that nobody else has."""

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


def new_id() -> str:
    """A random UUID (version 4) as text; an id of calls and messages.

    They are made by the dozen: asking the system for random bytes costs more than all the rest of it.
    """
    while True:
        try:
            return _ids.pop()
        except IndexError:
            _ids.extend(_drawn(64))


def _drawn(count: int) -> list[str]:
    drawn = os.urandom(16 * count).hex()
    return [
        f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"
        for digits in (drawn[start : start + 32] for start in range(0, 32 * count, 32))
    ]


_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}

_ids: list[str] = []

# A forked process draws its own.
os.register_at_fork(after_in_child=_ids.clear)
