"""Outcomes are written: in which order, together with what, and when a server is not there or refuses."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from kern import states
from kern.contracts.continuation import Continuation, Ending, Follows
from kern.contracts.result_store import WriteStatus, Written
from kern.contracts.transport import Settled, SettleStatus
from kern.errors import BackendStoreError, BackendUnavailable, PublishRefused, TransportError, WorkerLostError
from kern.hookspecs import hookimpl
from kern.request import Request
from kern.worker.endings import Endings
from kern_testing import make
from kern_testing.memory import space
from kern_testing.waiting import eventually, throughout


def test_outcomes_are_settled_in_batches_that_form_by_themselves(bench: Any) -> None:
    """One task alone waits for nobody; what comes while a write is under way goes with the next one."""

    @bench.app.task
    def nothing() -> None: ...

    bench.worker()
    assert nothing.delay().get(timeout=5) is None
    assert [len(batch) for batch in bench.transport.settled] == [1]
    bench.app.send_many([nothing.s() for _ in range(200)])
    bench.empty()
    sizes = [len(batch) for batch in bench.transport.settled]
    assert sum(sizes) == 201
    assert len(sizes) < 150, f"one write for each of many: {sizes}"


def test_on_one_server_result_and_release_are_one_write(bench: Any) -> None:
    """The store's own connection writes nothing: its plan goes with the settlement."""

    @bench.app.task
    def one() -> int:
        return 1

    bench.worker()
    assert one.delay().get(timeout=5) == 1
    assert bench.store.written == []
    (settlement,) = bench.transport.settled[0]
    assert settlement.plan is not None


def test_on_two_servers_the_result_is_stored_before_the_release(apart: Any) -> None:
    """Whoever sees the message gone finds the result there."""

    @apart.app.task
    def one() -> int:
        return 1

    apart.worker(lambda b: b.store.gates["write"].shut())
    result = one.delay()
    eventually(lambda: apart.store.gates["write"].waiting, "the result is being written")
    throughout(lambda: apart.depth().leased == 1 and not apart.transport.settled, 0.1, "the lease is kept")
    apart.store.gates["write"].open()
    assert result.get(timeout=5) == 1
    apart.empty()
    (settlement,) = apart.transport.settled[0]
    assert settlement.plan is None


def test_a_store_that_is_down_turns_no_success_into_a_failure(apart: Any) -> None:
    """The task runs once, its lease is kept, and its result is stored when the store is back."""
    ran: list[int] = []

    @apart.app.task
    def one() -> int:
        ran.append(1)
        return 1

    apart.worker()
    name = apart.app.result_backend_url.removeprefix("memory://")
    with space(name).outage():
        result = one.delay()
        eventually(lambda: ran)
        throughout(lambda: apart.depth().leased == 1, 0.3, "it is not released without its result")
        with pytest.raises(BackendUnavailable):
            result.get(timeout=0.5)
    assert result.get(timeout=10) == 1
    apart.empty()
    assert ran == [1]


def test_tasks_that_ignore_results_do_not_wait_for_the_store(apart: Any) -> None:
    """Neither behind results that wait."""

    @apart.app.task
    def one() -> int:
        return 1

    @apart.app.task(ignore_result=True)
    def other() -> int:
        return 1

    running = apart.worker(lambda b: b.store.gates["write"].shut())
    one.delay()
    eventually(lambda: apart.store.gates["write"].waiting)
    for _ in range(20):
        other.delay()
    eventually(lambda: running.worker.totals.get("SUCCESS") == 20)
    assert apart.depth().leased == 1


def test_a_worker_starts_without_its_store(apart: Any) -> None:
    """Tasks run; results wait, and are written once it can be reached."""
    ran: list[int] = []

    @apart.app.task
    def one() -> int:
        ran.append(1)
        return 7

    @apart.app.task(ignore_result=True)
    def other() -> None:
        ran.append(2)

    running = apart.worker(lambda b: b.store.failing["open"].append(BackendUnavailable("not there yet")))
    other.delay()
    eventually(lambda: 2 in ran)
    result = one.delay()
    assert result.get(timeout=10) == 7
    apart.empty()
    assert running.worker.exit_code == 0


def test_a_store_that_refuses_us_keeps_the_worker_from_starting(apart: Any) -> None:
    """Wrong credentials do not become right by waiting."""
    with pytest.raises(BackendUnavailable, match="password"):
        apart.worker(lambda b: b.store.failing["open"].append(BackendUnavailable("wrong password", retryable=False)))


def test_what_follows_is_published_with_the_settlement(bench: Any) -> None:
    """A retry takes the place of its message: there is always exactly one."""

    @bench.app.task(bind=True, max_retries=5)
    def flaky(self: Any) -> int:
        depth = bench.depth()
        assert depth.ready + depth.leased + depth.delayed == 1
        if self.request.retries < 3:
            raise self.retry(countdown=0.01)
        return self.request.retries

    bench.worker()
    assert flaky.delay().get(timeout=5) == 3
    bench.empty()


def test_a_settlement_whose_answer_was_lost_is_given_again(bench: Any) -> None:
    """It was written the first time; nobody is accused of losing a lease."""

    @bench.app.task
    def one() -> int:
        return 1

    def lose_answer(b: Any) -> None:
        settle, lost = b.transport.settle, []

        def once(batch: Any) -> Any:
            answer = settle(batch)
            if not lost:
                lost.append(answer)
                raise TransportError("cut after the server had written")
            return answer

        b.transport.settle = once

    running = bench.worker(lose_answer)
    assert one.delay().get(timeout=5) == 1
    eventually(lambda: running.worker.held == 0)
    assert running.worker.flow.fenced == 0


def test_a_late_outcome_is_refused_and_reported(bench: Any) -> None:
    """Somebody else has the lease: nothing is stored, nothing is released."""
    go_on = threading.Event()

    @bench.app.task
    def one() -> int:
        go_on.wait(10)
        return 1

    result = one.delay()
    running = bench.worker()
    eventually(lambda: running.worker.held == 1 and bench.depth().leased == 1)
    bench.client.recover(everything=True)
    (delivery,) = bench.client.claim(make.claim_of("celery")).deliveries
    go_on.set()
    eventually(lambda: running.worker.flow.fenced == 1)
    eventually(lambda: running.worker.held == 0)
    assert bench.document(result.id) is None
    assert bench.depth().leased == 1
    assert bench.client.settle([make.settlement(delivery)])[0].status is SettleStatus.DONE


# -- refused items -----------------------------------------------------------------------------------------------------


def refusing(bench: Any, error: Exception, when: Any, times: int = 100) -> None:
    """The broker refuses settlements for which *when* is true, so many times."""
    settle, left = bench.transport.settle, [times]

    def settle_some(batch: Any) -> list[Settled]:
        refused = {s.outcome.receipt for s in batch if when(s.outcome)}
        if not refused or not left[0]:
            return settle(batch)
        left[0] -= 1
        others = iter(settle([s for s in batch if s.outcome.receipt not in refused]))
        return [
            Settled(s.outcome.receipt, SettleStatus.DONE, error) if s.outcome.receipt in refused else next(others)
            for s in batch
        ]

    bench.transport.settle = settle_some


def test_an_error_stays_with_its_item(bench: Any) -> None:
    """Its neighbours are settled; it is tried again until it is taken."""

    @bench.app.task
    def number(n: int) -> int:
        return n

    results = [number.delay(n) for n in range(10)]
    bench.worker(lambda b: refusing(b, TransportError("row locked"), lambda o: o.task_id == results[3].id, times=2))
    assert [result.get(timeout=5) for result in results] == list(range(10))
    bench.empty()


def test_a_value_the_store_does_not_take_becomes_a_description(bench: Any) -> None:
    """SUCCESS stays SUCCESS."""

    @bench.app.task
    def large() -> str:
        return "x" * 1000

    result = large.delay()
    too_large = lambda o: o.document is not None and len(o.document.whole or b"") > 900  # noqa: E731
    bench.worker(lambda b: refusing(b, TransportError("value too large for its column"), too_large))
    assert "could not be stored" in result.get(timeout=5)
    assert result.state == states.SUCCESS
    bench.empty()


class Chains(Continuation):
    """Understands chains: their later steps, each known by its id, end with what failed."""

    kinds = frozenset({"chain"})

    def prepare(self, kind: str, value: Any) -> Any:
        return value

    def follow(self, request: Request, state: str, value: Any) -> Follows:
        if state != states.FAILURE:
            return Follows()
        steps = [Request(id=each["options"]["task_id"], task=each["task"]) for each in request.chain or ()]
        return Follows(endings=tuple(Ending(step, state, value) for step in steps))

    @hookimpl
    def kern_continuations(self) -> list[Continuation]:
        return [self]


CHAIN = [{"task": "tests.later", "args": [], "kwargs": {}, "options": {"task_id": f"step-{n}"}} for n in range(3)]


@pytest.mark.parametrize("late", [True, False], ids=["acks late", "acks early"])
@pytest.mark.parametrize("servers", ["bench", "apart"])
def test_the_later_steps_of_what_failed_end_with_it(request: pytest.FixtureRequest, servers: str, late: bool) -> None:
    """Their documents are written as its own is, in the same batch, with one server and with two."""
    bench = request.getfixturevalue(servers)
    bench.app.register(Chains())

    @bench.app.task(acks_late=late)
    def fail() -> None:
        raise ValueError("no")

    bench.worker()
    result = fail.apply_async(chain=CHAIN)
    for each in (result, *(bench.app.AsyncResult(f"step-{n}") for n in range(3))):
        with pytest.raises(ValueError, match="no"):
            each.get(timeout=5)
        assert "raise ValueError" in each.traceback
    bench.empty()


def test_the_later_steps_of_what_the_worker_ends_end_with_it(bench: Any) -> None:
    """Also where the worker makes the end itself: of a task that was lost, or whose result is there already."""
    bench.app.register(Chains())
    bench.app.task(name="tests.quiet", ignore_result=True)(lambda: None)
    quiet = {**CHAIN[0], "task": "tests.quiet"}
    request = Request(id="one", task="tests.first", args=(), kwargs={}, chain=[quiet, *CHAIN[1:]])
    lost = Endings(bench.app, bench.app.conf, "w@here", True).failed(request, WorkerLostError("gone"))
    assert [(d.task_id, d.status) for d in lost.documents] == [("step-1", states.FAILURE), ("step-2", states.FAILURE)]
    assert lost.document is not None
    repeated = bench.app.repeat(request, lost.document)
    assert [document.task_id for document in repeated.documents] == ["step-1", "step-2"]


def test_steps_whose_documents_are_refused_become_descriptions(bench: Any) -> None:
    """A chain whose later documents the store does not take ends all the same."""
    bench.app.register(Chains())

    @bench.app.task(ignore_result=True)
    def fail() -> None:
        raise ValueError("x" * 20_000)

    fail.apply_async(chain=CHAIN)
    too_large = lambda o: any(document.size > 20_000 for document in o.documents)  # noqa: E731
    bench.worker(lambda b: refusing(b, TransportError("value too large for its column"), too_large))
    for n in range(3):
        with pytest.raises(BackendStoreError, match="could not be stored"):
            bench.app.AsyncResult(f"step-{n}").get(timeout=5)
    bench.empty()


def test_what_can_never_be_settled_goes_to_quarantine(bench: Any) -> None:
    """As a follow-up that no queue receives: the result is stored, the message is kept with the error."""

    @bench.app.task
    def one() -> int:
        return 1

    @bench.app.task
    def fine() -> int:
        return 2

    result = one.delay()

    def unless_quarantined(outcome: Any) -> bool:
        return outcome.task_id == result.id and type(outcome.disposition).__name__ != "Quarantine"

    running = bench.worker(lambda b: refusing(b, PublishRefused("no queue is bound"), unless_quarantined))
    assert fine.delay().get(timeout=5) == 2
    eventually(bench.client.quarantined)
    (entry,) = bench.client.quarantined()
    assert (entry.reason, entry.evidence["error"]) == ("unsettled", "no queue is bound")
    assert result.state == states.SUCCESS
    eventually(lambda: running.worker.held == 0)


@pytest.mark.parametrize("servers", ["bench", "apart"])
def test_a_result_that_can_never_be_stored_keeps_no_message(request: pytest.FixtureRequest, servers: str) -> None:
    """Not even its description is taken: the message goes to quarantine without a result, and the worker is free."""
    bench = request.getfixturevalue(servers)

    @bench.app.task
    def one() -> int:
        return 1

    result = one.delay()

    def refuse(b: Any) -> None:
        refusing(b, TransportError("corrupt page"), lambda outcome: outcome.document is not None)
        b.store.write = lambda plans: [Written(WriteStatus.WRITTEN, error=BackendStoreError("corrupt page"))]

    running = bench.worker(refuse)
    eventually(bench.client.quarantined)
    (entry,) = bench.client.quarantined()
    assert (entry.reason, entry.evidence["error"]) == ("unsettled", "corrupt page")
    assert bench.document(result.id) is None
    eventually(lambda: running.worker.held == 0)


def test_a_driver_that_fails_as_a_whole_is_given_the_items_one_by_one(bench: Any) -> None:
    """A bug in it that one outcome meets keeps neither the others nor the worker."""

    @bench.app.task
    def number(n: int) -> int:
        return n

    results = [number.delay(n) for n in range(10)]

    def break_on_seven(b: Any) -> None:
        settle = b.transport.settle

        def fragile(batch: Any) -> Any:
            for settlement in batch:
                document = settlement.outcome.document
                if settlement.outcome.task_id == results[7].id and b'"result": 7' in (
                    (document and document.whole) or b""
                ):
                    raise UnicodeEncodeError("utf-8", "7", 0, 1, "as a test wants it")
            return settle(batch)

        b.transport.settle = fragile

    running = bench.worker(break_on_seven)
    for n, result in enumerate(results):
        if n != 7:
            assert result.get(timeout=5) == n
    assert "could not be stored" in results[7].get(timeout=5)
    bench.empty()
    assert running.alive


@pytest.mark.parametrize("config", [{"task_acks_late": False}])
def test_without_a_lease_a_refused_follow_up_is_given_up_in_the_end(
    bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no message left to be kept; the worker says so and goes on."""

    @bench.app.task(bind=True, max_retries=5)
    def flaky(self: Any) -> None:
        raise self.retry(countdown=0.01)

    def refuse(b: Any) -> None:
        b.transport.publish = lambda batch: [PublishRefused("no") for _ in batch]

    running = bench.worker(refuse)
    flaky.delay()
    eventually(lambda: running.worker.totals.get("RETRY") == 1, "given up")
    eventually(lambda: running.worker.held == 0)
    assert "what follows the task is given up" in caplog.text


# -- results on the way ------------------------------------------------------------------------------------------------


def test_started_is_stored_where_it_is_wanted(bench: Any) -> None:
    """With who runs it; SUCCESS takes its place."""
    go_on = threading.Event()

    @bench.app.task(track_started=True)
    def tracked() -> int:
        go_on.wait(10)
        return 1

    @bench.app.task
    def untracked() -> None: ...

    bench.worker(hostname="w@h")
    untracked.delay().get(timeout=5)
    result = tracked.delay()
    eventually(lambda: result.state == states.STARTED)
    assert set(result.info) == {"pid", "hostname"}
    assert result.info["hostname"] == "w@h"
    go_on.set()
    assert result.get(timeout=5) == 1
    assert [state for _id, state in bench.store.written] == [states.STARTED]


def test_that_started_cannot_be_stored_changes_nothing(apart: Any) -> None:
    """Neither how the task ends nor how often it runs."""
    ran: list[int] = []

    @apart.app.task(track_started=True)
    def tracked() -> int:
        ran.append(1)
        return 1

    apart.worker(lambda b: b.store.failing["write"].append(RuntimeError("a driver's bug")))
    assert tracked.delay().get(timeout=5) == 1
    assert ran == [1]


class Monitor:
    """Listens to all that is told."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.settled: list[Any] = []

    @hookimpl
    def kern_events(self, events: Any) -> None:
        self.events += events

    @hookimpl
    def kern_settled(self, outcomes: Any) -> None:
        self.settled += outcomes


def test_monitors_are_told_what_happens(bench: Any) -> None:
    """Received, started, ended, in this order, with Celery's fields; tasks without ``send_events`` are left out."""
    monitor = Monitor()
    bench.app.register(monitor)

    @bench.app.task
    def told() -> int:
        return 1

    @bench.app.task(send_events=False)
    def untold() -> None: ...

    bench.worker()
    untold.delay().get(timeout=5)
    result = told.delay()
    result.get(timeout=5)
    eventually(lambda: len(monitor.events) == 3)
    assert [event.type for event in monitor.events] == ["task-received", "task-started", "task-succeeded"]
    assert {event.fields["uuid"] for event in monitor.events} == {result.id}
    assert set(monitor.events[0].fields) == {
        *("uuid", "name", "args", "kwargs", "root_id", "parent_id", "retries", "eta", "expires")
    }
    assert [outcome.task for outcome in monitor.settled] == [untold.name, told.name]


def test_expired_results_are_swept_where_the_server_does_not(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, and again and again."""
    monkeypatch.setattr("kern.worker.worker.SWEEP_INTERVAL", 0.02)
    bench.app.conf.result_expires = 60

    @bench.app.task
    def one() -> int:
        return 1

    bench.worker()
    result = one.delay()
    assert result.get(timeout=5) == 1
    swept: list[int] = []
    original = bench.store.sweep
    bench.store.sweep = lambda: swept.append(original()) or swept[-1]
    bench.clock.advance(61)
    eventually(lambda: sum(swept) == 1, "the expired result is deleted")


def test_totals_and_table_balance_after_a_mixed_load(bench: Any) -> None:
    """Whatever ends in whatever way: every message is counted once, and nothing is left in any table."""

    @bench.app.task(bind=True, max_retries=1)
    def mixed(self: Any, n: int) -> int:
        if n % 5 == 1:
            raise ValueError(n)
        if n % 5 == 2 and not self.request.retries:
            raise self.retry(countdown=0.001)
        if n % 5 == 3:
            from kern.errors import Ignore

            raise Ignore
        if n % 5 == 4:
            from kern.errors import Reject

            raise Reject("no", requeue=False)
        return n

    bench.app.send_many([mixed.s(n) for n in range(500)])
    running = bench.worker()
    bench.empty()
    eventually(lambda: running.worker.held == 0)
    flow = running.worker.flow
    assert flow.totals == {"SUCCESS": 200, "FAILURE": 100, "RETRY": 100, "IGNORED": 100, "REJECTED": 100}
    assert (flow.settler.unsettled, flow.settler._bytes) == (0, 0)
    assert (flow.flights.waiting, flow.flights.running, flow.flights.ending) == (0, 0, 0)
    assert len(bench.client.quarantined(limit=1000)) == 100
