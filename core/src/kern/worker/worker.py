"""The worker put together: it owns the loop, the in-flight table, and the stages between them."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import attrs

from kern import log, seams, states
from kern.contracts.pool import Finished, Pool, PoolBroken, PoolCapability, PoolEvent, PoolOptions, Started
from kern.contracts.port import Down, Lost, TransportEvent, Up, Woken
from kern.contracts.result_store import ResultStore, StoreCapability
from kern.contracts.service import Service
from kern.contracts.transport import Owner, SettleStatus, Transport, TransportCapability
from kern.delivery import Delivery
from kern.errors import ImproperlyConfigured, KernError
from kern.outcome import Event, GiveBack, Outcome, Quarantine, Release, RetryAt
from kern.worker.admission import Admission
from kern.worker.blame import Coroner
from kern.worker.claiming import Claimer, ConsumedQueues
from kern.worker.dispatch import Dispatcher
from kern.worker.leases import LeaseKeeper
from kern.worker.settling import Pending, Settler
from kern.worker.solo import SoloPool
from kern.worker.state import FlightTable, InFlight, Phase, RunTimes
from kern.worker.stopping import StopRequest

if TYPE_CHECKING:
    from kern.app import Kern

logger = log.get_logger("kern.worker")

#: Seconds between two looks at what waits in the pool.
PATIENCE_INTERVAL = 0.05
#: Seconds between two sweeps of expired results.
SWEEP_INTERVAL = 300.0
#: Seconds a stopping worker waits for its last writes.
FAREWELL = 10.0


class Worker:
    """One worker of *app*.

    :param queues: names of the queues to consume; ``None``: all that are configured.
    :param exclude_queues: names to leave out.
    :param pool: name of the pool; ``None``: the setting, else prefork where installed, else solo.
    :param concurrency: requests that run at once; ``None``: the setting, else the number of processors.
    :param hostname: node name; ``celery@<host>`` by default, as Celery's, so that monitors know it.
    :param signals: take SIGTERM, SIGINT and SIGQUIT; off inside somebody else's process.
    """

    def __init__(
        self,
        app: Kern,
        queues: Sequence[str] | None = None,
        exclude_queues: Sequence[str] = (),
        pool: str | None = None,
        concurrency: int | None = None,
        hostname: str | None = None,
        signals: bool = True,
        purge: bool = False,
    ) -> None:
        self.app = app
        self.hostname = node_name(hostname)
        self.id = f"{self.hostname}:{os.getpid()}:{uuid4().hex[:8]}"
        self._signals = signals
        self._purge = purge
        app.import_modules()
        app.finalize()
        conf = app.conf
        self.conf = conf.freeze()
        self.queue_specs = app.worker_queues(queues, exclude_queues, self.hostname)
        if not self.queue_specs:
            raise ImproperlyConfigured("no queue is left to consume; see -Q and -X")
        self.queues = ConsumedQueues(tuple(spec.name for spec in self.queue_specs))
        self.pool_name = pool or conf.worker_pool or app.default_pool
        self.pool = self._make_pool(concurrency if concurrency is not None else conf.worker_concurrency)
        self.transport: Transport = app.make_transport()
        self.store: ResultStore | None = app.make_result_store()
        self.services: list[Service] = [
            service for offered in app.plugins.ask("kern_services", app=app) for service in offered
        ]
        self.flights = FlightTable()
        self.run_times = RunTimes()
        self.stop_request: StopRequest | None = None
        #: Counts since the start, for ``inspect`` and tests: by state.
        self.totals: dict[str, int] = {}
        self._pool_events: deque[PoolEvent] = deque()
        self._pool_scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events_wanted = app.plugins.listens("kern_events")
        self._received_wanted = app.plugins.listens("kern_received")
        self._settled_wanted = app.plugins.listens("kern_settled")
        self.exit_code = 0
        app.plugins.notify("kern_worker_init", worker=self)

    def _make_pool(self, concurrency: int | None) -> Pool:
        conf = self.app.conf
        options = PoolOptions(
            concurrency=concurrency,
            max_tasks_per_child=conf.worker_max_tasks_per_child,
            max_memory_per_child=conf.worker_max_memory_per_child,
            hostname=self.hostname,
        )
        if self.pool_name == "solo":
            return SoloPool(self.app, options)
        pool: Pool = self.app.plugins.driver("pool", self.pool_name)(self.app, options)
        return pool

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Work until told to stop; the exit code."""
        return asyncio.run(self.serve())

    def stop(self) -> None:
        """Ask for a graceful stop; again: at once. From any thread."""
        if self._loop is not None and self.stop_request is not None:
            self._loop.call_soon_threadsafe(self.stop_request.stop, "stop()")

    async def serve(self, ready: Callable[[], None] | None = None) -> int:
        """:meth:`run` inside a running loop; *ready* is called when the first claim is about to be made."""
        self._loop = asyncio.get_running_loop()
        self.stop_request = StopRequest()
        self.stop_request.on_stop = self._on_stop_requested
        if self._signals:
            self.stop_request.listen(self._loop)
        started: list[Service] = []
        try:
            if not await self._connect():
                return self.exit_code
            self._assemble()
            await asyncio.wrap_future(self.pool.start(self.app.runner(self.hostname), self._pool_sink))
            for service in self.services:
                await service.start(self)
                started.append(service)
            tasks = self._start_tasks(started)
            self.app.plugins.notify("kern_worker_ready", worker=self)
            if ready is not None:
                ready()
            try:
                await self._until_stopped(tasks)
            finally:
                await self._wind_down(tasks)
        finally:
            for service in reversed(started):
                await self._guarded(service.stop(), f"service {service.name}")
            await self._disconnect()
            if self._signals:
                self.stop_request.unlisten(self._loop)
            self.app.plugins.notify("kern_worker_stopped", worker=self)
        return self.exit_code

    async def _connect(self) -> bool:
        """Connect to broker and result store, patiently if so configured; ``False`` if told to stop meanwhile."""
        owner = Owner(self.id, self.hostname, "worker")
        if not await self._patiently(
            lambda: self.transport.start(owner, self._transport_sink), "broker", self.transport.url
        ):
            return False
        await asyncio.wrap_future(self.transport.declare(self.queue_specs))
        if self._purge:
            for spec in self.queue_specs:
                count = await asyncio.wrap_future(self.transport.purge(spec.name))
                logger.info("queue purged", queue=spec.name, messages=count)
        if TransportCapability.PRESENCE in self.transport.capabilities:
            await asyncio.wrap_future(self.transport.announce(self.queues.names(), {"pid": os.getpid()}))
        if self.store is not None:
            store = self.store
            return await self._patiently(lambda: store.start(lambda _documents: None), "result store", store.url)
        return True

    async def _patiently(self, start: Callable[[], Future[None]], what: str, url: str) -> bool:
        """Start a driver; try again while the server cannot be reached and the settings say so."""
        conf = self.app.conf
        retry = conf.broker_connection_retry_on_startup
        if retry is None:
            retry = conf.broker_connection_retry
        attempts_left = conf.broker_connection_max_retries
        pause = 0.1
        while True:
            try:
                await asyncio.wrap_future(start())
                return True
            except KernError as error:
                retryable = getattr(error, "retryable", False)
                if not retryable or not retry or (attempts_left is not None and attempts_left <= 0):
                    raise
                logger.error(
                    f"cannot reach the {what}, trying again", url=url, error=str(error), seconds=round(pause, 1)
                )
            assert self.stop_request is not None
            try:
                await asyncio.wait_for(self.stop_request.soon.wait(), pause)
                return False
            except TimeoutError:
                pass
            pause = min(5.0, pause * 2)
            attempts_left = None if attempts_left is None else attempts_left - 1
            self._renew_drivers(what)

    def _renew_drivers(self, what: str) -> None:
        """A driver that could not start is spent; make a new one."""
        if what == "broker":
            self.transport = self.app.make_transport()
        else:
            self.store = self.app.make_result_store()

    def _assemble(self) -> None:
        conf = self.app.conf
        whole = None if self.store is None else self.store.document_form.value == "whole"
        self.admission = Admission(self.app, self.hostname, whole)
        self.coroner = Coroner(self.app, self.admission)
        self.settler = Settler(self.transport, self.store, self._on_settled, self._reduce, lambda: self.pool.slots)
        self.dispatcher = Dispatcher(self.pool, self.transport, self.flights, self.run_times, self._give_back)
        self.leases = LeaseKeeper(
            self.transport, self.flights, self._on_lease_lost, conf.worker_lease_seconds, conf.worker_heartbeat
        )
        self.claimer = Claimer(
            self.transport,
            self.queues,
            self.flights,
            self.run_times,
            lambda: self.pool.slots,
            lambda: self.settler.has_room,
            self._on_deliveries,
            conf.worker_prefetch_multiplier,
            conf.worker_lease_seconds,
        )
        self.queues.changed = self.claimer.wake

    def _start_tasks(self, services: Sequence[Service]) -> list[asyncio.Task[None]]:
        assert self._loop is not None
        coroutines: list[tuple[str, Awaitable[None]]] = [
            ("claim", self.claimer.run()),
            ("settle", self.settler.run()),
            ("leases", self.leases.run()),
            ("patience", self._watch_patience()),
        ]
        if self.store is not None and StoreCapability.AUTO_EXPIRE not in self.store.capabilities:
            coroutines.append(("sweep", self._sweep()))
        coroutines += [(f"service {service.name}", self._tick(service)) for service in services if service.interval]
        return [self._loop.create_task(coroutine, name=name) for name, coroutine in coroutines]  # type: ignore[arg-type]

    async def _until_stopped(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Until told to stop; a stage that ends by an error stops the worker, loudly."""
        assert self.stop_request is not None
        assert self._loop is not None
        stop = self._loop.create_task(self.stop_request.soon.wait())
        done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        for task in done:
            if task is not stop and not task.cancelled() and task.exception() is not None:
                self.exit_code = 1
                logger.error("a stage of the worker failed", stage=task.get_name(), exc_info=task.exception())
                self.stop_request.stop("failure")

    # -- stopping

    def _on_stop_requested(self, cause: str | None) -> None:
        self.app.plugins.notify("kern_worker_stopping", worker=self, signal=cause)

    async def _wind_down(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        assert self.stop_request is not None
        seams.reached("handing-back")
        self.claimer.stop()
        claim = next(task for task in tasks if task.get_name() == "claim")
        # A claim under way may still bring messages; its reply is awaited so that they are handed back at once.
        await asyncio.wait([claim], timeout=1.0)
        self.dispatcher.hand_back_waiting()
        timeout = self.app.conf.worker_soft_shutdown_timeout
        until = time.monotonic() + (timeout if timeout is not None else 0.0)
        while self._still_running() and not self.stop_request.now.is_set():
            left = until - time.monotonic()
            if left <= 0:
                break
            try:
                await asyncio.wait_for(self.stop_request.now.wait(), min(left, 0.05))
            except TimeoutError:
                pass
        interrupted = self._still_running()
        if interrupted:
            logger.warning("interrupted tasks handed back", tasks=[entry.request.id for entry in interrupted])
            self._give_back(interrupted, running=True)
        pool_ended = self.pool.stop(0.0 if interrupted else FAREWELL)
        try:
            await asyncio.wait_for(self.settler.drained(), FAREWELL)
        except TimeoutError:
            logger.error("outcomes could not be written and will be run again", outcomes=self.settler.unsettled)
        try:
            await asyncio.wait_for(asyncio.wrap_future(pool_ended), FAREWELL)
        except (TimeoutError, KernError) as error:
            logger.warning("the pool did not end in time", error=str(error))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _still_running(self) -> list[InFlight]:
        return [
            entry
            for entry in self.flights.in_phase(Phase.SUBMITTED, Phase.STARTED, Phase.ADMITTED)
            if not entry.abandoned
        ]

    async def _disconnect(self) -> None:
        for port in (self.transport, self.store):
            if port is not None:
                try:
                    await asyncio.wait_for(asyncio.wrap_future(port.stop()), 2.0)
                except (TimeoutError, KernError):
                    logger.debug("connection did not close in time", url=port.url)

    async def _guarded(self, awaitable: Awaitable[None], what: str) -> None:
        try:
            await awaitable
        except Exception:
            logger.exception(f"{what} failed")

    # -- events of the drivers -----------------------------------------------------------------------------------------

    def _transport_sink(self, event: TransportEvent) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._on_transport_event, event)

    def _on_transport_event(self, event: TransportEvent) -> None:
        if not hasattr(self, "claimer"):
            return
        if isinstance(event, Woken):
            self.claimer.wake()
        elif isinstance(event, Lost):
            self.leases.lost(event.receipts)
        elif isinstance(event, Down):
            self.claimer.down()
        elif isinstance(event, Up):
            # Our own leases first: until they are renewed, others may think us dead.
            self.leases.renew_now()
            self.claimer.up()

    def _pool_sink(self, events: Sequence[PoolEvent]) -> None:
        """From any thread; one wake-up of the loop for all that arrives before it looks."""
        self._pool_events.extend(events)
        if not self._pool_scheduled:
            self._pool_scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._on_pool_events)  # type: ignore[union-attr]
            except RuntimeError:
                pass  # the loop has ended: the worker stopped at once, and leases tell the rest

    def _on_pool_events(self) -> None:
        self._pool_scheduled = False
        settled: list[Pending] = []
        while self._pool_events:
            event = self._pool_events.popleft()
            if isinstance(event, PoolBroken):
                self.exit_code = 1
                logger.error("the pool is broken", error=event.error)
                assert self.stop_request is not None
                self.stop_request.stop("broken pool")
                continue
            entry = self.flights.get(event.receipt)
            if entry is None:
                continue
            if isinstance(event, Started):
                entry.phase, entry.started_at, entry.pid = Phase.STARTED, event.at, event.pid
                continue
            if isinstance(event, Finished):
                outcome = event.outcome
                if outcome.runtime is not None:
                    self.run_times.note((outcome.runtime,))
            else:
                outcome = self.coroner.outcome(entry.delivery, entry.request, event, entry.released)
            entry.phase = Phase.ENDED
            self.dispatcher.ended(entry)
            if entry.abandoned:
                self.flights.remove(event.receipt)
                continue
            self._log_outcome(outcome)
            settled.append(Pending(outcome, entry.delivery.queue, entry.released))
        if settled:
            seams.reached("finished")
            self.settler.put(settled)
        self.claimer.room()

    # -- the flow ------------------------------------------------------------------------------------------------------

    def _on_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        admitted = self.admission.admit(deliveries)
        now = time.monotonic()
        if admitted.parked:
            self._loop.create_task(self._park(admitted.parked))  # type: ignore[union-attr]
        if admitted.outcomes:
            queues = {delivery.receipt: delivery.queue for delivery in deliveries}
            for outcome in admitted.outcomes:
                self._log_outcome(outcome)
            self.settler.put([Pending(outcome, queues[outcome.receipt]) for outcome in admitted.outcomes])
        if not admitted.requests:
            return
        late: list[InFlight] = []
        early: list[InFlight] = []
        repeated: list[InFlight] = []
        for delivery, request in admitted.requests:
            entry = InFlight(delivery, request, Phase.ADMITTED, now)
            self.flights.add(entry)
            if delivery.redelivered and self.store is not None and not request.ignore_result:
                repeated.append(entry)
            elif self.app.tasks[request.task or ""].acks_late:
                late.append(entry)
            else:
                early.append(entry)
        seams.reached("admitted")
        if self._received_wanted:
            self.app.plugins.notify("kern_received", app=self.app, requests=[e.request for e in late + early])
        if repeated:
            self._loop.create_task(self._look_before_running(repeated))  # type: ignore[union-attr]
        if early:
            self._loop.create_task(self._release_and_submit(early))  # type: ignore[union-attr]
        if late:
            self.dispatcher.submit(late)

    async def _park(self, parked: Sequence[Any]) -> None:
        try:
            await asyncio.wrap_future(self.transport.park(parked))
        except KernError as error:
            # Their leases end by themselves, and they come back.
            logger.warning("messages could not be parked", messages=len(parked), error=str(error))
        self.claimer.wake()

    async def _release_and_submit(self, entries: Sequence[InFlight]) -> None:
        """At most once: the release is confirmed before the task starts."""
        from kern.contracts.transport import Settlement

        released = [
            Settlement(
                Outcome(e.delivery.receipt, e.request.id or "", e.request.task or "", states.RECEIVED, Release())
            )
            for e in entries
        ]
        try:
            answers = await asyncio.wrap_future(self.transport.settle(released))
        except KernError as error:
            logger.warning("messages could not be released and are left to run again", error=str(error))
            for entry in entries:
                self.flights.remove(entry.delivery.receipt)
            return
        ready = []
        for entry, answer in zip(entries, answers, strict=True):
            if answer.error is not None or answer.status is SettleStatus.FENCED:
                self.flights.remove(entry.delivery.receipt)
            else:
                entry.released = True
                ready.append(entry)
        self.dispatcher.submit(ready)

    async def _look_before_running(self, entries: Sequence[InFlight]) -> None:
        """Delivered before: what has a final result does not run again, what follows it is sent again."""
        assert self.store is not None
        ids = [entry.request.id or "" for entry in entries]
        try:
            stored = await asyncio.wrap_future(self.store.read(ids))
        except KernError as error:
            logger.warning("stored results could not be read", error=str(error))
            stored = {}
        late, early = [], []
        for entry in entries:
            document = stored.get(entry.request.id or "")
            if document is not None and document.status in states.READY_STATES:
                outcome = self.app.repeat(entry.request, document)
                logger.info("already completed: not run again", task_id=entry.request.id, task=entry.request.task)
                entry.phase = Phase.ENDED
                self.settler.put([Pending(outcome, entry.delivery.queue)])
            elif self.app.tasks[entry.request.task or ""].acks_late:
                late.append(entry)
            else:
                early.append(entry)
        if early:
            await self._release_and_submit(early)
        if late:
            self.dispatcher.submit(late)

    def _give_back(self, entries: Sequence[InFlight], running: bool = False) -> None:
        """Back to their queues, uncounted; those still *running* in the pool are heard of once more."""
        batch = []
        for entry in entries:
            entry.abandoned = running
            if not running:
                entry.phase = Phase.ENDED
            if entry.released:
                continue
            outcome = Outcome(
                entry.delivery.receipt, entry.request.id or "", entry.request.task or "", states.PENDING, GiveBack()
            )
            batch.append(Pending(outcome, entry.delivery.queue))
        self.settler.put(batch)

    def _on_lease_lost(self, entry: InFlight) -> None:
        """Somebody else may have it: take it back, or at least do not run it twice for long."""
        receipt = entry.delivery.receipt
        if self.pool.withdraw([receipt]):
            self.flights.remove(receipt)
            self.dispatcher.ended(entry)
            return
        if PoolCapability.ISOLATED in self.pool.capabilities:
            self.pool.terminate(receipt)

    def _on_settled(self, done: Sequence[tuple[Pending, SettleStatus]]) -> None:
        for pending, status in done:
            outcome = pending.outcome
            entry = self.flights.get(outcome.receipt)
            if entry is not None and not (entry.abandoned and entry.phase is not Phase.ENDED):
                self.flights.remove(outcome.receipt)
            if status is SettleStatus.FENCED and not isinstance(outcome.disposition, GiveBack):
                logger.warning("late outcome refused: the lease was lost", task_id=outcome.task_id, state=outcome.state)
            self.totals[outcome.state] = self.totals.get(outcome.state, 0) + 1
        if self._settled_wanted:
            self.app.plugins.notify("kern_settled", app=self.app, outcomes=[pending.outcome for pending, _ in done])
        if self._events_wanted:
            events: list[Event] = [event for pending, _ in done for event in pending.outcome.events]
            if events:
                self.app.plugins.notify("kern_events", app=self.app, events=events)
        self.claimer.room()

    def _reduce(self, outcome: Outcome, error: Exception) -> Outcome:
        """The same outcome with a document that says why the value is not there."""
        if outcome.document is None:
            return outcome
        from kern import documents

        reduced = documents.describe_unstorable(outcome.document, error, self.app.conf.result_serializer)
        return attrs.evolve(outcome, document=reduced)

    def _log_outcome(self, outcome: Outcome) -> None:
        fields: dict[str, Any] = {"task": outcome.task, "task_id": outcome.task_id}
        if outcome.runtime is not None:
            fields["runtime"] = round(outcome.runtime, 6)
        if outcome.state == states.SUCCESS:
            logger.info("task succeeded", result=outcome.summary, **fields)
        elif isinstance(outcome.disposition, RetryAt):
            logger.info("task will be retried", reason=outcome.summary, **fields)
        elif outcome.state == states.FAILURE and not isinstance(outcome.disposition, Quarantine):
            logger.error("task failed", error=outcome.summary, **fields)
        elif outcome.state == states.IGNORED:
            logger.info("task ignored", **fields)

    # -- what runs beside ----------------------------------------------------------------------------------------------

    async def _watch_patience(self) -> None:
        looked = 0.0
        while True:
            await asyncio.sleep(PATIENCE_INTERVAL)
            if not self.flights.count(Phase.SUBMITTED, Phase.ADMITTED):
                continue
            now = time.monotonic()
            if (
                now - looked > self.app.conf.worker_heartbeat
                and TransportCapability.PRESENCE in self.transport.capabilities
            ):
                looked = now
                self._loop.create_task(self._look_for_others())  # type: ignore[union-attr]
            if self.dispatcher.overdue():
                self.dispatcher.hand_back_waiting()

    async def _look_for_others(self) -> None:
        try:
            present = await asyncio.wrap_future(self.transport.presence())
        except KernError:
            return
        ours = set(self.queues.active())
        self.dispatcher.others = any(other.id != self.id and ours.intersection(other.queues) for other in present)

    async def _sweep(self) -> None:
        """Delete expired results where the server does not."""
        assert self.store is not None
        while True:
            try:
                swept = await asyncio.wrap_future(self.store.sweep())
                if swept:
                    logger.debug("expired results deleted", results=swept)
            except KernError as error:
                logger.warning("expired results could not be deleted", error=str(error))
            await asyncio.sleep(SWEEP_INTERVAL)

    async def _tick(self, service: Service) -> None:
        assert service.interval is not None
        while True:
            await asyncio.sleep(service.interval)
            await self._guarded(service.tick(), f"service {service.name}")


def node_name(hostname: str | None) -> str:
    """The full node name: ``name@host`` from what ``-n`` gave, with ``%h`` ``%n`` ``%d`` filled in."""
    host = socket.gethostname()
    given = hostname or "celery@%h"
    short, _, domain = host.partition(".")
    name = given.partition("@")[0] if "@" in given else given
    text = given if "@" in given else f"celery@{given}"
    if text.endswith("@"):
        text += host
    for token, value in (("%h", host), ("%d", domain), ("%n", name if "%" not in name else short)):
        text = text.replace(token, value)
    return text
