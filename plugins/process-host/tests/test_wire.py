"""Requests and outcomes cross between processes as they are."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kern.outcome import (
    Disposition,
    Document,
    Event,
    ExtendedFields,
    GiveBack,
    JoinPart,
    Outcome,
    ParkUntil,
    Quarantine,
    Release,
    RetryAt,
)
from kern.request import Request
from kern_process_host.wire import (
    decode,
    decode_fault,
    decode_outcome,
    decode_request,
    encode,
    encode_fault,
    encode_outcome,
    encode_request,
)
from kern_testing import make

REQUEST = Request(id="i", task="t", receipt="r")


def there_and_back(outcome: Outcome, request: Request = REQUEST) -> Outcome:
    fields = decode(memoryview(encode_outcome(7, request, outcome)))
    assert fields[0] == 7
    assert decode_fault(fields) is None
    return decode_outcome(fields, request)


def full_document() -> Document:
    extended = ExtendedFields("name", b"\x80args", b"kwargs", "worker", 3, "queue", ["stamp"], {"stamp": [1]})
    return Document(
        "i",
        "FAILURE",
        b"\x80\xff",
        "application/x-pickle",
        "binary",
        "Traceback …",
        [[["a", None], []]],
        datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        "group",
        "parent",
        extended,
        b"whole",
    )


def full_outcome() -> Outcome:
    follows = make.publication("next", "follows", body=b"\x00", due=12.5)
    return Outcome(
        receipt="another receipt",
        task_id="another id",
        task="another task",
        state="RETRY",
        disposition=RetryAt(make.message("again", body=b"\xff"), 99.25),
        document=full_document(),
        documents=(full_document(), Document("other", "FAILURE")),
        follow_ups=(follows,),
        join_parts=(
            JoinPart("j", "m", 1, "SUCCESS", b"\xfe", 3, follows, "redis", (follows, follows)),
            JoinPart("j", "n", None, "FAILURE"),
        ),
        events=(Event("task-failed", {"uuid": "i", "runtime": 0.5}, 17.5),),
        runtime=0.25,
        pid=123,
        summary="summary ☃",
        traceback="text",
        expected=True,
    )


def test_every_field_of_an_outcome_arrives() -> None:
    """The example has no field at its default, so a field that core adds is noticed here."""
    outcome = full_outcome()
    for field in attrs.fields(Outcome):
        assert getattr(outcome, field.name) != field.default, f"{field.name}: the example does not show that it arrives"
    for field in attrs.fields(Document):
        assert getattr(outcome.document, field.name) != field.default
    for field in attrs.fields(JoinPart):
        assert getattr(outcome.join_parts[0], field.name) != field.default
    assert there_and_back(outcome) == outcome


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Outcome)])
def test_no_field_alone_is_lost(name: str) -> None:
    """Each makes the outcome an unusual one by itself, or is in the short form."""
    usual = Outcome("r", "i", "t", "SUCCESS", Release())
    outcome = attrs.evolve(usual, **{name: getattr(full_outcome(), name)})
    assert there_and_back(outcome) == outcome


@pytest.mark.parametrize(
    "disposition",
    [
        Release(),
        RetryAt(make.message("again"), 5.5),
        GiveBack(),
        GiveBack(blamed=True, due=7.25, suspect=True),
        ParkUntil(3.5),
        ParkUntil(3.5, "rate-limit", 1.5),
        Quarantine("rejected", {"error": "text", "list": [1, None]}),
    ],
    ids=lambda disposition: type(disposition).__name__,
)
def test_every_disposition_arrives(disposition: Disposition) -> None:
    outcome = Outcome("r", "i", "t", "SUCCESS", disposition)
    assert there_and_back(outcome) == outcome


def test_the_usual_outcome_is_short() -> None:
    """What the main process knows is not told again."""
    outcome = Outcome("r" * 50, "i" * 36, "t" * 30, "SUCCESS", Release(), runtime=0.001, pid=12345, summary="None")
    request = Request(id="i" * 36, task="t" * 30, receipt="r" * 50)
    assert len(encode_outcome(123456, request, outcome)) < 50
    assert there_and_back(outcome, request) == outcome


def test_every_field_of_a_request_arrives() -> None:
    """Whatever its type."""
    values: dict[str, Any] = {}
    for number, name in enumerate(attrs.fields_dict(Request)):
        values[name] = [b"\xff", "text ☃", {"a": [number, None, 0.5]}, [number, [True]]][number % 4]
    request = Request(**values)
    assert decode_request(memoryview(encode_request(request))) == request


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(headers=st.dictionaries(st.text(max_size=8), plain, max_size=4), text=st.text(st.characters(codec=None)))
def test_plain_values_arrive(headers: dict[str, Any], text: str) -> None:
    """Also integers of any size, and text that is not Unicode."""
    request = Request(id=text, headers=headers, body=b"\xc1")
    assert decode_request(encode_request(request)) == request


def test_values_of_the_wire_that_json_does_not_have() -> None:
    """AMQP's headers may hold a time; it keeps its moment."""
    moment = datetime(2026, 5, 6, 7, 8, 9, 10, timezone(timedelta(hours=3)))
    (arrived,) = decode(encode((moment,)))
    assert arrived == moment
    assert math.isnan(decode(encode((math.nan,)))[0])


def test_a_value_of_a_users_class_is_refused() -> None:
    """It would have to be pickled."""
    with pytest.raises((TypeError, ValueError)):
        encode((object(),))


def test_a_fault_is_told_from_an_outcome() -> None:
    assert decode_fault(decode(encode_fault(3, "ValueError()"))) == "ValueError()"
