"""The worker: its drivers, its services and its life, from the first connection to the last write."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kern import log, seams
from kern.contracts.pool import Pool, PoolOptions
from kern.contracts.port import TransportEvent
from kern.contracts.result_store import ResultStore, StoreCapability
from kern.contracts.transport import Owner, Transport, TransportCapability
from kern.errors import ImproperlyConfigured, KernError
from kern.queues import QueueSpec
from kern.worker.chores import Chores
from kern.worker.claiming import ConsumedQueues
from kern.worker.connecting import Patience
from kern.worker.flow import Flow
from kern.worker.link import BrokerLink
from kern.worker.replies import awaited
from kern.worker.services import Services
from kern.worker.solo import SoloPool
from kern.worker.stopping import StopRequest

if TYPE_CHECKING:
    from kern.app import Kern

logger = log.get_logger("kern.worker")

#: Seconds between two sweeps of expired results.
SWEEP_INTERVAL = 300.0
#: Seconds a stopping worker waits for the pool's end, for its last writes, and for each connection to close.
POOL_FAREWELL, WRITE_FAREWELL, CLOSE_FAREWELL = 2.0, 3.0, 1.0


class Worker:
    """One worker of *app*; it runs once.

    :param queues: names of the queues to consume; ``None``: all that are configured.
    :param exclude_queues: names to leave out.
    :param pool: name of the pool; ``None``: the setting, else prefork where installed, else solo.
    :param concurrency: requests that run at once; ``None``: the setting, else what the pool finds fit.
    :param hostname: node name; ``celery@<host>`` by default, as Celery's, so that monitors know it.
    :param signals: take SIGTERM, SIGINT and SIGQUIT where that is possible; off inside somebody else's process.
    :param purge: delete waiting messages before the first claim.
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
        #: Names its leases and its presence; no two workers share it.
        self.id = f"{self.hostname}:{os.getpid()}:{uuid4().hex[:8]}"
        self._signals = signals
        self._purge = purge
        app.import_modules()
        app.finalize()
        #: The settings as they are now; what is assigned to ``app.conf`` later does not reach this worker.
        self.conf = app.conf.freeze()
        self.queue_specs = app.worker_queues(queues, exclude_queues, self.hostname)
        if not self.queue_specs:
            raise ImproperlyConfigured("no queue is left to consume; see -Q and -X")
        self.queues = ConsumedQueues([spec.name for spec in self.queue_specs])
        self.pool_name = pool or self.conf.worker_pool or app.default_pool
        self.transport: Transport = app.make_transport()
        self.store: ResultStore | None = app.make_result_store()
        # Last: what has been loaded by now is shared by the processes that a pool forks.
        self.pool = self._make_pool(concurrency if concurrency is not None else self.conf.worker_concurrency)
        #: The stages; there once broker and result store have been reached.
        self.flow: Flow | None = None
        self.stop_request = StopRequest()
        self.stop_request.on_stop = self._on_stop_requested
        self.exit_code = 0
        self._services = Services(
            [service for offered in app.plugins.ask("kern_services", app=app) for service in offered]
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._chores = Chores(self._failed)
        app.plugins.notify("kern_worker_init", worker=self)

    def _make_pool(self, concurrency: int | None) -> Pool:
        options = PoolOptions(
            concurrency=concurrency,
            max_tasks_per_child=self.conf.worker_max_tasks_per_child,
            max_memory_per_child=self.conf.worker_max_memory_per_child,
            hostname=self.hostname,
        )
        if self.pool_name == "solo":
            return SoloPool(self.app, options)
        pool: Pool = self.app.plugins.driver("pool", self.pool_name)(self.app, options)
        return pool

    # -- asking it

    @property
    def totals(self) -> dict[str, int]:
        """Outcomes written since the start, by state."""
        return self.flow.totals if self.flow is not None else {}

    @property
    def held(self) -> int:
        """Messages that it has claimed and not settled: waiting, running, or with an outcome that is being written."""
        return len(self.flow.flights) if self.flow is not None else 0

    @property
    def why_not_ready(self) -> str | None:
        """Why it takes no messages at this moment, as a sentence; ``None`` while it does."""
        if self.flow is None:
            return "the worker is starting"
        if not self.queues.active():
            return "no queue is consumed"
        return self.flow.why_not_claiming

    # -- telling it

    def stop(self) -> None:
        """Ask for a graceful stop; again: at once. From any thread, also before it runs."""
        if self._loop is None:
            self.stop_request.stop("stop()")
            return
        try:
            self._loop.call_soon_threadsafe(self.stop_request.stop, "stop()")
        except RuntimeError:
            pass  # it has stopped

    def wake(self) -> None:
        """Look for messages now: queues or slots have changed."""
        if self.flow is not None:
            self.flow.claimer.wake()

    async def add_queue(self, queue: str | QueueSpec) -> None:
        """Consume one more queue, which is declared first.

        :raises kern.errors.QueueNotFound: a name that is not configured and may not be created.
        :raises kern.errors.TransportError: the broker could not declare it.
        """
        spec = self.app.queue_spec(queue)
        await awaited(self.transport.declare([spec]))
        self.queues.add(spec.name)

    def cancel_queue(self, name: str) -> None:
        """Consume it no more; what has been claimed from it is run."""
        self.queues.cancel(name)

    def _queues_changed(self) -> None:
        self.wake()
        self._chores.spawn("announce", self._announce())

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Work until told to stop; the exit code.

        :raises KernError: broker or configuration do not let it start.
        """
        return asyncio.run(self.serve())

    async def serve(self, ready: Callable[[], None] | None = None) -> int:
        """:meth:`run` inside a running loop; *ready* is called when the first claim is about to be made."""
        self._loop = asyncio.get_running_loop()
        listening = self._signals and self.stop_request.listen(self._loop)
        try:
            if await self._connect():
                await self._work(ready)
        finally:
            await self._chores.cancel()
            await self._services.stop()
            await self._disconnect()
            if listening:
                self.stop_request.unlisten(self._loop)
            self.app.plugins.notify("kern_worker_stopped", worker=self)
        return self.exit_code

    async def _work(self, ready: Callable[[], None] | None) -> None:
        assert self._loop is not None
        assert self.flow is not None
        flow, stages = self.flow, list[asyncio.Task[None]]()
        try:
            await awaited(self.pool.start(self.app.runner(self.hostname), flow.pool_sink))
            await self._services.start(self, self._chores)
            if self.store is not None and StoreCapability.AUTO_EXPIRE not in self.store.capabilities:
                self._chores.spawn("sweep", self._sweep())
            self.queues.changed = self._queues_changed
            self.app.plugins.notify("kern_worker_ready", worker=self)
            if ready is not None:
                ready()
            stages = [self._loop.create_task(stage, name=name) for name, stage in flow.stages().items()]
            await self._until_stopped(stages)
            await self._wind_down(flow, stages)
        finally:
            self.pool.stop(0.0)
            for stage in stages:
                stage.cancel()
            await asyncio.gather(*stages, return_exceptions=True)

    # -- connections

    async def _connect(self) -> bool:
        """Reach broker and result store, patiently if so configured; ``False`` if told to stop meanwhile."""
        owner = Owner(self.id, self.hostname, "worker")
        patience = Patience(self.conf, self.stop_request)
        link = BrokerLink(self.app.make_transport, owner, self._transport_sink)
        port = await patience.reach(link.another, link.begin, "broker", self.transport)
        if port is None:
            return False
        link.use(port)
        transport = self.transport = link
        await awaited(transport.declare(self.queue_specs))
        if self._purge:
            for spec in self.queue_specs:
                count = await awaited(transport.purge(spec.name))
                logger.info("queue purged", queue=spec.name, messages=count)
        await self._announce()
        reached = await self._reach_store_once()
        self.flow = Flow(
            self.app,
            self.conf,
            owner,
            transport,
            self.store,
            self.pool,
            self.queues,
            self._chores,
            self._failed,
            link.replace,
        )
        if not self.conf.broker_connection_retry:
            self._chores.spawn("give up with the broker", self._give_up_with(link))
        elif len(self.app.broker_urls()) > 1:
            self._chores.spawn("fail over", link.fail_over())
        if not reached:
            self._chores.spawn("reach the result store", self._reach_store(patience))
        return not self.stop_request.soon.is_set()

    async def _give_up_with(self, link: BrokerLink) -> None:
        await link.lost()
        self._failed("broker", f"the connection to {link.url} is lost, and broker_connection_retry is off")

    async def _reach_store_once(self) -> bool:
        """Whether the result store is there; one that cannot be reached now keeps nobody from working.

        :raises KernError: it refuses us.
        """
        if self.store is None:
            return True
        try:
            await awaited(self.store.start(_nobody))
        except KernError as error:
            if not getattr(error, "retryable", False):
                raise
            logger.error("cannot reach the result store: results wait for it", url=self.store.url, error=str(error))
            return False
        return True

    async def _reach_store(self, patience: Patience) -> None:
        def make() -> ResultStore:
            store = self.app.make_result_store()
            assert store is not None  # there was one before
            return store

        store = await patience.reach(make, lambda port: port.start(_nobody), "result store", make())
        if store is not None and self.flow is not None:
            self.store = store
            self.flow.use_store(store)
            logger.info("result store reached", url=store.url)

    async def _announce(self) -> None:
        """Tell presence what is consumed here."""
        if TransportCapability.PRESENCE not in self.transport.capabilities:
            return
        facts = {"pid": os.getpid(), "pool": self.pool_name, "slots": self.pool.slots}
        try:
            await awaited(self.transport.announce(self.queues.names(), facts))
        except KernError as error:
            logger.warning("others could not be told of this worker", error=str(error))

    def _transport_sink(self, event: TransportEvent) -> None:
        """From any thread. What happens before there are stages needs no answer: they begin by looking themselves."""
        if self.flow is not None:
            self.flow.transport_sink(event)

    async def _disconnect(self) -> None:
        closing = [awaited(port.stop()) for port in (self.transport, self.store) if port is not None]
        closed, late = await asyncio.wait(closing, timeout=CLOSE_FAREWELL)
        if late:
            logger.debug("connections did not close in time", connections=len(late))
        for reply in closed:
            if (error := reply.exception()) is not None:
                logger.debug("connection did not close", error=str(error))

    # -- the end

    async def _until_stopped(self, stages: Sequence[asyncio.Task[None]]) -> None:
        """Until told to stop; a stage that ends by itself stops the worker, loudly."""
        assert self._loop is not None
        told = self._loop.create_task(self.stop_request.soon.wait())
        done, _ = await asyncio.wait([told, *stages], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        for stage in done:
            if stage is not told:
                self._failed(stage.get_name(), stage.exception() or "ended")

    def _failed(self, what: str, error: BaseException | str) -> None:
        """The worker cannot go on."""
        self.exit_code = 1
        info = error if isinstance(error, BaseException) else None
        logger.error("the worker cannot go on", failed=what, error=str(error), exc_info=info)
        if not self.stop_request.soon.is_set():
            self.stop_request.stop("failure")

    def _on_stop_requested(self, cause: str | None) -> None:
        self.app.plugins.notify("kern_worker_stopping", worker=self, signal=cause)

    async def _wind_down(self, flow: Flow, stages: Sequence[asyncio.Task[None]]) -> None:
        seams.reached("handing-back")
        flow.close()
        await _first(flow.quiet.wait(), self.stop_request.now.wait(), within=self.conf.worker_soft_shutdown_timeout)
        interrupted = flow.interrupt()
        if interrupted:
            logger.warning("tasks interrupted and handed back", tasks=[entry.task_id for entry in interrupted])
        ended = asyncio.ensure_future(awaited(self.pool.stop(0.0 if interrupted else POOL_FAREWELL)))
        await asyncio.wait([ended], timeout=POOL_FAREWELL)
        if not ended.done():
            logger.warning("the pool did not end in time", pool=self.pool_name)
        flow.hand_back_rest()
        # What a claim under way brings is handed back, too.
        claim = next(stage for stage in stages if stage.get_name() == "claim")
        await asyncio.wait([claim], timeout=WRITE_FAREWELL / 2)
        await _first(flow.settler.drained(), within=WRITE_FAREWELL)
        if flow.settler.unsettled:
            logger.error("outcomes could not be written; their tasks will run again", outcomes=flow.settler.unsettled)

    # -- beside the stages

    async def _sweep(self) -> None:
        """Delete expired results where the server does not."""
        while True:
            try:
                if self.store is not None and (swept := await awaited(self.store.sweep())):
                    logger.debug("expired results deleted", results=swept)
            except KernError as error:
                logger.warning("expired results could not be deleted", error=str(error))
            await asyncio.sleep(SWEEP_INTERVAL)


async def _first(*waits: Coroutine[Any, Any, Any], within: float) -> None:
    """Wait until the first of them is over, for *within* seconds at most."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _nobody(_documents: object) -> None:
    """A worker waits for no results."""


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
