"""What became of one attempt to run a task: the only input of the settle stage."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from kern.message import Message, Publication


@attrs.frozen
class Document:
    """The stored result of a task, in parts or as a whole.

    A store says which form it keeps (:attr:`kern.contracts.result_store.ResultStore.document_form`); the process that
    runs the task encodes that form, so that the main process moves bytes and never decodes a user's values.
    """

    task_id: str
    status: str
    #: The encoded value, or the encoded description of the exception.
    result: bytes | None = None
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    #: Text of the traceback.
    traceback: str | None = None
    #: Result tuples of the calls the task made; ``None`` when no request is known.
    children: list[Any] | None = None
    #: When it became final; ``None`` for a state that is not.
    date_done: datetime | None = None
    group_id: str | None = None
    parent_id: str | None = None
    #: The extended fields, present with ``result_extended``; arguments are encoded like the result.
    extended: ExtendedFields | None = None
    #: The complete document as Celery's key/value stores keep it; ``None`` in a store that keeps parts.
    whole: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes of what is encoded, whole or the result alone."""
        return len(self.whole or self.result or b"")


@attrs.frozen
class ExtendedFields:
    """What ``result_extended`` adds to a document."""

    name: str | None = None
    args: bytes | None = None
    kwargs: bytes | None = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None
    stamped_headers: list[str] | None = None
    stamps: Mapping[str, Any] | None = None


@attrs.frozen
class JoinPart:
    """A member of a join has come to an end."""

    join_id: str
    #: The member's identity: a part that arrives twice counts once.
    member: str
    index: int | None
    state: str
    #: The encoded value or exception.
    result: bytes | None = None
    #: How many members the join has, where the message says so.
    size: int | None = None
    #: What to publish when the join is complete: the body's message, made where the task ran.
    body: Publication | None = None
    #: A driver-specific layout the part belongs to (Celery's two layouts on Redis); ``""`` is kern's own.
    layout: str = ""
    #: What to publish when it fails, where nobody opened it and said so.
    on_error: tuple[Publication, ...] = ()


# -- dispositions ------------------------------------------------------------------------------------------------------


@attrs.frozen
class Release:
    """Done with: the message leaves the broker."""


@attrs.frozen
class RetryAt:
    """Run again: *message* takes the delivered one's place, not before *due* (seconds since the epoch)."""

    message: Message
    due: float


@attrs.frozen
class GiveBack:
    """Back to its queue as it was.

    A message that never started, or whose run was interrupted, goes back uncounted; *blamed* counts one death against
    it, and *due* delays its next delivery.
    """

    blamed: bool = False
    due: float | None = None
    #: The next delivery is to be run alone, marked as started first.
    suspect: bool = False


@attrs.frozen
class ParkUntil:
    """Kept by the broker until *due* (seconds since the epoch), then delivered again, uncounted."""

    due: float
    #: Why: ``eta``, ``unknown-task``, ``content-type``, ``rate-limit``, …
    reason: str = "eta"
    #: When it was parked first for this reason; the transport keeps the earliest.
    since: float | None = None


@attrs.frozen
class Quarantine:
    """Kept apart with the reason and the evidence, for a person to look at and replay."""

    reason: str
    evidence: Mapping[str, Any] = attrs.field(factory=dict)


Disposition = Release | RetryAt | GiveBack | ParkUntil | Quarantine


@attrs.frozen
class Event:
    """Something that happened to a task or worker, for monitors. *fields* are JSON values."""

    type: str
    fields: Mapping[str, Any]
    #: Seconds since the epoch.
    at: float


@attrs.frozen
class Outcome:
    """What became of one attempt."""

    receipt: str
    task_id: str
    task: str
    state: str
    disposition: Disposition
    #: ``None``: nothing is stored.
    document: Document | None = None
    #: What is stored of other calls that end with this one: later steps of a chain that failed, which never run.
    documents: tuple[Document, ...] = ()
    #: Calls that follow, with ids and due times fixed; confirmed before the lease is released.
    follow_ups: tuple[Publication, ...] = ()
    join_parts: tuple[JoinPart, ...] = ()
    events: tuple[Event, ...] = ()
    #: Seconds the task ran; ``None`` when it did not.
    runtime: float | None = None
    #: The process that ran it.
    pid: int | None = None
    #: One line for the log: a shortened representation of value or error, sensitive parts masked.
    summary: str = ""
    #: Text of the traceback for the log; ``None`` where there is none, or where the failure was expected.
    traceback: str | None = None
    #: The failure is one that the task says may happen (``throws``): no reason to alarm anybody.
    expected: bool = False
