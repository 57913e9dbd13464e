"""Celery's task messages: protocol 2 written and read, protocol 1 written where asked for and always read.

A protocol 2 message is ``[args, kwargs, embed]`` as body, and nineteen headers that say everything a worker needs to
know before it lets anybody decode the body (:data:`kern.message.PROTOCOL_2_HEADERS`). The presence of the header
``task`` tells it from protocol 1, whose headers are empty and whose body is one mapping.

:func:`build_v2` is the client's hot path, :func:`peek` and :func:`request_from` are the worker's.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import attrs

from kern.delivery import Delivery
from kern.errors import ContentDisallowed, EncodeError, InvalidTaskError
from kern.message import CONTINUATIONS, PROTOCOL_2_HEADERS, Message
from kern.request import Request
from kern.saferepr import masked, saferepr
from kern.serialization import (
    DEFAULT_ACCEPT,
    JSON,
    compress,
    decode,
    decompress,
    encode,
    encode_json,
    find_unserialisable,
    json_is_ours,
    require_accepted,
    serializer_of,
)
from kern.timeutil import clock, parse_datetime

#: Bytes a body may have once decompressed, where the caller names no limit.
DEFAULT_LIMIT: Final = 256 * 1024 * 1024

#: How the body of a call without continuations ends.
_NO_EMBED = b', {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'

_PROTOCOL_2_HEADERS = frozenset(PROTOCOL_2_HEADERS)

#: Headers that are the protocol's or the broker's business; all others are the caller's own.
_KNOWN_HEADERS = frozenset({*PROTOCOL_2_HEADERS, "compression", "utc", "meth"})

#: Headers RabbitMQ adds to a message that died, and by which it recognises cycles: they must not travel on.
_DEATH_HEADERS = ("x-death", "x-first-death-", "x-last-death-")


# -- writing -----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Call:
    """Everything a task message says. Times and ids are fixed: building a message decides nothing."""

    name: str
    id: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = attrs.field(factory=dict)

    #: Not to be started before; an aware datetime, or ISO text which is sent as it is.
    eta: datetime | str | None = None
    #: Not to be started after.
    expires: datetime | str | None = None
    #: Seconds until :attr:`expires`, for the broker; ``None``: counted from now.
    expiration: float | None = None
    retries: int = 0
    #: Seconds, hard.
    time_limit: float | None = None
    soft_time_limit: float | None = None

    #: The first task of the workflow; ``None``: this one.
    root_id: str | None = None
    #: The task that makes the call.
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    replaced_task_nesting: int = 0
    callbacks: Sequence[Any] | None = None
    errbacks: Sequence[Any] | None = None
    #: What remains of a chain, in reverse: the last element runs next.
    chain: Sequence[Any] | None = None
    chord: Any = None

    #: The name to be shown instead.
    shadow: str | None = None
    #: Who makes the call; ``None``: ``gen<pid>@<host>``.
    origin: str | None = None
    #: ``None``: what the task says.
    ignore_result: bool | None = None
    stamped_headers: Sequence[str] | None = None
    stamps: Mapping[str, Any] = attrs.field(factory=dict)
    #: The caller's own headers. One that is named like a protocol header replaces it.
    headers: Mapping[str, Any] | None = None

    reply_to: str = ""
    priority: int | None = None
    #: 2 is kept on disk by the broker, 1 is not.
    delivery_mode: int = 2
    #: Further message properties.
    properties: Mapping[str, Any] | None = None

    serializer: str = "json"
    compression: str | None = None
    #: What is shown of the arguments; ``None``: made of them.
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    repr_maxlen: int = 1024
    repr_maxlevels: int = 3
    #: Parameters whose values are never shown, and all parameters in order.
    sensitive: Collection[str] = ()
    parameter_names: Sequence[str] = ()
    #: Protocol 1 alone: the setting ``enable_utc``.
    utc: bool = True


def build_v2(call: Call) -> Message:
    """The protocol 2 message of a call.

    :raises TypeError: *args* is no list or tuple, *kwargs* no mapping with text as keys.
    :raises EncodeError: an argument cannot be serialised; names it.
    :raises ImproperlyConfigured: there is no such serializer or compression.
    """
    args, kwargs = call.args, call.kwargs
    _check_arguments(args, kwargs)
    argsrepr, kwargsrepr = _representations(call)
    task_id = call.id
    headers: dict[str, Any] = {
        "lang": "py",
        "task": call.name,
        "id": task_id,
        "shadow": call.shadow,
        "eta": _iso(call.eta),
        "expires": _iso(call.expires),
        "group": call.group,
        "group_index": call.group_index,
        "retries": call.retries,
        "timelimit": [call.time_limit, call.soft_time_limit],
        "root_id": call.root_id or task_id,
        "parent_id": call.parent_id,
        "argsrepr": argsrepr,
        "kwargsrepr": kwargsrepr,
        "origin": call.origin or origin(),
        "ignore_result": call.ignore_result,
        "replaced_task_nesting": call.replaced_task_nesting,
        "stamped_headers": call.stamped_headers,
        "stamps": call.stamps,
    }
    if call.headers:
        headers.update(call.headers)
    body, content_type, content_encoding = _encode_body(call)
    if call.compression:
        body, headers["compression"] = compress(body, call.compression)
    return Message(body, headers, _properties(call), content_type, content_encoding)


@attrs.frozen
class Template:
    """A message of a call that says nothing but its arguments; the next one of the kind differs in little else.

    Made of such a message (:meth:`of`); :meth:`message` writes what :func:`build_v2` would.
    """

    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    repr_maxlen: int
    repr_maxlevels: int

    @classmethod
    def of(cls, call: Call, message: Message) -> Template | None:
        """The template of which *message* would have been made; ``None``: it says more than a template knows."""
        more: tuple[Any, ...] = (
            *(call.headers, call.properties, call.compression, call.sensitive, call.argsrepr, call.kwargsrepr),
            *(call.callbacks, call.errbacks, call.chain, call.chord, call.stamped_headers, call.stamps, call.origin),
            *(call.eta, call.expires, call.expiration, call.root_id, call.parent_id),
        )
        if any(more) or call.serializer != "json" or message.headers.keys() != _PROTOCOL_2_HEADERS:
            return None
        return cls(message.headers, message.properties, call.repr_maxlen, call.repr_maxlevels)

    def message(
        self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], shadow: str | None, reply_to: str
    ) -> Message | None:
        """The message of one call; ``None`` where :func:`build_v2` has to do it, or to say what is wrong."""
        if type(kwargs) is not dict or not json_is_ours() or not isinstance(args, list | tuple):
            return None
        for name in kwargs:
            if not isinstance(name, str):
                return None
        try:
            body = encode_json((args, kwargs))[:-1] + _NO_EMBED
        except EncodeError:
            return None
        headers = dict(self.headers)
        headers["id"] = headers["root_id"] = task_id
        headers["shadow"] = shadow
        headers["timelimit"] = list(headers["timelimit"])
        headers["argsrepr"] = saferepr(args, self.repr_maxlen, self.repr_maxlevels)
        headers["kwargsrepr"] = saferepr(kwargs, self.repr_maxlen, self.repr_maxlevels) if kwargs else "{}"
        headers["origin"] = origin()
        headers["stamps"] = {}
        properties = dict(self.properties)
        properties["correlation_id"] = task_id
        properties["reply_to"] = reply_to
        return Message(body, headers, properties)


def build_v1(call: Call) -> Message:
    """The protocol 1 message of a call, for consumers that know no other.

    Root and parent, origin, stamps, ``shadow`` and ``ignore_result`` have no place in it. A chain becomes links.

    :raises TypeError: as :func:`build_v2`, like the rest.
    """
    _check_arguments(call.args, call.kwargs)
    callbacks = list(call.callbacks) if call.callbacks is not None else None
    if call.chain:
        callbacks = [*(callbacks or ()), _chain_as_links(call.chain)]
    fields = {
        "task": call.name,
        "id": call.id,
        "args": call.args,
        "kwargs": call.kwargs,
        "group": call.group,
        "group_index": call.group_index,
        "retries": call.retries,
        "eta": _iso(call.eta),
        "expires": _iso(call.expires),
        "utc": call.utc,
        "callbacks": callbacks,
        "errbacks": call.errbacks,
        "timelimit": (call.time_limit, call.soft_time_limit),
        "taskset": call.group,
        "chord": call.chord,
    }
    try:
        encoded = encode(fields, call.serializer)
    except EncodeError as error:
        raise _named(error, call) from error
    headers = dict(call.headers or ())
    body = encoded.body
    if call.compression:
        body, headers["compression"] = compress(body, call.compression)
    return Message(body, headers, _properties(call), encoded.content_type, encoded.content_encoding)


def origin() -> str:
    """Who publishes, as Celery names a process that is no worker: ``gen<pid>@<host>``."""
    global _origin
    pid = os.getpid()
    if _origin[0] != pid:
        _origin = (pid, f"gen{pid}@{socket.gethostname()}")
    return _origin[1]


_origin = (0, "")


def _check_arguments(args: Any, kwargs: Any) -> None:
    if not isinstance(args, list | tuple):
        raise TypeError(f"the positional arguments of a task must be a list or tuple, not {type(args).__name__}")
    if type(kwargs) is not dict and not isinstance(kwargs, Mapping):
        raise TypeError(f"the keyword arguments of a task must be a mapping, not {type(kwargs).__name__}")
    for name in kwargs:
        if not isinstance(name, str):
            raise TypeError(f"the keyword arguments of a task are named by text, not by {name!r}")


def _representations(call: Call) -> tuple[str, str]:
    argsrepr, kwargsrepr = call.argsrepr, call.kwargsrepr
    if argsrepr is not None and kwargsrepr is not None:
        return argsrepr, kwargsrepr
    if call.sensitive:
        shown = masked(
            call.args, call.kwargs, call.sensitive, call.parameter_names, call.repr_maxlen, call.repr_maxlevels
        )
    else:
        shown = (
            saferepr(call.args, call.repr_maxlen, call.repr_maxlevels),
            saferepr(call.kwargs, call.repr_maxlen, call.repr_maxlevels),
        )
    return shown[0] if argsrepr is None else argsrepr, shown[1] if kwargsrepr is None else kwargsrepr


def _encode_body(call: Call) -> tuple[bytes, str, str]:
    args, kwargs, serializer = call.args, call.kwargs, call.serializer
    plain = call.callbacks is None and call.errbacks is None and call.chain is None and call.chord is None
    try:
        if plain and serializer == "json" and json_is_ours():
            if type(kwargs) is not dict:
                kwargs = dict(kwargs)
            return encode_json((args, kwargs))[:-1] + _NO_EMBED, JSON, "utf-8"
        embed = {
            "callbacks": call.callbacks,
            "errbacks": call.errbacks,
            "chain": call.chain,
            "chord": call.chord,
        }
        encoded = encode((args, dict(kwargs), embed), serializer)
    except EncodeError as error:
        raise _named(error, call) from error
    return encoded.body, encoded.content_type, encoded.content_encoding


def _named(error: EncodeError, call: Call) -> EncodeError:
    """The same error, saying which argument of which task it is about."""
    found = find_unserialisable(call.args, call.kwargs, call.serializer, call.parameter_names)
    if not found:
        follows = {kind: getattr(call, kind) for kind in CONTINUATIONS}
        inside = find_unserialisable((), follows, call.serializer)
        found = f"what follows it, {inside.removeprefix('argument ')}" if inside else str(error)
    return EncodeError(f"task {call.name!r}: {found}")


def _properties(call: Call) -> dict[str, Any]:
    properties: dict[str, Any] = {"correlation_id": call.id, "reply_to": call.reply_to}
    if call.properties:
        properties.update(call.properties)
    properties["delivery_mode"] = call.delivery_mode
    if call.expires is not None or call.expiration is not None:
        properties["expiration"] = expiration(call.expires, call.expiration)
    properties["priority"] = call.priority or 0
    return properties


def expiration(expires: datetime | str | None, seconds: float | None = None) -> str:
    """The property ``expiration``: milliseconds a message may wait, as text; ``"0"`` once the time has passed.

    :param seconds: how long that is, if known; else it is counted from now to *expires*.
    :raises ValueError: *expires* is text that is no time.
    """
    if seconds is None:
        if expires is None:
            return "0"
        seconds = (parse_datetime(expires) - clock.utcnow()).total_seconds()
    return str(int(max(seconds, 0) * 1000))


def _chain_as_links(chain: Sequence[Any]) -> dict[str, Any]:
    """The chain's next step, linked to the one after it, and so on."""
    following: dict[str, Any] | None = None
    for signature in chain:
        step = dict(signature)
        options = dict(step.get("options") or ())
        if following is not None:
            options["link"] = [*(options.get("link") or ()), following]
        step["options"] = options
        following = step
    assert following is not None
    return following


def _iso(moment: datetime | str | None) -> str | None:
    return moment if moment is None or isinstance(moment, str) else moment.isoformat()


# -- reading -----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Head:
    """What can be known of a message without decoding its body, checked."""

    task: str
    id: str
    #: The message in protocol 2 form: the one that was read, or what protocol 1 was turned into.
    message: Message
    eta: datetime | None = None
    expires: datetime | None = None
    #: Hard and soft limit in seconds; ``None`` where the message sets none.
    timelimit: tuple[float | None, float | None] = (None, None)
    retries: int = 0
    #: ``None``: what the task says.
    ignore_result: bool | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    stamped_headers: list[str] | None = None
    stamps: Mapping[str, Any] = attrs.field(factory=dict)
    #: 1 or 2.
    protocol: int = 2
    #: Protocol 1: what its body says of ``enable_utc``.
    utc: bool | None = None
    #: Why this worker must not have the body decoded: its content type is not accepted here.
    refused: ContentDisallowed | None = None


@attrs.frozen
class Body:
    """A decoded body."""

    args: list[Any] | tuple[Any, ...]
    kwargs: dict[str, Any]
    callbacks: list[Any] | None = None
    errbacks: list[Any] | None = None
    chain: list[Any] | None = None
    chord: Any = None
    #: Header fields found in the body of a hybrid message (protocol 2 headers over a protocol 1 body); what the
    #: message's own headers say counts more.
    fields: Mapping[str, Any] | None = None


def peek(message: Message, accept: frozenset[str] = DEFAULT_ACCEPT, limit: int | None = DEFAULT_LIMIT) -> Head:
    """What a worker needs to know of *message* to admit it.

    The body of a protocol 2 message stays undecoded; a protocol 1 message is decoded and turned into protocol 2.

    :param accept: content types this worker accepts; see :attr:`Head.refused`.
    :param limit: bytes a protocol 1 body may have once decompressed; ``None``: :data:`DEFAULT_LIMIT`.
    :raises InvalidTaskError: this is no task message, or a header is not what it has to be.
    :raises ContentDisallowed: it is protocol 1, and its body must not be decoded here.
    :raises DecodeError: it is protocol 1, and its body cannot be decoded.
    """
    headers = message.headers
    if type(headers) is not dict and not isinstance(headers, Mapping):
        raise InvalidTaskError(f"the message's headers are a {type(headers).__name__}, not a mapping")
    protocol, utc, refused = 2, None, None
    if headers.get("task"):
        try:
            require_accepted(message.content_type, accept)
        except ContentDisallowed as error:
            refused = error
        if refused is None and _is_hybrid(message):
            message, utc = _from_protocol_1(message, accept, limit)
            headers = message.headers
    else:
        message, utc = _from_protocol_1(message, accept, limit)
        headers, protocol = message.headers, 1
    get = headers.get
    task, task_id, retries = get("task"), get("id"), get("retries")
    if not isinstance(task, str):
        raise _invalid("task", task, "text")
    if not isinstance(task_id, str) or not task_id:
        raise _invalid("id", task_id, "text")
    if retries is None:
        retries = 0
    elif not isinstance(retries, int):
        raise _invalid("retries", retries, "a number")
    eta, expires, timelimit, stamps = get("eta"), get("expires"), get("timelimit"), get("stamps")
    stamped = get("stamped_headers")
    ignore = get("ignore_result")
    group_index = get("group_index")
    if group_index is not None and not isinstance(group_index, int):
        raise _invalid("group_index", group_index, "a number")
    if stamps is not None and not isinstance(stamps, Mapping):
        raise _invalid("stamps", stamps, "a mapping")
    if stamped is not None and not (isinstance(stamped, list | tuple) and all(isinstance(s, str) for s in stamped)):
        raise _invalid("stamped_headers", stamped, "a list of names")
    return Head(
        task,
        task_id,
        message,
        None if eta is None else _time("eta", eta),
        None if expires is None else _time("expires", expires),
        (None, None) if timelimit is None else _limits(timelimit),
        retries,
        None if ignore is None else bool(ignore),
        _text(headers, "root_id"),
        _text(headers, "parent_id"),
        _text(headers, "group"),
        group_index,
        None if stamped is None else list(stamped),
        stamps or {},
        protocol,
        utc,
        refused,
    )


def read(message: Message, accept: frozenset[str] = DEFAULT_ACCEPT, limit: int | None = DEFAULT_LIMIT) -> Body:
    """Decode the body of a message of any protocol.

    :param limit: bytes the body may have once decompressed; ``None``: :data:`DEFAULT_LIMIT`.
    :raises ContentDisallowed: its content type is not accepted.
    :raises DecodeError: it is not what its headers say, or too large.
    :raises InvalidTaskError: it is no task's body.
    """
    value = _decoded(message, accept, limit)
    if isinstance(value, Mapping):
        if "args" not in value and "kwargs" not in value and "task" not in value:
            raise InvalidTaskError("the body is a mapping, but not one of protocol 1: it has no 'args'")
        return _body_1(value)
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise InvalidTaskError(f"the body is not [args, kwargs, embed], but {_what(value)}")
    args, kwargs, embed = value
    if embed is None:
        embed = {}
    elif not isinstance(embed, Mapping):
        raise InvalidTaskError(f"the third part of the body is not a mapping, but {_what(embed)}")
    args, kwargs = _arguments(args, kwargs)
    return Body(
        args,
        kwargs,
        _signatures(embed, "callbacks"),
        _signatures(embed, "errbacks"),
        _signatures(embed, "chain"),
        embed.get("chord"),
    )


def request_from(delivery: Delivery, head: Head, hostname: str | None = None) -> Request:
    """The request of a delivery that is admitted. Its limits are those the message sets; the body is undecoded."""
    message = head.message
    headers, properties = message.headers, message.properties
    get = headers.get
    own = {name: value for name, value in headers.items() if name not in _KNOWN_HEADERS}
    hard, soft = head.timelimit
    compression = get("compression")
    nesting = get("replaced_task_nesting")
    return Request(
        id=head.id,
        task=head.task,
        receipt=delivery.receipt,
        queue=delivery.queue,
        attempts=delivery.attempts,
        body=message.body,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        compression=compression,
        properties=properties,
        delivery_info={
            "exchange": delivery.exchange,
            "routing_key": delivery.routing_key or delivery.queue,
            "priority": properties.get("priority"),
            "redelivered": delivery.redelivered,
        },
        correlation_id=properties.get("correlation_id"),
        reply_to=properties.get("reply_to"),
        headers=own or None,
        lang=get("lang"),
        shadow=get("shadow"),
        eta=_iso(get("eta")),
        expires=_iso(get("expires")),
        group=head.group,
        group_index=head.group_index,
        retries=head.retries,
        timelimit=get("timelimit"),
        root_id=head.root_id,
        parent_id=head.parent_id,
        argsrepr=get("argsrepr"),
        kwargsrepr=get("kwargsrepr"),
        origin=get("origin"),
        ignore_result=head.ignore_result,
        replaced_task_nesting=nesting if isinstance(nesting, int) else 0,
        stamped_headers=head.stamped_headers,
        stamps=dict(head.stamps),
        utc=True if head.utc is None else head.utc,
        hostname=hostname,
        called_directly=False,
        time_limit=hard,
        soft_time_limit=soft,
    )


def message_of(request: Request) -> Message:
    """The message of a request, as far as :func:`read` needs it: where the task runs there is only the request."""
    return Message(
        request.body or b"",
        {"compression": request.compression} if request.compression else {},
        {},
        request.content_type,
        request.content_encoding,
    )


def attach(request: Request, body: Body) -> None:
    """Put a decoded body into its request."""
    request.args, request.kwargs = body.args, body.kwargs
    request.callbacks, request.errbacks = body.callbacks, body.errbacks
    request.chain, request.chord = body.chain, body.chord
    for name, value in (body.fields or {}).items():
        if name in _SHOWN_FIELDS and getattr(request, name) is None:
            setattr(request, name, value)


def replace_for_retry(
    message: Message,
    *,
    retries: int,
    eta: datetime | str | None = None,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    expires: datetime | str | None = None,
    headers: Mapping[str, Any] | None = None,
    properties: Mapping[str, Any] | None = None,
    accept: frozenset[str] = DEFAULT_ACCEPT,
    limit: int | None = DEFAULT_LIMIT,
    sensitive: Collection[str] = (),
    parameter_names: Sequence[str] = (),
) -> Message:
    """The message that takes the place of *message* when its task is to be tried again.

    Same id, continuations, limits, stamps, headers and priority; its parent is the task itself. While the arguments
    stay, so do the bytes of the body.

    :param message: in protocol 2 form, as :attr:`Head.message`.
    :param retries: how often it has then been retried.
    :param args: other positional arguments; ``None``: the same.
    :param expires: another time; ``None``: the same.
    :param headers: protocol and other headers to be set, such as ``timelimit`` or ``ignore_result``.
    :param properties: properties to be set, such as ``priority``.
    :raises EncodeError: an argument cannot be serialised; names it.
    """
    changed = {name: value for name, value in message.headers.items() if not name.startswith(_DEATH_HEADERS)}
    task_id = changed["id"]
    changed.update(retries=retries, eta=_iso(eta), parent_id=task_id)
    changed["root_id"] = changed.get("root_id") or task_id
    if expires is not None:
        changed["expires"] = _iso(expires)
    if headers:
        changed.update(headers)
    kept = {name: value for name, value in message.properties.items() if name not in ("expiration", "priority")}
    if changed.get("expires") is not None:
        kept["expiration"] = expiration(_time("expires", changed["expires"]))
    kept["priority"] = message.properties.get("priority") or 0
    if properties:
        kept.update(properties)
    if args is None and kwargs is None:
        return attrs.evolve(message, headers=changed, properties=kept)
    body = read(message, accept, limit)
    call = Call(
        changed["task"],
        task_id,
        body.args if args is None else args,
        body.kwargs if kwargs is None else kwargs,
        callbacks=body.callbacks,
        errbacks=body.errbacks,
        chain=body.chain,
        chord=body.chord,
        serializer=serializer_of(message.content_type),
        sensitive=sensitive,
        parameter_names=parameter_names,
    )
    _check_arguments(call.args, call.kwargs)
    changed["argsrepr"], changed["kwargsrepr"] = _representations(call)
    encoded, content_type, content_encoding = _encode_body(call)
    if changed.get("compression"):
        encoded, changed["compression"] = compress(encoded, changed["compression"])
    return Message(encoded, changed, kept, content_type, content_encoding)


def _decoded(message: Message, accept: frozenset[str], limit: int | None) -> Any:
    require_accepted(message.content_type, accept)
    body = message.body
    compression = message.headers.get("compression")
    if compression:
        body = decompress(body, compression, limit or DEFAULT_LIMIT)
    return decode(body, message.content_type, message.content_encoding, accept)


def _is_hybrid(message: Message) -> bool:
    """Whether a body of protocol 1 follows headers of protocol 2, as far as that shows without decoding."""
    return message.content_type == JSON and message.body[:1] == b"{" and not message.headers.get("compression")


def _from_protocol_1(message: Message, accept: frozenset[str], limit: int | None) -> tuple[Message, bool]:
    fields = _decoded(message, accept, limit)
    sent = message.headers
    if not isinstance(fields, Mapping) or not (sent.get("task") or "task" in fields):
        raise InvalidTaskError("this is no task message: there is no 'task' in its headers, nor in its body")
    body = _body_1(fields)
    get = (body.fields or {}).get
    headers: dict[str, Any] = {
        "lang": get("lang") or "py",
        "task": get("task"),
        "id": get("id"),
        "shadow": get("shadow"),
        "eta": get("eta"),
        "expires": get("expires"),
        "group": fields["taskset"] if "taskset" in fields else get("group"),
        "group_index": get("group_index"),
        "retries": get("retries", 0),
        "timelimit": get("timelimit", [None, None]),
        "root_id": get("root_id") or get("id"),
        "parent_id": get("parent_id"),
        "argsrepr": get("argsrepr") or saferepr(body.args),
        "kwargsrepr": get("kwargsrepr") or saferepr(body.kwargs),
        "origin": get("origin"),
        "ignore_result": None,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    # What a hybrid's headers say of the protocol counts more than its body; protocol 1 has none that do.
    headers.update((name, value) for name, value in sent.items() if name != "compression")
    embed = {
        "callbacks": body.callbacks,
        "errbacks": body.errbacks,
        "chain": None,
        "chord": body.chord,
    }
    encoded = encode((body.args, body.kwargs, embed), serializer_of(message.content_type))
    return (
        Message(encoded.body, headers, message.properties, encoded.content_type, encoded.content_encoding),
        bool(fields.get("utc", True)),
    )


#: Fields of a hybrid's body that still mean something once it runs; its times and limits were the headers' to say.
_SHOWN_FIELDS = frozenset({"lang", "root_id", "parent_id", "group", "shadow", "argsrepr", "kwargsrepr", "origin"})

#: Fields of a protocol 1 body that are headers in protocol 2.
_FIELDS_1 = (
    "lang",
    "task",
    "id",
    "root_id",
    "parent_id",
    "group",
    "group_index",
    "meth",
    "shadow",
    "eta",
    "expires",
    "retries",
    "timelimit",
    "argsrepr",
    "kwargsrepr",
    "origin",
)


def _body_1(fields: Mapping[str, Any]) -> Body:
    args, kwargs = _arguments(fields.get("args", ()), fields.get("kwargs", {}))
    return Body(
        args,
        kwargs,
        _signatures(fields, "callbacks"),
        _signatures(fields, "errbacks"),
        None,
        fields.get("chord"),
        {name: fields[name] for name in _FIELDS_1 if name in fields},
    )


def _arguments(args: Any, kwargs: Any) -> tuple[list[Any] | tuple[Any, ...], dict[str, Any]]:
    if not isinstance(args, list | tuple):
        raise InvalidTaskError(f"Task positional arguments must be a list, not {_what(args)}")
    if not isinstance(kwargs, Mapping):
        raise InvalidTaskError(f"Task keyword arguments must be a mapping, not {_what(kwargs)}")
    for name in kwargs:
        if not isinstance(name, str):
            raise InvalidTaskError(f"Task keyword arguments must be named by text, not by {_what(name)}")
    return args, kwargs if type(kwargs) is dict else dict(kwargs)


def _signatures(embed: Mapping[str, Any], kind: str) -> list[Any] | None:
    value = embed.get(kind)
    if value is None:
        return None
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, list | tuple):
        raise InvalidTaskError(f"{kind!r} in the body is not a list of signatures, but {_what(value)}")
    return list(value)


def _text(headers: Mapping[str, Any], name: str) -> str | None:
    value = headers.get(name)
    if value is None or isinstance(value, str):
        return value or None
    raise _invalid(name, value, "text")


def _time(name: str, value: Any) -> datetime:
    try:
        return parse_datetime(value)
    except ValueError:
        raise _invalid(name, value, "a time in ISO 8601") from None


def _limits(value: Any) -> tuple[float | None, float | None]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise _invalid("timelimit", value, "[hard, soft]")
    for limit in value:
        if limit is not None and (not isinstance(limit, int | float) or not math.isfinite(limit) or limit < 0):
            raise _invalid("timelimit", value, "[hard, soft] in seconds")
    # 0 is how a caller says: no limit of its own.
    return value[0] or None, value[1] or None


def _invalid(name: str, value: Any, expected: str) -> InvalidTaskError:
    if value is None:
        return InvalidTaskError(f"the message has no header {name!r}")
    return InvalidTaskError(f"the header {name!r} is not {expected}, but {_what(value)}")


def _what(value: Any) -> str:
    return f"{saferepr(value, 80)} ({type(value).__name__})"
