"""What the plugin hands over."""

from __future__ import annotations

import subprocess
import sys

from kern.celery_settings import PROVIDED_BY
from kern.settings import declared_settings
from kern_backend_redis import plugin
from kern_backend_redis.settings import RedisResultSettings

SCHEMES = {"redis", "rediss", "redis+socket", "unix", "sentinel", "valkey", "valkeys"}


def test_every_way_to_name_a_server_is_offered() -> None:
    assert set(plugin.kern_result_stores()) == SCHEMES


def test_a_store_is_made_of_each_example() -> None:
    """Without connecting to anything."""
    examples = {scheme: f"{scheme}://" for scheme in SCHEMES} | {"redis+socket": "redis+socket:///r.sock"}
    examples |= plugin.kern_example_urls()
    for scheme, url in examples.items():
        assert plugin.kern_result_stores()[scheme](url, None).server is not None


def test_valkey_is_redis() -> None:
    assert plugin.make_store("valkey://h:1/2", None).server == plugin.make_store("redis://h:1/3", None).server


def test_its_settings_are_celerys() -> None:
    """All that Celery has for its Redis store, but for what can have no effect here."""
    assert plugin.kern_settings() == [RedisResultSettings]
    assert set(declared_settings(RedisResultSettings)) == set(PROVIDED_BY["kern-backend-redis"])


def test_results_go_nowhere_unless_somebody_says_where() -> None:
    """A Redis broker alone makes no result store, as in Celery."""
    assert not hasattr(plugin, "kern_default_backend")


def test_loading_the_plugin_imports_nothing_heavy() -> None:
    code = """
import sys
from kern_backend_redis import plugin
plugin.kern_result_stores(), plugin.kern_settings(), plugin.kern_example_urls()
heavy = {"hiredis", "msgspec", "asyncio", "ssl", "kern_redis_client", "kern_backend_redis.store"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
