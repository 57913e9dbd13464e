"""Results settled together with the messages they belong to: in one database, and in two of one server."""

from __future__ import annotations

import json
from collections.abc import Callable

import attrs
import pytest

from kern import states
from kern.contracts.result_store import JoinPolicy
from kern.contracts.transport import SettleStatus
from kern.documents import encode_document
from kern.outcome import JoinPart
from kern_backend_redis.store import RedisResultStore
from kern_broker_redis.transport import RedisTransport
from kern_testing import make
from kern_testing.contracts.connection import Connection, StoreConnection
from kern_testing.contracts.joint import JointSettlementContract
from kern_testing.contracts.result_store import join, parts

from .conftest import Ask


class OfRedis(JointSettlementContract):
    """What joins and chords are to a settlement, beyond the contract."""

    def test_the_last_part_of_a_chord_is_settled_with_its_body(
        self, transport: Connection, store: StoreConnection, queue: str, ask: Ask
    ) -> None:
        """One step: the part, the end of the chord, the body with all results, the release."""
        bodies, group = make.unique("bodies"), make.unique("group")
        transport.declare(bodies)
        transport.publish(*make.publications(queue, 2))
        ask("SELECT", store.port.address.database)  # type: ignore[attr-defined]
        ask("SET", f"celery-taskset-meta-{group}.s", 2)
        for index, delivery in enumerate(transport.claim_eventually(queue, count=2)):
            assert transport.held(bodies) == 0
            document = store.document(delivery.task_id, value=index)
            part = JoinPart(
                group, delivery.task_id, index, states.SUCCESS, b"%d" % index,
                body=make.publication(bodies), layout="celery",
            )  # fmt: skip
            transport.settle(delivery, document=document, parts=[part], plan=store.plan(document, [part]))
        assert transport.held(queue) == 0
        assert ask("KEYS", f"*{group}*") == [f"celery-taskset-meta-{group}.c".encode()]
        body = transport.claim_one(bodies)
        assert body.message is not None
        assert json.loads(body.message.body)[0] == [[0, 1]]

    def test_a_body_that_nobody_takes_keeps_all_of_it_from_being_written(
        self, transport: Connection, store: StoreConnection, queue: str
    ) -> None:
        """The settlement fails, and with it the part: it is tried again, and nothing is lost."""
        opened = attrs.evolve(join(members=1), body=make.publication("nowhere", exchange=make.unique("no-exchange")))
        store.open_join(opened)
        transport.publish(make.publication(queue))
        delivery = transport.claim_one(queue)
        document, part = store.document(delivery.task_id), parts(opened, (0,))
        plan = store.plan(document, part)
        (settled,) = transport.try_settle(make.settlement(delivery, document=document, parts=part, plan=plan))
        assert settled.error is not None
        assert store.read_one(delivery.task_id) is None
        assert transport.depth(queue).leased == 1
        assert len(store.close_join(opened.id)) == 0, "the part was counted"

    def test_a_body_may_have_a_due_time(self, transport: Connection, store: StoreConnection, queue: str) -> None:
        """It waits in the broker like any delayed message."""
        bodies = make.unique("bodies")
        transport.declare(bodies)
        opened = attrs.evolve(join(members=1), body=make.publication(bodies, due=store.clock.now() + 1000))
        store.open_join(opened)
        transport.publish(make.publication(queue))
        part = parts(opened, (0,))
        transport.settle(transport.claim_one(queue), parts=part, plan=store.plan(parts=part))
        assert transport.depth(bodies).delayed == 1

    def test_the_end_of_a_join_that_others_end_first_is_not_sent_twice(
        self, transport: Connection, store: StoreConnection, queue: str
    ) -> None:
        """Two last parts in one batch: one of them ends the join."""
        bodies = make.unique("bodies")
        transport.declare(bodies)
        opened = attrs.evolve(join(members=3), needed=1, policy=JoinPolicy.ANY, body=make.publication(bodies))
        store.open_join(opened)
        transport.publish(*make.publications(queue, 3))
        settlements = []
        for index, delivery in enumerate(transport.claim_eventually(queue, count=3)):
            part = parts(opened, (index,))
            settlements.append(make.settlement(delivery, parts=part, plan=store.plan(parts=part)))
        assert [settled.status for settled in transport.try_settle(*settlements)] == [SettleStatus.DONE] * 3
        assert transport.held(queue) == 0
        assert transport.held(bodies) == 1

    def test_a_compressed_document_is_judged_in_the_settlement(
        self, transport: Connection, store: StoreConnection, queue: str
    ) -> None:
        """Whether it stays is found out before anything is written."""
        transport.publish(*make.publications(queue, 2))
        found = []
        for delivery, status in zip(transport.claim_eventually(queue, count=2), ("SUCCESS", "STARTED"), strict=True):
            store.write(encode_document(delivery.task_id, status, "x" * 500, whole=True, compression="gzip"))
            document = store.document(delivery.task_id, value="later")
            settled = transport.try_settle(make.settlement(delivery, document=document, plan=store.plan(document)))
            found.append(settled[0].status)
        assert found == [SettleStatus.RESULT_KEPT, SettleStatus.DONE]
        assert transport.held(queue) == 0


class TestInOneDatabase(OfRedis):
    @pytest.fixture
    def make_transport(self, redis_url: str) -> Callable[[], RedisTransport]:
        return lambda: RedisTransport(redis_url)

    @pytest.fixture
    def make_store(self, redis_url: str) -> Callable[[], RedisResultStore]:
        return lambda: RedisResultStore(redis_url)


class TestInTwoDatabases(OfRedis):
    @pytest.fixture
    def make_transport(self, redis_url: str) -> Callable[[], RedisTransport]:
        return lambda: RedisTransport(redis_url)

    @pytest.fixture
    def make_store(self, redis_url: str) -> Callable[[], RedisResultStore]:
        return lambda: RedisResultStore(redis_url.removesuffix("/0") + "/1")
