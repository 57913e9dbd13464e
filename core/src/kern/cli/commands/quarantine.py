"""``kern quarantine``: messages that nobody could run, with the reason and the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from kern.cli.failures import Failure
from kern.cli.global_options import CommandGroup
from kern.cli.printing import counted, json_option, moment, print_json, print_pairs, print_table
from kern.cli.session import Session, pass_session
from kern.cli.values import FROM_1
from kern.contracts.transport import Quarantined
from kern.errors import nearest
from kern.masking import mask

#: Messages looked through for one of them.
LIMIT = 100_000
#: Headers shown of a message; arguments as representations, in which the caller has left out what is nobody's business.
HEADERS = ("argsrepr", "kwargsrepr", "origin", "retries", "eta", "expires", "root_id", "parent_id", "group")

queue_option = click.option("--queue", metavar="NAME", help="Only of this queue.")
reason_option = click.option("--reason", metavar="TEXT", help="Only for this reason.")


@click.group(cls=CommandGroup, name="quarantine", short_help="Look at messages that nobody can run.")
def command() -> None:
    """Look at messages that nobody can run, run them again, or delete them.

    A message is put here when it cannot be read, when no worker knows its task for long, or when workers die of it.
    """


def _select(session: Session, queue: str | None, reason: str | None, limit: int = LIMIT) -> list[Quarantined]:
    found = session.ask(lambda port: port.quarantined(queue, LIMIT if reason else limit))
    return [item for item in found if not reason or item.reason == reason][:limit]


@command.command(name="list", short_help="Show what is there, oldest first.")
@queue_option
@reason_option
@click.option("--limit", type=FROM_1, default=100, help="At most so many. [100]")
@json_option
@pass_session
def list_(session: Session, queue: str | None, reason: str | None, limit: int, as_json: bool) -> None:
    """Show what is in quarantine, oldest first."""
    items = _select(session, queue, reason, limit)
    if as_json:
        print_json([_summary(item) for item in items])
        return
    if not items:
        click.echo("Nothing is in quarantine.")
        return
    rows = [(item.key, item.queue, _task(item), item.reason, moment(item.at)) for item in items]
    print_table(("KEY", "QUEUE", "TASK", "REASON", "SINCE"), rows)
    if len(items) == limit:
        click.echo(f"There may be more than these {limit}: --limit", err=True)


@command.command(name="show", short_help="Show one message and the evidence.")
@click.argument("key")
@click.option("--raw", is_flag=True, help="Print the bytes the broker had and nothing else.")
@json_option
@pass_session
def show(session: Session, key: str, raw: bool, as_json: bool) -> None:
    """Show the message KEY, why it is here and what was seen.

    Arguments are shown as their sender represented them. --raw prints all there is, secrets included.
    """
    item = _one(session, key)
    if raw:
        body = item.raw if item.raw is not None else item.message.body if item.message is not None else b""
        click.echo(body, nl=False)
    elif as_json:
        print_json({**_summary(item), **_details(item)})
    else:
        print_pairs(
            [
                ("key", item.key),
                ("task", _task(item)),
                ("queue", item.queue),
                ("reason", item.reason),
                ("since", moment(item.at)),
                ("published to", f"{item.exchange or '(default exchange)'} {item.routing_key}".rstrip()),
            ]
        )
        for title, values in (("evidence", _evidence(item)), ("message", _headers(item))):
            if values:
                click.secho(title, bold=True)
                print_pairs(sorted(values.items()))


def _chosen(
    session: Session, keys: Sequence[str], everything: bool, queue: str | None, reason: str | None
) -> list[str]:
    """The keys a command is about."""
    if keys and (everything or queue or reason):
        raise click.UsageError("give either keys, or --all with --queue and --reason")
    if not keys and not everything:
        raise click.UsageError("which? Give keys (see: kern quarantine list), or --all with --queue and --reason")
    if everything:
        return [item.key for item in _select(session, queue, reason)]
    known = [item.key for item in _select(session, None, None)]
    for key in keys:
        if key not in known:
            raise _no_such(key, known)
    return list(dict.fromkeys(keys))


all_option = click.option(
    "--all", "everything", is_flag=True, help="All that are there, or those of --queue, --reason."
)


@command.command(name="replay", short_help="Put messages back into their queues.")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@all_option
@queue_option
@reason_option
@click.option("-n", "--dry-run", is_flag=True, help="Say which, and do nothing.")
@json_option
@pass_session
def replay(
    session: Session,
    keys: Sequence[str],
    everything: bool,
    queue: str | None,
    reason: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put messages back into their queues, byte for byte. Safe to do twice."""
    chosen = _chosen(session, keys, everything, queue, reason)
    count = len(chosen) if dry_run else session.ask(lambda port: port.replay(chosen)) if chosen else 0
    _report("replayed", "Would replay" if dry_run else "Replayed", chosen, count, dry_run, as_json)


@command.command(name="drop", short_help="Delete messages.")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@all_option
@queue_option
@reason_option
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-n", "--dry-run", is_flag=True, help="Say which, and do nothing.")
@json_option
@pass_session
def drop(
    session: Session,
    keys: Sequence[str],
    everything: bool,
    queue: str | None,
    reason: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete messages from quarantine. There is no undo."""
    chosen = _chosen(session, keys, everything, queue, reason)
    if chosen and not force and not dry_run:
        click.echo(f"WARNING: this deletes {counted(len(chosen), 'message')}. There is no undo.", err=True)
        click.confirm("Are you sure?", abort=True, err=True)
    count = len(chosen) if dry_run else session.ask(lambda port: port.drop(chosen)) if chosen else 0
    _report("dropped", "Would drop" if dry_run else "Dropped", chosen, count, dry_run, as_json)


def _report(key: str, verb: str, chosen: Sequence[str], count: int, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({key: count, "keys": list(chosen), "dry_run": dry_run})
        return
    if dry_run:
        for each in chosen:
            click.echo(each)
    click.echo(f"{verb} {counted(count, 'message')}.", err=dry_run)


# -- one message -------------------------------------------------------------------------------------------------------


def _one(session: Session, key: str) -> Quarantined:
    items = _select(session, None, None)
    for item in items:
        if item.key == key:
            return item
    raise _no_such(key, [item.key for item in items])


def _no_such(key: str, known: Sequence[str]) -> Failure:
    close = nearest(key, known)
    return Failure(f"nothing in quarantine has the key {key!r}" + (f"; did you mean {close!r}?" if close else ""))


def _task(item: Quarantined) -> str:
    if item.message is None:
        return "(unreadable)"
    return item.message.task or "(no task)"


def _summary(item: Quarantined) -> dict[str, Any]:
    return {
        "key": item.key,
        "queue": item.queue,
        "task": None if item.message is None else item.message.task,
        "task_id": None if item.message is None else item.message.task_id,
        "reason": item.reason,
        "since": item.at,
    }


def _evidence(item: Quarantined) -> dict[str, Any]:
    return dict(mask(item.evidence))


def _headers(item: Quarantined) -> dict[str, Any]:
    if item.message is None:
        return {}
    headers = item.message.headers
    shown = {name: headers[name] for name in HEADERS if headers.get(name) not in (None, "")}
    return {**shown, "id": item.message.task_id, "content type": item.message.content_type}


def _details(item: Quarantined) -> dict[str, Any]:
    return {
        "exchange": item.exchange,
        "routing_key": item.routing_key,
        "evidence": _evidence(item),
        "message": _headers(item),
    }
