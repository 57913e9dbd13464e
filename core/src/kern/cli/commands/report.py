"""``kern report``: what somebody who is to help wants to know."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from kern.cli.commands.plugins import in_use
from kern.cli.global_options import Command
from kern.cli.printing import json_option, print_json, print_pairs
from kern.cli.session import Session, pass_session

#: Third parties whose versions matter, beside those of the plugins.
LIBRARIES = ("kombu", "click", "pluggy", "attrs", "structlog", "msgspec")


@click.command(cls=Command, name="report", short_help="Show versions, platform and settings, for bug reports.")
@json_option
@pass_session
def command(session: Session, as_json: bool) -> None:
    """Show versions, platform, plugins and the settings that somebody changed. Secrets are masked."""
    app = session.app
    changed = {row.key: (row.value, row.origin) for row in app.conf.describe() if not row.is_default}
    used = in_use(app)
    sections: dict[str, dict[str, Any]] = {
        "software": {"kern": _version("kern-core"), **{name: _version(name) for name in LIBRARIES}},
        "platform": {
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "system": platform.platform(),
            "machine": platform.machine(),
            "encoding": sys.getfilesystemencoding(),
        },
        "plugins": {
            info.name: f"{info.distribution} {info.version} {info.state.value}"
            + (f" ({info.reason})" if info.reason else "")
            for info in app.plugins.infos()
        },
        "in use": {
            name: driver.get("error") or driver.get("url") or driver.get("name") for name, driver in used.items()
        },
    }
    if as_json:
        print_json({**sections, "settings": {key: value for key, (value, _) in changed.items()}})
        return
    settings = {key: f"{value!r}  ({origin})" for key, (value, origin) in changed.items()}
    for title, values in (*sections.items(), ("settings", settings)):
        click.secho(title, bold=True)
        print_pairs(values.items())


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
