"""``kern queues``: how many messages wait where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import click

from kern.cli.global_options import CommandGroup
from kern.cli.printing import counted, json_option, print_json, print_table
from kern.cli.session import Session, pass_session
from kern.cli.values import FROM_1, NAMES
from kern.contracts.transport import QueueDepth
from kern.message import Message


@click.group(
    cls=CommandGroup, name="queues", invoke_without_command=True, short_help="Show how many messages wait where."
)
@click.option("-Q", "--queues", type=NAMES, help="These only, separated by commas.")
@json_option
@click.pass_context
@pass_session
def command(session: Session, ctx: click.Context, queues: Sequence[str] | None, as_json: bool) -> None:
    """Show how many messages of each queue are in which condition: of queues configured, and of all there are.

    \b
    READY        waiting for a worker
    LEASED       with a worker
    DELAYED      waiting for their time
    QUARANTINED  put aside, see: kern quarantine
    """
    if ctx.invoked_subcommand is not None:
        return
    names = session.queue_names(queues)
    if not queues:
        existing = session.ask(lambda port: port.queues())
        names = list(dict.fromkeys([*names, *sorted(existing)]))
    depths = session.ask(lambda port: port.depth(names))
    if as_json:
        print_json([attrs.asdict(depth) for depth in depths])
    else:
        print_table(
            ("QUEUE", "READY", "LEASED", "DELAYED", "QUARANTINED"), [_row(depth) for depth in depths], range(1, 5)
        )


@command.command(name="peek", short_help="Show the next messages, and leave them.")
@click.argument("queue")
@click.option("--limit", type=FROM_1, default=10, help="At most so many. [10]")
@json_option
@pass_session
def peek(session: Session, queue: str, limit: int, as_json: bool) -> None:
    """Show the messages of QUEUE that are next, and leave them where they are.

    Arguments are shown as their sender represented them.
    """
    name = session.app.router.queues[queue].name
    messages = session.ask(lambda port: port.peek(name, limit))
    if as_json:
        print_json([_shown(message) for message in messages])
    elif messages:
        rows = [[str(value) for value in _shown(message).values()] for message in messages]
        print_table(("ID", "TASK", "ARGS", "KWARGS", "PRIORITY", "BYTES"), rows, (4, 5))
    else:
        click.echo(f"No message of queue {name} is ready.")


def _shown(message: Message) -> dict[str, Any]:
    headers = message.headers
    return {
        "id": message.task_id or "",
        "task": message.task or "",
        "argsrepr": headers.get("argsrepr") or "",
        "kwargsrepr": headers.get("kwargsrepr") or "",
        "priority": message.priority,
        "bytes": message.size,
    }


@command.command(name="delete", short_help="Delete waiting calls by their ids.")
@click.argument("task_ids", nargs=-1, required=True, metavar="TASK_ID...")
@json_option
@pass_session
def delete(session: Session, task_ids: Sequence[str], as_json: bool) -> None:
    """Delete calls that wait, ready or delayed, by their ids. What a worker has stays. There is no undo."""
    deleted = session.ask(lambda port: port.delete(task_ids))
    if as_json:
        print_json({"deleted": deleted})
    else:
        click.echo(f"Deleted {counted(deleted, 'message')}.")


def _row(depth: QueueDepth) -> tuple[object, ...]:
    return depth.queue, depth.ready, depth.leased, depth.delayed, depth.quarantined


@command.command(name="recover", short_help="Give back messages of workers that are gone.")
@click.option("--all", "everything", is_flag=True, help="Also of workers that are alive: their tasks run again.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@json_option
@pass_session
def recover(session: Session, everything: bool, force: bool, as_json: bool) -> None:
    """Give messages whose lease has expired back to their queues. Workers do that, too; this does it now.

    With --all, also those whose lease has not, and on a broker that Celery's workers share those that are delayed: for
    the way back to Celery, when no kern worker runs any more.
    """
    if everything and not force:
        click.echo("Every message that a worker has now goes back to its queue, and will be run again.", err=True)
        click.confirm("Are you sure that no worker runs?", abort=True, err=True)
    found = session.ask(lambda port: port.recover(everything))
    if everything:
        found += session.ask(lambda port: port.release_delayed())
    if as_json:
        print_json({"recovered": found})
    else:
        click.echo(f"Gave back {counted(found, 'message')}.")
