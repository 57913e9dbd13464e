"""The plugin: what it drives, and what loading it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kern.app import Kern
from kern.errors import ImproperlyConfigured
from kern_broker_redis.plugin import SCHEMES, kern_example_urls
from kern_broker_redis.transport import RedisTransport

URLS = {
    "redis": "redis://localhost:1/2",
    "rediss": "rediss://localhost:1/2",
    "redis+socket": "redis+socket:///tmp/redis.sock?virtual_host=2",
    "unix": "unix:///tmp/redis.sock?db=2",
    "sentinel": "sentinel://localhost:1/2",
    "valkey": "valkey://localhost:1/2",
    "valkeys": "valkeys://localhost:1/2",
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_makes_a_transport(scheme: str) -> None:
    """Of the application's settings; nothing is connected yet."""
    app = Kern("tests", broker=URLS[scheme], broker_transport_options={"master_name": "m"})
    transport = app.make_transport()
    assert isinstance(transport, RedisTransport)
    assert transport.stop().result(10) is None


def test_examples_of_urls_can_be_used_as_they_are() -> None:
    for scheme, url in kern_example_urls().items():
        assert scheme in SCHEMES
        assert isinstance(Kern("tests", broker=url).make_transport(), RedisTransport)


def test_valkeys_schemes_are_rediss_own() -> None:
    app = Kern("tests", broker="valkey://user:secret@localhost:1;valkey://other:1")
    transport = app.make_transport()
    assert "secret" not in transport.url
    assert transport.url.startswith("redis://")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://localhost/x", "[Dd]atabase"),
        ("redis://localhost/0?timeot=1", "timeot"),
        ("sentinel://localhost", "master_name"),
        ("redis://localhost:port", "port"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=why):
        Kern("tests", broker=url).make_transport()


def test_the_plugin_itself_imports_nothing_heavy() -> None:
    """Who uses another broker does not pay for this one."""
    code = (
        "import sys, kern_broker_redis.plugin as plugin; plugin.kern_transports(); plugin.kern_settings();"
        "print([name for name in ('hiredis', 'msgspec', 'asyncio', 'ssl', 'kern_broker_redis.transport') "
        "if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
