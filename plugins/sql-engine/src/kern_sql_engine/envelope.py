r"""Messages as the database keeps them: one line of JSON, then the body as it is.

::

    {"headers": {…}, "properties": {…}, "content-type": "application/json", "content-encoding": "utf-8"}\n
    [[2, 3], {}, {"callbacks": null, …}]

These bytes are made once, when a message is published; claiming, quarantine and replay move them and never make them
anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kern.errors import DecodeError, EncodeError
from kern.message import Message, Publication
from kern.serialization import decode_json, encode_json


def encode(message: Message) -> bytes:
    """The record of *message*.

    :raises EncodeError: a header or property is not a JSON value; names it.
    """
    head = {
        "headers": message.headers if type(message.headers) is dict else dict(message.headers),
        "properties": message.properties if type(message.properties) is dict else dict(message.properties),
        "content-type": message.content_type,
        "content-encoding": message.content_encoding,
    }
    try:
        # JSON escapes line breaks: the first one ends the head.
        return b"%b\n%b" % (encode_json(head), message.body)
    except EncodeError as error:
        raise EncodeError(f"message {message.task_id}: {_culprit(head)}: {error}") from error
    except TypeError as error:
        raise EncodeError(f"message {message.task_id}: the body is not bytes: {error}") from error


def decode(raw: bytes) -> Message:
    """The message of a record.

    :raises DecodeError: it is none; says why.
    """
    line, found, body = raw.partition(b"\n")
    if not found:
        raise DecodeError("not a message: no head that ends with a line break")
    head = decode_json(line)
    if not isinstance(head, dict):
        raise DecodeError(f"not a message: the head is a {type(head).__name__}, not a mapping")
    return Message(
        body,
        _field(head, "headers", dict),
        _field(head, "properties", dict),
        _field(head, "content-type", str),
        _field(head, "content-encoding", str),
    )


def encode_publications(publications: Sequence[Publication]) -> bytes:
    """Messages that wait for something, and where each goes.

    :raises EncodeError: one cannot be written down.
    """
    return encode_json(
        [
            {
                "exchange": publication.exchange,
                "routing_key": publication.routing_key,
                "exchange_type": publication.exchange_type,
                "due": publication.due,
                "attempts": publication.attempts,
                "message": encode(publication.message),
            }
            for publication in publications
        ]
    )


def decode_publications(written: bytes) -> tuple[Publication, ...]:
    """What :func:`encode_publications` wrote.

    :raises DecodeError: it is not that.
    """
    try:
        return tuple(Publication(**{**each, "message": decode(each["message"])}) for each in decode_json(written))
    except (TypeError, KeyError, AttributeError) as error:
        raise DecodeError(f"not a list of publications: {error}") from error


def _field(head: dict[str, Any], name: str, kind: type) -> Any:
    value = head.get(name)
    if not isinstance(value, kind):
        raise DecodeError(f"not a message: {name!r} is a {type(value).__name__}, not a {kind.__name__}")
    return value


def _culprit(head: dict[str, Any]) -> str:
    for kind, name in (("header", "headers"), ("property", "properties")):
        for key, value in head[name].items():
            try:
                encode_json({key: value})
            except EncodeError:
                return f"{kind} {key!r}"
    return "content type or encoding"
