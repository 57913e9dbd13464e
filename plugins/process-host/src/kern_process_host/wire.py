"""Requests on their way to the process that runs them, and outcomes on their way back.

Both are written as plain fields; values of users stay what they are, encoded bytes in a body or a document. The outcome
that nearly all tasks have (done, released, nothing follows) has a form of its own that leaves out what the main process
knows already.
"""

from __future__ import annotations

import enum
import marshal
import typing
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import attrs
import msgspec

from kern.message import Message, Publication
from kern.outcome import (
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

#: Of what outcomes are made. Each is written as its place in this list, and its fields.
_CLASSES: tuple[type[Any], ...] = (
    Outcome,
    Document,
    ExtendedFields,
    JoinPart,
    Event,
    Publication,
    Message,
    Release,
    RetryAt,
    GiveBack,
    ParkUntil,
    Quarantine,
)
_PLACES = {cls: place for place, cls in enumerate(_CLASSES)}
_RELEASE = Release()


class _Form(enum.Enum):
    """What a field holds."""

    PLAIN = enum.auto()
    OBJECT = enum.auto()
    OBJECTS = enum.auto()


def _form(hint: Any) -> _Form:
    if typing.get_origin(hint) is tuple and typing.get_args(hint)[0] in _PLACES:
        return _Form.OBJECTS
    parts = typing.get_args(hint) or (hint,)
    return _Form.OBJECT if any(part in _PLACES for part in parts) else _Form.PLAIN


_FORMS = {
    cls: tuple((field.name, _form(hints[field.name])) for field in attrs.fields(cls))
    for cls, hints in ((cls, typing.get_type_hints(cls)) for cls in _CLASSES)
}


def _to_fields(value: Any) -> list[Any] | None:
    if value is None:
        return None
    fields: list[Any] = [_PLACES[type(value)]]
    for name, form in _FORMS[type(value)]:
        part = getattr(value, name)
        if form is _Form.OBJECT:
            part = _to_fields(part)
        elif form is _Form.OBJECTS:
            part = [_to_fields(one) for one in part]
        fields.append(part)
    return fields


def _from_fields(fields: list[Any] | None) -> Any:
    if fields is None:
        return None
    cls, *parts = fields
    cls = _CLASSES[cls]
    for place, (_, form) in enumerate(_FORMS[cls]):
        if form is _Form.OBJECT:
            parts[place] = _from_fields(parts[place])
        elif form is _Form.OBJECTS:
            parts[place] = tuple(_from_fields(part) for part in parts[place])
    return cls(*parts)


#: Fields that the short form has, and those that the main process knows of the request; what the others are when
#: nothing else happened.
_SHORT = ("state", "runtime", "summary", "pid", "document")
_KNOWN = ("receipt", "task_id", "task")
_others = attrgetter(*[field.name for field in attrs.fields(Outcome) if field.name not in (*_SHORT, *_KNOWN)])
_USUAL = _others(Outcome("", "", "", "", _RELEASE))
_document_fields = attrgetter(*[field.name for field in attrs.fields(Document)])


def encode_outcome(job: int, request: Request, outcome: Outcome) -> bytes:
    """The outcome of the request that the pool knows as *job*.

    :raises ValueError: it holds what is not plain.
    """
    document = outcome.document
    if (
        _others(outcome) == _USUAL
        and outcome.receipt == request.receipt
        and outcome.task_id == (request.id or "")
        and outcome.task == (request.task or "")
        and (document is None or document.extended is None)
    ):
        stored = None if document is None else _document_fields(document)
        return encode((job, outcome.state, outcome.runtime, outcome.summary, outcome.pid, stored))
    return encode((job, _to_fields(outcome), None))


def encode_fault(job: int, problem: str) -> bytes:
    """The runner itself failed at *job*."""
    return encode((job, problem))


def decode_fault(fields: list[Any]) -> str | None:
    """How the runner failed, if that is what :func:`decode` got."""
    return fields[1] if len(fields) == 2 else None


def decode_outcome(fields: list[Any], request: Request) -> Outcome:
    """The outcome of *request*, from what :func:`decode` made of it."""
    if len(fields) == 3:
        outcome: Outcome = _from_fields(fields[1])
        return outcome
    _, state, runtime, summary, pid, document = fields
    return Outcome(
        request.receipt,
        request.id or "",
        request.task or "",
        state,
        _RELEASE,
        None if document is None else Document(*document),
        runtime=runtime,
        pid=pid,
        summary=summary,
    )
