"""How one thread tells another's selector that something is there."""

from __future__ import annotations

import os
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Bell(Generic[T]):
    """A queue of things with a descriptor that is readable while there are any."""

    def __init__(self) -> None:
        self._things: deque[T] = deque()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    @property
    def descriptor(self) -> int:
        return self._reader

    def ring(self, thing: T) -> None:
        """From any thread; nothing happens once closed."""
        self._things.append(thing)
        try:
            os.write(self._writer, b"\0")
        except OSError:
            pass  # full: it rings already; closed: nobody listens

    def drain(self) -> list[T]:
        """Everything so far, in order."""
        try:
            while os.read(self._reader, 4096):
                pass
        except OSError:
            pass
        found = []
        while self._things:
            found.append(self._things.popleft())
        return found

    def close(self) -> None:
        """Safe twice."""
        reader, writer, self._reader, self._writer = self._reader, self._writer, -1, -1
        if reader >= 0:
            os.close(reader)
            os.close(writer)
