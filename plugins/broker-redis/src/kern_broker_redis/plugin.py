"""Hook implementations; nothing heavy is imported before a URL is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kern.hookspecs import hookimpl

if TYPE_CHECKING:
    from kern.contracts.transport import Transport, TransportFactory
    from kern.settings import Section

KERN_API = 1

#: Servers that speak Redis's protocol under a name of their own, and the scheme of the same form.
ALIASES: Mapping[str, str] = {"valkey": "redis", "valkeys": "rediss"}

#: Every scheme of a URL that this plugin drives.
SCHEMES = ("redis", "rediss", "redis+socket", "unix", "sentinel", *ALIASES)


@hookimpl
def kern_transports() -> Mapping[str, TransportFactory]:
    return dict.fromkeys(SCHEMES, make_transport)


@hookimpl
def kern_settings() -> Sequence[type[Section]]:
    from kern_broker_redis.settings import RedisBrokerSettings

    return [RedisBrokerSettings]


@hookimpl
def kern_example_urls() -> Mapping[str, str]:
    return {
        "unix": "unix:///run/redis/redis.sock",
        "redis+socket": "redis+socket:///run/redis/redis.sock",
        "sentinel": "sentinel://localhost:26379/0?master_name=mymaster",
    }


def make_transport(url: str, conf: Any) -> Transport:
    """The transport of a Redis server.

    :raises ImproperlyConfigured: the URL or an option cannot be used; says which, and what to write.
    """
    from kern_broker_redis.transport import RedisTransport

    return RedisTransport(";".join(_plain(part) for part in url.split(";")), conf)


def _plain(url: str) -> str:
    scheme, separator, rest = url.strip().partition("://")
    return f"{ALIASES.get(scheme.lower(), scheme)}{separator}{rest}"
