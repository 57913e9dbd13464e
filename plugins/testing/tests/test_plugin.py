"""What the plugin hands over comes in by the same door as any other plugin's."""

from kern.contracts.pool import PoolOptions
from kern.plugins import Plugins
from kern_testing import make, plugin
from kern_testing.memory import MemoryResultStore, MemoryTransport, forget
from kern_testing.worker import InlinePool


def test_memory_and_the_inline_pool_are_known_once_it_is_installed() -> None:
    """Transport, result store and pool are found by scheme and name."""
    plugins = Plugins()
    url = f"memory://{make.unique('found')}"
    transport = plugins.driver("transport", "memory")(url, None)
    store = plugins.driver("result store", "memory")(url, None)
    assert isinstance(transport, MemoryTransport)
    assert isinstance(store, MemoryResultStore)
    assert transport.server == store.server
    assert isinstance(plugins.driver("pool", "inline")(None, PoolOptions()), InlinePool)
    forget(url.removeprefix("memory://"))


def test_its_hooks_hand_over_and_do_nothing_else() -> None:
    """``kern_transports``, ``kern_result_stores`` and ``kern_pools`` each name one driver."""
    assert set(plugin.kern_transports()) == {"memory"}
    assert set(plugin.kern_result_stores()) == {"memory"}
    assert set(plugin.kern_pools()) == {"inline"}
