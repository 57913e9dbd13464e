"""The settings that kern itself reads, but for routing's (:mod:`kern.routing`).

Names, meanings and defaults are Celery's where Celery has the setting, unless the help says otherwise. Sections are
grouped by who reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import tzinfo
from typing import Any, Literal

from kern.errors import InvalidSetting
from kern.settings import Section, setting
from kern.timeutil import parse_rate, seconds, zone


def _positive(value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError("expected a number above 0")


def _not_negative(value: float | None) -> None:
    if value is not None and not value >= 0:
        raise ValueError("expected 0 or more")


def _expiry(value: Any) -> float | None:
    """0 means never, as ``None`` does."""
    return seconds(value) or None


# -- general -----------------------------------------------------------------------------------------------------------


def _known_zone(value: str | tzinfo | None) -> None:
    zone(value)


class GeneralSettings(Section):
    """Time, content types, modules with tasks."""

    timezone: str | tzinfo | None = setting(
        None,
        "Time zone of the application: an IANA name, 'local', or a tzinfo. Unset: UTC, or local without enable_utc.",
        old="TIME_ZONE",
        validate=_known_zone,
    )
    enable_utc: bool = setting(True, "Without timezone: times are in UTC; off: in the system's zone.")
    accept_content: tuple[str, ...] = setting(
        ("json",), "Serializers, by name or content type, whose messages are decoded."
    )
    result_accept_content: tuple[str, ...] | None = setting(None, "The same for results. Unset: accept_content.")
    imports: tuple[str, ...] = setting((), "Modules a worker imports at start.")
    include: tuple[str, ...] = setting((), "Further modules a worker imports at start, after imports.")

    def zone(self) -> tzinfo:
        """The time zone of the application."""
        return zone(self.timezone, self.enable_utc)


# -- broker ------------------------------------------------------------------------------------------------------------


def _urls(value: str | tuple[str, ...] | None) -> None:
    for url in value.split(";") if isinstance(value, str) else value or ():
        if not url.strip():
            raise ValueError("expected a URL, several separated by ';', or a list of them; one is empty")


class BrokerSettings(Section):
    """Which broker, and how to reach it."""

    broker_url: str | tuple[str, ...] | None = setting(
        None, "URL of the broker; several, as a list or separated by ';', are tried in turn.", validate=_urls
    )
    broker_read_url: str | tuple[str, ...] | None = setting(
        None, "URL for those who consume. Unset: broker_url.", validate=_urls
    )
    broker_write_url: str | tuple[str, ...] | None = setting(
        None, "URL for those who publish. Unset: broker_url.", validate=_urls
    )
    broker_connection_retry: bool = setting(
        True, "A worker that lost the broker tries to reach it again, for ever; off: it ends with exit code 1."
    )
    broker_connection_retry_on_startup: bool | None = setting(
        None, "The same for a worker that has not reached it yet. Unset: broker_connection_retry."
    )
    broker_connection_max_retries: int | None = setting(
        100, "How often a worker that starts tries before it gives up. None: for ever.", validate=_not_negative
    )
    broker_failover_strategy: Literal["round-robin", "shuffle"] | Callable[..., Any] | None = setting(
        None, "Order in which several URLs are tried: round-robin (unset), shuffle, or a callable that orders them."
    )


# -- tasks -------------------------------------------------------------------------------------------------------------


def _flag(value: Any) -> Any:
    """``None`` is Celery's default, and means no."""
    return False if value is None else value


def _rate(value: str | float | None) -> None:
    parse_rate(value)


def _annotations(value: Any) -> None:
    problem = (
        "expected a mapping, an object with annotate() or annotate_any(), the dotted name of one, or a list of these"
    )
    for each in value if isinstance(value, list | tuple) else () if value is None else (value,):
        if isinstance(each, Mapping):
            for name, options in each.items():
                if not isinstance(name, str) or not isinstance(options, Mapping):
                    raise ValueError("expected {name of a task or '*': {option: value}}" + f"; at {name!r} it is not")
        elif not (isinstance(each, str) or hasattr(each, "annotate") or hasattr(each, "annotate_any")):
            raise ValueError(problem)


class TaskSettings(Section):
    """What holds for tasks that do not say otherwise themselves."""

    task_acks_late: bool = setting(
        True,
        "A task is released after it ran and not before: it runs at least once. Celery: off.",
        celery_default=False,
    )
    task_acks_on_failure_or_timeout: bool = setting(
        True, "With acks_late: failed and timed out tasks are done with; off: they come back."
    )
    task_acks_on_failure: bool | None = setting(
        None, "With acks_late: failed tasks are done with. Unset: task_acks_on_failure_or_timeout."
    )
    task_acks_on_timeout: bool | None = setting(
        None, "With acks_late: timed out tasks are done with. Unset: task_acks_on_failure_or_timeout."
    )
    task_reject_on_worker_lost: bool = setting(
        True,
        "With acks_late: a task whose process died comes back, at most task_max_attempts times. Celery: off.",
        convert=_flag,
        celery_default=False,
    )
    task_max_attempts: int = setting(
        3, "How many deaths of a process a task may be to blame for before it is quarantined.", validate=_positive
    )
    task_unknown_timeout: float = setting(
        900.0,
        "How long a message waits for a worker that knows its task before it is quarantined.",
        unit="s",
        convert=seconds,
        validate=_not_negative,
    )
    task_time_limit: float | None = setting(
        None, "Hard limit of one run.", unit="s", convert=seconds, validate=_positive
    )
    task_soft_time_limit: float | None = setting(
        None,
        "Soft limit of one run: SoftTimeLimitExceeded is raised in it.",
        unit="s",
        convert=seconds,
        validate=_positive,
    )
    task_default_rate_limit: str | float | None = setting(
        None, "Limit of runs: '10/s', '10/m', '10/h', or a number a second.", validate=_rate
    )
    task_ignore_result: bool = setting(False, "Results are not stored.")
    task_store_errors_even_if_ignored: bool = setting(False, "Errors are stored even so.")
    task_track_started: bool = setting(False, "The state STARTED is stored.")
    task_always_eager: bool = setting(False, "Calls run at once, in the caller's thread.")
    task_eager_propagates: bool = setting(False, "Calls that run at once raise what the task raises.")
    task_store_eager_result: bool = setting(False, "Results of calls that run at once are stored.")
    task_annotations: Any = setting(
        None,
        "Options put on tasks when they are registered: {name or '*': {option: value}}, an object, or a list.",
        validate=_annotations,
    )


# -- publishing --------------------------------------------------------------------------------------------------------

_POLICY_NUMBERS = ("interval_start", "interval_step", "interval_max")
_POLICY_OTHERS = ("errback", "retry_errors")


def _retry_policy(value: Mapping[str, Any]) -> None:
    known = ("max_retries", *_POLICY_NUMBERS, *_POLICY_OTHERS)
    for key, item in value.items():
        if key not in known:
            raise ValueError(f"expected a mapping with {', '.join(known)}; {key!r} is none of these")
        if key in _POLICY_NUMBERS or (key == "max_retries" and item is not None):
            if isinstance(item, bool) or not isinstance(item, int | float) or item < 0:
                raise ValueError(f"expected a number, 0 or more, at {key!r}")
        elif key == "errback" and item is not None and not callable(item):
            raise ValueError(f"expected a callable at {key!r}")
        elif key == "retry_errors" and item is not None:
            classes = item if isinstance(item, tuple | list) else (item,)
            if not all(isinstance(each, type) and issubclass(each, BaseException) for each in classes):
                raise ValueError("expected classes of exceptions at 'retry_errors'")


class PublishSettings(Section):
    """How calls are written and sent."""

    task_serializer: str = setting("json", "Serializer of calls.")
    task_protocol: int = setting(2, "Protocol of calls; 1 is for consumers that know no other.", choices=(1, 2))
    task_compression: str | None = setting(None, "Compression of calls.")
    task_publish_retry: bool = setting(True, "A call that the broker did not take is published again.")
    task_publish_retry_policy: dict[str, Any] = setting(
        {"max_retries": 3, "interval_start": 0, "interval_max": 1, "interval_step": 0.2},
        "How often and after how many seconds; publish_timeout ends it in any case.",
        validate=_retry_policy,
    )
    publish_timeout: float = setting(
        5.0,
        "How long a call may take to be confirmed by the broker, all attempts together.",
        unit="s",
        convert=seconds,
        validate=_positive,
    )
    message_size_limit: int | None = setting(
        16_777_216, "Largest body of a message. None: no limit.", unit="bytes", validate=_positive
    )
    task_repr_maxlevels: int = setting(
        3, "How deep the representations of arguments go that travel for people to read.", validate=_positive
    )


# -- results -----------------------------------------------------------------------------------------------------------


class ResultSettings(Section):
    """Where results are kept, how and for how long."""

    result_backend: str | None = setting(None, "URL or alias of the result store.")
    result_expires: float | None = setting(
        86400.0,
        "How long results are kept; seconds or a timedelta. None or 0: for ever.",
        unit="s",
        convert=_expiry,
        validate=_positive,
    )
    result_serializer: str = setting("json", "Serializer of results.")
    result_compression: str | None = setting(None, "Compression of results.")
    result_extended: bool = setting(False, "Name, arguments, worker, retries and queue are stored with results.")
    result_cache_max: int | None = setting(-1, "How many final results a client remembers. -1: none, 0 or None: all.")


# -- the worker --------------------------------------------------------------------------------------------------------


def _concurrency(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return None
    number = int(value) if isinstance(value, str) and value.strip().lstrip("+-").isdigit() else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError("expected a number of slots, or 'auto'")
    return number or None


class WorkerSettings(Section):
    """How a worker works."""

    worker_concurrency: int | None = setting(
        None, "How many tasks run at once. Unset, 0 or 'auto': as many as the pool finds fit.", convert=_concurrency
    )
    worker_pool: str | None = setting(None, "Name of the pool. Unset: prefork where it is installed, else solo.")
    worker_prefetch_multiplier: int | None = setting(
        None,
        "Messages taken ahead for each slot; 0: no limit. Unset: computed from how long tasks take. Celery: 4.",
        validate=_not_negative,
    )
    worker_disable_prefetch: bool = setting(False, "Messages are taken for free slots only.")
    worker_disable_rate_limits: bool = setting(False, "Rate limits of tasks do nothing.")
    worker_max_tasks_per_child: int | None = setting(
        None, "After how many tasks a pool process is replaced.", validate=_positive
    )
    worker_max_memory_per_child: int | None = setting(
        None, "Resident memory at which a pool process is replaced after its task.", unit="KiB", validate=_positive
    )
    worker_soft_shutdown_timeout: float = setting(
        25.0,
        "How long a stopping worker lets tasks finish before it interrupts them and hands them back.",
        unit="s",
        convert=seconds,
        validate=_not_negative,
    )
    worker_lease_seconds: float = setting(
        15.0,
        "How long messages stay with a worker that is not heard of.",
        unit="s",
        convert=seconds,
        validate=_positive,
    )
    worker_heartbeat: float = setting(
        5.0,
        "How often a worker renews its leases and says that it is there; at most half of worker_lease_seconds.",
        unit="s",
        convert=seconds,
        validate=_positive,
    )
    worker_log_color: bool | None = setting(None, "Colours in the log. Unset: on a terminal.")

    def __attrs_post_init__(self) -> None:
        """One renewal may be late or lost, and the leases are still the worker's."""
        if self.worker_heartbeat > self.worker_lease_seconds / 2:
            raise InvalidSetting(
                "worker_heartbeat",
                f"expected at most half of 'worker_lease_seconds' ({self.worker_lease_seconds:g} s),"
                f" not {self.worker_heartbeat:g} s",
            )


#: What an application has before plugins add theirs; routing's section is beside its code.
CORE_SECTIONS: tuple[type[Section], ...] = (
    GeneralSettings,
    BrokerSettings,
    TaskSettings,
    PublishSettings,
    ResultSettings,
    WorkerSettings,
)
