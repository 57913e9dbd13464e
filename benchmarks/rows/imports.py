"""What it costs to import kern, and to ask its command line for help."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.arena import Arena

Measure = Callable[[Arena], tuple[float, ...]]


def start_of(*arguments: str) -> Measure:
    """Milliseconds of a Python process with these arguments over one that does nothing; median of 7."""

    def once(*given: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *given], check=True, stdout=subprocess.DEVNULL)
        return 1000 * (time.perf_counter() - started)

    def measure(_arena: Arena) -> tuple[float, ...]:
        bare = statistics.median(once("-c", "pass") for _ in range(7))
        return (statistics.median(once(*arguments) for _ in range(7)) - bare,)

    return measure
