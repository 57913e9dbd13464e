"""What is known of plugins before any is loaded."""

from __future__ import annotations

from collections.abc import Mapping

#: Commands of kern's own plugins, by the plugin's module, so that ``kern --help`` can name them without loading it.
#: A plugin that is not here is loaded for that.
COMMANDS: Mapping[str, Mapping[str, str]] = {
    "kern_backend_redis": {},
    "kern_backend_rpc": {},
    "kern_backend_sql": {},
    "kern_beat": {"beat": "Send calls that are due."},
    "kern_broker_amqp": {},
    "kern_broker_redis": {},
    "kern_broker_sql": {},
    "kern_canvas": {},
    "kern_control": {
        "control": "Tell workers to do something.",
        "inspect": "Ask workers about themselves.",
        "status": "Which workers are there.",
    },
    "kern_events": {"events": "Watch what happens.", "top": "Watch workers and tasks on the whole screen."},
    "kern_pool_asyncio": {},
    "kern_pool_gevent": {},
    "kern_pool_prefork": {},
    "kern_pool_threads": {},
    "kern_pydantic": {},
    "kern_testing": {},
}


def who_has(command: str) -> str | None:
    """The distribution to install for a command of kern's own plugins."""
    for module, commands in COMMANDS.items():
        if command in commands:
            return module.replace("_", "-")
    return None


def installed_modules() -> list[str]:
    """Top-level modules of the installed plugins, none of them imported."""
    from importlib.metadata import entry_points  # here: as dear as all the rest of `kern --help`

    return sorted({entry.value.partition(":")[0].partition(".")[0] for entry in entry_points(group="kern.plugins")})
