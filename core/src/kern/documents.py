"""Result documents: what became of a task, encoded where it ran and decoded where it is asked for.

Two forms (:class:`kern.contracts.result_store.DocumentForm`): *parts*, for stores that have a column for each field,
and *whole*, Celery's complete meta document with its keys in Celery's order, ``task_id`` last.

An exception travels as ``{"exc_type", "exc_message", "exc_module"}``: class name, arguments, module. Errors of kern
that Celery has, too, travel under Celery's module, so that either side finds its own class. Reading never imports a
module and never calls anything but the constructor of an exception class.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from types import ModuleType
from typing import Any, Final

import attrs

from kern.errors import (
    WIRE_MODULES,
    BackendStoreError,
    ContentDisallowed,
    DecodeError,
    EncodeError,
    MessageError,
    SecurityError,
)
from kern.log import get_logger
from kern.outcome import Document, ExtendedFields
from kern.request import Request
from kern.saferepr import saferepr
from kern.serialization import (
    DEFAULT_ACCEPT,
    JSON,
    PICKLE,
    Encoded,
    compress,
    decode,
    decompress,
    encode,
    encode_json,
    json_is_ours,
)
from kern.states import EXCEPTION_STATES, PROPAGATE_STATES, READY_STATES, SUCCESS
from kern.timeutil import clock, parse_datetime

_log = get_logger("kern.documents")

#: Bytes a compressed document may have once decompressed, where the caller names no limit.
DEFAULT_LIMIT: Final = 256 * 1024 * 1024

#: Bytes of one argument of an exception; what is larger is stored as its shortened representation.
MAX_EXCEPTION_ARGUMENT: Final = 1024 * 1024

#: Precedes a compressed document: this, the compression's header value, a zero byte, the compressed bytes.
_COMPRESSED = b"\x00celery-compressed\x00"

#: Characters of a traceback that are kept, from its end, where a document was refused and may be too large.
_KEPT_TRACEBACK: Final = 16_384

_CLASSES = {(module, cls.__name__): cls for cls, module in WIRE_MODULES.items()}


# -- writing -----------------------------------------------------------------------------------------------------------


def encode_document(
    task_id: str,
    status: str,
    value: Any,
    *,
    whole: bool,
    serializer: str = "json",
    traceback: str | None = None,
    request: Request | None = None,
    extended: bool = False,
    now: datetime | None = None,
    compression: str | None = None,
    strict: bool = False,
) -> Document:
    """The document of a task in either form.

    A value the serializer cannot write does not change what became of the task: its representation is stored in its
    place, and the traceback says so.

    :param value: the return value, the exception, or whatever a custom state carries.
    :param whole: Celery's complete document, else parts.
    :param request: the run; ``None`` for a document about a task that nobody here has a message of.
    :param extended: with task name, arguments, worker, retries, queue and stamps (setting ``result_extended``).
    :param now: when it became final, aware; ``None``: now, in UTC. Of no account for other states.
    :param compression: compresses a whole document (setting ``result_compression``; Celery 5.7 and later read it).
    :param strict: raise instead of storing a representation.
    :raises EncodeError: with *strict*: the value cannot be written.
    :raises ImproperlyConfigured: there is no such serializer or compression.
    """
    if status == SUCCESS and whole and serializer == "json" and not (extended or compression or traceback):
        document = _plain_success(task_id, value, request, now)
        if document is not None:
            return document
    date_done = (now or clock.utcnow()) if status in READY_STATES else None
    children = None if request is None else [_as_tuple(child) for child in request.children]
    group_id = (request.group if request is not None else None) or None
    parent_id = (request.parent_id if request is not None else None) or None
    plain, encoded, problem = _encode_value(status, value, serializer, strict)
    if problem:
        _log.warning("result-not-serialisable", task_id=task_id, type=type(value).__name__, problem=problem)
        traceback = traceback or f"The {type(value).__name__} could not be stored, its description was: {problem}"
    if traceback is not None:
        traceback = _writable(traceback)
    fields = _extended_fields(request, serializer) if extended and request is not None else None
    facts = _Facts(task_id, status, traceback, children, date_done, group_id, parent_id)
    return _assemble(facts, plain, encoded, fields, whole, serializer, compression)


def _plain_success(task_id: str, value: Any, request: Request | None, now: datetime | None) -> Document | None:
    """The whole document of most runs, written in one go; ``None``: this run has more to tell, or cannot be written."""
    if request is None or request.children or request.group or request.parent_id or not json_is_ours():
        return None
    try:
        result = encode_json(_as_tuple(value))
    except EncodeError:
        return None
    date_done = now or clock.utcnow()
    whole = (
        b'{"status": "SUCCESS", "result": %b, "traceback": null, "children": [], "date_done": "%b", "task_id": %b}'
        % (
            result,
            date_done.isoformat().encode("ascii"),
            encode_json(task_id),
        )
    )
    return Document(task_id, SUCCESS, None, JSON, "utf-8", None, [], date_done, None, None, None, whole)


def describe_unstorable(document: Document, error: Exception, serializer: str = "json") -> Document:
    """The same document with a sentence in place of its value, for a store that does not take the value.

    What became of the task stays as it was: ``SUCCESS`` stays ``SUCCESS``. What ``result_extended`` added is left out,
    for it may be what was too large.

    :param serializer: the one the document was encoded with.
    """
    reason = f"the result could not be stored: {error}"
    plain = describe_exception(BackendStoreError(reason)) if document.status in EXCEPTION_STATES else reason
    traceback = document.traceback
    if traceback is not None:
        reason = f"{traceback[-_KEPT_TRACEBACK:]}\n{reason}"
    facts = _Facts(
        document.task_id,
        document.status,
        _writable(reason),
        document.children,
        document.date_done,
        document.group_id,
        document.parent_id,
    )
    return _assemble(facts, plain, encode(plain, serializer), None, document.whole is not None, serializer, None)


@attrs.frozen
class _Facts:
    """What both forms of a document say beside the value."""

    task_id: str
    status: str
    traceback: str | None
    children: list[Any] | None
    date_done: datetime | None
    group_id: str | None
    parent_id: str | None


def _assemble(
    facts: _Facts,
    plain: Any,
    encoded: Encoded,
    fields: Mapping[str, Any] | None,
    whole: bool,
    serializer: str,
    compression: str | None,
) -> Document:
    document = None
    if whole:
        meta: dict[str, Any] = {
            "status": facts.status,
            "result": plain,
            "traceback": facts.traceback,
            "children": facts.children,
            "date_done": None if facts.date_done is None else facts.date_done.isoformat(),
        }
        if facts.group_id:
            meta["group_id"] = facts.group_id
        if facts.parent_id:
            meta["parent_id"] = facts.parent_id
        if fields:
            meta.update(fields)
        meta["task_id"] = facts.task_id
        document = _encode_whole(meta, encoded, serializer, compression)
    return Document(
        facts.task_id,
        facts.status,
        None if whole else encoded.body,
        encoded.content_type,
        encoded.content_encoding,
        facts.traceback,
        facts.children,
        facts.date_done,
        facts.group_id,
        facts.parent_id,
        None if whole or fields is None else _extended_parts(fields, serializer),
        document,
    )


def _encode_whole(meta: dict[str, Any], result: Encoded, serializer: str, compression: str | None) -> bytes:
    if serializer == "json" and json_is_ours():
        # The result is there already, and may be large: what comes before and after is put around it.
        head = encode_json(meta["status"])
        rest = {name: value for name, value in meta.items() if name not in ("status", "result")}
        body = b'{"status": %b, "result": %b, %b' % (head, result.body, encode_json(rest)[1:])
    else:
        body = encode(meta, serializer).body
    if compression:
        packed, header = compress(body, compression)
        body = _COMPRESSED + header.encode("ascii") + b"\x00" + packed
    return body


def _encode_value(status: str, value: Any, serializer: str, strict: bool) -> tuple[Any, Encoded, str]:
    """The value as it is stored, the same encoded, and what was wrong if that is only its representation."""
    plain = value
    if isinstance(value, BaseException) and status in EXCEPTION_STATES:
        plain = _storable_exception(value, serializer)
    elif serializer != "pickle":
        plain = _as_tuple(value)
    try:
        return plain, encode(plain, serializer), ""
    except EncodeError as error:
        if strict:
            raise
        shown = _writable(saferepr(value))
        return shown, encode(shown, serializer), str(error)


def _as_tuple(value: Any) -> Any:
    """A result object as ``((id, parent), children)``; everything else as it is."""
    # Not by class: results come after documents, and Celery's own would do as well. Decimals have as_tuple, too.
    kind = type(value)
    if hasattr(kind, "as_tuple") and hasattr(kind, "ready") and hasattr(kind, "forget"):
        return value.as_tuple()
    return value


def _extended_parts(fields: Mapping[str, Any], serializer: str) -> ExtendedFields:
    return ExtendedFields(
        name=fields["name"],
        args=encode(fields["args"], serializer).body,
        kwargs=encode(fields["kwargs"], serializer).body,
        worker=fields["worker"],
        retries=fields["retries"],
        queue=fields["queue"],
        stamped_headers=fields.get("stamped_headers"),
        stamps={name: fields[name] for name in fields.get("stamped_headers") or ()} or None,
    )


def _extended_fields(request: Request, serializer: str) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": request.task,
        "args": _storable(request.args, serializer),
        "kwargs": _storable(request.kwargs, serializer),
        "worker": request.hostname,
        "retries": request.retries,
        "queue": (request.delivery_info or {}).get("routing_key"),
    }
    if request.stamps:
        named = [name for name in request.stamped_headers or () if name in request.stamps]
        fields["stamped_headers"] = named
        fields.update((name, _storable(request.stamps[name], serializer)) for name in named)
    return fields


def _storable(value: Any, serializer: str) -> Any:
    """*value*, or its representation: the task may have made something of its arguments that cannot be written."""
    try:
        encode(value, serializer)
    except EncodeError:
        return _writable(saferepr(value))
    return value


def _writable(text: str) -> str:
    """Text that any serializer and any column takes: half a surrogate pair, as in names of files, is escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# -- exceptions --------------------------------------------------------------------------------------------------------


def describe_exception(exc: BaseException, serializer: str = "json") -> dict[str, Any]:
    """An exception as a mapping. Arguments that *serializer* cannot write become their representation.

    Takes exceptions of any manners, and raises none.
    """
    kind = type(exc)
    module = WIRE_MODULES.get(kind) or kind.__module__
    try:
        args = exc.args
    except Exception:  # a class may make a property of it
        args = ()
    return {
        "exc_type": kind.__qualname__,
        "exc_message": [
            _storable_argument(arg, serializer) for arg in (args if isinstance(args, tuple | list) else (args,))
        ],
        "exc_module": module if isinstance(module, str) else None,
    }


def rebuild_exception(description: Any) -> BaseException | None:
    """The exception that :func:`describe_exception`, or Celery, described.

    Its class is looked for among the modules that are loaded; a class that is not there is made up under the same
    name. A constructor that does not take the arguments is passed over.

    :param description: a mapping; an exception is answered as it is, and nothing with ``None``.
    :raises TypeError: it is neither.
    :raises ValueError: the mapping names no type.
    :raises SecurityError: what it names is no exception class.
    """
    if isinstance(description, BaseException):
        return _unwrapped(description)
    if not description:
        return None
    if not isinstance(description, Mapping):
        raise TypeError(f"a stored exception is a mapping, not a {type(description).__name__}: {saferepr(description)}")
    name, module = description.get("exc_type"), description.get("exc_module")
    if not isinstance(name, str) or not name:
        raise ValueError(f"a stored exception names its type as 'exc_type': {saferepr(description)}")
    if module is not None and not isinstance(module, str):
        raise ValueError(f"a stored exception names its module by text: {saferepr(description)}")
    message = description.get("exc_message", "")
    args = tuple(message) if isinstance(message, list | tuple) else (message,)
    cls = _find_class(module, name)
    if not isinstance(cls, type) or not issubclass(cls, BaseException):
        shown = f"{module}.{name}" if module else name
        raise SecurityError(f"the stored exception names {shown}, which is not an exception class")
    return _instance(cls, args)


def _find_class(module: str | None, name: str) -> Any:
    known = _CLASSES.get((module or "", name))
    if known is not None:
        return known
    found: Any = sys.modules.get(module) if module else None
    # A class that was made inside a function is found nowhere.
    if found is None or ".<locals>." in name:
        return _made_up(module, name)
    for part in name.split("."):
        # Not getattr: a module may answer it by importing another.
        if isinstance(found, ModuleType):
            spaces: Any = (vars(found),)
        elif isinstance(found, type):
            spaces = [vars(cls) for cls in found.__mro__]
        else:
            break
        for space in spaces:
            if part in space:
                found = space[part]
                break
        else:
            return _made_up(module, name)
    return found


@lru_cache(maxsize=256)
def _made_up(module: str | None, name: str) -> type[Exception]:
    """Stands for a class this process does not have."""
    fields = {"__module__": module or __name__, "__qualname__": name}
    return type(name.rpartition(".")[2] or name, (Exception,), fields)


def _instance(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    try:
        made = cls(*args)
        if isinstance(made, BaseException):
            return made
    except Exception:
        pass
    # args is what the class gave to Exception, which need not be what its own constructor takes.
    try:
        made = cls.__new__(cls, *args)
        made.args = args
        str(made), repr(made)
    except Exception:
        return Exception(f"{cls.__module__}.{cls.__qualname__}: {saferepr(args)}")
    return made


def _unwrapped(exc: BaseException) -> BaseException:
    """What Celery put into its wrapper for exceptions that cannot be pickled."""
    if type(exc).__name__ != "UnpickleableExceptionWrapper":
        return exc
    module, name, args = (getattr(exc, field, None) for field in ("exc_module", "exc_cls_name", "exc_args"))
    return _instance(_made_up(module if isinstance(module, str) else None, str(name)), tuple(args or ()))


def _storable_argument(arg: Any, serializer: str) -> Any:
    try:
        if len(encode(arg, serializer).body) <= MAX_EXCEPTION_ARGUMENT:
            return arg
    except EncodeError:
        pass
    return _writable(saferepr(arg))


def _storable_exception(exc: BaseException, serializer: str) -> Any:
    """With pickle the exception itself, where readers will be able to make it again; else its description."""
    if serializer != "pickle":
        return describe_exception(exc, serializer)
    # A reader without kern cannot unpickle kern's own classes, nor anything that has been put beside them.
    if str(type(exc).__module__).partition(".")[0] != "kern":
        for cls in type(exc).__mro__:
            if cls in (Exception, BaseException, object):
                break
            try:
                candidate = exc if cls is type(exc) else cls(*exc.args)
                if _survives_pickling(candidate):
                    return candidate
            except Exception:
                continue
    return describe_exception(exc, serializer)


def _survives_pickling(value: Any) -> bool:
    import pickle

    body = pickle.dumps(value)
    if len(body) > MAX_EXCEPTION_ARGUMENT:
        return False
    return isinstance(pickle.loads(body), BaseException)


# -- reading -----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Meta:
    """A decoded document."""

    task_id: str
    status: str
    #: The value; for states of failure the exception, made again.
    result: Any = None
    traceback: str | None = None
    #: Result tuples of the calls the task made.
    children: list[Any] | None = None
    #: Aware; ``None`` for a state that is not final.
    date_done: datetime | None = None
    group_id: str | None = None
    parent_id: str | None = None
    name: str | None = None
    args: Any = None
    kwargs: Any = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None
    stamped_headers: list[str] | None = None
    stamps: Mapping[str, Any] | None = None


def decode_document(document: Document, accept: frozenset[str] = DEFAULT_ACCEPT, limit: int = DEFAULT_LIMIT) -> Meta:
    """What a document says, whatever its form and whoever wrote it.

    :param accept: content types that may be decoded (settings ``result_accept_content``, ``accept_content``).
    :param limit: bytes it may have once decompressed.
    :raises ContentDisallowed: it is encoded in a way that is not accepted, such as the pickled rows of Celery 5.6.
    :raises DecodeError: it cannot be read.
    :raises SecurityError: it names something as an exception that is none.
    """
    if document.whole is not None:
        return _decode_whole(document, accept, limit)

    def value_of(body: bytes | None) -> Any:
        return None if body is None else _decode_payload(body, document, accept, limit)

    more = document.extended or ExtendedFields()
    return Meta(
        task_id=document.task_id,
        status=document.status,
        result=_result(document.status, value_of(document.result)),
        traceback=document.traceback,
        children=document.children,
        date_done=None if document.date_done is None else parse_datetime(document.date_done),
        group_id=document.group_id,
        parent_id=document.parent_id,
        name=more.name,
        args=value_of(more.args),
        kwargs=value_of(more.kwargs),
        worker=more.worker,
        retries=more.retries,
        queue=more.queue,
        stamped_headers=more.stamped_headers,
        stamps=more.stamps,
    )


def status_of(document: Document, accept: frozenset[str] = DEFAULT_ACCEPT, limit: int = DEFAULT_LIMIT) -> str | None:
    """The state a whole document tells of, without making anything of its result; ``None`` if it cannot be read.

    For stores that must know it before they overwrite a document.
    """
    body = document.whole
    if body is None:
        return document.status
    start = b'{"status": "'
    if document.content_type == JSON and body.startswith(start):
        end = body.find(b'"', len(start))
        if end > 0 and b"\\" not in body[len(start) : end]:
            return body[len(start) : end].decode("utf-8", "replace")
    try:
        meta = _decode_payload(body, document, accept, limit)
    except MessageError:
        return None
    status = meta.get("status") if isinstance(meta, Mapping) else None
    return status if isinstance(status, str) else None


def _decode_whole(document: Document, accept: frozenset[str], limit: int) -> Meta:
    assert document.whole is not None
    meta = _decode_payload(document.whole, document, accept, limit)
    if not isinstance(meta, Mapping) or not isinstance(meta.get("status"), str):
        raise DecodeError(f"the result of {document.task_id} is not a document: {saferepr(meta, 80)}")
    get = meta.get
    stamped = get("stamped_headers")
    stamped = [name for name in stamped if isinstance(name, str)] if isinstance(stamped, list | tuple) else None
    children = get("children")
    return Meta(
        task_id=_text(get("task_id")) or document.task_id,
        status=meta["status"],
        result=_result(meta["status"], get("result")),
        traceback=_text(get("traceback")),
        children=list(children) if isinstance(children, list | tuple) else None,
        date_done=_date(get("date_done")),
        group_id=_text(get("group_id")),
        parent_id=_text(get("parent_id")),
        name=_text(get("name")),
        args=get("args"),
        kwargs=get("kwargs"),
        worker=_text(get("worker")),
        retries=get("retries"),
        queue=_text(get("queue")),
        stamped_headers=stamped,
        stamps=None if stamped is None else {name: meta[name] for name in stamped if name in meta},
    )


def _decode_payload(body: bytes, document: Document, accept: frozenset[str], limit: int) -> Any:
    if body.startswith(_COMPRESSED):
        header, _, body = body[len(_COMPRESSED) :].partition(b"\x00")
        body = decompress(body, header.decode("ascii", "replace"), limit)
    content_type, encoding = document.content_type, document.content_encoding
    try:
        return decode(body, content_type, encoding, accept)
    except DecodeError:
        if not _looks_pickled(body):
            raise
    if PICKLE not in accept:
        raise ContentDisallowed(
            f"the result of {document.task_id} was pickled, as Celery before 5.7 does in its database, and pickle is "
            "not accepted; if everybody who writes there can be trusted, add it to the setting result_accept_content"
        )
    return decode(body, PICKLE, "binary", accept)


def _looks_pickled(body: bytes) -> bool:
    return len(body) > 3 and body[0] == 0x80 and 2 <= body[1] <= 5 and body[-1:] == b"."


def _result(status: str, value: Any) -> Any:
    if status not in EXCEPTION_STATES:
        return value
    try:
        error = rebuild_exception(value)
        if error is None and status in PROPAGATE_STATES:
            return Exception("the task ended with an error that was not stored")
        return error
    except (TypeError, ValueError):
        # Somebody stored this state with a value of his own (update_state); get() has to raise something.
        return Exception(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _date(value: Any) -> datetime | None:
    try:
        return None if value is None else parse_datetime(value)
    except ValueError:
        return None
