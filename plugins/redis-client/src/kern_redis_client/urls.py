"""Redis URLs: the forms people write for Celery, and the server they mean.

================================================================  ====================================================
written                                                           meant
================================================================  ====================================================
``redis://[user][:password]@host[:port]/db[?option=…]``           a server over TCP
``rediss://…``                                                    the same over TLS
``redis+socket:///path?virtual_host=3``, ``unix:///path?db=3``    a Unix socket
``sentinel://a:26379/0;sentinel://b:26379``                       the master that the sentinels name
any of the first four, several, with ``;`` between                the first of them that can be used
================================================================  ====================================================

Parts are percent-decoded. What stands in a URL wins over options, and these over defaults. Redis Cluster is reached by
the URL of any of its nodes; its keys then need one hash tag in ``global_keyprefix``.
"""

from __future__ import annotations

import enum
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import attrs

from kern import log
from kern.errors import ImproperlyConfigured, nearest
from kern.masking import mask_url

logger = log.get_logger("kern.connection")

#: Every scheme that :func:`parse` understands.
SCHEMES: tuple[str, ...] = ("redis", "rediss", "redis+socket", "unix", "sentinel")
#: What a driver of Celery's or ours may give beside the URL, with redis-py's names. :func:`parse` reads nothing else.
OPTIONS: tuple[str, ...] = (
    "host",
    "port",
    "db",
    "username",
    "password",
    "global_keyprefix",
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
    "allow_eviction",
)
#: Options that may stand in a URL.
QUERY: tuple[str, ...] = (
    "virtual_host",
    "db",
    "username",
    "password",
    "socket_timeout",
    "timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "health_check_interval",
    "client_name",
    "credential_provider",
    "master_name",
)
#: What redis-py understands and has no meaning here, with the reason.
IDLE: Mapping[str, str] = {
    "max_connections": "a process has one connection for each driver",
    "retry_on_timeout": "what is safe to repeat is repeated",
    "protocol": "the protocol is always RESP3",
    "decode_responses": "answers are bytes",
    "heartbeat": "TCP keepalive and health_check_interval watch the connection",
}
#: TLS options, as in a URL, ``broker_use_ssl`` and ``redis_backend_use_ssl``; there the prefix may be left out.
TLS: tuple[str, ...] = (
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_ca_data",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_check_hostname",
    "ssl_ciphers",
)

BROKER, STORE = "broker", "result store"
#: Seconds to connect, and the longest wait for an answer after which a connection counts as dead.
CONNECT_TIMEOUT, SILENCE = 4.0, 10.0
#: Seconds of idleness after which a connection that is listened to is asked for a sign of life.
HEALTH_CHECK_INTERVAL = 15.0

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class Verify(enum.IntEnum):
    """Whether the certificate of the server has to be valid; the numbers are those of ``ssl.CERT_NONE`` and so on."""

    NONE = 0
    OPTIONAL = 1
    REQUIRED = 2


class Way(enum.Enum):
    """How a server is found."""

    #: At one of the addresses, the first that can be used.
    DIRECT = "direct"
    #: The addresses are sentinels, that know it.
    SENTINEL = "sentinel"


@attrs.frozen
class Tls:
    """How to secure a connection, and whom to believe."""

    verify: Verify = Verify.REQUIRED
    #: ``None``: whenever certificates are verified.
    check_hostname: bool | None = None
    ca_certs: str | None = None
    ca_path: str | None = None
    ca_data: str | bytes | None = attrs.field(default=None, repr=False)
    certfile: str | None = None
    keyfile: str | None = None
    key_password: str | None = attrs.field(default=None, repr=False)
    ciphers: str | None = None


@attrs.frozen
class Target:
    """One place to connect to, and as whom."""

    host: str = ""
    port: int = 0
    #: Of a Unix socket; ``""`` for TCP.
    path: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    tls: Tls | None = None

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen
class Address:
    """A Redis server, or several that stand in for each other, and how to talk to it."""

    way: Way
    targets: tuple[Target, ...]
    #: The URL as it may be shown.
    masked: str
    #: What uses it, for messages: :data:`BROKER` or :data:`STORE`.
    purpose: str = BROKER
    #: Goes before each key.
    key_prefix: str = ""
    connect_timeout: float = CONNECT_TIMEOUT
    silence: float = SILENCE
    health_check_interval: float = HEALTH_CHECK_INTERVAL
    keepalive: bool = True
    #: Socket options of TCP by their number, such as ``socket.TCP_KEEPIDLE``.
    keepalive_options: Mapping[int, int] = attrs.field(factory=dict)
    client_name: str = "kern"
    #: Has ``get_credentials()``, which answers ``(user, password)`` or ``(password,)``; asked before each login.
    credential_provider: Any = attrs.field(default=None, repr=False)
    allow_eviction: bool = False
    master_name: str = ""
    min_other_sentinels: int = 0
    #: As whom, and how, to talk to sentinels; their places are in *targets*.
    sentinel: Target = attrs.field(factory=Target)
    sentinel_timeout: float | None = None

    @property
    def database(self) -> int:
        return self.targets[0].database

    @property
    def identity(self) -> str | None:
        """The same for broker and result store only if both live on one server, in the same database or another, so
        that one script may write for both. ``None``: nobody knows, because there are alternates."""
        tag = hash_tag(self.key_prefix)
        where = self._where()
        return None if where is None else f"redis:{where}{f'{{{tag}}}' if tag else ''}"

    def _where(self) -> str | None:
        user = self.targets[0].username
        who = "" if user in (None, "default") else f"{quote(str(user))}@"
        if self.way is Way.SENTINEL:
            return f"{who}{self.master_name}@{','.join(sorted({_place(target) for target in self.targets}))}"
        places = {_place(target) for target in self.targets}
        return f"{who}{places.pop()}" if len(self.targets) == len(places) == 1 else None


def _place(target: Target) -> str:
    if target.path:
        return os.path.realpath(target.path)
    host = target.host.lower()
    return f"{'localhost' if host in _LOCAL else host}:{target.port}"


def hash_tag(key: str) -> str:
    """What a cluster looks at to place *key*, if it is only a part of it; else ``""``."""
    _, brace, rest = key.partition("{")
    tag, closed, _ = rest.partition("}")
    return tag if brace and closed else ""


def is_redis_url(text: str) -> bool:
    """Whether *text* is a URL that :func:`parse` knows."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.lower() in SCHEMES


def parse(
    text: str, options: Mapping[str, Any] | None = None, *, use_ssl: Any = None, purpose: str = BROKER
) -> Address:
    """The server that *text* names.

    :param options: transport options and settings, by redis-py's names (:data:`OPTIONS`); others are left alone, as a
        driver has more of its own.
    :param use_ssl: ``broker_use_ssl`` or ``redis_backend_use_ssl``: true, or a mapping of TLS options (:data:`TLS`).
    :param purpose: :data:`BROKER` or :data:`STORE`.
    :raises ImproperlyConfigured: it cannot be used; says why, and what to write instead.
    """
    return _Reader(text, dict(options or {}), use_ssl, purpose).read()


class _Reader:
    """Reads one setting: all URLs of it, and what was given beside them."""

    def __init__(self, text: str, options: dict[str, Any], use_ssl: Any, purpose: str) -> None:
        self.options, self.use_ssl, self.purpose = options, use_ssl, purpose
        self.urls = [url.strip() for url in text.split(";") if url.strip()]
        self.shown = ";".join(_mask(url) for url in self.urls) or repr(text)

    def bad(self, problem: str) -> ImproperlyConfigured:
        return ImproperlyConfigured(f"{self.purpose} {self.shown}: {problem}")

    def read(self) -> Address:
        if not self.urls:
            raise self.bad("no URL; write redis://localhost:6379/0")
        schemes = [self._scheme(url) for url in self.urls]
        way = Way.SENTINEL if "sentinel" in schemes else Way.DIRECT
        if way is Way.SENTINEL and set(schemes) != {"sentinel"}:
            raise self.bad("sentinels and servers cannot stand in for each other; write sentinel:// before each")
        read = [self._target(url, scheme) for url, scheme in zip(self.urls, schemes, strict=True)]
        targets, queries = [target for target, _ in read], [query for _, query in read]
        options = {**self.options, **{key: value for query in reversed(queries) for key, value in query.items()}}
        if way is Way.SENTINEL:
            # As in Celery: who we are, and which database, stands in the first.
            first = targets[0]
            targets = [attrs.evolve(first, host=target.host, port=target.port) for target in targets]
            if not options.get("master_name"):
                raise self.bad(
                    "'master_name' transport option must be specified: the name under which the sentinels watch the "
                    "master, such as {'master_name': 'mymaster'}"
                )
        sentinel, sentinel_timeout = self._sentinel(options.get("sentinel_kwargs"))
        keepalive = self._flag(options, "socket_keepalive", True)
        return Address(
            way=way,
            targets=tuple(targets),
            masked=self.shown,
            purpose=self.purpose,
            key_prefix=self._text(options, "global_keyprefix") or "",
            connect_timeout=self._seconds(options, ("socket_connect_timeout",), CONNECT_TIMEOUT),
            silence=self._seconds(options, ("socket_timeout", "timeout"), SILENCE),
            health_check_interval=self._health_check(options),
            keepalive=keepalive,
            keepalive_options=self._keepalive_options(options.get("socket_keepalive_options")),
            client_name=self._client_name(options),
            credential_provider=self._provider(options.get("credential_provider")),
            allow_eviction=self._flag(options, "allow_eviction", False),
            master_name=str(options.get("master_name") or "") if way is Way.SENTINEL else "",
            min_other_sentinels=self._count(options, "min_other_sentinels"),
            sentinel=sentinel,
            sentinel_timeout=sentinel_timeout,
        )

    # -- one URL

    def _scheme(self, url: str) -> str:
        scheme, separator, _ = url.partition("://")
        scheme = scheme.lower()
        if not separator:
            raise self.bad(
                f"{mask_url(url)!r} has no scheme; write redis://host:6379/0, and a ';' of a password as %3B"
            )
        if scheme not in SCHEMES:
            meant = nearest(scheme, SCHEMES)
            hint = f"; did you mean {meant}://?" if meant else ""
            raise self.bad(f"{scheme}:// is none of {', '.join(f'{known}://' for known in SCHEMES)}{hint}")
        return scheme

    def _target(self, url: str, scheme: str) -> tuple[Target, dict[str, Any]]:
        rest = url.partition("://")[2]
        if any("@" in rest[rest.find(sign) :] for sign in "/?#" if sign in rest) and scheme not in (
            "redis+socket",
            "unix",
        ):
            # What follows may be the rest of a password, and is not to be quoted.
            raise self.bad(_PERCENT_ENCODED)
        rest = rest.partition("#")[0]
        rest, _, written = rest.partition("?")
        query = dict(parse_qsl(written, keep_blank_values=True))
        secured = {key: query.pop(key) for key in list(query) if key.startswith("ssl_")}
        self._check_query(query)
        on_socket = scheme in ("redis+socket", "unix")
        place, slash, path = rest.partition("/")
        user, password, place = self._credentials(place, query)
        if on_socket:
            target = self._on_socket(f"{slash}{path}", place)
        else:
            host, port = self._host_and_port(place, 26379 if scheme == "sentinel" else 6379, scheme == "sentinel")
            target = Target(host=host, port=port)
        database = query.pop("virtual_host", None) or query.pop("db", None) or ("" if on_socket else unquote(path))
        query.pop("db", None)
        return (
            attrs.evolve(
                target,
                database=self._database(database),
                username=user,
                password=password,
                tls=self._tls(scheme, secured),
            ),
            query,
        )

    def _check_query(self, query: dict[str, str]) -> None:
        for key in list(query):
            if key in IDLE:
                logger.info("an option of the URL has no effect", option=key, reason=IDLE[key])
                del query[key]
            elif key not in QUERY:
                meant = nearest(key, (*QUERY, *TLS))
                known = f"did you mean {meant!r}?" if meant else f"known are {', '.join((*QUERY, *TLS))}"
                raise self.bad(f"nothing is known by the parameter {key!r}; {known}")

    def _credentials(self, place: str, query: dict[str, Any]) -> tuple[str | None, str | None, str]:
        who, at, place = place.rpartition("@")
        user, colon, password = who.partition(":")
        named: str | None = unquote(user) if at and user else None
        secret: str | None = unquote(password) if colon else None
        named = query.pop("username", None) or named or self._text(self.options, "username")
        secret = query.pop("password", None) or secret or self._text(self.options, "password")
        if self.options.get("credential_provider") or query.get("credential_provider"):
            named = secret = None
        return named or None, secret or None, place

    def _on_socket(self, path: str, place: str) -> Target:
        if place or len(path) < 2:
            raise self.bad("a Unix socket is named by an absolute path, behind three slashes: redis+socket:///path")
        return Target(path=unquote(path))

    def _host_and_port(self, place: str, default: int, own: bool) -> tuple[str, int]:
        if place.startswith("["):
            host, bracket, rest = place[1:].partition("]")
            port = rest.removeprefix(":")
            if not bracket or (rest and not rest.startswith(":")):
                raise self.bad("an IPv6 address stands in brackets: redis://[::1]:6379/0")
        else:
            host, _, port = place.partition(":")
            host = unquote(host)
        if not own:
            host = host or str(self.options.get("host") or "")
            port = port or str(self.options.get("port") or "")
        if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise self.bad(f"the port is a number from 1 to 65535; {_PERCENT_ENCODED}")
        return host or "localhost", int(port or default)

    def _database(self, written: str) -> int:
        text = str(written).strip("/")
        if not text:
            text = str(self.options.get("db") or 0)
        if not (text.isascii() and text.isdecimal()):
            raise self.bad(
                f"Database is int between 0 and limit - 1, not {mask_url(text)}; write it behind the port, as in "
                "redis://localhost:6379/0"
            )
        return int(text)

    # -- TLS

    def _tls(self, scheme: str, written: dict[str, str]) -> Tls | None:
        given = self.use_ssl
        if given and given is not True and not isinstance(given, Mapping):
            raise self.bad(f"TLS is switched on by True or a mapping of options, not {type(given).__name__}")
        options = {
            (key if str(key).startswith("ssl_") else f"ssl_{key}"): value
            for key, value in (given.items() if isinstance(given, Mapping) else ())
        }
        if scheme in ("redis+socket", "unix"):
            if written:
                raise self.bad(f"a Unix socket knows no TLS; remove {', '.join(written)}")
            return None
        if scheme == "redis" and written:
            raise self.bad(
                "SSL connection parameters have been provided but the specified URL scheme is redis://; "
                "write rediss://, or remove them"
            )
        if not (given or scheme == "rediss" or written):
            return None
        options.update(written)
        if scheme == "rediss" and self.purpose == STORE and "ssl_cert_reqs" not in options:
            raise self.bad(_CERT_REQS)
        return self._tls_options(options)

    def _tls_options(self, options: Mapping[str, Any]) -> Tls:
        for key in options:
            if key not in TLS:
                meant = nearest(str(key), TLS)
                known = f"did you mean {meant!r}?" if meant else f"known are {', '.join(TLS)}"
                raise self.bad(f"nothing is known by the TLS option {str(key)!r}; {known}")
        verify = self._verify(options.get("ssl_cert_reqs"))
        check = options.get("ssl_check_hostname")
        if isinstance(check, str):
            check = check.lower() not in ("false", "0", "no", "off")
        paths = {}
        for name in ("ca_certs", "ca_path", "certfile", "keyfile"):
            path = options.get(f"ssl_{name}")
            if path is not None:
                path = unquote(os.fspath(path))
                if not os.path.exists(path):
                    raise self.bad(f"there is no file {path!r}, which ssl_{name} names")
            paths[name] = path
        if paths["keyfile"] and not paths["certfile"]:
            raise self.bad("ssl_keyfile is the key of a certificate; name that too, with ssl_certfile")
        if verify is not Verify.REQUIRED:
            logger.warning("the certificate of the server is not required to be valid", url=self.shown)
        return Tls(
            verify=verify,
            check_hostname=None if check is None else bool(check),
            ca_data=options.get("ssl_ca_data"),
            key_password=options.get("ssl_password"),
            ciphers=options.get("ssl_ciphers"),
            **paths,
        )

    def _verify(self, written: Any) -> Verify:
        if written is None:
            return Verify.REQUIRED
        if isinstance(written, str):
            try:
                return Verify[written.upper().removeprefix("CERT_")]
            except KeyError:
                raise self.bad(_CERT_REQS) from None
        try:
            return Verify(written)
        except ValueError:
            raise self.bad(_CERT_REQS) from None

    # -- options

    def _sentinel(self, given: Any) -> tuple[Target, float | None]:
        if given is None:
            return Target(), None
        if not isinstance(given, Mapping):
            raise self.bad(f"sentinel_kwargs is a mapping, not {type(given).__name__}")
        known = ("username", "password", "ssl", "socket_timeout", "socket_connect_timeout", *TLS)
        for key in given:
            if key not in known and key not in IDLE:
                meant = nearest(str(key), known)
                raise self.bad(
                    f"nothing is known by {str(key)!r} in sentinel_kwargs; "
                    + (f"did you mean {meant!r}?" if meant else f"known are {', '.join(known)}")
                )
        secured = {key: value for key, value in given.items() if str(key).startswith("ssl_")}
        tls = self._tls_options(secured) if secured or given.get("ssl") else None
        timeout = self._seconds(given, ("socket_connect_timeout", "socket_timeout"), 0.0)
        return (
            Target(username=self._text(given, "username"), password=self._text(given, "password"), tls=tls),
            timeout or None,
        )

    def _text(self, options: Mapping[str, Any], key: str) -> str | None:
        value = options.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self.bad(f"{key} is text, not {type(value).__name__}")

    def _client_name(self, options: Mapping[str, Any]) -> str:
        name = self._text(options, "client_name") or "kern"
        if any(not "!" <= letter <= "~" for letter in name):
            raise self.bad("client_name has only visible characters of ASCII, and no spaces")
        return name

    def _seconds(self, options: Mapping[str, Any], keys: Sequence[str], default: float) -> float:
        for key in keys:
            value = options.get(key)
            if value is None or value == "":
                continue
            try:
                seconds = float(value)
            except (TypeError, ValueError):
                seconds = -1.0
            if not 0 < seconds < math.inf or isinstance(value, bool):
                raise self.bad(f"{key} is a number of seconds above zero, not {value!r}")
            return seconds
        return default

    def _health_check(self, options: Mapping[str, Any]) -> float:
        # As in redis-py, nought switches it off.
        if str(options.get("health_check_interval")) in ("0", "0.0"):
            return math.inf
        return self._seconds(options, ("health_check_interval",), HEALTH_CHECK_INTERVAL)

    def _count(self, options: Mapping[str, Any], key: str) -> int:
        value = options.get(key) or 0
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.bad(f"{key} is a number from zero, not {value!r}")
        return value

    def _flag(self, options: Mapping[str, Any], key: str, default: bool) -> bool:
        value = options.get(key)
        if value is None:
            return default
        if isinstance(value, str):
            return value.lower() not in ("", "0", "f", "false", "n", "no", "off")
        return bool(value)

    def _keepalive_options(self, given: Any) -> Mapping[int, int]:
        if given is None:
            return {}
        if isinstance(given, Mapping) and all(isinstance(n, int) for pair in given.items() for n in pair):
            return dict(given)
        raise self.bad("socket_keepalive_options maps numbers of TCP options to numbers: {socket.TCP_KEEPIDLE: 60}")

    def _provider(self, given: Any) -> Any:
        """The object that has credentials, made where a class or its dotted path was given."""
        if given is None:
            return None
        found = given
        if isinstance(given, str):
            module, _, name = given.replace(":", ".").rpartition(".")
            try:
                from importlib import import_module

                found = getattr(import_module(module), name)
            except (ImportError, AttributeError, ValueError) as error:
                raise self.bad(f"credential_provider {given!r} cannot be imported: {error}") from error
        if isinstance(found, type):
            try:
                found = found()
            except Exception as error:
                raise self.bad(f"credential_provider {found.__qualname__} cannot be made: {error}") from error
        if not callable(getattr(found, "get_credentials", None)):
            raise self.bad(
                f"credential_provider {type(found).__name__} has no get_credentials(); give an object that has, its "
                "class, or the dotted path of either"
            )
        return found


_PERCENT_ENCODED = (
    "in a password the characters : / ? # [ ] @ ; are written percent-encoded, as by "
    "urllib.parse.quote(password, safe='')"
)
_CERT_REQS = (
    "A rediss:// URL must have parameter ssl_cert_reqs and this must be set to CERT_REQUIRED, CERT_OPTIONAL, or "
    "CERT_NONE"
)


def _mask(url: str) -> str:
    """*url* with Celery's two stars where a password stands."""
    return mask_url(url).replace("********", "**")
