"""On one Redis: Celery's client and kern's worker, kern's client and Celery's worker, both workers on one queue."""

from __future__ import annotations

import base64
import json
import socket
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import hiredis
import pytest
from tests.interop.conftest import ROOT, Probe
from tests.interop.fleet import Fleet

from kern.errors import TaskRevokedError
from kern_testing.servers import Redis
from kern_testing.waiting import eventually

VERSIONS = {"5.7": ".venv-celery", "5.6": ".venv-celery56"}
SERIALIZERS = ["json", "pickle", "yaml", "msgpack"]
#: Calls that both workers share.
SHARED = 5_000

pytestmark = [pytest.mark.xdist_group("interop-redis")]


@attrs.define
class Place:
    """A Redis with a worker of each kind, and the clients."""

    server: Redis
    fleet: Fleet
    celery: Probe

    def broker(self, *words: str) -> Any:
        """What the broker's database answers to one command."""
        return ask(self.server.port, 1, *words)

    def results(self, *words: str) -> Any:
        """What the database of the results answers."""
        return ask(self.server.port, 2, *words)


def ask(port: int, database: int, *words: str) -> Any:
    reader = hiredis.Reader()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(hiredis.pack_command(("SELECT", database)) + hiredis.pack_command(words))
        answers: list[Any] = []
        while len(answers) < 2:
            if (answer := reader.gets()) is False:
                reader.feed(connection.recv(65536))
            else:
                answers.append(answer)
    if isinstance(answers[1], hiredis.ReplyError):
        raise answers[1]
    return answers[1]


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    server = Redis()
    server.start()
    yield server
    server.stop()


def interpreter(version: str) -> str:
    """That of the environment that has this Celery."""
    python = ROOT / VERSIONS[version] / "bin" / "python"
    if not python.exists():
        pytest.skip(f"there is no Celery {version}: make {VERSIONS[version]}/.installed")
    return str(python)


@pytest.fixture(scope="module", params=list(VERSIONS))
def place(request: pytest.FixtureRequest, server: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Both workers, each on a queue of its own and on ``shared``; the databases of one version are its own."""
    python = interpreter(request.param)
    server.flush()
    fleet = Fleet(tmp_path_factory.mktemp(f"celery-{request.param}"), python, server.url(1), server.url(2))
    celery = Probe(python, "celery_peer.py", **fleet.environment)
    try:
        workers = [
            fleet.celery_worker("for-celery,shared", "-c", "2", "-P", "prefork"),
            fleet.kern_worker("for-kern,shared", "-c", "2", "-P", "prefork"),
        ]
        for worker in workers:
            worker.wait_until_ready()
        yield Place(server, fleet, celery)
    finally:
        celery.close()
        fleet.close()


@pytest.fixture
def celery(place: Place) -> Probe:
    """Celery's client."""
    return place.celery


@pytest.fixture
def fleet(place: Place) -> Fleet:
    return place.fleet


# -- Celery's client, kern's worker ------------------------------------------------------------------------------------


def test_a_celery_client_gets_what_a_kern_worker_returns(celery: Probe) -> None:
    task_id = celery.send(name="peer.add", args=(20,), kwargs={"y": 22}, queue="for-kern")
    assert celery.get(task_id=task_id) == {
        "state": "SUCCESS",
        "value": 42,
        "class": "int",
        "args": None,
        "traceback": None,
    }


def test_a_celery_client_gets_the_error_of_a_kern_worker_with_class_and_traceback(celery: Probe) -> None:
    answer = celery.get(task_id=celery.send(name="peer.fail", args=("boom", 7), queue="for-kern"))
    assert (answer["state"], answer["class"], answer["args"]) == ("FAILURE", "Silly", ["boom", "7"])
    assert "raise Silly(*args)" in answer["traceback"]


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
def test_a_kern_worker_reads_every_serializer_and_compression_of_celery(
    celery: Probe, serializer: str, compression: str | None
) -> None:
    value = {"text": "é" * 50, "numbers": [1, 2.5, None, True]}
    task_id = celery.send(
        name="peer.echo", args=(value,), queue="for-kern", serializer=serializer, compression=compression
    )
    assert celery.get(task_id=task_id)["value"] == value


def test_a_kern_worker_runs_protocol_1(celery: Probe) -> None:
    task_id = celery.send(name="peer.add", args=(1, 2), queue="for-kern", protocol=1)
    assert celery.get(task_id=task_id)["value"] == 3


def test_a_kern_worker_retries_what_celery_sent(celery: Probe) -> None:
    assert celery.get(task_id=celery.send(name="peer.flaky", args=(2,), queue="for-kern"))["value"] == 2
    spent = celery.get(task_id=celery.send(name="peer.flaky", args=(9,), queue="for-kern"))
    assert (spent["state"], spent["class"]) == ("FAILURE", "KeyError")


def test_a_kern_worker_waits_for_the_eta_of_celery(celery: Probe) -> None:
    due = datetime.now(UTC) + timedelta(seconds=1)
    task_id = celery.send(name="peer.echo", args=("late",), queue="for-kern", eta=due)
    assert celery.get(task_id=task_id)["value"] == "late"
    assert datetime.now(UTC) >= due


def test_a_kern_worker_revokes_what_celery_let_expire(celery: Probe) -> None:
    past = datetime.now(UTC) - timedelta(seconds=5)
    answer = celery.get(task_id=celery.send(name="peer.echo", args=("stale",), queue="for-kern", expires=past))
    assert (answer["state"], answer["class"], answer["args"]) == ("REVOKED", "TaskRevokedError", ["expired"])


def test_a_kern_worker_stores_nothing_for_a_celery_client_that_ignores_the_result(place: Place) -> None:
    what = f"quiet-{uuid.uuid4()}"
    task_id = place.celery.send_task(name="peer.quiet", args=(what,), queue="for-kern")
    eventually(lambda: place.fleet.noted()[what] == 1, "it has been run")
    told = place.celery.get(task_id=place.celery.send(name="peer.echo", args=("after",), queue="for-kern"))
    assert told["value"] == "after"
    assert place.results("EXISTS", f"celery-task-meta-{task_id}") == 0


# -- kern's client, Celery's worker ------------------------------------------------------------------------------------


def test_a_kern_client_gets_what_a_celery_worker_returns(fleet: Fleet) -> None:
    result = fleet.kern.send_task("peer.add", args=(20,), kwargs={"y": 22})
    assert result.get(timeout=20) == 42
    assert result.state == "SUCCESS"


def test_a_kern_client_gets_the_error_of_a_celery_worker_with_class_and_traceback(fleet: Fleet) -> None:
    answer = fleet.get(fleet.kern.send_task("peer.fail", args=("boom", 7)).id)
    assert (answer["state"], answer["class"], answer["args"]) == ("FAILURE", "Silly", ["boom", "7"])
    assert "raise Silly(*args)" in answer["traceback"]


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
def test_a_celery_worker_reads_every_serializer_and_compression_of_kern(
    fleet: Fleet, serializer: str, compression: str | None
) -> None:
    value = {"text": "é" * 50, "numbers": [1, 2.5, None, True]}
    result = fleet.kern.send_task("peer.echo", args=(value,), serializer=serializer, compression=compression)
    assert result.get(timeout=20) == value


def test_a_celery_worker_waits_for_the_eta_of_kern(fleet: Fleet) -> None:
    """The message is where Celery expects it: no kern worker consumes this queue."""
    due = datetime.now(UTC) + timedelta(seconds=1)
    assert fleet.kern.send_task("peer.echo", args=("late",), eta=due).get(timeout=20) == "late"
    assert datetime.now(UTC) >= due


def test_a_celery_worker_retries_what_kern_sent(fleet: Fleet) -> None:
    assert fleet.kern.send_task("peer.flaky", args=(2,)).get(timeout=20) == 2
    answer = fleet.get(fleet.kern.send_task("peer.flaky", args=(9,)).id)
    assert (answer["state"], answer["class"]) == ("FAILURE", "KeyError")


def test_a_celery_worker_revokes_what_kern_let_expire(fleet: Fleet) -> None:
    past = datetime.now(UTC) - timedelta(seconds=5)
    with pytest.raises(TaskRevokedError, match="expired"):
        fleet.kern.send_task("peer.echo", args=("stale",), expires=past).get(timeout=20)


def test_a_celery_worker_stores_nothing_for_a_kern_client_that_ignores_the_result(place: Place) -> None:
    what = f"quiet-{uuid.uuid4()}"
    result = place.fleet.kern.send_task("peer.quiet", args=(what,), ignore_result=True)
    eventually(lambda: place.fleet.noted()[what] == 1, "it has been run")
    assert place.fleet.kern.send_task("peer.echo", args=("after",)).get(timeout=20) == "after"
    assert place.results("EXISTS", f"celery-task-meta-{result.id}") == 0


def test_a_celery_worker_runs_protocol_1_of_kern(fleet: Fleet) -> None:
    fleet.kern.conf.task_protocol = 1
    try:
        assert fleet.kern.send_task("peer.add", args=(1, 2)).get(timeout=20) == 3
    finally:
        fleet.kern.conf.task_protocol = 2


# -- both --------------------------------------------------------------------------------------------------------------


def test_each_side_reads_the_results_of_the_other(celery: Probe, fleet: Fleet) -> None:
    by_celery = fleet.kern.send_task("peer.echo", args=([1, {"a": None}],)).id
    by_kern = celery.send(name="peer.echo", args=([1, {"a": None}],), queue="for-kern")
    for task_id in (by_celery, by_kern):
        assert fleet.get(task_id) == celery.get(task_id=task_id)
        assert fleet.get(task_id)["value"] == [1, {"a": None}]


def test_both_workers_drain_one_queue_and_nothing_is_lost_or_run_twice(place: Place) -> None:
    fleet = place.fleet
    before = sum(fleet.noted().values())
    mine = [f"k{number}" for number in range(SHARED // 2)]
    theirs = [f"c{number}" for number in range(SHARED // 2)]
    note = fleet.kern.signature("peer.note")
    sent = fleet.kern.send_many([note.clone(args=(what,)) for what in mine], queue="shared")
    ids = place.celery.send_many(name="peer.note", calls=[(what,) for what in theirs], queue="shared")
    assert len(sent) + len(ids) == SHARED
    eventually(lambda: sum(fleet.noted().values()) - before >= SHARED, "all of it has been run", timeout=90)
    for task_id in (*(result.id for result in sent[-50:]), *ids[-50:]):
        assert fleet.get(task_id)["state"] == "SUCCESS"
    noted = fleet.noted()
    assert {what for what in noted if what[0] in "kc"} == {*mine, *theirs}
    assert {what: times for what, times in noted.items() if what[0] in "kc" and times != 1} == {}
    assert min(fleet.noted_by()[side] for side in ("celery", "kern")) > 0
    assert place.broker("LLEN", "shared") == 0
    eventually(lambda: place.broker("HLEN", "kern.leases") == 0, "no lease is left")
    eventually(lambda: place.broker("HLEN", "unacked") == 0, "Celery holds nothing")


@pytest.mark.parametrize("worker", ["celery", "kern"])
def test_the_most_urgent_runs_first_on_either_side_whoever_sent_it(place: Place, worker: str) -> None:
    """0 is the most urgent on Redis; what waits before a worker comes is run in that order."""
    queue, fleet = f"urgent-{worker}-{uuid.uuid4().hex[:8]}", place.fleet
    waiting = [(9, "least"), (3, "third"), (0, "first"), (6, "last but one")]
    sent = []
    for number, (priority, what) in enumerate(waiting):
        if number % 2:
            sent.append(place.celery.send(name="peer.note", args=(f"{queue}:{what.replace(' ', '-')}",), queue=queue,
                                          priority=priority))  # fmt: skip
        else:
            call = fleet.kern.signature("peer.note", args=(f"{queue}:{what.replace(' ', '-')}",))
            sent.append(call.apply_async(queue=queue, priority=priority).id)
    one_at_a_time = ("-c", "1", "--prefetch-multiplier", "1", "-P", "solo") if worker == "celery" else ("-P", "solo")
    start = fleet.celery_worker if worker == "celery" else fleet.kern_worker
    started = start(queue, *one_at_a_time)
    try:
        for task_id in sent:
            assert fleet.get(task_id, timeout=40)["state"] == "SUCCESS"
    finally:
        started.stop()
    order = [line.split()[0].rpartition(":")[2] for line in fleet.journal.read_text().splitlines() if queue in line]
    assert order == ["first", "third", "last-but-one", "least"]


@pytest.mark.parametrize("version", list(VERSIONS))
def test_celery_alone_runs_what_kern_delayed(server: Redis, tmp_path: Path, version: str) -> None:
    """No kern worker is alive: nothing a kern client publishes may wait in structures that only kern knows."""
    fleet = Fleet(tmp_path, interpreter(version), server.url(3), server.url(4))
    try:
        fleet.celery_worker("for-celery", "-c", "1", "-P", "solo").wait_until_ready()
        due = datetime.now(UTC) + timedelta(seconds=1)
        by_eta = fleet.kern.send_task("peer.echo", args=("eta",), eta=due)
        by_countdown = [fleet.kern.send_task("peer.echo", args=(number,), countdown=1) for number in range(20)]
        assert by_eta.get(timeout=20) == "eta"
        assert [result.get(timeout=20) for result in by_countdown] == list(range(20))
        assert datetime.now(UTC) >= due
        assert not [key for key in ask(server.port, 3, "KEYS", "kern.*") if not key.startswith(b"kern.published")]
    finally:
        fleet.close()


def test_the_envelope_on_the_list_is_celerys_key_by_key(place: Place) -> None:
    """The same call by each client: same keys in the same order, same values where they are not ids."""
    queue, fleet = f"look-{uuid.uuid4().hex[:8]}", place.fleet
    place.celery.send(name="peer.add", args=(2, 3), queue=queue)
    fleet.kern.send_task("peer.add", args=(2, 3), queue=queue)
    ours, theirs = (json.loads(raw) for raw in place.broker("LRANGE", queue, "0", "-1"))
    assert list(ours) == list(theirs)
    assert list(ours["headers"]) == list(theirs["headers"])
    assert list(ours["properties"]) == list(theirs["properties"])
    assert base64.b64decode(ours["body"]) == base64.b64decode(theirs["body"])
    different = {name for name in ours["headers"] if ours["headers"][name] != theirs["headers"][name]}
    assert different <= {"id", "root_id", "origin", "ignore_result"}
    assert ours["properties"]["delivery_info"] == theirs["properties"]["delivery_info"]
