"""Messages as the bytes a server would keep."""

from __future__ import annotations

import base64
import json
from typing import Any

from kern.errors import DecodeError, EncodeError
from kern.message import Message


def encode(message: Message) -> bytes:
    """The record of *message*.

    :raises EncodeError: a header or property is not a JSON value; names it.
    """
    envelope = {
        "body": base64.b64encode(message.body).decode("ascii"),
        "headers": dict(message.headers),
        "properties": dict(message.properties),
        "content-type": message.content_type,
        "content-encoding": message.content_encoding,
    }
    try:
        return json.dumps(envelope).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise EncodeError(
            f"message {message.task_id}: {_culprit(message)} cannot be written as JSON: {error}"
        ) from error


def decode(raw: bytes) -> Message:
    """The message of a record.

    :raises DecodeError: it is none; says why.
    """
    try:
        envelope = json.loads(raw)
        return Message(
            body=base64.b64decode(envelope["body"], validate=True),
            headers=_mapping(envelope, "headers"),
            properties=_mapping(envelope, "properties"),
            content_type=str(envelope["content-type"]),
            content_encoding=str(envelope["content-encoding"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DecodeError(f"not a message: {type(error).__name__}: {error}") from error


def _mapping(envelope: dict[str, Any], name: str) -> dict[str, Any]:
    value = envelope[name]
    if not isinstance(value, dict):
        raise TypeError(f"{name!r} is {type(value).__name__}, not a mapping")
    return value


def _culprit(message: Message) -> str:
    for kind, mapping in (("header", message.headers), ("property", message.properties)):
        for key, value in mapping.items():
            try:
                json.dumps({key: value})
            except (TypeError, ValueError, RecursionError):
                return f"{kind} {key!r}"
    return "the message"
