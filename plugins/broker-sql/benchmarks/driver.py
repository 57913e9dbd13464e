"""How fast the driver is by itself, without worker and tasks.

    python plugins/broker-sql/benchmarks/driver.py [URL] [COUNT]

Publishes in batches of 300 and one by one, then claims and settles in batches of 100 with results stored in the same
write, and prints messages a second. Without a URL a new SQLite file is used, in a folder of its own that is removed.
"""

from __future__ import annotations

import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from kern.contracts.transport import Claim, Owner, Settlement
from kern.message import Message, Publication
from kern.outcome import Document, Outcome, Release
from kern_backend_sql.store import SqlResultStore
from kern_broker_sql.transport import SqlTransport

QUEUE = "benchmark"
BODY = b'[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'


def call() -> Publication:
    task_id = str(uuid.uuid4())
    headers = {
        "lang": "py", "task": "proj.tasks.add", "id": task_id, "shadow": None, "eta": None, "expires": None,
        "group": None, "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": task_id,
        "parent_id": None, "argsrepr": "(2, 3)", "kwargsrepr": "{}", "origin": "gen1@host", "ignore_result": False,
        "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
    }  # fmt: skip
    properties = {"correlation_id": task_id, "reply_to": str(uuid.uuid4()), "delivery_mode": 2, "priority": 0}
    return Publication(Message(BODY, headers, properties), "", QUEUE)


@contextmanager
def measured(what: str, count: int) -> Iterator[None]:
    started = time.perf_counter()
    yield
    print(f"{what:<40} {count / (time.perf_counter() - started):>10,.0f} /s")


def main(url: str, count: int) -> None:
    transport, store = SqlTransport(url), SqlResultStore(url)
    transport.open(Owner("benchmark", role="worker"), (), ())
    store.open()
    transport.purge(QUEUE)
    calls = [call() for _ in range(count)]
    with measured("publish, 300 at once", count):
        for start in range(0, count, 300):
            assert not any(transport.publish(calls[start : start + 300]))
    single = [call() for _ in range(min(count, 2000))]
    with measured("publish, one by one", len(single)):
        for publication in single:
            assert transport.publish([publication]) == [None]
    total = count + len(single)
    claiming = settling = 0.0
    done = 0
    with measured("claim and settle with results, 100 at once", total):
        while done < total:
            started = time.perf_counter()
            deliveries = transport.claim(Claim({QUEUE: 100}, 100)).deliveries
            claiming += time.perf_counter() - started
            now = datetime.now(UTC)
            documents = [Document(d.task_id, "SUCCESS", b"5", date_done=now, children=[]) for d in deliveries]
            started = time.perf_counter()
            plans = store.plan(documents, [()] * len(documents))
            settled = transport.settle(
                [
                    Settlement(Outcome(d.receipt, d.task_id, "proj.tasks.add", "SUCCESS", Release(), document), plan)
                    for d, document, plan in zip(deliveries, documents, plans, strict=True)
                ]
            )
            settling += time.perf_counter() - started
            assert not any(item.error for item in settled)
            done += len(deliveries)
    print(f"  claim {1e6 * claiming / total:.1f} µs, settle {1e6 * settling / total:.1f} µs a message")
    ids = [publication.task_id for publication in calls]
    with measured("read results, 500 at once", count):
        for start in range(0, count, 500):
            assert len(store.read(ids[start : start + 500])) == len(ids[start : start + 500])
    store.forget(ids)
    transport.close()
    store.close()


if __name__ == "__main__":
    messages = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    if len(sys.argv) > 1:
        main(sys.argv[1], messages)
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(f"sqlite:///{folder}/benchmark.db", messages)
