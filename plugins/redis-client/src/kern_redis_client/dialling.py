"""Dialling: from an address to a connection that speaks RESP3, to a server that can be worked with.

All blocks, and runs on a thread of its own. Each time it is asked anew where the server is: sentinels for the master,
any node of a cluster for the one that has our keys, and alternates one after the other.
"""

from __future__ import annotations

import binascii
import functools
import socket
from typing import TYPE_CHECKING, Any

import attrs
import hiredis

from kern import log
from kern.errors import ImproperlyConfigured
from kern_redis_client import facts
from kern_redis_client.facts import ServerFacts
from kern_redis_client.failures import Kind, RedisError, code_of, failure, unreachable
from kern_redis_client.urls import Address, Target, Tls, Verify, Way, hash_tag
from kern_redis_client.wire import NOTHING, Command, packed

if TYPE_CHECKING:
    import ssl

logger = log.get_logger("kern.connection")

#: How often a cluster may send us on to another node within one attempt.
REDIRECTIONS = 5
#: Nodes of a cluster remembered, to ask when those of the URL are down.
NODES_KEPT = 16


@attrs.frozen
class Dialled:
    """A connection that is ready."""

    socket: socket.socket
    #: Whether it is one of TLS.
    secure: bool
    facts: ServerFacts


class Dialler:
    """Makes connections to one address. Not for several threads at once."""

    def __init__(self, address: Address) -> None:
        self.address = address
        #: Nodes of the cluster that were seen.
        self._nodes: tuple[Target, ...] = ()

    def dial(self) -> Dialled:
        """Connect to the first place that can be used.

        :raises RedisError: none can; says why, of several the reason of each. ``retryable`` if one may be later.
        :raises ImproperlyConfigured: the configuration does not fit what is there.
        """
        errors: list[RedisError] = []
        places = (*self.address.targets, *self._nodes)
        for target in places:
            try:
                if self.address.way is Way.SENTINEL:
                    return self._connect(self._master(target), by_sentinel=True)
                return self._connect(target)
            except RedisError as error:
                if all(str(error) != str(other) for other in errors):
                    errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        name = self.address.masked
        said = "; ".join(str(error).removeprefix(f"{name}: ") for error in errors)
        first = next((error for error in errors if error.retryable), errors[0])
        raise RedisError(first.kind, f"{name}: {said}", retryable=first.retryable) from first

    # -- one server

    def _connect(self, target: Target, by_sentinel: bool = False) -> Dialled:
        for _ in range(REDIRECTIONS):
            talk = self._open(target, self.address.connect_timeout)
            try:
                found = self._greet(talk, target, by_sentinel)
                elsewhere = self._elsewhere(talk, target) if found.cluster else None
                if elsewhere is None:
                    if found.cluster:
                        self._learn_nodes(talk, target)
                    return Dialled(talk.leave(), target.tls is not None, found)
            except BaseException:
                talk.close()
                raise
            talk.close()
            target = elsewhere
        raise self._bad(Kind.NOT_READY, "the nodes of the cluster send us from one to the other")

    def _open(self, target: Target, timeout: float) -> _Talk:
        context = None if target.tls is None else self._context(target.tls)
        try:
            made = self._plain(target, timeout)
            try:
                if context is not None:
                    made = context.wrap_socket(made, server_hostname=target.host)
            except BaseException:
                made.close()
                raise
        except (OSError, EOFError) as error:
            raise unreachable(error, self.address.masked, str(target), timeout, target.tls is not None) from error
        return _Talk(made, self.address.masked, str(target), timeout, target.tls is not None)

    def _context(self, tls: Tls) -> ssl.SSLContext:
        try:
            return _context(tls)
        except (OSError, ValueError) as error:
            files = [path for path in (tls.ca_certs, tls.ca_path, tls.certfile, tls.keyfile) if path]
            said = str(getattr(error, "reason", None) or error).replace("_", " ").lower()
            raise self._bad(
                Kind.TLS, f"no certificate can be read from {', '.join(files) or 'this system'} ({said})"
            ) from error

    def _plain(self, target: Target, timeout: float) -> socket.socket:
        if target.path:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                made.settimeout(timeout)
                made.connect(target.path)
            except BaseException:
                made.close()
                raise
            return made
        made = socket.create_connection((target.host, target.port), timeout)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.address.keepalive:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in self.address.keepalive_options.items():
                made.setsockopt(socket.IPPROTO_TCP, option, value)
        return made

    def _greet(self, talk: _Talk, target: Target, by_sentinel: bool) -> ServerFacts:
        """Say who we are, in one go, and look whom we have before us."""
        hello: list[str] = ["HELLO", "3"]
        user, password = self._credentials(target)
        if password is not None:
            hello += ["AUTH", user or "default", password]
        hello += ["SETNAME", self.address.client_name]
        commands: list[Command] = [hello, ("PING",)]
        if target.database:
            commands.append(("SELECT", str(target.database)))
        commands += facts.QUESTIONS
        answers = talk.ask(*commands)
        greeting, alive = answers[0], answers[1]
        if isinstance(greeting, Exception):
            if code_of(greeting) == "ERR" and "unknown command" in str(greeting).lower():
                raise self._bad(Kind.UNSUITABLE, facts.TOO_OLD.format(version="older than 6"))
            raise failure(greeting, self.address.masked)
        if not isinstance(greeting, dict):
            raise self._bad(Kind.UNSUITABLE, f"{target} does not speak RESP3; Redis 6.2 or newer, or Valkey, does")
        if isinstance(alive, Exception) and code_of(alive) in ("LOADING", "MASTERDOWN"):
            raise failure(alive, self.address.masked)
        found = facts.read(greeting, answers[-len(facts.QUESTIONS) :])
        if (problem := facts.unfit(found, self.address, str(target))) is not None:
            raise self._bad(Kind.UNSUITABLE, problem)
        if found.replica:
            text = f"{target} is a read-only replica; name its master, or its sentinels with sentinel://"
            raise RedisError(Kind.READ_ONLY, f"{self.address.masked}: {text}", retryable=by_sentinel)
        if found.cluster:
            self._check_cluster(target)
        elif target.database and isinstance(answers[2], Exception):
            raise self._no_database(target, answers[2])
        return found

    def _credentials(self, target: Target) -> tuple[str | None, str | None]:
        provider = self.address.credential_provider
        if provider is None:
            return target.username, target.password
        try:
            given = tuple(provider.get_credentials())
        except Exception as error:
            raise self._bad(
                Kind.CREDENTIALS,
                f"credential_provider {type(provider).__name__} failed: {type(error).__name__}: {error}",
                retryable=True,
            ) from error
        if len(given) not in (1, 2) or not all(isinstance(part, str) for part in given):
            raise self._bad(
                Kind.CREDENTIALS,
                f"credential_provider {type(provider).__name__}: get_credentials() answers (user, password) or "
                "(password,), as text",
            )
        return (given[0], given[1]) if len(given) == 2 else (None, given[0])

    def _no_database(self, target: Target, error: Exception) -> RedisError:
        if "out of range" in str(error):
            return self._bad(
                Kind.UNSUITABLE,
                f"the server has no database {target.database} (it has as many as its setting 'databases' says, "
                "counted from 0); name another one at the end of the URL",
            )
        return failure(error, self.address.masked)

    # -- cluster

    def _check_cluster(self, target: Target) -> None:
        if target.database:
            raise ImproperlyConfigured(
                f"{self.address.masked}: a Redis Cluster has only database 0, not {target.database}; end the URL in /0 "
                "and tell applications apart by global_keyprefix"
            )
        if not hash_tag(self.address.key_prefix):
            raise ImproperlyConfigured(
                f"{self.address.masked} is a Redis Cluster, where what is changed in one step has to lie on one node; "
                "give all keys one hash tag with the transport option {'global_keyprefix': '{kern}'}"
            )

    def _elsewhere(self, talk: _Talk, target: Target) -> Target | None:
        """The node that has our keys, if it is not this one."""
        (answer,) = talk.ask(("EXISTS", self.address.key_prefix))
        if not isinstance(answer, Exception):
            return None
        if code_of(answer) != "MOVED":
            raise failure(answer, self.address.masked)
        place = str(answer).split()[2]
        host, _, port = place.rpartition(":")
        return attrs.evolve(target, host=host.strip("[]") or target.host, port=int(port))

    def _learn_nodes(self, talk: _Talk, target: Target) -> None:
        (answer,) = talk.ask(("CLUSTER", "SLOTS"))
        if not isinstance(answer, list):
            return
        slot = binascii.crc_hqx(hash_tag(self.address.key_prefix).encode(), 0) % 16384
        seen: dict[tuple[str, int], None] = {}
        # The nodes that may take over our slot first.
        for first, last, *nodes in sorted(answer, key=lambda entry: not entry[0] <= slot <= entry[1]):
            del first, last
            for host, port, *_ in nodes:
                seen[(host.decode() if host else target.host, int(port))] = None
        known = {(place.host, place.port) for place in self.address.targets}
        self._nodes = tuple(
            attrs.evolve(target, host=host, port=port)
            for host, port in list(seen)[:NODES_KEPT]
            if (host, port) not in known
        )

    # -- sentinels

    def _master(self, sentinel: Target) -> Target:
        """Where the sentinel at *sentinel* says that the master is."""
        address, own = self.address, self.address.sentinel
        asked = attrs.evolve(own, host=sentinel.host, port=sentinel.port)
        talk = self._open(asked, address.sentinel_timeout or address.connect_timeout)
        try:
            if own.password is not None:
                who = (own.username,) if own.username else ()
                (answer,) = talk.ask(("AUTH", *who, own.password))
                if isinstance(answer, Exception):
                    raise self._of_sentinel(answer, asked)
            place, state = talk.ask(
                ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.master_name),
                ("SENTINEL", "MASTER", address.master_name),
            )
        finally:
            talk.close()
        if isinstance(place, Exception):
            raise self._of_sentinel(place, asked)
        if not place:
            raise self._bad(
                Kind.UNSUITABLE, f"a sentinel watches no master {address.master_name!r}; correct 'master_name'"
            )
        if address.min_other_sentinels and isinstance(state, list):
            pairs = dict(zip(state[::2], state[1::2], strict=False))
            others, wanted = int(pairs.get(b"num-other-sentinels", 0)), address.min_other_sentinels
            if others < wanted:
                raise self._bad(
                    Kind.NOT_READY,
                    f"a sentinel knows {others} others, and min_other_sentinels wants {wanted}",
                )
        return attrs.evolve(sentinel, host=place[0].decode(), port=int(place[1]))

    def _of_sentinel(self, answer: Exception, asked: Target) -> RedisError:
        if "unknown command" in str(answer).lower():
            return self._bad(Kind.UNSUITABLE, f"{asked} is no sentinel; write redis:// for a server")
        if code_of(answer) in ("NOAUTH", "WRONGPASS"):
            return self._bad(
                Kind.CREDENTIALS,
                "the sentinels refuse user and password; give their own in the transport option sentinel_kwargs",
            )
        return failure(answer, self.address.masked)

    def _bad(self, kind: Kind, text: str, retryable: bool | None = None) -> RedisError:
        return RedisError(kind, f"{self.address.masked}: {text}", retryable=retryable)


class _Talk:
    """Questions and answers on a new connection, one after the other."""

    def __init__(self, made: socket.socket, name: str, where: str, timeout: float, secure: bool) -> None:
        self._socket, self._name, self._where, self._timeout, self._secure = made, name, where, timeout, secure
        self._parser = hiredis.Reader(notEnoughData=NOTHING)

    def ask(self, *commands: Command) -> list[Any]:
        """The answer to each; errors in place."""
        answers: list[Any] = []
        try:
            self._socket.sendall(b"".join(packed(command) for command in commands))
            while len(answers) < len(commands):
                answer = self._parser.gets()
                if answer is NOTHING:
                    chunk = self._socket.recv(65536)
                    if not chunk:
                        raise EOFError
                    self._parser.feed(chunk)
                else:
                    answers.append(answer)
        except hiredis.ProtocolError as error:
            raise RedisError(
                Kind.UNSUITABLE, f"{self._name}: {self._where} is no Redis server, or speaks only TLS (rediss://)"
            ) from error
        except (OSError, EOFError) as error:
            if answers and isinstance(answers[-1], Exception):
                raise failure(answers[-1], self._name) from error  # why it hangs up
            raise unreachable(error, self._name, self._where, self._timeout, self._secure) from error
        return answers

    def leave(self) -> socket.socket:
        """The connection, for others to use."""
        return self._socket

    def close(self) -> None:
        self._socket.close()


@functools.lru_cache(maxsize=8)
def _context(tls: Tls) -> ssl.SSLContext:
    """Certificates are read once; raises what :mod:`ssl` does."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.VerifyMode(tls.verify)
    context.check_hostname = tls.verify is not Verify.NONE if tls.check_hostname is None else tls.check_hostname
    if tls.ca_certs or tls.ca_path or tls.ca_data:
        context.load_verify_locations(tls.ca_certs, tls.ca_path, tls.ca_data)
    elif tls.verify is not Verify.NONE:
        context.load_default_certs()
    if tls.certfile:
        context.load_cert_chain(tls.certfile, tls.keyfile, tls.key_password)
    if tls.ciphers:
        context.set_ciphers(tls.ciphers)
    return context
