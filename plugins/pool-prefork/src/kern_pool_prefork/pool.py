"""The pool, as the worker's main process sees it.

Requests go out on one socket that all processes pull from, so whoever is idle gets the next one. Which process has
which request, and since when, is read from memory that each process shares with us (:mod:`kern_process_host.slots`);
nothing is told about a start.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from kern import log
from kern.contracts.pool import (
    Died,
    Finished,
    Pool,
    PoolBroken,
    PoolCapability,
    PoolEvent,
    PoolOptions,
    PoolSink,
    Started,
)
from kern.contracts.port import Reply
from kern.errors import ImproperlyConfigured, Interrupted
from kern.outcome import Outcome
from kern.request import Request
from kern.runner import Runner
from kern_pool_prefork.jobs import Job
from kern_pool_prefork.limits import Limits
from kern_pool_prefork.line import Line
from kern_pool_prefork.settings import PreforkSettings
from kern_pool_prefork.workforce import Workforce
from kern_process_host import Abandoned, Ending, Home, Host, OomCounter, Process, of_death
from kern_process_host.descriptors import whole_file
from kern_process_host.hosted import ANSWER, ANSWER_IN_FILE, LEAVING, UP
from kern_process_host.wire import decode, decode_fault, decode_outcome

logger = log.get_logger("kern.pool")

#: Seconds between looks at what has started, while something may have.
LOOK = 0.05
#: Seconds that a task has to end once it has been interrupted, before its process is killed.
LAST_WORDS = 0.3

_frame_size = struct.Struct("<I").unpack_from


class PreforkPool(Pool):
    """Processes that run one task each.

    :raises ImproperlyConfigured: fewer than one process is asked for.
    """

    capabilities = frozenset(
        {
            PoolCapability.SOFT_LIMITS,
            PoolCapability.HARD_LIMITS,
            PoolCapability.TERMINATE,
            PoolCapability.RESIZE,
            PoolCapability.ISOLATED,
            PoolCapability.JOIN_BLOCKS,
        }
    )
    name = "prefork"

    def __init__(self, app: Any, options: PoolOptions) -> None:
        if options.concurrency is not None and options.concurrency < 1:
            raise ImproperlyConfigured(f"worker_concurrency: at least one process is needed, not {options.concurrency}")
        self._app = app
        self._options = options
        self.slots = options.concurrency or cpu_count()
        conf = app.conf.section(PreforkSettings)
        self._host = Host(app, options.hostname, "kern_pool_prefork.child:serve", conf.worker_pool_start_method)
        self._workforce = Workforce(self._host, self.slots, conf.worker_proc_alive_timeout, self.on_unable)
        self._line = Line(self._host)
        self._limits = Limits(self._workforce.repeat_orders)
        self._home: Home | None = None
        self._sink: PoolSink = _nobody
        self._ready: Reply[None] = Future()
        self._ended: Reply[None] = Future()
        self._stopping = False
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._by_receipt: dict[str, Job] = {}
        #: Jobs known to have started.
        self._running: set[Job] = set()
        self._said: list[PoolEvent] = []
        #: The beginning of an answer whose end has not been read.
        self._rest = b""
        self._looking: asyncio.TimerHandle | None = None
        self._oom = OomCounter()

    # -- the port ------------------------------------------------------------------------------------------------------

    def start(self, run: Callable[[Request], Outcome], sink: PoolSink) -> Reply[None]:
        """:raises TypeError: *run* cannot be found by another process."""
        body = (_name_of(run), self._options.max_tasks_per_child, self._options.max_memory_per_child)
        self._sink = sink
        self._home = Home()
        self._home.do(self._start, body)
        return self._ready

    def submit(self, batch: Sequence[Request]) -> None:
        self._do(self._submit, batch)

    def withdraw(self, receipts: Sequence[str] | None = None) -> list[str]:
        return self._do(self._withdraw, receipts) or []

    def terminate(self, receipt: str, signal: int | None = None) -> bool:
        return bool(self._do(self._terminate, receipt, signal))

    def interrupt(self, receipt: str, error: BaseException) -> bool:
        return bool(self._do(self._interrupt, receipt, error))

    def resize(self, slots: int) -> None:
        """:raises ValueError: fewer than one."""
        if slots < 1:
            raise ValueError(f"at least one process is needed, not {slots}")
        self.slots = slots
        self._do(self._workforce.resize, slots)

    def recycle(self) -> None:
        self._do(self._workforce.recycle)

    def stop(self, timeout: float | None = None) -> Reply[None]:
        if not self._ended.done():
            try:
                if self._home is None:
                    raise Abandoned
                self._home.do(self._stop, timeout)
            except Abandoned:
                self._give_up()
        return self._ended

    def info(self) -> dict[str, Any]:
        processes = [process for process in self._host.processes.values() if process.pid]
        conf = self._app.conf
        return {
            **super().info(),
            "processes": [process.pid for process in processes],
            "max-tasks-per-child": self._options.max_tasks_per_child or "N/A",
            "put-guarded-by-semaphore": False,
            "timeouts": [conf.task_soft_time_limit or 0, conf.task_time_limit or 0],
            "writes": {
                "total": self._line.written,
                "strategy": "fair",
                "inqueues": {"total": len(processes), "active": 0},
            },
        }

    def _do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """On the loop the pool lives on; nothing before it began, and once it has ended."""
        if self._home is None or self._ended.done():
            return None
        try:
            return self._home.do(function, *arguments)
        except Abandoned:
            return None

    # -- what the host tells -------------------------------------------------------------------------------------------

    def on_message(self, process: Process, data: bytes, attached: Sequence[int]) -> None:
        kind = data[:1]
        if kind == UP:
            self._workforce.ready(process)
            if not self._ready.done():
                self._ready.set_result(None)
        elif kind == LEAVING:
            self._workforce.leaving(process)
        elif kind == ANSWER:
            self._on_answer(decode(memoryview(data)[1:]))
        elif kind == ANSWER_IN_FILE:
            (file,) = attached
            self._on_answer(decode(whole_file(file)))
        self._look()

    def on_answers(self, data: bytes) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        offset, end, view = 0, len(data), memoryview(data)
        while offset + 4 <= end:
            (size,) = _frame_size(data, offset)
            after = offset + 4 + size
            if after > end:
                break
            self._on_answer(decode(view[offset + 4 : after]))
            offset = after
        if offset < end:
            self._rest = data[offset:]
        self._look()

    def on_ended(self, process: Process, ending: Ending) -> None:
        job = self._jobs.get(process.slot.pulled)
        if job is not None and process.slot.running == job.number:
            self._said.append(self._death(job, process, ending))
            self._forget(job)
        elif job is not None:
            self._line.put_first(job)  # pulled, and not started: as if it had never been
        self._workforce.ended(process, ending)
        self._look()
        if self._stopping:
            self._end_when_empty()

    def on_unable(self, problem: str) -> None:
        if not self._stopping:
            self._said.append(PoolBroken(f"the pool prefork cannot go on: {problem}"))
            self._tell()
            self._stop(None)

    def _on_answer(self, fields: list[Any]) -> None:
        job = self._jobs.get(fields[0])
        if job is None:
            return
        self._forget(job)
        request = job.request
        if (fault := decode_fault(fields)) is not None:
            self._said.append(Died(request.receipt, {"reason": f"the runner failed: {fault}"}))
        else:
            self._said.append(Finished(request.receipt, decode_outcome(fields, request)))

    def _death(self, job: Job, process: Process, ending: Ending) -> Died:
        reason = process.reason
        if reason is None and ending.signal == signal.SIGKILL and self._oom.has_risen():
            reason = "killed by the kernel for want of memory"
        evidence = of_death(ending, reason, process.slot.stacks() or None)
        return Died(job.request.receipt, evidence, terminated=job.terminated, time_limit=job.time_limit)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _start(self, body: tuple[Any, ...]) -> None:
        assert self._home is not None
        loop = self._home.loop
        self._host.begin(loop, self)
        self._line.begin(loop)
        self._limits.begin(loop)
        self._workforce.begin(loop, body)

    def _submit(self, batch: Iterable[Request]) -> None:
        if self._stopping:
            self._said += [Died(request.receipt, {"reason": "not started"}, started=False) for request in batch]
            self._tell()
            return
        jobs = [Job(next(self._numbers), request) for request in batch]
        for job in jobs:
            self._jobs[job.number] = self._by_receipt[job.request.receipt] = job
        for job, error in self._line.put(jobs).items():
            self._forget(job)
            self._said.append(Died(job.request.receipt, {"reason": f"it cannot be sent to another process: {error}"}))
        self._tell()
        self._look_later()

    def _withdraw(self, receipts: Sequence[str] | None) -> list[str]:
        if receipts is None:
            wanted = {job for job in self._jobs.values() if job.process is None}
        else:
            known = (self._by_receipt.get(receipt) for receipt in receipts)
            wanted = {job for job in known if job is not None and job.process is None}
        if not wanted:
            return []
        taken = self._line.take_back(wanted, self._jobs)
        for job in taken:
            self._forget(job)
        return [job.request.receipt for job in taken]

    def _terminate(self, receipt: str, number: int | None) -> bool:
        job = self._job_running(receipt)
        return job is not None and self._limits.terminate(job, number)

    def _interrupt(self, receipt: str, error: BaseException) -> bool:
        job = self._job_running(receipt)
        return job is not None and self._limits.interrupt(job, error)

    def _job_running(self, receipt: str) -> Job | None:
        """The job of that receipt, if it runs now."""
        job = self._by_receipt.get(receipt)
        if job is not None and job.process is None:
            self._look()
        return job if job is not None and job.process is not None else None

    def _forget(self, job: Job) -> None:
        del self._jobs[job.number], self._by_receipt[job.request.receipt]
        if job.process is not None:
            self._running.discard(job)
            job.cancel_timers()
            if job.terminated:
                job.process.reason = None  # it has survived the signal, and what it dies of later is another matter

    # -- what runs -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Read what has started since, tell everything, and look again while there is something to see."""
        jobs = self._jobs
        for process in self._host.processes.values():
            number = process.slot.running
            if number and process.pid and (job := jobs.get(number)) is not None and job.process is None:
                job.process = process
                self._running.add(job)
                at, since = process.slot.since
                self._said.append(Started(job.request.receipt, at, process.pid))
                self._limits.watch(job, since)
        self._tell()
        self._look_later()

    def _look_later(self) -> None:
        if self._looking is None and len(self._jobs) > len(self._running):
            assert self._home is not None
            self._looking = self._home.loop.call_later(LOOK, self._look_again)

    def _look_again(self) -> None:
        self._looking = None
        self._look()

    def _tell(self) -> None:
        if self._said:
            said, self._said = self._said, []
            self._sink(said)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _stop(self, timeout: float | None) -> None:
        assert self._home is not None
        if not self._stopping:
            self._stopping = True
            self._said += [Died(receipt, {"reason": "not started"}, started=False) for receipt in self._withdraw(None)]
            self._look()
            self._workforce.close()
        self._end_when_empty()
        if timeout is None or self._ended.done():
            return
        if timeout > 0:
            self._home.loop.call_later(timeout, self._interrupt_rest)
        else:
            self._interrupt_rest()  # at once: the loop itself may be about to end

    def _interrupt_rest(self) -> None:
        assert self._home is not None
        if self._ended.done():
            return
        self._look()
        for job in list(self._running):
            self._limits.interrupt(job, Interrupted())
        self._home.loop.call_later(LAST_WORDS if self._running else 0.0, self._kill_rest)

    def _kill_rest(self) -> None:
        if not self._ended.done():
            for process in self._host.processes.values():
                process.reason = process.reason or "interrupted"
                process.kill()

    def _end_when_empty(self) -> None:
        if self._host.processes or self._ended.done():
            return
        self._workforce.cancel_timers()
        self._line.close()
        if self._looking is not None:
            self._looking.cancel()
        # Pulled by a process that died before it could start them.
        jobs = list(self._jobs.values())
        self._said += [Died(job.request.receipt, {"reason": "not started"}, started=False) for job in jobs]
        self._jobs.clear()
        self._by_receipt.clear()
        self._tell()
        self._sink = _nobody
        self._host.end(self._over)

    def _over(self) -> None:
        assert self._home is not None
        self._home.leave()
        for reply in (self._ready, self._ended):
            if not reply.done():
                reply.set_result(None)

    def _give_up(self) -> None:
        """There is no loop, or none any more: end at once."""
        self._host.abandon()
        self._host.wait()
        if not self._ended.done():
            self._ended.set_result(None)


def cpu_count() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _name_of(run: Callable[[Request], Outcome]) -> str | None:
    """How the processes find what runs requests; ``None``: it is the application's."""
    if isinstance(run, Runner):
        return None
    name = getattr(run, "__qualname__", "")
    if not name or "<" in name:
        raise TypeError(
            f"{run!r} cannot run requests in other processes: it has to be the application's runner, "
            "or a function of a module"
        )
    return f"{run.__module__}:{name}"


def _nobody(_events: Sequence[PoolEvent]) -> None:
    pass
