"""The loop a pool lives on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Abandoned(Exception):
    """Nothing can be done on this loop any more."""


class Home:
    """The loop that runs where this is made; where none does, one of its own in a thread.

    What is done to a pool is done on this loop, whoever asks for it.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        #: Nothing can be done here any more.
        self.left = False
        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError:
            self.loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._run, name="kern pool", daemon=True)
            self._thread.start()
            self._resident = self._thread.ident
        else:
            self._resident = threading.get_ident()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            # What was asked for while it was left is still to be answered.
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        finally:
            self.loop.close()

    def do(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call *function* on the loop; its answer.

        :raises Abandoned: it has been left, or has ended.
        """
        if threading.get_ident() == self._resident:
            if self.loop.is_closed():
                raise Abandoned
            return function(*arguments)
        answer: Future[T] = Future()

        def call() -> None:
            try:
                answer.set_result(function(*arguments))
            except BaseException as error:
                answer.set_exception(error)

        with self._lock:
            if self.left or self.loop.is_closed():
                raise Abandoned
            self.loop.call_soon_threadsafe(call)
        return answer.result()

    def leave(self) -> None:
        """The pool has ended; from the loop itself."""
        with self._lock:
            self.left = True
        if self._thread is not None:
            self.loop.stop()
