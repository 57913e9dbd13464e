"""Hearing of the death of processes, children or not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from kern_process_host.evidence import Ending
from kern_process_host.zygote import resident_kib

#: Seconds between looks, where the kernel does not tell.
_LOOK = 0.05


def watch(loop: asyncio.AbstractEventLoop, pid: int, ended: Callable[[Ending], None]) -> None:
    """Call *ended* once the process is gone, and reap it if it is a child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        loop.call_soon(ended, Ending(None))
        return
    except (AttributeError, OSError):  # neither on macOS nor in old kernels
        _look(loop, pid, ended)
        return

    def readable() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        ended(reap(pid) or Ending(None))

    loop.add_reader(descriptor, readable)


def _look(loop: asyncio.AbstractEventLoop, pid: int, ended: Callable[[Ending], None]) -> None:
    ending = reap(pid)
    if ending is None:
        loop.call_later(_LOOK, _look, loop, pid, ended)
    else:
        ended(ending)


def reap(pid: int) -> Ending | None:
    """How the process ended, as far as can be known; ``None``: it lives."""
    try:
        found, status, usage = os.wait4(pid, os.WNOHANG)
    except ChildProcessError:
        return None if _exists(pid) else Ending(None)
    return Ending(status, resident_kib(usage.ru_maxrss)) if found else None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
