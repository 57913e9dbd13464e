"""URLs: what people write for Celery, and the server they mean."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from kern.errors import ImproperlyConfigured
from kern_redis_client.urls import STORE, Address, Target, Verify, Way, hash_tag, is_redis_url, parse


def only(address: Address) -> Target:
    assert len(address.targets) == 1
    return address.targets[0]


@pytest.mark.parametrize(
    ("url", "host", "port", "database", "user", "password"),
    [
        ("redis://", "localhost", 6379, 0, None, None),
        ("redis://localhost", "localhost", 6379, 0, None, None),
        ("redis://localhost/", "localhost", 6379, 0, None, None),
        ("redis://db.example:7000/12", "db.example", 7000, 12, None, None),
        ("REDIS://db.example/3", "db.example", 6379, 3, None, None),
        ("redis://:secret@h/0", "h", 6379, 0, None, "secret"),
        ("redis://user:secret@h:1/0", "h", 1, 0, "user", "secret"),
        ("redis://us%40er:p%3A%2F%3F%23%40ss%3B@h/0", "h", 6379, 0, "us@er", "p:/?#@ss;"),
        ("redis://[::1]:7000/1", "::1", 7000, 1, None, None),
        ("redis://[fe80::1%25eth0]", "fe80::1%25eth0", 6379, 0, None, None),
        ("redis://h/?virtual_host=4", "h", 6379, 4, None, None),
        ("redis://h/2?db=5", "h", 6379, 5, None, None),
        ("redis://h/1?username=u&password=p%26", "h", 6379, 1, "u", "p&"),
    ],
)
def test_parts_of_a_url(url: str, host: str, port: int, database: int, user: str | None, password: str | None) -> None:
    """Host, port, database, user and password, with what is meant where one is missing; percent-decoded."""
    assert only(parse(url)) == Target(host, port, "", database, user, password)


@pytest.mark.parametrize("url", ["redis+socket:///run/redis.sock?virtual_host=3", "unix:///run/redis.sock?db=3"])
def test_a_unix_socket(url: str) -> None:
    """A path names the socket, a parameter the database."""
    assert only(parse(url)) == Target(path="/run/redis.sock", database=3)
    assert only(parse("unix:///with%20space?password=p")) == Target(path="/with space", password="p")


def test_alternates_have_each_their_own_parts() -> None:
    """Several servers, that stand in for each other, may differ in everything."""
    address = parse("redis://a:1/2; rediss://u:p@b/3?ssl_cert_reqs=none;redis+socket:///c")
    assert address.way is Way.DIRECT
    assert [(str(target), target.database, target.password, target.tls is not None) for target in address.targets] == [
        ("a:1", 2, None, False),
        ("b:6379", 3, "p", True),
        ("/c", 0, None, False),
    ]


def test_sentinels_are_asked_for_the_master_as_whom_the_first_says() -> None:
    """The first sentinel's URL says who we are and which database we want; the others are places to ask."""
    address = parse(
        "sentinel://:pw@a/2;sentinel://b:26380;sentinel://c/7",
        {
            "master_name": "mymaster",
            "min_other_sentinels": 1,
            "sentinel_kwargs": {"password": "other", "socket_timeout": 0.5, "ssl": True},
        },
    )
    assert address.way is Way.SENTINEL
    assert [(str(t), t.database, t.password) for t in address.targets] == [
        ("a:26379", 2, "pw"),
        ("b:26380", 2, "pw"),
        ("c:26379", 2, "pw"),
    ]
    assert (address.master_name, address.min_other_sentinels, address.sentinel_timeout) == ("mymaster", 1, 0.5)
    assert address.sentinel.password == "other"
    assert address.sentinel.tls is not None
    assert address.database == 2


def test_a_url_wins_over_options_and_these_over_defaults() -> None:
    """Settings fill in what the URL leaves open, as Celery's ``redis_host`` and so on do."""
    options = {"host": "from.settings", "port": 1, "db": 9, "username": "su", "password": "sp"}
    assert only(parse("redis://", options)) == Target("from.settings", 1, "", 9, "su", "sp")
    assert only(parse("redis://u:p@h:2/3", options)) == Target("h", 2, "", 3, "u", "p")
    given = parse("redis://h?socket_timeout=7&client_name=mine", {"socket_timeout": 3, "socket_connect_timeout": 2})
    assert (given.silence, given.connect_timeout, given.client_name) == (7.0, 2.0, "mine")
    assert (parse("redis://h").connect_timeout, parse("redis://h").silence) == (4.0, 10.0)
    assert parse("redis://h?health_check_interval=1.5&socket_keepalive=false").health_check_interval == 1.5
    assert parse("redis://h?health_check_interval=0").health_check_interval == float("inf"), "switched off"
    assert not parse("redis://h?socket_keepalive=false").keepalive
    assert parse("redis://h").keepalive
    assert parse("redis://h", {"global_keyprefix": "app:", "visibility_timeout": 1}).key_prefix == "app:"


def test_what_cannot_have_an_effect_here_is_accepted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """Parameters for redis-py that mean nothing here do not stand in the way of a Celery configuration."""
    with caplog.at_level("INFO", "kern.connection"):
        parse("redis://h/0?max_connections=20&retry_on_timeout=true&protocol=2")
    assert [record.__dict__.get("option") or record.getMessage() for record in caplog.records]
    assert len(caplog.records) == 3


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("CERT_REQUIRED", Verify.REQUIRED),
        ("required", Verify.REQUIRED),
        ("CERT_OPTIONAL", Verify.OPTIONAL),
        ("none", Verify.NONE),
        (ssl.CERT_NONE, Verify.NONE),
        (2, Verify.REQUIRED),
    ],
)
def test_words_for_verification(written: Any, meant: Verify) -> None:
    """Celery's words, in a URL and in a mapping, and the numbers of :mod:`ssl`."""
    tls = only(parse("redis://h", use_ssl={"ssl_cert_reqs": written})).tls
    assert tls is not None
    assert tls.verify is meant
    if isinstance(written, str):
        tls = only(parse(f"rediss://h/0?ssl_cert_reqs={written}", purpose=STORE)).tls
        assert tls is not None
        assert tls.verify is meant


def test_tls_options_by_both_their_names(tmp_path: Path) -> None:
    """Files are named in the URL, percent-encoded, or in a mapping, with the prefix and without; the URL wins."""
    for name in ("ca one.pem", "ca2.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()
    tls = only(
        parse(
            f"rediss://h/0?ssl_ca_certs={tmp_path}/ca%20one.pem&ssl_check_hostname=false",
            use_ssl={
                "ssl_ca_certs": f"{tmp_path}/ca2.pem",
                "certfile": tmp_path / "cert.pem",
                "keyfile": f"{tmp_path}/key.pem",
            },
        )
    ).tls
    assert tls is not None
    assert (tls.ca_certs, tls.certfile, tls.keyfile) == tuple(
        f"{tmp_path}/{name}" for name in ("ca one.pem", "cert.pem", "key.pem")
    )
    assert tls.check_hostname is False
    assert tls.verify is Verify.REQUIRED


def test_who_asks_for_tls_and_says_nothing_more_gets_it_verified() -> None:
    """``rediss://`` alone and ``broker_use_ssl=True`` check the certificate."""
    for address in (parse("rediss://h"), parse("redis://h", use_ssl=True)):
        tls = only(address).tls
        assert tls is not None
        assert tls.verify is Verify.REQUIRED
    assert only(parse("redis://h", use_ssl=False)).tls is None
    assert only(parse("unix:///s", use_ssl=True)).tls is None


def test_a_store_has_to_say_whether_certificates_are_checked() -> None:
    """As in Celery; a mapping says it as well as the URL."""
    with pytest.raises(
        ImproperlyConfigured, match=r"must have parameter ssl_cert_reqs .* CERT_REQUIRED, CERT_OPTIONAL"
    ):
        parse("rediss://h/0", purpose=STORE)
    assert only(parse("rediss://h/0", use_ssl={"ssl_cert_reqs": "none"}, purpose=STORE)).tls is not None


@pytest.mark.parametrize("written", ["optional", "none"])
def test_unverified_certificates_are_warned_of(written: str, caplog: pytest.LogCaptureFixture) -> None:
    """Who does not insist on a valid certificate is told so once."""
    parse(f"rediss://:geheim@h?ssl_cert_reqs={written}")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "geheim" not in str(record.__dict__)


# -- what is shown, and what is the same -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("redis://:secret@h:1/2", "redis://:**@h:1/2"),
        ("redis://user:se%40cret@h", "redis://user:**@h"),
        ("redis+socket:///s?password=secret", "redis+socket:///s?password=**"),
        ("redis://:a@h;redis://:b@i", "redis://:**@h;redis://:**@i"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    """The masked form has two stars, as Celery's has, and neither it nor ``repr`` gives the password away."""
    address = parse(url)
    assert address.masked == shown
    assert "secret" not in repr(address)
    assert "se@cret" not in repr(address)


def test_broker_and_store_are_joint_only_on_one_server() -> None:
    """Spellings of one server are one, in any of its databases; another one, another user or another node of a cluster
    is another."""
    same = ["redis://localhost/1", "redis://127.0.0.1:6379/2", "redis://default:pw@LOCALHOST", "redis://[::1]/1?db=1"]
    assert {parse(url).identity for url in same} == {"redis:localhost:6379"}
    prefixes = [{"global_keyprefix": prefix} for prefix in ("a:", "b:")]
    assert len({parse("redis://h", options).identity for options in prefixes}) == 1
    others = ["redis://localhost:1", "redis://other", "redis://user:pw@localhost", "unix:///s", "redis://localhost"]
    assert len({parse(url).identity for url in others}) == 5
    tags = [{"global_keyprefix": prefix} for prefix in ("{a}", "{b}")]
    assert len({parse("redis://h", options).identity for options in tags}) == 2
    master = {"master_name": "m"}
    assert parse("sentinel://a;sentinel://b", master).identity == parse("sentinel://b;sentinel://a", master).identity
    assert parse("sentinel://a", master).identity != parse("sentinel://a", {"master_name": "n"}).identity
    assert parse("redis://a;redis://b").identity is None, "broker and store may be at different ones at a time"


def test_a_socket_by_two_paths_is_one(tmp_path: Path) -> None:
    """A link to a socket is the socket."""
    (tmp_path / "socket").touch()
    (tmp_path / "link").symlink_to(tmp_path / "socket")
    assert parse(f"unix://{tmp_path}/socket").identity == parse(f"redis+socket://{tmp_path}/link").identity


def test_what_a_cluster_looks_at() -> None:
    """The first braces of a key, if anything is between them."""
    assert [hash_tag(key) for key in ("{a}b", "x{a}{b}", "{}{a}", "a", "{a", "}a{")] == ["a", "a", "", "", "", ""]


def test_which_urls_are_ours() -> None:
    """By the scheme alone."""
    assert all(map(is_redis_url, ("redis://", "REDISS://x", "sentinel://a", "unix:///s", "redis+socket:///s")))
    assert not any(map(is_redis_url, ("redis", "amqp://", "", "sqlite:///x", "redis+tls://x")))


# -- credential providers ----------------------------------------------------------------------------------------------


class Provider:
    """Has credentials."""

    def get_credentials(self) -> tuple[str, str]:
        return ("user", "secret")


INSTANCE = Provider()


def test_a_credential_provider_stands_for_user_and_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object, its class, or the dotted path of either; what the URL says of user and password is not used."""
    import sys

    monkeypatch.setitem(sys.modules, "credentials_for_tests", sys.modules[__name__])
    for given in (INSTANCE, Provider, "credentials_for_tests.Provider", "credentials_for_tests.INSTANCE"):
        address = parse("redis://u:p@h", {"credential_provider": given})
        assert isinstance(address.credential_provider, Provider)
        assert (only(address).username, only(address).password) == (None, None)
    address = parse("redis://h?credential_provider=credentials_for_tests.Provider")
    assert isinstance(address.credential_provider, Provider)


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options", "use_ssl", "says"),
    [
        ("", {}, None, "no URL; write redis://localhost:6379/0"),
        ("redis://:geheim@h/x", {}, None, "Database is int between 0 and limit - 1, not x; write it behind the port"),
        ("redis://:geheim@h/-1", {}, None, "Database is int"),
        ("redis://:geheim@h:0x/1", {}, None, "port is a number from 1 to 65535"),
        ("redis://:geheim@h:99999/1", {}, None, "port is a number from 1 to 65535"),
        ("redis://:geheim@[::1/1", {}, None, "IPv6 address stands in brackets"),
        ("redis://:geheim@h?sockettimeout=1", {}, None, "'sockettimeout'; did you mean 'socket_timeout'"),
        ("redis://:geheim@h?socket_timeout=soon", {}, None, "socket_timeout is a number of seconds above zero"),
        ("redis://:geheim@h?socket_timeout=0", {}, None, "socket_timeout is a number of seconds above zero"),
        ("redis://:geheim@h", {"socket_connect_timeout": float("inf")}, None, "socket_connect_timeout is a number"),
        (
            "redis://:geheim@h?ssl_cert_reqs=none",
            {},
            None,
            "SSL connection parameters .* scheme is redis://; write rediss",
        ),
        ("rediss://:geheim@h?ssl_cert_reqs=maybe", {}, None, "CERT_REQUIRED, CERT_OPTIONAL, or CERT_NONE"),
        ("rediss://:geheim@h?ssl_ca_cert=x", {}, None, "'ssl_ca_cert'; did you mean 'ssl_ca_certs'"),
        (
            "rediss://:geheim@h?ssl_ca_certs=/no/such/file",
            {},
            None,
            "no file '/no/such/file', which ssl_ca_certs names",
        ),
        ("redis://:geheim@h", {}, "yes", "switched on by True or a mapping of options, not str"),
        ("redis://:geheim@h", {}, {"ssl_keyfile": "/"}, "name that too, with ssl_certfile"),
        ("unix:///s?ssl_cert_reqs=none&password=geheim", {}, None, "a Unix socket knows no TLS; remove ssl_cert_reqs"),
        ("unix://:geheim@host/s", {}, None, "absolute path, behind three slashes"),
        ("redis+socket://", {}, None, "absolute path, behind three slashes"),
        ("redsi://:geheim@h", {}, None, "did you mean redis://"),
        ("redis://:geheim@h;b:6379", {}, None, "'b:6379' has no scheme"),
        ("redis://u:geheim/@?geheim@h", {}, None, "are written percent-encoded"),
        ("redis://:gehe;im@h", {}, None, "has no scheme; write redis://host:6379/0, and a ';' of a password as %3B"),
        ("sentinel://:geheim@h", {}, None, "'master_name' transport option must be specified"),
        ("sentinel://h;redis://:geheim@i", {"master_name": "m"}, None, "write sentinel:// before each"),
        ("sentinel://h", {"master_name": "m", "sentinel_kwargs": 1}, None, "sentinel_kwargs is a mapping, not int"),
        ("sentinel://h", {"master_name": "m", "sentinel_kwargs": {"pasword": "geheim"}}, None, "mean 'password'"),
        ("sentinel://h", {"master_name": "m", "min_other_sentinels": "two"}, None, "min_other_sentinels is a number"),
        ("redis://:geheim@h", {"client_name": "two words"}, None, "client_name has only visible characters"),
        ("redis://:geheim@h", {"global_keyprefix": 3}, None, "global_keyprefix is text, not int"),
        ("redis://:geheim@h", {"socket_keepalive_options": "TCP_KEEPIDLE"}, None, "maps numbers of TCP options"),
        ("redis://:geheim@h", {"credential_provider": "no.such.thing"}, None, "'no.such.thing' cannot be imported"),
        ("redis://:geheim@h", {"credential_provider": 3}, None, r"int has no get_credentials\(\)"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(url: str, options: dict[str, Any], use_ssl: Any, says: str) -> None:
    """Each message names the URL, without its password, and what to write instead."""
    with pytest.raises(ImproperlyConfigured, match=says) as error:
        parse(url, options, use_ssl=use_ssl)
    assert "geheim" not in str(error.value)
    assert str(error.value).startswith("broker ")
    assert "\n" not in str(error.value)
