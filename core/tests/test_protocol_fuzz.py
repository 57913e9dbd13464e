"""No message, whatever is in it, does more than be read or be refused."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kern.delivery import Delivery
from kern.errors import InvalidTaskError, MessageError
from kern.message import PROTOCOL_2_HEADERS, Message
from kern.protocol import Call, attach, build_v1, build_v2, message_of, peek, read, request_from
from kern.serialization import accept_set, encode, encode_json

ACCEPT = accept_set(["json", "yaml", "msgpack"])
LIMIT = 100_000

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.datetimes()
    | st.sampled_from(["2026-11-20T19:06:53", "add", "gzip", "application/x-gzip", "id"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([*PROTOCOL_2_HEADERS, "compression", "x"])
headers = st.dictionaries(names, anything, max_size=8)
fields = st.sampled_from([*PROTOCOL_2_HEADERS, "args", "kwargs", "callbacks", "errbacks", "chord", "taskset", "utc"])
bodies = (
    st.binary(max_size=100)
    | anything.map(encode_json)
    | st.tuples(anything, anything, anything).map(encode_json)
    | st.dictionaries(fields, anything, max_size=8).map(encode_json)
)
types = st.sampled_from(["application/json", "application/x-yaml", "application/x-msgpack", "application/data", ""])


@given(headers, bodies, types, st.sampled_from(["utf-8", "binary", "", "nonsense"]))
def test_a_message_is_read_or_refused(sent: dict[str, Any], body: bytes, content_type: str, encoding: str) -> None:
    message = Message(body, sent, {}, content_type, encoding)
    try:
        head = peek(message, ACCEPT, LIMIT)
        request = request_from(Delivery("r", "q", "me", message), head)
        attach(request, read(message_of(request), ACCEPT, LIMIT))
    except (MessageError, InvalidTaskError):
        pass
    else:
        assert isinstance(request.args, list | tuple)
        assert isinstance(request.kwargs, dict)
        assert head.eta is None or head.eta.tzinfo is not None
        assert isinstance(head.task, str)
        assert isinstance(head.id, str)


@given(headers, st.sampled_from([1, 2]), st.sampled_from(["json", "yaml", "msgpack"]))
def test_a_good_message_with_some_wrong_headers_is_read_or_refused(
    sent: dict[str, Any], protocol: int, serializer: str
) -> None:
    call = Call("add", "id", (1,), {"a": 2}, headers=sent, serializer=serializer)
    message = (build_v2 if protocol == 2 else build_v1)(call)
    try:
        head = peek(message, ACCEPT, LIMIT)
        request = request_from(Delivery("r", "q", "me", message), head)
        attach(request, read(message_of(request), ACCEPT, LIMIT))
    except (MessageError, InvalidTaskError):
        pass
    else:
        assert list(request.args or ()) == [1]
        assert request.kwargs == {"a": 2}


arguments = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.dates() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(arguments, max_size=4),
    st.dictionaries(st.text(max_size=8), arguments, max_size=4),
    st.sampled_from([1, 2]),
    st.none() | st.sampled_from(["gzip", "bzip2"]),
)
def test_what_is_built_is_read_back(
    args: list[Any], kwargs: dict[str, Any], protocol: int, compression: str | None
) -> None:
    call = Call("add", "id", args, kwargs, compression=compression)
    head = peek((build_v2 if protocol == 2 else build_v1)(call))
    body = read(head.message)
    assert (list(body.args), body.kwargs) == (args, kwargs)
    if protocol == 2 and not compression:
        # The body is made by joining; it must be what encoding the whole would have made.
        embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
        assert head.message.body == encode((args, kwargs, embed), "json").body
