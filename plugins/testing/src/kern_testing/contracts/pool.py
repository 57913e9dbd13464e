"""What every pool owes, as tests. The promises are those of :mod:`kern.contracts.pool`."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from kern import states
from kern.contracts.pool import Died, Finished, Pool, PoolBroken, PoolCapability, PoolEvent, Started
from kern.errors import CapabilityMissing, SoftTimeLimitExceeded
from kern.outcome import Document, Outcome, Release, RetryAt
from kern.request import Request
from kern_testing import make
from kern_testing.contracts.suite import TIMEOUT, Suite, applies, eventually, missing, throughout
from kern_testing.contracts.transport import open_files

#: Runs a request where requests run; in a process pool, in another process.
Run = Callable[[Request], Outcome]


def run(request: Request) -> Outcome:
    """The runner the suite gives to pools: does what the body says, and reports what happened in ``summary``."""
    order = json.loads(request.body or b"{}")
    summary, state = str(order.get("say", "")), states.SUCCESS
    try:
        match order.get("do"):
            case "wait":
                # Wakes now and then, so that an exception raised from outside is seen.
                while not os.path.exists(order["gate"]):
                    time.sleep(0.002)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()  # until it arrives
            case "exit":
                os._exit(7)
            case "fail":
                raise RuntimeError("the runner itself has a fault")
    except SoftTimeLimitExceeded:
        summary, state = "soft limit", states.FAILURE
    except Interruption:
        summary, state = "interrupted", states.FAILURE
    return Outcome(
        receipt=request.receipt,
        task_id=request.id or "",
        task=request.task or "",
        state=state,
        disposition=Release(),
        document=Document(request.id or "", state, result=request.body),
        pid=os.getpid(),
        runtime=0.0,
        summary=summary,
    )


def run_and_retry(request: Request) -> Outcome:
    """An outcome with everything in it that an outcome can have."""
    return attrs.evolve(
        run(request),
        state=states.RETRY,
        disposition=RetryAt(make.message("again", body=b"\x00\xff"), due=12345.678),
        follow_ups=(make.publication("next", "follows", body=b"1", due=99.5),),
    )


class Interruption(Exception):
    """Raised inside a request by the suite."""


class Running:
    """A started pool, and what it said."""

    def __init__(self, pool: Pool, runner: Run) -> None:
        self.pool = pool
        self._runner = runner
        self._events: list[PoolEvent] = []
        self._lock = threading.Lock()

    def start(self) -> Running:
        self.pool.start(self._runner, self._take).result(TIMEOUT)
        return self

    def _take(self, events: Sequence[PoolEvent]) -> None:
        with self._lock:
            self._events.extend(events)

    @property
    def events(self) -> list[PoolEvent]:
        with self._lock:
            return list(self._events)

    def submit(self, *requests: Request) -> list[str]:
        self.pool.submit(list(requests))
        return [request.receipt for request in requests]

    # -- what became of it

    @property
    def started(self) -> set[str]:
        return {event.receipt for event in self.events if isinstance(event, Started)}

    @property
    def ends(self) -> list[Finished | Died]:
        return [event for event in self.events if isinstance(event, Finished | Died)]

    @property
    def ended(self) -> set[str]:
        return {event.receipt for event in self.ends}

    def has_started(self, *receipts: str) -> None:
        eventually(lambda: set(receipts) <= self.started, f"{len(receipts)} request(s) have started")

    def end_of(self, receipt: str) -> Finished | Died:
        eventually(lambda: receipt in self.ended, "the request has ended")
        (end,) = [event for event in self.ends if event.receipt == receipt]
        return end

    def outcome_of(self, receipt: str) -> Outcome:
        end = self.end_of(receipt)
        assert isinstance(end, Finished), f"the request has not finished: {end}"
        return end.outcome

    def death_of(self, receipt: str) -> Died:
        end = self.end_of(receipt)
        assert isinstance(end, Died), f"the request has finished: {end}"
        return end

    def all_end_once(self, receipts: Sequence[str]) -> None:
        eventually(lambda: set(receipts) <= self.ended, f"{len(receipts)} requests have ended")
        counted = Counter(event.receipt for event in self.ends)
        assert counted == Counter(receipts), "each request ends exactly once"
        broken = [event for event in self.events if isinstance(event, PoolBroken)]
        assert not broken, f"the pool broke: {broken}"


@attrs.frozen
class Orders:
    """Makes requests, and opens the gates they wait at."""

    folder: Path

    def request(self, do: str = "return", say: str = "", **fields: Any) -> Request:
        receipt = make.unique("receipt")
        order = {"do": do, "say": say, "gate": str(self.gate(fields.pop("gate", "gate")))}
        fields.setdefault("body", json.dumps(order).encode())
        return Request(id=make.unique("id"), task="tests.order", receipt=receipt, queue="tests", **fields)

    def waiting(self, gate: str = "gate", **fields: Any) -> Request:
        """Runs until its gate is opened."""
        return self.request("wait", gate=gate, **fields)

    def gate(self, name: str) -> Path:
        return self.folder / name

    def open(self, name: str = "gate") -> None:
        self.gate(name).touch()


def capable(capability: PoolCapability) -> Callable[[Any], bool]:
    return lambda suite: capability in suite.capabilities


class PoolContract(Suite):
    """Subclass it, give ``make_pool(slots)``, which makes a pool that is not started, and say what it is capable of."""

    #: What the pool declares; tests of what it cannot do are not there.
    capabilities: ClassVar[frozenset[PoolCapability]] = frozenset()
    #: Slots in the tests about several at once; 1 for a pool that has one.
    slots: ClassVar[int] = 3
    #: How often it is started and stopped in a row.
    cycles: ClassVar[int] = 500
    #: Requests submitted in one go.
    many: ClassVar[int] = 300

    @pytest.fixture
    def make_pool(self) -> Callable[[int], Pool]:
        missing("make_pool", "return lambda slots: ThreadPool(app, PoolOptions(concurrency=slots))")

    @pytest.fixture
    def runner(self) -> Run:
        """What pools are given to run requests with; a function that can be found by its name."""
        return run

    @pytest.fixture
    def start(self, make_pool: Callable[[int], Pool], runner: Run, orders: Orders) -> Iterator[Callable[..., Running]]:
        opened: list[Running] = []

        def start(slots: int = 1, runner: Run = runner) -> Running:
            opened.append(Running(make_pool(slots), runner).start())
            return opened[-1]

        yield start
        orders.open()
        for running in opened:
            running.pool.stop(5).result(TIMEOUT)

    @pytest.fixture
    def orders(self, tmp_path: Path) -> Orders:
        return Orders(tmp_path)

    @pytest.fixture
    def pool(self, start: Callable[..., Running]) -> Running:
        """A started pool of one slot."""
        return start()

    # -- what it says about itself

    def test_it_declares_what_the_suite_says(self, make_pool: Callable[[int], Pool]) -> None:
        """The capabilities declared are those the suite tests; the pool has a name and its slots."""
        pool = make_pool(self.slots)
        assert pool.capabilities == self.capabilities
        assert pool.name
        assert pool.slots == self.slots
        pool.stop(0.0)

    def test_its_facts_are_json(self, pool: Running) -> None:
        """What it tells about itself can be sent to whoever asks."""
        facts = pool.pool.info()
        assert json.loads(json.dumps(facts)) == facts
        assert facts["max-concurrency"] == pool.pool.slots

    # -- running

    def test_each_request_ends_once(self, start: Callable[..., Running], orders: Orders) -> None:
        """Hundreds of requests in one batch and one by one: each ends in exactly one event, with its own outcome."""
        pool = start(self.slots)
        batch = [orders.request(say=str(number)) for number in range(self.many)]
        singly = [orders.request(say=str(number)) for number in range(self.many, self.many + 50)]
        receipts = pool.submit(*batch)
        for request in singly:
            receipts += pool.submit(request)
        pool.all_end_once(receipts)
        said = {end.receipt: end.outcome.summary for end in pool.ends if isinstance(end, Finished)}
        assert said == {receipt: str(number) for number, receipt in enumerate(receipts)}

    def test_started_comes_before_the_end(self, start: Callable[..., Running], orders: Orders) -> None:
        """No request is said to have started twice, or after it ended; the time and the process are real."""
        pool = start(self.slots)
        before = time.time()
        receipts = pool.submit(*[orders.request() for _ in range(50)])
        pool.all_end_once(receipts)
        seen: set[str] = set()
        for event in pool.events:
            if isinstance(event, Started):
                assert event.receipt not in seen, "started twice, or after its end"
                assert before - 1 <= event.at <= time.time() + 1
                assert event.pid > 0
            if isinstance(event, Started | Finished | Died):
                seen.add(event.receipt)

    def test_the_outcome_arrives_as_it_was_made(self, start: Callable[..., Running], orders: Orders) -> None:
        """Documents, messages that follow, dispositions: equal to what the runner returned."""
        pool = start(runner=run_and_retry)
        request = orders.request(say="all of it")
        (receipt,) = pool.submit(request)
        outcome = pool.outcome_of(receipt)
        expected = run_and_retry(request)
        assert attrs.evolve(outcome, pid=None) == attrs.evolve(expected, pid=None)
        isolated = PoolCapability.ISOLATED in self.capabilities
        assert (outcome.pid != os.getpid()) == isolated, "'isolated' says that tasks run in other processes"

    def test_the_request_arrives_as_it_was_submitted(self, start: Callable[..., Running], orders: Orders) -> None:
        """Bodies are bytes, whatever they are and however large."""
        pool = start()
        order = json.dumps({"say": "large", "filler": "x☃" * 500_000}).encode()
        (receipt,) = pool.submit(orders.request(body=order))
        outcome = pool.outcome_of(receipt)
        assert outcome.summary == "large"
        assert outcome.document is not None
        assert outcome.document.result == order

    def test_a_broken_runner_ends_its_request_alone(self, pool: Running, orders: Orders) -> None:
        """Whatever the runner raises, the request ends once and the next one runs."""
        receipts = pool.submit(orders.request("fail"), orders.request(say="after"))
        pool.all_end_once(receipts)
        assert pool.outcome_of(receipts[1]).summary == "after"

    def test_submitting_does_not_block(self, pool: Running, orders: Orders) -> None:
        """The loop is not held up, however much waits already."""
        (running,) = pool.submit(orders.waiting())
        pool.has_started(running)
        begin = time.monotonic()
        receipts = pool.submit(*[orders.request() for _ in range(1000)])
        assert time.monotonic() - begin < 2
        orders.open()
        pool.all_end_once([running, *receipts])

    # -- slots

    def test_as_many_run_at_once_as_there_are_slots(self, start: Callable[..., Running], orders: Orders) -> None:
        """All slots are used, and not one more."""
        pool = start(self.slots)
        receipts = pool.submit(*[orders.waiting() for _ in range(self.slots + 2)])
        eventually(lambda: len(pool.started) == self.slots, f"{self.slots} requests run at once")
        throughout(lambda: len(pool.started) == self.slots, 0.2, "no more run than there are slots")
        orders.open()
        pool.all_end_once(receipts)

    @applies(lambda suite: suite.slots > 1)
    def test_a_short_request_never_waits_behind_a_long_one(self, start: Callable[..., Running], orders: Orders) -> None:
        """While one slot is taken for long, the others do all the rest."""
        pool = start(self.slots)
        long, *short = pool.submit(orders.waiting(), *[orders.request() for _ in range(100)])
        eventually(lambda: set(short) <= pool.ended, "the short requests have ended beside the long one")
        assert long not in pool.ended
        orders.open()
        pool.all_end_once([long, *short])

    @applies(capable(PoolCapability.RESIZE))
    def test_its_size_can_be_changed(self, start: Callable[..., Running], orders: Orders) -> None:
        """More slots take effect at once; fewer, when what runs has ended."""
        pool = start(1)
        receipts = pool.submit(*[orders.waiting() for _ in range(3)])
        eventually(lambda: len(pool.started) == 1, "one runs")
        pool.pool.resize(3)
        eventually(lambda: len(pool.started) == 3, "three run at once")
        assert pool.pool.slots == 3
        orders.open()
        pool.all_end_once(receipts)
        pool.pool.resize(1)
        more = pool.submit(*[orders.waiting(gate="second") for _ in range(2)])
        eventually(lambda: len(pool.started) == 4, "one runs again")
        throughout(lambda: len(pool.started) == 4, 0.2, "no more than one runs")
        orders.open("second")
        pool.all_end_once([*receipts, *more])

    @applies(lambda suite: PoolCapability.RESIZE not in suite.capabilities)
    def test_its_size_cannot_be_changed(self, pool: Running) -> None:
        """Which it says."""
        with pytest.raises(CapabilityMissing):
            pool.pool.resize(2)

    def test_recycling_loses_nothing(self, start: Callable[..., Running], orders: Orders) -> None:
        """Processes may be replaced while requests run and wait."""
        pool = start(self.slots)
        receipts = pool.submit(orders.waiting(), *[orders.request() for _ in range(50)])
        pool.pool.recycle()
        receipts += pool.submit(*[orders.request() for _ in range(50)])
        orders.open()
        pool.all_end_once(receipts)

    # -- taking back and ending

    def test_what_has_not_started_can_be_taken_back(self, pool: Running, orders: Orders) -> None:
        """All that wait, or those named; they never run, and have no end."""
        (running,) = pool.submit(orders.waiting())
        pool.has_started(running)
        first, second, third = pool.submit(*[orders.request() for _ in range(3)])
        assert pool.pool.withdraw([second, running, "no such receipt"]) == [second]
        assert pool.pool.withdraw([second]) == []
        assert set(pool.pool.withdraw()) == {first, third}
        assert pool.pool.withdraw() == []
        (after,) = pool.submit(orders.request())
        orders.open()
        pool.all_end_once([running, after])
        assert not {first, second, third} & pool.started

    def test_withdrawn_or_ended_and_never_both(self, start: Callable[..., Running], orders: Orders) -> None:
        """Taking back while requests are starting: each is taken back or ends, none both, none neither."""
        pool = start(self.slots)
        receipts = pool.submit(*[orders.request() for _ in range(self.many)])
        withdrawn: list[str] = []
        for receipt in receipts[::-3]:
            withdrawn += pool.pool.withdraw([receipt])
        rest = [receipt for receipt in receipts if receipt not in set(withdrawn)]
        pool.all_end_once(rest)

    def test_terminating_ends_one_request(self, start: Callable[..., Running], orders: Orders) -> None:
        """The request that runs is killed and says so, its neighbours go on; or the pool says that it cannot."""
        pool = start(self.slots)
        victim, *others = pool.submit(*[orders.waiting() for _ in range(self.slots)])
        pool.has_started(victim, *others)
        assert pool.pool.terminate("no such receipt") is False
        assert pool.pool.terminate(victim) is (PoolCapability.TERMINATE in self.capabilities)
        if PoolCapability.TERMINATE in self.capabilities:
            death = pool.death_of(victim)
            assert death.terminated
            assert death.started
            assert victim not in others
        (after,) = pool.submit(orders.request())
        orders.open()
        pool.all_end_once([victim, *others, after])
        assert all(isinstance(pool.end_of(receipt), Finished) for receipt in [*others, after])

    def test_an_error_can_be_raised_inside_or_not(self, pool: Running, orders: Orders) -> None:
        """Where the pool says that it raised the error, the request sees it; where it cannot, the request goes on."""
        (receipt,) = pool.submit(orders.waiting())
        pool.has_started(receipt)
        assert pool.pool.interrupt("no such receipt", Interruption()) is False
        raised = pool.pool.interrupt(receipt, Interruption())
        assert raised in (True, False)
        if not raised:
            orders.open()
        assert pool.outcome_of(receipt).summary == ("interrupted" if raised else "")

    # -- limits

    @applies(capable(PoolCapability.SOFT_LIMITS))
    def test_a_soft_limit_is_raised_inside(self, pool: Running, orders: Orders) -> None:
        """The request can end by itself, and the next one is not troubled."""
        limited, free = pool.submit(orders.waiting(soft_time_limit=0.2), orders.request(say="free"))
        assert pool.outcome_of(limited).summary == "soft limit"
        assert pool.outcome_of(free).summary == "free"
        pool.all_end_once([limited, free])

    @applies(capable(PoolCapability.HARD_LIMITS))
    def test_a_hard_limit_kills(self, start: Callable[..., Running], orders: Orders) -> None:
        """The request dies of its limit, which is no death anybody is to blame for; its neighbours go on."""
        pool = start(self.slots)
        limited, *others = pool.submit(
            orders.waiting(time_limit=0.3), *[orders.waiting() for _ in range(self.slots - 1)]
        )
        death = pool.death_of(limited)
        assert death.time_limit == 0.3
        assert not death.terminated
        orders.open()
        pool.all_end_once([limited, *others])
        assert all(isinstance(pool.end_of(receipt), Finished) for receipt in others)

    @applies(lambda suite: suite.capabilities & {PoolCapability.SOFT_LIMITS, PoolCapability.HARD_LIMITS})
    def test_limits_count_from_the_start(self, pool: Running, orders: Orders) -> None:
        """Waiting for a slot is not running."""
        (running,) = pool.submit(orders.waiting())
        pool.has_started(running)
        (waiting,) = pool.submit(orders.waiting(gate="open", soft_time_limit=0.3, time_limit=0.6))
        orders.open("open")
        throughout(lambda: waiting not in pool.ended, 0.8, "the request waits longer than it may run")
        orders.open()
        assert pool.outcome_of(waiting).summary == ""

    # -- deaths

    @applies(capable(PoolCapability.ISOLATED))
    @pytest.mark.parametrize(("how", "evidence"), [("kill", ("signal", 9)), ("exit", ("exit_code", 7))])
    def test_a_death_is_one_requests(
        self, start: Callable[..., Running], orders: Orders, how: str, evidence: tuple[str, int]
    ) -> None:
        """A process that dies ends the request it ran, with evidence, and no other; the pool goes on."""
        pool = start(self.slots)
        victim, *others = pool.submit(orders.request(how), *[orders.request() for _ in range(30)])
        death = pool.death_of(victim)
        assert death.started
        assert not death.terminated
        assert death.time_limit is None
        assert death.evidence.get(evidence[0]) == evidence[1]
        assert json.loads(json.dumps(dict(death.evidence))) == dict(death.evidence)
        pool.all_end_once([victim, *others])
        assert all(isinstance(pool.end_of(receipt), Finished) for receipt in others)

    @applies(capable(PoolCapability.ISOLATED))
    def test_it_survives_many_deaths(self, start: Callable[..., Running], orders: Orders) -> None:
        """Every second request kills its process; the others finish."""
        pool = start(self.slots)
        receipts = pool.submit(*[orders.request("kill" if number % 2 else "return") for number in range(40)])
        pool.all_end_once(receipts)
        ends = [isinstance(pool.end_of(receipt), Died) for receipt in receipts]
        assert ends == [bool(number % 2) for number in range(40)]

    # -- the end

    def test_stopping_waits_for_what_runs(self, start: Callable[..., Running], orders: Orders) -> None:
        """Without a deadline, what runs may finish; its end is told before the pool's is."""
        pool = start(self.slots)
        receipts = pool.submit(*[orders.waiting() for _ in range(self.slots)])
        pool.has_started(*receipts)
        reply = pool.pool.stop()
        throughout(lambda: not reply.done(), 0.1, "the pool waits for what runs")
        orders.open()
        reply.result(TIMEOUT)
        pool.all_end_once(receipts)

    def test_stopping_keeps_its_deadline(self, start: Callable[..., Running], orders: Orders) -> None:
        """What runs on for ever does not keep the pool from ending; what was killed for it is told."""
        pool = start(self.slots)
        receipts = pool.submit(*[orders.waiting() for _ in range(self.slots)])
        pool.has_started(*receipts)
        begin = time.monotonic()
        pool.pool.stop(0.2).result(TIMEOUT)
        assert time.monotonic() - begin < 5
        if PoolCapability.ISOLATED in self.capabilities:
            pool.all_end_once(receipts)

    def test_it_can_be_stopped_before_its_start_and_twice(
        self, make_pool: Callable[[int], Pool], start: Callable[..., Running]
    ) -> None:
        """Stopping is always safe."""
        make_pool(1).stop(1).result(TIMEOUT)
        pool = start()
        pool.pool.stop(5).result(TIMEOUT)
        pool.pool.stop(5).result(TIMEOUT)
        pool.pool.stop().result(TIMEOUT)

    def test_nothing_is_said_after_the_end(self, start: Callable[..., Running], orders: Orders) -> None:
        """Once it has stopped it is silent."""
        pool = start(self.slots)
        pool.submit(*[orders.request() for _ in range(20)])
        pool.pool.withdraw()
        pool.pool.stop(5).result(TIMEOUT)
        said = len(pool.events)
        throughout(lambda: len(pool.events) == said, 0.1, "the pool is silent")

    def test_starting_and_stopping_leaves_nothing_behind(
        self, make_pool: Callable[[int], Pool], runner: Run, orders: Orders
    ) -> None:
        """Hundreds of pools, now and then with work, leave no thread, no process and no file open."""

        def cycle(work: bool) -> None:
            pool = Running(make_pool(1), runner).start()
            if work:
                pool.all_end_once(pool.submit(orders.request()))
            pool.pool.stop(5).result(TIMEOUT)

        for _ in range(3):  # what is made once and kept
            cycle(work=True)
        threads, files, children = threading.active_count(), open_files(), child_processes()
        for number in range(self.cycles):
            cycle(work=number % 10 == 0)
        eventually(lambda: threading.active_count() <= threads, "the threads have ended")
        eventually(lambda: open_files() <= files + 2, f"the files are closed (there were {files})")
        eventually(lambda: child_processes() <= children, "the processes have ended")


def child_processes() -> set[int]:
    """Processes this one has made; empty where the system does not say."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            found.update(map(int, path.read_text().split()))
        except OSError:
            continue
    return found
