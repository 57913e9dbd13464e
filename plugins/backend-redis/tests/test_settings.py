"""Each setting acts, or is refused, or says in the log why it has no effect."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from kern.errors import BackendUnavailable, ImproperlyConfigured, InvalidSetting, UnknownSetting
from kern.settings import Settings
from kern.settings_core import ResultSettings
from kern_backend_redis.settings import Options, RedisResultSettings
from kern_backend_redis.store import RedisResultStore
from kern_testing.contracts.connection import StoreConnection
from kern_testing.servers import Redis

from .conftest import Ask, Opened

Make = Callable[..., RedisResultStore]


def options(**changes: Any) -> Options:
    return Options.of(Settings([ResultSettings, RedisResultSettings], changes=changes, environ={}))


def driver(**given: Any) -> Options:
    return options(result_backend_transport_options=given)


def test_an_alias_stands_for_the_settings(opened: Opened, redis_server: Redis) -> None:
    store = opened("redis", redis_host="127.0.0.1", redis_port=redis_server.port, redis_db=3)
    assert store.port.url == "redis://"
    store.write(store.document("id"))
    assert redis_server.command("DBSIZE") == ":0"
    assert opened(redis_server.url(3)).read_one("id") is not None


def test_what_stands_in_the_url_wins_over_settings(make: Make) -> None:
    store = make("redis://:own@h1:1/1", redis_host="h2", redis_port=2, redis_db=2, redis_password="other")
    (target,) = store.address.targets
    assert (target.host, target.port, target.database, target.password) == ("h1", 1, 1, "own")
    store = make("redis://", redis_host="h2", redis_port=2, redis_db=2, redis_username="u", redis_password="p")
    (target,) = store.address.targets
    assert (target.host, target.port, target.database, target.username, target.password) == ("h2", 2, 2, "u", "p")


def test_settings_of_the_connection_act(make: Make) -> None:
    address = make(
        "redis://",
        redis_socket_timeout=1.5,
        redis_socket_connect_timeout=2.5,
        redis_socket_keepalive=False,
        redis_backend_health_check_interval=3.5,
        redis_client_name="reports",
    ).address
    assert (address.silence, address.connect_timeout, address.health_check_interval) == (1.5, 2.5, 3.5)
    assert (address.keepalive, address.client_name) == (False, "reports")
    assert make("redis://").address.keepalive, "left alone, they are those of the connection"


def test_the_client_has_its_name_on_the_server(opened: Opened, ask: Ask) -> None:
    opened(redis_client_name="reports")
    assert b"name=reports" in ask("CLIENT", "LIST")


def test_credentials_may_come_from_a_provider(make: Make, redis_url: str) -> None:
    """Asked at each login; what it raises is a connection that cannot be made now."""

    class Vault:
        closed = True

        def get_credentials(self) -> tuple[str, ...]:
            if self.closed:
                raise LookupError("the vault is closed")
            return ("default", "")

    vault = Vault()
    with pytest.raises(BackendUnavailable, match="the vault is closed") as caught:
        StoreConnection(make(redis_url, redis_backend_credential_provider=vault)).start()
    assert caught.value.retryable
    vault.closed = False
    connection = StoreConnection(make(redis_url, redis_backend_credential_provider=vault)).start()
    assert connection.read("id") == {}
    connection.stop()


def test_tls_wants_to_be_told_whom_to_believe(make: Make) -> None:
    """Celery's rule for results: a rediss:// URL says ssl_cert_reqs, there or in redis_backend_use_ssl."""
    with pytest.raises(ImproperlyConfigured, match="ssl_cert_reqs"):
        make("rediss://h/0")
    assert make("rediss://h/0", redis_backend_use_ssl={"ssl_cert_reqs": "required"}).address.targets[0].tls is not None
    assert make("rediss://h/0?ssl_cert_reqs=CERT_NONE").address.targets[0].tls is not None
    with pytest.raises(ImproperlyConfigured, match="redis://"):
        make("redis://h/0?ssl_cert_reqs=none")


def test_sentinels_want_the_masters_name(make: Make) -> None:
    with pytest.raises(ImproperlyConfigured, match="master_name"):
        make("sentinel://a:26379/0;sentinel://b:26379")
    store = make(
        "sentinel://a:26379/2;sentinel://b:26379",
        result_backend_transport_options={"master_name": "m", "min_other_sentinels": 1, "sentinel_kwargs": {}},
    )
    assert (store.address.master_name, store.address.min_other_sentinels, store.address.database) == ("m", 1, 2)


@pytest.mark.parametrize(
    ("given", "milliseconds"),
    [(None, 0), (0, 0), (10, 10_000), (timedelta(hours=1), 3_600_000), (12.7, 12_700), (0.2, 200)],
)
def test_lives_are_numbers_or_timedeltas(given: Any, milliseconds: int) -> None:
    found = options(result_expires=given, result_failure_expires=given or 0, result_chord_expires=given or 0)
    assert (found.life, found.failure_life, found.join_life) == (milliseconds,) * 3
    assert found.chord_seconds == milliseconds // 1000, "chords are kept for whole seconds, as by Celery"


def test_lives_that_are_not_set_are_those_of_results() -> None:
    found = options(result_expires=50)
    assert (found.failure_life, found.join_life, found.chord_seconds, found.group_seconds) == (50_000, 50_000, 50, 50)
    found = options(result_expires=500, result_chord_expires=100)
    assert (found.chord_seconds, found.group_seconds) == (100, 500)
    assert options(result_expires=0, result_chord_expires=100).group_seconds == 0


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"global_keyprefx": "p"}, "did you mean 'global_keyprefix'"),
        ({"global_keyprefix": 7}, "'global_keyprefix'"),
        ({"result_chord_ordered": "yes"}, "'result_chord_ordered'"),
        ({"retry_policy": 3}, "'retry_policy'"),
        ({"retry_policy": {"max_retry": 3}}, "'max_retry'"),
        ({"retry_policy": {"max_retries": -1}}, "max_retries"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidSetting, match="result_backend_transport_options") as caught:
        driver(**given)
    assert named in str(caught.value)


def test_options_that_have_nothing_to_do_are_explained(caplog: pytest.LogCaptureFixture) -> None:
    """People repeat the broker's options here, and copy the retry policy of Celery's manual."""
    caplog.set_level("INFO")
    found = driver(
        visibility_timeout=3600,
        additional_connection_errors=["redis.exceptions.BusyLoadingError"],
        retry_policy={"timeout": 5.0, "max_retries": 3, "interval_max": 1},
    )
    assert found.max_retries == 3
    said = " ".join(str(vars(record)) for record in caplog.records)
    for option in (
        "visibility_timeout",
        "additional_connection_errors",
        "retry_policy.timeout",
        "retry_policy.interval_max",
    ):
        assert option in said


def test_retries_are_as_many_as_one_wants() -> None:
    assert driver().max_retries == 20
    assert driver(retry_policy={"max_retries": None}).max_retries == float("inf")


def test_the_life_of_a_claim_follows_the_join_timeout() -> None:
    """The setting belongs to another plugin; without it, Celery's default counts."""

    class Conf:
        result_expires, result_serializer = 60, "json"

        def __init__(self, **values: Any) -> None:
            self.values = values

        def section(self, _section: Any) -> RedisResultSettings:
            return RedisResultSettings()

        def __getitem__(self, key: str) -> Any:
            if key not in self.values:
                raise UnknownSetting(key)
            return self.values[key]

    assert Options.of(Conf()).claim_seconds == 6
    assert Options.of(Conf(result_chord_join_timeout=10.0)).claim_seconds == 20
    assert Options.of(Conf(result_chord_join_timeout=0.1)).claim_seconds == 5


def test_the_password_is_a_secret() -> None:
    settings = Settings([ResultSettings, RedisResultSettings], changes={"redis_password": "hunter2"}, environ={})
    assert "hunter2" not in settings.humanize()
