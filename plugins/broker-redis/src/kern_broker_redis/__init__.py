"""The Redis transport: Celery's queues and bindings, with leases, delays and quarantine on the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kern_broker_redis.transport import RedisTransport

_EXPORTS = {
    "RedisTransport": "kern_broker_redis.transport",
}

__all__ = ["RedisTransport"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_EXPORTS[name]), name)
