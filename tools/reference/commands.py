"""``commands.md``: the command line, as click knows it."""

import inspect
import re
from collections.abc import Iterator

import click

import kern.cli
from kern.cli.global_options import GlobalOption
from kern.cli.root import COMMANDS, root
from kern.cli.session import Session
from tools.reference.docstrings import simple_table, table
from tools.reference.installed import plugins

_INTRODUCTION = """\
# Commands

`kern COMMAND --help` says what stands here. Everything a command prints goes to stdout, and with `--json` that is one
JSON document and nothing else. Logs, questions and errors go to stderr; an error is one line, with passwords masked.
"""

_GLOBAL = """\
## Global options

They may stand before and after the command.
"""


def page() -> str:
    session = Session()
    session.plugins = ",".join(plugins())
    context = click.Context(root, info_name="kern", obj=session)
    parts = [_INTRODUCTION.strip(), "## Exit codes", _exit_codes(), _GLOBAL.strip(), _options(root, context)]
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        if command is None:
            raise ValueError(f"the command {name!r} is listed and not there")
        origin = "" if name in COMMANDS else " (of a plugin)"
        parts += _command(command, click.Context(command, context, name), origin, level=2)
    return "\n\n".join(filter(None, parts))


def _exit_codes() -> str:
    lines = inspect.cleandoc(kern.cli.__doc__ or "").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("==="))
    rows, _, _ = simple_table(lines, start)
    return table(rows[0], rows[1:])


def _command(command: click.Command, context: click.Context, origin: str, level: int) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"{'#' * level} `{context.command_path}`{origin}"
    yield f"```text\n{context.command_path} {usage}\n```"
    yield _help(command.help)
    yield _options(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _command(child, click.Context(child, context, name), "", level + 1)


def _help(text: str | None) -> str:
    """Paragraphs; one that click is told not to wrap stays as it is."""
    made = []
    for paragraph in inspect.cleandoc(text or "").split("\n\n"):
        if paragraph.startswith("\b"):
            body = paragraph.removeprefix("\b").strip("\n")
            made.append(f"```text\n{body}\n```")
        else:
            made.append(paragraph)
    return "\n\n".join(made)


def _options(command: click.Command, context: click.Context) -> str:
    rows = []
    for param in command.params:
        shared = isinstance(param, GlobalOption)
        if not isinstance(param, click.Option) or (shared and command is not root):
            continue
        record = param.get_help_record(context)
        if record is not None:
            rows.append((f"`{re.sub(r'  +', ' ', record[0])}`", re.sub(r"  +", " ", record[1])))
    return table(("option", ""), rows) if rows else ""
