"""``capabilities.md``: what the drivers of this tree can do, as they declare it."""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any

from kern.contracts import pool, result_store, transport
from kern.contracts.pool import PoolCapability, PoolOptions
from kern.contracts.result_store import StoreCapability
from kern.contracts.transport import TransportCapability
from kern.worker.solo import SoloPool
from tools.reference.docstrings import attribute_comments, code, table
from tools.reference.installed import app

_INTRODUCTION = """\
# Capabilities

What a driver can do beyond the plain contract it declares, and its contract suite tests exactly that. `kern plugins`
shows what the drivers in use can do. Who asks for more gets `CapabilityMissing`, which says what can.
"""

#: A URL to make a driver of; nothing is connected to. Others: ``scheme://``.
_URLS: Mapping[str, str] = {
    "sqlite": "sqlite:///kern.db",
    "postgresql": "postgresql://user@host/database",
    "mysql": "mysql://user@host/database",
    "mariadb": "mysql://user@host/database",
}

#: Other names of the same driver.
_ALIASES = frozenset({"postgres", "db", "database", "sqla", "sqlalchemy", "processes", "pyamqp", "librabbitmq"})


def page() -> str:
    made = app()

    def with_url(name: str, factory: Any) -> Any:
        return factory(_URLS.get(name, f"{name}://"), made.conf)

    def with_options(_name: str, factory: Any) -> Any:
        return factory(made, PoolOptions())

    pools = {"solo": frozenset(SoloPool.capabilities), **_declared("pool", with_options)}
    return "\n\n".join(
        (
            _INTRODUCTION.strip(),
            "## Transports",
            _table(TransportCapability, transport, _declared("transport", with_url)),
            "## Result stores",
            _table(StoreCapability, result_store, _declared("result store", with_url)),
            "## Pools",
            _table(PoolCapability, pool, pools),
        )
    )


def _declared(kind: str, make: Callable[[str, Any], Any]) -> dict[str, frozenset[Any]]:
    """Capabilities of each driver by its plain name."""
    found = {}
    for name, (_plugin, factory) in sorted(app().plugins.drivers(kind).items()):
        if "+" not in name and name not in _ALIASES:
            found[name] = frozenset(make(name, factory).capabilities)
    return found


def _table(kinds: type[StrEnum], module: Any, drivers: Mapping[str, Iterable[Any]]) -> str:
    meanings = attribute_comments(module, kinds.__name__)
    rows = [
        (code(kind.value), _meaning(kind, meanings), *("yes" if kind in had else "" for had in drivers.values()))
        for kind in kinds
    ]
    return table(("capability", "", *(code(name) for name in drivers)), rows)


def _meaning(kind: StrEnum, meanings: Mapping[str, str]) -> str:
    """What the source says of it; those of one word say it themselves."""
    return meanings.get(kind.name) or _SELF_EVIDENT[kind.value]


_SELF_EVIDENT: Mapping[str, str] = {
    "soft-limits": "Raises `SoftTimeLimitExceeded` inside a task.",
    "hard-limits": "Kills a task at its hard limit; elsewhere it has failed, and its slot is busy until it lets go.",
    "terminate": "Ends a running task on request.",
    "resize": "Changes its number of slots while it runs.",
}
