"""Results that cannot be written: their store is away, or they are not of a kind that can be stored."""

from __future__ import annotations

import signal
import time

import pytest
from tests.faults.brokers import Broker
from tests.faults.fleet import RECOVERY, Balance, Fleet, Fleets

from kern.errors import BackendError
from kern_testing.servers import Server
from kern_testing.waiting import eventually


@pytest.fixture
def second(broker: Broker) -> tuple[Server, str]:
    """A server for results alone, and its URL."""
    return broker.second()


@pytest.fixture
def store(second: tuple[Server, str]) -> Server:
    """The result store's server."""
    return second[0]


@pytest.fixture
def apart(make_fleet: Fleets, second: tuple[Server, str]) -> Fleet:
    """Broker and result store are two servers."""
    return make_fleet(results=second[1])


def test_f20_tasks_run_once_while_the_result_store_is_away(apart: Fleet, store: Server, balance: Balance) -> None:
    """It stops while the worker is at work: tasks go on, their results come when it is back, none becomes a failure."""
    worker = apart.worker()
    before = apart.publish("step", count=3)
    apart.drain()
    store.kill()
    during = apart.publish("step", count=10)
    eventually(lambda: set(during) <= set(apart.ended()), "tasks run without their result store")
    assert apart.left() > 0, "released before the result was stored"
    store.start()
    healed_at = time.monotonic()
    apart.drain()
    after = apart.publish("step", count=3)
    apart.drain()
    apart.stop(worker)
    calls = [*before, *during, *after]
    assert [apart.app.AsyncResult(call).get(timeout=10) for call in calls] == calls
    balance(apart, "F20 result store down for a while", healed_at=healed_at, recovery=RECOVERY + 10)


def test_f20_a_worker_starts_without_its_result_store(apart: Fleet, store: Server, balance: Balance) -> None:
    store.kill()
    calls = apart.publish("step", count=5)
    worker = apart.worker()
    eventually(lambda: set(calls) <= set(apart.ended()), "tasks run though no result store was ever there")
    store.start()
    apart.drain()
    apart.stop(worker)
    assert [apart.app.AsyncResult(call).get(timeout=10) for call in calls] == calls
    balance(apart, "F20 result store down at the start")


def test_f20_a_caller_is_told_that_results_cannot_be_read(apart: Fleet, store: Server) -> None:
    """`get()` raises what it is: not a failure of the task."""
    (call,) = apart.publish("step")
    apart.app.conf.result_backend_timeout = 1.0
    store.kill()
    with pytest.raises(BackendError):
        apart.app.AsyncResult(call).get(timeout=2)


def test_f20_a_worker_that_stops_without_its_result_store_hands_back(
    apart: Fleet, store: Server, balance: Balance
) -> None:
    """What it could not write runs again: at most what it had done and not written."""
    worker = apart.worker()
    calls = apart.publish("step", count=1)
    apart.drain()
    store.kill()
    calls += apart.publish("step", count=3)
    eventually(lambda: set(calls) <= set(apart.ended()), "tasks run without their result store")
    worker.send(signal.SIGTERM)
    assert worker.wait(30) == 0, worker.said()
    store.start()
    other = apart.worker()
    apart.drain()
    apart.stop(other)
    assert [apart.app.AsyncResult(call).get(timeout=10) for call in calls] == calls
    balance(apart, "F20 worker stopped while the result store is down", 3)


def test_f21_a_result_that_cannot_be_stored_is_described(fleet: Fleet, balance: Balance) -> None:
    """The task has run and has succeeded, whatever it returned; the worker serves on."""
    (call,) = fleet.publish("unserialisable")
    (after,) = fleet.publish("step")
    worker = fleet.worker()
    fleet.drain()
    fleet.stop(worker)
    result = fleet.app.AsyncResult(call)
    assert result.state == "SUCCESS"
    assert "function" in str(result.get(timeout=10))
    assert fleet.app.AsyncResult(after).get(timeout=10) == after
    balance(fleet, "F21 result that cannot be serialised")


def test_f21_an_exception_that_cannot_be_made_again_is_described(fleet: Fleet, balance: Balance) -> None:
    (call,) = fleet.publish("awkward")
    (after,) = fleet.publish("step")
    worker = fleet.worker()
    fleet.drain()
    fleet.stop(worker)
    result = fleet.app.AsyncResult(call)
    assert result.state == "FAILURE"
    with pytest.raises(Exception, match="this") as caught:
        result.get(timeout=10)
    assert type(caught.value).__name__ == "Awkward"
    assert fleet.app.AsyncResult(after).get(timeout=10) == after
    balance(fleet, "F21 exception that cannot be made again")
