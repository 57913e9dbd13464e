"""Result documents: kern stores what Celery stores, and each side reads the other's."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from kern import errors
from kern.documents import Meta, decode_document, encode_document, status_of
from kern.outcome import Document
from kern.request import Request
from kern.serialization import accept_set, content_type_of

ACCEPT = accept_set(["json", "pickle", "yaml", "msgpack"])
SERIALIZERS = ["json", "pickle", "yaml", "msgpack"]
TASK_ID = "9ba7569c-0332-423a-abc9-fc9e1c796fff"

REQUEST = Request(
    id=TASK_ID,
    task="probe.add",
    args=[2, 3],
    kwargs={"y": 1},
    hostname="w@here",
    retries=2,
    group="g",
    parent_id="p",
    delivery_info={"exchange": "", "routing_key": "q", "priority": 0, "redelivered": False},
    stamped_headers=["one", "two"],
    stamps={"one": 1, "two": ["a"]},
)
AS_CELERY_HAS_IT = {
    "id": TASK_ID,
    "task": "probe.add",
    "args": [2, 3],
    "kwargs": {"y": 1},
    "hostname": "w@here",
    "retries": 2,
    "group": "g",
    "parent_id": "p",
    "delivery_info": {"exchange": "", "routing_key": "q"},
    "stamped_headers": ["one", "two"],
    "stamps": {"one": 1, "two": ["a"]},
}


class Silly(Exception):
    """Takes other arguments than it gives on."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__(f"{first} and {second}")


def as_bytes(document: bytes | str) -> bytes:
    return document.encode() if isinstance(document, str) else document


def of_celery(serializer: str, document: bytes | str) -> Document:
    return Document(TASK_ID, "", whole=as_bytes(document), content_type=content_type_of(serializer))


def read(serializer: str, document: bytes | str) -> Meta:
    return decode_document(of_celery(serializer, document), ACCEPT)


@pytest.mark.parametrize("extended", [False, True], ids=["plain", "extended"])
@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize(
    ("state", "value"),
    [
        ("SUCCESS", 5),
        ("SUCCESS", {"é": [1, None, "x"]}),
        ("SUCCESS", None),
        ("STARTED", {"pid": 20606, "hostname": "spec_a@vm"}),
        ("PROGRESS", {"cur": 1, "tot": 2}),
        ("FAILURE", ValueError("boom", 42, {"k": [1, 2]})),
        ("RETRY", KeyError("nope")),
        ("RETRY", None),
    ],
    ids=repr,
)
def test_a_document_is_the_one_celery_stores(
    probe: Any, serializer: str, state: str, value: Any, extended: bool
) -> None:
    task_id = str(uuid.uuid4())
    stored = as_bytes(
        probe.store(
            serializer=serializer,
            task_id=task_id,
            state=state,
            value=value,
            request=AS_CELERY_HAS_IT,
            extended=extended,
            traceback="Traceback é\n" if isinstance(value, Exception) else None,
        )
    )
    theirs = read(serializer, stored)
    ours = encode_document(
        task_id,
        state,
        value,
        whole=True,
        serializer=serializer,
        request=REQUEST,
        extended=extended,
        now=theirs.date_done,
        traceback="Traceback é\n" if isinstance(value, Exception) else None,
    )
    if serializer != "pickle":  # which writes one value in many ways
        assert ours.whole == stored
    mine = decode_document(ours, ACCEPT)
    assert repr(mine) == repr(theirs)
    assert status_of(of_celery(serializer, stored), ACCEPT) == state


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_a_document_without_a_request_is_the_one_celery_stores(probe: Any, serializer: str) -> None:
    task_id = str(uuid.uuid4())
    stored = as_bytes(probe.store(serializer=serializer, task_id=task_id, state="SUCCESS", value=[1]))
    ours = encode_document(
        task_id, "SUCCESS", [1], whole=True, serializer=serializer, now=read(serializer, stored).date_done
    )
    assert decode_document(ours, ACCEPT) == read(serializer, stored)
    if serializer != "pickle":
        assert ours.whole == stored


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_celery_reads_a_document(probe: Any, serializer: str) -> None:
    done = datetime(2026, 11, 20, 19, 7, 53, 780718, tzinfo=UTC)
    ours = encode_document(
        TASK_ID,
        "SUCCESS",
        {"a": [1, "é"]},
        whole=True,
        serializer=serializer,
        request=REQUEST,
        extended=True,
        now=done,
    )
    assert probe.load(serializer=serializer, task_id=TASK_ID, document=ours.whole) == {
        "state": "SUCCESS",
        "value": {"a": [1, "é"]},
        "class": "builtins.dict",
        "args": None,
        "traceback": None,
        "children": "[]",
        "date_done": str(done),
        "name": "probe.add",
        "task_args": [2, 3],
        "task_kwargs": {"y": 1},
        "worker": "w@here",
        "retries": 2,
        "queue": "q",
    }


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize(
    ("error", "cls", "args"),
    [
        (ValueError("boom", 1), "builtins.ValueError", ["'boom'", "1"]),
        (errors.TaskRevokedError("revoked"), "celery.exceptions.TaskRevokedError", ["'revoked'"]),
        (errors.NotRegistered("no.such"), "celery.exceptions.NotRegistered", ["'no.such'"]),
        (errors.TimeLimitExceeded(30), "billiard.exceptions.TimeLimitExceeded", ["30"]),
        (errors.WorkerLostError("gone"), "billiard.exceptions.WorkerLostError", ["'gone'"]),
        (errors.ChordError("part"), "celery.exceptions.ChordError", ["'part'"]),
        (errors.Reject("no", False), "celery.exceptions.Reject", ["'no'", "False"]),
        (errors.MaxRetriesExceededError("often"), "celery.exceptions.MaxRetriesExceededError", ["'often'"]),
        (errors.EncodeError("what"), "kombu.exceptions.EncodeError", ["'what'"]),
        (errors.MessageTooLarge(3, 2), None, None),
        (Silly(1, 2), None, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_celery_gets_the_exception(
    probe: Any, serializer: str, error: Exception, cls: str | None, args: list[str] | None
) -> None:
    state = "REVOKED" if isinstance(error, errors.TaskRevokedError) else "FAILURE"
    ours = encode_document(TASK_ID, state, error, whole=True, serializer=serializer, traceback="tb")
    got = probe.load(serializer=serializer, task_id=TASK_ID, document=ours.whole)
    assert (got["state"], got["traceback"]) == (state, "tb")
    if cls is None:  # a class that Celery's process does not have, and makes up
        assert got["class"].endswith(type(error).__name__)
        assert got["args"] == [repr(arg) for arg in error.args]
    else:
        assert (got["class"], got["args"]) == (cls, args)


@pytest.mark.parametrize("serializer", ["json", "yaml", "msgpack"])
@pytest.mark.parametrize("args", [("boom", 1), ("one", 2, 3)])
def test_an_exception_of_a_celery_task_is_read(probe: Any, serializer: str, args: tuple[Any, ...]) -> None:
    stored = probe.failure(serializer=serializer, task_id=str(uuid.uuid4()), args=args)
    meta = read(serializer, stored)
    assert (meta.status, meta.traceback) == ("FAILURE", "tb")
    if len(args) == 2:
        assert type(meta.result).__name__ == "Silly"
        assert meta.result.args == ("boom and 1",)
    else:
        assert type(meta.result) is ValueError
        assert meta.result.args == args


def test_a_pickled_exception_of_a_celery_task_is_read_where_celery_is_not_installed(probe: Any) -> None:
    plain = read("pickle", probe.failure(serializer="pickle", task_id=str(uuid.uuid4()), args=(1, 2, 3)))
    assert type(plain.result) is ValueError
    # It cannot be pickled, so that Celery puts it into a wrapper of its own.
    wrapped = read("pickle", probe.failure(serializer="pickle", task_id=str(uuid.uuid4()), args=(1, 2)))
    assert type(wrapped.result).__name__ == "Silly"
    assert wrapped.result.args == ("1 and 2",)


@pytest.mark.parametrize("method", ["gzip", "bzip2", "lzma"])
def test_a_compressed_document_of_celery_is_read_and_written_alike(probe: Any, method: str) -> None:
    version = tuple(int(part) for part in probe.version().split(".")[:2])
    if version < (5, 7):
        assert version == (5, 6), "the first that compresses is 5.7"
        return
    stored = probe.compressed_document(value="x" * 1000, method=method)
    meta = read("json", stored)
    assert (meta.status, meta.result) == ("SUCCESS", "x" * 1000)
    ours = encode_document(TASK_ID, "SUCCESS", 1, whole=True, compression=method)
    assert ours.whole is not None
    assert ours.whole[: ours.whole.index(b"\x00", 20)] == stored[: stored.index(b"\x00", 20)]
    assert decode_document(ours).result == 1
    assert status_of(ours) == "SUCCESS"
