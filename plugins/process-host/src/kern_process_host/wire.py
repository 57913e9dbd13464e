"""Requests on their way to the process that runs them, and outcomes on their way back.

Both are written as plain fields; values of users stay what they are, encoded bytes in a body or a document. The outcome
that nearly all tasks have (done, released, nothing follows) has a form of its own that leaves out what the main process
knows already.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import attrs
import msgspec

from kern.message import Message, Publication
from kern.outcome import (
    Disposition,
    Document,
    Event,
    ExtendedFields,
    GiveBack,
    JoinPart,
    Outcome,
    ParkUntil,
    Quarantine,
    Release,
    RetryAt,
)
from kern.request import Request

#: First byte of what could not be written as MessagePack (a lone surrogate, an integer of more than 64 bits), and is
#: ``marshal``'s: never that of the arrays written here.
_MARSHALLED = b"\xc1"

_packed: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
_unpacked: Callable[[Any], Any] = msgspec.msgpack.Decoder().decode


def encode(fields: tuple[Any, ...]) -> bytes:
    """Plain values as bytes.

    :raises ValueError: one is not plain.
    """
    try:
        return _packed(fields)
    except (TypeError, ValueError, OverflowError):
        return _MARSHALLED + marshal.dumps(fields)


def decode(data: bytes | memoryview) -> Any:
    """What :func:`encode` was given; tuples are lists now."""
    if data[0] == 0xC1:
        return marshal.loads(data[1:])
    return _unpacked(data)


# -- requests ----------------------------------------------------------------------------------------------------------

_request_fields = attrgetter(*[field.name for field in attrs.fields(Request)])


def encode_request(request: Request) -> bytes:
    """:raises ValueError: a header is of a type that no message on a broker can have."""
    return encode(_request_fields(request))


def decode_request(data: bytes | memoryview) -> Request:
    return Request(*decode(data))


# -- outcomes ----------------------------------------------------------------------------------------------------------

_RELEASE = Release()
#: Fields that the short form has.
_SHORT = ("state", "runtime", "summary", "pid", "document")
#: What the main process knows of the request.
_KNOWN = ("receipt", "task_id", "task")
_OUTCOME = [field.name for field in attrs.fields(Outcome)]
_others = attrgetter(*[name for name in _OUTCOME if name not in (*_SHORT, *_KNOWN)])
#: What they are when nothing else happened.
_USUAL = _others(Outcome("", "", "", "", _RELEASE))
_document_fields = attrgetter(*[field.name for field in attrs.fields(Document)])
_extended_fields = attrgetter(*[field.name for field in attrs.fields(ExtendedFields)])
_message_fields = attrgetter(*[field.name for field in attrs.fields(Message)])
_publication_fields = attrgetter(*[field.name for field in attrs.fields(Publication)])
_join_part_fields = attrgetter(*[field.name for field in attrs.fields(JoinPart)])
_event_fields = attrgetter(*[field.name for field in attrs.fields(Event)])

_EXTENDED = [field.name for field in attrs.fields(Document)].index("extended")
_BODY = [field.name for field in attrs.fields(JoinPart)].index("body")


def encode_outcome(job: int, request: Request, outcome: Outcome) -> bytes:
    """The outcome of the request that the pool knows as *job*.

    :raises ValueError: it holds what is not plain.
    """
    if (
        _others(outcome) == _USUAL
        and outcome.receipt == request.receipt
        and outcome.task_id == (request.id or "")
        and outcome.task == (request.task or "")
    ):
        document = outcome.document
        return encode(
            (
                job,
                outcome.state,
                outcome.runtime,
                outcome.summary,
                outcome.pid,
                None if document is None else _document_to_fields(document),
            )
        )
    fields = {name: getattr(outcome, name) for name in _OUTCOME}
    for name, (to_fields, _) in _PARTS.items():
        fields[name] = to_fields(fields[name])
    return encode((job, fields, None))


def encode_fault(job: int, problem: str) -> bytes:
    """The runner itself failed at *job*."""
    return encode((job, problem))


def decode_fault(fields: list[Any]) -> str | None:
    """How the runner failed, if that is what :func:`decode` got."""
    return fields[1] if len(fields) == 2 else None


def decode_outcome(fields: list[Any], request: Request) -> Outcome:
    """The outcome of *request*, from what :func:`decode` made of it."""
    if len(fields) == 6:
        _, state, runtime, summary, pid, document = fields
        return Outcome(
            request.receipt,
            request.id or "",
            request.task or "",
            state,
            _RELEASE,
            None if document is None else _document_from_fields(document),
            runtime=runtime,
            pid=pid,
            summary=summary,
        )
    whole = fields[1]
    for name, (_, from_fields) in _PARTS.items():
        whole[name] = from_fields(whole[name])
    return Outcome(**whole)


def _document_to_fields(document: Document | None) -> tuple[Any, ...] | None:
    if document is None:
        return None
    fields: tuple[Any, ...] = _document_fields(document)
    if document.extended is not None:
        extended = _extended_fields(document.extended)
        fields = (*fields[:_EXTENDED], extended, *fields[_EXTENDED + 1 :])
    return fields


def _document_from_fields(fields: list[Any] | None) -> Document | None:
    if fields is None:
        return None
    if fields[_EXTENDED] is not None:
        fields[_EXTENDED] = ExtendedFields(*fields[_EXTENDED])
    return Document(*fields)


def _publication_to_fields(publication: Publication) -> tuple[Any, ...]:
    message, *rest = _publication_fields(publication)
    return (_message_fields(message), *rest)


def _publication_from_fields(fields: list[Any]) -> Publication:
    message, *rest = fields
    return Publication(Message(*message), *rest)


def _join_part_to_fields(part: JoinPart) -> list[Any]:
    fields = list(_join_part_fields(part))
    if part.body is not None:
        fields[_BODY] = _publication_to_fields(part.body)
    return fields


def _join_part_from_fields(fields: list[Any]) -> JoinPart:
    if fields[_BODY] is not None:
        fields[_BODY] = _publication_from_fields(fields[_BODY])
    return JoinPart(*fields)


def _disposition_to_fields(disposition: Disposition) -> tuple[Any, ...]:
    match disposition:
        case Release():
            return ("release",)
        case RetryAt(message, due):
            return ("retry", _message_fields(message), due)
        case GiveBack(blamed, due, suspect):
            return ("back", blamed, due, suspect)
        case ParkUntil(due, reason, since):
            return ("park", due, reason, since)
        case Quarantine(reason, evidence):
            return ("quarantine", reason, dict(evidence))


def _disposition_from_fields(fields: list[Any]) -> Disposition:
    match fields:
        case ["retry", message, due]:
            return RetryAt(Message(*message), due)
        case ["back", *rest]:
            return GiveBack(*rest)
        case ["park", *rest]:
            return ParkUntil(*rest)
        case ["quarantine", reason, evidence]:
            return Quarantine(reason, evidence)
        case _:
            return _RELEASE


_Convert = Callable[[Any], Any]


def _each(to_fields: _Convert, from_fields: _Convert) -> tuple[_Convert, _Convert]:
    return (
        lambda values: [to_fields(value) for value in values],
        lambda values: tuple(from_fields(value) for value in values),
    )


#: How fields that are no plain values are written, and read.
_PARTS: dict[str, tuple[_Convert, _Convert]] = {
    "disposition": (_disposition_to_fields, _disposition_from_fields),
    "document": (_document_to_fields, _document_from_fields),
    "documents": _each(_document_to_fields, _document_from_fields),
    "follow_ups": _each(_publication_to_fields, _publication_from_fields),
    "join_parts": _each(_join_part_to_fields, _join_part_from_fields),
    "events": _each(_event_fields, lambda fields: Event(*fields)),
}
