"""As many processes as there are slots, whatever becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kern import log
from kern_process_host import Ending, Host, Process

logger = log.get_logger("kern.pool")

#: Pauses before another process is made when the last ones did not come up: first, longest; seconds.
PAUSES = (0.1, 5.0)
#: Processes in a row that may end before they are ready.
STILLBORN = 8
#: Seconds after which an order that was not carried out is repeated: a signal that comes right before a system call
#: that waits is heard only after it.
REPEAT = 0.05
#: Seconds that a process may take to load the application, where each does so itself.
LOADING = 120.0
#: Seconds after which an idle process that does not leave when told to is killed: a task has taken its signal away.
DEAF = 5.0


class Workforce:
    """Makes processes, replaces them, and sends them away.

    :param slots: how many there are to be.
    :param alive_timeout: seconds a process may take until it is ready.
    :param unable: told why there can be no processes.
    """

    def __init__(self, host: Host, slots: int, alive_timeout: float, unable: Callable[[str], None]) -> None:
        self._host = host
        self._slots = slots
        self._alive_timeout = alive_timeout
        self._unable = unable
        self._body: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._stillborn = 0
        self._pausing: asyncio.TimerHandle | None = None
        self._repeating: asyncio.TimerHandle | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, body: Any) -> None:
        """:param body: what each process is given at its birth."""
        self._loop, self._body = loop, body
        self.fill()

    def resize(self, slots: int) -> None:
        self._slots = slots
        self.fill()

    def fill(self) -> None:
        """As many processes as there are slots; of those that are too many, the idle ones leave first."""
        if self._closed or self._pausing is not None or self._loop is None:
            return
        staying = [process for process in self._host.processes.values() if not process.leaving]
        for _ in range(self._slots - len(staying)):
            process = self._host.launch(self._body)
            self._expect_ready(process, self._loop.time() + (LOADING if self._host.loads else self._alive_timeout))
        superfluous = max(0, len(staying) - self._slots)
        for process in sorted(staying, key=lambda process: process.slot.running != 0)[:superfluous]:
            self._dismiss(process)

    def recycle(self) -> None:
        """Replace all: idle ones at once, busy ones when they have done what they do."""
        for process in self._host.processes.values():
            self._dismiss(process)
        self.fill()

    def close(self) -> None:
        """Send all away, and make no more."""
        self._closed = True
        for process in self._host.processes.values():
            self._dismiss(process)

    def cancel_timers(self) -> None:
        for timer in (self._pausing, self._repeating):
            if timer is not None:
                timer.cancel()

    # -- what becomes of them

    def ready(self, process: Process) -> None:
        """*process* waits for tasks."""
        process.up = True
        self._stillborn = 0

    def leaving(self, process: Process) -> None:
        """*process* takes nothing more, by its own decision or ours."""
        process.leaving = True
        self.fill()

    def ended(self, process: Process, ending: Ending) -> None:
        """*process* is gone."""
        facts = {"child": process.number, "pid": process.pid, "ended": str(ending)}
        if process.up:
            if ending.exit_code != 0 and process.reason is None:
                logger.error("process died", **facts)
            else:
                logger.debug("process ended", **facts)
        elif not self._closed and not process.leaving:
            self._died_young(process, facts)
        self.fill()

    def _died_young(self, process: Process, facts: dict[str, Any]) -> None:
        assert self._loop is not None
        self._stillborn += 1
        first, longest = PAUSES
        pause = min(longest, first * 2 ** (self._stillborn - 1))
        logger.error("process ended before it was ready", next_in=pause, reason=process.reason, **facts)
        if self._stillborn >= STILLBORN:
            self._unable(
                f"{self._stillborn} processes in a row ended before they were ready, the last with {facts['ended']}"
            )
        elif self._pausing is None:
            self._pausing = self._loop.call_later(pause, self._try_again)

    def _try_again(self) -> None:
        self._pausing = None
        self.fill()

    def _expect_ready(self, process: Process, deadline: float) -> None:
        """Look until the deadline whether it is ready; once the application is loaded, there is a nearer one."""
        assert self._loop is not None
        if process.up or process.number not in self._host.processes:
            return
        if process.loaded is not None:
            deadline = process.loaded + self._alive_timeout
        left = deadline - self._loop.time()
        if left > 0:
            self._loop.call_later(min(left, self._alive_timeout), self._expect_ready, process, deadline)
        else:
            logger.error(
                "process replaced: it was not ready in time",
                child=process.number,
                pid=process.pid,
                seconds=self._alive_timeout,
            )
            process.reason = "not ready in time"
            process.kill()

    # -- orders

    def _dismiss(self, process: Process) -> None:
        process.leave()
        self.repeat_orders()

    def repeat_orders(self) -> None:
        """Until all have been carried out."""
        if self._repeating is None and self._loop is not None:
            self._repeating = self._loop.call_later(REPEAT, self._remind)

    def _remind(self) -> None:
        self._repeating = None
        deaf = [process for process in self._host.processes.values() if not process.obeys]
        for process in deaf:
            process.remind()
            if process.reminded > DEAF / REPEAT and process.leaving and process.up and not process.slot.running:
                process.reason = "does not leave"
                process.kill()
        if deaf:
            self.repeat_orders()
