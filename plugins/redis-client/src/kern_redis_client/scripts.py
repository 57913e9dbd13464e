"""Scripts that the server runs in one step, called by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources

import attrs


@attrs.frozen
class Script:
    """A Lua script."""

    text: str
    sha: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    def call(self, keys: Sequence[str | bytes], arguments: Sequence[str | bytes | int | float] = ()) -> tuple[str | bytes | int | float, ...]:
        """The command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


def load(package: str, name: str) -> Script:
    """The script in the file *name*.lua of *package*."""
    return Script(resources.files(package).joinpath(f"{name}.lua").read_text("utf-8"))
