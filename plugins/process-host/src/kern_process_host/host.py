"""The main process's side: makes processes, hears of their deaths, and cannot leave one behind."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kern import log
from kern_process_host import descriptors, zygote
from kern_process_host.evidence import Ending
from kern_process_host.hosted import Hosted, Shared, find_function
from kern_process_host.process import Process, drain
from kern_process_host.wire import decode, encode

logger = log.get_logger("kern.pool")

#: Seconds between looks whether a process that was told to end has ended.
_LOOK = 0.005
#: Seconds that one who was forgotten waits for its processes to have ended.
_FORGOTTEN = 1.0
#: Capacity asked of the pipe of answers; the system may grant less.
_PIPE = 1 << 20
_F_SETPIPE_SZ = 1031
#: Bytes read from it at once: some hundreds of answers.
_READ = 1 << 16

#: All hosts of this process: what is forked for one must not keep what belongs to another.
_hosts: weakref.WeakSet[Host] = weakref.WeakSet()


class Owner(Protocol):
    """The pool; told of everything on the loop it lives on."""

    def on_message(self, process: Process, data: bytes, attached: Sequence[int]) -> None:
        """*process* sent a message over its own socket; the descriptors are the owner's now."""

    def on_answers(self, data: bytes) -> None:
        """Processes have written to the shared pipe; pieces as they were read."""

    def on_ended(self, process: Process, ending: Ending) -> None:
        """*process* is gone; all that it sent has been told before."""

    def on_unable(self, problem: str) -> None:
        """No more processes can be made."""


class Host:
    """Makes processes that run *serve*.

    Made early: the process that the others are forked from has what this one has at that moment.

    :param serve: ``module:function``, called in each process with the :class:`Hosted` and the body of its launch.
    """

    def __init__(self, app: Any, hostname: str, serve: str) -> None:
        self._app = app
        self._hostname = hostname
        self._serve = serve
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner: Owner | None = None
        self.processes: dict[int, Process] = {}
        self._made = 0
        #: What tasks are sent on, and the end that processes pull from, to take back what they have not.
        self.tasks, theirs = descriptors.socket_pair()
        self.tasks.setblocking(False)
        self.pulled = theirs
        self.answers, answers_written = os.pipe()
        lifeline, self._lifeline = os.pipe()
        _enlarge(answers_written)
        os.set_blocking(self.answers, False)
        out = descriptors.out_of_reach
        self._shared = Shared(out(os.dup(theirs.fileno())), out(answers_written), out(lifeline))
        self._control, control = descriptors.socket_pair()
        self._control.setblocking(False)
        _hosts.add(self)
        self._zygote = zygote.start(control, self._forget_main, self._birth)
        control.close()
        self._closed = False

    # -- in the zygote and what it forks

    def _forget_main(self) -> None:
        for host in list(_hosts):
            host._close_main_ends()
            if host is not self:
                host._shared.close()

    def _close_main_ends(self) -> None:
        for process in self.processes.values():
            process.close()
        for end in (self.tasks, self.pulled, self._control):
            end.close()
        for descriptor in (self.answers, self._lifeline):
            os.close(descriptor)

    def _birth(self, number: int, body: Any, attached: list[int]) -> int:
        hosted = Hosted(self._app, self._hostname, number, self._shared, attached)
        serve = find_function(self._serve)
        return hosted.run(lambda process: serve(process, body))

    # -- life

    def begin(self, loop: asyncio.AbstractEventLoop, owner: Owner) -> None:
        """Tell *owner* what happens from now on."""
        self._loop, self._owner = loop, owner
        loop.add_reader(self._control.fileno(), self._on_zygote)
        loop.add_reader(self.answers, self.collect)

    def launch(self, body: Any) -> Process:
        """Make a process; what is to be known of it comes through the owner."""
        assert self._loop is not None
        self._made += 1
        process = Process(self._made)
        self.processes[process.number] = process
        self._loop.add_reader(process.control.fileno(), self._on_process, process)
        descriptors.send(self._control, encode((process.number, body)), process.attached())
        return process

    def end(self, done: Callable[[], None]) -> None:
        """Close everything; all processes end at once. *done* is called when the last is gone."""
        assert self._loop is not None
        if self._closed:
            done()
            return
        self._closed = True
        self._loop.remove_reader(self._control.fileno())
        self._loop.remove_reader(self.answers)
        for process in self.processes.values():
            self._loop.remove_reader(process.control.fileno())
        self.abandon()
        self._await_zygote(done)

    def abandon(self) -> None:
        """Let go of everything; the processes notice by themselves, and end."""
        self._closed = True
        _hosts.discard(self)
        self._close_main_ends()
        self.processes.clear()
        self._shared.close()

    def __del__(self) -> None:
        """Forgotten without having been ended: nothing may be left of it."""
        if not getattr(self, "_closed", True):
            self.abandon()
            deadline = time.monotonic() + _FORGOTTEN
            while not self.zygote_gone() and time.monotonic() < deadline:
                time.sleep(_LOOK)

    def _await_zygote(self, done: Callable[[], None]) -> None:
        assert self._loop is not None
        if self.zygote_gone():
            done()
        else:
            self._loop.call_later(_LOOK, self._await_zygote, done)

    def zygote_gone(self) -> bool:
        """Whether the zygote has ended; nothing is left of it then."""
        if not self._zygote:
            return True
        try:
            pid, _ = os.waitpid(self._zygote, os.WNOHANG)
        except ChildProcessError:
            pid = self._zygote
        if not pid:
            return False
        self._zygote = 0
        return True

    # -- what is heard

    def collect(self) -> bool:
        """Read what processes have answered; whether there was anything."""
        assert self._owner is not None
        try:
            data = os.read(self.answers, _READ)
        except (BlockingIOError, InterruptedError):
            return False
        self._owner.on_answers(data)
        return True

    def _on_process(self, process: Process) -> None:
        assert self._loop is not None
        assert self._owner is not None
        for data, attached in drain(process.control):
            if not data:
                # It is gone, or has closed it; the zygote knows.
                self._loop.remove_reader(process.control.fileno())
                return
            self._owner.on_message(process, data, attached)

    def _on_zygote(self) -> None:
        assert self._loop is not None
        for data, _ in drain(self._control):
            if not data:
                self._loop.remove_reader(self._control.fileno())
                self._zygote_died()
                return
            match decode(data):
                case ["born", number, pid]:
                    self._on_born(number, pid)
                case ["ended", number, status, rss]:
                    self._on_ended(number, Ending(status, rss))

    def _on_born(self, number: int, pid: int) -> None:
        process = self.processes.get(number)
        if process is not None:
            process.born(pid)
            if process.told_to_leave:
                process.remind()

    def _on_ended(self, number: int, ending: Ending) -> None:
        assert self._loop is not None
        assert self._owner is not None
        process = self.processes.get(number)
        if process is None:
            return
        while self.collect():  # what it wrote, it wrote before
            pass
        if process.control.fileno() >= 0:
            self._on_process(process)
            self._loop.remove_reader(process.control.fileno())
        del self.processes[number]
        self._owner.on_ended(process, ending)
        process.close()

    def _zygote_died(self) -> None:
        assert self._owner is not None
        self._owner.on_unable("the process that others are forked from is gone")


def _enlarge(pipe: int) -> None:
    import fcntl

    try:
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE)
    except OSError:
        pass  # not Linux, or more than is allowed
