"""``kern plugins``: what is installed, what it drives, and why something is off."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import attrs
import click

from kern.cli.drivers import declared
from kern.cli.global_options import Command
from kern.cli.printing import json_option, print_json, print_pairs, print_table
from kern.cli.session import Session, pass_session
from kern.errors import KernError
from kern.masking import mask_url
from kern.plugins import PluginInfo, State

if TYPE_CHECKING:
    from kern.app import Kern


@click.command(cls=Command, name="plugins", short_help="Show what is installed and what it drives.")
@json_option
@pass_session
def command(session: Session, as_json: bool) -> None:
    """Show installed plugins, what each drives, and why one is not active; what their drivers can do; then what the
    application uses of them."""
    app = session.app
    infos = app.plugins.infos()
    drivers = {kind: declared(app, kind) for kind in ("transport", "result store", "pool")}
    used = in_use(app)
    if as_json:
        described = {kind: [attrs.asdict(driver) for driver in found] for kind, found in drivers.items()}
        print_json({"plugins": [attrs.asdict(info) for info in infos], "drivers": described, "in_use": used})
        return
    if infos:
        print_table(
            ("PLUGIN", "DISTRIBUTION", "VERSION", "STATE", "DRIVES"),
            [(info.name, info.distribution, info.version, info.state.value, _drives(info)) for info in infos],
        )
    else:
        click.echo("No plugin is installed: pip install kern-broker-sql for a start.")
    for info in infos:
        if info.state is not State.ACTIVE and info.reason:
            click.echo(f"{info.name} is {info.state.value}: {info.reason}")
    for kind, found in drivers.items():
        click.secho(f"\n{kind}s", bold=True)
        for driver in found:
            click.echo(f"  {', '.join(driver.names)} ({driver.plugin})")
            can = ", ".join(driver.capabilities) or "nothing beyond the contract"
            click.echo(textwrap.indent(textwrap.fill(driver.error or can, 110), "    "))
    click.echo()
    for name, facts in used.items():
        click.secho(name, bold=True)
        print_pairs([(key.replace("_", " "), _text(value)) for key, value in facts.items()])


def _drives(info: PluginInfo) -> str:
    """By kind; of schemes that also have forms with the name of a library, the plain one."""
    parts = []
    for kind, names in sorted(info.drives.items()):
        plain = [name for name in names if "+" not in name]
        parts.append(f"{kind}: {', '.join(plain or names)}")
    return "; ".join(parts) or "-"


def _text(value: Any) -> str:
    return ", ".join(value) or "none" if isinstance(value, list) else str(value)


def in_use(app: Kern) -> dict[str, dict[str, Any]]:
    """What the application uses: of broker, result store and pool the URL or name, the plugin and what it can do."""
    found: dict[str, dict[str, Any]] = {}
    for name, describe in (("broker", _broker), ("result store", _result_store), ("pool", _pool)):
        try:
            found[name] = describe(app)
        except KernError as error:
            found[name] = {"error": mask_url(str(error))}
    return found


def _broker(app: Kern) -> dict[str, Any]:
    port = app.make_transport()
    return _driver(app, "transport", app.broker_url, port.capabilities)


def _result_store(app: Kern) -> dict[str, Any]:
    store = app.make_result_store()
    if store is None:
        return {"url": "results are not kept"}
    return _driver(app, "result store", app.result_backend_url or "", store.capabilities)


def _driver(app: Kern, kind: str, url: str, capabilities: Iterable[Any]) -> dict[str, Any]:
    return {
        "url": mask_url(url),
        "plugin": _provider(app, kind, url.partition("://")[0].lower()),
        "capabilities": sorted(capability.value for capability in capabilities),
    }


def _pool(app: Kern) -> dict[str, Any]:
    name = app.conf.worker_pool or app.default_pool
    return {"name": name, "plugin": "kern itself" if name == "solo" else _provider(app, "pool", name)}


def _provider(app: Kern, kind: str, name: str) -> str:
    drivers = app.plugins.drivers(kind)
    found = drivers.get(name) or drivers.get(name.partition("+")[0])
    return found[0] if found else "unknown"
