"""Options of ``kern`` that may stand before and after the sub-command."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import click

from kern.cli.session import Session
from kern.errors import nearest


def _note(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep what was given. What was not given leaves alone what stood before the sub-command."""
    if value is None or value is False or ctx.resilient_parsing:
        return
    session = ctx.ensure_object(Session)
    if param.name == "workdir":
        session.enter_workdir(value)
    else:
        setattr(session, str(param.name), value)
    if param.name == "no_color":
        ctx.color = False


class GlobalOption(click.Option):
    """An option of ``kern`` itself, wherever it stands."""

    def __init__(self, names: Sequence[str], **attributes: Any) -> None:
        super().__init__(names, expose_value=False, callback=_note, **attributes)


def global_options(environment: bool) -> list[click.Option]:
    """Fresh options.

    :param environment: they also read the environment; those before the sub-command do.
    """

    def read(variable: str) -> dict[str, Any]:
        return {"envvar": variable, "show_envvar": True} if environment else {}

    return [
        GlobalOption(
            ["app_name", "-A", "--app"],
            metavar="APP",
            help="Application: module, module:attribute or module.attribute.",
            **read("KERN_APP"),
        ),
        GlobalOption(["-b", "--broker"], metavar="URL", help="Broker, in place of the configured one."),
        GlobalOption(["--result-backend"], metavar="URL", help="Result store, in place of the configured one."),
        GlobalOption(["--config"], metavar="MODULE", help="Module with settings, in place of the application's."),
        GlobalOption(
            ["--workdir"], metavar="DIRECTORY", is_eager=True, help="Work in that directory.", **read("KERN_WORKDIR")
        ),
        GlobalOption(
            ["--plugins"],
            metavar="NAMES",
            help="Load these plugins only: a,b; or all but these: -a,-b. Also KERN_PLUGINS, plugins in [tool.kern].",
        ),
        GlobalOption(["-C", "--no-color"], is_flag=True, default=None, help="No colours.", **read("KERN_NO_COLOR")),
        GlobalOption(
            ["-q", "--quiet"], is_flag=True, default=None, help="No banner, no remarks.", **read("KERN_QUIET")
        ),
    ]


def with_global_options(command: click.Command) -> click.Command:
    """A copy of *command*, and of its sub-commands, that takes the global options, too.

    An option string that the command uses itself stays the command's.
    """
    made = copy.copy(command)
    used = {string for param in command.params for string in (*param.opts, *param.secondary_opts)}
    names = {param.name for param in command.params}
    added = []
    for option in global_options(environment=False):
        if option.name in names:
            continue
        option.opts = [string for string in option.opts if string not in used]
        if option.opts:
            added.append(option)
    made.params = [*command.params, *added]
    if isinstance(command, click.Group) and isinstance(made, click.Group):
        made.commands = {name: with_global_options(child) for name, child in command.commands.items()}
    return made


def peek(arguments: Sequence[str], name: str) -> str | None:
    """What is given for the long option *name*, read before anything is parsed; the last one counts."""
    found = None
    for number, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == name and number + 1 < len(arguments):
            found = arguments[number + 1]
        elif argument.startswith(f"{name}="):
            found = argument.partition("=")[2]
    return found


class Command(click.Command):
    """A command whose help shows global options apart from its own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                (shared if isinstance(param, GlobalOption) else own).append(record)
        for title, records in (("Options", own), ("Global options", shared)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class CommandGroup(click.Group):
    """A command with sub-commands, likewise."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = str(args[0])
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            close = nearest(name, self.commands)
            hint = f" Did you mean '{close}'?" if close else f" There are: {', '.join(self.commands)}."
            ctx.fail(f"No such command '{name}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        Command.format_options(self, ctx, formatter)  # type: ignore[arg-type]
        self.format_commands(ctx, formatter)
