"""What stored bytes tell of themselves."""

from __future__ import annotations

import json
import pickle

import pytest

from kern import states
from kern.documents import encode_document
from kern.serialization import CONTENT_TYPES, JSON, PICKLE
from kern_backend_redis.documents import COMPRESSED, Reader, look

SERIALIZERS = ("json", "pickle", "yaml", "msgpack")
#: Results and tracebacks that speak of other states.
MISLEADING = {"status": "SUCCESS", "text": 'status: REVOKED\nstatus: FAILURE\n"status": "SUCCESS"'}


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE", "STARTED", "in progress", "CUSTOM-PROGRESS_2"])
def test_the_state_is_seen_whatever_the_document_is_encoded_with(
    serializer: str, status: str, compression: str | None
) -> None:
    document = encode_document(
        "id",
        status,
        MISLEADING,
        whole=True,
        serializer=serializer,
        traceback="status: REVOKED\n",
        compression=compression,
    )
    assert document.whole is not None
    found, form = look(document.whole)
    assert found == status
    assert form is not None
    assert form[0] == CONTENT_TYPES[serializer]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle_is_seen(protocol: int) -> None:
    """Nothing is unpickled for it."""
    body = pickle.dumps({"status": "FAILURE", "result": MISLEADING}, protocol=protocol)
    assert look(body) == ("FAILURE", (PICKLE, "binary"))


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"null", b'{"result": {"status": "SUCCESS"}}', b"\x80", COMPRESSED, COMPRESSED + b"x\0y"],
)
def test_what_tells_of_no_state_has_none(body: bytes) -> None:
    assert look(body)[0] is None
    assert Reader(JSON, "utf-8").document("id", body).status == ""


def test_fields_are_read_without_decoding_the_result() -> None:
    document = encode_document("id", states.SUCCESS, float("nan"), whole=True)
    assert document.whole is not None
    for body in (document.whole, document.whole.replace(b"NaN", b'{"__type__": "no such", "__value__": 1}')):
        read = Reader(JSON, "utf-8").document("id", body)
        assert (read.status, read.date_done, read.whole) == (states.SUCCESS, document.date_done, body)


def test_a_strange_document_is_a_document() -> None:
    """Fields of the wrong type are left out, the state counts."""
    body = json.dumps({"status": "SUCCESS", "result": 1, "date_done": 7, "children": "none"}).encode()
    read = Reader(JSON, "utf-8").document("id", body)
    assert (read.status, read.date_done, read.children, read.whole) == ("SUCCESS", None, None, body)
    body = json.dumps({"status": "SUCCESS", "result": 1, "date_done": "yesterday"}).encode()
    assert Reader(JSON, "utf-8").document("id", body).date_done is None


def test_a_serializer_of_the_users_own_is_asked() -> None:
    """Its bytes show no state; it is decoded with what this application's results are encoded with."""
    from kombu.serialization import register, unregister

    register(
        "reversed", lambda value: json.dumps(value)[::-1], lambda text: json.loads(text[::-1]), "application/x-rev"
    )
    try:
        reader = Reader("application/x-rev", "utf-8")
        body = json.dumps({"status": "FAILURE", "result": 1})[::-1].encode()
        assert reader.document("id", body).status == "FAILURE"
        assert reader.document("id", b"nothing of the kind").status == ""
    finally:
        unregister("reversed")
