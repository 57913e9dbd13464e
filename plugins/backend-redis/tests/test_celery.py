"""A live Celery and kern on the same keys: documents, groups and chords, whoever wrote them."""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kern import states
from kern.contracts.result_store import GroupDocument, Join, WriteStatus
from kern.documents import Meta, decode_document, encode_document
from kern.message import Message, Publication
from kern.outcome import Document, JoinPart
from kern.serialization import CONTENT_TYPES, accept_set, encode
from kern_testing import make as making
from kern_testing.contracts.connection import StoreConnection
from kern_testing.waiting import eventually

from .conftest import Ask, Opened

HERE = Path(__file__).parent
SERIALIZERS = ("json", "pickle", "yaml", "msgpack")
ACCEPT = accept_set(SERIALIZERS)
VALUE = {"list": [1, None, "ü"], "ratio": 0.5}


class Celery:
    """The process that runs ``celery_peer.py``."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, str(HERE / "celery_peer.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, *question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "the process has ended"}')
        assert "error" not in answer, answer["error"]
        return answer["answer"]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.terminate()
        self._process.wait(30)
        self._process.stdout.close()


class Peer:
    """A Celery with settings of its own: ``peer.read(...)`` is the ``read(...)`` of ``celery_peer.py``."""

    def __init__(self, celery: Celery, url: str, settings: dict[str, Any]) -> None:
        self._celery, self._url, self._settings = celery, url, settings

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda **arguments: self._celery.ask(self._url, self._settings, name, arguments)


#: Makes a Celery: ``peer_of(result_serializer="pickle")``.
PeerOf = Callable[..., Peer]


@pytest.fixture(scope="session")
def celery() -> Iterator[Celery]:
    """The interpreter that has Celery: ``KERN_TEST_CELERY_PYTHON``, or ``.venv-celery`` at the root of the tree."""
    found = os.environ.get("KERN_TEST_CELERY_PYTHON") or str(HERE.parents[2] / ".venv-celery" / "bin" / "python")
    if not Path(found).exists():
        pytest.skip(f"there is no Celery: {found} does not exist (make .venv-celery/.installed)")
    made = Celery(found)
    yield made
    made.close()


@pytest.fixture
def peer_of(celery: Celery, redis_url: str) -> PeerOf:
    return lambda url=redis_url, **settings: Peer(celery, url, settings)


def read(store: StoreConnection, task_id: str) -> Meta:
    document = store.read_one(task_id)
    assert document is not None, f"kern finds no document of {task_id}"
    return decode_document(document, ACCEPT)


# -- documents ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_celery_reads_what_kern_wrote(opened: Opened, peer_of: PeerOf, serializer: str) -> None:
    store, peer = opened(result_serializer=serializer), peer_of(result_serializer=serializer)
    store.write(
        encode_document("value", states.SUCCESS, VALUE, whole=True, serializer=serializer),
        encode_document("failed", states.FAILURE, ValueError("boom", 1), whole=True, serializer=serializer),
        encode_document("started", states.STARTED, {"pid": 1}, whole=True, serializer=serializer),
    )
    found = peer.read(task_id="value")
    assert (found["status"], found["result"]) == ("SUCCESS", VALUE)
    assert peer.read(task_id="failed")["result"] == ["ValueError", ["boom", 1]]
    assert peer.read(task_id="started")["status"] == "STARTED"
    assert peer.read(task_id="absent")["status"] == "PENDING"


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_kern_reads_what_celery_wrote(opened: Opened, peer_of: PeerOf, serializer: str) -> None:
    store, peer = opened(result_serializer=serializer), peer_of(result_serializer=serializer)
    peer.store(task_id="value", value=VALUE)
    peer.store(task_id="failed", value=None, state="FAILURE", error=["boom", 1], traceback="a traceback")
    value, error = read(store, "value"), read(store, "failed")
    assert (value.status, value.result) == ("SUCCESS", VALUE)
    assert (error.status, type(error.result), error.result.args) == ("FAILURE", ValueError, ("boom", 1))
    assert error.traceback == "a traceback"
    assert value.date_done is not None


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("compression", ["gzip", "bzip2"])
def test_compressed_documents_go_both_ways(opened: Opened, peer_of: PeerOf, serializer: str, compression: str) -> None:
    store = opened(result_serializer=serializer)
    peer = peer_of(result_serializer=serializer, result_compression=compression)
    peer.store(task_id="celery's", value=VALUE)
    assert read(store, "celery's").result == VALUE
    store.write(
        encode_document("kern's", states.SUCCESS, VALUE, whole=True, serializer=serializer, compression=compression)
    )
    assert peer.read(task_id="kern's")["result"] == VALUE


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_neither_overwrites_the_others_success(
    opened: Opened, peer_of: PeerOf, serializer: str, compression: str | None
) -> None:
    """Whatever it is encoded with: the state is seen in it, and what is not final is overwritten."""
    store, peer = opened(), peer_of(result_serializer=serializer, result_compression=compression)
    peer.store(task_id="done", value="first")
    peer.store(task_id="failed", value=None, state="FAILURE", error=["boom"])
    peer.store(task_id="started", value={"pid": 1}, state="STARTED")
    peer.store(task_id="custom", value={"done": "SUCCESS"}, state="in progress")
    statuses = {}
    for task_id in ("done", "failed", "started", "custom"):
        for status in (states.STARTED, states.FAILURE):
            (written,) = store.write(store.document(task_id, status=status, value={"exc_type": "E"}))
            statuses[task_id, status] = written.status
    kept = {key for key, status in statuses.items() if status is WriteStatus.KEPT}
    assert kept == {("done", states.STARTED), ("done", states.FAILURE), ("failed", states.STARTED)}
    assert read(store, "done").result == "first"
    peer_of().store(task_id="failed", value="it ran after all")
    assert read(store, "failed").result == "it ran after all"


def test_who_waits_is_told_of_celerys_results(opened: Opened, peer_of: PeerOf) -> None:
    """And Celery's clients of kern's: the document is announced where they listen."""
    store = opened()
    task_id = making.unique("id")
    store.watch(task_id)
    peer_of(result_serializer="msgpack").store(task_id=task_id, value="news")
    eventually(lambda: task_id in store.told, "the result was reported")
    assert decode_document(store.told[task_id], ACCEPT).result == "news"


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_groups_go_both_ways(opened: Opened, peer_of: PeerOf, serializer: str) -> None:
    store, peer = opened(result_serializer=serializer), peer_of(result_serializer=serializer)
    tuples = encode([["kern's", None], [[["a", None], None], [["b", None], None]]], serializer)
    store.save_group(GroupDocument("kern's", tuples.body, tuples.content_type, tuples.content_encoding))
    assert peer.read_group(group_id="kern's") == ["kern's", ["a", "b"]]
    peer.save_group(group_id="celery's", members=["c"])
    group = store.read_group("celery's")
    assert group is not None
    assert group.content_type == CONTENT_TYPES[serializer]
    decoded = decode(group)
    assert json.loads(json.dumps(decoded)) == [["celery's", None], [[["c", None], None]]]


def decode(group: GroupDocument) -> Any:
    from kern.serialization import decode as decode_content

    value = decode_content(group.result, group.content_type, group.content_encoding, ACCEPT)
    return value["result"] if isinstance(value, dict) else value


# -- chords ------------------------------------------------------------------------------------------------------------

GROUP = "6f1e53f0-0a51-4f0e-9a6e-0123456789ab"
BODY = "b0d7b0d7-0a51-4f0e-9a6e-0123456789ab"


def body_of(serializer: str = "json") -> Publication:
    content = encode(
        [["own"], {"k": 1}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}], serializer
    )
    message = Message(
        content.body,
        {"task": "proj.body", "id": BODY, "lang": "py"},
        {"correlation_id": BODY},
        content.content_type,
        content.content_encoding,
    )
    return Publication(message, "", "bodies")


def kern_part(
    store: StoreConnection,
    task_id: str,
    index: int | None,
    value: Any = None,
    error: list[Any] | None = None,
    serializer: str = "json",
) -> list[Publication]:
    """A header task has ended on kern: its document and its part, in one plan. What is to be published."""
    status = states.FAILURE if error else states.SUCCESS
    document = encode_document(
        task_id, status, ValueError(*error) if error else value, whole=True, serializer=serializer, now=None
    )
    result = encode(
        {"exc_type": "ValueError", "exc_message": error, "exc_module": "builtins"} if error else value, serializer
    )
    part = JoinPart(
        GROUP, task_id, index, status, result.body, body=body_of(), layout="celery",
        on_error=(making.publication("errors"),),
    )  # fmt: skip
    (written,) = store.write_plans([store.plan(document, [part])])
    assert written.error is None, written.error
    return list(written.publications)


def keys(ask: Ask, database: int) -> dict[str, tuple[Any, int]]:
    """What is there of the chord: content and life of each key. Tokens are random, and shown as such."""
    ask("SELECT", database)
    found = {}
    for key in sorted(ask("KEYS", f"celery-taskset-meta-{GROUP}*")):
        kind = ask("TYPE", key)
        content = {
            b"string": lambda key=key: ask("GET", key),
            b"zset": lambda key=key: ask("ZRANGE", key, 0, -1, "WITHSCORES"),
            b"list": lambda key=key: ask("LRANGE", key, 0, -1),
            b"set": lambda key=key: sorted(ask("SMEMBERS", key)),
        }[kind.encode() if isinstance(kind, str) else kind]()
        left = ask("TTL", key)
        if key.endswith(b".c") and content != b"done":
            assert len(content) == 32
            content = b"a token"
        found[key.decode().removeprefix(f"celery-taskset-meta-{GROUP}")] = (
            content,
            min(LIVES, key=lambda life, left=left: abs(life - left)),
        )
    ask("SELECT", 0)
    return found


#: Seconds that keys are given: for ever, a claim, what is over, the chord. What is left of one is nearest to it.
LIVES = (-1, 6, 300, 700)

SEQUENCES = {
    "all succeed": [("a", 0, 1, None), ("b", 1, "é", None), ("c", 2, None, None)],
    "one comes twice": [("a", 0, 1, None), ("a", 0, 1, None), ("c", 2, {"x": [1.5]}, None), ("b", 1, True, None)],
    "twice with another result": [("b", 1, 1, None), ("b", 1, 2, None), ("a", 0, 0, None), ("c", 2, 3, None)],
    "one fails": [("a", 0, 1, None), ("b", 1, None, ["boom", 3]), ("c", 2, 3, None)],
    "a late one": [("a", 0, 1, None), ("b", 1, 2, None), ("c", 2, 3, None), ("c", 2, 3, None)],
    "no index": [("a", None, 1, None), ("b", None, 2, None)],
}


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
@pytest.mark.parametrize("name", SEQUENCES)
def test_a_chords_keys_are_celerys_after_each_part(
    opened: Opened, peer_of: PeerOf, ask: Ask, redis_url: str, name: str, ordered: bool
) -> None:
    """The same parts, once by Celery and once by kern: the same keys with the same content and life, at each step."""
    options = {"result_chord_ordered": ordered}
    celerys_url = redis_url.removesuffix("/0") + "/1"
    peer = peer_of(celerys_url, result_backend_transport_options=options, result_chord_expires=700)
    store = opened(result_backend_transport_options=options, result_chord_expires=700)
    peer.open_chord(group_id=GROUP, size=3)
    store.open_join(Join(GROUP, (), needed=3, layout="celery"))
    assert keys(ask, 0) == keys(ask, 1), "after its size was announced"
    for task_id, index, value, error in SEQUENCES[name]:
        peer.part(group_id=GROUP, task_id=task_id, index=index, value=value, error=error, body_id=BODY)
        kern_part(store, task_id, index, value, error)
        assert keys(ask, 0) == keys(ask, 1), f"after the part of {task_id}"


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_parts_of_celery_and_of_kern_make_one_chord(opened: Opened, peer_of: PeerOf, serializer: str) -> None:
    """The body is published once, with all results in order before its own arguments, by whoever has the last part."""
    store, peer = opened(result_serializer=serializer), peer_of(result_serializer=serializer)
    peer.open_chord(group_id=GROUP, size=4)
    peer.part(group_id=GROUP, task_id="d", index=3, value=["é", None], body_id=BODY)
    assert kern_part(store, "b", 1, {"k": 0.5}, serializer=serializer) == []
    peer.part(group_id=GROUP, task_id="a", index=0, value="first", body_id=BODY)
    peer.part(group_id=GROUP, task_id="a", index=0, value="first", body_id=BODY)
    (published,) = kern_part(store, "c", 2, 7, serializer=serializer)
    args, kwargs, embedded = json.loads(published.message.body)
    assert args == [["first", {"k": 0.5}, 7, ["é", None]], "own"]
    assert kwargs == {"k": 1}
    assert set(embedded) == {"callbacks", "errbacks", "chain", "chord"}
    assert published.task_id == BODY
    assert kern_part(store, "c", 2, 7, serializer=serializer) == []


def test_celery_ends_a_chord_that_kern_counted_along(opened: Opened, peer_of: PeerOf, ask: Ask) -> None:
    store, peer = opened(), peer_of()
    peer.open_chord(group_id=GROUP, size=2)
    assert kern_part(store, "a", 0, "kern's") == []
    peer.part(group_id=GROUP, task_id="b", index=1, value="celery's", body_id=BODY)
    envelope = json.loads(ask("RPOP", "celery"))
    assert json.loads(b64decode(envelope["body"]))[0] == [["kern's", "celery's"]]


def test_a_chord_of_which_a_part_failed_fails(opened: Opened, peer_of: PeerOf) -> None:
    """When all have ended: its body gets Celery's error, and the messages for that case are published."""
    store, peer = opened(), peer_of()
    peer.open_chord(group_id=GROUP, size=2)
    peer.part(group_id=GROUP, task_id="a", index=0, error=["boom", 3], body_id=BODY)
    (published,) = kern_part(store, "b", 1, 2)
    assert published.routing_key == "errors"
    found = peer.read(task_id=BODY)
    assert found["status"] == "FAILURE"
    assert found["result"] == ["ChordError", ["Dependency a raised ValueError('boom', 3)"]]
    assert "ValueError: ('boom', 3)" in found["traceback"]


def test_results_keep_the_shape_of_a_saved_group(opened: Opened, peer_of: PeerOf, ask: Ask) -> None:
    """A header with a group in it was saved with the chord: results are put together in its shape."""
    store, peer = opened(), peer_of()
    tree = [[GROUP, None], [[["a", None], None], [["inner", None], [[["b", None], None], [["c", None], None]]]]]
    ask("SET", f"celery-taskset-meta-{GROUP}", json.dumps({"result": tree}))
    peer.open_chord(group_id=GROUP, size=3)
    peer.part(group_id=GROUP, task_id="b", index=0, value=2, body_id=BODY)
    kern_part(store, "a", 0, "é")
    (published,) = kern_part(store, "c", 1, 3)
    assert json.loads(published.message.body)[0] == [["é", [2, 3]], "own"]


def test_a_body_may_be_anything_that_is_a_message(opened: Opened, peer_of: PeerOf) -> None:
    """Results are put into a body of another serializer, or a compressed one, as its first argument."""
    import zlib

    from kern.serialization import decode as decode_content

    store, peer = opened(), peer_of()
    for number, serializer in enumerate(("pickle", "yaml", "msgpack", "json")):
        group = f"{GROUP}-{number}"
        peer.open_chord(group_id=group, size=1)
        body = body_of(serializer)
        if serializer == "json":
            packed = Message(
                zlib.compress(body.message.body),
                {**body.message.headers, "compression": "application/x-gzip"},
                body.message.properties,
            )
            body = Publication(packed, "", "bodies")
        part = JoinPart(group, "only", 0, states.SUCCESS, b'"result"', body=body, layout="celery")
        (published,) = store.write_parts(part)
        content = published.message.body
        if serializer == "json":
            content = zlib.decompress(content)
        args, _, _ = decode_content(content, published.message.content_type, published.message.content_encoding, ACCEPT)
        assert list(args) == [["result"], "own"], serializer


def test_a_document_and_its_part_are_one_write(opened: Opened, peer_of: PeerOf, ask: Ask) -> None:
    """A part that cannot be counted leaves no document behind."""
    store, peer = opened(), peer_of()
    peer.open_chord(group_id=GROUP, size=1)
    ask("SET", f"celery-taskset-meta-{GROUP}.j", "not a sorted set")
    document = Document("a", states.SUCCESS, whole=b'{"status": "SUCCESS", "result": 1}')
    part = JoinPart(GROUP, "a", 0, states.SUCCESS, b"1", layout="celery")
    (written,) = store.write_plans([store.plan(document, [part])])
    assert written.error is not None
    assert "WRONGTYPE" in str(written.error)
    assert store.read_one("a") is None
