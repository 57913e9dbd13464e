"""The pool, as the worker's main process sees it.

Requests go out on one socket that all processes pull from, so whoever is idle gets the next one; what does not fit into
the socket waits here. Which process has which request, and since when, is read from memory that each process shares
with us (:mod:`kern_process_host.slots`); nothing is told about a start.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import attrs

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
from kern.errors import ImproperlyConfigured, Interrupted, SoftTimeLimitExceeded
from kern.outcome import Outcome
from kern.request import Request
from kern.runner import Runner
from kern_pool_prefork.settings import PreforkSettings
from kern_process_host import Abandoned, Ending, Home, Host, OomCounter, Process, of_death
from kern_process_host.descriptors import file_with, send, whole_file
from kern_process_host.hosted import ANSWER, ANSWER_IN_FILE, DUMP, LEAVING, UP
from kern_process_host.process import drain
from kern_process_host.slots import LONGEST
from kern_process_host.wire import decode, decode_fault, decode_outcome, encode_request

logger = log.get_logger("kern.pool")

#: Seconds between looks at what has started, while something may have.
LOOK = 0.05
#: Seconds that a task has to end once it has been interrupted, before its process is killed.
LAST_WORDS = 0.3
#: Seconds a process has to write down what it does, before it is killed at a hard limit.
DUMPING = 0.1
#: Seconds that a process has to die of a signal, before it gets one that it cannot put off.
DYING = 1.0
#: Pauses before another process is made when the last ones did not come up: first, longest; seconds.
PAUSES = (0.1, 5.0)
#: Processes in a row that may end before they are ready.
STILLBORN = 8

_head = struct.Struct("=Q").pack
_number = struct.Struct("=Q").unpack_from
_frame_size = struct.Struct("<I").unpack_from
_PULLED_LATER = (
    "what runs requests has to be the application's runner, or a function of a module: it runs in another process"
)


@attrs.define(eq=False)
class Job:
    """A request that the pool has."""

    number: int
    request: Request
    #: Where it runs; ``None``: nowhere, as far as we know.
    process: Process | None = None
    timers: list[asyncio.TimerHandle] = attrs.field(factory=list)
    #: We are about to kill its process: on request, or at its limit of so many seconds.
    terminated: bool = False
    time_limit: float | None = None

    def cancel_timers(self) -> None:
        for timer in self.timers:
            timer.cancel()


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
        self._alive_timeout = conf.worker_proc_alive_timeout
        # Made before there are processes that share it, with all that has to be imported for it.
        app.runner(options.hostname)
        self._host = Host(app, options.hostname, "kern_pool_prefork.child:serve", conf.worker_pool_start_method)
        self._home: Home | None = None
        self._sink: PoolSink = _nobody
        self._ready: Reply[None] = Future()
        self._ended: Reply[None] = Future()
        self._stopping = False
        self._body: tuple[Any, ...] = ()
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._by_receipt: dict[str, Job] = {}
        #: Jobs known to have started.
        self._running: set[Job] = set()
        #: Encoded, and not in the socket yet.
        self._backlog: deque[tuple[Job, bytes]] = deque()
        self._refilling = False
        self._said: list[PoolEvent] = []
        self._rest = b""
        self._looking: asyncio.TimerHandle | None = None
        self._repeating: asyncio.TimerHandle | None = None
        self._stillborn = 0
        self._pausing: asyncio.TimerHandle | None = None
        self._written = 0
        self._oom = OomCounter()

    # -- the port ------------------------------------------------------------------------------------------------------

    def start(self, run: Callable[[Request], Outcome], sink: PoolSink) -> Reply[None]:
        self._body = (_name_of(run), self._options.max_tasks_per_child, self._options.max_memory_per_child)
        self._sink = sink
        self._home = Home()
        self._home.do(self._start)
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
        if slots < 1:
            raise ValueError(f"at least one process is needed, not {slots}")
        self.slots = slots
        self._do(self._adjust)

    def recycle(self) -> None:
        self._do(self._recycle)

    def stop(self, timeout: float | None = None) -> Reply[None]:
        if not self._ended.done():
            try:
                if self._home is None:
                    raise Abandoned
                self._home.do(self._stop, timeout)
            except Abandoned:
                self._give_up()
        return self._ended

    def _give_up(self) -> None:
        """There is no loop, or none any more: end at once."""
        self._host.abandon()
        self._host.wait()
        if not self._ended.done():
            self._ended.set_result(None)

    def _do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """On the loop the pool lives on; nothing once it has ended."""
        if self._home is None or self._ended.done():
            return None
        try:
            return self._home.do(function, *arguments)
        except Abandoned:
            return None

    def info(self) -> dict[str, Any]:
        children = [process for process in self._host.processes.values() if process.pid]
        return {
            **super().info(),
            "processes": [process.pid for process in children],
            "max-tasks-per-child": self._options.max_tasks_per_child or "N/A",
            "put-guarded-by-semaphore": False,
            "timeouts": [self._app.conf.task_soft_time_limit or 0, self._app.conf.task_time_limit or 0],
            "writes": {"total": self._written, "strategy": "fair"},
        }

    # -- processes -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        assert self._home is not None
        self._host.begin(self._home.loop, self)
        self._adjust()

    @property
    def _staying(self) -> list[Process]:
        return [process for process in self._host.processes.values() if not process.leaving]

    def _adjust(self) -> None:
        """As many processes as there are slots; the idle ones leave first."""
        if self._stopping or self._pausing is not None:
            return
        staying = self._staying
        for _ in range(self.slots - len(staying)):
            self._launch()
        superfluous = len(staying) - self.slots
        if superfluous > 0:
            for process in sorted(staying, key=lambda process: process.slot.running != 0)[:superfluous]:
                self._dismiss(process)

    def _launch(self) -> None:
        process = self._host.launch(self._body)
        self._loop.call_later(self._alive_timeout, self._expect_up, process)

    def _expect_up(self, process: Process) -> None:
        if process.up or process.number not in self._host.processes:
            return
        logger.error(
            "process replaced: it was not ready in time",
            child=process.number,
            pid=process.pid,
            seconds=self._alive_timeout,
        )
        process.reason = "not ready in time"
        process.kill()

    def _dismiss(self, process: Process) -> None:
        process.leave()
        self._repeat_orders()

    def _recycle(self) -> None:
        for process in self._staying:
            self._dismiss(process)
        self._adjust()

    def _repeat_orders(self) -> None:
        """A signal that comes right before a system call that waits is heard after it; the next one ends the wait."""
        if self._repeating is None:
            self._repeating = self._loop.call_later(LOOK, self._remind)

    def _remind(self) -> None:
        self._repeating = None
        deaf = [process for process in self._host.processes.values() if not process.obeys]
        for process in deaf:
            process.remind()
        if deaf:
            self._repeat_orders()

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        assert self._home is not None
        return self._home.loop

    # -- what the host tells -------------------------------------------------------------------------------------------

    def on_message(self, process: Process, data: bytes, attached: Sequence[int]) -> None:
        kind = data[:1]
        if kind == UP:
            process.up = True
            self._stillborn = 0
            if not self._ready.done():
                self._ready.set_result(None)
        elif kind == LEAVING:
            process.leaving = True
            self._adjust()
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

    def _on_answer(self, fields: list[Any]) -> None:
        job = self._forget(fields[0])
        if job is None:
            return
        request = job.request
        if (fault := decode_fault(fields)) is not None:
            self._said.append(Died(request.receipt, {"reason": f"the runner failed: {fault}"}))
        else:
            self._said.append(Finished(request.receipt, decode_outcome(fields, request)))

    def on_ended(self, process: Process, ending: Ending) -> None:
        job = self._jobs.get(process.slot.pulled)
        if job is not None and process.slot.running == job.number:
            self._forget(job.number)
            self._said.append(self._death(job, process, ending))
        elif job is not None:
            # Pulled, and not started: as if it had never been.
            self._backlog.appendleft((job, self._encoded(job)))
            self._refill()
        self._note_end(process, ending)
        self._look()
        if self._stopping:
            self._end_when_empty()
        else:
            self._adjust()

    def _death(self, job: Job, process: Process, ending: Ending) -> Died:
        reason = process.reason
        if reason is None and ending.signal == signal.SIGKILL and self._oom.has_risen():
            reason = "killed by the kernel for want of memory"
        stack = process.slot.stacks() or None
        evidence = of_death(ending, reason, stack)
        return Died(job.request.receipt, evidence, started=True, terminated=job.terminated, time_limit=job.time_limit)

    def _note_end(self, process: Process, ending: Ending) -> None:
        facts = {"child": process.number, "pid": process.pid, "ended": str(ending)}
        if process.up:
            if ending.exit_code != 0 and process.reason is None:
                logger.error("process died", **facts)
            else:
                logger.debug("process ended", **facts)
            return
        if self._stopping or process.leaving:
            return
        self._stillborn += 1
        first, longest = PAUSES
        pause = min(longest, first * 2 ** (self._stillborn - 1))
        logger.error("process ended before it was ready", pause=pause, reason=process.reason, **facts)
        if self._stillborn >= STILLBORN:
            self.on_unable(f"{self._stillborn} processes in a row ended before they were ready, the last by {ending}")
        elif self._pausing is None:
            self._pausing = self._loop.call_later(pause, self._try_again)

    def _try_again(self) -> None:
        self._pausing = None
        self._adjust()

    def on_unable(self, problem: str) -> None:
        if self._stopping:
            return
        self._said.append(PoolBroken(f"the pool prefork cannot go on: {problem}"))
        self._tell()
        self._stop(None)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _submit(self, batch: Iterable[Request]) -> None:
        if self._stopping:
            self._said += [Died(request.receipt, {"reason": "not started"}, started=False) for request in batch]
            self._tell()
            return
        jobs, by_receipt, backlog, numbers = self._jobs, self._by_receipt, self._backlog, self._numbers
        for request in batch:
            number = next(numbers)
            job = jobs[number] = by_receipt[request.receipt] = Job(number, request)
            backlog.append((job, self._encoded(job)))
        self._refill()
        self._look_later()

    def _encoded(self, job: Job) -> bytes:
        return _head(job.number) + encode_request(job.request)

    def _refill(self) -> None:
        """As much as fits into the socket."""
        backlog, tasks = self._backlog, self._host.tasks
        try:
            while backlog:
                data = backlog[0][1]
                if len(data) <= LONGEST:
                    tasks.send(data)
                else:
                    self._send_file(data)
                backlog.popleft()
                self._written += 1
        except (BlockingIOError, InterruptedError):
            if not self._refilling:
                self._refilling = True
                self._loop.add_writer(tasks.fileno(), self._refill)
            return
        if self._refilling:
            self._refilling = False
            self._loop.remove_writer(tasks.fileno())

    def _send_file(self, data: bytes) -> None:
        file = file_with(data[8:], "kern-task")
        try:
            send(self._host.tasks, data[:8], [file])
        finally:
            os.close(file)

    def _forget(self, number: int) -> Job | None:
        job = self._jobs.pop(number, None)
        if job is not None:
            self._by_receipt.pop(job.request.receipt, None)
            if job.process is not None:
                self._running.discard(job)
                job.cancel_timers()
        return job

    def _withdraw(self, receipts: Sequence[str] | None) -> list[str]:
        if receipts is None:
            wanted = {job for job in self._jobs.values() if job.process is None}
        else:
            known = (self._by_receipt.get(receipt) for receipt in receipts)
            wanted = {job for job in known if job is not None and job.process is None}
        if not wanted:
            return []
        waiting = [*self._taken_back(), *self._backlog]
        self._backlog = deque(entry for entry in waiting if entry[0] not in wanted)
        self._refill()
        taken = [job for job, _ in waiting if job in wanted]
        for job in taken:
            self._forget(job.number)
        return [job.request.receipt for job in taken]

    def _taken_back(self) -> list[tuple[Job, bytes]]:
        """What is in the socket, and was not pulled."""
        found = []
        for data, attached in drain(self._host.pulled):
            for file in attached:
                os.close(file)
            job = self._jobs.get(_number(data)[0]) if data else None
            if job is not None:
                found.append((job, self._encoded(job) if attached else data))
        return found

    # -- what runs -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Read what has started since, tell everything, and look again while there is something to see."""
        jobs, running = self._jobs, self._running
        for process in self._host.processes.values():
            number = process.slot.running
            if number and process.pid and (job := jobs.get(number)) is not None and job.process is None:
                running.add(job)
                job.process = process
                at, since = process.slot.since
                self._said.append(Started(job.request.receipt, at, process.pid))
                self._watch(job, since)
        self._tell()
        self._look_later()

    def _look_later(self) -> None:
        if self._looking is None and len(self._jobs) > len(self._running):
            self._looking = self._loop.call_later(LOOK, self._look_again)

    def _look_again(self) -> None:
        self._looking = None
        self._look()

    def _tell(self) -> None:
        if self._said:
            said, self._said = self._said, []
            self._sink(said)

    def _job_running(self, receipt: str) -> Job | None:
        """The job of that receipt, if it runs now."""
        job = self._by_receipt.get(receipt)
        if job is not None and job.process is None:
            self._look()
        return job if job is not None and job.process is not None else None

    # -- limits, and other ends ----------------------------------------------------------------------------------------

    def _watch(self, job: Job, since: float) -> None:
        """Limits count from when it began to run."""
        soft, hard = job.request.soft_time_limit, job.request.time_limit
        if soft:
            job.timers.append(self._call_at(since + soft, self._soft_limit, job, soft))
        if hard:
            job.timers.append(self._call_at(since + hard, self._hard_limit, job, hard))

    def _call_at(self, monotonic: float, function: Callable[..., None], *arguments: Any) -> asyncio.TimerHandle:
        return self._loop.call_later(max(0.0, monotonic - time.monotonic()), function, *arguments)

    def _soft_limit(self, job: Job, limit: float) -> None:
        logger.warning("soft time limit", task_id=job.request.id, task=job.request.task, seconds=limit)
        self._raise_in(job, SoftTimeLimitExceeded(limit))

    def _raise_in(self, job: Job, error: BaseException) -> bool:
        if job.process is None or not job.process.order(job.number, error):
            return False
        self._repeat_orders()
        return True

    def _hard_limit(self, job: Job, limit: float) -> None:
        assert job.process is not None
        job.process.kill(DUMP)
        job.timers.append(self._loop.call_later(DUMPING, self._kill_at_limit, job, limit))

    def _kill_at_limit(self, job: Job, limit: float) -> None:
        assert job.process is not None
        job.time_limit = limit
        if job.process.kill_in(job.number, signal.SIGKILL, "hard time limit"):
            logger.error(
                "process killed: its task ran into its hard time limit",
                task_id=job.request.id,
                task=job.request.task,
                seconds=limit,
                pid=job.process.pid,
                stack=job.process.slot.stacks(),
            )
        else:
            job.time_limit = None  # it ended at this very moment

    def _terminate(self, receipt: str, number: int | None) -> bool:
        job = self._job_running(receipt)
        if job is None or job.process is None:
            return False
        if number == signal.SIGUSR1:
            # Celery's way to have the soft limit raised.
            return self._raise_in(job, SoftTimeLimitExceeded(job.request.soft_time_limit or 0.0))
        job.terminated = True
        fatal = number is None or number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
        if not job.process.kill_in(job.number, signal.SIGKILL if fatal else int(number or 0), "terminated"):
            job.terminated = False
            return False
        if not fatal:
            job.timers.append(
                self._loop.call_later(DYING, job.process.kill_in, job.number, signal.SIGKILL, "terminated")
            )
        return True

    def _interrupt(self, receipt: str, error: BaseException) -> bool:
        job = self._job_running(receipt)
        return job is not None and self._raise_in(job, error)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _stop(self, timeout: float | None) -> None:
        if not self._stopping:
            self._stopping = True
            if self._pausing is not None:
                self._pausing.cancel()
            waiting = [job for job in self._jobs.values() if job.process is None]
            taken = set(self._withdraw([job.request.receipt for job in waiting]))
            self._said += [Died(receipt, {"reason": "not started"}, started=False) for receipt in taken]
            self._look()
            for process in self._host.processes.values():
                self._dismiss(process)
        self._end_when_empty()
        if timeout is not None and not self._ended.done():
            self._loop.call_later(timeout, self._interrupt_rest)

    def _interrupt_rest(self) -> None:
        if self._ended.done():
            return
        self._look()
        for job in list(self._running):
            self._raise_in(job, Interrupted())
        self._loop.call_later(LAST_WORDS if self._running else 0.0, self._kill_rest)

    def _kill_rest(self) -> None:
        if self._ended.done():
            return
        for process in self._host.processes.values():
            process.reason = process.reason or "interrupted"
            process.kill()

    def _end_when_empty(self) -> None:
        if self._host.processes or self._ended.done():
            return
        for timer in (self._looking, self._repeating):
            if timer is not None:
                timer.cancel()
        if self._refilling:
            self._loop.remove_writer(self._host.tasks.fileno())
        # Pulled by a process that died before it could start it.
        self._said += [
            Died(job.request.receipt, {"reason": "not started"}, started=False) for job in self._jobs.values()
        ]
        self._jobs.clear()
        self._tell()
        self._sink = _nobody
        self._host.end(self._over)

    def _over(self) -> None:
        assert self._home is not None
        if not self._ready.done():
            self._ready.set_result(None)
        self._home.leave()
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
        raise TypeError(_PULLED_LATER)
    return f"{run.__module__}:{name}"


def _nobody(_events: Sequence[PoolEvent]) -> None:
    pass
