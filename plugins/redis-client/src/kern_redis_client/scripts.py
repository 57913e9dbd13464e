"""Scripts that the server runs in one step, called by their hash."""

from __future__ import annotations

import hashlib
import pkgutil
from collections.abc import Sequence

import attrs


@attrs.frozen
class Script:
    """A Lua script."""

    text: str
    sha: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    def call(
        self, keys: Sequence[str | bytes], arguments: Sequence[str | bytes | int | float] = ()
    ) -> tuple[str | bytes | int | float, ...]:
        """The command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


def load(package: str, name: str, include: Sequence[str] = ()) -> Script:
    """The script in the file *name*.lua of *package*.

    :param include: fragments that it uses, by their names in ``kern_redis_client/lua``, each after
        those it uses itself. A fragment declares local functions.
    """
    return Script("\n".join((*(fragment(each) for each in include), _read(package, f"{name}.lua"))))


def fragment(name: str) -> str:
    """Text of a fragment, to be put before a script."""
    return _read("kern_redis_client", f"lua/{name}.lua")


def _read(package: str, path: str) -> str:
    # importlib.resources would take longer to import than all of this package.
    text = pkgutil.get_data(package, path)
    if text is None:
        raise FileNotFoundError(f"{package} has no {path}")
    return text.decode()
