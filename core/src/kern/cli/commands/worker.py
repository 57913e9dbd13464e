"""``kern worker``: runs tasks until told to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from kern import log
from kern.cli.celery_options import instead_of
from kern.cli.failures import DEBUG, WRONG_COMMAND_LINE, Failure
from kern.cli.global_options import Command
from kern.cli.pidfile import pidfile
from kern.cli.session import Session, pass_session
from kern.cli.values import FROM_0, FROM_1, LEVEL, NAMES, SECONDS, SLOTS

if TYPE_CHECKING:
    from kern.app import Kern
    from kern.worker import Worker

logger = log.get_logger("kern.worker")

#: Options that are settings: name of the parameter → setting.
SETTINGS: Mapping[str, str] = {
    "concurrency": "worker_concurrency",
    "prefetch_multiplier": "worker_prefetch_multiplier",
    "time_limit": "task_time_limit",
    "soft_time_limit": "task_soft_time_limit",
    "max_tasks_per_child": "worker_max_tasks_per_child",
    "max_memory_per_child": "worker_max_memory_per_child",
}


class WorkerCommand(Command):
    """Says of an option of Celery's what to do instead."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            instead = instead_of(error.option_name)
            if instead is None:
                raise
            raise click.UsageError(f"No such option '{error.option_name}': {instead}.", ctx) from None


@click.command(cls=WorkerCommand, name="worker", short_help="Run tasks.")
@click.option("-Q", "--queues", type=NAMES, help="Consume these queues only, separated by commas.")
@click.option("-X", "--exclude-queues", type=NAMES, help="Consume all queues but these.")
@click.option("-I", "--include", type=NAMES, help="Import these modules, too.")
@click.option("-P", "--pool", metavar="NAME", help="What runs tasks: prefork, threads, solo … as installed.")
@click.option("-c", "--concurrency", type=SLOTS, help="How many tasks run at once; auto: as many as fit.")
@click.option("-n", "--hostname", metavar="NAME", help="Node name; %h host, %n name, %d domain. [celery@%h]")
@click.option("-l", "--loglevel", type=LEVEL, default="WARNING", help="debug, info, warning, error. [warning]")
@click.option("-f", "--logfile", metavar="PATH", help="Log to this file; %n, %h, %d as in the node name.")
@click.option("--json-logs", is_flag=True, help="Log lines are JSON; no banner.")
@click.option("--pidfile", "pidfile_path", metavar="PATH", help="Refuse to run twice; %n, %h, %d likewise.")
@click.option("--purge", "--discard", is_flag=True, help="Delete waiting messages first. There is no undo.")
@click.option("--prefetch-multiplier", type=FROM_0, help="Messages taken ahead for each slot.")
@click.option("--time-limit", type=SECONDS, metavar="SECONDS", help="Hard limit of one run.")
@click.option("--soft-time-limit", type=SECONDS, metavar="SECONDS", help="Soft limit of one run.")
@click.option("--max-tasks-per-child", type=FROM_1, help="Tasks after which a process is replaced.")
@click.option("--max-memory-per-child", type=FROM_1, help="KiB at which a process is replaced.")
@click.argument("settings", nargs=-1, metavar="[SETTING=VALUE]...")
@click.pass_context
@pass_session
def command(
    session: Session,
    ctx: click.Context,
    /,
    queues: Sequence[str] | None,
    exclude_queues: Sequence[str] | None,
    include: Sequence[str] | None,
    pool: str | None,
    hostname: str | None,
    loglevel: int,
    logfile: str | None,
    json_logs: bool,
    pidfile_path: str | None,
    purge: bool,
    settings: Sequence[str],
    **options: Any,
) -> None:
    """Run tasks until told to stop.

    The first SIGTERM or SIGINT lets running tasks finish for worker_soft_shutdown_timeout seconds and hands back the
    rest; a second one hands back at once. Nothing is lost either way.

    Behind the options, any setting: worker.heartbeat=2 broker_connection_retry=false
    """
    from kern.worker.worker import node_name

    ctx.meta[DEBUG] = loglevel <= logging.DEBUG
    node = node_name(hostname)
    _log(session, node, loglevel, logfile, json_logs)
    app = session.app
    _assign(app, options, include, settings)
    session.app_with_tasks()
    session.import_modules()
    if app.conf.worker_log_color is False and not session.no_color:
        session.no_color = True
        _log(session, node, loglevel, logfile, json_logs)
    from kern.worker import Worker

    with ExitStack() as stack:
        if pidfile_path:
            stack.enter_context(pidfile(expand(pidfile_path, node)))
        worker = Worker(
            app, queues=queues, exclude_queues=exclude_queues or (), pool=pool, hostname=hostname, purge=purge
        )
        _refuse_what_cannot_act(worker, options)
        introduce(worker, session, loglevel, json_logs)

        def ready() -> None:
            logger.info("ready", node=worker.hostname)
            if not session.quiet and not json_logs:
                click.echo("ready; Ctrl+C stops")

        code = asyncio.run(worker.serve(ready))
    ctx.exit(code)


def _log(session: Session, node: str, level: int, logfile: str | None, json_logs: bool) -> None:
    path = expand(logfile, node) if logfile else None
    try:
        session.log(level, json_logs, path)
    except OSError as error:
        raise Failure(f"cannot write the log file {path!r}: {error.strerror}", error) from error


def _assign(app: Kern, options: Mapping[str, Any], include: Sequence[str] | None, settings: Sequence[str]) -> None:
    """What the command line says of settings."""
    for name, key in SETTINGS.items():
        if options[name] is not None:
            app.conf.assign({key: options[name]}, f"command line --{name.replace('_', '-')}")
    if include:
        app.conf.assign({"include": (*app.conf.include, *include)}, "command line -I")
    app.conf.update_from_arguments(settings)


def _refuse_what_cannot_act(worker: Worker, options: Mapping[str, Any]) -> None:
    from kern.contracts.pool import PoolCapability

    needed = {
        "soft_time_limit": (PoolCapability.SOFT_LIMITS, "cannot enforce soft limits"),
        "max_tasks_per_child": (PoolCapability.ISOLATED, "has no processes to replace"),
        "max_memory_per_child": (PoolCapability.ISOLATED, "has no processes to replace"),
    }
    for name, (capability, lack) in needed.items():
        if options[name] is not None and capability not in worker.pool.capabilities:
            raise Failure(
                f"--{name.replace('_', '-')} cannot act: the pool {worker.pool_name!r} {lack}; for another pool: -P",
                exit_code=WRONG_COMMAND_LINE,
            )


def introduce(worker: Worker, session: Session, level: int, json_logs: bool) -> None:
    """Say what starts here: to people as a banner, to programs as fields."""
    from kern.worker import banner

    if json_logs:
        logger.info("worker starting", node=worker.hostname, **banner.facts(worker))
        for remark in banner.remarks(worker):
            logger.warning(remark)
    elif not session.quiet:
        for number, line in enumerate(banner.lines(worker, with_tasks=level <= logging.INFO)):
            click.secho(line, bold=number == 0)
        for remark in banner.remarks(worker):
            click.secho(f"  note: {remark}", fg="yellow")


def expand(path: str, node: str) -> str:
    """*path* with ``%h`` the node's full name, ``%n`` its name and ``%d`` its host filled in."""
    name, _, host = node.partition("@")
    for token, value in (("%h", node), ("%n", name), ("%d", host)):
        path = path.replace(token, value)
    return path
