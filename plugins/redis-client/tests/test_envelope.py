"""Envelopes: byte for byte what kombu writes, and whatever else says the same."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import attrs
import pytest

from kern.errors import DecodeError, EncodeError
from kern.message import Message, Publication
from kern_redis_client.envelope import decode, encode, new_tag, published_as, restored

#: Captured from a Celery client on Redis.
CAPTURED = (
    b'{"body": "W1syLCAzXSwge30sIHsiY2FsbGJhY2tzIjogbnVsbCwgImVycmJhY2tzIjogbnVsbCwgImNoYWluIjogbnVsbCwgImNob3J'
    b'kIjogbnVsbH1d", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"lang": "py"'
    b', "task": "sb.add", "id": "5142a512-efea-403f-bc28-dc5a5dec60a0", "shadow": null, "eta": null, "expires":'
    b' null, "group": null, "group_index": null, "retries": 0, "timelimit": [null, null], "root_id": "5142a512-'
    b'efea-403f-bc28-dc5a5dec60a0", "parent_id": null, "argsrepr": "(2, 3)", "kwargsrepr": "{}", "origin": "gen'
    b'18352@vm", "ignore_result": false, "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {}}, "p'
    b'roperties": {"correlation_id": "5142a512-efea-403f-bc28-dc5a5dec60a0", "reply_to": "c389c3e0-8cc7-30f3-a3'
    b'b6-a7ab57d6a4a3", "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "spec_b_q1"}, "pri'
    b'ority": 0, "body_encoding": "base64", "delivery_tag": "00099612-ff24-4a45-ba15-042a1d6c4162"}}'
)
BODY = b'[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'


def envelope(**changes: Any) -> bytes:
    """A message of another program, with *changes* to its top level; ``...`` leaves a key out."""
    fields: dict[str, Any] = {
        "body": base64.b64encode(BODY).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": "t", "id": "1"},
        "properties": {
            "correlation_id": "1",
            "delivery_info": {"exchange": "e", "routing_key": "k"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "tag",
        },
        **changes,
    }
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def properties(**changes: Any) -> dict[str, Any]:
    """Properties of such a message, changed alike."""
    found = {**json.loads(envelope())["properties"], **changes}
    return {name: value for name, value in found.items() if value is not ...}


def test_a_captured_message_is_read_and_written_as_it_was() -> None:
    found = decode(CAPTURED)
    assert found.message.body == BODY
    assert (found.message.task, found.message.task_id) == ("sb.add", "5142a512-efea-403f-bc28-dc5a5dec60a0")
    assert (found.exchange, found.routing_key) == ("", "spec_b_q1")
    assert found.tag == "00099612-ff24-4a45-ba15-042a1d6c4162"
    assert not found.redelivered
    assert encode(Publication(found.message, found.exchange, found.routing_key), found.tag) == CAPTURED


def test_what_kern_makes_has_celerys_order_of_keys() -> None:
    """Properties stand where kombu puts them, whatever their order in the message."""
    message = Message(
        b"\xff\x00",
        {"id": "1", "task": "t", "ünï": "\u2603"},
        {"priority": 5, "correlation_id": "1", "reply_to": "r", "delivery_mode": 1, "expiration": "60000"},
        "application/x-anything",
        "binary",
    )
    assert encode(Publication(message, "media", "media.a"), "the tag") == (
        b'{"body": "/wA=", "content-encoding": "binary", "content-type": "application/x-anything", "headers": {"id": "1'
        b'", "task": "t", "\\u00fcn\\u00ef": "\\u2603"}, "properties": {"correlation_id": "1", "reply_to": "r", '
        b'"delivery_mode": 1, "expiration": "60000", "delivery_info": {"exchange": "media", "routing_key": "media.a"}, '
        b'"priority": 5, "body_encoding": "base64", "delivery_tag": "the tag"}}'
    )


def test_a_message_that_travels_on_is_not_wrapped_twice() -> None:
    """What the transport added on the first way is made anew on the second."""
    first = decode(CAPTURED).message
    again = decode(encode(Publication(first, "x", "y"), "another"))
    assert (again.exchange, again.routing_key, again.tag) == ("x", "y", "another")
    assert again.message.headers == first.headers
    assert list(again.message.properties) == list(first.properties)


def test_what_json_does_not_know_is_refused() -> None:
    with pytest.raises(EncodeError, match="object"):
        encode(Publication(Message(b"", {"x": object()}, {}), "", "q"), "t")


@pytest.mark.parametrize(
    "raw",
    [
        envelope(headers=...),
        envelope(headers=None),
        envelope(properties=properties(priority=None)),
        envelope(properties=properties(priority=...)),
        envelope(properties=properties(delivery_tag=...)),
        envelope(properties=properties(delivery_tag=None)),
        envelope(properties=properties(delivery_info=...)),
        envelope(properties=properties(delivery_info=None)),
        envelope(properties=properties(body_encoding=..., delivery_info=7), body=BODY.decode()),
        envelope(properties=properties(body_encoding="utf-8"), body=BODY.decode()),
        envelope(properties=..., body=BODY.decode()),
        json.dumps(dict(reversed(json.loads(envelope()).items()))).encode(),
        b" \n" + envelope() + b"\n",
        envelope(headers={"task": "t", "id": "1", "odd": float("nan"), "large": float("inf")}),
        envelope(more={"from": "another program"}, redelivered=True),
    ],
)
def test_whatever_says_the_same_is_read(raw: bytes) -> None:
    """Any order of keys; without headers, tag, priority or delivery info; the body as text; NaN."""
    found = decode(raw)
    assert found.message.body == BODY
    assert found.message.content_type == "application/json"
    assert isinstance(found.exchange, str)
    assert isinstance(found.tag, str)
    assert found.message.priority == 0


def test_content_types_that_are_missing_have_kombus_defaults() -> None:
    found = decode(envelope(**{"content-type": ..., "content-encoding": None}))
    assert (found.message.content_type, found.message.content_encoding) == ("application/data", "utf-8")


def test_a_body_that_is_no_ascii_is_utf_8() -> None:
    raw = json.dumps({"body": "ünï \u2603", "properties": {}}, ensure_ascii=False).encode()
    assert decode(raw).message.body == "ünï \u2603".encode()


def test_typed_values_of_headers_are_restored() -> None:
    found = decode(envelope(headers={"when": {"__type__": "date", "__value__": "2024-01-02"}}))
    assert found.message.headers["when"].isoformat() == "2024-01-02"


def test_what_was_redelivered_says_so() -> None:
    info = {"exchange": "", "routing_key": "q", "redelivered": True}
    assert decode(envelope(properties=properties(delivery_info=info))).redelivered


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "cannot be read as JSON"),
        (b"not JSON", "cannot be read as JSON"),
        (b'{"body": "', "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1, 2]", r"no message: \[1, 2\] \(list\)"),
        (b"null", r"no message: None"),
        (b'"text"', "no message: 'text'"),
        (b'{"other": "program"}', r"no 'body'; its keys are \['other'\]"),
        (envelope(body={"a": 1}), "'body' is no text, but {'a': 1}"),
        (envelope(body=7), "'body' is no text"),
        (envelope(headers=[1]), "'headers' are no object"),
        (envelope(properties="x"), "'properties' are no object"),
        (envelope(body="abc"), "base64"),
        (envelope(body="ü"), "base64"),
        (envelope(properties=properties(body_encoding="rot13")), "'body_encoding' is 'rot13'"),
        (envelope(properties=properties(body_encoding=[1])), "'body_encoding'"),
        (envelope(**{"content-type": 5}), "'content-type' is no text"),
        (envelope(headers={"x": {"__type__": "nobody knows", "__value__": 1}}), "unknown JSON type"),
    ],
)
def test_what_is_no_message_says_why(raw: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        decode(raw)


def test_tags_are_random_uuids_that_a_fork_does_not_repeat() -> None:
    tags = {new_tag() for _ in range(1000)}
    assert len(tags) == 1000
    for tag in tags:
        assert len(tag) == 36
        assert tag[14] == "4"
        assert tag[19] in "89ab"
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writer, "".join(new_tag() for _ in range(200)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    text = os.read(reader, 36 * 200).decode()
    os.close(reader)
    os.close(writer)
    childs = {text[start : start + 36] for start in range(0, len(text), 36)}
    assert len(childs) == 200
    assert not childs & {new_tag() for _ in range(200)}


def test_a_lease_of_celerys_is_restored_as_celery_does() -> None:
    """Marked as redelivered in headers and delivery info, all else as it was."""
    value = b'[%s, "media", "media.a"]' % CAPTURED
    raw, exchange, routing_key = restored(value)
    assert (exchange, routing_key) == ("media", "media.a")
    expected = json.loads(CAPTURED)
    expected["headers"]["redelivered"] = True
    expected["properties"]["delivery_info"]["redelivered"] = True
    assert raw == json.dumps(expected).encode()
    assert decode(raw).redelivered


@pytest.mark.parametrize("value", [b"", b"{}", b"[1, 2]", b'["x", "", "q"]', b"[{}, 1]"])
def test_what_is_no_lease_of_celerys_says_so(value: bytes) -> None:
    with pytest.raises(DecodeError):
        restored(value)


def test_one_id_in_two_queues_is_remembered_twice() -> None:
    assert len({published_as("1", "", "a"), published_as("1", "", "b"), published_as("1", "a", "b")}) == 3


def test_a_message_is_not_changed_by_being_written() -> None:
    message = Message(b"x", {"a": [1]}, {"priority": None})
    before = attrs.asdict(message)
    encode(Publication(message, "", "q"), "t")
    assert attrs.asdict(message) == before
