"""``kern call``: calls a task by its name."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from kern.cli.commands.result import wait_for
from kern.cli.global_options import Command
from kern.cli.printing import json_option, print_json
from kern.cli.session import Session, pass_session
from kern.cli.values import ARRAY, OBJECT, SECONDS, SECONDS_OR_TIME, TIME


@click.command(cls=Command, name="call", short_help="Call a task by its name.")
@click.argument("name")
@click.option("-a", "--args", type=ARRAY, default="[]", help="Positional arguments, a JSON array.")
@click.option("-k", "--kwargs", type=OBJECT, default="{}", help="Keyword arguments, a JSON object.")
@click.option("--eta", type=TIME, help="Do not start before this time (ISO 8601).")
@click.option("--countdown", type=float, metavar="SECONDS", help="Do not start before so many seconds from now.")
@click.option("--expires", type=SECONDS_OR_TIME, help="Do not start after: seconds from now, or a time.")
@click.option("--serializer", help="Serializer of the arguments. [task_serializer]")
@click.option("--queue", help="Queue to send it to.")
@click.option("--exchange", help="Exchange to send it to.")
@click.option("--routing-key", help="Routing key.")
@click.option("--priority", type=int, help="Priority.")
@click.option("--task-id", metavar="ID", help="Id of the call; publishing it again under the same id is safe.")
@click.option("-w", "--wait", is_flag=True, help="Wait for the result and print it.")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="With --wait: how long. [for ever]")
@json_option
@pass_session
def command(
    session: Session,
    /,
    name: str,
    args: list[Any],
    kwargs: dict[str, Any],
    eta: datetime | None,
    countdown: float | None,
    expires: float | datetime | None,
    wait: bool,
    timeout: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Call the task NAME and print the id of the call. The task need not be known here."""
    if eta is not None and countdown is not None:
        raise click.UsageError("--eta and --countdown exclude each other")
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait")
    given = {"eta": eta, "countdown": countdown, "expires": expires, **options}
    result = session.app.send_task(
        name, args, kwargs, **{option: value for option, value in given.items() if value is not None}
    )
    if wait:
        if not as_json and not session.quiet:
            click.echo(result.id, err=True)
        wait_for(result, timeout, as_json)
    elif as_json:
        print_json({"task_id": result.id})
    else:
        click.echo(result.id)
