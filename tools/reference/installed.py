"""The application the pages are made of: kern with the plugins of this tree, whatever else is installed."""

from functools import cache

from kern import Kern
from tools.workspace import packages


def plugins() -> list[str]:
    """Names of the plugins of this tree."""
    return sorted(name for package in packages() for name in package.entry_points.get("kern.plugins", ()))


@cache
def app() -> Kern:
    """An application with all of them."""
    return Kern("reference", plugins=",".join(plugins()))


def distribution(plugin: str) -> str:
    """The distribution that brings a plugin."""
    for package in packages():
        if plugin in package.entry_points.get("kern.plugins", ()):
            return package.name
    return plugin
