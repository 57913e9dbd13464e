"""Every option of a call, what it does, and what it may be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import count
from typing import Any

import attrs

from kern.errors import nearest

#: Every option of a call, and what it does.
CALL_OPTIONS: Mapping[str, str] = {
    "task_id": "id of the call; a new UUID by default",
    "countdown": "seconds from now before which it does not start",
    "eta": "datetime or ISO text before which it does not start; without a zone it is in UTC",
    "expires": "seconds, datetime or ISO text after which it does not start; without a zone it is in UTC",
    "shadow": "another name for logs and monitors",
    "link": "call or calls to make with the result",
    "link_error": "call or calls to make on failure",
    "chain": "what follows, last first",
    "chord": "the body to notify",
    "queue": "name of the queue, or a Queue",
    "exchange": "name of the exchange, or an Exchange",
    "exchange_type": "type of the exchange",
    "routing_key": "routing key",
    "route_name": "name to route by instead of the task's",
    "router": "routes to use instead of the application's",
    "priority": "0 to 9 or as the queue allows",
    "serializer": "serializer of the body",
    "compression": "compression of the body",
    "delivery_mode": "1 or 'transient', 2 or 'persistent'",
    "headers": "headers of your own",
    "time_limit": "hard limit in seconds",
    "soft_time_limit": "soft limit in seconds",
    "ignore_result": "store no result",
    "add_to_parent": "record the result as a child of the running task",
    "retry": "publish again when the broker did not take it",
    "retry_policy": "max_retries, interval_start, interval_step, interval_max, retry_errors, errback",
    "timeout": "seconds to wait for the broker's confirmation, in all",
    "confirm_timeout": "the same as timeout",
    "connection": "publish inside this open database connection or session: sent when its transaction commits",
    "declare": "queues to declare first",
    "mandatory": "accepted: what cannot be routed is always refused",
    "reply_to": "where replies go",
    "root_id": "id of the workflow's first call",
    "parent_id": "id of the calling task",
    "group_id": "id of the group it belongs to",
    "group_index": "its place in the group",
    "retries": "how often it was retried",
    "replaced_task_nesting": "how often it was replaced",
    "origin": "name of the publishing node",
    "argsrepr": "representation of the arguments for display",
    "kwargsrepr": "representation of the keyword arguments for display",
    "stamped_headers": "names of stamps; each is an option of its own",
    "result_cls": "class of the result object",
    "app_id": "message property",
    "message_id": "message property",
    "type": "message property",
    "user_id": "message property",
    "timestamp": "message property",
    "cluster_id": "message property",
}

#: Options of Celery's that cannot act here, and why.
REFUSED_OPTIONS: Mapping[str, str] = {
    "producer": "kern publishes on its own connection; to publish inside a transaction pass connection=",
    "publisher": "kern publishes on its own connection; to publish inside a transaction pass connection=",
    "immediate": "no broker supports it any more",
    "event_dispatcher": "register a listener of kern_after_publish instead",
}

#: Options that are properties of the message as they are.
PROPERTIES: tuple[str, ...] = ("app_id", "message_id", "type", "user_id", "timestamp", "cluster_id")


def check_options(options: Mapping[str, Any]) -> None:
    """
    :raises TypeError: an option that does not exist, cannot act here, or has a value it cannot have; names it and the
        remedy.
    """
    stamps: Collection[str] = options.get("stamped_headers") or ()
    for name, value in options.items():
        if name in CALL_OPTIONS:
            expected = _EXPECTED.get(name)
            if expected is not None and value is not None and not expected[0](value):
                raise TypeError(f"option {name!r} of a call is {expected[1]}, not {value!r}")
        elif name not in stamps:
            raise _unknown(name)
    for name in stamps:
        if name not in options:
            raise TypeError(f"the stamp {name!r} has no value: pass {name}=")


def _unknown(name: str) -> TypeError:
    reason = REFUSED_OPTIONS.get(name)
    if reason is not None:
        return TypeError(f"option {name!r} is not supported: {reason}")
    close = nearest(name, CALL_OPTIONS)
    return TypeError(f"unknown option {name!r} of a call" + (f"; did you mean {close!r}?" if close else ""))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_limit(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_headers(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset) and all(isinstance(name, str) for name in value)


_EXPECTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("task_id", "root_id", "parent_id", "group_id"), (_is_id, "text that is not empty")),
    **dict.fromkeys(("shadow", "origin", "argsrepr", "kwargsrepr", "route_name", "reply_to"), (_is_text, "text")),
    **dict.fromkeys(("time_limit", "soft_time_limit", "timeout", "confirm_timeout"), (_is_limit, "seconds")),
    **dict.fromkeys(("retries", "group_index", "replaced_task_nesting"), (_is_count, "an integer, 0 or more")),
    "headers": (_is_headers, "a mapping with text as keys"),
    "stamped_headers": (_is_names, "a list of names"),
}


# -- publishing again --------------------------------------------------------------------------------------------------


def _exception_classes(value: Any) -> tuple[type[BaseException], ...]:
    classes = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(item, type) and issubclass(item, BaseException) for item in classes):
        raise TypeError(f"'retry_errors' of a retry policy are classes of exceptions, not {value!r}")
    return classes


@attrs.frozen
class RetryPolicy:
    """How a publication that the broker did not take is tried again. Pauses in seconds."""

    #: ``None``: until the time is over.
    max_retries: int | None = 3
    interval_start: float = 0.0
    interval_step: float = 0.2
    interval_max: float = 1.0
    #: Further errors after which it is tried again.
    retry_errors: tuple[type[BaseException], ...] = attrs.field(default=(), converter=_exception_classes)
    #: Called with the error and the pause before each further attempt.
    errback: Callable[[BaseException, float], Any] | None = None

    @classmethod
    def of(cls, *policies: Mapping[str, Any] | None) -> RetryPolicy:
        """The policy that these make together, the last counting most.

        :raises TypeError: a key that is none of the policy's, or a value it cannot have.
        """
        merged: dict[str, Any] = {}
        for policy in policies:
            merged.update(policy or {})
        known = [field.name for field in attrs.fields(cls)]
        for key, value in merged.items():
            if key not in known:
                raise TypeError(f"unknown key {key!r} in a retry policy; known: {', '.join(known)}")
            if key.startswith("interval_") and not _is_limit(value):
                raise TypeError(f"{key!r} of a retry policy is seconds, not {value!r}")
            if key == "max_retries" and value is not None and not _is_count(value):
                raise TypeError(f"{key!r} of a retry policy is an integer, 0 or more, or None, not {value!r}")
        return cls(**{key: value for key, value in merged.items() if value is not None or key == "max_retries"})

    def pauses(self) -> Iterator[float]:
        """Seconds to wait before each further attempt."""
        attempts: Iterable[int] = count() if self.max_retries is None else range(self.max_retries)
        for attempt in attempts:
            yield min(self.interval_max, self.interval_start + self.interval_step * attempt)


NO_RETRY = RetryPolicy(max_retries=0)
