"""The loop of a process that runs one task at a time."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kern import log, seams
from kern.outcome import Outcome
from kern.request import Request
from kern_process_host.descriptors import FD_SPACE, attached, whole_file
from kern_process_host.hosted import Hosted, Leave, find_function
from kern_process_host.slots import LINUX
from kern_process_host.wire import decode_request, encode_fault, encode_outcome
from kern_process_host.zygote import resident_kib

logger = log.get_logger("kern.pool")

Runner = Callable[[Request], Outcome]


def serve(hosted: Hosted, body: Any) -> None:
    """Run tasks until told to leave.

    :param body: the runner by name (``None``: the application's own), the most tasks, and the most KiB of memory.
    """
    name, max_tasks, max_memory = body
    runner = hosted.app.runner(hosted.hostname) if name is None else find_function(name)
    Child(hosted, runner, max_tasks, max_memory).work()


class Child:
    """Pulls, runs and answers, one task after the other."""

    def __init__(self, hosted: Hosted, runner: Runner, max_tasks: int | None, max_memory: int | None) -> None:
        self._hosted = hosted
        self._slot = hosted.slot
        self._run = runner
        self._left = max_tasks
        self._max_memory = max_memory
        self._buffers = [hosted.slot.datagram]
        #: What the process's title says it does.
        self._shown: str | None = None

    def work(self) -> None:
        """Until told to leave, or there is nobody to work for."""
        hosted, slot = self._hosted, self._slot
        while (pulled := self._pull()) is not None:
            data, job = pulled
            slot.stamp(job, time.time(), time.monotonic())
            answer = self._answer(job, data)
            if os.getpid() != hosted.pid:
                os._exit(0)  # a fork that a task has made, and that came back from the task
            self._count()
            hosted.answer(answer)
            slot.clear()

    def _pull(self) -> tuple[bytes | memoryview, int] | None:
        """The encoded request, and the job's number; ``None``: there will be none."""
        hosted, slot = self._hosted, self._slot
        slot.expect()
        try:
            hosted.waiting = True
            if hosted.leaving:
                hosted.waiting = False
                return None
            try:
                size, ancillary, _, _ = hosted.tasks.recvmsg_into(self._buffers, FD_SPACE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._show("idle")
                size, ancillary, _, _ = hosted.tasks.recvmsg_into(self._buffers, FD_SPACE)
            hosted.waiting = False
        except Leave:
            return None  # should something have been pulled at this very instant, the slot says so
        except OSError:
            hosted.cut_off()
        if not size:
            return None
        if ancillary:
            (file,) = attached(ancillary)
            return whole_file(file), slot.pulled
        return slot.datagram[8:size], slot.pulled

    def _answer(self, job: int, data: bytes | memoryview) -> bytes:
        hosted = self._hosted
        outcome: Outcome | None = None
        problem: BaseException | None = None
        try:
            request = decode_request(data)
            if request.task != self._shown:
                self._show(request.task or "")
            hosted.job = job
            outcome = self._run(request)
            seams.reached("ran")
            hosted.job = 0
        except BaseException as error:
            problem = error
        while hosted.job:
            # From here on it cannot be interrupted; what was already under way ends here.
            try:
                hosted.job = 0
            except BaseException:
                logger.debug("a late interruption was dropped")
        if outcome is not None:
            try:
                return encode_outcome(job, request, outcome)
            except Exception as error:
                problem = error
        logger.error("the runner failed", error=repr(problem), exc_info=problem)
        return encode_fault(job, repr(problem))

    def _show(self, what: str) -> None:
        if what != self._shown:
            self._shown = what
            self._hosted.title(what)

    def _count(self) -> None:
        """Leave after as many tasks, or with as much memory, as is allowed."""
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self._hosted.leaving = True
        if self._max_memory is not None and (used := resident()) > self._max_memory:
            logger.warning("process replaced: it exceeds its memory limit", used_kib=used, limit_kib=self._max_memory)
            self._hosted.leaving = True


def resident() -> int:
    """KiB of memory that are resident now; where that is not known, at most so far."""
    if LINUX:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") // 1024
    import resource

    return resident_kib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
