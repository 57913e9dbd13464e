"""Several processes on one SQLite file: publishers and workers at once."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from kern.contracts.transport import Owner
from kern_broker_sql.transport import SqlTransport
from kern_testing import make
from kern_testing.waiting import eventually

PUBLISHERS, WORKERS, EACH = 2, 3, 300


def opened(url: str) -> SqlTransport:
    transport = SqlTransport(url)
    transport.open(Owner(make.unique("owner"), role="worker"), (), ())
    return transport


def publish(url: str, queue: str, journal: Path) -> None:
    """Publish in small batches; the journal says what was confirmed."""
    transport, batch = opened(url), make.publications(queue, EACH)
    with journal.open("w") as lines:
        for start in range(0, EACH, 10):
            part = batch[start : start + 10]
            assert transport.publish(part) == [None] * len(part)
            lines.writelines(f"{publication.task_id}\n" for publication in part)
    transport.close()


def work(url: str, queue: str, journal: Path, stop: Path) -> None:
    """Claim and settle until told to stop; the journal says what was claimed."""
    transport = opened(url)
    with journal.open("w") as lines:
        while not stop.exists():
            deliveries = transport.claim(make.claim_of(queue, limit=20)).deliveries
            lines.writelines(f"{delivery.task_id}\n" for delivery in deliveries)
            lines.flush()
            settled = transport.settle([make.settlement(delivery) for delivery in deliveries])
            assert all(item.error is None for item in settled)
    transport.close()


def in_process(job: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            job()
            status = 0
        finally:
            os._exit(status)
    return child


def succeeded(child: int) -> bool:
    return os.waitpid(child, 0)[1] == 0


def test_each_message_is_claimed_once(tmp_path: Path) -> None:
    """Two processes publish while three drain: every message is claimed by one of them, and nothing is left."""
    url, queue, stop = f"sqlite:///{tmp_path}/kern.db", make.unique("queue"), tmp_path / "stop"
    publishers = [
        in_process(lambda number=number: publish(url, queue, tmp_path / f"published-{number}"))  # type: ignore[misc]
        for number in range(PUBLISHERS)
    ]
    workers = [
        in_process(lambda number=number: work(url, queue, tmp_path / f"claimed-{number}", stop))  # type: ignore[misc]
        for number in range(WORKERS)
    ]
    assert all(succeeded(child) for child in publishers)
    watcher = opened(url)

    def drained() -> bool:
        (depth,) = watcher.depth([queue])
        return not (depth.ready or depth.leased or depth.delayed)

    eventually(drained, "everything is claimed and settled", timeout=60)
    stop.touch()
    assert all(succeeded(child) for child in workers)
    watcher.close()
    published, claimed = (
        Counter(line for path in tmp_path.glob(f"{kind}-*") for line in path.read_text().split())
        for kind in ("published", "claimed")
    )
    assert claimed == published
    assert len(published) == PUBLISHERS * EACH
    with sqlite3.connect(tmp_path / "kern.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
