"""The zygote: the process that holds the loaded application and makes others of itself when told to.

It runs no code of a task and opens no connection, so it stays as it was: small, quick to fork, without threads. It
waits for its children, which only a parent can, and says how each of them ended. When the main process is gone, however
that came about, it ends them and itself.

::

    main → zygote   [number, body]            fork; with descriptors: the control socket, the slot
    zygote → main   ["born", number, pid]
                    ["ended", number, status, KiB of the largest resident memory]
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from setproctitle import setproctitle

from kern_process_host import descriptors
from kern_process_host.wire import decode, encode

#: Runs in a new process: with what came with the order to make it. Its answer is the exit code.
Birth = Callable[[int, Any, list[int]], int]


#: What is not to end a zygote, nor a process that is not ready to take it: the main process decides when the end has
#: come, and orders may come early.
_HELD_OFF = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)


class Zygote:
    """In the process that it is about.

    :param control: its end of the socket to the main process.
    :param birth: what new processes do.
    """

    def __init__(self, control: socket.socket, birth: Birth) -> None:
        self._control = control
        self._birth = birth
        self._children: dict[int, int] = {}

    def run(self) -> None:
        """Serve until the main process is gone."""
        woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
        for number in _HELD_OFF:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        gc.freeze()
        gc.disable()
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(woken, select.POLLIN)
        self._inner = (woken, waker)
        alive = True
        while alive:
            ready = dict(poll.poll())
            if woken in ready:
                try:
                    os.read(woken, 4096)
                except BlockingIOError:
                    pass
                self._reap()
            if self._control.fileno() in ready:
                alive = self._obey()
        for pid in self._children:
            _kill(pid)

    def _obey(self) -> bool:
        """Carry out what is asked; whether there is anybody who could ask for more."""
        try:
            data, attached = descriptors.receive(self._control, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        if not data:
            return False
        number, body = decode(data)
        try:
            self._fork(number, body, attached)
        finally:
            for descriptor in attached:
                os.close(descriptor)
        return True

    def _fork(self, number: int, body: Any, attached: list[int]) -> None:
        pid = os.fork()
        if pid:
            self._children[pid] = number
            self._tell("born", number, pid)
            return
        code = 70  # EX_SOFTWARE
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            self._control.close()
            for descriptor in self._inner:
                os.close(descriptor)
            gc.enable()
            code = self._birth(number, body, attached)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            flush_streams()
            os._exit(code)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            number = self._children.pop(pid, None)
            if number is not None:
                self._tell("ended", number, status, resident_kib(usage.ru_maxrss))

    def _tell(self, *fact: Any) -> None:
        try:
            self._control.send(encode(fact))
        except OSError:
            pass  # the main process is gone, which the next look at the socket says


def start(control: socket.socket, others: Callable[[], None], birth: Birth, title: str) -> int:
    """Fork a zygote; its pid. In the zygote this never returns.

    :param title: what it is called in the list of processes.
    :param others: closes what the new process must not have.
    """
    # Nothing of what the main process has yet to write may be written twice.
    flush_streams()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return pid
    try:
        signal.set_wakeup_fd(-1)
        setproctitle(title)
        others()
        _forget_loops()
        Zygote(control, birth).run()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _forget_loops() -> None:
    """The loop that runs in the main process does not run here."""
    events: Any = sys.modules.get("asyncio.events")
    if events is not None:
        events._set_running_loop(None)


def flush_streams() -> None:
    """Write what the standard streams hold back, if that is possible."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass


def resident_kib(maxrss: int) -> int:
    """KiB; of what ``getrusage`` says, which is in bytes on macOS."""
    return maxrss // 1024 if sys.platform == "darwin" else maxrss


def _pipe() -> tuple[int, int]:
    pair = os.pipe()
    for end in pair:
        os.set_blocking(end, False)
    return pair


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
