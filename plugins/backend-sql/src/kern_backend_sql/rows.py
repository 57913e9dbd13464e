"""Documents as rows of Celery's table, and back.

Celery's columns do not hold everything a document has. The rest goes into the column ``stamps``, an encoded mapping of
which Celery reads two keys: under ``kern`` is what else is to be kept, with a checksum that tells whether the row is
still the one it was written with.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from kern.errors import ImproperlyConfigured, MessageError
from kern.outcome import Document, ExtendedFields
from kern.serialization import CONTENT_TYPES, JSON, content_type_of, decode, encode
from kern.states import READY_STATES
from kern_backend_sql import legacy
from kern_backend_sql.tables import Layout
from kern_sql_engine import Family

#: What rows say nothing about: results that expire after a day.
DEFAULT_EXPIRES = 86400.0

_TEXT_ENCODINGS = frozenset({JSON, CONTENT_TYPES["yaml"]})
#: Bytes that a column of text keeps in MySQL where Celery made it.
NARROW = 65_535

Row = tuple[Any, ...]


@attrs.frozen
class Kept:
    """What a row says of itself."""

    document: Document
    #: Seconds it lives; ``None``: for ever.
    expires: float | None
    #: What its life is counted from; naive, in UTC.
    since: datetime | None

    def expired(self, now: datetime) -> bool:
        return (
            self.expires is not None and self.since is not None and self.since + timedelta(seconds=self.expires) <= now
        )


class Rows:
    """Converts between documents and rows.

    :param serializer: of the store: what encodes results, and what a row is encoded with that does not say.
    :param expires: seconds results live; ``None``: for ever.
    """

    def __init__(self, family: Family, serializer: str = "json", expires: float | None = DEFAULT_EXPIRES) -> None:
        self._family = family
        self._serializer = serializer
        self.content_type = content_type_of(serializer)
        self.content_encoding = "utf-8" if self.content_type in _TEXT_ENCODINGS else "binary"
        self.expires = expires
        self._accept = frozenset({self.content_type})

    # -- to a row

    def of(self, document: Document, layout: Layout | None = None) -> Row:
        """The row of *document*, in the order of :data:`~kern_backend_sql.tables.TASK_COLUMNS`.

        :param layout: of the table it is for, where that is known.
        :raises EncodeError: children or stamps cannot be encoded.
        """
        more = document.extended
        done = document.date_done
        moment = naive(done) if done is not None else now()
        rest: dict[str, Any] = {}
        if document.group_id is not None:
            rest["group_id"] = document.group_id
        if document.parent_id is not None:
            rest["parent_id"] = document.parent_id
        if document.content_type != self.content_type:
            rest["content_type"] = document.content_type
        if document.content_encoding != self.content_encoding:
            rest["content_encoding"] = document.content_encoding
        if self.expires != DEFAULT_EXPIRES:
            rest["expires"] = self.expires
        if layout is not None and layout.coarse and moment.microsecond:
            rest["microsecond"] = moment.microsecond
            moment = moment.replace(microsecond=0)
        traceback = document.traceback
        if traceback is not None:
            kept = _storable(traceback)
            if kept != traceback:
                rest["traceback"], traceback = traceback.encode("utf-8", "surrogatepass"), kept
            if layout is not None and layout.narrow:
                traceback = _end_of(traceback)
        children = document.children
        return (
            document.task_id,
            document.status,
            document.result,
            moment.isoformat(" ", "microseconds") if self._family is Family.SQLITE else moment,
            traceback,
            None
            if children is None
            else b"[]"
            if not children and self._serializer == "json"
            else self._encode(children),
            *((more.name, more.args, more.kwargs, more.worker, more.retries, more.queue) if more else (None,) * 6),
            self._stamps(document, rest),
        )

    def _stamps(self, document: Document, rest: dict[str, Any]) -> bytes | None:
        more = document.extended
        stamped = more is not None and (more.stamped_headers is not None or more.stamps is not None)
        if not rest and not stamped:
            return None
        written: dict[str, Any] = {}
        if stamped and more is not None:
            written["stamped_headers"] = more.stamped_headers
            written["stamps"] = more.stamps
        if rest:
            rest["of"] = _checksum(document.status, document.result)
            written["kern"] = rest
        return self._encode(written)

    def _encode(self, value: Any) -> bytes:
        return encode(value, self._serializer).body

    # -- from a row

    def kept(self, columns: Sequence[str], row: Sequence[Any]) -> Kept:
        """What *row* says, whoever wrote it."""
        read = dict(zip(columns, row, strict=True))
        status = read["status"] or "PENDING"
        result = _bytes(read.get("result"))
        stamps = self._read_stamps(_bytes(read.get("stamps")))
        rest = stamps.get("kern")
        if not isinstance(rest, dict) or rest.get("of") != _checksum(status, result):
            # Somebody has written the row anew who knows nothing of this.
            rest = {}
        since = _moment(read.get("date_done"))
        if since is not None and isinstance(rest.get("microsecond"), int):
            since = since.replace(microsecond=rest["microsecond"])
        content_type = rest.get("content_type", self.content_type)
        content_encoding = rest.get("content_encoding", self.content_encoding)
        if result is not None and content_type != CONTENT_TYPES["pickle"] and legacy.looks_pickled(result):
            plain = legacy.as_json(result)
            if plain is not None:
                result, content_type, content_encoding = plain, JSON, "utf-8"
        traceback = rest.get("traceback", read.get("traceback"))
        if isinstance(traceback, bytes):
            traceback = traceback.decode("utf-8", "surrogatepass")
        document = Document(
            task_id=read["task_id"],
            status=status,
            result=result,
            content_type=content_type,
            content_encoding=content_encoding,
            traceback=traceback,
            children=self._read_children(_bytes(read.get("children"))),
            date_done=since.replace(tzinfo=UTC) if since is not None and status in READY_STATES else None,
            group_id=rest.get("group_id"),
            parent_id=rest.get("parent_id"),
            extended=_extended(read, stamps),
        )
        return Kept(document, rest.get("expires", self.expires), since)

    def _read_stamps(self, body: bytes | None) -> Mapping[str, Any]:
        found = self._decode(body) if body else None
        return found if isinstance(found, Mapping) else {}

    def _read_children(self, body: bytes | None) -> list[Any] | None:
        found = self._decode(body) if body else None
        return list(found) if isinstance(found, list | tuple) else None

    def _decode(self, body: bytes) -> Any:
        try:
            return decode(body, self.content_type, self.content_encoding, self._accept)
        except (MessageError, ImproperlyConfigured):
            return None


def _storable(text: str) -> str:
    """As every database keeps it: without NUL and halves of surrogate pairs."""
    if "\0" in text:
        text = text.replace("\0", "\\x00")
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _end_of(text: str) -> str:
    """What fits a narrow column: the end, which says what happened."""
    written = text.encode()
    if len(written) <= NARROW:
        return text
    return "…\n" + written[10 - NARROW :].decode("utf-8", "ignore")


def now() -> datetime:
    """The time as columns have it: naive, in UTC."""
    return datetime.now(UTC).replace(tzinfo=None)


def naive(moment: datetime) -> datetime:
    """*moment* as columns have it."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo is not None else moment


def _moment(value: Any) -> datetime | None:
    """What a column of time has; SQLite has text."""
    if isinstance(value, datetime):
        return naive(value)
    if isinstance(value, str):
        try:
            return naive(datetime.fromisoformat(value))
        except ValueError:
            return None
    return None


def _bytes(value: Any) -> bytes | None:
    if value is None:
        return None
    return value.encode() if isinstance(value, str) else bytes(value)


def _checksum(status: str, result: bytes | None) -> int:
    return zlib.crc32(result or b"", zlib.crc32(status.encode("utf-8", "replace")))


def _extended(read: Mapping[str, Any], stamps: Mapping[str, Any]) -> ExtendedFields | None:
    fields = [read.get(column) for column in ("name", "args", "kwargs", "worker", "retries", "queue")]
    headers, values = stamps.get("stamped_headers"), stamps.get("stamps")
    if all(field is None for field in (*fields, headers, values)):
        return None
    name, args, kwargs, worker, retries, queue = fields
    return ExtendedFields(
        name=name,
        args=_bytes(args),
        kwargs=_bytes(kwargs),
        worker=worker,
        retries=retries,
        queue=queue,
        stamped_headers=list(headers) if isinstance(headers, list | tuple) else None,
        stamps=values if isinstance(values, Mapping) else None,
    )
