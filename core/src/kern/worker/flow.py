"""The stages put together, from what the broker hands out to what is written: what goes from one to the next, and when.

Everything here runs on the worker's loop, but for :meth:`Flow.pool_sink` and :meth:`Flow.transport_sink`, which drivers
call from their threads.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from kern import documents, log, seams, states
from kern.contracts.pool import Died, Finished, Pool, PoolBroken, PoolCapability, PoolEvent, Started
from kern.contracts.port import Down, Lost, TransportEvent, Up, Woken
from kern.contracts.result_store import ResultStore
from kern.contracts.transport import Owner, SettleStatus, Transport
from kern.delivery import Delivery
from kern.outcome import Document, GiveBack, Outcome, Quarantine, RetryAt
from kern.settings import Settings
from kern.worker.admission import Admission
from kern.worker.blame import Coroner
from kern.worker.chores import Chores
from kern.worker.claiming import Claimer, ConsumedQueues, Room
from kern.worker.dispatch import Dispatcher
from kern.worker.endings import Endings
from kern.worker.intake import Intake
from kern.worker.leases import LeaseKeeper
from kern.worker.limits import HardLimits
from kern.worker.neighbours import Neighbours
from kern.worker.progress import Progress
from kern.worker.settling import Pending, Settler
from kern.worker.state import FlightTable, InFlight, Phase, RunTimes
from kern.worker.watchdog import Watchdog

if TYPE_CHECKING:
    from kern.app import Kern

logger = log.get_logger("kern.worker")
#: Asked for its level alone: a line for each task is not made to be thrown away.
_levels = logging.getLogger("kern.worker")


class Flow:
    """The flow of tasks through one worker.

    :param conf: the settings as they were when the worker started.
    :param owner: in whose name leases are taken.
    :param transport: started.
    :param pool: not started.
    :param chores: where coroutines run beside the stages.
    :param failed: told that the worker cannot go on: what failed, and the error.
    """

    def __init__(
        self,
        app: Kern,
        conf: Settings,
        owner: Owner,
        transport: Transport,
        store: ResultStore | None,
        pool: Pool,
        queues: ConsumedQueues,
        chores: Chores,
        failed: Callable[[str, BaseException | str], None],
        mend: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        """
        :param mend: makes the connection to the broker anew.
        """
        self._app = app
        self._conf = conf
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._store = store
        self._pool = pool
        self._chores = chores
        self._failed = failed
        self._closed = False
        self._pool_events: deque[PoolEvent] = deque()
        self._pool_scheduled = False
        self._settled_wanted = app.plugins.listens("kern_settled")
        #: Settled outcomes by state.
        self.totals: dict[str, int] = {}
        #: Messages that were claimed.
        self.received = 0
        #: Outcomes that came to nothing, for their lease was lost.
        self.fenced = 0
        #: Set while nothing runs here, once the flow has been closed.
        self.quiet = asyncio.Event()
        self.flights = FlightTable()
        self.run_times = RunTimes()
        whole = None if store is None else store.document_form.value == "whole"
        endings = self.endings = Endings(app, conf, owner.hostname, whole)
        self.admission = Admission(app, conf, owner.hostname, endings)
        self.coroner = Coroner(app, endings, conf.task_max_attempts)
        self.progress = Progress(app, owner.hostname, self.store, endings, chores)
        self.limits = HardLimits(pool, self._on_exceeded)
        self.settler = Settler(transport, store, self._on_settled, self._reduce, lambda: pool.slots)
        self.neighbours = Neighbours(transport, owner.id, queues, chores, conf.worker_heartbeat)
        self.dispatcher = Dispatcher(
            pool,
            transport,
            self.flights,
            self.run_times,
            chores,
            self._give_back,
            self.neighbours.consume_the_same,
        )
        self.intake = Intake(
            app,
            transport,
            self.store,
            self.flights,
            self.admission,
            endings,
            self.dispatcher,
            self.settler,
            chores,
            self.progress.received,
            self.conclude,
        )
        self.leases = LeaseKeeper(
            transport,
            self.flights,
            self._on_lease_lost,
            lambda: chores.spawn("mend", self._watchdog.bark("the broker does not answer")),
            conf.worker_lease_seconds,
            conf.worker_heartbeat,
        )
        room = Room(
            self.flights,
            self.run_times,
            lambda: pool.slots,
            lambda: self.dispatcher.exclusive,
            conf.worker_prefetch_multiplier,
            ahead=not conf.worker_disable_prefetch,
        )
        self.claimer = Claimer(
            transport,
            queues,
            self.flights,
            room,
            lambda: self.settler.has_room,
            self._take,
            conf.worker_lease_seconds,
        )
        self._watchdog = Watchdog(
            transport,
            queues,
            lambda: bool(queues.active()) and self.why_not_claiming is None and room.left() > 0,
            lambda: self.received,
            mend,
            lambda what: failed("broker", what),
        )

    def _take(self, deliveries: Sequence[Delivery]) -> None:
        self.received += len(deliveries)
        self.intake.take(deliveries)

    def stages(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What has to run all the time, by name."""
        return {
            "claim": self.claimer.run(),
            "settle": self.settler.run(),
            "leases": self.leases.run(),
            "watchdog": self._watchdog.run(),
        }

    def store(self) -> ResultStore | None:
        """The result store in use."""
        return self._store

    def use_store(self, store: ResultStore) -> None:
        """The result store could not be reached at the start, and now it can: as *store*."""
        self._store = store
        self.settler.use(store)

    @property
    def why_not_claiming(self) -> str | None:
        """Why no messages are claimed at this moment, as a sentence; ``None`` while they are."""
        if self._closed:
            return "the worker is stopping"
        if not self.claimer.connected:
            return "the broker cannot be reached"
        if not self.settler.has_room:
            return f"{self.settler.unsettled} outcomes wait to be written"
        return None

    # -- the end

    def close(self) -> None:
        """Take nothing more; hand back what has not started. What a claim under way brings is handed back, too."""
        self._closed = True
        self.claimer.stop()
        self.intake.close()
        self.dispatcher.close()
        self._note_quiet()

    def interrupt(self) -> list[InFlight]:
        """What runs is about to be ended by the pool, which is no fault of its own; those it concerns."""
        running = self.flights.unfinished()
        for entry in running:
            entry.interrupted = True
        return running

    def hand_back_rest(self) -> None:
        """The pool has ended: hand back what it has not told the end of."""
        rest = self.flights.unfinished()
        if rest:
            self._give_back(rest)

    def _note_quiet(self) -> None:
        if self._closed and not self.flights.unfinished():
            self.quiet.set()

    # -- what drivers have to say

    def transport_sink(self, event: TransportEvent) -> None:
        """From any thread."""
        self._soon(self._on_transport_event, event)

    def _soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Have the loop call it; a driver that lives on the loop need not wake it."""
        if threading.get_ident() == self._thread:
            self._loop.call_soon(callback, *arguments)
            return
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            pass  # the loop has ended: the worker stopped at once, and its leases tell the rest

    def _on_transport_event(self, event: TransportEvent) -> None:
        if isinstance(event, Woken):
            self.claimer.wake()
        elif isinstance(event, Lost):
            self.leases.lost(event.receipts)
        elif isinstance(event, Down):
            self.leases.connected = False
            self.claimer.down()
        elif isinstance(event, Up):
            self._chores.spawn("renew leases", self._reassert())

    async def _reassert(self) -> None:
        """Our own leases first: until they are renewed, others may think us dead."""
        self.leases.connected = True
        await self.leases.beat()
        self.claimer.up()

    def pool_sink(self, events: Sequence[PoolEvent]) -> None:
        """From any thread; one wake-up of the loop for all that arrives before it looks."""
        self._pool_events.extend(events)
        if not self._pool_scheduled:
            self._pool_scheduled = True
            self._soon(self._on_pool_events)

    def _on_pool_events(self) -> None:
        self._pool_scheduled = False
        events, flights, ended = self._pool_events, self.flights, []
        while events:
            event = events.popleft()
            if isinstance(event, PoolBroken):
                self._failed("pool", event.error)
                continue
            entry = flights.get(event.receipt)
            if entry is None:
                continue
            if isinstance(event, Started):
                self._on_started(entry, event)
                continue
            if entry.timer is not None:
                self.limits.ended(entry)
            flights.move(entry, Phase.ENDED)
            finished = event.outcome if isinstance(event, Finished) else None
            if finished is not None and finished.runtime is not None:
                self.run_times.note(finished.runtime)
            if entry.abandoned:
                if entry.settled:
                    flights.remove(entry)
            elif entry.lost:
                flights.remove(entry)
                if finished is not None:
                    self._refused(finished)
            elif isinstance(event, Died):
                ended.append((entry, self.coroner.outcome(entry, event)))
            elif event.outcome.state == states.PENDING:
                ended.append((entry, self.endings.handed_back(entry, started=True)))
            else:
                ended.append((entry, event.outcome))
            self.dispatcher.ended(entry)
        if ended:
            seams.reached("finished")
            self.conclude(ended)
        self.claimer.room()
        if self._closed:
            self._note_quiet()

    def _on_started(self, entry: InFlight, event: Started) -> None:
        self.flights.move(entry, Phase.STARTED)
        entry.started_at, entry.pid = time.monotonic(), event.pid
        if self.limits.needed:
            self.limits.started(entry)
        if self.progress.wants_starts:
            self.progress.started(entry, event)

    # -- ends

    def conclude(self, ended: Sequence[tuple[InFlight, Outcome]]) -> None:
        """What is to become of entries is known: write it."""
        for entry, _outcome in ended:
            self.flights.move(entry, Phase.ENDED)
        _log([outcome for _entry, outcome in ended])
        self.settler.put([Pending(entry, outcome) for entry, outcome in ended])

    def _give_back(self, entries: Sequence[InFlight]) -> None:
        self.intake.give_back(entries)
        if self._closed:
            self._note_quiet()

    def _on_exceeded(self, entry: InFlight, limit: float) -> None:
        """It ran into its hard limit, in a pool that cannot kill it: it has failed, whatever it still does."""
        if entry.abandoned or entry.lost or entry.phase is not Phase.STARTED or entry.request is None:
            return
        entry.abandoned = True
        self.settler.put([Pending(entry, self.coroner.timed_out(entry.request, limit))])
        if self._closed:
            self._note_quiet()

    def _on_lease_lost(self, entry: InFlight) -> None:
        """Somebody else may have it: take it back, or at least do not run it twice for long."""
        if self.dispatcher.forget(entry):
            self.flights.remove(entry)
            self._note_quiet()
        elif PoolCapability.ISOLATED in self._pool.capabilities:
            self._pool.terminate(entry.receipt)

    def _refused(self, outcome: Outcome) -> None:
        self.fenced += 1
        logger.warning("late outcome refused: the lease was lost", task_id=outcome.task_id, state=outcome.state)

    def _on_settled(self, done: Sequence[tuple[Pending, SettleStatus]]) -> None:
        totals = self.totals
        for pending, status in done:
            entry, outcome = pending.entry, pending.outcome
            if entry.phase is Phase.ENDED:
                self.flights.remove(entry)
            else:
                entry.settled = True  # the pool has yet to let go of it
            if status is not SettleStatus.FENCED:
                totals[outcome.state] = totals.get(outcome.state, 0) + 1
            elif not isinstance(outcome.disposition, GiveBack):
                self._refused(outcome)
        if self._settled_wanted:
            self._app.plugins.notify("kern_settled", app=self._app, outcomes=[pending.outcome for pending, _ in done])
        self.progress.events([event for pending, _ in done for event in pending.outcome.events])
        self.claimer.room()

    def _reduce(self, outcome: Outcome, error: Exception) -> Outcome:
        def reduced(document: Document) -> Document:
            return documents.describe_unstorable(document, error, self._conf.result_serializer)

        return attrs.evolve(
            outcome,
            document=reduced(outcome.document) if outcome.document is not None else None,
            documents=tuple(reduced(document) for document in outcome.documents),
        )


def _log(outcomes: Sequence[Outcome]) -> None:
    informing = _levels.isEnabledFor(logging.INFO)
    for outcome in outcomes:
        if not informing and outcome.state != states.FAILURE:
            continue
        fields: dict[str, Any] = {"task": outcome.task, "task_id": outcome.task_id}
        if outcome.runtime is not None:
            fields["runtime"] = round(outcome.runtime, 6)
        if outcome.state == states.SUCCESS:
            logger.info("task succeeded", result=outcome.summary, **fields)
        elif isinstance(outcome.disposition, RetryAt):
            logger.info("task will be retried", reason=outcome.summary, **fields)
        elif outcome.state == states.FAILURE and not isinstance(outcome.disposition, Quarantine):
            if outcome.expected:
                logger.info("task failed as it may", error=outcome.summary, **fields)
            else:
                logger.error("task failed", error=outcome.summary, traceback=outcome.traceback, **fields)
        elif outcome.state == states.IGNORED:
            logger.info("task ignored", **fields)
