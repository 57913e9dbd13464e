"""Messages as kombu writes them on a virtual transport: one JSON object, the body in base64 inside.

Byte for byte what kombu writes, with its keys in its order. Read is whatever carries the same, in any order: also
without headers or properties, without a tag, with its body as plain text.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from typing import Any

import attrs

from kern.errors import DecodeError
from kern.identity import new_id
from kern.message import Message, Publication
from kern.saferepr import saferepr
from kern.serialization import decode_json, encode_json

#: Properties that are the transport's own: what a message brings along of them is not sent on.
_OWN = ("delivery_info", "body_encoding", "delivery_tag")


@attrs.frozen
class Envelope:
    """A message as it was found."""

    message: Message
    #: Where it was published to; empty text when it does not say.
    exchange: str
    routing_key: str
    #: The publisher's name for it; empty text when it has none. Not unique: copies share it.
    tag: str
    #: It says itself that it was delivered before.
    redelivered: bool


new_tag: Callable[[], str] = new_id


def encode(publication: Publication, tag: str) -> bytes:
    """The envelope of *publication*.

    :param tag: kombu's delivery tag, from :func:`new_tag`.
    :raises EncodeError: a header or property is nothing that JSON knows; names the type.
    """
    message = publication.message
    properties = dict(message.properties)
    priority = properties.pop("priority", 0)
    if "delivery_tag" in properties or "delivery_info" in properties or "body_encoding" in properties:
        # It came from a broker: what that one added is made anew, and stands at the end again.
        properties = {name: value for name, value in properties.items() if name not in _OWN}
    properties["delivery_info"] = {"exchange": publication.exchange, "routing_key": publication.routing_key}
    properties["priority"] = priority
    properties["body_encoding"] = "base64"
    properties["delivery_tag"] = tag
    return encode_json(
        {
            "body": b2a_base64(message.body, newline=False).decode("ascii"),
            "content-encoding": message.content_encoding,
            "content-type": message.content_type,
            "headers": message.headers,
            "properties": properties,
        }
    )


def decode(raw: bytes) -> Envelope:
    """What *raw* says.

    :raises DecodeError: it is no envelope of a message; says why not.
    """
    # Values with a type of their own are rare, and text that JSON has no word for (NaN) is rarer.
    if b'"__type__"' not in raw:
        try:
            found = (_read_typed or _load_msgspec())(raw)
        except Exception:
            return _decode_slowly(raw)
        body, content_type, content_encoding = found.body, found.content_type, found.content_encoding
        headers, properties = found.headers, found.properties
        if body is not None and headers is not None and properties is not None:
            return _envelope(body, content_type, content_encoding, headers, properties)
    return _decode_slowly(raw)


def _decode_slowly(raw: bytes) -> Envelope:
    """What is tolerated, and what is wrong with all else."""
    value = decode_json(raw)
    if not isinstance(value, dict):
        raise DecodeError(f"it is JSON, but no message: {_what(value)} instead of an object with 'body' and 'headers'")
    if "body" not in value:
        raise DecodeError(f"it is JSON, but no message: it has no 'body'; its keys are {saferepr(list(value), 200)}")
    body = "" if value["body"] is None else value["body"]
    fields = {name: value.get(name) or {} for name in ("headers", "properties")}
    for name, content in fields.items():
        if not isinstance(content, dict):
            raise DecodeError(f"the message's {name!r} are no object, but {_what(content)}")
    texts = {name: value.get(name) for name in ("content-type", "content-encoding")}
    for name, content in {"body": body, **texts}.items():
        if content is not None and not isinstance(content, str):
            raise DecodeError(f"the message's {name!r} is no text, but {_what(content)}")
    return _envelope(body, texts["content-type"], texts["content-encoding"], fields["headers"], fields["properties"])


def _envelope(
    body: str,
    content_type: str | None,
    content_encoding: str | None,
    headers: dict[str, Any],
    properties: dict[str, Any],
) -> Envelope:
    encoding = properties.get("body_encoding")
    if encoding == "base64":
        try:
            content = a2b_base64(body)
        except (Base64Error, ValueError) as error:
            raise DecodeError(f"the message's 'body' is not the base64 it says it is: {error}") from None
    elif not encoding or (isinstance(encoding, str) and encoding.lower() in ("utf-8", "utf8")):
        content = body.encode("utf-8", "surrogatepass")
    else:
        raise DecodeError(f"the message's 'body_encoding' is {saferepr(encoding, 80)}; known are base64 and utf-8")
    info = properties.get("delivery_info")
    exchange = routing_key = ""
    redelivered = False
    if type(info) is dict:
        exchange, routing_key = _text(info.get("exchange")), _text(info.get("routing_key"))
        redelivered = info.get("redelivered") is True
    return Envelope(
        Message(content, headers, properties, content_type or "application/data", content_encoding or "utf-8"),
        exchange,
        routing_key,
        _text(properties.get("delivery_tag")),
        redelivered,
    )


def restored(unacked: bytes) -> tuple[bytes, str, str]:
    """What Celery's lease *unacked* (a value of its hash) holds: the envelope as Celery puts it back, and where to.

    :return: envelope, exchange, routing key.
    :raises DecodeError: it is no such value; says why not.
    """
    value = decode_json(unacked)
    if not isinstance(value, list) or len(value) != 3 or not isinstance(value[0], dict):
        raise DecodeError(f"no lease of Celery's: {_what(value)} instead of [message, exchange, routing key]")
    envelope, exchange, routing_key = value
    headers, properties = envelope.get("headers"), envelope.get("properties")
    if isinstance(headers, dict):
        headers["redelivered"] = True
    info = properties.get("delivery_info") if isinstance(properties, dict) else None
    if isinstance(info, dict):
        info["redelivered"] = True
    return encode_json(envelope), _text(exchange), _text(routing_key)


def published_as(message_id: str, exchange: str, routing_key: str) -> str:
    """The member that says in ``kern.published.*`` that this id was published there.

    Not the id alone: one id may be in two queues, and a call sent on to another queue must not be swallowed.
    """
    return f"{message_id}@{exchange}\x06\x16{routing_key}" if exchange else f"{message_id}@{routing_key}"


_read_typed: Callable[[bytes], Any] | None = None


def _load_msgspec() -> Callable[[bytes], Any]:
    # With the first message, not with this module: a client that only publishes reads none.
    global _read_typed
    import msgspec

    made = msgspec.defstruct(
        "Found",
        [
            ("body", str | None, None),
            ("content_type", str | None, None),
            ("content_encoding", str | None, None),
            ("headers", dict[str, Any] | None, None),
            ("properties", dict[str, Any] | None, None),
        ],
        rename={"content_type": "content-type", "content_encoding": "content-encoding"},
        gc=False,
    )
    _read_typed = msgspec.json.Decoder(made).decode
    return _read_typed


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _what(value: Any) -> str:
    return f"{saferepr(value, 80)} ({type(value).__name__})"
