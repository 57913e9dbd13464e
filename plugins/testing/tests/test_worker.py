"""What users of kern test with: calls go through broker, worker and result store, and a test can wait for all of it."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from kern import Kern
from kern.timeutil import clock as kern_clock_of_kern
from kern_testing.clock import VirtualClock
from kern_testing.make import unique
from kern_testing.memory import forget
from kern_testing.waiting import eventually
from kern_testing.worker import WorkerThread, enqueued, in_memory, run_until_idle, space_of


def test_calls_run_until_nothing_is_left(kern_app: Kern) -> None:
    """Also those that follow; the results are there afterwards."""

    @kern_app.task
    def add(a: int, b: int) -> int:
        return a + b

    @kern_app.task
    def twice(a: int) -> str:
        return add.delay(a, a).id

    result = twice.delay(21)
    ran = run_until_idle(kern_app).check()
    assert [task.rpartition(".")[2] for task in ran.tasks] == ["twice", "add"]
    assert kern_app.AsyncResult(result.get(timeout=1)).get(timeout=1) == 42
    assert ran.states == {"SUCCESS": 2}
    assert len(ran.of(add)) == 1
    assert len(run_until_idle(kern_app)) == 0


def test_tasks_run_on_the_thread_of_the_test(kern_app: Kern) -> None:
    """What the test has patched or begun holds inside tasks."""
    threads = []

    @kern_app.task
    def note() -> None:
        threads.append(threading.current_thread())

    note.delay()
    run_until_idle(kern_app)
    assert threads == [threading.current_thread()]


def test_what_is_enqueued_can_be_looked_at(kern_app: Kern, kern_clock: VirtualClock) -> None:
    """Arguments, queue and due time, in the order of the calls; looking takes nothing away."""

    @kern_app.task
    def one(a: int, b: str = "") -> None: ...

    @kern_app.task
    def other() -> None: ...

    first = one.delay(1, b="ü")
    one.apply_async((2,), countdown=3600)
    other.delay()
    calls = enqueued(kern_app, one)
    assert [(call.args, call.kwargs) for call in calls] == [((1,), {"b": "ü"}), ((2,), {})]
    assert calls[0].id == first.id
    assert calls[0].due is None
    assert calls[1].due is not None
    assert calls[1].due.timestamp() == pytest.approx(kern_clock.now() + 3600, abs=30)
    assert len(enqueued(kern_app)) == 3
    run_until_idle(kern_app).check()
    assert enqueued(kern_app) == []


def test_time_jumps_to_what_is_due(kern_app: Kern, kern_clock: VirtualClock) -> None:
    """A call in a week takes no time, and sees the time it was to run at."""
    before, seen = kern_clock.now(), []

    @kern_app.task
    def later() -> None:
        seen.append(kern_clock_of_kern.now())

    later.apply_async(countdown=timedelta(days=7).total_seconds())
    later.apply_async(countdown=60)
    assert len(run_until_idle(kern_app).check()) == 2
    assert seen == [pytest.approx(before + 60, abs=5), pytest.approx(before + 7 * 86400, abs=5)]


def test_beyond_the_horizon_calls_stay(kern_app: Kern) -> None:
    """A test may look at what an hour brings, and then at the rest."""

    @kern_app.task
    def later() -> None: ...

    later.apply_async(countdown=600)
    later.apply_async(countdown=7200)
    ran = run_until_idle(kern_app, horizon=3600)
    assert (len(ran), ran.left) == (1, 1)
    assert len(enqueued(kern_app, later)) == 1
    assert len(run_until_idle(kern_app)) == 1


def test_retries_are_run_to_their_end(kern_app: Kern) -> None:
    """With their pauses, and with the same id."""
    attempts = []

    @kern_app.task(bind=True, max_retries=5)
    def flaky(self: Any) -> str:
        attempts.append(self.request.retries)
        if len(attempts) < 4:
            raise self.retry(countdown=3600)
        return "at last"

    result = flaky.delay()
    ran = run_until_idle(kern_app)
    assert attempts == [0, 1, 2, 3]
    assert ran.states == {"RETRY": 3, "SUCCESS": 1}
    assert result.get(timeout=1) == "at last"


def test_a_failure_is_shown(kern_app: Kern) -> None:
    """``check`` raises what a person needs to see."""

    @kern_app.task
    def broken() -> None:
        raise ValueError("no such luck")

    broken.delay()
    ran = run_until_idle(kern_app)
    with pytest.raises(AssertionError, match=r"(?s)1 of 1 attempts failed.*broken.*raise ValueError.*no such luck"):
        ran.check()


def test_a_task_that_never_ends_is_named(kern_app: Kern) -> None:
    """Rather than a test that hangs."""

    @kern_app.task(bind=True, max_retries=None)
    def forever(self: Any) -> None:
        raise self.retry(countdown=0)

    forever.delay()
    with pytest.raises(AssertionError, match=r"not quiet after 0.5 s: \d+ attempts, last .*forever"):
        run_until_idle(kern_app, timeout=0.5)


def test_an_unknown_task_comes_to_its_end(kern_app: Kern) -> None:
    """It is parked until its time is over, and then it has failed."""
    result = kern_app.send_task("nobody.knows")
    run_until_idle(kern_app)
    assert result.state == "FAILURE"
    (entry,) = space_of(kern_app).broker.quarantined(None, 10)
    assert entry.message is not None
    assert entry.message.task == "nobody.knows"


@pytest.mark.parametrize("number", range(3))
def test_a_worker_in_a_thread_serves_test_after_test(kern_app: Kern, kern_worker: WorkerThread, number: int) -> None:
    """Also tasks that are defined once it runs."""

    @kern_app.task
    def add(a: int, b: int) -> int:
        return a + b

    assert [add.delay(number, other).get(timeout=5) for other in range(5)] == [number + other for other in range(5)]


def test_a_worker_in_a_thread_follows_the_clock(
    kern_app: Kern, kern_worker: WorkerThread, kern_clock: VirtualClock
) -> None:
    """Moving time runs what has become due."""

    @kern_app.task
    def later() -> str:
        return "done"

    result = later.apply_async(countdown=3600)
    eventually(lambda: [call.due for call in enqueued(kern_app)] and not result.ready(), "the call waits")
    kern_clock.advance(3601)
    assert result.get(timeout=5) == "done"


def test_a_worker_that_cannot_start_says_why(kern_app: Kern) -> None:
    """Where the test can see it."""
    with space_of(kern_app).outage("taken away"):
        kern_app.conf.broker_connection_retry = False
        kern_app.conf.broker_connection_retry_on_startup = False
        with pytest.raises(Exception, match="taken away"):
            WorkerThread(kern_app).start()


@pytest.fixture
def project() -> Iterator[Kern]:
    """Somebody's application, configured for production."""
    app = Kern("project", broker="redis://nowhere:1/0", backend="redis://nowhere:1/1", task_default_queue="work")
    yield app
    app.close()


def test_any_application_can_be_put_in_memory(project: Kern) -> None:
    """And is as it was afterwards."""

    @project.task
    def add(a: int, b: int) -> int:
        return a + b

    with pytest.raises(LookupError, match=r"redis://, not memory://; use in_memory"):
        enqueued(project)
    for _ in range(2):
        with in_memory(project):
            result = add.delay(1, 2)
            assert [call.queue for call in enqueued(project)] == ["work"]
            run_until_idle(project).check()
            assert result.get(timeout=1) == 3
    assert project.conf.broker_url == "redis://nowhere:1/0"
    assert project.conf.result_backend == "redis://nowhere:1/1"


def test_without_a_virtual_clock_time_is_waited_for() -> None:
    """As on any other broker: what is due shortly runs when it is due."""
    name = unique("real")
    app = Kern("real", broker=f"memory://{name}", backend=f"memory://{name}")

    @app.task
    def soon() -> float:
        return time.time()

    due = time.time() + 0.3
    result = soon.apply_async(countdown=0.3)
    assert len(run_until_idle(app).check()) == 1
    assert result.get(timeout=1) >= due - 0.01
    app.close()
    forget(name)


@pytest.fixture
def kern_config() -> dict[str, Any]:
    return {"result_extended": True}


def test_settings_of_the_application_are_a_fixture(kern_app: Kern) -> None:
    """``kern_config`` is overridden where tests need it."""
    assert kern_app.conf.result_extended is True
