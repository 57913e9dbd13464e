"""What the store does with a server, beyond its contract."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from kern import states
from kern.contracts.result_store import Join, StoreCapability, WriteStatus
from kern.documents import encode_document
from kern.errors import BackendError, BackendStoreError, BackendUnavailable
from kern.outcome import Document, JoinPart
from kern_backend_redis import writing
from kern_backend_redis.store import RedisResultStore
from kern_backend_redis.watching import STALE
from kern_testing import make as making
from kern_testing.contracts.connection import StoreConnection
from kern_testing.contracts.records import in_parallel
from kern_testing.contracts.result_store import body_id, ids, join, parts
from kern_testing.servers import Redis, RedisCluster, Server
from kern_testing.waiting import eventually

from .conftest import Ask, Opened

Make = Callable[..., RedisResultStore]
KEY = "celery-task-meta-"


@pytest.fixture
def started() -> Iterator[Callable[[Server], Any]]:
    """Starts servers of a test's own, and stops them in the end."""
    servers: list[Server] = []

    def started(server: Server) -> Any:
        servers.append(server)
        server.start()
        return server

    yield started
    for server in servers:
        server.stop()


def is_open(store: StoreConnection, task_id: str) -> bool:
    return store.read_one(task_id) is None


# -- keys, lives, announcements ----------------------------------------------------------------------------------------


def test_a_document_is_stored_under_celerys_key_and_announced_as_it_is(opened: Opened, ask: Ask) -> None:
    store = opened()
    document = store.document("the id")
    ask("SUBSCRIBE", f"{KEY}the id")
    store.write(document)
    assert ask() == [b"message", f"{KEY}the id".encode(), document.whole]
    ask("UNSUBSCRIBE")
    assert ask("GET", f"{KEY}the id") == document.whole


def test_every_state_is_announced(opened: Opened, ask: Ask) -> None:
    """Celery's clients follow a task's states; what stays is announced once."""
    store = opened()
    ask("SUBSCRIBE", f"{KEY}id")
    for status in (states.STARTED, states.RETRY, states.SUCCESS, states.FAILURE):
        store.write(store.document("id", status=status))
    store.write(store.document("id", value="another"))
    heard = [json.loads(ask()[2])["status"] for _ in range(3)]
    assert heard == [states.STARTED, states.RETRY, states.SUCCESS]
    assert ask("PING") == [b"pong", b""], "more was announced than written"


@pytest.mark.parametrize(
    ("settings", "success", "failure"),
    [
        ({}, 86400, 86400),
        ({"result_expires": 60}, 60, 60),
        ({"result_expires": 60, "result_failure_expires": 600}, 60, 600),
        ({"result_expires": None}, -1, -1),
        ({"result_expires": 0}, -1, -1),
        ({"result_expires": None, "result_failure_expires": 600}, -1, 600),
        ({"result_expires": 60, "result_failure_expires": 0}, 60, -1),
    ],
)
def test_documents_live_as_long_as_the_settings_say(
    opened: Opened, ask: Ask, settings: dict[str, Any], success: int, failure: int
) -> None:
    store = opened(**settings)
    store.write(store.document("s"), store.document("f", status=states.FAILURE))
    for name, life in (("s", success), ("f", failure)):
        left = ask("TTL", f"{KEY}{name}")
        assert life - 5 <= left <= life if life > 0 else left == -1


def test_a_life_begins_anew_with_each_write(opened: Opened, ask: Ask) -> None:
    brief, lasting = opened(result_expires=60), opened(result_expires=None)
    brief.write(brief.document("id", status=states.STARTED))
    lasting.write(lasting.document("id"))
    assert ask("TTL", f"{KEY}id") == -1


@pytest.mark.parametrize(
    ("prefix", "key"),
    [("pre", "pre_celery"), ("pre:", "pre:celery"), ("pre-", "pre-celery"), ("pre.", "pre.celery"), ("_", "_celery")],
)
def test_a_prefix_is_put_before_each_key(opened: Opened, ask: Ask, prefix: str, key: str) -> None:
    """With an underscore between, unless it ends in a sign that separates: as Celery has it."""
    store = opened(result_backend_transport_options={"global_keyprefix": prefix})
    store.write(store.document("id"))
    store.open_join(Join("j", ("m",)))
    assert sorted(ask("KEYS", "*")) == sorted(
        f"{key.removesuffix('celery')}{name}".encode()
        for name in ("celery-task-meta-id", "kern.join.j", "kern.join.j.members")
    )


# -- what is there already ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "lzma"])
def test_the_state_of_a_compressed_document_counts(opened: Opened, compression: str) -> None:
    store = opened()
    for number, (status, after, expected) in enumerate(
        [
            (states.SUCCESS, states.FAILURE, WriteStatus.KEPT),
            (states.FAILURE, states.STARTED, WriteStatus.KEPT),
            (states.FAILURE, states.SUCCESS, WriteStatus.WRITTEN),
            (states.STARTED, states.RETRY, WriteStatus.WRITTEN),
        ]
    ):
        task_id, value = f"id-{number}", ValueError() if status == states.FAILURE else "x" * 500
        store.write(encode_document(task_id, status, value, whole=True, compression=compression))
        own, beside = store.document(task_id, status=after), store.document()
        (written,) = store.write_plans([store.plan(own, (), [beside])])
        assert (written.status, written.error) == (expected, None)
        read = store.read_one(task_id)
        assert read is not None
        assert read.status == (status if expected is WriteStatus.KEPT else after)
        assert store.read_one(beside.task_id) is not None


def test_a_document_that_changes_while_it_is_judged_is_judged_anew(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A success that comes in between, compressed as well, stays."""
    store, other = opened(), opened()
    started = encode_document("id", states.STARTED, "x" * 500, whole=True, compression="gzip")
    done = encode_document("id", states.SUCCESS, "y" * 500, whole=True, compression="gzip")
    store.write(started)
    looked = writing.look
    between = [done]

    def look(body: bytes) -> Any:
        if between:
            in_parallel([lambda: other.write(between.pop())])
        return looked(body)

    monkeypatch.setattr(writing, "look", look)
    (written,) = store.write(store.document("id", status=states.FAILURE))
    assert written.status is WriteStatus.KEPT
    read = store.read_one("id")
    assert read is not None
    assert read.whole == done.whole


def test_what_is_no_document_is_overwritten(opened: Opened, ask: Ask) -> None:
    """Text of somebody's own has no state that could stay."""
    store = opened()
    for number, text in enumerate((b"", b"garbage", b"[1]", b"\x80\x04garbage", b"\x00celery-compressed\x00x\x00y")):
        ask("SET", f"{KEY}{number}", text)
        assert store.write(store.document(str(number)))[0].status is WriteStatus.WRITTEN
        read = store.read_one(str(number))
        assert read is not None
        assert read.status == states.SUCCESS


def test_a_key_of_another_type_is_an_error_of_its_document(opened: Opened, ask: Ask) -> None:
    ask("LPUSH", f"{KEY}list", "x")
    store = opened()
    plans = [store.plan(store.document(task_id)) for task_id in ("a", "list", "b")]
    written = store.write_plans(plans)
    assert [type(item.error) for item in written] == [type(None), BackendStoreError, type(None)]
    assert f"{KEY}list" in str(written[1].error)
    assert set(store.read("a", "list", "b")) == {"a", "b"}


# -- batches -----------------------------------------------------------------------------------------------------------


def test_no_script_writes_more_than_it_may(opened: Opened, ask: Ask) -> None:
    """A batch of many or of large documents is written by several scripts."""
    store = opened()
    ask("CONFIG", "RESETSTAT")
    store.write(*(store.document() for _ in range(writing.PLANS * 3)))
    store.write(*(store.document(value="x" * (writing.BYTES // 3)) for _ in range(6)))
    stats = dict(line.split(":", 1) for line in ask("INFO", "commandstats").decode().splitlines() if ":" in line)
    assert int(stats["cmdstat_evalsha"].split("calls=")[1].split(",")[0]) == 3 + 3


def test_large_documents_are_read_in_answers_of_bounded_size(opened: Opened, ask: Ask) -> None:
    store = opened()
    documents = [store.document(value="x" * 100_000) for _ in range(300)]
    store.write(*documents)
    ask("CONFIG", "RESETSTAT")
    found = store.read(*(document.task_id for document in documents))
    assert len(found) == 300
    stats = dict(line.split(":", 1) for line in ask("INFO", "commandstats").decode().splitlines() if ":" in line)
    assert int(stats["cmdstat_mget"].split("calls=")[1].split(",")[0]) > 10


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_what_nobody_waits_for_is_not_subscribed_to(opened: Opened, ask: Ask) -> None:
    """When results have come, or are not wanted any more, the server has few subscriptions left for them, and none
    when others are waited for."""
    store, other = opened(), opened()
    wanted, unwanted = [other.document() for _ in range(150)], [making.unique("id") for _ in range(90)]
    store.watch(*(document.task_id for document in wanted), *unwanted)
    assert len(ask("PUBSUB", "CHANNELS", f"{KEY}*")) == 240
    other.write(*wanted)
    eventually(lambda: len(store.told) == 150, "the results were reported")
    store.unwatch(*unwanted)
    eventually(lambda: len(ask("PUBSUB", "CHANNELS", f"{KEY}*")) < STALE, "most subscriptions are gone")
    store.watch("another")
    assert ask("PUBSUB", "CHANNELS", f"{KEY}*") == [f"{KEY}another".encode()]


def test_a_result_is_reported_once_for_each_watch(opened: Opened) -> None:
    """Found and announced at once is one report; who watches again is told again."""
    told: list[str] = []
    store, other = opened(), opened()
    document = other.document()
    store._take = lambda documents: told.extend(each.task_id for each in documents)  # type: ignore[method-assign]
    store.port.stop()
    store.start()
    for count in (1, 2):
        store.watch(document.task_id)
        in_parallel([lambda: other.write(document)] * 2)
        marker = other.document()
        store.watch(marker.task_id)
        other.write(marker)
        eventually(lambda marker=marker: marker.task_id in told, "the marker was reported")
        assert told.count(document.task_id) == count


def test_many_threads_wait_on_one_connection(opened: Opened, ask: Ask) -> None:
    """Each for results of its own, and each is told."""
    store, other = opened(), opened()
    clients = len(ask("CLIENT", "LIST").splitlines())
    groups = [[making.unique("id") for _ in range(20)] for _ in range(8)]
    barrier = threading.Barrier(len(groups) + 1)

    def wait(mine: list[str]) -> None:
        store.watch(*mine)
        barrier.wait(20)
        eventually(lambda: set(mine) <= store.told.keys(), "this thread's results were reported")

    def write() -> None:
        barrier.wait(20)
        other.write(*(other.document(task_id) for group in groups for task_id in group))

    in_parallel([*(lambda mine=mine: wait(mine) for mine in groups), write])
    assert len(ask("CLIENT", "LIST").splitlines()) == clients


def test_a_reply_that_nobody_drives_comes(opened: Opened) -> None:
    """Callers of asyncio and callbacks: somebody reads for them."""
    store = opened()
    document = store.document()
    done: Future[None] = Future()
    store.port.write([store.plan(document)]).add_done_callback(lambda reply: done.set_result(None))
    done.result(20)
    assert store.read_one(document.task_id) is not None


# -- joins -------------------------------------------------------------------------------------------------------------


def test_a_write_whose_answer_is_lost_is_said_again_and_yields_the_body_once(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    """The server has counted the last part and closed the join when the connection goes: the same plan, written again,
    is answered as it was the first time."""
    store = opened()
    opening = join(members=1)
    store.open_join(opening)
    document = store.document()
    plan = store.plan(document, parts(opening, (0,)))
    asked = writing.Writer.asked
    lost = []

    def cut_once(self: Any, commands: Any) -> Any:
        answers = yield from asked(self, commands)
        if len(lost) < 2:  # the question, and the plan that was decided
            lost.append(answers)
            answers = yield from asked(self, commands)
        return answers

    monkeypatch.setattr(writing.Writer, "asked", cut_once)
    (written,) = store.write_plans([plan])
    assert (written.status, written.error) == (WriteStatus.WRITTEN, None)
    assert ids(written.publications) == [body_id(opening)]
    assert len(lost) == 2


def test_joins_expire(opened: Opened, ask: Ask) -> None:
    """A join that nobody finishes leaves nothing, and is not due any more."""
    store = opened(result_chord_expires=0.2)
    opening = join(deadline=1.0)
    store.open_join(opening)
    store.write_parts(*parts(opening, (0,)))
    assert [state.join.id for state in store.joins_due()] == [opening.id]
    eventually(lambda: ask("KEYS", "kern.join.*") == [], "the join has expired")
    assert store.joins_due() == []
    assert ask("KEYS", "*") == []


def test_a_join_is_kept_until_its_deadline_at_least(opened: Opened, ask: Ask) -> None:
    store = opened(result_expires=10)
    store.open_join(join(deadline=store.clock.now() + 1000))
    for key in ask("KEYS", "kern.join.*"):
        assert 1000 <= ask("TTL", key) <= 1011


def test_a_join_of_thousands_is_opened_and_joined(opened: Opened) -> None:
    store = opened()
    opening = join(members=2500)
    store.open_join(opening)
    published = []
    for start in range(0, 2500, 500):
        plans = [store.plan(parts=[part]) for part in parts(opening, range(start, start + 500))]
        published += [p for item in store.write_plans(plans) for p in item.publications]
    assert ids(published) == [body_id(opening)]


def test_a_part_may_come_while_its_join_is_being_opened(opened: Opened, ask: Ask) -> None:
    """Members of a large join are written in several commands: who is not among the first is no stranger."""
    store = opened()
    opening = join(members=3)
    ask("ZADD", f"kern.join.{opening.id}.members", 0, opening.members[0])
    assert store.write_parts(*parts(opening, (2,))) == []
    store.open_join(opening)
    assert ids(store.write_parts(*parts(opening, (0, 1)))) == [body_id(opening)]


@pytest.mark.parametrize("layout", ["", "celery"])
def test_of_many_writers_one_ends_a_join(opened: Opened, layout: str) -> None:
    """Four connections write all parts, each of them, at once: every part counts once, and the body comes once."""
    stores = [opened() for _ in range(4)]
    for _ in range(5):
        join_id, body = making.unique("join"), making.publication("bodies")
        stores[0].open_join(Join(join_id, tuple(f"m{n}" for n in range(20)), body=body, layout=layout))
        members = [
            JoinPart(join_id, f"m{n}", n, states.SUCCESS, b"%d" % n, body=body, layout=layout) for n in range(20)
        ]
        published: list[Any] = []

        def write(store: StoreConnection, members: Any = members, published: Any = published) -> None:
            published += store.write_parts(*members)

        in_parallel([lambda store=store: write(store) for store in stores])
        assert ids(published) == [body.task_id]
        if layout:
            assert json.loads(published[0].message.body)[0] == [list(range(20))]


def test_a_part_of_a_layout_that_is_not_known_is_refused(opened: Opened) -> None:
    part = JoinPart("join", "member", 0, states.SUCCESS, b"1", layout="riak")
    store = opened()
    with pytest.raises(BackendError, match="'riak'"):
        store.plan(parts=[part])
    with pytest.raises(BackendError, match="'riak'"):
        store.open_join(Join("join", ("member",), layout="riak"))


def test_errors_that_a_part_brings_are_published_when_nobody_opened_the_join(opened: Opened) -> None:
    store = opened()
    join_id, on_error = making.unique("join"), making.publication("errors")
    members = [
        JoinPart(join_id, name, number, state, b"1", size=2, body=making.publication("bodies"), on_error=(on_error,))
        for number, (name, state) in enumerate((("a", states.SUCCESS), ("b", states.FAILURE)))
    ]
    assert ids(store.write_parts(*members)) == [on_error.task_id]


# -- servers in trouble ------------------------------------------------------------------------------------------------


def test_a_full_server_is_unavailable_for_now_and_writes_no_part_of_a_plan(
    opened: Opened, started: Callable[[Server], Any]
) -> None:
    server: Redis = started(Redis())
    store = opened(server.url())
    opening = join(members=1)
    store.open_join(opening)
    server.command("CONFIG", "SET", "maxmemory", "1")
    own, other = store.document(), store.document()
    plans = [store.plan(own), store.plan(own, parts(opening, (0,)), [other]), store.plan(parts=parts(opening, (0,)))]
    with pytest.raises(BackendUnavailable, match="maxmemory") as caught:
        store.write_plans(plans)
    assert caught.value.retryable
    assert store.read(own.task_id, other.task_id) == {}
    server.command("CONFIG", "SET", "maxmemory", "0")
    assert ids(store.write_plans([plans[1]])[0].publications) == [body_id(opening)]


def test_a_replica_is_not_the_server(opened: Opened, started: Callable[[Server], Any]) -> None:
    """Whoever became a replica while we were connected cannot be written to: unavailable, not a fault of documents."""
    server: Redis = started(Redis())
    store = opened(server.url())
    server.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(BackendUnavailable):
        store.write_plans([store.plan(store.document())])


def test_a_server_that_ends_is_unavailable_and_is_found_again(opened: Opened, started: Callable[[Server], Any]) -> None:
    server: Redis = started(Redis())
    store = opened(server.url(), result_backend_transport_options={"retry_policy": {"max_retries": 0}})
    document = store.document()
    store.watch(document.task_id)
    server.kill()

    def unavailable() -> bool:
        reply = store.port.read([document.task_id])
        try:
            store.port.drive(reply, 0.2)
        except TimeoutError:
            return reply.cancel()  # it waits for the server; nothing was asked yet
        except BackendUnavailable:
            return True
        return False

    eventually(unavailable, "the loss is noticed")
    server.start()
    eventually(lambda: is_open(store, document.task_id), "the server is there again")
    other = opened(server.url())
    other.write(document)
    eventually(lambda: document.task_id in store.told, "watches have gone on")


def test_a_cluster_is_a_server_where_all_keys_have_one_hash_tag(make: Make) -> None:
    """Documents, joins and who waits, from whichever node one comes."""
    cluster = RedisCluster()
    try:
        cluster.start()
        options = {"result_backend_transport_options": {"global_keyprefix": "{kern}"}}
        store, other = (StoreConnection(make(cluster.url(node), **options)).start() for node in (0, 1))
        document, opening = other.document(), join(members=2)
        store.watch(document.task_id)
        other.write(encode_document(document.task_id, states.STARTED, "x" * 500, whole=True, compression="gzip"))
        other.write(document)
        eventually(lambda: document.task_id in store.told, "the result was reported")
        store.open_join(opening)
        assert ids(other.write_parts(*parts(opening, (0, 1)))) == [body_id(opening)]
        store.stop()
        other.stop()
    finally:
        cluster.stop()


def test_who_may_not_announce_results_is_told_so_at_the_start(make: Make, started: Callable[[Server], Any]) -> None:
    """Else everybody who waits would wait for ever."""
    server: Redis = started(Redis(users={"mute": "on >hunter2 ~* resetchannels +@all"}))
    with pytest.raises(BackendUnavailable) as caught:
        StoreConnection(make(server.url().replace("://", "://mute:hunter2@"))).start()
    assert not caught.value.retryable
    assert "ACL" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_document_in_parts_or_too_large_is_refused_when_it_is_planned(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    with pytest.raises(BackendError, match="in parts"):
        store.plan(Document("id", states.SUCCESS, b"1"))
    monkeypatch.setattr(writing, "LONGEST", 1000)
    with pytest.raises(BackendStoreError, match="value too large"):
        store.plan(store.document(value="x" * 1000))


def test_plans_of_another_store_are_refused(opened: Opened, make: Make) -> None:
    store = opened()
    (foreign,) = make("redis://elsewhere:6379/0").plan([store.document()], [()])
    assert foreign is not None
    with pytest.raises(BackendError, match="another store"):
        store.write_plans([foreign])


def test_it_says_what_it_can(make: Make) -> None:
    assert make("redis://").capabilities == frozenset(StoreCapability)
