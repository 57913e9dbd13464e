"""Processor time by stage: every stretch of work on the clock of its thread, counted once, for the innermost stage."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from typing import Any


class StageClock:
    """Counts what it was told to wrap."""

    def __init__(self) -> None:
        self._here = threading.local()
        self._seconds: list[defaultdict[str, float]] = []

    def seconds(self) -> Mapping[str, float]:
        """Stage → processor time, of all threads."""
        found: defaultdict[str, float] = defaultdict(float)
        for seconds in self._seconds:
            for stage, spent in seconds.items():
                found[stage] += spent
        return found

    def forget(self) -> None:
        """Begin anew, in a process that was forked from the one that was timed."""
        self._here, self._seconds = threading.local(), []

    def enter(self, stage: str) -> None:
        """From now on this thread works for *stage*."""
        here = self._here
        if not hasattr(here, "stages"):
            here.stages, here.seconds = [], defaultdict(float)
            self._seconds.append(here.seconds)
        now = time.thread_time()
        if here.stages:
            here.seconds[here.stages[-1]] += now - here.since
        here.stages.append(stage)
        here.since = now

    def leave(self) -> None:
        """This thread works again for what it worked for before."""
        here, now = self._here, time.thread_time()
        here.seconds[here.stages.pop()] += now - here.since
        here.since = now

    # -- wrapping

    def function(self, owner: Any, name: str, stage: str) -> None:
        """Count the time spent in *name* of *owner*, a class or an object."""
        original: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.enter(stage)
            try:
                return original(*args, **kwargs)
            finally:
                self.leave()

        setattr(owner, name, timed)

    def generators_given_to(self, owner: Any, name: str, stage_of: Callable[[str], str]) -> None:
        """Count the steps of generators that are given to *name* of the class *owner*, by their own names."""
        original: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(original)
        def given(self_: Any, generator: Any) -> Any:
            return original(self_, self._stepped(generator, stage_of(generator.gi_code.co_name)))

        setattr(owner, name, given)

    def _stepped(self, generator: Generator[Any, Any, Any], stage: str) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = functools.partial(next, generator)
        while True:
            self.enter(stage)
            try:
                asked = step()
            except StopIteration as end:
                return end.value
            finally:
                self.leave()
            try:
                step = functools.partial(generator.send, (yield asked))
            except GeneratorExit:
                generator.close()
                raise
            except BaseException as error:
                step = functools.partial(generator.throw, error)

    def callbacks(self, stage_of: Callable[[str], str]) -> None:
        """Count everything that an asyncio loop calls, by the names of functions and coroutines."""
        handles: Any = asyncio.Handle
        original = handles._run

        def timed(handle: asyncio.Handle) -> None:
            self.enter(stage_of(_name(handle)))
            try:
                original(handle)
            finally:
                self.leave()

        handles._run = timed


def _name(handle: Any) -> str:
    """What a callback of the loop is for."""
    callback = handle._callback
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return str(getattr(task.get_coro(), "__qualname__", "?"))
    while isinstance(callback, functools.partial):
        callback = callback.func
    return str(getattr(callback, "__qualname__", type(callback).__qualname__))
