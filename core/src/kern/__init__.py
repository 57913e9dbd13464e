"""kern, a distributed task queue.

Everything is imported when it is first used: ``import kern`` costs what attrs and pluggy cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kern.app import Kern
    from kern.errors import Ignore, Reject, Retry
    from kern.hookspecs import API, hookimpl
    from kern.queues import QueueSpec
    from kern.result import AsyncResult, EagerResult, GroupResult, ResultSet, allow_join_result
    from kern.shared import shared_task
    from kern.signature import Signature, signature
    from kern.task import Task

_EXPORTS = {
    "API": "kern.hookspecs",
    "AsyncResult": "kern.result",
    "EagerResult": "kern.result",
    "GroupResult": "kern.result",
    "Ignore": "kern.errors",
    "Kern": "kern.app",
    "QueueSpec": "kern.queues",
    "Reject": "kern.errors",
    "ResultSet": "kern.result",
    "Retry": "kern.errors",
    "Signature": "kern.signature",
    "Task": "kern.task",
    "allow_join_result": "kern.result",
    "hookimpl": "kern.hookspecs",
    "shared_task": "kern.shared",
    "signature": "kern.signature",
}

__all__ = [
    "API",
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "Ignore",
    "Kern",
    "QueueSpec",
    "Reject",
    "ResultSet",
    "Retry",
    "Signature",
    "Task",
    "__version__",
    "allow_join_result",
    "hookimpl",
    "shared_task",
    "signature",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("kern-core")
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'kern' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
