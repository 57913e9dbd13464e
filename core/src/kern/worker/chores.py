"""Coroutines that run beside the stages, and how long a command is given to a server again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from kern import log
from kern.contracts.port import Reply
from kern.errors import KernError
from kern.worker.replies import awaited

logger = log.get_logger("kern.worker")
T = TypeVar("T")

#: Pauses between attempts to reach a server: first, factor, longest; seconds.
PAUSES = (0.05, 2.0, 5.0)


class Chores:
    """Keeps hold of what runs beside the stages; an error nobody expected goes to *on_error*, with a name."""

    def __init__(self, on_error: Callable[[str, BaseException], None]) -> None:
        self._on_error = on_error
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(task.get_name(), error)

    async def cancel(self) -> None:
        """End whatever still runs."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_answered(command: Callable[[], Reply[T]], complaint: str) -> tuple[T, bool]:
    """Give *command* again and again, with growing pauses, until the server has answered.

    :param complaint: what to log each time it has not.
    :returns: the answer, and whether the server may have done it before, at an attempt whose answer was lost.
    """
    pause, factor, longest = PAUSES
    again = False
    while True:
        try:
            return await awaited(command()), again
        except KernError as error:
            again = True
            logger.warning(complaint, error=str(error))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(longest, pause * factor)
