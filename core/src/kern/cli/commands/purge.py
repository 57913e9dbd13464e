"""``kern purge``: deletes waiting messages."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kern.cli.global_options import Command
from kern.cli.printing import counted, json_option, print_json
from kern.cli.session import Session, pass_session
from kern.cli.values import NAMES
from kern.contracts.transport import QueueDepth
from kern.errors import nearest


@click.command(cls=Command, name="purge", short_help="Delete waiting messages.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-Q", "--queues", type=NAMES, help="Of these queues, separated by commas. [all that are configured]")
@click.option("-X", "--exclude-queues", type=NAMES, help="Not of these.")
@click.option("--all", "everything", is_flag=True, help="Of every queue the broker has, also those not configured.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@json_option
@pass_session
def command(
    session: Session,
    force: bool,
    queues: Sequence[str] | None,
    exclude_queues: Sequence[str] | None,
    everything: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete the messages that wait in queues: those that are ready, and those that are delayed.

    What a worker has stays, and so does what is in quarantine (kern quarantine drop).
    """
    if everything and queues:
        raise click.UsageError("--all and -Q exclude each other")
    found = session.ask(lambda port: port.queues())
    existing = sorted(found)
    names = session.queue_names(existing if everything else queues, exclude_queues or ())
    if not names:
        raise click.UsageError("no queue is left; see -Q and -X")
    _remark_unknown(session, names, existing)
    depths = session.ask(lambda port: port.depth(names))
    if dry_run:
        _show_plan(depths, as_json)
        return
    if not force:
        _confirm(depths)
    purged = {name: session.ask(lambda port, name=name: port.purge(name)) for name in names}  # type: ignore[misc]
    if as_json:
        print_json({"purged": purged, "dry_run": False})
        return
    total = sum(purged.values())
    known = counted(len(names), "queue")
    click.echo(f"Purged {counted(total, 'message')} from {known}." if total else f"No messages purged from {known}.")


def _waiting(depth: QueueDepth) -> int:
    return depth.ready + depth.delayed


def _show_plan(depths: Sequence[QueueDepth], as_json: bool) -> None:
    if as_json:
        print_json({"purged": {depth.queue: _waiting(depth) for depth in depths}, "dry_run": True})
        return
    for depth in depths:
        click.echo(f"{depth.queue}: {counted(_waiting(depth), 'message')} would be deleted{_staying(depth)}")


def _staying(depth: QueueDepth) -> str:
    parts = [
        f"{number} {where}"
        for number, where in ((depth.leased, "with workers"), (depth.quarantined, "in quarantine"))
        if number
    ]
    return f" ({', '.join(parts)} stay)" if parts else ""


def _confirm(depths: Sequence[QueueDepth]) -> None:
    click.echo("WARNING: this deletes", err=True)
    for depth in depths:
        click.echo(f"  {counted(_waiting(depth), 'message')} from queue {depth.queue}{_staying(depth)}", err=True)
    click.echo("There is no undo for this operation. (-f skips this question)", err=True)
    click.confirm("Are you sure you want to delete all these tasks?", abort=True, err=True)


def _remark_unknown(session: Session, names: Sequence[str], existing: Sequence[str]) -> None:
    """A queue that neither the application nor the broker knows may be a misspelling, or empty."""
    known = {*existing, *session.app.router.queues}
    for name in names:
        if name not in known:
            close = nearest(name, known)
            hint = f"; did you mean {close!r}?" if close else ""
            click.echo(f"The broker has no queue {name!r}{hint}", err=True)
