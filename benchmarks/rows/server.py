"""What workers cost their Redis: when they are many and idle, and how long one script holds up everybody."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable

from benchmarks.arena import Arena
from benchmarks.client import TRICKLE

Measure = Callable[[Arena], tuple[float, ...]]

#: Commands that run a script.
_SCRIPTS = {"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"}
#: Microseconds from which a command is noted.
_NOTED = 100


def crowd(workers: int, seconds: float = 10.0) -> Measure:
    """Percent of a core that Redis uses while so many workers wait for :data:`TRICKLE` messages a second."""

    def measure(arena: Arena) -> tuple[float, ...]:
        with arena.crowd(workers):
            time.sleep(3)  # they have greeted each other
            with arena.clients("trickle", int((seconds + 10) * TRICKLE)):
                arena.executed(TRICKLE)
                used, began = arena.redis.processor_seconds(), time.perf_counter()
                time.sleep(seconds)
                used = arena.redis.processor_seconds() - used
                return (100 * used / (time.perf_counter() - began),)

    return measure


def longest_script(small: int, large: int, together: int) -> Measure:
    """Milliseconds for which a script blocks Redis, while a worker drains so many small messages, so many large ones,
    and so many delayed ones that are due at the same moment: the longest run, and the 95th percentile of the runs of
    the script that takes longest.

    Their clock goes on while Redis waits for a core: it has one of its own, where there are several, and precedence
    where we may give it. What else the machine does is in the longest run all the same; the percentile is the script.
    """

    def measure(arena: Arena) -> tuple[float, ...]:
        assert arena.place.pid is not None
        cores = sorted(os.sched_getaffinity(0))
        redis = arena.redis
        redis.command("CONFIG", "SET", "slowlog-log-slower-than", str(_NOTED), "slowlog-max-len", "100000")
        try:
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, arena.place.pid, -10)
            if len(cores) > 1:
                os.sched_setaffinity(arena.place.pid, cores[:1])
                os.sched_setaffinity(0, cores[1:])  # and so has everybody we start
            with arena.worker():
                arena.client("publish_bulk", small - 1)
                arena.executed(small)
                arena.client("publish_sized", large)
                arena.executed(small + large)
                arena.client("publish_together", together)
                arena.executed(small + large + together)
        finally:
            os.sched_setaffinity(0, cores)
        noted = redis.command("SLOWLOG", "GET", "-1")
        runs: defaultdict[str, list[int]] = defaultdict(lambda: [_NOTED])
        for entry in noted:
            if str(entry[3][0]).upper() in _SCRIPTS:
                runs[entry[3][1]].append(int(entry[2]))
        longest = [(max(each), sorted(each)[int(len(each) * 0.95)]) for each in runs.values()]
        return tuple(max(column) / 1000 for column in zip(*longest, strict=True)) or (_NOTED / 1000, _NOTED / 1000)

    return measure
