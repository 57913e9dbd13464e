"""A descriptor that becomes readable when a file is written to, where the system can say so (Linux).

SQLite tells nobody that another process has committed. On Linux the kernel does: the write-ahead log is written to.
Elsewhere :func:`watch` answers ``None``, and the file is looked at again and again.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time

#: ``IN_MODIFY``, ``IN_NONBLOCK`` and ``IN_CLOEXEC`` of ``<sys/inotify.h>``; the latter two are those of ``open``.
_MODIFIED = 0x00000002


#: Seconds between two looks after a write was seen: the shortest, and the share of the time since then.
LOOK_AGAIN = 0.0005
LOOK_SHARE = 0.1
#: Seconds after a write for which it may yet be committed, and between two looks where nothing is expected: a
#: descriptor may be silent for reasons we do not know.
LOOK_ANYWAY = 1.0


class FileWatch:
    """Made by :func:`watch`; for one thread at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # What was written before anybody watched may not be committed yet.
        self._written_at = time.monotonic()

    def fileno(self) -> int:
        return self._descriptor

    def drain(self) -> None:
        """Take note of what was written so far. It may be some time before it is committed."""
        found = False
        with contextlib.suppress(BlockingIOError):
            while os.read(self._descriptor, 65_536):
                found = True
        if found:
            self._written_at = time.monotonic()

    def look_again(self) -> float:
        """Seconds after which to look although the descriptor is silent."""
        since = time.monotonic() - self._written_at
        return max(LOOK_AGAIN, LOOK_SHARE * since) if since < LOOK_ANYWAY else LOOK_ANYWAY

    def close(self) -> None:
        """Safe twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def watch(path: str) -> FileWatch | None:
    """Watch the file at *path*; ``None`` where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            return None
        if libc.inotify_add_watch(descriptor, os.fsencode(path), _MODIFIED) < 0:
            os.close(descriptor)
            return None
    except (OSError, AttributeError):
        return None
    return FileWatch(descriptor)
