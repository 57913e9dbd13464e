"""Joint settlement: a transport and a result store of one server write a task's end in one step, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import attrs
import pytest

from kern import states
from kern.contracts.result_store import BlockingResultStore, ResultStore, StoreCapability
from kern.contracts.transport import BlockingTransport, SettleStatus, Transport
from kern.outcome import GiveBack
from kern_testing import crash, make
from kern_testing.contracts.connection import Connection, StoreConnection
from kern_testing.contracts.result_store import body_id, join, parts
from kern_testing.contracts.suite import Clock, Suite, applies, eventually, missing


class JointSettlementContract(Suite):
    """Subclass it, and give ``make_transport()`` and ``make_store()``, both of one server."""

    #: As in the suites of the transport and of the store.
    leases_expire: ClassVar[bool] = True
    joins: ClassVar[bool] = True
    short_lease: ClassVar[float] = 0.25

    @pytest.fixture
    def make_transport(self) -> Callable[[], Transport | BlockingTransport]:
        missing("make_transport", "return lambda: RedisTransport(redis_url)")

    @pytest.fixture
    def make_store(self) -> Callable[[], ResultStore | BlockingResultStore]:
        missing("make_store", "return lambda: RedisResultStore(redis_url)")

    @pytest.fixture
    def connect(
        self, make_transport: Callable[[], Transport | BlockingTransport], server_clock: Clock
    ) -> Iterator[Callable[[], Connection]]:
        opened: list[Connection] = []

        def connect() -> Connection:
            opened.append(Connection(make_transport(), clock=server_clock).start())
            return opened[-1]

        yield connect
        for connection in opened:
            connection.stop()

    @pytest.fixture
    def transport(self, connect: Callable[[], Connection]) -> Connection:
        return connect()

    @pytest.fixture
    def other(self, connect: Callable[[], Connection]) -> Connection:
        return connect()

    @pytest.fixture
    def store(
        self, make_store: Callable[[], ResultStore | BlockingResultStore], server_clock: Clock
    ) -> Iterator[StoreConnection]:
        connection = StoreConnection(make_store(), server_clock).start()
        yield connection
        connection.stop()

    @pytest.fixture
    def queue(self, transport: Connection) -> str:
        name = make.unique("queue")
        transport.declare(name)
        return name

    def test_they_know_that_their_server_is_one(self, transport: Connection, store: StoreConnection) -> None:
        """Both name the same server; that is how a worker knows."""
        assert transport.port.server is not None
        assert transport.port.server == store.port.server

    def test_result_and_release_are_one_write(self, transport: Connection, store: StoreConnection, queue: str) -> None:
        """The plan given with the settlement is written by the transport."""
        transport.publish(*make.publications(queue, 3))
        deliveries = transport.claim_eventually(queue, count=3)
        documents = [store.document(delivery.task_id, value=number) for number, delivery in enumerate(deliveries)]
        settlements = [
            make.settlement(delivery, document=document, plan=store.plan(document))
            for delivery, document in zip(deliveries, documents, strict=True)
        ]
        transport.written(transport.try_settle(*settlements))
        assert transport.held(queue) == 0
        found = store.read(*(document.task_id for document in documents))
        assert {task_id: (d.status, d.whole or d.result) for task_id, d in found.items()} == {
            document.task_id: (document.status, document.whole or document.result) for document in documents
        }

    def test_who_watches_is_told_of_what_the_transport_wrote(
        self, transport: Connection, store: StoreConnection, queue: str
    ) -> None:
        """A result written together with its release is reported like any other."""
        (task_id,) = transport.publish(make.publication(queue))
        store.watch(task_id)
        document = store.document(task_id, value="news")
        transport.settle(transport.claim_one(queue), document=document, plan=store.plan(document))
        eventually(lambda: task_id in store.told, "the document was reported")
        assert store.told[task_id].status == states.SUCCESS

    @applies(lambda suite: suite.leases_expire)
    def test_who_has_lost_the_lease_writes_no_result(
        self, transport: Connection, other: Connection, store: StoreConnection, queue: str
    ) -> None:
        """A fenced settlement writes neither: the result of whoever has the lease now stands."""
        (task_id,) = transport.publish(make.publication(queue))
        zombie = transport.claim_eventually(queue, count=1, lease_seconds=self.short_lease)[0]
        current = other.claim_eventually(queue, count=1, recover=True)[0]
        late = store.document(task_id, value="the zombie's")
        (settled,) = transport.try_settle(make.settlement(zombie, document=late, plan=store.plan(late)))
        assert settled.status == SettleStatus.FENCED
        assert store.read_one(task_id) is None, "a fenced settlement has written its result"
        document = store.document(task_id, status=states.FAILURE, value="the owner's")
        other.settle(current, document=document, plan=store.plan(document))
        read = store.read_one(task_id)
        assert read is not None
        assert (read.whole or read.result) == (document.whole or document.result)

    def test_a_failed_settlement_writes_no_result(
        self, transport: Connection, store: StoreConnection, queue: str
    ) -> None:
        """If a follow-up cannot be sent, its result is not written; those of its neighbours are."""
        transport.publish(*make.publications(queue, 2))
        failing, fine = transport.claim_eventually(queue, count=2)
        unroutable = make.publication("nowhere", exchange=make.unique("no-such-exchange"))
        documents = [store.document(delivery.task_id) for delivery in (failing, fine)]
        settled = transport.try_settle(
            make.settlement(failing, document=documents[0], plan=store.plan(documents[0]), follow_ups=[unroutable]),
            make.settlement(fine, document=documents[1], plan=store.plan(documents[1])),
        )
        assert settled[0].error is not None
        assert settled[1].error is None
        assert set(store.read(failing.task_id, fine.task_id)) == {fine.task_id}
        assert transport.depth(queue).leased == 1
        transport.settle(failing, document=documents[0], plan=store.plan(documents[0]))
        assert store.read_one(failing.task_id) is not None

    def test_a_crash_inside_writes_nothing(
        self, connect: Callable[[], Connection], transport: Connection, store: StoreConnection, queue: str
    ) -> None:
        """Who dies before the commit has stored no result, its own or another's, and the message comes back."""
        (task_id,) = transport.publish(make.publication(queue))
        dying = connect()
        (delivery,) = dying.claim_eventually(queue, count=1, lease_seconds=self.short_lease)
        document, step = store.document(task_id), store.document()
        settlement = make.settlement(delivery, document=document, others=[step], plan=store.plan(document, (), [step]))
        with crash.crashing("settling"):
            with pytest.raises(crash.Crash):
                dying.try_settle(settlement)
            dying.stop()
        assert store.read(task_id, step.task_id) == {}
        assert transport.claim_eventually(queue, count=1, recover=True)[0].task_id == task_id

    def test_documents_of_other_calls_are_part_of_the_write(
        self, transport: Connection, store: StoreConnection, queue: str
    ) -> None:
        """The later steps of a failed chain end together with the release, success excepted; watchers are told."""
        (task_id,) = transport.publish(make.publication(queue))
        own, succeeded = store.document(task_id, status=states.FAILURE), store.document(value="first")
        store.write(succeeded)
        steps = [store.document(status=states.FAILURE) for _ in range(2)]
        others = [steps[0], store.document(succeeded.task_id, status=states.FAILURE), steps[1]]
        ids = {document.task_id for document in (own, *steps)}
        store.watch(*ids)
        (settled,) = transport.try_settle(
            make.settlement(transport.claim_one(queue), document=own, others=others, plan=store.plan(own, (), others))
        )
        assert (settled.status, settled.error) == (SettleStatus.DONE, None)
        assert transport.held(queue) == 0
        found = store.read(*ids, succeeded.task_id)
        assert {key: document.status for key, document in found.items()} == {
            **dict.fromkeys(ids, states.FAILURE),
            succeeded.task_id: states.SUCCESS,
        }
        eventually(lambda: ids <= store.told.keys(), "all documents of the settlement were reported")

    @applies(lambda suite: suite.leases_expire)
    def test_a_fenced_settlement_ends_no_other_call(
        self, transport: Connection, other: Connection, store: StoreConnection, queue: str
    ) -> None:
        """Who has lost the lease writes nothing of what would have ended with it."""
        transport.publish(make.publication(queue))
        zombie = transport.claim_eventually(queue, count=1, lease_seconds=self.short_lease)[0]
        other.claim_eventually(queue, count=1, recover=True)
        step = store.document(status=states.FAILURE)
        (settled,) = transport.try_settle(make.settlement(zombie, others=[step], plan=store.plan(None, (), [step])))
        assert settled.status == SettleStatus.FENCED
        assert store.read_one(step.task_id) is None

    def test_a_final_result_stays_and_the_lease_ends(
        self, transport: Connection, store: StoreConnection, queue: str
    ) -> None:
        """Somebody stored the success already: it stays, the answer says so, and the message is gone."""
        (task_id,) = transport.publish(make.publication(queue))
        first, second = store.document(task_id, value="first"), store.document(task_id, value="second")
        store.write(first)
        (settled,) = transport.try_settle(
            make.settlement(transport.claim_one(queue), document=second, plan=store.plan(second))
        )
        assert settled.error is None
        assert settled.status == SettleStatus.RESULT_KEPT
        assert transport.held(queue) == 0
        read = store.read_one(task_id)
        assert read is not None
        assert (read.whole or read.result) == (first.whole or first.result)

    def test_a_result_may_come_with_any_end_of_the_lease(
        self, transport: Connection, store: StoreConnection, queue: str
    ) -> None:
        """Retried and given back messages may write their state, too."""
        (task_id,) = transport.publish(make.publication(queue))
        document = store.document(task_id, status=states.RETRY)
        transport.settle(
            transport.claim_one(queue), disposition=GiveBack(), document=document, plan=store.plan(document)
        )
        read = store.read_one(task_id)
        assert read is not None
        assert read.status == states.RETRY
        assert transport.depth(queue).ready == 1

    def test_plans_of_another_server_are_refused(
        self, transport: Connection, store: StoreConnection, queue: str
    ) -> None:
        """A plan that belongs elsewhere is an error of its item, not a result that nobody finds."""
        transport.publish(make.publication(queue))
        delivery = transport.claim_one(queue)
        document = store.document(delivery.task_id)
        foreign = attrs.evolve(store.plan(document), server="elsewhere://")
        (settled,) = transport.try_settle(make.settlement(delivery, document=document, plan=foreign))
        assert settled.error is not None
        assert transport.depth(queue).leased == 1
        assert store.read_one(delivery.task_id) is None

    @applies(lambda suite: suite.joins)
    def test_the_last_part_publishes_the_body_in_the_same_write(
        self, transport: Connection, other: Connection, store: StoreConnection, queue: str
    ) -> None:
        """The settlement of the last member puts the body into its queue, once, with no other process's help."""
        assert store.has(StoreCapability.JOINS)
        bodies = make.unique("bodies")
        transport.declare(bodies)
        opened = attrs.evolve(join(members=3), body=make.publication(bodies))
        store.open_join(opened)
        transport.publish(*make.publications(queue, 3))
        for index, delivery in enumerate(transport.claim_eventually(queue, count=3)):
            assert other.held(bodies) == 0, "the body was published before its last member ended"
            document, part = store.document(delivery.task_id), parts(opened, (index,))
            transport.settle(delivery, document=document, parts=part, plan=store.plan(document, part))
        assert other.claim_one(bodies).task_id == body_id(opened)
        assert store.close_join(opened.id) == []
        assert other.held(bodies) == 1

    @applies(lambda suite: suite.joins and suite.leases_expire)
    def test_a_fenced_member_does_not_count(
        self, transport: Connection, other: Connection, store: StoreConnection, queue: str
    ) -> None:
        """A member's part is refused together with its settlement, and counts when its owner settles."""
        bodies = make.unique("bodies")
        transport.declare(bodies)
        opened = attrs.evolve(join(members=1), body=make.publication(bodies))
        store.open_join(opened)
        transport.publish(make.publication(queue))
        zombie = transport.claim_eventually(queue, count=1, lease_seconds=self.short_lease)[0]
        current = other.claim_eventually(queue, count=1, recover=True)[0]
        part = parts(opened, (0,))
        (late,) = transport.try_settle(make.settlement(zombie, parts=part, plan=store.plan(parts=part)))
        assert late.status == SettleStatus.FENCED
        assert other.held(bodies) == 0
        other.settle(current, parts=part, plan=store.plan(parts=part))
        assert other.held(bodies) == 1
