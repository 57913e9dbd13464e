"""The options of ``@app.task``: where their values come from, and which values they may have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from kern.errors import nearest
from kern.timeutil import expiry_time, parse_rate, seconds

#: Task attributes that take the value of a setting when they are ``None`` at binding.
FROM_SETTINGS: Mapping[str, str] = {
    "serializer": "task_serializer",
    "rate_limit": "task_default_rate_limit",
    "priority": "task_default_priority",
    "track_started": "task_track_started",
    "acks_late": "task_acks_late",
    "acks_on_failure_or_timeout": "task_acks_on_failure_or_timeout",
    "acks_on_failure": "task_acks_on_failure",
    "acks_on_timeout": "task_acks_on_timeout",
    "reject_on_worker_lost": "task_reject_on_worker_lost",
    "ignore_result": "task_ignore_result",
    "store_eager_result": "task_store_eager_result",
    "store_errors_even_if_ignored": "task_store_errors_even_if_ignored",
    "time_limit": "task_time_limit",
    "soft_time_limit": "task_soft_time_limit",
}

#: Options of a call that a task may carry as defaults.
EXECUTION_OPTIONS: tuple[str, ...] = (
    "queue",
    "routing_key",
    "exchange",
    "exchange_type",
    "priority",
    "expires",
    "serializer",
    "delivery_mode",
    "compression",
    "time_limit",
    "soft_time_limit",
    "mandatory",
)


def check_name(task: str, option: str, known: Iterable[str], installable: Mapping[str, str]) -> None:
    """Refuse an option that nobody makes act.

    :param known: options of tasks, of base classes and of plugins.
    :param installable: options of plugins that are not installed, and what to install.
    :raises TypeError: names the nearest that exists, or the plugin to install.
    """
    known = set(known)
    if option in known:
        return
    if option in installable:
        raise TypeError(f"task {task!r}: the option {option!r} needs a plugin: pip install {installable[option]}")
    close = nearest(option, known)
    raise TypeError(f"task {task!r}: unknown option {option!r}" + (f"; did you mean {close!r}?" if close else ""))


def check_values(task: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a task as they are used from now on: sequences of exceptions become tuples.

    :raises TypeError: an option has a value that cannot be used; names task and option.
    """
    checked = dict(values)
    for option, value in values.items():
        check = _CHECKS.get(option)
        if check is None or value is None:
            continue
        try:
            checked[option] = check(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"task {task!r}: option {option!r}: {error}") from None
    soft, hard = checked.get("soft_time_limit"), checked.get("time_limit")
    if soft and hard and soft > hard:
        raise TypeError(f"task {task!r}: soft_time_limit must be less than or equal to time_limit")
    return checked


def _exceptions(value: Any) -> tuple[type[BaseException], ...]:
    classes = tuple(value) if isinstance(value, list | tuple | set | frozenset) else None
    if classes is None or not all(inspect.isclass(item) and issubclass(item, BaseException) for item in classes):
        raise ValueError(f"expected a tuple of exception classes, not {value!r}")
    return classes


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"expected a tuple of parameter names, not {value!r}")
    return tuple(value)


def _count(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"expected an integer, 0 or more, not {value!r}")
    return value


def _duration(value: Any) -> Any:
    if not seconds(value) >= 0:
        raise ValueError(f"expected seconds, 0 or more, not {value!r}")
    return seconds(value) if isinstance(value, timedelta) else value


def _backoff(value: Any) -> Any:
    return value if isinstance(value, bool) else _duration(value)


def _mapping(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping, not {value!r}")
    return value


def _rate(value: Any) -> Any:
    parse_rate(value)
    return value


def _expiry(value: Any) -> Any:
    if not isinstance(value, datetime):
        expiry_time(value)
    return value


#: ``None`` is a value of any option: the setting's, or none at all.
_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "max_retries": _count,
    "default_retry_delay": _duration,
    "rate_limit": _rate,
    "time_limit": _duration,
    "soft_time_limit": _duration,
    "throws": _exceptions,
    "expires": _expiry,
    "resultrepr_maxsize": _count,
    "sensitive": _names,
    "autoretry_for": _exceptions,
    "dont_autoretry_for": _exceptions,
    "retry_kwargs": _mapping,
    "retry_backoff": _backoff,
    "retry_backoff_max": _duration,
}
