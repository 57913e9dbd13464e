"""Task messages: kern's are Celery's, header by header and byte by byte, and each side runs the other's."""

import base64
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest

from kern.delivery import Delivery
from kern.message import Message
from kern.protocol import Call, attach, build_v1, build_v2, message_of, peek, read, replace_for_retry, request_from
from kern.saferepr import saferepr
from kern.serialization import accept_set, decode_json, decompress, encode_json

ACCEPT = accept_set(["json", "pickle", "yaml", "msgpack"])
SERIALIZERS = ["json", "pickle", "yaml", "msgpack"]
COMPRESSIONS = [None, "gzip", "bzip2", "lzma"]
SOON = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


def signature(task: str = "probe.add", *args: Any, **options: Any) -> dict[str, Any]:
    return {
        "task": task,
        "args": list(args),
        "kwargs": {},
        "options": options,
        "subtask_type": None,
        "immutable": False,
    }


TYPED = (
    datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    datetime(2024, 1, 2, 3, 4, 5),
    date(2024, 1, 2),
    time(3, 4, 5),
    Decimal("1.50"),
    uuid.UUID("12345678123456781234567812345678"),
    b"abc",
    b"\xff\xfe",
    (1, 2),
    "é",
)

#: What Celery is asked, and the same as kern says it.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "numbers": ({"args": (2, 2)}, {}),
    "nothing": ({}, {}),
    "a list of arguments": ({"args": [1, None, True, 1.5, -3]}, {}),
    "keywords": ({"args": (1,), "kwargs": {"y": 3, "name": "x'y", "nested": {"a": [1, [2, [3, [4]]]]}}}, {}),
    "text": ({"args": ("é", "日本", "\u2028", '"\\/', "\x00\x1f", "😀")}, {}),
    "what needs type extensions": ({"args": TYPED}, {}),
    "not a number": ({"args": (float("nan"), float("inf"), -float("inf"), 1e300, 10**30)}, {}),
    "keys that are no text": ({"args": ({2: 1, None: 3, True: 4, 1.5: 5},)}, {}),
    "long arguments": ({"args": ("x" * 1500, list(range(50)))}, {}),
    "eta": ({"eta": SOON}, {"eta": SOON}),
    "eta without a zone": ({"eta": datetime(2031, 5, 6)}, {"eta": datetime(2031, 5, 6)}),
    "eta as text": ({"eta": "2031-05-06T07:08:09+02:00"}, {"eta": "2031-05-06T07:08:09+02:00"}),
    "expires": ({"expires": SOON}, {"expires": SOON}),
    "expired": ({"expires": SOON - timedelta(days=9000)}, {"expires": SOON - timedelta(days=9000)}),
    "limits": ({"time_limit": 30, "soft_time_limit": 20.5}, {"time_limit": 30, "soft_time_limit": 20.5}),
    "priority": ({"priority": 5}, {"priority": 5}),
    "transient": ({"delivery_mode": 1}, {"delivery_mode": 1}),
    "shadow": ({"shadow": "nick"}, {"shadow": "nick"}),
    "retries": ({"retries": 2}, {"retries": 2}),
    "ignored": ({"ignore_result": True}, {"ignore_result": True}),
    "own headers": ({"headers": {"my": "hdr", "n": 1}}, {"headers": {"my": "hdr", "n": 1}}),
    "a header that replaces one of the protocol": ({"headers": {"shadow": "x"}}, {"headers": {"shadow": "x"}}),
    "own properties": ({"app_id": "a", "message_id": "m"}, {"properties": {"app_id": "a", "message_id": "m"}}),
    "family": ({"root_id": "r", "parent_id": "p"}, {"root_id": "r", "parent_id": "p"}),
    "group": ({"group_id": "g", "group_index": 3}, {"group": "g", "group_index": 3}),
    "nesting": ({"replaced_task_nesting": 2}, {"replaced_task_nesting": 2}),
    "stamps": (
        {"stamped_headers": ["one", "two"], "one": 1, "two": ["a"]},
        {"stamped_headers": ["one", "two"], "stamps": {"one": 1, "two": ["a"]}},
    ),
    "link": ({"link": [signature("probe.add", 1)]}, {"callbacks": [signature("probe.add", 1)]}),
    "error link": ({"link_error": [signature()]}, {"errbacks": [signature()]}),
    "chain": ({"chain": [signature(), signature()]}, {"chain": [signature(), signature()]}),
    "chord": ({"chord": signature(task_id="c")}, {"chord": signature(task_id="c")}),
}
#: Celery drops the first, and before 5.7 fails on the second.
NOT_IN_PROTOCOL_1 = {"chain", "eta as text"}


def from_celery(answer: dict[str, Any]) -> Message:
    properties = {
        name: value
        for name, value in answer["properties"].items()
        if name not in ("delivery_info", "body_encoding", "delivery_tag")
    }
    return Message(
        base64.b64decode(answer["body"]),
        answer["headers"],
        properties,
        answer["content_type"],
        answer["content_encoding"],
    )


def to_celery(message: Message) -> dict[str, Any]:
    return {
        "body": base64.b64encode(message.body).decode(),
        "headers": dict(message.headers),
        "properties": dict(message.properties),
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
    }


def both(probe: Any, case: str, protocol: int, **options: Any) -> tuple[Message, Message]:
    """The same call as Celery publishes it and as kern builds it."""
    theirs, ours = CASES[case]
    # Before 5.7 a call by name says False where it now says nothing.
    given = {"task_id": "fixed-id", "reply_to": "rq", "origin": "gen1@here", "ignore_result": None}
    asked = {**given, **theirs, **options}
    args, kwargs = asked.pop("args", ()), asked.pop("kwargs", {})
    if protocol == 1:
        asked.pop("origin")  # would become a property
    published = probe.publish(protocol=protocol, name="probe.add", args=args, kwargs=kwargs, options=asked)
    call = Call("probe.add", "fixed-id", args, kwargs, reply_to="rq", origin="gen1@here", **ours, **options)
    return from_celery(published), (build_v2 if protocol == 2 else build_v1)(call)


def check(theirs: Message, ours: Message) -> None:
    assert list(ours.headers.items()) == list(theirs.headers.items()), "headers and their order"
    mine, his = dict(ours.properties), dict(theirs.properties)
    his.pop("origin", None)  # Celery lets the option leak into the properties
    if "expiration" in his:
        late = int(his.pop("expiration")) - int(mine.pop("expiration"))
        assert abs(late) < 10_000
    assert list(mine.items()) == list(his.items()), "properties and their order"
    assert (ours.content_type, ours.content_encoding) == (theirs.content_type, theirs.content_encoding)


@pytest.mark.parametrize("case", CASES)
def test_a_message_is_the_one_celery_sends(probe: Any, case: str) -> None:
    theirs, ours = both(probe, case, 2)
    check(theirs, ours)
    assert ours.body == theirs.body


@pytest.mark.parametrize("case", [case for case in CASES if case not in NOT_IN_PROTOCOL_1])
def test_a_protocol_1_message_is_the_one_celery_sends(probe: Any, case: str) -> None:
    theirs, ours = both(probe, case, 1)
    his = {name: value for name, value in theirs.properties.items() if name in ours.properties}
    check(Message(theirs.body, theirs.headers, his, theirs.content_type, theirs.content_encoding), ours)
    assert ours.body == theirs.body


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("protocol", [1, 2])
def test_serializers_and_compression_are_celerys(
    probe: Any, protocol: int, serializer: str, compression: str | None
) -> None:
    theirs, ours = both(probe, "keywords", protocol, serializer=serializer, compression=compression)
    check(theirs, ours)
    bodies = [theirs.body, ours.body]
    if compression:
        header = theirs.headers["compression"]
        bodies = [decompress(body, header, 10_000) for body in bodies]
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("protocol", [1, 2])
def test_a_celery_worker_runs_the_message(probe: Any, protocol: int, serializer: str, compression: str | None) -> None:
    task_id = str(uuid.uuid4())
    call = Call(
        "probe.describe",
        task_id,
        (1, "é"),
        {"y": [1, {"z": None}]},
        root_id="root",
        parent_id="parent",
        group="g",
        group_index=2,
        expires=SOON,
        retries=1,
        time_limit=50,
        soft_time_limit=40,
        shadow="nick",
        headers={"my": "header"},
        stamped_headers=["s"],
        stamps={"s": "v"},
        callbacks=[signature("probe.add", 1)],
        errbacks=[signature()],
        reply_to="rq",
        priority=3,
        serializer=serializer,
        compression=compression,
    )
    message = (build_v2 if protocol == 2 else build_v1)(call)
    ran = probe.run(task_id=task_id, message=to_celery(message))
    assert ran["state"] == "SUCCESS", ran
    seen = ran["value"]
    expected = {
        "id": task_id,
        "task": "probe.describe",
        "args": [1, "é"],
        "kwargs": {"y": [1, {"z": None}]},
        "group": "g",
        "retries": 1,
        "timelimit": [50, 40],
        "expires": SOON.isoformat(),
        "correlation_id": task_id,
        "reply_to": "rq",
        "delivery_info": {"exchange": "", "routing_key": "probe", "priority": 3, "redelivered": False},
        "callbacks": [signature("probe.add", 1)],
        "errbacks": [signature()],
    }
    if protocol == 2:
        expected |= {
            "group_index": 2,  # in protocol 1 Celery's worker forgets it
            "root_id": "root",
            "parent_id": "parent",
            "shadow": "nick",
            "headers": {"my": "header"},
            "stamped_headers": ["s"],
            "stamps": {"s": "v"},
            "argsrepr": "(1, 'é')",
            "origin": message.headers["origin"],
        }
    assert {name: seen[name] for name in expected} == expected


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("protocol", [1, 2])
def test_a_message_of_celery_becomes_a_request(
    probe: Any, protocol: int, serializer: str, compression: str | None
) -> None:
    published = probe.publish(
        protocol=protocol,
        name="probe.add",
        args=(1, "é"),
        kwargs={"y": [1, {"z": None}]},
        options={
            "task_id": "fixed-id",
            "eta": SOON,
            "expires": SOON,
            "retries": 1,
            "time_limit": 50,
            "soft_time_limit": 40,
            "group_id": "g",
            "group_index": 2,
            "headers": {"my": "header"},
            "link": [signature("probe.add", 1)],
            "link_error": [signature()],
            "chord": signature(task_id="c"),
            "reply_to": "rq",
            "priority": 3,
            "serializer": serializer,
            "compression": compression,
        },
    )
    message = from_celery(published)
    head = peek(message, ACCEPT)
    assert (head.task, head.id, head.eta, head.expires) == ("probe.add", "fixed-id", SOON, SOON)
    assert (head.timelimit, head.retries, head.group, head.group_index) == ((50, 40), 1, "g", 2)
    assert (head.protocol, head.refused, head.root_id) == (protocol, None, "fixed-id")

    request = request_from(Delivery("receipt", "q", "me", message), head, "worker@here")
    attach(request, read(message_of(request), ACCEPT))
    assert list(request.args or ()) == [1, "é"]
    assert request.kwargs == {"y": [1, {"z": None}]}
    assert request.callbacks == [signature("probe.add", 1)]
    assert request.errbacks == [signature()]
    assert request.chord == signature(task_id="c")
    assert request.chain is None
    assert request.headers == {"my": "header"}
    assert request.delivery_info == {"exchange": "", "routing_key": "q", "priority": 3, "redelivered": False}
    assert (request.reply_to, request.correlation_id) == ("rq", "fixed-id")
    assert (request.time_limit, request.soft_time_limit, request.eta) == (50, 40, SOON.isoformat())
    assert request.argsrepr == ("(1, 'é')" if protocol == 2 or serializer == "pickle" else "[1, 'é']")


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_a_celery_worker_runs_a_retry_made_of_celerys_message(probe: Any, serializer: str) -> None:
    task_id = str(uuid.uuid4())
    published = probe.publish(
        protocol=2,
        name="probe.describe",
        args=(1,),
        kwargs={"k": 2},
        options={
            "task_id": task_id,
            "link": [signature("probe.add", 1)],
            "headers": {"my": "header"},
            "time_limit": 50,
            "serializer": serializer,
            "compression": "gzip",
        },
    )
    original = from_celery(published)
    again = replace_for_retry(original, retries=1, args=[7], accept=ACCEPT)
    ran = probe.run(task_id=task_id, message=to_celery(again))
    seen = ran["value"]
    expected = {
        "id": task_id,
        "root_id": task_id,
        "parent_id": task_id,
        "retries": 1,
        "args": [7],
        "kwargs": {"k": 2},
        "callbacks": [signature("probe.add", 1)],
        "headers": {"my": "header"},
        "timelimit": [50, None],
        "argsrepr": "[7]",
    }
    assert {name: seen[name] for name in expected} == expected


JSON_VALUES = [
    TYPED,
    {"a": [1, 2.5, None, True, {"b": ()}], "é": "ü\ud800"},
    [float("nan"), float("inf"), 1e-7, 1e22, 123456789012345678901234567890],
    {"__type__": "x"},
    [[], {}, "", 0],
]


@pytest.mark.parametrize("value", JSON_VALUES, ids=repr)
def test_json_is_celerys_byte_by_byte(probe: Any, value: Any) -> None:
    ours = encode_json(value)
    assert ours == probe.json(value=value)
    assert encode_json(decode_json(ours)) == ours


@pytest.mark.parametrize(
    "value",
    [
        (),
        (1,),
        (1, 2.5, None, True),
        ["it's", "é\n"],
        {"a": [1, [2, [3, [4]]]]},
        b"abc",
        b"\xff\xfe",
        {1},
        set(),
        frozenset({1}),
        frozenset(),
        range(3),
        (Decimal("1.5"), 10**30),
        [{}, [], ()],
    ],
    ids=repr,
)
def test_representations_are_celerys(probe: Any, value: Any) -> None:
    assert saferepr(value) == probe.saferepr(value=value)


@pytest.mark.parametrize("name", ["gzip", "zlib", "bzip2", "bzip", "lzma", "xz"])
def test_compression_is_celerys_both_ways(probe: Any, name: str) -> None:
    from kern.serialization import compress

    body = b"a body " * 100
    packed, header = compress(body, name)
    assert probe.decompress(body=packed, header=header) == body
    theirs, their_header = probe.compress(body=body, name=name)
    assert their_header == header
    assert decompress(theirs, header, 1000) == body
