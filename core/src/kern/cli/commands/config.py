"""``kern config``: settings, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import attrs
import click

from kern.celery_settings import CELERY_NAMES
from kern.cli.failures import Failure
from kern.cli.global_options import Command
from kern.cli.printing import json_option, print_json
from kern.cli.session import Session, pass_session
from kern.errors import UnknownSetting, nearest

if TYPE_CHECKING:
    from kern.app import Kern
    from kern.settings import SettingRow


@click.command(cls=Command, name="config", short_help="Show settings and where they come from.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--changed", is_flag=True, help="Only those that somebody gave a value.")
@json_option
@pass_session
def command(session: Session, names: Sequence[str], changed: bool, as_json: bool) -> None:
    """Show settings: value, where it comes from, what it means. Secrets are masked.

    NAME is a setting's name, today's or Celery's old one, a part of names, or a pattern like 'worker_*'.
    """
    app = session.app
    rows = [row for row in _selected(app, names) if not (changed and row.is_default)]
    if as_json:
        print_json([attrs.asdict(row) for row in rows])
        return
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            click.secho(f"# {section}{'' if row.owner == 'kern' else f' (plugin {row.owner})'}", bold=True)
        unit = f" {row.unit}" if row.unit and row.value is not None else ""
        click.secho(f"{row.key} = {row.value!r}{unit}", fg=None if row.is_default else "green")
        click.echo(f"    {row.origin}; {row.accepts}")
        click.echo(f"    {row.meaning}")
    if not rows:
        click.echo("No setting has been given a value." if changed else "No setting.", err=True)


def _selected(app: Kern, names: Sequence[str]) -> list[SettingRow]:
    rows = app.conf.describe()
    if not names:
        return rows
    keys: set[str] = set()
    for name in names:
        found = _matching(app, name, [row.key for row in rows])
        if not found:
            raise Failure(_unknown(app, name))
        keys.update(found)
    return [row for row in rows if row.key in keys]


def _matching(app: Kern, name: str, keys: Sequence[str]) -> list[str]:
    for key, option in app.conf.options.items():
        if name in (key, CELERY_NAMES.get(key), *option.declared.old):
            return [key]
    lowered = name.lower()
    if any(character in name for character in "*?["):
        return [key for key in keys if fnmatchcase(key, lowered)]
    return [key for key in keys if lowered in key]


def _unknown(app: Kern, name: str) -> str:
    """Why there is no such setting here; of Celery's other settings, what does their work."""
    try:
        origin = app.conf.origin(name)
    except UnknownSetting:
        try:
            _ = app.conf[name]
        except KeyError as error:
            return str(error)
        return f"unknown setting {name!r}"
    close = nearest(name, app.conf)
    return f"setting {name!r} (from {origin}) is read by nobody" + (f"; did you mean {close!r}?" if close else "")
