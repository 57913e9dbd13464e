"""What every transport owes, as tests. The promises are those of :mod:`kern.contracts.transport`."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kern.contracts.records import Records
from kern.contracts.transport import (
    BlockingTransport,
    Claim,
    Claimed,
    Owner,
    SettleStatus,
    Transport,
    TransportCapability,
    Whereabouts,
)
from kern.delivery import Delivery
from kern.errors import EncodeError, PublishRefused, TransportError
from kern.message import Message, Publication
from kern.outcome import GiveBack, ParkUntil, Quarantine, RetryAt
from kern.queues import Binding, QueueSpec
from kern_testing import crash, make
from kern_testing.contracts import model
from kern_testing.contracts.connection import Connection
from kern_testing.contracts.records import RecordsContract, in_parallel
from kern_testing.contracts.suite import Clock, applies, eventually, missing, refuses, throughout

#: Opens a further connection: ``connect()``, ``connect(role="client")``.
Connect = Callable[..., Connection]

fuzzing = settings(
    max_examples=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow],
)

#: What JSON can say, also what databases and wire formats trip over: NUL, quotes, lone brackets, large numbers.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.floats(allow_nan=False, width=32) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


class TransportContract(RecordsContract):
    """Subclass it, and give ``make_transport``: a callable that makes a transport that is not started."""

    #: ``False`` where the server knows no time for leases and returns them when the connection ends.
    leases_expire: ClassVar[bool] = True
    #: ``False`` where the server cannot say when the next delayed message is due.
    tells_next_due: ClassVar[bool] = True
    #: ``False`` where 0 is the most urgent priority.
    higher_first: ClassVar[bool] = True
    #: ``True`` where :meth:`inject` is given.
    injects: ClassVar[bool] = False
    #: ``True`` where :meth:`cut` is given.
    cuts: ClassVar[bool] = False
    #: ``True`` where the fixtures ``make_unreachable`` and ``make_refused`` are given.
    refuses: ClassVar[bool] = False
    #: Messages of the large batch; fewer only where a server is slow by nature.
    large_batch: ClassVar[int] = 10_000
    #: Seconds of a lease that is to expire, and of one that is to be held by renewing it.
    short_lease: ClassVar[float] = 0.25
    held_lease: ClassVar[float] = 1.0
    #: How many sequences of how many commands are compared with the model.
    model_examples: ClassVar[int] = 30
    model_steps: ClassVar[int] = 40

    @pytest.fixture
    def make_transport(self) -> Callable[[], Transport | BlockingTransport]:
        missing("make_transport", "return lambda: RedisTransport(redis_url)")

    def inject(self, connection: Connection, queue: str, raw: bytes) -> None:
        """Put *raw* where the driver keeps messages, past the driver: what a foreign program may do."""
        raise NotImplementedError

    def cut(self, connection: Connection) -> None:
        """Break the connection to the server under the driver; the server goes on, and can be reached again."""
        raise NotImplementedError

    @pytest.fixture
    def make_unreachable(self) -> Callable[[], Transport | BlockingTransport]:
        """Makes a transport for a place where no server listens, with the password ``hunter2`` in its URL."""
        raise NotImplementedError

    @pytest.fixture
    def make_refused(self) -> Callable[[], Transport | BlockingTransport]:
        """Makes a transport that the server refuses for good: the password ``hunter2`` is wrong."""
        raise NotImplementedError

    @pytest.fixture
    def connect(
        self, make_transport: Callable[[], Transport | BlockingTransport], server_clock: Clock
    ) -> Iterator[Connect]:
        opened: list[Connection] = []

        def connect(role: str = "worker", hostname: str = "") -> Connection:
            connection = Connection(make_transport(), role, hostname, server_clock).start()
            opened.append(connection)
            return connection

        yield connect
        for connection in opened:
            connection.stop()

    @pytest.fixture
    def transport(self, connect: Connect) -> Connection:
        """A worker's connection."""
        return connect()

    @pytest.fixture
    def other(self, connect: Connect) -> Connection:
        """Another worker's connection to the same server."""
        return connect()

    @pytest.fixture
    def queue(self, transport: Connection) -> str:
        """A queue nobody else uses."""
        name = make.unique("queue")
        transport.declare(name)
        return name

    @pytest.fixture
    def records(self, transport: Connection) -> Records:
        return records_of(transport)

    @pytest.fixture
    def other_records(self, other: Connection) -> Records:
        return records_of(other)

    # -- life ----------------------------------------------------------------------------------------------------------

    def test_it_is_stopped_twice_and_before_its_start(
        self, make_transport: Callable[[], Transport | BlockingTransport]
    ) -> None:
        """Stopping is safe before a start, and twice."""
        Connection(make_transport()).stop()
        connection = Connection(make_transport()).start()
        connection.stop()
        connection.stop()

    def test_it_is_stopped_before_it_has_started(
        self, make_transport: Callable[[], Transport | BlockingTransport]
    ) -> None:
        """A stop right after a start leaves nothing hanging."""
        connection = Connection(make_transport())
        reply = connection.port.start(Owner(make.unique("owner")), lambda event: None)
        connection.stop()
        eventually(reply.done, "the start was answered")

    def test_starting_and_stopping_leaves_nothing_behind(
        self, make_transport: Callable[[], Transport | BlockingTransport]
    ) -> None:
        """Twenty connections, opened and closed, leave no thread and no file open."""
        for _ in range(3):  # what is made once and kept
            start_and_stop(make_transport)
        threads, files = threading.active_count(), open_files()
        for _ in range(20):
            start_and_stop(make_transport)
        eventually(lambda: threading.active_count() <= threads, "the threads have ended")
        eventually(lambda: open_files() <= files + 2, f"the files are closed (there were {files})")

    def test_it_shows_no_password(self, transport: Connection) -> None:
        """The URL it shows has no password in it."""
        assert transport.port.url, "a transport says where it is connected to, for banners and errors"
        user_info = transport.port.url.partition("://")[2].rpartition("@")[0]
        password = user_info.partition(":")[2]
        assert set(password) <= {"*"}, f"the URL shows a password: {transport.port.url}"

    def test_its_capabilities_are_known_ones(self, transport: Connection) -> None:
        """Capabilities are members of ``TransportCapability``, and records are declared if there are any."""
        assert isinstance(transport.port.capabilities, frozenset)
        assert all(isinstance(capability, TransportCapability) for capability in transport.port.capabilities)
        declared = transport.has(TransportCapability.RECORDS)
        assert (transport.port.records() is not None) == declared
        assert self.keeps_records == declared, "'keeps_records' of the suite and the capability say the same"

    def test_a_closed_connection_refuses(self, connect: Connect, queue: str) -> None:
        """After the stop a command is an error, and does not hang."""
        connection = connect()
        connection.stop()
        with pytest.raises(Exception, match=r".+"):
            connection.claim(queue)

    @applies(lambda suite: suite.refuses)
    def test_a_server_that_cannot_be_reached_is_an_error(
        self, make_unreachable: Callable[[], Transport | BlockingTransport]
    ) -> None:
        """The start fails, soon, worth trying again, and says no password."""
        error = refusal(make_unreachable)
        assert error.retryable, "a server that cannot be reached may be there later"

    @applies(lambda suite: suite.refuses)
    def test_wrong_credentials_are_an_error(self, make_refused: Callable[[], Transport | BlockingTransport]) -> None:
        """The start fails, not worth trying again, and says no password."""
        error = refusal(make_refused)
        assert not error.retryable, "a wrong password does not become right by waiting"

    @applies(lambda suite: suite.cuts)
    def test_a_cut_connection_is_rebuilt(self, transport: Connection, other: Connection, queue: str) -> None:
        """It says that it is down and up again; leases, subscriptions and commands are as before."""
        topic = make.unique("topic")
        if transport.has(TransportCapability.BROADCAST):
            transport.subscribe(topic)
        transport.publish(*make.publications(queue, 2))
        (held,) = transport.claim_eventually(queue, count=1, lease_seconds=1000)
        self.cut(transport)

        def back() -> bool:
            try:
                transport.depth(queue)
            except TransportError:
                return False  # the command that noticed
            return bool(transport.ups)

        eventually(back, "the connection is there again")
        assert transport.downs, "the loss was not reported"
        if self.leases_expire:
            assert transport.renew(held.receipt) == frozenset(), "a lease was lost with the connection"
            transport.settle(held)
            transport.settle(transport.claim_one(queue))
            assert other.held(queue) == 0
        if transport.has(TransportCapability.BROADCAST):
            other.broadcast(topic, b"still there?")
            eventually(lambda: (topic, b"still there?") in transport.broadcasts, "the subscription was restored")

    # -- publish and claim ---------------------------------------------------------------------------------------------

    def test_a_message_arrives_as_it_was_sent(self, transport: Connection, other: Connection, queue: str) -> None:
        """Body, headers, properties and content type are those that were published."""
        sent = make.message(
            body=bytes(range(256)),
            headers={
                "eta": "2030-01-01T00:00:00+00:00",
                "timelimit": [None, 3.5],
                "retries": 2,
                "ignore_result": False,
                "shadow": None,
                "empty": {"list": [], "mapping": {}, "text": ""},
                "stamps": {"by": ["ünï", "\u2603", '"quoted"', "back\\slash"]},
            },
            properties={"reply_to": "me", "correlation_id": "c-1", "delivery_mode": 2, "delivery_tag": "of the sender"},
            content_type="application/x-anything",
            content_encoding="binary",
        )
        transport.publish(Publication(sent, "", queue))
        delivery = other.claim_one(queue)
        assert_same(delivery.message, sent)
        assert delivery.queue == queue
        assert delivery.owner == other.owner.id
        assert delivery.attempts == 0
        assert not delivery.redelivered
        assert not delivery.suspect
        assert delivery.routing_key == queue
        assert delivery.problem is None
        if delivery.ready_since is not None:
            assert abs(delivery.ready_since - server_now(transport)) < 10

    def test_deaths_counted_elsewhere_are_brought_along(self, transport: Connection, queue: str) -> None:
        """When kern itself moves a message, what was counted against it goes with it."""
        transport.publish(attrs.evolve(make.publication(queue), attempts=2))
        assert transport.claim_one(queue).attempts == 2

    def test_an_empty_body_and_empty_mappings_arrive(self, transport: Connection, queue: str) -> None:
        """Nothing is made of nothing: ``b""`` is not ``None``, and no header is invented."""
        transport.publish(Publication(Message(b"", {}, {}), "", queue))
        message = transport.claim_one(queue).message
        assert message is not None
        assert message.body == b""
        assert own_headers(message) == {}

    def test_a_large_body_arrives(self, transport: Connection, queue: str) -> None:
        """A body of 3 MB is the same at the other end."""
        body = bytes(range(256)) * 12_000
        transport.publish(make.publication(queue, body=body))
        (delivery,) = transport.claim(queue)
        assert delivery.message is not None
        assert delivery.message.body == body

    @fuzzing
    @given(
        bodies=st.lists(st.binary(max_size=300), min_size=1, max_size=5),
        headers=st.dictionaries(st.text(min_size=1, max_size=10), json_values, max_size=5),
        properties=st.dictionaries(st.sampled_from(["reply_to", "priority", "expiration", "x"]), json_values),
    )
    def test_whatever_the_bytes_nothing_is_lost(
        self,
        transport: Connection,
        queue: str,
        bodies: list[bytes],
        headers: dict[str, Any],
        properties: dict[str, Any],
    ) -> None:
        """Fuzzed bodies and headers come through as sent or are refused; what was confirmed is there."""
        batch = [
            Publication(make.message(body=body, headers=headers, properties=properties), "", queue) for body in bodies
        ]
        answers = transport.try_publish(batch)
        confirmed = {p.task_id: p.message for p, answer in zip(batch, answers, strict=True) if answer is None}
        assert transport.held(queue) == len(confirmed)
        deliveries = transport.claim_eventually(queue, count=len(confirmed)) if confirmed else []
        assert transport.held(queue) == len(confirmed)
        for delivery in deliveries:
            if delivery.message is not None:
                assert_same(delivery.message, confirmed[delivery.task_id])
        transport.settle(*deliveries)
        assert transport.held(queue) == 0

    def test_an_item_that_cannot_be_sent_stays_alone(self, transport: Connection, queue: str) -> None:
        """A header nobody can write down refuses its message and no other; the error names the message or header."""
        good, after = make.publication(queue), make.publication(queue)
        bad = make.publication(queue, headers={"unwritable": object()})
        answers = transport.try_publish([good, bad, after])
        assert answers[0] is None
        assert answers[2] is None
        assert isinstance(answers[1], PublishRefused | EncodeError), f"the answer was {answers[1]!r}"
        assert bad.task_id in str(answers[1]) or "unwritable" in str(answers[1])
        assert {delivery.task_id for delivery in transport.claim(queue)} == {good.task_id, after.task_id}

    def test_publishing_nothing_is_fine(self, transport: Connection) -> None:
        """An empty batch has no answers; neither have empty settlements and claims."""
        assert transport.try_publish([]) == []
        assert transport.try_settle() == []
        assert transport.try_claim(Claim({}, 10)) == Claimed()
        assert transport.renew() == frozenset()

    def test_nothing_ready_is_an_empty_answer(self, transport: Connection, queue: str) -> None:
        """A claim answers at once when there is nothing."""
        assert transport.claim(queue) == []
        assert transport.claim(make.unique("never-declared")) == []

    def test_odd_names_of_queues_work(self, transport: Connection, other: Connection) -> None:
        """A queue may be called what people call queues."""
        for name in ("with space", "dots.and-dashes_", "ünïcode ☃", "quote'\"%_\\", "a:b/c@d", "SELECT", "x" * 200):
            queue = f"{name}{make.unique()}"
            transport.declare(queue)
            (task_id,) = transport.publish(make.publication(queue))
            delivery = other.claim_one(queue)
            assert (delivery.task_id, delivery.queue) == (task_id, queue)
            assert transport.depth(queue).leased == 1
            other.settle(delivery)
            assert transport.held(queue) == 0

    def test_messages_come_in_the_order_they_were_published(self, transport: Connection, queue: str) -> None:
        """First in, first out, within and across batches."""
        published = [
            task_id for _ in range(5) for task_id in transport.publish(*make.publications(queue, 20))
        ]  # fmt: skip
        assert [delivery.task_id for delivery in transport.claim_eventually(queue, count=100)] == published

    def test_a_claim_takes_no_more_than_its_limits(self, transport: Connection, connect: Connect) -> None:
        """The limit of each queue and of the claim are kept, and what is there is given up to them."""
        first, second = make.unique("queue"), make.unique("queue")
        transport.declare(first, second)
        transport.publish(*make.publications(first, 20), *make.publications(second, 20))
        claimed = transport.try_claim(Claim({first: 2, second: 5}, limit=100)).deliveries
        assert Counter(delivery.queue for delivery in claimed) == {first: 2, second: 5}
        assert len(transport.try_claim(Claim({first: 10, second: 10}, limit=3)).deliveries) == 3
        assert transport.try_claim(Claim({first: 0, second: 0}, limit=10)).deliveries == ()
        assert len(transport.try_claim(Claim({first: 0, second: 1}, limit=10)).deliveries) == 1

    def test_a_claim_keeps_to_its_byte_budget(self, transport: Connection, queue: str) -> None:
        """No more bytes than asked for, and at least one message whatever its size."""
        transport.publish(*make.publications(queue, 10, body=b"x" * 1000))
        assert len(transport.claim(queue, byte_budget=3500)) == 3
        assert len(transport.claim(queue, byte_budget=10)) == 1
        assert len(transport.claim(queue, byte_budget=1_000_000)) == 6

    def test_no_queue_starves(self, transport: Connection) -> None:
        """Full queues share the claims, also when each claim takes one message."""
        queues = [make.unique("queue") for _ in range(3)]
        transport.declare(*queues)
        for queue in queues:
            transport.publish(*make.publications(queue, 60))
        together = Counter(delivery.queue for delivery in transport.claim(*queues, limit=30))
        assert all(together[queue] >= 5 for queue in queues), f"one claim of 30: {dict(together)}"
        singly = Counter(delivery.queue for _ in range(30) for delivery in transport.claim(*queues, limit=1))
        assert all(singly[queue] >= 5 for queue in queues), f"30 claims of one: {dict(singly)}"

    def test_urgent_messages_come_first(self, transport: Connection, queue: str) -> None:
        """Claims follow priorities; within one priority, the order of publishing."""
        ranks = {priority: rank for rank, priority in enumerate((9, 6, 3, 0) if self.higher_first else (0, 3, 6, 9))}
        batch = [make.publication(queue, priority=priority) for priority in (3, 0, 9, 6, 0, 9, 3, 6)]
        expected = [p.task_id for p in batch]
        if transport.has(TransportCapability.PRIORITIES):
            expected = [p.task_id for p in sorted(batch, key=lambda p: ranks[p.message.priority])]
        transport.publish(*batch)
        assert [delivery.task_id for delivery in transport.claim_eventually(queue, count=8)] == expected

    def test_a_senseless_priority_is_none(self, transport: Connection, queue: str) -> None:
        """What cannot be a priority does not keep a message from arriving."""
        senseless = ("high", None, -5, 10**9, 2.5, [9], True)
        published = transport.publish(*(make.publication(queue, properties={"priority": value}) for value in senseless))
        claimed = transport.claim_eventually(queue, count=len(senseless))
        assert {delivery.task_id for delivery in claimed} == set(published)

    def test_many_queues_are_served_at_once(self, transport: Connection, other: Connection) -> None:
        """One claim over sixty queues finds what is in any of them."""
        queues = [make.unique("queue") for _ in range(60)]
        transport.declare(*queues)
        transport.publish(*[make.publication(queue) for queue in queues[::7]])
        found = other.claim_eventually(*queues, count=len(queues[::7]))
        assert {delivery.queue for delivery in found} == set(queues[::7])

    def test_a_large_batch_is_taken_whole(self, transport: Connection, other: Connection, queue: str) -> None:
        """10,000 messages published at once are confirmed, counted, and each is claimed once and gone when settled."""
        published = transport.publish(*make.publications(queue, self.large_batch))
        assert transport.depth(queue).ready == self.large_batch
        seen: Counter[str] = Counter()
        while batch := other.claim(queue, limit=500):
            seen.update(delivery.task_id for delivery in batch)
            assert len(batch) <= 500
            other.settle(*batch)
        assert seen == Counter(published)
        assert transport.held(queue) == 0

    @pytest.mark.parametrize("by", ["publish", "follow-up", "give back", "retry"])
    def test_a_waiting_worker_is_told_of_new_messages(
        self, transport: Connection, other: Connection, queue: str, by: str
    ) -> None:
        """Who has claimed and got nothing is woken by the next message that becomes ready, however it does."""
        source = queue if by in ("give back", "retry") else make.unique("queue")
        transport.declare(source)
        (task_id,) = transport.publish(make.publication(source))
        delivery = transport.claim_one(source)
        assert other.claim(queue) == []
        other.forget_events()
        if by == "publish":
            transport.publish(make.publication(queue))
        elif by == "follow-up":
            transport.settle(delivery, follow_ups=[make.publication(queue)])
        elif by == "give back":
            transport.settle(delivery, disposition=GiveBack())
        else:
            transport.settle(delivery, disposition=RetryAt(make.message(task_id), 0))
        eventually(lambda: other.woken, "the waiting worker was woken", clock=other.clock)

    # -- idempotent publishing -----------------------------------------------------------------------------------------

    def test_one_id_is_one_message(self, transport: Connection, other: Connection, queue: str) -> None:
        """Publishing again under the same id is confirmed and leaves one message, waiting, delayed or leased."""
        publication = make.publication(queue)
        transport.publish(publication)
        transport.publish(publication)
        other.publish(publication, publication)
        if not transport.has(TransportCapability.IDEMPOTENT_PUBLISH):
            assert transport.depth(queue).ready >= 1
            return
        assert transport.depth(queue).ready == 1
        (delivery,) = transport.claim(queue)
        other.publish(publication)
        assert transport.held(queue) == 1, "a message that is leased was published again"
        transport.settle(delivery, disposition=GiveBack(due=server_now(transport) + 1000))
        other.publish(publication)
        assert transport.held(queue) == 1, "a message that is delayed was published again"

    def test_what_follows_is_sent_once(self, transport: Connection, queue: str) -> None:
        """A task that ran twice sends what follows twice, under the same id: one message."""
        if not transport.has(TransportCapability.IDEMPOTENT_PUBLISH):
            return
        elsewhere = make.unique("queue")
        transport.declare(elsewhere)
        transport.publish(*make.publications(queue, 2))
        follow_up = make.publication(elsewhere)
        transport.settle(*transport.claim_eventually(queue, count=2), follow_ups=[follow_up, follow_up])
        assert transport.held(elsewhere) == 1

    def test_one_id_may_be_published_again_when_it_is_gone(self, transport: Connection, queue: str) -> None:
        """A settled call leaves nothing that would swallow the next one of its id."""
        publication = make.publication(queue)
        for _ in range(3):
            transport.publish(publication)
            delivery = transport.claim_one(queue)
            assert delivery.task_id == publication.task_id
            assert delivery.attempts == 0
            assert not delivery.redelivered
            transport.settle(delivery)
        transport.publish(publication)
        assert transport.purge(queue) == 1
        transport.publish(publication)
        assert transport.delete(publication.task_id) == 1
        transport.publish(publication)
        assert transport.depth(queue).ready == 1

    def test_a_message_without_an_id_is_a_message(self, transport: Connection, queue: str) -> None:
        """Messages of other programs have no id; none swallows another, and each can be settled."""
        anonymous = Message(b"not ours", {"x": "y"}, {})
        transport.publish(*[Publication(anonymous, "", queue)] * 3)
        deliveries = transport.claim_eventually(queue, count=3)
        assert len({delivery.receipt for delivery in deliveries}) == 3
        transport.settle(*deliveries)
        assert transport.held(queue) == 0

    # -- leases --------------------------------------------------------------------------------------------------------

    def test_a_leased_message_is_nobody_elses(self, transport: Connection, other: Connection, queue: str) -> None:
        """While a lease lasts no claim returns its message, to anybody."""
        transport.publish(*make.publications(queue, 3))
        assert len(transport.claim(queue)) == 3
        assert transport.depth(queue).leased == 3
        assert transport.depth(queue).ready == 0
        throughout(lambda: other.claim(queue) == [] == transport.claim(queue), 0.1, clock=transport.clock)
        assert other.recover() == 0

    def test_claims_are_exclusive(self, connect: Connect, transport: Connection, queue: str) -> None:
        """Four connections that claim at once, and settle what they got, see each message once."""
        count = 400
        published = transport.publish(*make.publications(queue, count))
        seen: list[str] = []
        receipts: list[str] = []
        lock = threading.Lock()

        def work() -> None:
            mine = connect()
            empty = 0
            while empty < 3:
                batch = mine.claim(queue, limit=7)
                empty = 0 if batch else empty + 1
                with lock:
                    seen.extend(delivery.task_id for delivery in batch)
                    receipts.extend(delivery.receipt for delivery in batch)
                mine.settle(*batch)

        in_parallel([work] * 4)
        assert Counter(seen) == Counter(published)
        assert len(set(receipts)) == count, "two leases had the same receipt"
        assert transport.held(queue) == 0

    def test_a_lost_reply_is_a_lease_that_comes_back(self, connect: Connect, transport: Connection, queue: str) -> None:
        """A worker that dies with its leases, or never got the answer to its claim, loses nothing."""
        (task_id,) = transport.publish(make.publication(queue))
        dying = connect()
        dying.claim_eventually(queue, count=1, lease_seconds=self.short_lease)  # nobody looks at the answer
        dying.stop()
        delivery = transport.claim_eventually(queue, count=1, recover=True)[0]
        assert delivery.task_id == task_id
        assert delivery.redelivered, "a message that was delivered before says so"
        assert delivery.attempts == 0, "a message that only sat in a lease is not to blame"

    @applies(lambda suite: suite.leases_expire)
    def test_an_expired_lease_comes_back_under_suspicion(
        self, transport: Connection, other: Connection, queue: str
    ) -> None:
        """What a silent worker held is handed back, redelivered and suspect, and counts as ready once."""
        transport.publish(*make.publications(queue, 3))
        held = transport.claim_eventually(queue, count=3, lease_seconds=self.short_lease)
        back = other.claim_eventually(queue, count=3, recover=True)
        assert {delivery.task_id for delivery in back} == {delivery.task_id for delivery in held}
        assert not {delivery.receipt for delivery in back} & {delivery.receipt for delivery in held}
        for delivery in back:
            assert delivery.redelivered
            assert delivery.suspect
            assert delivery.attempts == 0
        assert other.depth(queue).leased == 3

    @applies(lambda suite: suite.leases_expire)
    def test_a_death_after_the_started_mark_counts(self, transport: Connection, other: Connection, queue: str) -> None:
        """Each expiry of a lease that was marked as started is one attempt; others are none."""
        transport.publish(make.publication(queue))
        attempts = []
        for started in (False, True, False, True, True):
            delivery = transport.claim_eventually(queue, count=1, lease_seconds=self.short_lease, recover=True)[0]
            if started:
                transport.mark_started(delivery.receipt)
            attempts.append(delivery.attempts)
        last = other.claim_eventually(queue, count=1, recover=True)[0]
        assert [*attempts, last.attempts] == [0, 0, 1, 1, 2, 3]

    @applies(lambda suite: suite.leases_expire)
    def test_a_renewed_lease_does_not_expire(self, transport: Connection, other: Connection, queue: str) -> None:
        """Renewing keeps a lease far beyond its first end; the one that is not renewed comes back."""
        transport.publish(*make.publications(queue, 2))
        renewed, neglected = transport.claim_eventually(queue, count=2, lease_seconds=self.held_lease)
        taken: list[Delivery] = []

        def held() -> bool:
            other.recover()
            taken.extend(other.claim(queue))
            assert transport.renew(renewed.receipt, lease_seconds=self.held_lease) == frozenset()
            return renewed.task_id not in {delivery.task_id for delivery in taken}

        throughout(held, 1.5 * self.held_lease, "the renewed lease is kept", clock=transport.clock)
        if not taken:
            taken += other.claim_eventually(queue, count=1, recover=True)
        assert [delivery.task_id for delivery in taken] == [neglected.task_id]
        transport.settle(renewed)
        other.settle(*taken)

    @applies(lambda suite: suite.leases_expire)
    def test_renewing_names_what_is_lost(self, transport: Connection, other: Connection, queue: str) -> None:
        """Renewing answers exactly the receipts that are ours no more; what somebody else got, what is settled."""
        transport.publish(*make.publications(queue, 3))
        lost, settled, kept = transport.claim_eventually(queue, count=3, lease_seconds=self.short_lease)
        transport.settle(settled)
        transport.renew(kept.receipt, lease_seconds=1000)
        other.claim_eventually(queue, count=1, recover=True)
        answer = transport.renew(lost.receipt, settled.receipt, kept.receipt, "no such receipt")
        assert answer == {lost.receipt, settled.receipt, "no such receipt"}

    def test_an_operator_gets_everything_back(self, transport: Connection, other: Connection, queue: str) -> None:
        """``recover(everything=True)`` hands back also leases that have not expired, uncounted, and fences them."""
        transport.publish(*make.publications(queue, 2))
        held = transport.claim_eventually(queue, count=2)
        assert other.recover() == 0
        assert other.recover(everything=True) >= 2
        back = other.claim_eventually(queue, count=2)
        assert {delivery.task_id for delivery in back} == {delivery.task_id for delivery in held}
        assert [delivery.attempts for delivery in back] == [0, 0]
        assert transport.renew(*(delivery.receipt for delivery in held)) == {delivery.receipt for delivery in held}

    # -- settling ------------------------------------------------------------------------------------------------------

    def test_a_settled_message_is_gone(self, transport: Connection, other: Connection, queue: str) -> None:
        """Released messages leave the broker, and only they."""
        transport.publish(*make.publications(queue, 5))
        deliveries = transport.claim_eventually(queue, count=5)
        transport.settle(*deliveries[:3])
        depth = other.depth(queue)
        assert (depth.ready, depth.leased, depth.delayed, depth.quarantined) == (0, 2, 0, 0)
        transport.settle(*deliveries[3:])
        assert other.held(queue) == 0
        assert other.claim(queue) == []

    def test_settling_twice_is_fenced(self, transport: Connection, queue: str) -> None:
        """A receipt settles once; also twice in one batch, also a receipt nobody ever had."""
        transport.publish(make.publication(queue))
        delivery = transport.claim_one(queue)
        first, second = transport.try_settle(make.settlement(delivery), make.settlement(delivery))
        assert (first.status, second.status) == (SettleStatus.DONE, SettleStatus.FENCED)
        (third,) = transport.try_settle(make.settlement(delivery))
        assert third.status == SettleStatus.FENCED
        stranger = Delivery("no such receipt", queue, "nobody", make.message())
        (fourth,) = transport.try_settle(make.settlement(stranger))
        assert fourth.status == SettleStatus.FENCED
        assert transport.held(queue) == 0

    @applies(lambda suite: suite.leases_expire)
    @pytest.mark.parametrize("how", ["release", "retry", "give-back", "park", "quarantine"])
    def test_a_late_settlement_changes_nothing(
        self, transport: Connection, other: Connection, queue: str, how: str
    ) -> None:
        """Who has lost the lease is refused, whatever it says; its follow-ups are not sent, the new lease stays."""
        transport.publish(make.publication(queue))
        zombie = transport.claim_eventually(queue, count=1, lease_seconds=self.short_lease)[0]
        current = other.claim_eventually(queue, count=1, recover=True)[0]
        assert zombie.message is not None
        disposition = {
            "release": None,
            "retry": RetryAt(zombie.message, 0),
            "give-back": GiveBack(blamed=True),
            "park": ParkUntil(server_now(transport) + 1000),
            "quarantine": Quarantine("late"),
        }[how]
        elsewhere = make.unique("queue")
        transport.declare(elsewhere)
        (late,) = transport.try_settle(make.settlement(zombie, disposition, follow_ups=[make.publication(elsewhere)]))
        assert late.status == SettleStatus.FENCED
        assert transport.held(elsewhere) == 0, "a fenced settlement has sent its follow-up"
        depth = other.depth(queue)
        assert (depth.ready, depth.leased, depth.delayed, depth.quarantined) == (0, 1, 0, 0)
        assert other.renew(current.receipt) == frozenset(), "a fenced settlement has ended the new lease"
        other.settle(current)
        assert other.held(queue) == 0

    def test_fenced_items_do_not_keep_others_from_being_settled(self, transport: Connection, queue: str) -> None:
        """Items of a batch are settled one by one, in order."""
        transport.publish(*make.publications(queue, 3))
        gone, second, third = transport.claim_eventually(queue, count=3)
        transport.settle(gone)
        settled = transport.try_settle(*map(make.settlement, (second, gone, third)))
        assert [item.status for item in settled] == [SettleStatus.DONE, SettleStatus.FENCED, SettleStatus.DONE]
        assert transport.held(queue) == 0

    def test_what_follows_is_there_when_the_lease_is_gone(
        self, transport: Connection, other: Connection, queue: str
    ) -> None:
        """Follow-ups are written with the settlement: with their ids, to their queues, with their due times."""
        second, third = make.unique("queue"), make.unique("queue")
        transport.declare(second, third)
        transport.publish(make.publication(queue))
        follow_ups = [make.publication(second, body=b"1"), make.publication(second, body=b"2"), make.publication(third)]
        transport.settle(transport.claim_one(queue), follow_ups=follow_ups)
        assert transport.held(queue) == 0
        deliveries = other.claim_eventually(second, third, count=3)
        assert {delivery.task_id for delivery in deliveries} == {p.task_id for p in follow_ups}
        bodies = [d.message.body for d in deliveries if d.message is not None and d.queue == second]
        assert bodies == [b"1", b"2"]

    def test_a_task_may_follow_itself(self, transport: Connection, queue: str) -> None:
        """A follow-up under the id of the settled call is a new message, not a copy of the one that leaves."""
        publication = make.publication(queue)
        transport.publish(publication)
        again = make.publication(queue, publication.task_id, body=b"again")
        transport.settle(transport.claim_one(queue), follow_ups=[again])
        delivery = transport.claim_one(queue)
        assert delivery.task_id == publication.task_id
        assert delivery.message is not None
        assert delivery.message.body == b"again"

    def test_a_settlement_is_all_or_nothing(self, transport: Connection, other: Connection, queue: str) -> None:
        """If one follow-up cannot be sent, nothing of its settlement is written, and its neighbours are."""
        elsewhere = make.unique("queue")
        transport.declare(elsewhere)
        transport.publish(*make.publications(queue, 3))
        before, failing, after = transport.claim_eventually(queue, count=3)
        unroutable = make.publication("nowhere", exchange=make.unique("no-such-exchange"))
        settled = transport.try_settle(
            make.settlement(before),
            make.settlement(failing, follow_ups=[make.publication(elsewhere), unroutable]),
            make.settlement(after),
        )
        assert settled[0].error is None
        assert settled[2].error is None
        assert settled[1].error is not None, "a follow-up that nobody can receive was confirmed"
        assert other.held(elsewhere) == 0, "half of a failed settlement was written"
        assert other.depth(queue).leased == 1, "the lease of a failed settlement has ended"
        assert transport.renew(failing.receipt) == frozenset()
        transport.settle(failing, follow_ups=[make.publication(elsewhere)])
        assert other.held(queue) == 0
        assert other.held(elsewhere) == 1

    def test_a_batch_may_end_in_every_way(self, transport: Connection, other: Connection, queue: str) -> None:
        """Each item of a batch has its own end."""
        transport.publish(*make.publications(queue, 6))
        released, retried, returned, parked, poison, kept = transport.claim_eventually(queue, count=6)
        assert retried.message is not None
        far = server_now(transport) + 1000
        transport.written(
            transport.try_settle(
                make.settlement(released),
                make.settlement(retried, RetryAt(retried.message, far)),
                make.settlement(returned, GiveBack()),
                make.settlement(parked, ParkUntil(far)),
                make.settlement(poison, Quarantine("bad")),
            )
        )
        depth = other.depth(queue)
        assert (depth.ready, depth.leased, depth.delayed, depth.quarantined) == (1, 1, 2, 1)
        assert other.claim_one(queue).task_id == returned.task_id
        assert transport.renew(kept.receipt) == frozenset()

    @pytest.mark.parametrize("seam", ["settling", "parking"])
    def test_a_crash_inside_a_settlement_leaves_nothing_half_done(
        self, connect: Connect, transport: Connection, queue: str, seam: str
    ) -> None:
        """The seam lies before the commit: who dies there has written nothing, and the lease is as it was."""
        elsewhere = make.unique("queue")
        transport.declare(elsewhere)
        (task_id,) = transport.publish(make.publication(queue))
        dying = connect()
        (delivery,) = dying.claim_eventually(queue, count=1, lease_seconds=self.short_lease)
        follow_up = make.publication(elsewhere)
        parking = ParkUntil(server_now(transport) + 1000)

        def end() -> object:
            if seam == "settling":
                return dying.try_settle(make.settlement(delivery, follow_ups=[follow_up]))
            return dying.try_park(delivery, until=parking)

        with crash.crashing(seam):
            with pytest.raises(crash.Crash):
                end()
            dying.stop()
        assert transport.held(elsewhere) == 0
        (again,) = transport.claim_eventually(queue, count=1, recover=True)
        assert again.task_id == task_id
        assert transport.held(queue) == 1

    # -- retry, give back, park ----------------------------------------------------------------------------------------

    def test_a_retry_takes_the_place_of_its_message(self, transport: Connection, other: Connection, queue: str) -> None:
        """One step: the new message is there, with no deaths counted, and the old one is not."""
        transport.publish(make.publication(queue, body=b"first"))
        delivery = transport.claim_one(queue)
        again = make.message(delivery.task_id, body=b"second", headers={"retries": 1})
        transport.settle(delivery, disposition=RetryAt(again, due=0))
        assert other.held(queue) == 1
        retried = other.claim_one(queue)
        assert_same(retried.message, again)
        assert retried.attempts == 0
        assert not retried.redelivered, "a retry is a new message; nobody failed to settle it"

    def test_a_retry_waits_until_it_is_due(self, transport: Connection, other: Connection, queue: str) -> None:
        """Not a moment early, and nothing is claimable meanwhile."""
        transport.publish(make.publication(queue))
        delivery = transport.claim_one(queue)
        assert delivery.message is not None
        due = server_now(transport) + 0.4
        transport.settle(delivery, disposition=RetryAt(delivery.message, due))
        assert never_early(other, queue, due).task_id == delivery.task_id

    def test_what_is_given_back_is_ready_and_uncounted(
        self, transport: Connection, other: Connection, queue: str
    ) -> None:
        """A message that never started goes back as it was, as often as it likes."""
        sent = make.message(body=b"as it was")
        transport.publish(Publication(sent, "", queue))
        for connection in (transport, other, transport):
            delivery = connection.claim_one(queue)
            assert delivery.attempts == 0
            assert not delivery.suspect
            assert_same(delivery.message, sent)
            connection.settle(delivery, disposition=GiveBack())
        assert transport.depth(queue).ready == 1

    def test_what_is_given_back_goes_before_what_came_later(self, transport: Connection, queue: str) -> None:
        """A worker that hands back what it could not start does not send it to the end of a long queue."""
        published = transport.publish(*make.publications(queue, 4))
        deliveries = transport.claim_eventually(queue, count=2)
        transport.settle(*deliveries, disposition=GiveBack())
        assert {delivery.task_id for delivery in transport.claim(queue, limit=2)} == set(published[:2])

    def test_blame_is_counted(self, transport: Connection, queue: str) -> None:
        """A death the worker itself saw is counted by giving back blamed; suspicion is passed on."""
        transport.publish(make.publication(queue))
        for attempts in range(3):
            delivery = transport.claim_one(queue)
            assert delivery.attempts == attempts
            transport.settle(delivery, disposition=GiveBack(blamed=True))
        delivery = transport.claim_one(queue)
        transport.settle(delivery, disposition=GiveBack(suspect=True))
        delivery = transport.claim_one(queue)
        assert delivery.suspect
        assert delivery.attempts == 3

    def test_what_is_given_back_may_wait(self, transport: Connection, other: Connection, queue: str) -> None:
        """Giving back with a due time delays the next delivery."""
        transport.publish(make.publication(queue))
        due = server_now(transport) + 0.3
        transport.settle(transport.claim_one(queue), disposition=GiveBack(due=due))
        assert transport.depth(queue).delayed == 1
        never_early(other, queue, due)

    @pytest.mark.parametrize("by", ["park", "settle"])
    def test_a_parked_message_waits_in_the_broker(
        self, transport: Connection, other: Connection, queue: str, by: str
    ) -> None:
        """Parked until due, never early, uncounted, as it was; whether by ``park`` or as an outcome."""
        sent = make.message(body=b"not yet")
        transport.publish(Publication(sent, "", queue))
        delivery = transport.claim_one(queue)
        until = ParkUntil(server_now(transport) + 0.4, reason="eta")
        if by == "park":
            transport.park(delivery, until=until)
        else:
            transport.settle(delivery, disposition=until)
        depth = other.depth(queue)
        assert (depth.ready, depth.leased, depth.delayed) == (0, 0, 1)
        assert transport.renew(delivery.receipt) == {delivery.receipt}
        parked = never_early(other, queue, until.due)
        assert_same(parked.message, sent)
        assert parked.attempts == 0
        assert not parked.suspect

    def test_parking_is_fenced(self, transport: Connection, queue: str) -> None:
        """Parking what is not ours any more changes nothing, and its neighbours are parked."""
        transport.publish(*make.publications(queue, 2))
        gone, ours = transport.claim_eventually(queue, count=2)
        transport.settle(gone)
        parked = transport.try_park(gone, ours, until=ParkUntil(server_now(transport) + 1000))
        assert [item.status for item in parked] == [SettleStatus.FENCED, SettleStatus.DONE]
        assert [item.receipt for item in parked] == [gone.receipt, ours.receipt]
        depth = transport.depth(queue)
        assert (depth.ready, depth.leased, depth.delayed) == (0, 0, 1)

    def test_parking_remembers_since_when_and_how_often(self, transport: Connection, queue: str) -> None:
        """For growing delays and for giving up in the end: the first time and the number of times are kept."""
        transport.publish(make.publication(queue))
        delivery = transport.claim_one(queue)
        assert delivery.times_parked == 0
        assert delivery.parked_since is None
        since = server_now(transport) - 100
        for times in (1, 2, 3):
            due = server_now(transport) + 0.01
            transport.park(
                delivery, until=ParkUntil(due, reason="unknown-task", since=since if times == 1 else since + 50)
            )
            delivery = transport.claim_one(queue)
            assert delivery.times_parked == times
            assert delivery.parked_since == pytest.approx(since, abs=0.01)

    def test_parking_remembers_by_itself_since_when(self, transport: Connection, queue: str) -> None:
        """Nobody needs to say when a message was parked first: the server's clock does."""
        transport.publish(make.publication(queue))
        before = server_now(transport)
        transport.park(transport.claim_one(queue), until=ParkUntil(before + 0.01, reason="unknown-task"))
        first = transport.claim_one(queue).parked_since
        assert first is not None
        assert before - 2 <= first <= server_now(transport) + 2

    def test_a_priority_outlives_its_detours(self, transport: Connection, queue: str) -> None:
        """Given back, parked, retried or replayed, an urgent message is urgent."""
        if not transport.has(TransportCapability.PRIORITIES):
            return
        urgent, idle = (9, 0) if self.higher_first else (0, 9)
        transport.publish(*make.publications(queue, 4, priority=urgent))
        returned, parked, retried, poison = transport.claim_eventually(queue, count=4)
        transport.publish(*make.publications(queue, 3, priority=idle))
        assert retried.message is not None
        transport.settle(returned, disposition=GiveBack())
        transport.park(parked, until=ParkUntil(server_now(transport) + 0.01))
        transport.settle(retried, disposition=RetryAt(retried.message, 0))
        transport.settle(poison, disposition=Quarantine("bad"))
        transport.replay(*(entry.key for entry in transport.quarantined(queue)))
        eventually(lambda: transport.depth(queue).ready == 7, "all are ready", clock=transport.clock)
        first = {delivery.task_id for delivery in transport.claim(queue, limit=4)}
        assert first == {delivery.task_id for delivery in (returned, parked, retried, poison)}

    # -- delay ---------------------------------------------------------------------------------------------------------

    def test_a_message_with_a_due_time_waits(self, transport: Connection, other: Connection, queue: str) -> None:
        """Published for later, it is delayed, not claimable, and delivered once it is due."""
        due = server_now(transport) + 0.4
        publication = make.publication(queue, due=due)
        if not transport.has(TransportCapability.DELAY):
            (answer,) = transport.try_publish([publication])
            assert answer is not None, "a transport that cannot delay must not deliver early, and say so"
            return
        transport.publish(publication)
        assert other.depth(queue).delayed == 1
        assert never_early(other, queue, due).task_id == publication.task_id

    def test_a_past_due_time_is_now(self, transport: Connection, queue: str) -> None:
        """What is due already is ready."""
        if transport.has(TransportCapability.DELAY):
            transport.publish(make.publication(queue, due=server_now(transport) - 10), make.publication(queue, due=0))
            assert len(transport.claim_eventually(queue, count=2)) == 2

    def test_follow_ups_may_wait(self, transport: Connection, other: Connection, queue: str) -> None:
        """The due time of a follow-up is kept."""
        if not transport.has(TransportCapability.DELAY):
            return
        transport.publish(make.publication(queue))
        due = server_now(transport) + 0.3
        transport.settle(transport.claim_one(queue), follow_ups=[make.publication(queue, due=due)])
        never_early(other, queue, due)

    def test_a_claim_says_when_to_come_back(self, transport: Connection, queue: str) -> None:
        """The next due time is that of the earliest delayed message of the queues asked for."""
        elsewhere = make.unique("queue")
        transport.declare(elsewhere)
        transport.publish(*make.publications(queue, 2), make.publication(elsewhere))
        first, second = transport.claim_eventually(queue, count=2)
        transport.park(first, until=ParkUntil(server_now(transport) + 500))
        transport.park(second, until=ParkUntil(server_now(transport) + 100))
        transport.park(transport.claim_one(elsewhere), until=ParkUntil(server_now(transport) + 5))
        claimed = transport.try_claim(make.claim_of(queue))
        assert claimed.deliveries == ()
        if not self.tells_next_due:
            assert claimed.next_due is None
            return
        assert claimed.next_due is not None, "the suite says that this server tells when the next message is due"
        assert 60 < claimed.next_due <= 101

    def test_delayed_messages_come_in_the_order_they_are_due(self, transport: Connection, queue: str) -> None:
        """Whoever is due first comes first, in whatever order they were parked."""
        transport.publish(*make.publications(queue, 3))
        start = server_now(transport)
        late, early, middle = transport.claim_eventually(queue, count=3)
        for delivery, delay in ((late, 0.30), (early, 0.10), (middle, 0.20)):
            transport.park(delivery, until=ParkUntil(start + delay))
        found = transport.claim_eventually(queue, count=3)
        assert [delivery.task_id for delivery in found] == [early.task_id, middle.task_id, late.task_id]

    # -- quarantine ----------------------------------------------------------------------------------------------------

    def test_quarantine_keeps_message_reason_and_evidence(
        self, transport: Connection, other: Connection, queue: str
    ) -> None:
        """A quarantined message is nobody's to claim, and all of it is there to look at."""
        sent = make.message(body=b"\xff\x00 poison", headers={"custom": [1, {"a": None}]})
        transport.publish(Publication(sent, "", queue), make.publication(queue))
        poison, innocent = transport.claim_eventually(queue, count=2)
        evidence = {"signal": 9, "exit_code": None, "stack": "line 1\nline 2", "rss": 1.5, "names": ["ü"]}
        before = server_now(transport)
        transport.settle(poison, disposition=Quarantine("it killed three workers", evidence))
        depth = other.depth(queue)
        assert (depth.ready, depth.leased, depth.quarantined) == (0, 1, 1)
        (entry,) = other.quarantined(queue)
        assert entry.queue == queue
        assert entry.reason == "it killed three workers"
        assert dict(entry.evidence) == evidence
        assert before - 2 <= entry.at <= server_now(transport) + 2
        assert_same(entry.message, sent)
        assert entry.raw, "quarantine keeps what the broker had"
        assert entry.routing_key == queue
        assert entry.key in {one.key for one in other.quarantined()}
        assert other.quarantined(make.unique("queue")) == []
        assert other.claim(queue) == []
        assert other.recover(everything=False) == 0
        transport.settle(innocent)

    def test_replay_puts_back_the_very_message_once(self, transport: Connection, other: Connection, queue: str) -> None:
        """Replayed twice, it is one message in its queue, as it was, with no deaths counted."""
        sent = make.message(body=bytes(range(256)), headers={"empty": [], "nothing": {}})
        transport.publish(Publication(sent, "", queue))
        transport.settle(transport.claim_one(queue), disposition=GiveBack(blamed=True))
        transport.settle(transport.claim_one(queue), disposition=Quarantine("poison"))
        (entry,) = other.quarantined(queue)
        assert other.replay(entry.key, "no such key") == 1
        assert other.replay(entry.key) == 0
        assert other.quarantined(queue) == []
        assert other.held(queue) == 1
        delivery = other.claim_one(queue)
        assert_same(delivery.message, sent)
        assert delivery.attempts == 0, "a replayed message starts anew"
        other.settle(delivery)
        assert other.replay(entry.key) == 0
        assert other.held(queue) == 0

    def test_a_replayed_message_may_be_quarantined_again(self, transport: Connection, queue: str) -> None:
        """For the same reason or another one; each time it is there once."""
        transport.publish(make.publication(queue))
        for reason in ("first", "first", "second"):
            transport.settle(transport.claim_one(queue), disposition=Quarantine(reason))
            (entry,) = transport.quarantined(queue)
            assert entry.reason == reason
            assert transport.replay(entry.key) == 1
        assert transport.depth(queue).ready == 1

    def test_dropped_from_quarantine_is_gone(self, transport: Connection, queue: str) -> None:
        """Dropping deletes what is named, once, and nothing else."""
        transport.publish(*make.publications(queue, 3))
        for delivery in transport.claim_eventually(queue, count=3):
            transport.settle(delivery, disposition=Quarantine("bad"))
        first, second, third = (entry.key for entry in transport.quarantined(queue))
        assert transport.drop(first, second, "no such key") == 2
        assert transport.drop(first) == 0
        assert [entry.key for entry in transport.quarantined(queue)] == [third]
        assert transport.held(queue) == 1
        assert transport.replay(first) == 0

    def test_quarantine_is_listed_oldest_first_and_limited(self, transport: Connection, queue: str) -> None:
        """The list is in the order in which messages came into quarantine."""
        transport.publish(*make.publications(queue, 4))
        order = []
        for delivery in reversed(transport.claim_eventually(queue, count=4)):
            transport.settle(delivery, disposition=Quarantine("bad"))
            order.append(delivery.task_id)
            transport.clock.pause()  # to the next instant, where the server counts them coarsely
        listed = transport.quarantined(queue)
        assert [entry.message.task_id for entry in listed if entry.message is not None] == order
        assert [entry.key for entry in transport.quarantined(queue, limit=2)] == [entry.key for entry in listed[:2]]

    def test_messages_of_one_id_in_two_queues_are_quarantined_apart(self, transport: Connection) -> None:
        """A key names one message: what happens to it does not happen to its namesake."""
        first, second = make.unique("queue"), make.unique("queue")
        transport.declare(first, second)
        task_id = transport.publish(make.publication(first))[0]
        transport.publish(make.publication(second, task_id))
        for queue in (first, second):
            transport.settle(transport.claim_one(queue), disposition=Quarantine("bad"))
        (entry,) = transport.quarantined(first)
        assert transport.drop(entry.key) == 1
        assert transport.held(first) == 0
        assert transport.held(second) == 1

    @applies(lambda suite: suite.injects)
    @pytest.mark.parametrize(
        "raw", [b"", b"{", b"\xff\xfe\x00", b"null", b"[]", b'{"body": 1}', b"{}", b'"text"', b"7"]
    )
    def test_what_is_no_message_can_be_quarantined_and_replayed(
        self, transport: Connection, other: Connection, queue: str, raw: bytes
    ) -> None:
        """A record that cannot be read is delivered as such, kept byte for byte, and does not harm its neighbours."""
        (before,) = transport.publish(make.publication(queue))
        self.inject(transport, queue, raw)
        (after,) = transport.publish(make.publication(queue))
        deliveries = other.claim_eventually(queue, count=3)
        assert {d.task_id for d in deliveries if d.message is not None} == {before, after}
        (broken,) = [delivery for delivery in deliveries if delivery.message is None]
        assert broken.raw == raw
        assert broken.problem
        other.settle(broken, disposition=Quarantine("not a message", {"problem": broken.problem}))
        (entry,) = transport.quarantined(queue)
        assert entry.message is None
        assert entry.raw == raw
        assert transport.replay(entry.key) == 1
        (again,) = other.claim_eventually(queue, count=1)
        assert again.message is None
        assert again.raw == raw
        other.settle(*[delivery for delivery in deliveries if delivery.message is not None], again)
        assert transport.held(queue) == 0

    # -- all of it -----------------------------------------------------------------------------------------------------

    def test_it_agrees_with_a_model_whatever_the_order(
        self, make_transport: Callable[[], Transport | BlockingTransport], server_clock: Clock
    ) -> None:
        """Any sequence of commands leaves each message where a simple model says it is."""
        model.check(
            lambda: Connection(make_transport(), clock=server_clock).start(),
            leases_expire=self.leases_expire,
            examples=self.model_examples,
            steps=self.model_steps,
        )

    # -- looking and operating -----------------------------------------------------------------------------------------

    def test_depth_counts_each_condition(self, transport: Connection, other: Connection, queue: str) -> None:
        """Depth tells ready, leased, delayed and quarantined apart, and answers zeros for what does not exist."""
        transport.publish(*make.publications(queue, 10))
        deliveries = transport.claim_eventually(queue, count=6)
        transport.settle(deliveries[0])
        transport.settle(deliveries[1], disposition=Quarantine("bad"))
        transport.park(deliveries[2], until=ParkUntil(server_now(transport) + 1000))
        nowhere = make.unique("never-declared")
        depth, nothing = other.depths(queue, nowhere)
        assert (depth.ready, depth.leased, depth.delayed, depth.quarantined) == (4, 3, 1, 1)
        assert (nothing.ready, nothing.leased, nothing.delayed, nothing.quarantined) == (0, 0, 0, 0)

    def test_peek_shows_what_comes_next_and_takes_nothing(self, transport: Connection, queue: str) -> None:
        """The next ready messages in their order, left where they are."""
        published = transport.publish(*make.publications(queue, 5))
        leased = transport.claim_eventually(queue, count=1)
        assert [message.task_id for message in transport.peek(queue, 2)] == published[1:3]
        assert [message.task_id for message in transport.peek(queue)] == published[1:]
        assert transport.peek(make.unique("never-declared")) == []
        assert [delivery.task_id for delivery in transport.claim(queue)] == published[1:]
        assert leased[0].task_id == published[0]

    def test_purge_leaves_what_is_leased_or_in_quarantine(self, transport: Connection, queue: str) -> None:
        """Purging deletes ready and delayed messages, and says how many."""
        transport.publish(*make.publications(queue, 6))
        leased, delayed, poison = transport.claim_eventually(queue, count=3)
        transport.park(delayed, until=ParkUntil(server_now(transport) + 1000))
        transport.settle(poison, disposition=Quarantine("bad"))
        assert transport.purge(queue) == 4
        depth = transport.depth(queue)
        assert (depth.ready, depth.leased, depth.delayed, depth.quarantined) == (0, 1, 0, 1)
        transport.settle(leased)
        assert transport.purge(queue) == 0
        assert transport.purge(make.unique("never-declared")) == 0

    def test_delete_takes_ready_and_delayed_calls_by_id(self, transport: Connection, queue: str) -> None:
        """Deleting by id takes what has not been claimed, says how many, and leaves what is leased."""
        published = transport.publish(*make.publications(queue, 5))
        leased, delayed = transport.claim_eventually(queue, count=2)
        transport.park(delayed, until=ParkUntil(server_now(transport) + 1000))
        assert transport.delete(leased.task_id, delayed.task_id, published[4], "no such id") == 2
        assert transport.delete(delayed.task_id) == 0
        assert [delivery.task_id for delivery in transport.claim(queue)] == published[2:4]
        transport.settle(leased)

    def test_queues_lists_what_is_declared(self, transport: Connection, other: Connection, queue: str) -> None:
        """A queue that was declared and has messages is listed, once."""
        transport.declare(queue)
        transport.publish(make.publication(queue))
        assert other.queues().count(queue) == 1

    def test_locate_knows_where_a_call_is(self, transport: Connection, other: Connection, queue: str) -> None:
        """Ready, leased, delayed, quarantined, or unknown once it is settled."""
        if not transport.has(TransportCapability.LOCATE):
            refuses(lambda: transport.locate("any"), TransportCapability.LOCATE)
            return
        published = transport.publish(*make.publications(queue, 5))
        _leased, delayed, poison, settled = transport.claim_eventually(queue, count=4)
        transport.park(delayed, until=ParkUntil(server_now(transport) + 1000))
        transport.settle(poison, disposition=Quarantine("bad"))
        transport.settle(settled)
        expected = (
            Whereabouts.LEASED,
            Whereabouts.DELAYED,
            Whereabouts.QUARANTINED,
            Whereabouts.UNKNOWN,
            Whereabouts.READY,
        )
        asked = [*published, "no such id"]
        assert other.locate(*asked) == dict(zip(asked, [*expected, Whereabouts.UNKNOWN], strict=True))

    # -- exchanges -----------------------------------------------------------------------------------------------------

    def test_a_direct_exchange_delivers_by_its_key(self, transport: Connection) -> None:
        """Bound queues get what is published under their key, and only that."""
        exchange, red, blue = make.unique("exchange"), make.unique("queue"), make.unique("queue")
        transport.declare(
            QueueSpec(red, exchange=exchange, routing_key="red"),
            QueueSpec(blue, exchange=exchange, routing_key="blue", bindings=(Binding(exchange, "azure"),)),
        )
        transport.publish(
            make.publication("red", exchange=exchange),
            make.publication("blue", exchange=exchange),
            make.publication("azure", exchange=exchange),
        )
        assert transport.depth(red).ready == 1
        assert transport.depth(blue).ready == 2
        delivery = transport.claim_one(red)
        assert (delivery.exchange, delivery.routing_key) == (exchange, "red")

    def test_what_no_queue_receives_is_refused(self, transport: Connection, queue: str) -> None:
        """A message that would vanish is refused, alone: no such exchange, or no binding for the key."""
        exchange, bound = make.unique("exchange"), make.unique("queue")
        transport.declare(QueueSpec(bound, exchange=exchange, routing_key="known"))
        answers = transport.try_publish(
            [
                make.publication("known", exchange=exchange),
                make.publication("unknown", exchange=exchange),
                make.publication("known", exchange=make.unique("no-such-exchange")),
                make.publication(queue),
            ]
        )
        assert answers[0] is None
        assert isinstance(answers[1], PublishRefused), f"no binding, and the answer is {answers[1]!r}"
        assert isinstance(answers[2], PublishRefused), f"no exchange, and the answer is {answers[2]!r}"
        assert answers[3] is None
        assert transport.held(bound) == 1
        assert transport.held(queue) == 1

    def test_topic_and_fanout_exchanges_deliver_copies(self, transport: Connection) -> None:
        """Topics by pattern, fanout to all; each copy is a message of its own, also under one id."""
        topic, fanout = make.unique("topic"), make.unique("fanout")
        all_logs, errors, first, second = (make.unique("queue") for _ in range(4))
        declared = (
            QueueSpec(all_logs, exchange=topic, exchange_type="topic", routing_key="log.#"),
            QueueSpec(errors, exchange=topic, exchange_type="topic", routing_key="log.*.error"),
            QueueSpec(first, exchange=fanout, exchange_type="fanout"),
            QueueSpec(second, exchange=fanout, exchange_type="fanout"),
        )
        if not transport.has(TransportCapability.EXCHANGES):
            refuses(lambda: transport.declare(*declared), TransportCapability.EXCHANGES)
            return
        transport.declare(*declared)
        for key in ("log", "log.web", "log.web.error"):
            transport.publish(make.publication(key, exchange=topic, exchange_type="topic"))
        transport.publish(make.publication("whatever", exchange=fanout, exchange_type="fanout"))
        assert [depth.ready for depth in transport.depths(all_logs, errors, first, second)] == [3, 1, 1, 1]
        (answer,) = transport.try_publish([make.publication("web.error", exchange=topic, exchange_type="topic")])
        assert isinstance(answer, PublishRefused)
        transport.settle(transport.claim_one(first))
        assert transport.held(second) == 1, "settling one copy has taken the other"

    def test_declaring_again_changes_nothing(self, transport: Connection, other: Connection) -> None:
        """Every worker and client declares; messages stay and bindings do not double."""
        exchange, queue = make.unique("exchange"), make.unique("queue")
        spec = QueueSpec(queue, exchange=exchange, routing_key="key")
        transport.declare(spec)
        transport.publish(make.publication("key", exchange=exchange))
        other.declare(spec, spec)
        transport.declare(spec)
        assert transport.held(queue) == 1
        other.publish(make.publication("key", exchange=exchange))
        assert transport.held(queue) == 2

    # -- broadcast and presence ----------------------------------------------------------------------------------------

    def test_everybody_who_is_subscribed_hears(
        self, connect: Connect, transport: Connection, other: Connection
    ) -> None:
        """A broadcast reaches all who subscribed to its topic, the sender too, byte for byte and in order."""
        topic, payloads = make.unique("topic"), [b"", bytes(range(256)), b"\x00" * 5000]
        if not transport.has(TransportCapability.BROADCAST):
            refuses(lambda: transport.broadcast(topic, b""), TransportCapability.BROADCAST)
            return
        bystander = connect()
        transport.subscribe(topic)
        other.subscribe(topic, make.unique("topic"))
        bystander.subscribe(make.unique("topic"))
        for payload in payloads:
            transport.broadcast(topic, payload)
        expected = [(topic, payload) for payload in payloads]

        def heard(listener: Connection) -> bool:
            return listener.broadcasts == expected

        for listener in (transport, other):
            eventually(partial(heard, listener), "all broadcasts arrived, in order")
        assert bystander.broadcasts == []

    def test_a_subscription_replaces_the_former(self, transport: Connection, other: Connection) -> None:
        """Topics no longer subscribed to are not heard, and nothing from before a subscription is."""
        if not transport.has(TransportCapability.BROADCAST):
            refuses(lambda: transport.subscribe("any"), TransportCapability.BROADCAST)
            return
        old, new = make.unique("topic"), make.unique("topic")
        transport.broadcast(new, b"too early")
        other.subscribe(old)
        other.subscribe(new)
        transport.broadcast(old, b"too late")
        transport.broadcast(new, b"now")
        eventually(lambda: (new, b"now") in other.broadcasts, "the broadcast arrived")
        assert other.broadcasts == [(new, b"now")]

    def test_presence_says_who_is_alive(self, connect: Connect, transport: Connection) -> None:
        """A worker that announced itself is listed with its queues and facts, until it stops."""
        if not transport.has(TransportCapability.PRESENCE):
            refuses(transport.presence, TransportCapability.PRESENCE)
            return
        worker = connect(hostname="worker@" + make.unique("host"))
        queues, facts = ("a", "b"), {"concurrency": 2, "pool": "prefork", "nested": {"list": [1, None]}}
        worker.announce(*queues, facts=facts)
        (found,) = [p for p in transport.presence() if p.id == worker.owner.id]
        assert found.hostname == worker.owner.hostname
        assert found.queues == queues
        assert dict(found.facts) == facts
        assert abs(found.last_beat - server_now(transport)) < 10
        worker.announce("c")
        (found,) = [p for p in transport.presence() if p.id == worker.owner.id]
        assert found.queues == ("c",)
        worker.stop()
        eventually(
            lambda: worker.owner.id not in {p.id for p in transport.presence()},
            "the worker that stopped is not listed any more",
            clock=transport.clock,
        )

    def test_presence_follows_the_heartbeat(self, connect: Connect, transport: Connection) -> None:
        """Renewing, also without any lease, is a sign of life."""
        if not transport.has(TransportCapability.PRESENCE):
            return
        worker = connect()
        worker.announce("a")

        def last_beat() -> float:
            (found,) = [p for p in transport.presence() if p.id == worker.owner.id]
            return found.last_beat

        first = last_beat()

        def later() -> bool:
            worker.renew()
            return last_beat() > first

        eventually(later, "the last beat has moved on", clock=transport.clock)


# -- helpers -----------------------------------------------------------------------------------------------------------


def records_of(connection: Connection) -> Records:
    records = connection.port.records()
    assert records is not None, "the suite says that this transport keeps records"
    return records


def server_now(connection: Connection) -> float:
    """Seconds since the epoch; servers of tests run on this machine, so that the clocks are one."""
    return connection.clock.now()


def never_early(connection: Connection, queue: str, due: float) -> Delivery:
    """The message that becomes ready at *due*, claimed as soon as it can be.

    :raises AssertionError: it could be claimed before, or never.
    """
    delivery = connection.claim_eventually(queue, count=1)[0]
    early = due - server_now(connection)
    assert early <= 0.001, f"delivered {early:.3f} s before it was due"
    return delivery


def own_headers(message: Message) -> dict[str, Any]:
    """Headers but for those a broker adds on its way."""
    return {name: value for name, value in message.headers.items() if not name.startswith("x-")}


def assert_same(received: Message | None, sent: Message) -> None:
    """Content is the same; the broker may have added headers that start with ``x-`` and properties of its own."""
    assert received is not None, "the message could not be read"
    assert received.body == sent.body
    assert own_headers(received) == own_headers(sent)
    assert received.content_type == sent.content_type
    assert received.content_encoding == sent.content_encoding
    own = {"delivery_tag", "delivery_info"}  # of each transport
    for name in set(sent.properties) - own:
        assert name in received.properties, f"the property {name!r} got lost"
        assert received.properties[name] == sent.properties[name], f"the property {name!r} has changed"


def refusal(make_transport: Callable[[], Transport | BlockingTransport]) -> TransportError:
    """The error with which the start fails."""
    with pytest.raises(TransportError) as caught:
        Connection(make_transport()).start()
    assert "hunter2" not in str(caught.value), "the error shows the password"
    return caught.value


def start_and_stop(make_transport: Callable[[], Transport | BlockingTransport]) -> None:
    connection = Connection(make_transport()).start()
    connection.stop()


def open_files() -> int:
    """Descriptors this process has open; 0 where the system does not say."""
    import os

    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
