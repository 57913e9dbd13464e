"""Whatever a message was quarantined for, replaying puts back the very bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from kern import Kern, Reject
from kern.contracts.transport import Claim, Quarantined
from kern.message import Message, Publication
from kern_testing.waiting import eventually
from kern_testing.worker import WorkerThread

EMBED = b'{"callbacks": null, "errbacks": null, "chain": null, "chord": null}'
LINKED = EMBED.replace(
    b'"callbacks": null', b'"callbacks": [{"task": "t.ok", "args": [], "kwargs": {}, "options": {}}]'
)


def message(reason: str, task: str = "t.ok", body: bytes = b"[[], {}, " + EMBED + b"]", **more: Any) -> Message:
    """With headers and properties of its own, in an order of its own, so that nothing can be made up again."""
    headers = {"zz": [1, {"b": None}], "lang": "py", "task": task, "id": f"id-{reason}", "retries": 0, "own": "ä€"}
    headers |= more.pop("headers", {})
    properties = {
        "priority": 3,
        "correlation_id": f"id-{reason}",
        "reply_to": "",
        "delivery_mode": 2,
        "odd": [1.5, None],
    }
    return Message(body, headers, properties, **more)


#: Why a worker quarantines, and a message that gives it the reason.
REASONS: dict[str, Publication] = {
    reason: Publication(made, "", "celery", attempts=attempts)
    for reason, made, attempts in (
        ("undecodable", message("undecodable", body=b'[["broken \xff'), 0),
        ("invalid", message("invalid", headers={"retries": "many"}), 0),
        ("content-type", message("content-type", body=b"\x80\x04.", content_type="application/x-python-serialize"), 0),
        ("unknown-task", message("unknown-task", task="t.nobody.knows"), 0),
        ("continuation", message("continuation", body=b"[[], {}, " + LINKED + b"]"), 0),
        ("rejected", message("rejected", task="t.rejects"), 0),
        ("failed", message("failed", task="t.fails"), 0),
        ("poison", message("poison"), 3),
    )
}


@pytest.fixture(params=["memory", "sqlite"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kern]:
    url = f"memory://{tmp_path.name}" if request.param == "memory" else f"sqlite:///{tmp_path}/kern.db"
    app = Kern("replay", broker=url, backend="disabled", task_unknown_timeout=0.05)

    @app.task(name="t.ok")
    def ok() -> None:
        """Never in quarantine by itself."""

    @app.task(name="t.rejects")
    def rejects() -> None:
        raise Reject("not today", requeue=False)

    @app.task(name="t.fails", acks_on_failure=False)
    def fails() -> None:
        raise ValueError("and is to be kept")

    yield app
    app.close()


@pytest.mark.parametrize("reason", REASONS)
def test_replaying_puts_back_the_very_bytes(app: Kern, reason: str) -> None:
    publication = REASONS[reason]
    original = publication.message
    assert app.connection.do(lambda port: port.publish([publication]), 10) == [None]

    worker = WorkerThread(app).start()
    try:
        kept: list[Quarantined] = eventually(
            lambda: app.connection.do(lambda port: port.quarantined(), 10), "the message is in quarantine"
        )
    finally:
        worker.stop()
    assert [entry.reason for entry in kept] == [reason]

    assert app.connection.do(lambda port: port.replay([kept[0].key]), 10) == 1
    claimed = app.connection.do(lambda port: port.claim(Claim({"celery": 1}, 1)), 10)
    (delivery,) = claimed.deliveries
    assert delivery.message is not None
    assert attrs.astuple(delivery.message, recurse=False) == attrs.astuple(original, recurse=False)
    assert list(delivery.message.headers) == list(original.headers)
    assert delivery.queue == "celery"
    assert delivery.attempts == 0, "what killed it before does not count again"
