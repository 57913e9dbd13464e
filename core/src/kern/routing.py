"""Where a call goes."""

from __future__ import annotations

from typing import Any, Literal

from kern.settings import Section, setting

_DELIVERY_MODES = {"transient": 1, "persistent": 2, "1": 1, "2": 2}


def _delivery_mode(value: Any) -> Any:
    return _DELIVERY_MODES.get(value, value) if isinstance(value, str) else value


def _priority(value: int | None) -> None:
    if value is not None and not 0 <= value <= 255:
        raise ValueError("expected a priority from 0 to 255")


class RoutingSettings(Section):
    """Where calls go."""

    task_queues: Any = setting(
        None,
        "The queues there are: a list of kombu's Queue, or {name: options}. Unset: the default queue.",
    )
    task_routes: Any = setting(
        None, "Routers, asked in order: {pattern: route}, a callable, the dotted name of one, or a list of these."
    )
    task_default_queue: str = setting("celery", "Queue of a call that no route sends elsewhere.")
    task_default_queue_type: Literal["classic", "quorum"] = setting("classic", "Type of the default queue.")
    task_default_exchange: str | None = setting(
        None, "Exchange of queues that do not name one. Unset: task_default_queue."
    )
    task_default_exchange_type: str = setting("direct", "Its type.")
    task_default_routing_key: str | None = setting(
        None, "Routing key of queues that do not name one. Unset: task_default_queue."
    )
    task_default_delivery_mode: int = setting(
        2, "1 or 'transient', 2 or 'persistent'.", convert=_delivery_mode, choices=(1, 2)
    )
    task_default_priority: int | None = setting(None, "Priority of calls that have none.", validate=_priority)
    task_inherit_parent_priority: bool = setting(False, "A call made in a task has the priority of that task.")
    task_queue_max_priority: int | None = setting(
        None, "Largest priority of queues that do not say (x-max-priority).", validate=_priority
    )
    task_create_missing_queues: bool = setting(True, "Queues that task_queues does not have are made when named.")
    task_create_missing_queue_type: Literal["classic", "quorum"] = setting("classic", "Type of queues so made.")
    task_create_missing_queue_exchange_type: str | None = setting(
        None, "Type of the exchange of queues so made. Unset: direct."
    )
    worker_direct: bool = setting(False, "A worker also consumes a queue of its own, <node>.dq2 on exchange C.dq2.")
