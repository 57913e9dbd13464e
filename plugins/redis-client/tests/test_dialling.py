"""Dialling: real servers of every kind, found, greeted and judged."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import pytest

from kern.errors import ImproperlyConfigured
from kern_redis_client import facts, urls
from kern_redis_client.connect import open_link
from kern_redis_client.dialling import Dialler
from kern_redis_client.facts import Durability, ServerFacts
from kern_redis_client.failures import Kind, RedisError
from kern_redis_client.link import Link
from kern_testing.fixtures import running
from kern_testing.servers import Redis, RedisCluster, RedisSentinels, free_port
from kern_testing.waiting import eventually

from .conftest import ask

Connect = Callable[..., Link]
PASSWORD = "p@ss/w:rd;#?é"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Redis]:
    """A server with passwords, users and TLS."""
    yield from running(
        Redis(
            password=PASSWORD,
            users={
                "writer": "on >secret ~* &* +@all",
                "modest": "on >secret ~* &* +@all -@dangerous -@admin",
                "nothing": "on >secret ~* -@all",
            },
            tls=True,
        )
    )


def refused(url: str, options: Mapping[str, Any] | None = None, **given: Any) -> RedisError:
    """Why no connection was made; without secrets, naming the URL."""
    address = urls.parse(url, options, **given)
    with pytest.raises(RedisError) as error:
        Dialler(address).dial()
    said = str(error.value)
    assert said.startswith(f"{address.masked}: ")
    assert "\n" not in said
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "secret", "wrong"):
        assert secret not in said
    return error.value


# -- who we are --------------------------------------------------------------------------------------------------------


def test_users_and_passwords(connect: Connect, guarded: Redis) -> None:
    """The password alone, percent-encoded, or a user that the server knows; our name and database."""
    assert ask(connect(guarded.url(3)), "ACL", "WHOAMI") == b"default"
    link = connect(f"redis://writer:secret@localhost:{guarded.port}/3?client_name=me")
    assert ask(link, "ACL", "WHOAMI") == b"writer"
    info = dict(pair.split("=", 1) for pair in ask(link, "CLIENT", "INFO").decode().split())
    assert (info["name"], info["db"], info["resp"]) == ("me", "3", "3")


@pytest.mark.parametrize(
    ("who", "says"),
    [
        (":wrong@", "the server refuses this user and password"),
        ("writer:wrong@", "the server refuses this user and password"),
        ("nobody:secret@", "the server refuses this user and password"),
        ("", "the server wants a password; write it in the URL"),
    ],
)
def test_wrong_credentials_are_final(guarded: Redis, who: str, says: str) -> None:
    """Waiting makes no password right."""
    error = refused(f"redis://{who}127.0.0.1:{guarded.port}/0")
    assert says in str(error)
    assert (error.kind, error.retryable) == (Kind.CREDENTIALS, False)


def test_a_user_without_rights_is_told_which(guarded: Redis) -> None:
    """A user who may do nothing learns what he may not, and how to change that."""
    address = urls.parse(f"redis://nothing:secret@127.0.0.1:{guarded.port}/1")
    with pytest.raises(RedisError, match=r"NOPERM .*'select'.* extend the user's rights with ACL SETUSER") as error:
        Dialler(address).dial()
    assert (error.value.kind, error.value.retryable) == (Kind.FORBIDDEN, False)


def test_a_server_that_forbids_questions_is_taken_as_it_is(connect: Connect, guarded: Redis) -> None:
    """Managed servers forbid CONFIG and sometimes INFO: what is not known is not held against them."""
    link = connect(f"redis://modest:secret@127.0.0.1:{guarded.port}/0")
    assert link.facts is not None
    assert link.facts.durability is Durability.UNKNOWN
    assert link.facts.warnings(urls.BROKER) == []
    assert link.facts.version.startswith(("6.", "7.", "8."))


class Rotating:
    """A new password for each login."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = iter(answers)

    def get_credentials(self) -> Any:
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_credential_provider_is_asked_for_each_login(guarded: Redis) -> None:
    """Tokens that expire are fetched anew; what goes wrong in fetching one may pass, a wrong one is not shown."""
    provider = Rotating(
        [("writer", "secret"), (PASSWORD,), OSError("vault sealed"), ("only", "two", "fit"), ("wrong",)]
    )
    url = f"redis://127.0.0.1:{guarded.port}/0"
    dialler = Dialler(urls.parse(url, {"credential_provider": provider}))
    for _ in range(2):
        dialler.dial().socket.close()
    sealed, misfit, wrong = (refused(url, {"credential_provider": provider}) for _ in range(3))
    assert "Rotating failed: OSError: vault sealed" in str(sealed)
    assert sealed.retryable
    assert "answers (user, password) or (password,)" in str(misfit)
    assert not misfit.retryable
    assert wrong.kind is Kind.CREDENTIALS


# -- ways to it --------------------------------------------------------------------------------------------------------


def test_a_unix_socket(connect: Connect, guarded: Redis) -> None:
    """By its path, with database and password as parameters."""
    link = connect(f"redis+socket://{guarded.socket_path}?virtual_host=5&password={quote(PASSWORD, safe='')}")
    assert b" db=5 " in ask(link, "CLIENT", "INFO")


def test_sockets_are_quick_and_noticed_when_dead(guarded: Redis) -> None:
    """TCP sends at once and keeps alive, with the options that were given."""
    options = {"socket_keepalive_options": {socket.TCP_KEEPCNT: 3}}
    made = Dialler(urls.parse(guarded.url(), options)).dial().socket
    assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
    made.close()
    made = Dialler(urls.parse(guarded.url(), {"socket_keepalive": False})).dial().socket
    assert not made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    made.close()


@pytest.mark.parametrize(
    ("url", "says", "retryable"),
    [
        ("redis://127.0.0.1:{free}/0", "nothing listens at 127.0.0.1:{free}", True),
        ("redis://no-such-host.invalid/0", "the name of no-such-host.invalid:6379 cannot be resolved", True),
        ("unix:///no/such/socket", "there is no socket /no/such/socket", True),
        ("redis://:wrong@127.0.0.1:{free}/0;unix:///no/such", "nothing listens at 127.0.0.1:{free}; there is no", True),
    ],
)
def test_a_server_that_is_not_there_may_be_later(url: str, says: str, retryable: bool) -> None:
    """Each place that was tried is named with its reason."""
    free = free_port()
    error = refused(url.format(free=free))
    assert says.format(free=free) in str(error)
    assert (error.kind, error.retryable) == (Kind.UNREACHABLE, retryable)


def test_a_server_that_does_not_answer_is_not_waited_for_long(redis_server: Redis, redis_url: str) -> None:
    """The time to connect holds for the greeting too."""
    redis_server.pause()
    try:
        error = refused(redis_url, {"socket_connect_timeout": 0.2})
    finally:
        redis_server.resume()
    assert "does not answer within 0.2 s" in str(error)
    assert error.retryable


def serving(answer: bytes) -> tuple[int, threading.Thread]:
    """A port that takes one connection, answers whatever it hears with *answer*, and ends it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return listener.getsockname()[1], thread


@pytest.mark.parametrize(
    ("answer", "says", "retryable"),
    [
        (b"", "closed the connection at once; if it speaks only TLS, write rediss://", True),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no Redis server", False),
        (b"-ERR unknown command `HELLO`, with args: `3`\r\n" * 9, "is Redis older than 6; 6.2 or newer", False),
        (b"-NOPROTO unsupported protocol version\r\n" * 9, "does not speak RESP3; Redis 6.2", False),
        (b"-ERR max number of clients reached\r\n" * 9, "takes no more connections; raise its maxclients", True),
        (b"+OK\r\n" * 9, "does not speak RESP3; Redis 6.2", False),
        (
            b"%3\r\n+server\r\n+redis\r\n+version\r\n+6.0.16\r\n+role\r\n+master\r\n" + b"+x\r\n" * 9,
            "the server is Redis 6.0.16; 6.2 or newer is needed, or Valkey",
            False,
        ),
        (b"%1\r\n+version\r\n+7.0\r\n-LOADING Redis is loading\r\n" + b"+x\r\n" * 9, "still reading its data", True),
    ],
)
def test_what_is_no_server_for_us(answer: bytes, says: str, retryable: bool) -> None:
    """Something else on the port, a server that is too old, or one that is not ready."""
    port, thread = serving(answer)
    error = refused(f"redis://127.0.0.1:{port}/0")
    thread.join(20)
    assert says in str(error)
    assert error.retryable is retryable


def test_a_database_that_is_not_there(redis_server: Redis, redis_url: str) -> None:
    """The number is named, and where numbers end."""
    error = refused(f"redis://127.0.0.1:{redis_server.port}/99")
    assert "the server has no database 99" in str(error)
    assert not error.retryable


def test_alternates_are_tried_in_order(connect: Connect, redis_url: str) -> None:
    """The first that can be used is used; one that cannot is not asked for again and again."""
    link = connect(f"redis://127.0.0.1:{free_port()}/0;{redis_url}")
    assert ask(link, "PING") == b"PONG"


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_tls_with_the_authority_of_the_server(connect: Connect, guarded: Redis) -> None:
    """Large values travel both ways over TLS, from several threads."""
    link = connect(guarded.tls_url())
    large = bytes(range(256)) * 16384
    failed: list[int] = []

    def work(number: int) -> None:
        for turn in range(5):
            words = large if (turn + number) % 2 else b"small"
            if ask(link, "ECHO", words) != words:
                failed.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not failed


def test_tls_on_a_loop(guarded: Redis) -> None:
    """A worker's loop reads and writes TLS, 4 MB there and back."""
    import asyncio

    from .conftest import say

    large = bytes(range(256)) * 16384

    async def main() -> None:
        link = open_link(urls.parse(guarded.tls_url()))
        link.attach(asyncio.get_running_loop())
        await asyncio.wait_for(asyncio.wrap_future(link.start()), 20)
        replies = [asyncio.wrap_future(link.converse(say(("ECHO", words)))) for words in (large, b"small", large)]
        assert [await asyncio.wait_for(reply, 30) for reply in replies] == [[large], [b"small"], [large]]
        link.stop()

    asyncio.run(main())


def test_tls_by_the_setting_alone(connect: Connect, guarded: Redis) -> None:
    """``broker_use_ssl`` makes redis:// a TLS connection."""
    use_ssl = {"ssl_cert_reqs": "required", "ssl_ca_certs": str(guarded.certificates.authority)}
    url = f"redis://writer:secret@localhost:{guarded.tls_port}/0"
    Dialler(urls.parse(url, use_ssl=use_ssl)).dial().socket.close()
    unverified = urls.parse(url, use_ssl={"ssl_cert_reqs": "none"})
    Dialler(unverified).dial().socket.close()


def test_tls_that_cannot_be(guarded: Redis, redis_server: Redis, redis_url: str) -> None:
    """An authority nobody knows, TLS where there is none, and none where there is: each with its remedy."""
    unknown = refused(f"rediss://writer:secret@localhost:{guarded.tls_port}/0")
    assert "the certificate of localhost" in str(unknown)
    assert "ssl_ca_certs" in str(unknown)
    assert "ssl_cert_reqs=none" in str(unknown)
    assert (unknown.kind, unknown.retryable) == (Kind.TLS, False)
    none = refused(f"rediss://localhost:{redis_server.port}/0", {"socket_connect_timeout": 0.3})
    assert "if the server speaks no TLS, write redis://" in str(none)
    plain = refused(f"redis://localhost:{guarded.tls_port}/0")
    assert "if it speaks only TLS, write rediss://" in str(plain)


def test_the_name_of_a_server_has_to_be_that_of_its_certificate(
    guarded: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate for another name is refused, unless names are not to be checked."""
    resolve = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda place, timeout: resolve(("127.0.0.1", place[1]), timeout))
    authority = quote(str(guarded.certificates.authority))
    url = f"rediss://writer:secret@elsewhere.example:{guarded.tls_port}/0?ssl_ca_certs={authority}"
    error = refused(url)
    assert "not valid for 'elsewhere.example'" in str(error)
    assert not error.retryable
    Dialler(urls.parse(f"{url}&ssl_check_hostname=false")).dial().socket.close()


def test_a_server_that_wants_a_certificate_of_its_clients(tmp_path: Path) -> None:
    """With one, we are let in; without, the reason is TLS, and final."""
    server = Redis(tls="mutual")
    for started in running(server):
        mine = server.certificates
        url = f"{started.tls_url()}&ssl_certfile={quote(str(mine.client))}&ssl_keyfile={quote(str(mine.client_key))}"
        Dialler(urls.parse(url)).dial().socket.close()
        error = refused(started.tls_url())
        assert error.kind in (Kind.TLS, Kind.UNREACHABLE)
        garbage = tmp_path / "garbage.pem"
        garbage.write_text("nothing")
        error = refused(f"rediss://localhost:{started.tls_port}/0?ssl_ca_certs={quote(str(garbage))}")
        assert f"no certificate can be read from {garbage}" in str(error)
        assert (error.kind, error.retryable) == (Kind.TLS, False)


# -- judged ------------------------------------------------------------------------------------------------------------


def test_a_server_that_evicts_is_refused(redis_server: Redis, redis_url: str, connect: Connect) -> None:
    """A server that would delete messages to make room is refused with the remedy, unless it is accepted expressly;
    without a limit to its memory it evicts nothing, and is warned of."""
    redis_server.command("CONFIG", "SET", "maxmemory", "100mb")
    redis_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        error = refused(redis_url)
        assert "evicts keys when its memory is full (maxmemory-policy allkeys-lru)" in str(error)
        assert "'maxmemory-policy noeviction'" in str(error)
        assert "{'allow_eviction': True}" in str(error)
        assert (error.kind, error.retryable) == (Kind.UNSUITABLE, False)
        link = connect(redis_url, {"allow_eviction": True})
        assert link.facts is not None
        assert any("may vanish" in warning for warning in link.facts.warnings(urls.STORE))
        redis_server.command("CONFIG", "SET", "maxmemory", "0")
        link = connect(redis_url)
        assert link.facts is not None
        assert any("as soon as it had a maxmemory" in warning for warning in link.facts.warnings(urls.STORE))
    finally:
        redis_server.command("CONFIG", "SET", "maxmemory", "0")
        redis_server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")


def test_what_a_confirmation_means(connect: Connect, redis_url: str) -> None:
    """A server without persistence is said so, to those who use it as a broker; others get a word only where needed."""
    found = connect(redis_url).facts
    assert found is not None
    assert found.durability is Durability.NEVER
    (warning,) = found.warnings(urls.BROKER)
    assert "lost when the server restarts" in warning
    assert found.warnings(urls.STORE) == []


@pytest.mark.parametrize(
    ("persistence", "save", "fsync", "meant"),
    [
        ("aof_enabled:1", "", "always", Durability.AT_ONCE),
        ("aof_enabled:1", "", "everysec", Durability.SOON),
        ("aof_enabled:1", None, None, Durability.SOON),
        ("aof_enabled:1", "3600 1", "no", Durability.SNAPSHOTS),
        ("aof_enabled:0", "3600 1 300 100", "everysec", Durability.SNAPSHOTS),
        ("aof_enabled:0", "", "always", Durability.NEVER),
        ("aof_enabled:0", None, None, Durability.UNKNOWN),
        (None, "", "always", Durability.UNKNOWN),
    ],
)
def test_when_it_is_on_disk(persistence: str | None, save: str | None, fsync: str | None, meant: Durability) -> None:
    """Of what the server says of itself, and of what it does not."""

    def answer(value: str | None, name: bytes) -> Any:
        return RuntimeError("NOPERM") if value is None else {name: value.encode()}

    info = RuntimeError("NOPERM") if persistence is None else persistence.encode()
    found = facts.read({b"server": b"redis"}, [b"", info, answer(save, b"save"), answer(fsync, b"appendfsync")])
    assert found.durability is meant


def test_a_valkey_is_as_good_as_a_redis() -> None:
    """Its versions are counted otherwise."""
    address = urls.parse("redis://h")
    assert facts.unfit(ServerFacts("valkey", "8.0.1", 1), address, "h") is None
    assert facts.unfit(ServerFacts("redis", "6.2.0", 1), address, "h") is None
    assert facts.unfit(ServerFacts("redis", "10.0", 1), address, "h") is None
    assert facts.unfit(ServerFacts("redis", "6.0.20", 1), address, "h") == facts.TOO_OLD.format(version="6.0.20")


# -- replicas and sentinels --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentinels() -> Iterator[RedisSentinels]:
    """A master, a replica and three sentinels, with passwords."""
    yield from running(RedisSentinels(password="geheim", sentinel_password="secret"))  # type: ignore[type-var]


OPTIONS = {"master_name": "mymaster", "sentinel_kwargs": {"password": "secret"}}


def test_a_replica_is_refused(sentinels: RedisSentinels) -> None:
    """A server that takes no writes is none for us, and says which to name."""
    replica = sentinels.second if sentinels.master is sentinels.first else sentinels.first
    error = refused(replica.url())
    assert "is a read-only replica; name its master" in str(error)
    assert (error.kind, error.retryable) == (Kind.READ_ONLY, False)


def test_mistakes_with_sentinels(sentinels: RedisSentinels, guarded: Redis) -> None:
    """A master nobody watches, a missing password, too few sentinels, or no sentinel at all."""
    name = refused(sentinels.url, {**OPTIONS, "master_name": "other"})
    assert str(name).count("watches no master 'other'; correct 'master_name'") == 1
    password = refused(sentinels.url, {"master_name": "mymaster"})
    assert "give their own in the transport option sentinel_kwargs" in str(password)
    few = refused(sentinels.url, {**OPTIONS, "min_other_sentinels": 5})
    assert "knows 2 others, and min_other_sentinels wants 5" in str(few)
    options = {"master_name": "m", "sentinel_kwargs": {"password": PASSWORD}}
    none = refused(f"sentinel://127.0.0.1:{guarded.port}", options)
    assert "is no sentinel; write redis:// for a server" in str(none)
    assert [error.retryable for error in (name, password, few, none)] == [False, False, True, False]


def test_the_master_is_followed(connect: Connect, sentinels: RedisSentinels) -> None:
    """Sentinels are asked at each connection: the master dies, its replica is made the master, and the link follows; a
    sentinel that is gone is passed over."""
    down = f"sentinel://:geheim@127.0.0.1:{free_port()}/0"
    told: list[str] = []
    hear = {"on_down": lambda _: told.append("down"), "on_up": lambda: told.append("up")}
    link = connect(f"{down};{sentinels.url}", OPTIONS, **hear)
    link.listen()
    old = sentinels.master
    assert str(old.port).encode() in ask(link, "INFO", "server")
    old.kill()
    eventually(lambda: told == ["down", "up"], "the link has found the new master", timeout=60)
    assert sentinels.master is not old
    assert str(sentinels.master.port).encode() in ask(link, "INFO", "server")
    assert ask(link, "SET", "key", "value") == b"OK"


# -- cluster -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """Three nodes."""
    yield from running(RedisCluster())  # type: ignore[type-var]


def test_any_node_leads_to_that_of_our_keys(connect: Connect, cluster: RedisCluster) -> None:
    """Whichever node is named, the connection is to the one whose slot the hash tag falls into."""
    seen = set()
    for number, prefix in itertools.product(range(3), ("{a}", "{b}:", "app{c}")):
        link = connect(cluster.url(number), {"global_keyprefix": prefix})
        assert ask(link, "SET", f"{prefix}key", "value") == b"OK"
        assert link.facts is not None
        assert link.facts.cluster
        seen.add((prefix, ask(link, "CLUSTER", "MYID")))
    assert len(seen) == 3, "each prefix has one node"
    assert len({node for _, node in seen}) == 3, "the three are on different ones, which is what is tested"


def test_a_cluster_needs_one_tag_and_database_0(cluster: RedisCluster) -> None:
    """Configurations that cannot work there are refused with what to write."""
    with pytest.raises(ImproperlyConfigured, match=r"is a Redis Cluster.*\{'global_keyprefix': '\{kern\}'\}"):
        Dialler(urls.parse(cluster.url())).dial()
    with pytest.raises(ImproperlyConfigured, match="has only database 0, not 2"):
        Dialler(urls.parse(cluster.nodes[0].url(2), {"global_keyprefix": "{kern}"})).dial()


def test_keys_that_move_are_followed(connect: Connect, cluster: RedisCluster) -> None:
    """The slot goes to another node: what is asked then is asked there, without anybody noticing."""
    link = connect(cluster.url(), {"global_keyprefix": "{moving}"})
    slot = ask(link, "CLUSTER", "KEYSLOT", "{moving}")
    nodes = [node.lines("CLUSTER", "MYID")[0].encode() for node in cluster.nodes]
    source = nodes.index(ask(link, "CLUSTER", "MYID"))
    target = (source + 1) % 3
    cluster.give(slot, source, target)
    try:
        assert ask(link, "LPUSH", "{moving}key", "value") == 1
        assert ask(link, "CLUSTER", "MYID") == nodes[target]
        ask(link, "DEL", "{moving}key")
    finally:
        cluster.give(slot, target, source)


def test_other_nodes_are_remembered(cluster: RedisCluster) -> None:
    """Where the node of the URL is gone, those that were seen once are asked."""
    address = urls.parse(cluster.url(), {"global_keyprefix": "{b}:"})
    dialler = Dialler(address)
    dialler.dial().socket.close()
    dialler.address = attrs.evolve(address, targets=urls.parse(f"redis://127.0.0.1:{free_port()}").targets)
    dialler.dial().socket.close()
