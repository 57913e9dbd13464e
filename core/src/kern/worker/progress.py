"""What is told of tasks on their way: the state ``STARTED``, and the events of monitors.

Nothing waits for it and nothing fails by it: a store that cannot be reached is not told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kern import log, states
from kern.contracts.pool import Started
from kern.contracts.result_store import ResultStore
from kern.outcome import Document, Event
from kern.request import Request
from kern.timeutil import clock
from kern.worker.chores import Chores
from kern.worker.endings import Endings
from kern.worker.replies import awaited
from kern.worker.state import InFlight

if TYPE_CHECKING:
    from kern.app import Kern

logger = log.get_logger("kern.worker")

#: ``STARTED`` documents that may wait to be written; the oldest are dropped first.
WAITING = 1000
#: Seconds a result store may take to write them.
PATIENCE = 5.0


class Progress:
    """Tells result store and monitors.

    :param store: the result store in use.
    """

    def __init__(
        self, app: Kern, hostname: str, store: Callable[[], ResultStore | None], endings: Endings, chores: Chores
    ) -> None:
        self._app = app
        self._tasks = app.tasks
        self._hostname = hostname
        self._store = store
        self._endings = endings
        self._chores = chores
        self._documents: deque[Document] = deque(maxlen=WAITING)
        self._writing = False
        self._events_wanted = app.plugins.listens("kern_events")
        self._received_wanted = app.plugins.listens("kern_received")
        tracked = any(task.track_started for task in app.tasks.values())
        #: Whether anybody wants to know that a task has started.
        self.wants_starts = self._events_wanted or tracked

    def received(self, requests: Sequence[Request]) -> None:
        """They have been admitted, and will run here."""
        if self._received_wanted:
            self._app.plugins.notify("kern_received", app=self._app, requests=requests)
        if self._events_wanted:
            self.events([_received(request) for request in requests if self._tells(request)])

    def started(self, entry: InFlight, event: Started) -> None:
        """It has begun to run."""
        request = entry.request
        if request is None:
            return
        if self._events_wanted and self._tells(request):
            self.events([Event("task-started", {"uuid": request.id}, event.at)])
        task = self._tasks.get(request.task or "")
        if task is None or not task.track_started:
            return
        facts = {"pid": event.pid, "hostname": self._hostname}
        document = self._endings.document(request, states.STARTED, facts)
        if document is not None:
            self._documents.append(document)
            if not self._writing:
                self._writing = True
                self._chores.spawn("store STARTED", self._write())

    def events(self, events: Sequence[Event]) -> None:
        """Hand events to monitors."""
        if events and self._events_wanted:
            self._app.plugins.notify("kern_events", app=self._app, events=events)

    def _tells(self, request: Request) -> bool:
        task = self._tasks.get(request.task or "")
        return task is None or bool(task.send_events)

    async def _write(self) -> None:
        try:
            while self._documents and (store := self._store()) is not None:
                batch = list(self._documents)
                self._documents.clear()
                plans = store.plan(batch, [()] * len(batch))
                written = store.write([plan for plan in plans if plan is not None])
                await asyncio.wait_for(awaited(written), PATIENCE)
        except Exception as error:
            logger.warning("the state STARTED could not be stored", error=repr(error))
        finally:
            self._writing = False


def _received(request: Request) -> Event:
    fields: dict[str, Any] = {
        "uuid": request.id,
        "name": request.task,
        "args": request.argsrepr,
        "kwargs": request.kwargsrepr,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "retries": request.retries,
        "eta": request.eta,
        "expires": request.expires,
    }
    return Event("task-received", fields, clock.now())
