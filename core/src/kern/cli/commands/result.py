"""``kern result``: waits for a result and prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kern.cli.failures import Failure
from kern.cli.global_options import Command
from kern.cli.printing import json_option, print_json
from kern.cli.session import Session, pass_session
from kern.cli.values import SECONDS
from kern.errors import TimeoutError as KernTimeoutError
from kern.states import PROPAGATE_STATES, READY_STATES, SUCCESS, UNKNOWN

if TYPE_CHECKING:
    from kern.result import AsyncResult


@click.command(cls=Command, name="result", short_help="Wait for a result and print it.")
@click.argument("task_id")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="How long to wait. [for ever]")
@click.option("--traceback", is_flag=True, help="Print the traceback of a failed task, now, without waiting.")
@json_option
@pass_session
def command(session: Session, task_id: str, timeout: float | None, traceback: bool, as_json: bool) -> None:
    """Wait for the result of the call TASK_ID and print it. A task that failed: its error, and exit code 1."""
    result = session.app.AsyncResult(task_id)
    if traceback:
        with_store(result)
        if as_json:
            print_json({"task_id": task_id, "state": result.state, "traceback": result.traceback})
        else:
            click.echo(result.traceback or "")
        return
    with_store(result)
    if not session.quiet and result.state == UNKNOWN:
        click.echo(f"Nothing is known of the call {task_id}, neither a message nor a result; waiting.", err=True)
    wait_for(result, timeout, as_json)


def with_store(result: AsyncResult[Any]) -> None:
    """
    :raises Failure: results are not kept.
    """
    if result.app.result_backend_url is None:
        raise Failure("results are not kept: the setting result_backend names no result store")


def wait_for(result: AsyncResult[Any], timeout: float | None, as_json: bool) -> None:
    """Wait for *result* and print it; ends with exit code 1 unless it is a success."""
    with_store(result)
    try:
        value = result.get(timeout=timeout, propagate=False)
    except KernTimeoutError:
        state = result.state
        if as_json:
            print_json({"task_id": result.id, "state": state})
        raise Failure(f"no result after {timeout:g} s; the call {result.id} is {state}") from None
    state = result.state
    if as_json:
        print_json(document(result.id, state, value, result.traceback))
    elif state == SUCCESS:
        click.echo(str(value))
    else:
        described = f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
        click.echo(f"{state}: {described}", err=True)
    if state in PROPAGATE_STATES:
        click.get_current_context().exit(1)


def document(task_id: str, state: str, value: Any, traceback: str | None) -> dict[str, Any]:
    """A result as ``--json`` shows it."""
    found: dict[str, Any] = {"task_id": task_id, "state": state}
    if state not in READY_STATES or state == SUCCESS:
        found["result"] = value
    else:
        found["error"] = {"type": type(value).__name__, "message": str(value)}
        found["traceback"] = traceback
    return found
