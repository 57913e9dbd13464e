"""F03, F04, F19: a connection is cut between a request and its reply; nobody knows whether it was heard."""

from __future__ import annotations

import uuid

import pytest
from tests.faults.brokers import PROXIED, on
from tests.faults.fleet import RECOVERY, Balance, Fleet

from kern_testing.ledger import CONFIRMED, REFUSED, UNKNOWN
from kern_testing.waiting import Deadline, eventually

pytestmark = on(*PROXIED)

#: What became of the request before the connection was cut.
HEARD = pytest.mark.parametrize("heard", [False, True], ids=["unheard", "heard"])


def test_f03_a_claim_whose_reply_is_lost_is_taken_again(fleet: Fleet, balance: Balance) -> None:
    """The server has leased it, and the worker does not know: it runs once that lease has ended, on the same worker."""
    proxy = fleet.proxy()
    worker = fleet.ready(fleet.worker(through=proxy))
    call = str(uuid.uuid4())
    cut = proxy.cut_at("replies", call.encode())
    fleet.publish("step", task_id=call)
    assert cut.wait(10), "the claim's reply came by"
    deadline = Deadline(RECOVERY)
    fleet.drain()
    assert not deadline.over
    fleet.stop(worker)
    assert fleet.started() == [call]
    balance(fleet, "F03 reply of the claim lost")


@HEARD
def test_f04_a_settlement_that_is_cut_off_is_written_once(heard: bool, fleet: Fleet, balance: Balance) -> None:
    """The worker still has the outcome, and settles again under the same receipt: the task does not run twice."""
    fleet.hold_leases()
    proxy = fleet.proxy()
    worker = fleet.ready(fleet.worker(through=proxy))
    call = str(uuid.uuid4())
    fleet.publish("hold", "go", task_id=call)
    fleet.until_started([call])
    cut = proxy.cut_at("requests", call.encode(), forward=heard)
    fleet.release("go")
    assert cut.wait(10), "the settlement came by"
    fleet.drain()
    fleet.stop(worker)
    assert fleet.app.AsyncResult(call).get(timeout=10) == call
    balance(fleet, f"F04 connection cut {'after' if heard else 'before'} the settlement")


@HEARD
@pytest.mark.parametrize("retry", [True, False], ids=["tries-again", "tries-once"])
def test_f19_a_publisher_that_is_cut_off_is_told_the_truth(
    heard: bool, retry: bool, fleet: Fleet, balance: Balance
) -> None:
    """Whatever it is told, it holds: confirmed is there, refused is not. Sent again under its id, it runs once."""
    proxy = fleet.proxy()
    client = fleet.client(through=proxy)
    call = str(uuid.uuid4())
    cut = proxy.cut_at("requests", call.encode(), forward=heard)
    fleet.publish("step", task_id=call, app=client, retry=retry)
    assert cut.is_set()
    answer = fleet.ledger.published()[call]
    there = fleet.left()
    assert there <= 1
    assert answer != CONFIRMED or there
    assert answer != REFUSED or not there
    assert answer == CONFIRMED or not retry
    fleet.publish("step", task_id=call, app=client)
    assert fleet.left() == 1
    worker = fleet.worker()
    fleet.drain()
    fleet.stop(worker)
    assert fleet.started() == [call]
    balance(fleet, f"F19 publisher cut off {'after' if heard else 'before'} the call was heard, sends again")


def test_f19_a_publisher_whose_broker_falls_silent_is_told_in_time(fleet: Fleet, balance: Balance) -> None:
    """It took what was sent, and does not answer: unknown, at the deadline, and it may have come through."""
    proxy = fleet.proxy()
    client = fleet.client(through=proxy)
    fleet.publish("step", app=client)
    proxy.silence(requests=False)
    deadline = Deadline(3.0)
    (call,) = fleet.publish("step", app=client, timeout=1.0)
    assert not deadline.over
    assert fleet.ledger.published()[call] == UNKNOWN
    eventually(lambda: fleet.left() == 2, "it has come through")
    proxy.heal()
    fleet.publish("step", task_id=call, app=client)
    worker = fleet.worker()
    fleet.drain()
    fleet.stop(worker)
    assert fleet.started().count(call) == 1
    balance(fleet, "F19 broker silent while a call is published, sent again")
