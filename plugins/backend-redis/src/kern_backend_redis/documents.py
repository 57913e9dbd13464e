"""Stored documents: what they tell of themselves without being decoded.

A document says in its first bytes what encoded it and which state it tells of, for each serializer that Celery brings.
So neither a state has to be believed from a setting, nor anything unpickled to find one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import attrs

from kern.documents import DEFAULT_LIMIT, status_of
from kern.errors import MessageError
from kern.log import get_logger
from kern.outcome import Document
from kern.serialization import CONTENT_TYPES, JSON, PICKLE, decompress
from kern.timeutil import parse_datetime

logger = get_logger("kern.documents")

#: Precedes a compressed document: this, the compression's header value, a zero byte, the compressed bytes.
COMPRESSED = b"\x00celery-compressed\x00"

_JSON = re.compile(rb'\{\s*"status"\s*:\s*"([^"\\]*)"')
_MSGPACK = re.compile(rb"(?:[\x80-\x8f]|\xde..)\xa6status([\xa0-\xbf])", re.DOTALL)
_PICKLE_4 = re.compile(rb"\x80[\x04\x05]\x95.{8}\}\x94\(\x8c\x06status\x94\x8c(.)", re.DOTALL)
_PICKLE_2 = re.compile(rb"\x80[\x02\x03]\}q.\(X\x06\x00\x00\x00statusq.X(.)\x00\x00\x00", re.DOTALL)
# Keys are sorted; in column 0 stand only those of the document itself.
_YAML = re.compile(rb"^status: ([^'\"\n]+)$", re.MULTILINE)

_YAML_TYPE, _MSGPACK_TYPE = CONTENT_TYPES["yaml"], CONTENT_TYPES["msgpack"]
#: What shows its state if it is what it says.
_SHOWN = frozenset({JSON, PICKLE, _YAML_TYPE, _MSGPACK_TYPE})


def look(body: bytes) -> tuple[str | None, tuple[str, str] | None]:
    """The state that a document tells of, and its content type and encoding; ``None`` for what cannot be seen."""
    if body.startswith(COMPRESSED):
        unpacked = unpack(body)
        return (None, None) if unpacked is None else look(unpacked)
    if (found := _JSON.match(body)) is not None:
        return found[1].decode("utf-8", "replace"), (JSON, "utf-8")
    for pattern, base, kind in ((_MSGPACK, 160, _MSGPACK_TYPE), (_PICKLE_4, 0, PICKLE), (_PICKLE_2, 0, PICKLE)):
        if (found := pattern.match(body)) is not None:
            end = found.end() + found[1][0] - base
            return body[found.end() : end].decode("utf-8", "replace"), (kind, "binary")
    if (found := _YAML.search(body)) is not None:
        return found[1].decode(), (_YAML_TYPE, "utf-8")
    return None, None


def unpack(body: bytes) -> bytes | None:
    """A compressed document's content; ``None`` if it cannot be unpacked here."""
    header, _, packed = body[len(COMPRESSED) :].partition(b"\x00")
    try:
        return decompress(packed, header.decode("ascii", "replace"), DEFAULT_LIMIT)
    except MessageError as error:
        logger.warning("a stored result cannot be decompressed", compression=header, error=str(error))
        return None


class Reader:
    """Makes documents of what is stored.

    :param content_type: of what this application's serializer writes: what shows no type of its own is taken for that.
    """

    def __init__(self, content_type: str, content_encoding: str) -> None:
        self._default = (content_type, content_encoding)
        self._own = frozenset({content_type})

    def document(self, task_id: str, body: bytes) -> Document:
        """The document stored as *body*."""
        if body.startswith(b"{"):
            try:
                head = (_read_head or _load_msgspec())(body)
            except Exception:
                head = _read_slowly(body)
            if head is not None:
                return Document(
                    task_id,
                    head.status,
                    None,
                    JSON,
                    "utf-8",
                    head.traceback,
                    head.children,
                    _date(head.date_done),
                    head.group_id,
                    head.parent_id,
                    None,
                    body,
                )
        status, form = look(body)
        content_type, content_encoding = form or self._default
        document = Document(task_id, status or "", None, content_type, content_encoding, whole=body)
        if status is None and content_type not in _SHOWN:
            # A serializer of the user's own.
            return attrs.evolve(document, status=status_of(document, self._own) or "")
        return document


def _date(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_datetime(text)
    except ValueError:
        return None


def _read_slowly(body: bytes) -> Any:
    """The same of text that only Python's JSON writes (NaN, half a surrogate pair); ``None``: it is no document."""
    import msgspec

    try:
        return msgspec.convert(json.loads(body), _Head)
    except (ValueError, RecursionError):
        return None


_read_head: Callable[[bytes], Any] | None = None
_Head: Any = None


def _load_msgspec() -> Callable[[bytes], Any]:
    # With the first document: a process that only writes results reads none.
    global _read_head, _Head
    import msgspec

    _Head = msgspec.defstruct(
        "Head",
        [
            ("status", str),
            ("traceback", str | None, None),
            ("children", list[Any] | None, None),
            ("date_done", str | None, None),
            ("group_id", str | None, None),
            ("parent_id", str | None, None),
        ],
        gc=False,
    )
    _read_head = msgspec.json.Decoder(_Head).decode
    return _read_head
