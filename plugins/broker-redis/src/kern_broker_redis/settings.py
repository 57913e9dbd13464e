"""Settings of the Redis transport; names and defaults are Celery's where it has them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from kern import log
from kern.errors import InvalidSetting, nearest
from kern.settings import Section, setting
from kern_broker_redis.names import Names
from kern_redis_client.keys import PRIORITY_STEPS, SEPARATOR

logger = log.get_logger("kern.connection")

OPTIONS = "broker_transport_options"


def _positive(value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError("expected a number of seconds above 0")


class RedisBrokerSettings(Section):
    """How the Redis broker is reached and used."""

    broker_transport_options: dict[str, Any] = setting(
        {},
        "Options of the broker's driver. The Redis driver knows global_keyprefix, priority_steps, sep, fanout_prefix, "
        "fanout_patterns, deadletter_queue, master_name, sentinel_kwargs, socket_timeout and others: see its README.",
    )
    broker_use_ssl: bool | dict[str, Any] | None = setting(
        None, "TLS to the broker: true, or ssl_cert_reqs, ssl_ca_certs, ssl_certfile, ssl_keyfile and such."
    )
    broker_connection_timeout: float | None = setting(
        4.0, "Seconds a connection to the broker may take to be made.", unit="s", validate=_positive
    )
    broker_redis_allow_eviction: bool = setting(
        False, "Work on a Redis server whose maxmemory-policy evicts keys, and with them messages."
    )


# -- values of options -------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected text")
    return value


def _name_part(value: Any) -> str:
    if not _text(value):
        raise ValueError("expected text that is not empty")
    return str(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError("expected a number of seconds above 0")
    return float(value)


def _steps(value: Any) -> tuple[int, ...]:
    steps = tuple(value) if isinstance(value, list | tuple | range) else ()
    if not steps or any(type(step) is not int or not 0 <= step <= 9 for step in steps) or len(set(steps)) != len(steps):
        raise ValueError("expected a list of different numbers from 0 to 9, such as [0, 3, 6, 9]")
    return tuple(sorted(steps))


def _fanout_prefix(value: Any) -> bool | str:
    if not isinstance(value, bool | str):
        raise ValueError("expected true, false, or text that channels start with, in which {db} is the database")
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _name_part(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("expected a number, 0 or more")
    return value


def _limit(value: Any) -> int | None:
    return None if value is None else _count(value)


def _anything(value: Any) -> Any:
    return value


#: Checked where they are used, by the connection.
_CONNECTION = (
    "socket_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_keepalive_options",
    "health_check_interval",
    "client_name",
    "credential_provider",
    "master_name",
    "min_other_sentinels",
    "sentinel_kwargs",
    "username",
    "password",
    "host",
    "port",
    "db",
)

#: Every option that acts, and what makes its value of what was written.
_KNOWN: Mapping[str, Callable[[Any], Any]] = {
    "global_keyprefix": _text,
    "sep": _name_part,
    "priority_steps": _steps,
    "fanout_prefix": _fanout_prefix,
    "fanout_patterns": _flag,
    "deadletter_queue": _optional_text,
    "unacked_key": _name_part,
    "unacked_index_key": _name_part,
    "unacked_mutex_key": _name_part,
    "unacked_mutex_expire": _seconds,
    "unacked_restore_limit": _limit,
    "visibility_timeout": _seconds,
    "quarantine_bytes": _count,
    **dict.fromkeys(_CONNECTION, _anything),
}

#: Options of Celery's that have nothing to do here, and what does it instead.
_IDLE: Mapping[str, str] = {
    "ack_emulation": "every claim is a lease on the server",
    "unacked_restore_interval": "leases of Celery's workers are looked at by the heartbeat, in bounded passes",
    "unacked_restore_throttle": "leases of Celery's workers are looked at by the heartbeat, in bounded passes",
    "queue_order_strategy": "claims go by priority and share fairly between queues",
    "polling_interval": "nothing is polled: the server says when there is something",
    "max_connections": "a process has one connection to its broker",
    "retry_on_timeout": "what is safe to repeat is repeated",
    "reauth_check_interval": "credentials are asked for with each connection",
    "sentinel_fanout_compat": "channels are named as by kombu 5.4 and newer",
    "max_retries": "'broker_connection_max_retries' and 'task_publish_retry_policy' say how often is tried again",
    "interval_start": "connections are tried again with growing pauses; 'task_publish_retry_policy' is for calls",
    "interval_step": "connections are tried again with growing pauses; 'task_publish_retry_policy' is for calls",
    "interval_max": "connections are tried again with growing pauses; 'task_publish_retry_policy' is for calls",
    "connect_retries_timeout": "'publish_timeout' bounds a call, connecting included",
    "errback": "register a listener instead",
    "callback": "register a listener instead",
    "confirm_publish": "every publication is confirmed",
    "confirm_timeout": "'publish_timeout' bounds a call",
}

#: Options that would change the messages themselves; one value of each is what kern does.
_FIXED: Mapping[str, tuple[Any, str]] = {
    "body_encoding": ("base64", "bodies are written in base64; both forms are read"),
}


@attrs.frozen
class Options:
    """``broker_transport_options``, checked."""

    prefix: str = ""
    separator: str = SEPARATOR
    steps: tuple[int, ...] = PRIORITY_STEPS
    fanout_prefix: bool | str = True
    fanout_patterns: bool = True
    #: Receives what no queue is bound for.
    deadletter_queue: str | None = None
    unacked_key: str = "unacked"
    unacked_index_key: str = "unacked_index"
    unacked_mutex_key: str = "unacked_mutex"
    #: Seconds.
    unacked_mutex_expire: float = 300.0
    #: How many leases of Celery's one pass looks at; ``None``: as many as one pass may.
    unacked_restore_limit: int | None = None
    #: Seconds after which a lease of a Celery worker has expired; kern's own leases are held by heartbeats.
    visibility_timeout: float = 3600.0
    #: Bytes of messages that quarantine may hold; above it nothing more is taken in.
    quarantine_bytes: int = 256 * 1024 * 1024
    #: For the connection, by redis-py's names.
    connection: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    use_ssl: Any = attrs.field(default=None, repr=False)

    @classmethod
    def of(cls, conf: Any) -> Options:
        """The options in an application's settings; ``None`` stands for defaults.

        :raises InvalidSetting: an option that does not exist, or has a value it cannot have; names it.
        """
        section = RedisBrokerSettings() if conf is None else conf.section(RedisBrokerSettings)
        found = {name: value for name, value in section.broker_transport_options.items() if _acts(name, value)}
        values = {name: _checked(name, value) for name, value in found.items()}
        connection = {name: values.pop(name) for name in _CONNECTION if name in values}
        if section.broker_connection_timeout is not None:
            connection.setdefault("socket_connect_timeout", section.broker_connection_timeout)
        if section.broker_redis_allow_eviction:
            connection["allow_eviction"] = True
        prefix = values.pop("global_keyprefix", "")
        connection["global_keyprefix"] = prefix
        renamed = {"sep": "separator", "priority_steps": "steps"}
        given = {renamed.get(name, name): value for name, value in values.items() if value is not None}
        return cls(prefix=prefix, connection=connection, use_ssl=section.broker_use_ssl, **given)

    def names(self, database: int) -> Names:
        """The names of a broker in this database of its server."""
        fanout = self.fanout_prefix
        if isinstance(fanout, bool):
            fanout = "/{db}." if fanout else ""
        return Names(
            prefix=self.prefix,
            separator=self.separator,
            steps=self.steps,
            fanout=fanout.replace("{db}", str(database)),
            fanout_patterns=self.fanout_patterns,
        )


def _acts(name: str, value: Any) -> bool:
    """Whether an option is one that acts here.

    :raises InvalidSetting: there is none of that name.
    """
    if name in _KNOWN:
        return True
    if name in _IDLE:
        logger.info("a transport option has no effect", option=name, reason=_IDLE[name])
        return False
    if name in _FIXED:
        fixed, reason = _FIXED[name]
        if value != fixed:
            raise InvalidSetting(OPTIONS, f"{name!r} cannot be {value!r}: {reason}")
        return False
    meant = nearest(str(name), (*_KNOWN, *_IDLE))
    hint = f"did you mean {meant!r}?" if meant else f"known are {', '.join(sorted(_KNOWN))}"
    raise InvalidSetting(OPTIONS, f"the Redis transport has no option {name!r}; {hint}")


def _checked(name: str, value: Any) -> Any:
    try:
        return _KNOWN[name](value)
    except ValueError as error:
        shown = "***" if re.search("password|credential|kwargs", name) else repr(value)
        raise InvalidSetting(OPTIONS, f"{name!r} cannot be {shown}: {error}") from None
