"""Messages that nobody can run, that come twice, or are too large; the worker serves on."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from tests.faults.fleet import Balance, Fleet, Process

from kern.errors import MessageTooLarge, NotRegistered
from kern.message import Message
from kern_testing import make
from kern_testing.waiting import eventually

MEGABYTE = 1024 * 1024


def serve(fleet: Fleet, **settings: Any) -> Process:
    """Let a worker do all there is to do, and see that it serves on afterwards."""
    worker = fleet.worker(**settings)
    fleet.drain()
    (after,) = fleet.publish("step")
    fleet.drain()
    assert fleet.app.AsyncResult(after).get(timeout=10) == after
    return worker


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


BODIES = {
    "no JSON": b"{'args': ()}",
    "truncated": b'[[], {}, {"callbacks": nu',
    "not UTF-8": b'[["\xff\xfe"], {}, {}]',
    "nested deeply": b"[[" + deep(100_000) + b"], {}, {}]",
    "empty": b"",
    "binary zeros": b"\x00" * 64,
    "another shape": b'"add 2 and 2"',
    "too few parts": b"[[], {}]",
    "arguments that are none": b'["args", 7, {}]',
}


def test_f24_malformed_bodies_are_quarantined_byte_for_byte(fleet: Fleet, balance: Balance) -> None:
    """Each one, and nothing else; calls between them run."""
    messages = {name: make.message(body=body, task="project.step") for name, body in BODIES.items()}
    good = []
    for message in messages.values():
        fleet.publish_raw(message)
        good += fleet.publish("step")
    worker = serve(fleet)
    fleet.stop(worker)
    kept = {entry.message.task_id: entry for entry in fleet.quarantined() if entry.message is not None}
    assert {name for name, message in messages.items() if message.task_id not in kept} == set()
    assert len(kept) == len(messages)
    for name, message in messages.items():
        entry = kept[message.task_id]
        assert entry.message is not None
        assert entry.message.body == BODIES[name]
        assert entry.reason in {"undecodable", "invalid"}, name
        assert entry.evidence, name
    assert set(good) <= set(fleet.ended())
    balance(fleet, "F24 malformed bodies")


def test_f25_refused_content_types_are_parked_and_then_quarantined(fleet: Fleet, balance: Balance) -> None:
    """Another worker might accept them; when none does for `task_unknown_timeout`, they are set aside, undecoded."""
    types = ["application/x-python-serialize", "application/x-yaml", "application/x-unheard-of", "text/plain"]
    evil = b"cos\nsystem\n(S'touch owned'\ntR."
    messages = [make.message(body=evil, task="project.step", content_type=kind) for kind in types]
    fleet.publish_raw(*messages)
    worker = serve(fleet, task_unknown_timeout=1.0)
    fleet.stop(worker)
    assert not (fleet.folder / "owned").exists()
    kept = {entry.message.task_id: entry.reason for entry in fleet.quarantined() if entry.message is not None}
    assert kept == {message.task_id: "content-type" for message in messages}
    balance(fleet, "F25 refused content types")


def test_f25_a_compressed_bomb_is_refused_before_it_unfolds(fleet: Fleet, balance: Balance) -> None:
    """200 MB in 200 kB: the worker never has them in memory."""
    packer = zlib.compressobj(9)
    body = packer.compress(b'[["')
    block = b"a" * MEGABYTE
    body += b"".join(packer.compress(block) for _ in range(200)) + packer.compress(b'"], {}, {}]') + packer.flush()
    assert len(body) < MEGABYTE
    worker = fleet.ready(fleet.worker())
    fleet.publish("step")
    fleet.drain()
    before = peak_memory(worker)
    bomb = make.message(body=body, task="project.step", headers={"compression": "application/x-gzip"})
    fleet.publish_raw(bomb)
    fleet.drain()
    assert [entry.message and entry.message.task_id for entry in fleet.quarantined()] == [bomb.task_id]
    assert peak_memory(worker) - before < 64 * MEGABYTE
    fleet.stop(worker)
    balance(fleet, "F25 compressed bomb")


def peak_memory(worker: Process) -> int:
    """Bytes that the process ever had resident."""
    (line,) = [
        line for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines() if line.startswith("VmHWM:")
    ]
    return int(line.split()[1]) * 1024


def test_f26_a_huge_call_is_refused_where_it_is_made(fleet: Fleet, balance: Balance) -> None:
    """The error names size, limit and setting; what is within the limit runs."""
    with pytest.raises(MessageTooLarge, match="message_size_limit") as caught:
        fleet.app.send_task("project.step", ["a" * 17 * MEGABYTE])
    assert caught.value.size > caught.value.limit == 16 * MEGABYTE
    refused = fleet.publish("step", "a" * 17 * MEGABYTE)
    assert fleet.ledger.published() == {refused[0]: "refused"}
    assert fleet.left() == 0
    (large,) = fleet.publish("echo", "a" * 4 * MEGABYTE)
    worker = serve(fleet)
    fleet.stop(worker)
    assert fleet.app.AsyncResult(large).get(timeout=10) == 4 * MEGABYTE
    balance(fleet, "F26 huge call")


def test_f27_an_unknown_task_waits_for_a_worker_that_knows_it(fleet: Fleet, balance: Balance) -> None:
    (call,) = fleet.publish("newer.newcomer")
    old = fleet.worker()
    eventually(lambda: fleet.depths()[0].delayed == 1, "the old worker has parked it")
    (other,) = fleet.publish("step")
    eventually(lambda: fleet.ended() == [other], "the old worker serves on")
    fleet.stop(old)
    new = fleet.worker(app="newer:app")
    fleet.drain()
    fleet.stop(new)
    assert fleet.app.AsyncResult(call).get(timeout=10) == call
    assert not fleet.quarantined()
    balance(fleet, "F27 unknown task, known later")


def test_f27_a_task_that_nobody_knows_is_quarantined_and_its_caller_told(fleet: Fleet, balance: Balance) -> None:
    (call,) = fleet.publish("newer.newcomer")
    worker = serve(fleet, task_unknown_timeout=1.0)
    fleet.stop(worker)
    (kept,) = fleet.quarantined()
    assert (kept.reason, kept.message and kept.message.task_id) == ("unknown-task", call)
    with pytest.raises(NotRegistered, match=r"newer\.newcomer"):
        fleet.app.AsyncResult(call).get(timeout=10)
    balance(fleet, "F27 unknown task, never known")


def test_f27_what_was_quarantined_runs_once_it_is_replayed(fleet: Fleet, balance: Balance) -> None:
    """After the deployment that was forgotten."""
    (call,) = fleet.publish("newer.newcomer")
    worker = serve(fleet, task_unknown_timeout=0.5)
    fleet.stop(worker)
    (kept,) = fleet.quarantined()
    assert fleet.ask(lambda port: port.replay([kept.key])) == 1
    new = fleet.worker(app="newer:app")
    fleet.drain()
    fleet.stop(new)
    assert call in fleet.ended()
    assert not fleet.quarantined()
    balance(fleet, "F27 unknown task, replayed")


FOREIGN = {
    "no id": Message(b"[[], {}, {}]", {"lang": "py", "task": "project.step"}, {}),
    "no task": Message(b"[[], {}, {}]", {"lang": "py", "id": "no-task"}, {"correlation_id": "no-task"}),
    "neither": Message(b"[[], {}, {}]", {}, {}),
    "a number for a task": Message(b"[[], {}, {}]", {"task": 7, "id": "a-number"}, {"correlation_id": "a-number"}),
    "no content type": Message(b"2 + 2", {"task": "project.step", "id": "bare"}, {}, content_type=""),
    "somebody else's": Message(b'{"event": "paid"}', {"x-event": "paid"}, {"correlation_id": "order-7"}),
    "somebody else's list": Message(b"[1, 2, 3]", {}, {"correlation_id": "order-8"}),
}


def test_f28_messages_that_are_no_calls_are_quarantined(fleet: Fleet, balance: Balance) -> None:
    fleet.publish_raw(*FOREIGN.values())
    worker = serve(fleet)
    fleet.stop(worker)
    kept = [entry.message.body for entry in fleet.quarantined() if entry.message is not None]
    assert sorted(kept) == sorted(message.body for message in FOREIGN.values())
    assert {entry.reason for entry in fleet.quarantined()} <= {"undecodable", "invalid"}
    balance(fleet, "F28 messages of others")


def test_f28_protocol_1_is_understood(fleet: Fleet, balance: Balance) -> None:
    """As clients of Celery before version 4 send it: everything is in the body."""
    body = {"task": "project.step", "id": "of-old", "args": [0], "kwargs": {}, "retries": 0, "eta": None}
    fleet.ledger.intend("of-old")
    fleet.publish_raw(Message(json.dumps(body).encode(), {}, {}))
    fleet.ledger.answered("confirmed", "of-old")
    worker = serve(fleet)
    fleet.stop(worker)
    assert fleet.app.AsyncResult("of-old").get(timeout=10) == "of-old"
    balance(fleet, "F28 protocol 1")


def test_f29_a_call_that_is_sent_twice_while_it_waits_runs_once(fleet: Fleet, balance: Balance) -> None:
    """Also while it runs: the broker has one message of an id."""
    (call,) = fleet.publish("hold", "go")
    fleet.app.send_task("project.hold", ["go"], task_id=call)
    worker = fleet.worker()
    fleet.until_started([call])
    fleet.app.send_task("project.hold", ["go"], task_id=call)
    fleet.release("go")
    fleet.drain()
    fleet.stop(worker)
    assert fleet.started() == [call]
    balance(fleet, "F29 sent twice while it waits or runs")


def test_f29_a_call_that_is_sent_again_when_it_is_done_runs_again(fleet: Fleet, balance: Balance) -> None:
    """The broker remembers no ids of what has left it: counted, and stated."""
    (call,) = fleet.publish("step")
    worker = fleet.worker()
    fleet.drain()
    fleet.app.send_task("project.step", task_id=call)
    fleet.drain()
    fleet.stop(worker)
    assert fleet.ended() == [call, call]
    balance(fleet, "F29 sent again when it is done", 1)


def test_f29_what_an_operator_hands_back_while_it_runs_runs_again(fleet: Fleet, balance: Balance) -> None:
    """The first run's outcome comes too late and is refused."""
    (call,) = fleet.publish("hold", "go")
    first = fleet.worker()
    fleet.until_started([call])
    assert fleet.ask(lambda port: port.recover(True)) == 1
    fleet.release("go")
    fleet.drain()
    fleet.stop(first)
    assert fleet.app.AsyncResult(call).get(timeout=10) == call
    # A worker that runs several at once may run both at once.
    report = balance(fleet, "F29 handed back by an operator while it runs", 1, concurrent=1)
    assert (report.fenced, report.duplicates) == (1, 1)
