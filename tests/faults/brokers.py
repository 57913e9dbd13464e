"""What scenarios stand on: a broker with its result store, and the pool that its workers have.

A scenario takes the fixture ``broker``, or ``fleet``, which is made on it, and runs on every broker of
:data:`EVERYWHERE`; ``@on(*SERVED)`` and the like choose others. A new broker is a line of :data:`BROKERS`.
"""

from __future__ import annotations

import functools
import json
import re
import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from tests.faults.redis_wire import Raw

from kern_testing.servers import Server, find_binary

#: What everything is published to, unless a scenario says otherwise.
QUEUE = "celery"
#: Seconds; see :attr:`Broker.hasty`.
HASTY = 1.0
SOLO = ("-P", "solo")
PREFORK = ("-P", "prefork", "-c", "2")


@attrs.frozen
class Broker:
    """One broker, empty."""

    #: What the table calls it, and which version was met.
    title: str
    version: str
    url: str
    #: The result store on the same server.
    results: str
    #: Arguments of ``kern worker``, and how many tasks a worker runs at once by them.
    pool: tuple[str, ...] = SOLO
    slots: int = 1
    #: What can be killed and frozen; ``None``: nothing.
    server: Server | None = None
    #: Starts a result store on a server of its own, empty; that server, and its URL.
    second: Callable[[], tuple[Server, str]] = attrs.field(kw_only=True)
    #: What there is of its own keys that should not be when all is quiet, by name; beside messages.
    leftovers: Callable[[], Mapping[str, int]] = attrs.field(default=dict, kw_only=True)
    #: Settings by which a connection counts as dead when it has not answered for :data:`HASTY` seconds.
    hasty: Mapping[str, Any] = attrs.field(factory=dict, kw_only=True)

    @property
    def isolated(self) -> bool:
        """Whether tasks run in processes of their own."""
        return self.pool != SOLO


def version_of(server: Server) -> str:
    """As the server's binary says it."""
    return _version(server.binary, server.globs)


@functools.cache
def _version(binary: str, globs: tuple[str, ...]) -> str:
    found_at = find_binary(binary, *(f"{pattern}/{binary}" for pattern in globs))
    assert found_at is not None
    said = subprocess.run([found_at, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(\.\d+)+", said)
    return found.group() if found else said.strip()


def _sqlite(request: pytest.FixtureRequest, folder: Path) -> Broker:
    url = f"sqlite:///{folder / 'broker.db'}"

    def second() -> tuple[Server, str]:
        return request.getfixturevalue("postgresql_server"), f"db+{request.getfixturevalue('postgresql_url')}"

    return Broker("SQLite", sqlite3.sqlite_version, url, f"db+{url}", second=second)


def _postgresql(request: pytest.FixtureRequest, _folder: Path) -> Broker:
    server, url = request.getfixturevalue("postgresql_server"), request.getfixturevalue("postgresql_url")

    def second() -> tuple[Server, str]:
        redis = request.getfixturevalue("durable_redis")
        return redis, redis.url()

    return Broker("PostgreSQL", version_of(server), url, f"db+{url}", server=server, second=second)


def _redis(request: pytest.FixtureRequest, _folder: Path) -> Broker:
    server = request.getfixturevalue("durable_redis")

    def second() -> tuple[Server, str]:
        other = request.getfixturevalue("second_redis")
        return other, other.url()

    def leftovers() -> Mapping[str, int]:
        with Raw(server.port) as raw:
            sizes = {
                name: raw("HLEN", name) for name in ("kern.leases", "kern.notes", f"kern.delayed_messages.{QUEUE}")
            }
            return {
                **sizes,
                "kern.lease_index": raw("ZCARD", "kern.lease_index"),
                "kern.started": raw("SCARD", "kern.started"),
            }

    options = json.dumps({"socket_timeout": HASTY})
    hasty = {"broker_transport_options": options, "result_backend_transport_options": options}
    return Broker(
        "Redis",
        version_of(server),
        server.url(),
        server.url(),
        PREFORK,
        2,
        server,
        second=second,
        leftovers=leftovers,
        hasty=hasty,
    )


#: Each makes an empty one.
BROKERS: Mapping[str, Callable[[pytest.FixtureRequest, Path], Broker]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "redis": _redis,
}
#: Where every scenario runs that does not say otherwise.
EVERYWHERE = ("sqlite", "redis")
#: Those that are servers: they can be away.
SERVED = ("postgresql", "redis")
#: Those reached through the proxy of these tests.
PROXIED = ("redis",)
#: Those whose workers run tasks in processes of their own.
ISOLATED = ("redis",)


def on(*brokers: str) -> pytest.MarkDecorator:
    """The brokers that a scenario runs on."""
    return pytest.mark.parametrize("broker", brokers, indirect=True)
