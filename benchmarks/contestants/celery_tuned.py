"""Celery as people tune it for throughput on Redis; acknowledged early, as by default. hiredis is in its environment.

What is set, and why; nothing that changes what a task or its result is:

* ``worker_prefetch_multiplier`` 128 in place of 4: the consumer seldom stops to wait for acknowledgements.
* ``-O default`` in place of ``fair``: tasks are written ahead into the pipes of the processes.
* no rate limits, no gossip, mingle and heartbeat: no token bucket for each task, no broadcasts between workers, and
  no second of waiting for neighbours at the start.
* no redirection of ``stdout``, which each task would set up.
* ``worker_timer_precision`` 0.1 in place of 1 s: the timer of delayed calls sleeps no longer than that.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.contestants.celery import app, due, publish_one_by_one, results, tasks

__all__ = [
    "app",
    "publish_bulk",
    "publish_due",
    "publish_one_by_one",
    "results",
    "tasks",
    "worker_command",
]

app.conf.update(
    worker_prefetch_multiplier=128,
    worker_disable_rate_limits=True,
    worker_redirect_stdouts=False,
    worker_timer_precision=0.1,
)


def publish_bulk(task: Any, number: int, *args: Any) -> list[Any]:
    """One producer for all, and none of a group's bookkeeping."""
    with app.producer_or_acquire() as producer:
        return [task.apply_async(args, producer=producer) for _ in range(number)]


def publish_due(times: Sequence[float]) -> None:
    """Each at its time, with one producer for all."""
    with app.producer_or_acquire() as producer:
        for at in times:
            due.apply_async((at,), eta=datetime.fromtimestamp(at, UTC), producer=producer)


def worker_command(processes: int, name: str, pool: str) -> list[str]:
    """How its worker is started."""
    return [
        *(sys.executable, "-m", "celery", "-q", "-A", "benchmarks.contestants.celery_tuned:app", "worker"),
        *("-l", "warning", "-n", f"{name}@%h", "-P", pool, "-c", str(processes), "-O", "default"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
