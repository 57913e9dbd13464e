"""The limit: a bare claim, run and settle over Redis, with nothing that a task queue is for.

No lease, no acknowledgement, no retry, no limits, no routes: each process pops messages in batches from a list, calls
the function, and writes results, their announcements and the next pop in one pipeline. A message that was popped by a
process that dies is gone. Messages and result documents are Celery's, for their size and coding are not ours to choose.
"""

from __future__ import annotations

import os
import signal
import sys
import uuid
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from benchmarks import counter
from benchmarks.resp import Connection

QUEUE = "bench"
BATCH = 64
EXPIRY = "86400"

_encode, _decode = msgspec.json.encode, msgspec.json.decode
_URL = os.environ["BENCH_BROKER"]
tally = counter.Tally(os.environ["BENCH_FOLDER"])


def _sized(_text: str) -> None:
    tally()


def _compute() -> None:
    counter.compute()
    tally()


def _add(x: int, y: int) -> int:
    tally()
    return x + y


#: Name → function, and whether its result is stored.
_FUNCTIONS: dict[str, tuple[Callable[..., Any], bool]] = {
    "nothing": (tally, True),
    "ignored": (tally, False),
    "add": (_add, True),
    "compute": (_compute, True),
    "sized": (_sized, False),
}


class _Client:
    """Publishes on one connection, and hears of results on another."""

    def __init__(self) -> None:
        self.channel = f"results.{uuid.uuid4()}"
        self.publishing = Connection(_URL)
        self._listening = Connection(_URL)
        self._listening.command("SUBSCRIBE", self.channel)
        self._arrived: dict[str, Any] = {}

    def message(self, task: str, args: Sequence[Any]) -> tuple[str, bytes]:
        """Id and text of a call, as Celery writes it."""
        call_id = str(uuid.uuid4())
        body = _encode([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
        headers: dict[str, Any] = {
            "lang": "py", "task": task, "id": call_id, "shadow": None, "eta": None, "expires": None, "group": None,
            "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": call_id, "parent_id": None,
            "argsrepr": repr(args), "kwargsrepr": "{}", "origin": "bare@bench", "ignore_result": False,
            "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
        }  # fmt: skip
        properties = {
            "correlation_id": call_id, "reply_to": self.channel, "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE}, "priority": 0, "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        }  # fmt: skip
        return call_id, _encode(
            {
                "body": b64encode(body).decode(),
                "content-encoding": "utf-8",
                "content-type": "application/json",
                "headers": headers,
                "properties": properties,
            }
        )

    def result(self, call_id: str) -> Any:
        """Wait for it."""
        while call_id not in self._arrived:
            _, _, text = self._listening.reply()
            document = _decode(text)
            self._arrived[document["task_id"]] = document["result"]
        return self._arrived.pop(call_id)


_client: _Client | None = None


def _the_client() -> _Client:
    global _client
    if _client is None:
        _client = _Client()
    return _client


class _Handle:
    def __init__(self, call_id: str) -> None:
        self._call_id = call_id

    def get(self, timeout: float) -> Any:
        del timeout  # the connection has one of its own
        return _the_client().result(self._call_id)


class _Task:
    def __init__(self, name: str) -> None:
        self.name = name

    def delay(self, *args: Any) -> _Handle:
        """Publish one call."""
        client = _the_client()
        call_id, text = client.message(self.name, args)
        client.publishing.command("RPUSH", QUEUE, text)
        return _Handle(call_id)


tasks: dict[str, Any] = {name: _Task(name) for name in _FUNCTIONS}


def publish_one_by_one(task: _Task, number: int, *args: Any) -> None:
    """Each waits for Redis to have it."""
    for _ in range(number):
        task.delay(*args)


def publish_bulk(task: _Task, number: int, *args: Any) -> list[_Handle]:
    """In commands of some hundreds."""
    client = _the_client()
    handles: list[_Handle] = []
    while len(handles) < number:
        messages = [client.message(task.name, args) for _ in range(min(500, number - len(handles)))]
        client.publishing.command("RPUSH", QUEUE, *(text for _, text in messages))
        handles += [_Handle(call_id) for call_id, _ in messages]
    return handles


def results(handles: Sequence[_Handle]) -> list[Any]:
    """All results."""
    return [handle.get(timeout=120) for handle in handles]


def worker_command(processes: int, name: str, pool: str) -> list[str]:
    """How its worker is started."""
    del name, pool
    return [sys.executable, "-m", "benchmarks.contestants.bare", str(processes)]


def _settlement(text: str) -> list[tuple[str | bytes, ...]]:
    """Run one message; what is to be written for it."""
    message = _decode(text)
    args, _, _ = _decode(b64decode(message["body"]))
    function, stored = _FUNCTIONS[message["headers"]["task"]]
    result = function(*args)
    if not stored:
        return []
    call_id = message["headers"]["id"]
    document = _encode(
        {
            "status": "SUCCESS",
            "result": result,
            "traceback": None,
            "children": [],
            "date_done": datetime.now(UTC).isoformat(),
            "task_id": call_id,
        }
    )
    return [
        ("SET", f"celery-task-meta-{call_id}", document, "EX", EXPIRY),
        ("PUBLISH", message["properties"]["reply_to"], document),
    ]


def _work() -> None:
    """One process: claim, run, settle, until it is killed."""
    redis = Connection(_URL, timeout=None)
    claim = ("BLMPOP", "0", "1", QUEUE, "LEFT", "COUNT", str(BATCH))
    claimed = redis.command(*claim)
    while True:
        _, messages = claimed
        writes = [command for text in messages for command in _settlement(text)]
        claimed = redis.pipeline([*writes, claim])[-1]


def main(processes: int) -> None:
    """A worker: its processes end with it."""
    children = []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            _work()
        children.append(child)

    def stop(*_: Any) -> None:
        for child in children:
            os.kill(child, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    counter.ready(os.environ["BENCH_FOLDER"])
    while True:
        signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]))
