"""Threads that are there before any of ours: after a fork, what they hold is held for ever."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def other_threads() -> list[str]:
    """Names of this process's threads, but for the one that asks; those Python does not know, too, on Linux."""
    here = threading.current_thread()
    known = [thread for thread in threading.enumerate() if thread is not here]
    names = [thread.name for thread in known]
    seen = {thread.native_id for thread in (here, *known)}
    try:
        tasks = os.listdir("/proc/self/task")
    except OSError:
        return names
    for task in tasks:
        if int(task) not in seen:
            try:
                names.append(Path("/proc/self/task", task, "comm").read_text().strip())
            except OSError:
                pass  # it has ended
    return names
