"""The states of a task: sets, precedence, and that nobody invents another."""

from __future__ import annotations

from kern import states
from kern.states import PRECEDENCE, precedence, state

NAMES = {name: value for name, value in vars(states).items() if name.isupper() and isinstance(value, str)}


def test_a_state_is_called_what_it_is() -> None:
    assert all(name == value for name, value in NAMES.items())
    assert len(NAMES) == 10


def test_the_sets_are_celerys() -> None:
    assert {"SUCCESS", "FAILURE", "REVOKED"} == states.READY_STATES
    assert {"PENDING", "RECEIVED", "STARTED", "REJECTED", "RETRY"} == states.UNREADY_STATES
    assert {"RETRY", "FAILURE", "REVOKED"} == states.EXCEPTION_STATES
    assert {"FAILURE", "REVOKED"} == states.PROPAGATE_STATES
    assert {"PENDING", "RECEIVED", "STARTED", "SUCCESS", "FAILURE", "REVOKED", "RETRY"} == states.ALL_STATES


def test_states_of_ones_own_stand_between_the_final_and_the_rest() -> None:
    order = [
        precedence(name) for name in ("SUCCESS", "FAILURE", "PROGRESS", "REVOKED", "STARTED", "PENDING", "UNKNOWN")
    ]
    assert order == sorted(order)
    assert len(set(order)) == len(order)
    assert None in PRECEDENCE


def test_states_compare_by_how_final_they_are() -> None:
    assert state("PENDING") < state("SUCCESS")
    assert state("PROGRESS") > state("STARTED")
    assert state("PROGRESS") < state("SUCCESS")
    assert state("SUCCESS") >= "SUCCESS"
    assert state("SUCCESS") <= "SUCCESS"
    assert not state("RETRY") > "STARTED"
    assert state("SUCCESS") == "SUCCESS"
    assert {state("RETRY"): 1}["RETRY"] == 1
    assert max(state("STARTED"), state("FAILURE"), state("RETRY")) == "FAILURE"
