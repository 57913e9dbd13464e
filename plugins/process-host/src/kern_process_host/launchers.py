"""Two ways to make a process: fork it from a zygote, or start a fresh interpreter."""

from __future__ import annotations

import asyncio
import marshal
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import attrs

from kern import log
from kern_process_host import descriptors, zygote
from kern_process_host.blueprint import Blueprint
from kern_process_host.evidence import Ending
from kern_process_host.hosted import Shared
from kern_process_host.process import Process, drain
from kern_process_host.watching import reap, watch
from kern_process_host.wire import decode, encode

logger = log.get_logger("kern.pool")

#: Told of a process's number, and how it ended.
Ended = Callable[[int, Ending], None]


class Launcher(ABC):
    """Makes processes. What happens to them is told on the loop, once :meth:`begin` has been called."""

    @abstractmethod
    def begin(self, loop: asyncio.AbstractEventLoop, born: Callable[[int, int], None], ended: Ended) -> None:
        """:param born: told of a process's number and id."""

    @abstractmethod
    def launch(self, process: Process, body: Any) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Let go; also in a process forked from this one, which must not hold on to what is the main process's."""

    @abstractmethod
    def gone(self) -> bool:
        """Whether nothing is left of it, after :meth:`close`."""


class ForkLauncher(Launcher):
    """Has a zygote fork.

    :param lost: told when the zygote is gone.
    """

    def __init__(
        self, hostname: str, forget: Callable[[], None], birth: zygote.Birth, lost: Callable[[], None]
    ) -> None:
        self._lost = lost
        self._loop: asyncio.AbstractEventLoop | None = None
        self._control, control = descriptors.socket_pair()
        self._control.setblocking(False)

        def others() -> None:
            self._control.close()
            forget()

        self.pid = zygote.start(control, others, birth, f"kern: {hostname} zygote")
        control.close()

    def begin(self, loop: asyncio.AbstractEventLoop, born: Callable[[int, int], None], ended: Ended) -> None:
        self._loop, self._born, self._ended = loop, born, ended
        loop.add_reader(self._control.fileno(), self._on_zygote)

    def launch(self, process: Process, body: Any) -> None:
        try:
            descriptors.send(self._control, encode((process.number, body)), process.attached())
        except OSError:
            pass  # the zygote is gone, of which we are about to hear

    def close(self) -> None:
        if self._loop is not None and self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
        self._control.close()

    def gone(self) -> bool:
        if self.pid and reap(self.pid) is not None:
            self.pid = 0
        return not self.pid

    def _on_zygote(self) -> None:
        for data, _ in drain(self._control):
            if not data:
                self.close()
                self._lost()
                return
            match decode(data):
                case ["born", number, pid]:
                    self._born(number, pid)
                case ["ended", number, status, rss]:
                    self._ended(number, Ending(status, rss))


@attrs.define
class SpawnLauncher(Launcher):
    """Starts a fresh interpreter for each process, which loads the application again."""

    _blueprint: Blueprint
    _hostname: str
    _serve: str
    _shared: Shared
    _loop: asyncio.AbstractEventLoop | None = None
    _born: Callable[[int, int], None] | None = None
    _ended: Ended | None = None
    _running: dict[int, subprocess.Popen[bytes]] = attrs.field(factory=dict)

    def begin(self, loop: asyncio.AbstractEventLoop, born: Callable[[int, int], None], ended: Ended) -> None:
        self._loop, self._born, self._ended = loop, born, ended

    def launch(self, process: Process, body: Any) -> None:
        assert self._loop is not None
        assert self._born is not None
        shared = attrs.astuple(self._shared)
        attached = process.attached()
        facts = (self._blueprint.to_fields(), self._hostname, self._serve, process.number, shared, attached, body)
        file = descriptors.file_with(marshal.dumps(facts), "kern-launch")
        try:
            started = subprocess.Popen(
                [sys.executable, "-m", "kern_process_host", str(file)],
                stdin=subprocess.DEVNULL,
                pass_fds=(*shared, *attached, file),
            )
        finally:
            os.close(file)
        self._running[started.pid] = started
        watch(self._loop, started.pid, lambda ending: self._on_ended(started, process.number, ending))
        self._born(process.number, started.pid)

    def _on_ended(self, started: subprocess.Popen[bytes], number: int, ending: Ending) -> None:
        assert self._ended is not None
        started.returncode = 0  # reaped: nobody is to wait for it
        self._running.pop(started.pid, None)
        self._ended(number, ending)

    def close(self) -> None:
        pass  # each process hears by its lifeline that it is over

    def gone(self) -> bool:
        for pid, started in list(self._running.items()):
            if reap(pid) is not None:
                started.returncode = 0
                del self._running[pid]
        return not self._running
