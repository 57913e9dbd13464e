"""The Redis result store: results in Celery's documents, joins and Celery's chords, told of by push."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kern_backend_redis.settings import RedisResultSettings
    from kern_backend_redis.store import RedisResultStore

_EXPORTS = {
    "RedisResultSettings": "kern_backend_redis.settings",
    "RedisResultStore": "kern_backend_redis.store",
}

__all__ = ["RedisResultSettings", "RedisResultStore"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_EXPORTS[name]), name)
