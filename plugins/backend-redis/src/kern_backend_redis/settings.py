"""Settings of the Redis result store; names are Celery's, and defaults where it has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from kern import log
from kern.errors import InvalidSetting, KernError, nearest
from kern.settings import Section, setting
from kern.timeutil import seconds

logger = log.get_logger("kern.connection")

OPTIONS = "result_backend_transport_options"
#: Seconds results are kept where nobody says how long.
DEFAULT_EXPIRES = 86400.0
#: Seconds Celery allows the results of a chord's parts to be read in; the life of a claim follows from it.
JOIN_TIMEOUT = 3.0
#: How often a write is said again on a new connection after the old one was lost.
MAX_RETRIES = 20


def _positive(value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError("expected a number above 0")


def _not_negative(value: float | None) -> None:
    if value is not None and not value >= 0:
        raise ValueError("expected 0 or more")


class RedisResultSettings(Section):
    """How the Redis result store is reached and used."""

    redis_host: str = setting("localhost", "The server, where the URL names none.")
    redis_port: int = setting(6379, "Its port, where the URL names none.", validate=_positive)
    redis_db: int = setting(0, "Number of the database, where the URL names none.", validate=_not_negative)
    redis_username: str | None = setting(None, "User, where the URL names none.")
    redis_password: str | None = setting(None, "Password, where the URL has none.", secret=True)
    redis_socket_timeout: float | None = setting(
        None,
        "Seconds after which a server that owes an answer counts as dead. Unset: 10.",
        unit="s",
        validate=_positive,
    )
    redis_socket_connect_timeout: float | None = setting(
        None, "Seconds a connection may take to be made. Unset: 4.", unit="s", validate=_positive
    )
    redis_socket_keepalive: bool | None = setting(None, "TCP keepalive. Unset: on.")
    redis_backend_health_check_interval: float | None = setting(
        None,
        "Seconds of idleness after which a connection that somebody waits on is asked for a sign of life. Unset: 15.",
        unit="s",
        validate=_positive,
    )
    redis_client_name: str | None = setting(None, "The connection's name on the server. Unset: kern.")
    redis_backend_use_ssl: bool | dict[str, Any] | None = setting(
        None, "TLS to the result store: true, or ssl_cert_reqs, ssl_ca_certs, ssl_certfile, ssl_keyfile and such."
    )
    redis_backend_credential_provider: Any = setting(
        None, "Has get_credentials(), which answers (user, password) or (password,); an object or its dotted name."
    )
    result_backend_transport_options: dict[str, Any] = setting(
        {},
        "Options of the result store's driver. The Redis driver knows global_keyprefix, result_chord_ordered, "
        "retry_policy, master_name, sentinel_kwargs, min_other_sentinels.",
    )
    result_failure_expires: float | None = setting(
        None,
        "How long failures are kept; seconds or a timedelta. Unset: result_expires. 0: for ever.",
        unit="s",
        convert=seconds,
        validate=_not_negative,
    )
    result_chord_expires: float | None = setting(
        None,
        "How long joins and chords are kept after their last change; seconds or a timedelta. Unset: result_expires. "
        "0: for ever.",
        unit="s",
        convert=seconds,
        validate=_not_negative,
    )


#: Settings that are options of the connection, by the names these have there.
_CONNECTION: Mapping[str, str] = {
    "redis_host": "host",
    "redis_port": "port",
    "redis_db": "db",
    "redis_username": "username",
    "redis_password": "password",
    "redis_socket_timeout": "socket_timeout",
    "redis_socket_connect_timeout": "socket_connect_timeout",
    "redis_socket_keepalive": "socket_keepalive",
    "redis_backend_health_check_interval": "health_check_interval",
    "redis_client_name": "client_name",
    "redis_backend_credential_provider": "credential_provider",
}

#: Options that the connection understands, beside our own.
_PASSED_ON = (
    "master_name",
    "min_other_sentinels",
    "sentinel_kwargs",
    "username",
    "password",
    "socket_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_keepalive_options",
    "health_check_interval",
    "client_name",
    "credential_provider",
    "allow_eviction",
)
_OWN = ("global_keyprefix", "result_chord_ordered", "retry_policy")

#: Options of the broker that people repeat here, and such of Celery's as have nothing to do.
_IDLE: Mapping[str, str] = {
    "additional_connection_errors": "whatever keeps a connection from being made, it is tried again",
    "visibility_timeout": "leases belong to the broker",
    "max_connections": "a process has one connection to its result store",
    "retry_on_timeout": "what is safe to repeat is repeated",
    "polling_interval": "the server tells of results",
}
_RETRY_POLICY_IDLE = ("interval_start", "interval_step", "interval_max", "timeout")


@attrs.frozen
class Options:
    """What the store goes by."""

    #: For :func:`kern_redis_client.urls.parse`.
    connection: Mapping[str, Any]
    use_ssl: Any
    #: Before each key, with whatever stands between.
    prefix: str
    #: Milliseconds; 0: for ever.
    life: int
    failure_life: int
    #: Of kern's own joins.
    join_life: int
    #: Seconds, as Celery counts them; 0: for ever.
    chord_seconds: int
    group_seconds: int
    #: How long the claim of whoever ends a chord lasts.
    claim_seconds: int
    ordered: bool
    max_retries: float
    serializer: str

    @classmethod
    def of(cls, conf: Any) -> Options:
        """From the application's settings; ``None``: from defaults.

        :raises InvalidSetting: an option of the driver cannot be used.
        """
        settings = RedisResultSettings() if conf is None else conf.section(RedisResultSettings)
        given = dict(settings.result_backend_transport_options)
        connection: dict[str, Any] = {
            option: getattr(settings, key) for key, option in _CONNECTION.items() if getattr(settings, key) is not None
        }
        connection.update((key, given[key]) for key in _PASSED_ON if key in given)
        _check_keys(given)
        expires = DEFAULT_EXPIRES if conf is None else conf.result_expires
        failure, chord = settings.result_failure_expires, settings.result_chord_expires
        chord_life = expires if chord is None else chord
        join_timeout = _of(conf, "result_chord_join_timeout") or JOIN_TIMEOUT
        prefix = _prefix(given.get("global_keyprefix"))
        if prefix:
            connection["global_keyprefix"] = prefix
        return cls(
            connection=connection,
            use_ssl=settings.redis_backend_use_ssl,
            prefix=prefix,
            life=_milliseconds(expires),
            failure_life=_milliseconds(expires if failure is None else failure),
            join_life=_milliseconds(chord_life),
            chord_seconds=int(chord_life or 0),
            group_seconds=max(int(chord_life), int(expires)) if chord_life and expires else 0,
            claim_seconds=max(5, int(join_timeout * 2)),
            ordered=_flag(given, "result_chord_ordered", True),
            max_retries=_max_retries(given.get("retry_policy")),
            serializer=(None if conf is None else conf.result_serializer) or "json",
        )


def _of(conf: Any, key: str) -> Any:
    """The value of a setting that another plugin declares, if one does."""
    try:
        return None if conf is None else conf[key]
    except KernError:
        return None


def _milliseconds(life: float | None) -> int:
    return max(1, round(life * 1000)) if life else 0


def _bad(option: str, problem: str) -> InvalidSetting:
    return InvalidSetting(OPTIONS, f"{option!r}: {problem}")


def _check_keys(given: Mapping[str, Any]) -> None:
    for key in given:
        if key in _IDLE:
            logger.info("an option of the result store has no effect", option=key, reason=_IDLE[key])
        elif key not in _OWN and key not in _PASSED_ON:
            meant = nearest(str(key), (*_OWN, *_PASSED_ON))
            known = f"did you mean {meant!r}?" if meant else f"known are {', '.join((*_OWN, *_PASSED_ON))}"
            raise _bad(str(key), f"nothing is known by this name; {known}")


def _prefix(given: Any) -> str:
    """What stands before each key: as given, and an underscore unless it ends in a sign that separates."""
    if given is None or given == "":
        return ""
    if not isinstance(given, str):
        raise _bad("global_keyprefix", f"expected text, not {type(given).__name__}")
    return given if given[-1] in ":_-." else f"{given}_"


def _flag(given: Mapping[str, Any], key: str, default: bool) -> bool:
    value = given.get(key, default)
    if not isinstance(value, bool):
        raise _bad(key, f"expected true or false, not {value!r}")
    return value


def _max_retries(given: Any) -> float:
    if given is None:
        return MAX_RETRIES
    if not isinstance(given, Mapping):
        raise _bad("retry_policy", f"expected a mapping such as {{'max_retries': 20}}, not {type(given).__name__}")
    for key in given:
        if key in _RETRY_POLICY_IDLE:
            reason = "a connection is made anew after growing pauses of its own, from 50 ms to 5 s"
            logger.info("an option of the result store has no effect", option=f"retry_policy.{key}", reason=reason)
        elif key != "max_retries":
            raise _bad("retry_policy", f"nothing is known by {key!r}; known is max_retries")
    value = given.get("max_retries", MAX_RETRIES)
    if value is None:
        return float("inf")
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise _bad("retry_policy", f"max_retries: expected a number, 0 or more, or none for no limit, not {value!r}")
    return float(value)
