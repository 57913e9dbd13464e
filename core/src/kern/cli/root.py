"""The command ``kern``: finds sub-commands without importing the others."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

import click

from kern.cli.failures import reported
from kern.cli.global_options import global_options, peek, with_global_options
from kern.cli.session import Session
from kern.errors import nearest

#: Commands of core: where they are (the attribute ``command`` of a module of ``kern.cli.commands``) and what they do.
COMMANDS: Mapping[str, str] = {
    "worker": "Run tasks.",
    "call": "Call a task by its name.",
    "result": "Wait for a result and print it.",
    "queues": "Show how many messages wait where.",
    "purge": "Delete waiting messages.",
    "quarantine": "Look at messages that nobody can run.",
    "plugins": "Show what is installed and what it drives.",
    "config": "Show settings and where they come from.",
    "report": "Show versions, platform and settings, for bug reports.",
    "shell": "Open a Python shell with the application.",
    "completion": "Print the completion script of a shell.",
}

#: Commands that plugins have no say in: they work without any.
WITHOUT_PLUGINS = frozenset({"completion"})

HELP = "kern, a distributed task queue."

EPILOG = """\
Global options may stand before or after the command. Settings: KERN_<SETTING> in the environment, or [tool.kern] in
pyproject.toml.

\b
Exit codes:
  0   done
  1   it could not be done; a task failed
  2   the command line is wrong
  73  the pidfile belongs to a worker that is alive
"""


class Root(click.Group):
    """The group of all commands; each is imported when it is asked for."""

    # -- the command line as a whole -----------------------------------------------------------------------------------

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        extra.setdefault("obj", Session())
        with reported():
            return super().make_context(info_name, args, parent, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        session = ctx.ensure_object(Session)
        # Which options a sub-command has depends on these two, also when they stand behind it.
        workdir = peek(args, "--workdir") or os.environ.get("KERN_WORKDIR")
        if workdir and not ctx.resilient_parsing:
            session.enter_workdir(workdir)
        session.plugins = peek(args, "--plugins")
        if session.no_color:
            ctx.color = False
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        session = ctx.ensure_object(Session)
        try:
            with reported():
                return super().invoke(ctx)
        finally:
            session.close()

    # -- commands ------------------------------------------------------------------------------------------------------

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(self._of_plugins(ctx))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        session = ctx.ensure_object(Session)
        if cmd_name in COMMANDS:
            command: click.Command = importlib.import_module(f"kern.cli.commands.{cmd_name}").command
        elif cmd_name in session.extensions.commands:
            command = session.extensions.commands[cmd_name]
        else:
            return None
        if cmd_name not in WITHOUT_PLUGINS:
            command = session.extensions.extended(command, cmd_name)
        return with_global_options(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = str(args[0])
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing:
            ctx.fail(self._unknown(ctx, name))
        return (None if command is None else name), command, args[1:]

    def _unknown(self, ctx: click.Context, name: str) -> str:
        if name.startswith("-"):
            return f"No such option: {name}."
        from kern.cli.extensions_known import who_has

        distribution = who_has(name)
        if distribution is not None:
            return f"No such command '{name}'. It comes with a plugin: pip install {distribution}"
        close = nearest(name, self.list_commands(ctx))
        return f"No such command '{name}'." + (f" Did you mean '{close}'?" if close else "")

    def _of_plugins(self, ctx: click.Context) -> Mapping[str, str]:
        """Names and one line each of the commands of installed plugins; loads a plugin only if it has to."""
        from kern.cli.extensions_known import COMMANDS as KNOWN
        from kern.cli.extensions_known import installed_modules

        session = ctx.ensure_object(Session)
        if session.plugins_wanted is None:
            installed = installed_modules()
            if all(module in KNOWN for module in installed):
                return {name: line for module in installed for name, line in KNOWN[module].items()}
        return {name: command.get_short_help_str(80) for name, command in session.extensions.commands.items()}

    # -- help ----------------------------------------------------------------------------------------------------------

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        of_plugins = sorted(self._of_plugins(ctx).items())
        for title, rows in (("Commands", [*COMMANDS.items()]), ("Commands of plugins", of_plugins)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"kern {version('kern-core')}")
        ctx.exit()


def _without_command(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


root = Root(
    name="kern",
    invoke_without_command=True,
    callback=click.pass_context(_without_command),
    help=HELP,
    epilog=EPILOG,
    params=[
        *global_options(environment=True),
        click.Option(
            ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Version."
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
