"""Messages as the database keeps them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kern.errors import DecodeError, EncodeError
from kern.message import Message, Publication
from kern_sql_engine.envelope import decode, decode_publications, encode, encode_publications

texts = st.text(max_size=20)
mappings = st.dictionaries(texts, st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts)


@given(body=st.binary(max_size=200), headers=mappings, properties=mappings, content_type=texts, encoding=texts)
def test_a_message_is_read_as_it_was_written(
    body: bytes, headers: dict[str, object], properties: dict[str, object], content_type: str, encoding: str
) -> None:
    """Also with line breaks in the body and in headers: the first line is the head."""
    message = Message(body, headers, properties, content_type, encoding)
    assert decode(encode(message)) == message
    publication = Publication(message, "exchange", "key", "topic", due=1.5, attempts=2)
    assert decode_publications(encode_publications([publication, publication])) == (publication, publication)


@given(raw=st.binary(max_size=100))
def test_any_bytes_are_a_message_or_an_error_that_says_why(raw: bytes) -> None:
    assert all(
        complaint is None or complaint
        for complaint in (complaint_of(decode, raw), complaint_of(decode_publications, raw))
    )


def complaint_of(read: Callable[[bytes], object], raw: bytes) -> str | None:
    """What is wrong with *raw*; ``None`` if nothing is."""
    try:
        read(raw)
    except DecodeError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (Message(b"", {"id": "1", "bad": object()}, {}), r"message 1: header 'bad'"),
        (Message(b"", {"id": "1"}, {"worse": object()}), r"message 1: property 'worse'"),
        (Message("text", {"id": "1"}, {}), r"message 1: the body is not bytes"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_written_is_named(message: Message, says: str) -> None:
    with pytest.raises(EncodeError, match=says):
        encode(message)
