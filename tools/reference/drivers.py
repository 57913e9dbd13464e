"""``capabilities.md``: what the drivers of this tree can do, as they declare it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from kern.cli.drivers import declared
from kern.contracts import pool, result_store, transport
from kern.contracts.pool import PoolCapability
from kern.contracts.result_store import StoreCapability
from kern.contracts.transport import TransportCapability
from tools.reference.docstrings import attribute_comments, code, table
from tools.reference.installed import app

_INTRODUCTION = """\
# Capabilities

What a driver can do beyond the plain contract it declares, and its contract suite tests exactly that. `kern plugins`
shows what the installed drivers can do. Who asks for more gets `CapabilityMissing`, which says what can.
"""


def page() -> str:
    return "\n\n".join(
        (
            _INTRODUCTION.strip(),
            "## Transports",
            _table(TransportCapability, transport, "transport"),
            "## Result stores",
            _table(StoreCapability, result_store, "result store"),
            "## Pools",
            _table(PoolCapability, pool, "pool"),
        )
    )


def _table(kinds: type[StrEnum], module: Any, kind: str) -> str:
    meanings = attribute_comments(module, kinds.__name__)
    found = declared(app(), kind)
    # Some schemes need more than a URL; those of their plugin that do not stand for them.
    drivers = [driver for driver in found if not driver.error]
    missing = {driver.plugin for driver in found} - {driver.plugin for driver in drivers}
    if missing:
        raise SystemExit(f"no {kind} can be made of {', '.join(sorted(missing))}; see kern plugins")
    rows = [
        (
            code(member.value),
            _meaning(member, meanings),
            *("yes" if member.value in driver.capabilities else "" for driver in drivers),
        )
        for member in kinds
    ]
    return table(("capability", "", *(", ".join(map(code, driver.names)) for driver in drivers)), rows)


def _meaning(kind: StrEnum, meanings: Mapping[str, str]) -> str:
    """What the source says of it; those of one word say it themselves."""
    return meanings.get(kind.name) or _SELF_EVIDENT[kind.value]


_SELF_EVIDENT: Mapping[str, str] = {
    "soft-limits": "Raises `SoftTimeLimitExceeded` inside a task.",
    "hard-limits": "Kills a task at its hard limit; elsewhere it has failed, and its slot is busy until it lets go.",
    "terminate": "Ends a running task on request.",
    "resize": "Changes its number of slots while it runs.",
}
