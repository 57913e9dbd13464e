"""A broker beside a model of it: whatever the order of commands, both agree on where each message is."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import ClassVar

import attrs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kern.contracts.transport import SettleStatus, TransportCapability
from kern.delivery import Delivery
from kern.outcome import Disposition, GiveBack, ParkUntil, Quarantine, RetryAt
from kern_testing import make
from kern_testing.contracts.connection import Connection
from kern_testing.contracts.suite import eventually

#: Seconds: later than any test runs, and sooner than the test looks again.
FAR, NEAR, LONG = 10_000.0, 0.005, 1_000.0


ENDS = ("release", "retry", "give back", "delay", "park", "park briefly", "quarantine", "quarantine")
OPERATIONS = ("renew", "recover", "recover everything", "purge", "locate", "delete", "mark started", "reconnect")
LATE = (None, GiveBack(), Quarantine("late"), ParkUntil(0), "retry")


class Place(enum.Enum):
    READY = "ready"
    LEASED = "leased"
    DELAYED = "delayed"
    QUARANTINED = "quarantined"


@attrs.define
class Expected:
    """What the model knows of one message."""

    task_id: str
    body: bytes
    place: Place = Place.READY
    attempts: int = 0
    suspect: bool = False
    delivery: Delivery | None = None
    started: bool = False


class BrokerMachine(RuleBasedStateMachine):
    """Two connections, one queue, any order of commands."""

    #: Opens connections; set by :func:`check`.
    connect: ClassVar[Callable[[], Connection]]
    leases_expire: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()
        self.connections: list[Connection] = []
        self.messages: dict[str, Expected] = {}
        self.stale: list[Delivery] = []
        self.queue = make.unique("queue")

    @initialize()
    def open(self) -> None:
        self.connections = [type(self).connect() for _ in range(2)]
        self.one.declare(self.queue)
        # Some of everything, so that every command has something to work on from the start.
        self.publish(6, 0)
        self.take(self.one.claim(self.queue, limit=4, lease_seconds=LONG), 4)
        self.quarantine(0)
        self.park(0, as_outcome=False)

    def teardown(self) -> None:
        if self.connections:
            self.one.drop(*(entry.key for entry in self.one.quarantined(self.queue)))
            self.one.settle(*(expected.delivery for expected in self.at(Place.LEASED) if expected.delivery is not None))
            self.one.purge(self.queue)
        for connection in self.connections:
            connection.stop()

    # -- the model

    @property
    def one(self) -> Connection:
        return self.connections[0]

    def at(self, place: Place) -> list[Expected]:
        return [expected for expected in self.messages.values() if expected.place is place]

    def leased(self, number: int) -> tuple[Expected, Delivery]:
        held = self.at(Place.LEASED)
        expected = held[number % len(held)]
        assert expected.delivery is not None
        return expected, expected.delivery

    def ended(self, expected: Expected) -> None:
        """The lease has ended, one way or the other."""
        assert expected.delivery is not None
        self.stale.append(expected.delivery)
        expected.delivery, expected.started = None, False

    @invariant()
    def both_agree(self) -> None:
        """ready + leased + delayed + quarantined, each as the model has it: nothing lost, nothing invented."""
        if not self.connections:
            return
        depth = self.connections[-1].depth(self.queue)
        told = {place: getattr(depth, place.value) for place in Place}
        assert told == {place: len(self.at(place)) for place in Place}

    # -- commands; several to a rule where one alone would leave little room for the others

    @rule(what=st.sampled_from(["several", "several", "several", "later", "again"]), number=st.integers(0, 100))
    def produce(self, what: str, number: int) -> None:
        if what == "several":
            self.publish(1 + number % 4, number % 2)
        elif what == "later":
            self.publish_for_later()
        else:
            self.publish_again(number)

    @precondition(lambda self: self.at(Place.LEASED))
    @rule(what=st.sampled_from(ENDS), number=st.integers(0, 100), this=st.booleans(), that=st.booleans())
    def end_a_lease(self, what: str, number: int, this: bool, that: bool) -> None:
        if what == "release":
            self.release(number, follow_ups=this + that)
        elif what == "retry":
            self.retry(number, later=this)
        elif what == "give back":
            self.give_back(number, blamed=this, suspect=that, later=False)
        elif what == "delay":
            self.give_back(number, blamed=this, suspect=that, later=True)
        elif what == "park":
            self.park(number, as_outcome=this)
        elif what == "park briefly":
            self.park_briefly(number)
        else:
            self.quarantine(number)

    @rule(what=st.sampled_from(OPERATIONS), number=st.integers(0, 100))
    def operate(self, what: str, number: int) -> None:
        if what == "renew":
            self.renew()
        elif what == "recover":
            self.recover()
        elif what == "recover everything":
            self.recover_everything()
        elif what == "purge":
            self.purge()
        elif what == "locate":
            self.locate()
        elif what == "delete" and self.messages:
            self.delete(number)
        elif what == "mark started" and self.at(Place.LEASED):
            self.mark_started(number)
        elif what == "reconnect" and self.leases_expire:
            self.reconnect(number % 2)

    @precondition(lambda self: self.stale)
    @rule(number=st.integers(0, 100), how=st.sampled_from(LATE))
    def settle_late(self, number: int, how: Disposition | str | None) -> None:
        """With a lease that has ended."""
        self.late(number, how)

    def publish(self, count: int, number: int) -> None:
        batch = [make.publication(self.queue, body=make.unique("body").encode()) for _ in range(count)]
        self.connections[number].publish(*batch)
        for publication in batch:
            self.messages[publication.task_id] = Expected(publication.task_id, publication.message.body)

    def publish_for_later(self) -> None:
        if self.one.has(TransportCapability.DELAY):
            publication = make.publication(self.queue, body=b"later", due=self.one.clock.now() + FAR)
            self.one.publish(publication)
            self.messages[publication.task_id] = Expected(publication.task_id, b"later", Place.DELAYED)

    def publish_again(self, number: int) -> None:
        """Under the id of a message that is there."""
        if self.one.has(TransportCapability.IDEMPOTENT_PUBLISH):
            there = [e for e in self.messages.values() if e.place is not Place.QUARANTINED]
            if there:
                task_id = there[number % len(there)].task_id
                self.one.publish(make.publication(self.queue, task_id, body=b"another body"))

    @rule(limit=st.integers(1, 5), number=st.integers(0, 1))
    def claim(self, limit: int, number: int) -> None:
        self.take(self.connections[number].claim(self.queue, limit=limit, lease_seconds=LONG), limit)

    def take(self, deliveries: list[Delivery], limit: int) -> list[Expected]:
        ready = {expected.task_id: expected for expected in self.at(Place.READY)}
        assert len(deliveries) == min(limit, len(ready)), (
            f"{len(ready)} ready, {limit} asked, {len(deliveries)} claimed"
        )
        taken = []
        for delivery in deliveries:
            assert delivery.task_id in ready, f"{delivery.task_id} was claimed and is not ready"
            expected = ready.pop(delivery.task_id)
            assert delivery.message is not None
            assert delivery.message.body == expected.body
            assert delivery.attempts == expected.attempts
            assert delivery.suspect == expected.suspect
            assert delivery.receipt not in {old.receipt for old in self.stale}, "a receipt was used twice"
            expected.place, expected.delivery = Place.LEASED, delivery
            taken.append(expected)
        return taken

    @precondition(lambda self: self.leases_expire and self.at(Place.READY))
    @rule(limit=st.integers(1, 3), started=st.booleans())
    def claim_and_die(self, limit: int, started: bool) -> None:
        """A worker claims, marks what it started or not, and is not heard of again."""
        claimed = self.one.claim(self.queue, limit=limit, lease_seconds=NEAR)
        taken = self.take(claimed, limit)
        if started:
            self.one.mark_started(*(delivery.receipt for delivery in claimed))
        back = 0

        def recovered() -> bool:
            nonlocal back
            back += self.connections[1].recover()
            return self.connections[1].depth(self.queue).leased == len(self.at(Place.LEASED)) - len(taken)

        eventually(recovered, "the leases of the silent worker have come back", clock=self.one.clock)
        for expected in taken:
            self.ended(expected)
            expected.place, expected.suspect = Place.READY, True
            expected.attempts += started

    def mark_started(self, number: int) -> None:
        expected, delivery = self.leased(number)
        self.one.mark_started(delivery.receipt)
        expected.started = True

    def release(self, number: int, follow_ups: int) -> None:
        expected, delivery = self.leased(number)
        following = [make.publication(self.queue, body=b"follows") for _ in range(follow_ups)]
        self.one.settle(delivery, follow_ups=following)
        self.ended(expected)
        del self.messages[expected.task_id]
        for publication in following:
            self.messages[publication.task_id] = Expected(publication.task_id, b"follows")

    def retry(self, number: int, later: bool) -> None:
        expected, delivery = self.leased(number)
        again = make.message(expected.task_id, body=make.unique("again").encode())
        self.one.settle(delivery, disposition=RetryAt(again, self.one.clock.now() + FAR if later else 0))
        self.ended(expected)
        self.messages[expected.task_id] = Expected(
            expected.task_id, again.body, Place.DELAYED if later else Place.READY
        )

    def give_back(self, number: int, blamed: bool, suspect: bool, later: bool) -> None:
        expected, delivery = self.leased(number)
        due = self.one.clock.now() + FAR if later else None
        self.one.settle(delivery, disposition=GiveBack(blamed=blamed, suspect=suspect, due=due))
        self.ended(expected)
        expected.place = Place.DELAYED if later else Place.READY
        expected.attempts += blamed
        expected.suspect = expected.suspect or suspect

    def park(self, number: int, as_outcome: bool) -> None:
        expected, delivery = self.leased(number)
        until = ParkUntil(self.one.clock.now() + FAR, reason="unknown-task")
        if as_outcome:
            self.one.settle(delivery, disposition=until)
        else:
            self.one.park(delivery, until=until)
        self.ended(expected)
        expected.place = Place.DELAYED

    def park_briefly(self, number: int) -> None:
        expected, delivery = self.leased(number)
        self.one.park(delivery, until=ParkUntil(self.one.clock.now() + NEAR))
        self.ended(expected)
        expected.place = Place.READY
        count = len(self.at(Place.READY))

        def due() -> bool:
            return self.one.depth(self.queue).ready == count

        eventually(due, "the parked message has become ready", clock=self.one.clock)

    def quarantine(self, number: int) -> None:
        expected, delivery = self.leased(number)
        self.one.settle(delivery, disposition=Quarantine("bad", {"n": number}))
        self.ended(expected)
        expected.place = Place.QUARANTINED

    @precondition(lambda self: self.at(Place.QUARANTINED))
    @rule(number=st.integers(0, 100), drop=st.booleans(), once=st.booleans())
    def leave_quarantine(self, number: int, drop: bool, once: bool) -> None:
        entries = self.one.quarantined(self.queue)
        entry = entries[number % len(entries)]
        assert entry.message is not None
        task_id = entry.message.task_id or ""
        command = self.one.drop if drop else self.one.replay
        assert command(entry.key) == 1
        if not once:
            assert command(entry.key) == 0
        old = self.messages.pop(task_id)
        if not drop:
            self.messages[task_id] = Expected(task_id, old.body)

    def late(self, number: int, how: Disposition | str | None) -> None:
        delivery = self.stale[number % len(self.stale)]
        assert delivery.message is not None
        disposition = RetryAt(delivery.message, 0) if isinstance(how, str) else how
        follow_ups = [make.publication(self.queue)]
        (late,) = self.one.try_settle(make.settlement(delivery, disposition, follow_ups=follow_ups))
        assert late.status == SettleStatus.FENCED, f"a lease that has ended was settled: {late}"

    def renew(self) -> None:
        ours = [e.delivery.receipt for e in self.at(Place.LEASED) if e.delivery is not None]
        ended = {delivery.receipt for delivery in self.stale[-5:]}
        assert self.one.renew(*ours, *ended, lease_seconds=LONG) == ended

    def recover(self) -> None:
        """Nothing has expired, so that nothing comes back."""
        assert self.one.recover() == 0

    def recover_everything(self) -> None:
        held = self.at(Place.LEASED)
        assert self.one.recover(everything=True) >= len(held)
        for expected in held:
            self.ended(expected)
            expected.place = Place.READY

    def purge(self) -> None:
        gone = self.at(Place.READY) + self.at(Place.DELAYED)
        assert self.one.purge(self.queue) == len(gone)
        for expected in gone:
            del self.messages[expected.task_id]

    def delete(self, number: int) -> None:
        expected = list(self.messages.values())[number % len(self.messages)]
        gone = expected.place in (Place.READY, Place.DELAYED)
        assert self.one.delete(expected.task_id) == gone
        if gone:
            del self.messages[expected.task_id]

    def locate(self) -> None:
        if self.one.has(TransportCapability.LOCATE):
            found = self.one.locate(*self.messages)
            assert {task_id: place.value for task_id, place in found.items()} == {
                expected.task_id: expected.place.value for expected in self.messages.values()
            }

    def reconnect(self, number: int) -> None:
        """Leases are the server's: a connection may come and go."""
        self.connections[number].stop()
        self.connections[number] = type(self).connect()


def check(connect: Callable[[], Connection], leases_expire: bool, examples: int, steps: int) -> None:
    """Run the machine against what *connect* opens.

    :raises AssertionError: the broker and the model differ; prints the shortest sequence of commands found.
    """
    machine = type(
        "BrokerMachine", (BrokerMachine,), {"connect": staticmethod(connect), "leases_expire": leases_expire}
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
