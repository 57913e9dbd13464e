"""Jobs that wait for a process: in the socket that all processes pull from, and behind it."""

from __future__ import annotations

import asyncio
import os
import struct
from collections import deque
from collections.abc import Collection, Iterable

from kern_pool_prefork.jobs import Job
from kern_process_host import Host
from kern_process_host.descriptors import file_with, send
from kern_process_host.process import drain
from kern_process_host.slots import LONGEST
from kern_process_host.wire import encode_request

_number = struct.Struct("=Q")


class Line:
    """First come, first served, but for jobs that come back."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Encoded, and not in the socket yet.
        self._backlog: deque[tuple[Job, bytes]] = deque()
        self._refilling = False
        #: Jobs that have been put into the socket, again and again included.
        self.written = 0

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def put(self, jobs: Iterable[Job]) -> dict[Job, Exception]:
        """At the end; those that hold what cannot be sent to another process are refused."""
        refused: dict[Job, Exception] = {}
        for job in jobs:
            try:
                self._backlog.append((job, _encoded(job)))
            except (TypeError, ValueError) as error:
                refused[job] = error
        self._refill()
        return refused

    def put_first(self, job: Job) -> None:
        """It was pulled, and not started."""
        self._backlog.appendleft((job, _encoded(job)))
        self._refill()

    def take_back(self, wanted: Collection[Job], known: dict[int, Job]) -> list[Job]:
        """Those of *wanted* that nobody has pulled yet.

        :param known: all jobs of the pool, by number.
        """
        waiting = [*self._empty_socket(known), *self._backlog]
        self._backlog = deque(entry for entry in waiting if entry[0] not in wanted)
        self._refill()
        return [job for job, _ in waiting if job in wanted]

    def close(self) -> None:
        if self._refilling and self._loop is not None:
            self._refilling = False
            self._loop.remove_writer(self._host.tasks.fileno())

    def _refill(self) -> None:
        """As much as fits into the socket; the rest when there is room again."""
        backlog, tasks = self._backlog, self._host.tasks
        try:
            while backlog:
                data = backlog[0][1]
                if len(data) <= LONGEST:
                    tasks.send(data)
                else:
                    self._send_file(data)
                backlog.popleft()
                self.written += 1
        except (BlockingIOError, InterruptedError):
            assert self._loop is not None
            if not self._refilling:
                self._refilling = True
                self._loop.add_writer(tasks.fileno(), self._refill)
        else:
            self.close()

    def _send_file(self, data: bytes) -> None:
        file = file_with(data[_number.size :], "kern-task")
        try:
            send(self._host.tasks, data[: _number.size], [file])
        finally:
            os.close(file)

    def _empty_socket(self, known: dict[int, Job]) -> list[tuple[Job, bytes]]:
        found = []
        for data, attached in drain(self._host.pulled):
            for file in attached:
                os.close(file)
            job = known.get(_number.unpack_from(data)[0]) if data else None
            if job is not None:
                found.append((job, _encoded(job) if attached else data))
        return found


def _encoded(job: Job) -> bytes:
    return _number.pack(job.number) + encode_request(job.request)
