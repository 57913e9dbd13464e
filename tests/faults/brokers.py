"""What scenarios stand on: a broker with its result store, and the pool that its workers have.

A scenario takes the fixture ``broker``, or ``fleet``, which is made on it, and runs on every broker of
:data:`EVERYWHERE`; ``@on(*SERVED)`` and the like choose others. A new broker is a line of :data:`BROKERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import pytest

from kern_testing.servers import Server

SOLO = ("-P", "solo")
PREFORK = ("-P", "prefork", "-c", "2")


@attrs.frozen
class Broker:
    """One broker, empty."""

    #: What the table calls it.
    title: str
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

    @property
    def isolated(self) -> bool:
        """Whether tasks run in processes of their own."""
        return self.pool != SOLO


def _sqlite(request: pytest.FixtureRequest, folder: Path) -> Broker:
    url = f"sqlite:///{folder / 'broker.db'}"

    def second() -> tuple[Server, str]:
        return request.getfixturevalue("postgresql_server"), f"db+{request.getfixturevalue('postgresql_url')}"

    return Broker("SQLite", url, f"db+{url}", second=second)


def _postgresql(request: pytest.FixtureRequest, _folder: Path) -> Broker:
    server, url = request.getfixturevalue("postgresql_server"), request.getfixturevalue("postgresql_url")

    def second() -> tuple[Server, str]:
        redis = request.getfixturevalue("durable_redis")
        return redis, redis.url()

    return Broker("PostgreSQL", url, f"db+{url}", server=server, second=second)


def _redis(request: pytest.FixtureRequest, _folder: Path) -> Broker:
    server = request.getfixturevalue("durable_redis")

    def second() -> tuple[Server, str]:
        other = request.getfixturevalue("second_redis")
        return other, other.url()

    return Broker("Redis", server.url(), server.url(), PREFORK, 2, server, second=second)


#: Each makes an empty one.
BROKERS: Mapping[str, Callable[[pytest.FixtureRequest, Path], Broker]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "redis": _redis,
}
#: Where every scenario runs that does not say otherwise.
EVERYWHERE = ("sqlite",)
#: Those that are servers: they can be away.
SERVED = ("postgresql",)
#: Those reached through the proxy of these tests.
PROXIED = ("postgresql",)
#: Those whose workers run tasks in processes of their own.
ISOLATED = ("redis",)


def on(*brokers: str) -> pytest.MarkDecorator:
    """The brokers that a scenario runs on."""
    return pytest.mark.parametrize("broker", brokers, indirect=True)
