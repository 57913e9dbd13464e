"""What holds for every value and for all bytes."""

import math
from datetime import UTC, timedelta, timezone
from typing import Any

import kombu.compression
import kombu.serialization
import kombu.utils.json
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kern.errors import DecodeError, MessageError
from kern.serialization import (
    DEFAULT_ACCEPT,
    JSON,
    accept_set,
    compress,
    decode,
    decode_json,
    decompress,
    encode,
    encode_json,
)

EVERYTHING = accept_set(["json", "pickle", "yaml", "msgpack"])

# Nested as deep as hypothesis likes, with every type that JSON is taught.
zones = st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))) | st.just(UTC)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())  # half a surrogate pair, too
    | st.binary(max_size=40)
    | st.datetimes(timezones=st.none() | zones)
    | st.dates()
    | st.times()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)
#: What every serializer can write.
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn"))),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text("abc", max_size=8), inner, max_size=5),
    max_leaves=20,
)


@given(values)
def test_json_comes_back(value: Any) -> None:
    assert decode_json(encode_json(value)) == value


@given(values)
def test_json_is_kombus_byte_by_byte(value: Any) -> None:
    assert encode_json(value) == kombu.utils.json.dumps(value).encode()


@given(values)
def test_each_reads_the_json_of_the_other(value: Any) -> None:
    assert kombu.utils.json.loads(encode_json(value)) == value
    assert decode_json(kombu.utils.json.dumps(value)) == value


@given(st.lists(st.floats(), max_size=5))
def test_all_floats_come_back(numbers: list[float]) -> None:
    for before, after in zip(numbers, decode_json(encode_json(numbers)), strict=True):
        assert before == after or (math.isnan(before) and math.isnan(after))


@pytest.mark.parametrize("name", ["json", "pickle", "yaml", "msgpack"])
@given(value=plain)
def test_each_serializer_agrees_with_kombu_both_ways(name: str, value: Any) -> None:
    encoded = encode(value, name)
    content_type, content_encoding, body = kombu.serialization.dumps(value, name)
    assert (encoded.content_type, encoded.content_encoding) == (content_type, content_encoding)
    assert encoded.body == (body.encode() if isinstance(body, str) else body)
    assert kombu.serialization.loads(encoded.body, content_type, content_encoding, accept=EVERYTHING) == value
    assert decode(body, content_type, content_encoding, EVERYTHING) == value


json_like = st.text('[]{},:"\\/ue0123456789.-+EeNaInfity tralsn\u00e9\ud800', max_size=60)


@given(st.binary(max_size=200) | json_like.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_json_is_read_where_kombu_reads_it_and_alike(body: bytes) -> None:
    try:
        expected = kombu.utils.json.loads(body)
    except (ValueError, TypeError):
        with pytest.raises(DecodeError):
            decode_json(body)
    else:
        found = decode_json(body)
        assert repr(found) == repr(expected)


@given(
    st.sampled_from(["__type__", "__value__", "x"]).flatmap(
        lambda key: st.dictionaries(
            st.sampled_from(["__type__", "__value__", key]),
            st.sampled_from(["datetime", "date", "time", "decimal", "uuid", "bytes", "base64", "nope", "2024-01-02"])
            | plain,
            max_size=3,
        )
    )
)
def test_bytes_that_claim_to_be_an_extension_are_read_or_refused(fields: dict[str, Any]) -> None:
    body = encode_json([fields])
    try:
        decode_json(body)
    except MessageError:
        pass


#: As broken pickles may do anything, those are left to the accept list.
FUZZED = [JSON, "application/x-yaml", "application/x-msgpack", "application/data", "text/plain", "x/y", "", None]


@given(
    body=st.binary(max_size=300),
    content_type=st.sampled_from(FUZZED) | st.text(max_size=20),
    content_encoding=st.sampled_from(["utf-8", "binary", "ascii-8bit", "utf-16", "rot13", "zlib", "idna", None])
    | st.text(max_size=10),
    accepted=st.sampled_from([EVERYTHING, DEFAULT_ACCEPT, frozenset({"text/plain"}), None]),
)
def test_no_bytes_raise_anything_but_a_message_error(
    body: bytes, content_type: str | None, content_encoding: str | None, accepted: frozenset[str] | None
) -> None:
    try:
        decode(body, content_type, content_encoding, accepted)
    except MessageError:
        pass


@given(value=plain, name=st.sampled_from(["json", "yaml", "msgpack"]), data=st.data())
def test_no_damage_to_good_bytes_raises_anything_but_a_message_error(value: Any, name: str, data: Any) -> None:
    encoded = encode(value, name)
    body = bytearray(encoded.body)
    for _ in range(data.draw(st.integers(1, 4))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(body, encoded.content_type, encoded.content_encoding, EVERYTHING)
    except MessageError:
        pass


METHODS = ["gzip", "bzip2", "lzma", "brotli", "zstd"]


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=30)
@given(body=st.binary(max_size=2000))
def test_compression_agrees_with_kombu_both_ways(name: str, body: bytes) -> None:
    packed, header = compress(body, name)
    assert decompress(packed, header, len(body)) == body
    assert kombu.compression.decompress(packed, header) == body
    theirs, their_header = kombu.compression.compress(body, name)
    assert (decompress(theirs, their_header, len(body)), their_header) == (body, header)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=50)
@given(data=st.data())
def test_no_compressed_bytes_raise_anything_but_a_decode_error(name: str, data: Any) -> None:
    packed, header = compress(data.draw(st.binary(max_size=200)), name)
    damaged = bytearray(data.draw(st.sampled_from([packed, packed * 2, b""])) + data.draw(st.binary(max_size=20)))
    for _ in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert len(decompress(bytes(damaged), header, 1000)) <= 1000
    except DecodeError:
        pass
