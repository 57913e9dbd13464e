"""Tasks that are coroutines, run to their end by the thread that runs the task.

Each thread keeps one event loop, so that what a task has connected to is still good for the next task. What a task
started and did not wait for is cancelled when it ends.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, TypeVar, cast

T = TypeVar("T")


def complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine*, and return what it returns.

    An exception that interrupts the thread (a soft time limit) is raised inside the coroutine. Where a loop is running
    already, as when a task is applied inside one, the coroutine gets a thread of its own.
    """
    return _in_a_thread(coroutine) if _loop_is_running() else _run(coroutine, copy_context())


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Loop:
    """A thread's event loop, closed when the thread ends."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.pid = os.getpid()

    def __del__(self) -> None:
        if self.pid == os.getpid():
            self.loop.close()


class _OfThread(threading.local):
    held: _Loop | None = None


_own = _OfThread()
#: Loops of a parent process: closing one here would deregister what the parent waits for.
_inherited: list[_Loop] = []


def _own_loop() -> asyncio.AbstractEventLoop:
    held = _own.held
    if held is not None and held.pid != os.getpid():
        _inherited.append(held)
        held = None
    if held is None or held.loop.is_closed():
        held = _own.held = _Loop()
    return held.loop


def _run(coroutine: Coroutine[Any, Any, T], context: Context) -> T:
    loop = _own_loop()
    interruptions: list[BaseException] = []
    task = loop.create_task(interruptible(coroutine, interruptions), context=context)
    try:
        while True:
            try:
                return loop.run_until_complete(task)
            except BaseException as error:
                if task.done():
                    raise
                interruptions.append(error)
                task.cancel()
    finally:
        _cancel_what_is_left(loop)


async def interruptible(coroutine: Coroutine[Any, Any, T], interruptions: list[BaseException]) -> T:
    """*coroutine*, where a cancellation stands for an interruption: the last of *interruptions* is raised in it."""
    return cast(T, await _Steps(coroutine, interruptions))


class _Steps:
    """The steps of a coroutine, one by one."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], interruptions: list[BaseException]) -> None:
        self._coroutine = coroutine
        self._interruptions = interruptions

    def __await__(self) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        while True:
            try:
                awaited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
            error = None
            try:
                yield awaited
            except asyncio.CancelledError as cancelled:
                error = cancelled
                if self._interruptions:
                    error = self._interruptions.pop()
                    task = asyncio.current_task()
                    if task is not None:
                        task.uncancel()
            except BaseException as other:
                error = other


def _cancel_what_is_left(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    if left:
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())


def _in_a_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    outcome: list[T] = []
    errors: list[BaseException] = []
    context = copy_context()

    def run() -> None:
        try:
            outcome.append(_run(coroutine, context))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="kern async task")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]
