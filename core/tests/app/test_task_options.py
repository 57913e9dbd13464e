"""Each option of ``@app.task`` acts, and there is a test that shows it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from kern.errors import PublishRefused
from kern.task import OPTIONS

from .conftest import Bench

HERE = Path(__file__).parent.parent

#: The test in which each can be seen to act.
SHOWN = {
    "name": "app/test_definition.py::test_main_stands_for_the_main_module",
    "typing": "app/test_definition.py::test_typing_false_leaves_it_to_the_worker",
    "max_retries": "app/test_retry.py::test_until_they_are_used_up",
    "default_retry_delay": "app/test_retry.py::test_the_delay_is_the_tasks_own",
    "rate_limit": "worker/test_admission.py::test_a_rate_limit_is_kept_while_messages_wait_in_the_broker",
    "ignore_result": "app/test_runner.py::test_ignored_results",
    "store_eager_result": "app/test_eager.py::test_where_it_is_asked_for",
    "store_errors_even_if_ignored": "app/test_runner.py::test_ignored_results",
    "trail": "app/test_runner.py::test_the_trail_can_be_left_out",
    "send_events": "app/test_runner.py::test_events_are_made_when_somebody_listens_and_the_task_wants_them",
    "serializer": "app/test_call_options.py::test_the_serializer_of_the_task",
    "time_limit": "worker/test_solo.py::test_a_hard_limit_fails_the_task_and_fences_what_it_returns",
    "soft_time_limit": "app/test_with_a_worker.py::test_a_soft_limit_ends_a_task_that_does_not_mind_it",
    "track_started": "worker/test_settling.py::test_started_is_stored_where_it_is_wanted",
    "acks_late": "worker/test_admission.py::test_early_acks_are_released_and_confirmed_before_the_start",
    "acks_on_failure_or_timeout": "app/test_runner.py::test_a_failed_task_is_done_with_unless_it_says_otherwise",
    "acks_on_failure": "app/test_runner.py::test_a_failed_task_is_done_with_unless_it_says_otherwise",
    "acks_on_timeout": "worker/test_dispatch.py::test_a_hard_limit_is_a_failure_and_no_death",
    "reject_on_worker_lost": "worker/test_dispatch.py::test_a_death_may_be_a_failure",
    "throws": "app/test_runner.py::test_what_a_task_throws_is_told_apart",
    "expires": "app/test_call_options.py::test_options_of_the_task_are_defaults",
    "priority": "app/test_call_options.py::test_options_of_the_task_are_defaults",
    "resultrepr_maxsize": "app/test_runner.py::test_representations_are_as_long_as_the_task_says",
    "sensitive": "app/test_with_a_worker.py::test_secrets_are_in_no_line_of_the_log",
    "autoretry_for": "app/test_retry.py::test_of_a_coroutine",
    "dont_autoretry_for": "app/test_retry.py::test_not_for_those_that_are_taken_out",
    "retry_kwargs": "app/test_retry.py::test_with_arguments_for_retry",
    "retry_backoff": "app/test_retry.py::test_with_growing_pauses",
    "retry_backoff_max": "app/test_retry.py::test_with_growing_pauses",
    "retry_jitter": "app/test_retry.py::test_with_growing_pauses",
    "queue": "app/test_call_options.py::test_options_of_the_task_are_defaults",
    "exchange": "app/test_call_options.py::test_an_exchange_of_the_task",
    "exchange_type": "app/test_call_options.py::test_an_exchange_of_the_task",
    "routing_key": "app/test_call_options.py::test_an_exchange_of_the_task",
    "delivery_mode": "app/test_call_options.py::test_options_of_the_task_are_defaults",
    "compression": "app/test_call_options.py::test_options_of_the_task_are_defaults",
    "mandatory": "app/test_task_options.py::test_what_cannot_be_routed_is_refused_whatever_mandatory_says",
}


@cache
def sources_of(file: str) -> dict[str, str]:
    """The source of each test of a file."""
    text = (HERE / file).read_text()
    return {
        node.name: "\n".join(
            text.splitlines()[min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1 : node.end_lineno]
        )
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_option_is_shown() -> None:
    assert SHOWN.keys() == OPTIONS


@pytest.mark.parametrize("option", sorted(SHOWN))
def test_the_test_is_about_the_option(option: str) -> None:
    file, _, name = SHOWN[option].partition("::")
    assert name in sources_of(file), f"{SHOWN[option]} does not exist"
    assert option in sources_of(file)[name]


@pytest.mark.parametrize("mandatory", [True, False])
def test_what_cannot_be_routed_is_refused_whatever_mandatory_says(bench: Bench, mandatory: bool) -> None:
    """A call that no queue receives would be lost, which nobody can want."""
    task = bench.app.task(mandatory=mandatory, exchange="nowhere", exchange_type="topic", routing_key="a.b")(lambda: 1)
    with pytest.raises(PublishRefused):
        task.delay()
