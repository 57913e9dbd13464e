"""Values for tests, made with what matters given and the rest sensible."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from kern import states
from kern.contracts.result_store import DocumentForm
from kern.contracts.transport import Claim, Settlement
from kern.delivery import Delivery
from kern.message import Message, Publication
from kern.outcome import Disposition, Document, JoinPart, Outcome, Release

_numbers = itertools.count(1)


def unique(prefix: str = "kern") -> str:
    """A name nobody else has, also not another process: tests of one server may run side by side."""
    return f"{prefix}-{next(_numbers)}-{uuid.uuid4().hex[:8]}"


def message(
    task_id: str | None = None,
    body: bytes = b"[[], {}, {}]",
    task: str = "tests.noop",
    headers: Mapping[str, Any] | None = None,
    properties: Mapping[str, Any] | None = None,
    priority: int | None = None,
    **fields: Any,
) -> Message:
    """A protocol 2 message."""
    task_id = task_id or str(uuid.uuid4())
    given = dict(properties or {})
    if priority is not None:
        given["priority"] = priority
    return Message(
        body=body,
        headers={"lang": "py", "task": task, "id": task_id, "root_id": task_id, "retries": 0, **(headers or {})},
        properties={"correlation_id": task_id, "delivery_mode": 2, **given},
        **fields,
    )


def publication(
    queue: str,
    task_id: str | None = None,
    due: float | None = None,
    exchange: str = "",
    exchange_type: str = "direct",
    **fields: Any,
) -> Publication:
    """A call on its way to *queue*, or, with an *exchange*, to the routing key *queue*."""
    return Publication(
        message=message(task_id, **fields), exchange=exchange, routing_key=queue, exchange_type=exchange_type, due=due
    )


def publications(queue: str, count: int, **fields: Any) -> list[Publication]:
    """*count* different calls."""
    return [publication(queue, **fields) for _ in range(count)]


def claim_of(*queues: str, limit: int = 100, lease_seconds: float = 30.0, byte_budget: int = 262_144) -> Claim:
    """A claim of up to *limit* from each of *queues*."""
    return Claim(queues=dict.fromkeys(queues, limit), limit=limit, byte_budget=byte_budget, lease_seconds=lease_seconds)


def outcome(
    delivery: Delivery,
    disposition: Disposition | None = None,
    follow_ups: Iterable[Publication] = (),
    document: Document | None = None,
    parts: Iterable[JoinPart] = (),
    others: Iterable[Document] = (),
    state: str = states.SUCCESS,
) -> Outcome:
    """What became of *delivery*; released unless said otherwise. *others* are documents of calls that end with it."""
    return Outcome(
        receipt=delivery.receipt,
        task_id=delivery.task_id,
        task=(delivery.message.task if delivery.message is not None else None) or "",
        state=state,
        disposition=disposition or Release(),
        document=document,
        documents=tuple(others),
        follow_ups=tuple(follow_ups),
        join_parts=tuple(parts),
        runtime=0.001,
    )


def settlement(delivery: Delivery, disposition: Disposition | None = None, **fields: Any) -> Settlement:
    """:func:`outcome`, ready to be given to a transport; *plan* is the result store's share."""
    plan = fields.pop("plan", None)
    return Settlement(outcome(delivery, disposition, **fields), plan=plan)


def document(
    form: DocumentForm,
    task_id: str | None = None,
    status: str = states.SUCCESS,
    value: Any = 42,
    **fields: Any,
) -> Document:
    """A document in the *form* a store keeps; *value* is any JSON value."""
    task_id = task_id or str(uuid.uuid4())
    done = fields.pop("date_done", datetime.now(UTC) if status in states.READY_STATES else None)
    encoded = json.dumps(value).encode()
    whole: bytes | None = None
    if form is DocumentForm.WHOLE:
        meta = {
            "status": status,
            "result": value,
            "traceback": fields.get("traceback"),
            "children": fields.get("children") or [],
            "date_done": done.isoformat() if done else None,
            "task_id": task_id,
        }
        if fields.get("parent_id"):
            meta["parent_id"] = fields["parent_id"]
        if fields.get("group_id"):
            meta["group_id"] = fields["group_id"]
        whole = json.dumps(meta).encode()
    return Document(task_id=task_id, status=status, result=encoded, date_done=done, whole=whole, **fields)
