"""A process that runs tasks, from the inside: its descriptors, its signals, how it answers."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import attrs
from setproctitle import setproctitle

from kern.result import set_join_will_block
from kern_process_host import descriptors
from kern_process_host.evidence import CUT_OFF
from kern_process_host.slots import LONGEST, Slot

#: Tells a process that there are orders for it.
ORDERS = signal.SIGUSR1
#: Makes a process write down what its threads do. Not one that tasks are likely to use themselves.
DUMP = signal.SIGRTMIN + 14 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2

#: First bytes of what a process sends over its own socket.
LOADED, UP, LEAVING, ANSWER, ANSWER_IN_FILE = b"I", b"U", b"L", b"A", b"F"

_frame_size = struct.Struct("<I").pack
#: Longest answer that many processes can write to one pipe without mixing them up.
_ATOMIC = select.PIPE_BUF - 4


@attrs.frozen
class Shared:
    """What all processes of a pool have in common, by descriptor; the numbers are out of the reach of tasks."""

    #: Where tasks are pulled from.
    tasks: int
    #: Where short answers go.
    answers: int
    #: A pipe whose other end the main process alone has.
    lifeline: int

    def close(self) -> None:
        for descriptor in attrs.astuple(self):
            os.close(descriptor)


@attrs.frozen
class Order:
    """Something the main process wants of this one."""

    #: The job it is about; 0: the process itself.
    job: int
    #: To be raised inside the job; of the process itself: ``None``, it is to leave.
    error: BaseException | None


class Leave(BaseException):
    """Ends the waiting for a task."""


class Hosted:
    """This process.

    :param attached: descriptors of its control socket and its slot, which are its own from now on.
    :param watched: its parent ends it when the main process is gone, should the kernel not do so.
    """

    def __init__(
        self, app: Any, hostname: str, number: int, shared: Shared, attached: list[int], watched: bool
    ) -> None:
        self._watched = watched
        self.app = app
        self.hostname = hostname
        self.number = number
        self.pid = os.getpid()
        control, slot = (descriptors.out_of_reach(os.dup(descriptor)) for descriptor in attached)
        self.control = descriptors.adopt(control)
        self.slot = Slot(slot)
        self.tasks = descriptors.adopt(shared.tasks)
        self._answers = shared.answers
        self._shared = shared
        #: The job that can be interrupted; 0: none.
        self.job = 0
        #: It waits for a task, and may be told to leave.
        self.waiting = False
        self.leaving = False

    # -- life

    def run(self, serve: Callable[[Hosted], None]) -> int:
        """Prepare the process, *serve* until there is no more to do, and say goodbye; the exit code."""
        self._prepare()
        self._send(LOADED)
        set_join_will_block(True)
        self.app.plugins.notify("kern_process_init", app=self.app)
        self._send(UP)
        serve(self)
        self._send(LEAVING)
        self.app.plugins.notify("kern_process_shutdown", app=self.app, pid=self.pid, exitcode=0)
        return 0

    def _prepare(self) -> None:
        import faulthandler

        if not descriptors.die_with(self._shared.lifeline) and not self._watched:
            threading.Thread(
                target=descriptors.wait_and_die, args=(self._shared.lifeline,), name="kern lifeline", daemon=True
            ).start()
        descriptors.on_null(0, os.O_RDONLY)
        # Handlers instead of SIG_IGN, which the programs that tasks start would inherit.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, self._on_stop_signal)
        signal.signal(ORDERS, self._on_orders)
        faulthandler.register(DUMP, file=self.slot.file, all_threads=True, chain=False)

    def title(self, what: str) -> None:
        """Name the process after what it does; takes a third of a microsecond."""
        setproctitle(f"kern: {self.hostname} child {self.number} ({what})")

    # -- signals

    def _on_stop_signal(self, number: int, _frame: object) -> None:
        """The end of a worker is its main process's business; signals to a whole group reach this one, too."""
        if os.getpid() != self.pid:  # a process that a task forked ends as any other
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _on_orders(self, _number: int, _frame: object) -> None:
        """Carry out what the main process wants. What is raised here is raised in what runs now."""
        if os.getpid() != self.pid:
            return
        error: BaseException | None = None
        while (order := self._next_order()) is not None:
            self.slot.orders += 1
            if not order.job:
                self.leaving = True
            elif order.job == self.job:
                error = order.error
        if error is not None:
            raise error
        if self.leaving and self.waiting:
            self.waiting = False
            raise Leave

    def _next_order(self) -> Order | None:
        try:
            data = self.control.recv(LONGEST, socket.MSG_DONTWAIT)
        except OSError:
            return None
        return pickle.loads(data) if data else None

    # -- answers

    def answer(self, encoded: bytes) -> None:
        """Tell the main process what became of a job. Ends the process where that cannot be done."""
        try:
            if len(encoded) <= _ATOMIC:
                os.write(self._answers, _frame_size(len(encoded)) + encoded)
            elif len(encoded) < LONGEST:
                self._send(ANSWER + encoded)
            else:
                file = descriptors.file_with(encoded, "kern-answer")
                descriptors.send(self.control, ANSWER_IN_FILE, [file])
                os.close(file)
        except OSError:
            self.cut_off()

    def cut_off(self) -> NoReturn:
        """The main process cannot be reached: because it is gone, or because a task closed what it does not own.

        Nothing is said: the log may be closed, too, and its descriptor be another file's.
        """
        os._exit(CUT_OFF)

    def _send(self, data: bytes) -> None:
        self.control.send(data)


def order(job: int, error: BaseException | None) -> bytes:
    """An order as it is sent.

    :raises Exception: the error cannot be sent to another process.
    """
    return pickle.dumps(Order(job, error))


def find_function(name: str) -> Callable[..., Any]:
    """The function ``module:qualified.name``."""
    import importlib

    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]
