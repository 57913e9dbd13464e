"""A live Celery and kern on the same tables, whoever made them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kern import states
from kern.contracts.result_store import GroupDocument, WriteStatus
from kern.outcome import Document, ExtendedFields
from kern_backend_sql.store import SqlResultStore
from kern_testing import make as making
from kern_testing.contracts.connection import StoreConnection
from kern_testing.waiting import eventually

HERE = Path(__file__).parent
Opened = Callable[..., SqlResultStore]


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
    """A Celery on one database: ``peer.read(...)`` is the ``read(...)`` of ``celery_peer.py``."""

    def __init__(self, celery: Celery, url: str, extended: bool) -> None:
        self._celery, self._extended = celery, extended
        self._url = url.replace("postgresql://", "postgresql+psycopg://").replace("mysql://", "mysql+pymysql://")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda **arguments: self._celery.ask(self._url, self._extended, name, arguments)


@pytest.fixture(scope="session")
def celery_python() -> str:
    """The interpreter that has Celery: ``KERN_TEST_CELERY_PYTHON``, or ``.venv-celery`` at the root of the tree."""
    found = os.environ.get("KERN_TEST_CELERY_PYTHON") or str(HERE.parents[2] / ".venv-celery" / "bin" / "python")
    if not Path(found).exists():
        pytest.skip(f"there is no Celery: {found} does not exist (make .venv-celery/.installed)")
    return found


@pytest.fixture
def extended(request: pytest.FixtureRequest) -> bool:
    """The setting ``result_extended`` of the Celery."""
    return bool(getattr(request, "param", True))


@pytest.fixture(scope="session")
def celery(celery_python: str) -> Iterator[Celery]:
    made = Celery(celery_python)
    yield made
    made.close()


@pytest.fixture
def peer(celery: Celery, url: str, extended: bool) -> Peer:
    return Peer(celery, url, extended)


@pytest.fixture(params=["celery", "kern"])
def store(request: pytest.FixtureRequest, opened: Opened, url: str, peer: Peer) -> SqlResultStore:
    """kern's store, on tables made by either."""
    if request.param == "celery":
        peer.store(task_id="made by celery", value=1)
    return opened(url, result_expires=None)


def write(store: SqlResultStore, *documents: Document) -> list[WriteStatus]:
    written = store.write([plan for plan in store.plan(documents, [()] * len(documents)) if plan is not None])
    assert not [item.error for item in written if item.error is not None]
    return [item.status for item in written]


@pytest.mark.parametrize("extended", [False, True], indirect=True)
def test_celery_reads_what_kern_wrote(store: SqlResultStore, peer: Peer, extended: bool) -> None:
    """Values, errors, children, states; with ``result_extended`` the further fields and stamps."""
    done = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
    value = Document(
        "value",
        states.SUCCESS,
        b'{"list": [1, null, "\\u00fc"]}',
        date_done=done,
        children=[[["child", None], None]],
        parent_id="the parent",
        group_id="the group",
        extended=ExtendedFields("proj.add", b"[1, 2]", b"{}", "worker@host", 3, "queue", ["st"], {"st": ["a"]}),
    )
    failed = Document(
        "failed",
        states.FAILURE,
        b'{"exc_type": "ValueError", "exc_message": ["boom", 1], "exc_module": "builtins"}',
        traceback="Traceback: ValueError: boom ü",
        date_done=done,
    )
    started = Document("started", states.STARTED, b'{"pid": 1}')
    assert write(store, value, failed, started) == [WriteStatus.WRITTEN] * 3
    read = peer.read(task_id="value")
    assert (read["status"], read["result"]) == ("SUCCESS", {"list": [1, None, "ü"]})
    assert read["children"] == [[["child", None], None]]
    assert read["date_done"].startswith("2026-03-04 05:06:07")
    if extended:
        assert (read["name"], read["args"], read["kwargs"]) == ("proj.add", [1, 2], {})
        assert (read["worker"], read["retries"], read["queue"]) == ("worker@host", 3, "queue")
        assert (read["stamped_headers"], read["st"]) == (["st"], ["a"])
        assert "kern" not in read
    read = peer.read(task_id="failed")
    assert (read["status"], read["result"]) == ("FAILURE", ["ValueError", ["boom", 1]])
    assert read["traceback"] == "Traceback: ValueError: boom ü"
    assert peer.read(task_id="started")["status"] == "STARTED"
    assert peer.read(task_id="absent")["status"] == "PENDING"


def test_kern_reads_what_celery_wrote(store: SqlResultStore, peer: Peer) -> None:
    peer.store(task_id="value", value={"list": [1, None, "ü"]})
    peer.store(task_id="failed", value=None, state="FAILURE", error=["boom", 1], traceback="a traceback")
    peer.store(task_id="started", value={"pid": 1}, state="STARTED")
    found = store.read(["value", "failed", "started", "absent"])
    assert set(found) == {"value", "failed", "started"}
    value, failed, started = found["value"], found["failed"], found["started"]
    assert (value.status, json.loads(value.result or b"")) == ("SUCCESS", {"list": [1, None, "ü"]})
    assert value.date_done is not None
    assert abs((datetime.now(UTC) - value.date_done).total_seconds()) < 60
    assert json.loads(failed.result or b"")["exc_message"] == ["boom", 1]
    assert failed.traceback == "a traceback"
    assert (started.status, started.date_done) == ("STARTED", None)


def test_neither_overwrites_the_others_success(store: SqlResultStore, peer: Peer) -> None:
    peer.store(task_id="celery's", value="first")
    assert write(store, Document("celery's", states.SUCCESS, b'"second"')) == [WriteStatus.KEPT]
    assert write(store, Document("kern's", states.SUCCESS, b'"first"')) == [WriteStatus.WRITTEN]
    peer.store(task_id="kern's", value="second")
    for task_id in ("celery's", "kern's"):
        assert peer.read(task_id=task_id)["result"] == "first"
        assert store.read([task_id])[task_id].result == b'"first"'


def test_what_celery_writes_over_is_celerys(store: SqlResultStore, peer: Peer) -> None:
    """kern's further fields belong to the row it wrote, and not to what Celery put in its place."""
    write(store, Document("id", states.FAILURE, b'{"exc_type": "KeyError"}', group_id="group", parent_id="parent"))
    assert store.read(["id"])["id"].group_id == "group"
    peer.store(task_id="id", value="it ran after all")
    document = store.read(["id"])["id"]
    assert (document.status, document.result) == ("SUCCESS", b'"it ran after all"')
    assert (document.group_id, document.parent_id) == (None, None)


def test_who_waits_is_told_of_celerys_results(
    make: Callable[..., SqlResultStore], url: str, store: SqlResultStore, peer: Peer
) -> None:
    """Celery announces nothing: it is noticed all the same."""
    waiting = StoreConnection(make(url, result_expires=None)).start()
    task_id = making.unique("id")
    waiting.watch(task_id)
    peer.store(task_id=task_id, value="news")
    eventually(lambda: task_id in waiting.told, "the result was reported")
    assert waiting.told[task_id].result == b'"news"'
    waiting.stop()


def test_groups_go_both_ways(store: SqlResultStore, peer: Peer) -> None:
    tuples = b'[["kern\'s", null], [[["a", null], null], [["b", null], null]]]'
    store.save_group(GroupDocument("kern's", tuples))
    assert peer.read_group(group_id="kern's") == ["kern's", ["a", "b"]]
    peer.save_group(group_id="celery's", members=["c"])
    group = store.read_group("celery's")
    assert group is not None
    assert json.loads(group.result) == [["celery's", None], [[["c", None], None]]]


def test_rows_are_numbered_by_both(store: SqlResultStore, peer: Peer) -> None:
    """Whoever made the tables, both find numbers for their rows."""
    for number in range(3):
        peer.store(task_id=f"celery-{number}", value=number)
        write(store, Document(f"kern-{number}", states.SUCCESS, b"1"))
    assert len(store.read([f"{who}-{number}" for who in ("celery", "kern") for number in range(3)])) == 6
    peer.forget(task_id="kern-0")
    assert store.forget(["celery-0", "kern-0"]) == 1
