"""The one way in which a worker stops, and what becomes of what it held."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from kern import states
from kern.errors import ImproperlyConfigured, TransportError
from kern.hookspecs import hookimpl
from kern.worker import Worker
from kern.worker.stopping import StopRequest
from kern.worker.worker import node_name
from kern_testing import make
from kern_testing.waiting import eventually, throughout


class Tasks:
    """Tasks that say when they begin, and end when they are told to."""

    def __init__(self, bench: Any) -> None:
        self.ran: list[int] = []
        self.ended: list[int] = []
        self.go_on = threading.Event()

        @bench.app.task(name="tests.hold")
        def hold(number: int) -> int:
            self.ran.append(number)
            while not self.go_on.is_set():
                time.sleep(0.002)  # the task's own duration
            self.ended.append(number)
            return number

        self.hold = hold


@pytest.fixture
def tasks(bench: Any) -> Tasks:
    return Tasks(bench)


def ends_within(running: Any, seconds: float) -> float:
    """How long the worker took to end."""
    began = time.monotonic()
    eventually(lambda: not running.alive, "the worker has ended", timeout=seconds)
    return time.monotonic() - began


def test_with_nothing_running_it_ends_at_once(bench: Any) -> None:
    """Whatever the grace would have been."""
    bench.app.conf.worker_soft_shutdown_timeout = 25.0
    running = bench.worker()
    running.worker.stop()
    assert ends_within(running, 5) < 1
    assert running.worker.exit_code == 0


@pytest.mark.parametrize("config", [{"worker_soft_shutdown_timeout": 20.0, "worker_prefetch_multiplier": 10}])
def test_what_runs_may_finish_and_what_waits_is_handed_back_first(bench: Any, tasks: Tasks) -> None:
    """The waiting messages are another worker's at once; the running task ends as it would have."""
    results = [tasks.hold.delay(number) for number in range(4)]
    running = bench.worker()
    eventually(lambda: tasks.ran == [0] and bench.depth().leased == 4)
    running.worker.stop()
    eventually(lambda: bench.depth().ready == 3, "what waits is handed back before the end")
    assert running.alive
    tasks.go_on.set()
    ends_within(running, 5)
    assert running.worker.exit_code == 0
    assert results[0].get(timeout=1) == 0
    assert tasks.ran == [0]
    for delivery in bench.client.claim(make.claim_of("celery")).deliveries:
        assert (delivery.attempts, delivery.suspect, delivery.redelivered) == (0, False, False)


@pytest.mark.parametrize("config", [{"worker_soft_shutdown_timeout": 0.2}])
def test_what_does_not_finish_is_interrupted_and_handed_back(bench: Any, tasks: Tasks) -> None:
    """Uncounted, not failed, and at the end of the grace."""
    result = tasks.hold.delay(1)
    running = bench.worker()
    eventually(lambda: tasks.ran)
    running.worker.stop()
    assert 0.15 < ends_within(running, 5) < 2
    assert running.worker.exit_code == 0
    assert bench.document(result.id) is None
    assert (bench.depth().ready, bench.depth().leased) == (1, 0)
    assert tasks.ended == []
    (delivery,) = bench.client.claim(make.claim_of("celery")).deliveries
    assert (delivery.attempts, delivery.suspect) == (0, False)


@pytest.mark.parametrize("config", [{"worker_soft_shutdown_timeout": 0.05}])
@pytest.mark.parametrize("options", [{}, {"autoretry_for": (BaseException,)}, {"bind": True}])
def test_an_interruption_is_no_failure_for_anybody(bench: Any, options: dict[str, Any]) -> None:
    """Neither handlers nor listeners hear of one; the task may tidy up behind itself."""
    heard: list[str] = []
    tidied: list[int] = []
    begun = threading.Event()

    class Listener:
        @hookimpl
        def kern_task_failure(self, task: Any) -> None:
            heard.append("failure")

        @hookimpl
        def kern_task_retry(self, task: Any) -> None:
            heard.append("retry")

        @hookimpl
        def kern_task_internal_error(self, exception: BaseException) -> None:
            heard.append("internal error")

        @hookimpl
        def kern_task_postrun(self, state: str) -> None:
            heard.append(state)

    bench.app.register(Listener())

    @bench.app.task(on_failure=lambda *_: heard.append("on_failure"), **options)
    def endless(*_: Any) -> None:
        begun.set()
        try:
            while True:
                time.sleep(0.002)  # the task's own duration
        finally:
            tidied.append(1)

    result = endless.delay()
    running = bench.worker()
    assert begun.wait(5)
    running.worker.stop()
    ends_within(running, 5)
    assert tidied == [1]
    assert heard == [states.PENDING]
    assert bench.document(result.id) is None
    assert bench.depth().ready == 1


@pytest.mark.parametrize("config", [{"worker_soft_shutdown_timeout": 60.0}])
def test_a_second_request_stops_at_once(bench: Any, tasks: Tasks) -> None:
    """What runs is handed back without its grace."""
    tasks.hold.delay(1)
    running = bench.worker()
    eventually(lambda: tasks.ran)
    running.worker.stop()
    throughout(lambda: running.alive, 0.1)
    running.worker.stop()
    ends_within(running, 3)
    assert (running.worker.exit_code, bench.depth().ready) == (0, 1)


@pytest.mark.parametrize("config", [{"worker_soft_shutdown_timeout": 0.1}])
def test_a_task_that_lets_itself_not_be_interrupted_is_left_behind(bench: Any) -> None:
    """It is handed back all the same, and what it returns later is nobody's outcome."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    @bench.app.task
    def stubborn() -> str:
        begun.set()
        go_on.wait(20)  # no bytecode is run in here
        ended.set()
        return "too late"

    result = stubborn.delay()
    running = bench.worker()
    assert begun.wait(5)
    running.worker.stop()
    ends_within(running, 5)
    assert bench.depth().ready == 1
    go_on.set()
    throughout(lambda: bench.document(result.id) is None, 0.2)


@pytest.mark.parametrize("config", [{"worker_soft_shutdown_timeout": 20.0, "worker_heartbeat": 0.1}])
def test_leases_and_services_go_on_to_the_end(bench: Any, tasks: Tasks) -> None:
    """A stopping worker is alive: nobody takes what it still runs."""
    tasks.hold.delay(1)
    running = bench.worker()
    eventually(lambda: tasks.ran)
    running.worker.stop()
    eventually(lambda: running.worker.why_not_ready == "the worker is stopping")
    renewals = bench.transport.renewals
    eventually(lambda: bench.transport.renewals > renewals + 2)
    tasks.go_on.set()
    ends_within(running, 5)


@pytest.mark.parametrize("config", [{"worker_soft_shutdown_timeout": 0.1}])
def test_a_broker_that_does_not_answer_does_not_keep_it(
    bench: Any, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends within its farewells, before any platform kills it; the leases expire."""
    monkeypatch.setattr("kern.worker.worker.WRITE_FAREWELL", 0.4)
    tasks.hold.delay(1)
    running = bench.worker()
    eventually(lambda: tasks.ran)
    bench.transport.gates["settle"].shut()
    running.worker.stop()
    ends_within(running, 6)
    bench.transport.gates["settle"].open()


def test_stopping_before_it_runs_is_stopping(bench: Any) -> None:
    """A stop is never lost, however early it comes."""
    worker = Worker(bench.app, pool="solo", signals=False)
    worker.stop()
    assert asyncio.run(asyncio.wait_for(worker.serve(), 10)) == 0
    worker.stop()
    assert not worker.held


def test_who_listens_is_told(bench: Any) -> None:
    """Each step of a worker's life, once, in order; and the cause of the stop."""
    told: list[Any] = []

    class Listener:
        @hookimpl
        def kern_worker_init(self, worker: Any) -> None:
            told.append("init")

        @hookimpl
        def kern_worker_ready(self, worker: Any) -> None:
            told.append(("ready", worker.hostname))

        @hookimpl
        def kern_worker_stopping(self, worker: Any, signal: str | None) -> None:
            told.append(("stopping", signal))

        @hookimpl
        def kern_worker_stopped(self, worker: Any) -> None:
            told.append("stopped")

    bench.app.register(Listener())
    bench.worker(hostname="w@h").stop()
    assert told == ["init", ("ready", "w@h"), ("stopping", "stop()"), "stopped"]


@pytest.mark.parametrize("config", [{"worker_heartbeat": 0.1}])
def test_a_stage_that_fails_stops_the_worker_loudly(bench: Any, tasks: Tasks, caplog: pytest.LogCaptureFixture) -> None:
    """Exit code 1, the error in the log, and what was held is handed back."""
    tasks.hold.delay(1)
    running = bench.worker()
    eventually(lambda: tasks.ran)
    bench.transport.failing["renew"].append(ZeroDivisionError("a bug of a driver"))
    ends_within(running, 5)
    assert bench.depth().ready == 1
    assert running.worker.exit_code == 1
    assert "the worker cannot go on" in caplog.text
    bench.workers.clear()


def test_a_broken_pool_stops_the_worker(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The pool says that it cannot go on: exit code 1."""
    from kern.contracts.pool import PoolBroken

    running = bench.worker()
    running.worker.flow.pool_sink((PoolBroken("children die as they start"),))
    ends_within(running, 5)
    assert running.worker.exit_code == 1
    assert "children die as they start" in caplog.text
    bench.workers.clear()


def test_signals_are_counted() -> None:
    """The first one asks, the second one insists, further ones change nothing."""

    async def ask() -> list[tuple[bool, bool]]:
        request, seen = StopRequest(), []
        for _ in range(3):
            request.stop("SIGTERM")
            seen.append((request.soon.is_set(), request.now.is_set()))
        return seen

    assert asyncio.run(ask()) == [(True, False), (True, True), (True, True)]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "celery@box.example.org"),
        ("w1", "celery@w1"),
        ("w1@%h", "w1@box.example.org"),
        ("%n@%d", "box@example.org"),
        ("w@", "w@box.example.org"),
    ],
)
def test_node_names(monkeypatch: pytest.MonkeyPatch, given: str | None, name: str) -> None:
    """As Celery's."""
    monkeypatch.setattr("socket.gethostname", lambda: "box.example.org")
    assert node_name(given) == name


# -- starting ----------------------------------------------------------------------------------------------------------


def test_a_broker_that_refuses_us_ends_it_with_one_error(bench: Any) -> None:
    """Wrong credentials do not become right by trying again."""

    def refuse(b: Any) -> None:
        def open(*_arguments: Any) -> None:
            raise TransportError("access refused for user 'kern'", retryable=False)

        b.transport.open = open

    with pytest.raises(TransportError, match="access refused"):
        bench.worker(refuse)
    bench.workers.clear()


@pytest.mark.parametrize(
    "config",
    [
        {"broker_connection_retry_on_startup": False},
        {"broker_connection_retry": False},
        {"broker_connection_max_retries": 0},
    ],
)
def test_trying_again_can_be_switched_off(bench: Any) -> None:
    """Then a broker that is not there is an error at once."""

    def down(b: Any) -> None:
        def open(*_arguments: Any) -> None:
            raise TransportError("nobody listens there")

        b.transport.open = open

    with pytest.raises(TransportError, match="nobody listens"):
        bench.worker(down)
    bench.workers.clear()


@pytest.mark.parametrize(
    "config",
    [{}, {"broker_connection_retry": False, "broker_connection_retry_on_startup": True}],
)
def test_it_waits_for_a_broker_that_is_not_there_yet(
    bench: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With growing pauses, saying so each time; each attempt has a driver of its own."""
    monkeypatch.setattr("kern.worker.connecting.PAUSES", (0.02, 2.0, 0.1))
    made: list[Any] = []
    make_transport = bench.app.make_transport

    def make(*attempt: int) -> Any:
        transport = make_transport(*attempt)
        made.append(transport)
        if len(made) < 4:
            transport.driver.open = _nobody_there
        return transport

    monkeypatch.setattr(bench.app, "make_transport", make)
    from kern_testing.worker import WorkerThread

    running = WorkerThread(bench.app).start()
    assert len(made) == 4
    assert caplog.text.count("cannot reach the broker, trying again") == 3
    running.stop()


def _nobody_there(*_arguments: Any) -> None:
    raise TransportError("nobody listens there")


def test_it_can_be_stopped_while_it_waits_for_its_broker(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, with exit code 0."""
    monkeypatch.setattr("kern.worker.connecting.PAUSES", (60.0, 2.0, 60.0))
    make_transport = bench.app.make_transport

    def make(*attempt: int) -> Any:
        transport = make_transport(*attempt)
        transport.driver.open = _nobody_there
        return transport

    monkeypatch.setattr(bench.app, "make_transport", make)
    worker = Worker(bench.app, pool="solo", signals=False)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(worker.run()))
    thread.start()
    eventually(lambda: worker._loop is not None)
    throughout(lambda: thread.is_alive(), 0.1)
    worker.stop()
    thread.join(5)
    assert codes == [0]


def test_nothing_to_consume_is_an_error(bench: Any) -> None:
    """A worker without queues would be alive and do nothing."""
    with pytest.raises(ImproperlyConfigured, match="-Q and -X"):
        Worker(bench.app, exclude_queues=["celery"], signals=False)


def test_purging_comes_before_the_first_claim(bench: Any, tasks: Tasks) -> None:
    """What waited is gone, what comes later runs."""
    tasks.go_on.set()
    tasks.hold.delay(1)
    tasks.hold.apply_async((2,), countdown=100)
    bench.worker(purge=True)
    assert tasks.hold.delay(3).get(timeout=5) == 3
    bench.empty()
    assert tasks.ran == [3]


def test_it_is_present_while_it_lives(bench: Any) -> None:
    """With its name, its queues and what it is."""
    running = bench.worker(hostname="w@h")
    (present,) = bench.client.presence()
    assert (present.hostname, present.queues) == ("w@h", ("celery",))
    assert set(present.facts) == {"pid", "pool", "slots"}
    running.stop()
    assert bench.client.presence() == []
