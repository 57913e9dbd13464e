"""The main process's side: makes processes, hears of their deaths, and cannot leave one behind."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from kern import log
from kern.errors import ImproperlyConfigured
from kern_process_host import blueprint, descriptors, sharing
from kern_process_host.evidence import Ending
from kern_process_host.hosted import LOADED, Hosted, Shared, find_function
from kern_process_host.launchers import ForkLauncher, Launcher, SpawnLauncher
from kern_process_host.process import Process, drain
from kern_process_host.threads import other_threads
from kern_process_host.watching import watch

logger = log.get_logger("kern.pool")

#: Seconds between looks whether what was told to end has ended.
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

    Made early: the process that the others are forked from has what this one has at that moment. If there are threads
    already, which importing the application must have started, forking is not safe, and fresh interpreters load the
    application again.

    :param serve: ``module:function``, called in each process with its :class:`Hosted` and the body of its launch.
    :param method: ``fork`` or ``spawn``; ``None``: as is safe.
    :raises ImproperlyConfigured: ``spawn``, and the application cannot be loaded by a name.
    """

    def __init__(self, app: Any, hostname: str, serve: str, method: str | None = None) -> None:
        self._app = app
        self._hostname = hostname
        self._serve = serve
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner: Owner | None = None
        self._closed = True
        self.processes: dict[int, Process] = {}
        self._made = 0
        plan = self._plan(method)
        #: What tasks are sent on, and the end that processes pull from, to take back what they have not.
        self.tasks, self.pulled = descriptors.socket_pair()
        self.tasks.setblocking(False)
        self.answers, answers_written = os.pipe()
        lifeline, self._lifeline = os.pipe()
        _enlarge(answers_written)
        os.set_blocking(self.answers, False)
        out = descriptors.out_of_reach
        self._shared = Shared(out(os.dup(self.pulled.fileno())), out(answers_written), out(lifeline))
        self._closed = False
        _hosts.add(self)
        self._launcher: Launcher
        if plan is None:
            find_function(serve)  # what the processes need is loaded before they are forked
            self._launcher = ForkLauncher(hostname, self._forget_main, self._birth, self._on_zygote_lost)
        else:
            self._launcher = SpawnLauncher(plan, hostname, serve, self._shared)

    def _plan(self, method: str | None) -> blueprint.Blueprint | None:
        """How fresh interpreters load the application; ``None``: processes are forked."""
        if method == "fork":
            return None
        if method == "spawn":
            return blueprint.of_application(self._app)
        threads = other_threads()
        if not threads:
            return None
        try:
            plan = blueprint.of_application(self._app)
        except ImproperlyConfigured as error:
            logger.warning(
                "processes are forked although there are threads: they may hang", threads=threads, because=str(error)
            )
            return None
        logger.warning(
            "processes are started afresh, and each loads the application again: importing it has started threads, "
            "and what these hold when a process is forked is held in it for ever",
            threads=threads,
        )
        return plan

    # -- in the zygote and what it forks

    def _forget_main(self) -> None:
        for host in list(_hosts):
            host._closed = True
            host._close_main_ends()
            if host is not self:
                host._shared.close()

    def _close_main_ends(self) -> None:
        for process in self.processes.values():
            process.close()
        for end in (self.tasks, self.pulled):
            end.close()
        for descriptor in (self.answers, self._lifeline):
            os.close(descriptor)
        launcher = getattr(self, "_launcher", None)  # not there yet in the zygote of this one
        if launcher is not None:
            launcher.close()

    def _birth(self, number: int, body: Any, attached: list[int]) -> int:
        hosted = Hosted(self._app, self._hostname, number, self._shared, attached, watched=True)
        serve = find_function(self._serve)
        return hosted.run(lambda process: serve(process, body))

    # -- life

    def begin(self, loop: asyncio.AbstractEventLoop, owner: Owner) -> None:
        """Tell *owner* what happens from now on."""
        self._loop, self._owner = loop, owner
        self._launcher.begin(loop, self._on_born, self._on_ended)
        loop.add_reader(self.answers, self.collect)

    def launch(self, body: Any) -> Process:
        """Make a process; what is to be known of it comes through the owner."""
        assert self._loop is not None
        self._made += 1
        process = Process(self._made)
        self.processes[process.number] = process
        self._loop.add_reader(process.control.fileno(), self._on_process, process)
        self._launcher.launch(process, body)
        return process

    @property
    def loads(self) -> bool:
        """Whether each process loads the application itself, which may take its time."""
        return isinstance(self._launcher, SpawnLauncher)

    def end(self, done: Callable[[], None]) -> None:
        """Close everything; all processes end at once. *done* is called when the last is gone."""
        assert self._loop is not None
        if not self._closed:
            self._loop.remove_reader(self.answers)
            for process in self.processes.values():
                self._loop.remove_reader(process.control.fileno())
            self.abandon()
        self._await_gone(self._launcher, done)

    def _await_gone(self, launcher: Launcher, done: Callable[[], None]) -> None:
        assert self._loop is not None
        if launcher.gone():
            done()
        else:
            self._loop.call_later(_LOOK, self._await_gone, launcher, done)

    def abandon(self) -> None:
        """Let go of everything, from anywhere; the processes notice by themselves, and end."""
        if not self._closed:
            self._closed = True
            sharing.end()
            _hosts.discard(self)
            self._close_main_ends()
            self.processes.clear()
            self._shared.close()

    def wait(self, timeout: float = _FORGOTTEN) -> None:
        """Wait until nothing is left, after :meth:`abandon`."""
        deadline = time.monotonic() + timeout
        while not self._launcher.gone() and time.monotonic() < deadline:
            time.sleep(_LOOK)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.abandon()
            if not sys.is_finalizing():  # nothing can be imported any more; the processes end by themselves
                self.wait()

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
                # It is gone, or has closed it; who watches it knows.
                self._loop.remove_reader(process.control.fileno())
                return
            if data == LOADED:
                process.loaded = self._loop.time()
            else:
                self._owner.on_message(process, data, attached)

    def _on_born(self, number: int, pid: int) -> None:
        process = self.processes.get(number)
        if process is not None:
            process.born(pid)
            if process.leaving:
                process.remind()

    def _on_ended(self, number: int, ending: Ending) -> None:
        assert self._loop is not None
        assert self._owner is not None
        process = self.processes.get(number)
        if process is None:
            return
        while self.collect():  # what it wrote, it wrote before
            pass
        self._on_process(process)
        self._loop.remove_reader(process.control.fileno())
        del self.processes[number]
        self._owner.on_ended(process, ending)
        process.close()

    def _on_zygote_lost(self) -> None:
        """The processes it has made go on; how they end, only a parent could have seen."""
        assert self._loop is not None
        assert self._owner is not None
        self._await_gone(self._launcher, _nothing)
        old = list(self.processes.values())
        problem = "the process that the others are forked from is gone"
        try:
            plan = blueprint.of_application(self._app)
        except ImproperlyConfigured as error:
            self._owner.on_unable(f"{problem}, and {error}")
        else:
            logger.error(f"{problem}: from now on they are started afresh")
            self._launcher = SpawnLauncher(plan, self._hostname, self._serve, self._shared)
            self._launcher.begin(self._loop, self._on_born, self._on_ended)
        for process in old:
            if process.pid:
                watch(self._loop, process.pid, partial(self._on_ended, process.number))
            else:
                self._loop.call_soon(self._on_ended, process.number, Ending(None))


def _nothing() -> None:
    pass


def _enlarge(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE)
    except OSError:
        pass  # not Linux, or more than is allowed
