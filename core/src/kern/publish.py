"""Publishing: from a call to a message that the broker has confirmed, within one deadline.

An answer is always one of three: confirmed, *refused* (the message is not there), *unknown* (publish it again under the
same id). :class:`Publisher` makes messages of calls, :class:`Connection` gives them to the transport.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import attrs

from kern import log, protocol, seams
from kern.contracts.continuation import unsupported
from kern.contracts.port import Reply
from kern.contracts.transport import Owner, Transport, TransportCapability
from kern.errors import (
    CapabilityMissing,
    MessageTooLarge,
    PublishRefused,
    PublishUnknown,
    TransportError,
    nearest,
)
from kern.message import CONTINUATIONS, Message, Publication
from kern.protocol import Call
from kern.queues import QueueSpec
from kern.routing import Destination
from kern.settings_core import PublishSettings
from kern.task import Running, Task, running_worker_task
from kern.timeutil import clock, due_time, expiry_time

if TYPE_CHECKING:
    from kern.app import Kern

logger = log.get_logger("kern.publish")
T = TypeVar("T")

#: Messages in one round trip.
CHUNK = 300

#: Every option of a call, and what it does.
CALL_OPTIONS: Mapping[str, str] = {
    "task_id": "id of the call; a new UUID by default",
    "countdown": "seconds from now before which it does not start",
    "eta": "datetime or ISO text before which it does not start",
    "expires": "seconds, datetime or ISO text after which it does not start",
    "shadow": "another name for logs and monitors",
    "link": "call or calls to make with the result",
    "link_error": "call or calls to make on failure",
    "chain": "what follows, last first",
    "chord": "the body to notify",
    "queue": "name of the queue, or a Queue",
    "exchange": "name of the exchange, or an Exchange",
    "exchange_type": "type of the exchange",
    "routing_key": "routing key",
    "route_name": "name to route by instead of the task's",
    "router": "routes to use instead of the application's",
    "priority": "0 to 9 or as the queue allows",
    "serializer": "serializer of the body",
    "compression": "compression of the body",
    "delivery_mode": "1 or 'transient', 2 or 'persistent'",
    "headers": "headers of your own",
    "time_limit": "hard limit in seconds",
    "soft_time_limit": "soft limit in seconds",
    "ignore_result": "store no result",
    "add_to_parent": "record the result as a child of the running task",
    "retry": "publish again when the broker did not take it",
    "retry_policy": "max_retries, interval_start, interval_step, interval_max, retry_errors",
    "timeout": "seconds to wait for the broker's confirmation, in all",
    "confirm_timeout": "the same as timeout",
    "connection": "publish inside this open database connection or session",
    "declare": "queues to declare first",
    "mandatory": "accepted: what cannot be routed is always refused",
    "reply_to": "where replies go",
    "root_id": "id of the workflow's first call",
    "parent_id": "id of the calling task",
    "group_id": "id of the group it belongs to",
    "group_index": "its place in the group",
    "retries": "how often it was retried",
    "replaced_task_nesting": "how often it was replaced",
    "origin": "name of the publishing node",
    "argsrepr": "representation of the arguments for display",
    "kwargsrepr": "representation of the keyword arguments for display",
    "stamped_headers": "names of stamps; each is an option of its own",
    "result_cls": "class of the result object",
    "task_type": "the task whose options count as defaults",
    "app_id": "message property",
    "message_id": "message property",
    "type": "message property",
    "user_id": "message property",
    "timestamp": "message property",
    "cluster_id": "message property",
}

#: Options of Celery's that cannot act here, and why.
REFUSED_OPTIONS: Mapping[str, str] = {
    "producer": "kern publishes on its own connection; to publish inside a transaction pass connection=",
    "publisher": "kern publishes on its own connection; to publish inside a transaction pass connection=",
    "immediate": "no broker supports it any more",
    "event_dispatcher": "register a listener of kern_after_publish instead",
}

_PROPERTIES = ("app_id", "message_id", "type", "user_id", "timestamp", "cluster_id")


@attrs.frozen
class RetryPolicy:
    """How a publication that the broker did not take is tried again."""

    max_retries: int | None = 3
    interval_start: float = 0.0
    interval_step: float = 0.2
    interval_max: float = 1.0
    #: Further errors after which it is tried again.
    retry_errors: tuple[type[BaseException], ...] = ()

    @classmethod
    def of(cls, *policies: Mapping[str, Any] | None) -> RetryPolicy:
        """
        :raises TypeError: a key that is none of the policy's.
        """
        merged: dict[str, Any] = {}
        for policy in policies:
            merged.update(policy or {})
        known = {field.name for field in attrs.fields(cls)}
        for key in merged:
            if key not in known:
                raise TypeError(f"unknown key {key!r} in a retry policy; known: {', '.join(sorted(known))}")
        if merged.get("retry_errors") is None:
            merged.pop("retry_errors", None)
        return cls(**merged)

    def pauses(self) -> Iterable[float]:
        """Seconds to wait before each further attempt."""
        attempt = 0
        while self.max_retries is None or attempt < self.max_retries:
            yield min(self.interval_max, self.interval_start + self.interval_step * attempt)
            attempt += 1


NO_RETRY = RetryPolicy(max_retries=0)


class Connection:
    """The application's connection to the broker: made when first used, anew in a forked process.

    Thread-safe. The blocking methods are deadline loops over the port, those for asyncio wait on the caller's loop.
    """

    def __init__(self, make: Callable[[], Transport]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._port: Transport | None = None
        self._started: Reply[None] | None = None
        self._pid = 0
        self._declared: set[str] = set()

    def _begin(self) -> tuple[Transport, Reply[None]]:
        with self._lock:
            spent = self._started is not None and self._started.done() and self._started.exception() is not None
            if self._port is None or self._pid != os.getpid() or spent:
                self._port = self._make()
                self._pid = os.getpid()
                self._declared = set()
                self._started = self._port.start(Owner(f"client:{self._pid}:{uuid4().hex[:8]}"), lambda _event: None)
            assert self._started is not None
            return self._port, self._started

    def port(self, timeout: float) -> Transport:
        """The connected port; blocks.

        :raises TransportError: the broker cannot be used.
        """
        port, started = self._begin()
        if not started.done():
            try:
                port.drive(started, timeout)
            except TimeoutError:
                raise TransportError(f"the broker {port.url} did not answer within {timeout:g} s") from None
        started.result()
        return port

    async def aport(self, timeout: float) -> Transport:
        """The connected port, for asyncio."""
        port, started = self._begin()
        if not started.done():
            try:
                await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(started)), timeout)
            except TimeoutError:
                raise TransportError(f"the broker {port.url} did not answer within {timeout:g} s") from None
        started.result()
        return port

    def do(self, command: Callable[[Transport], Reply[T]], timeout: float) -> T:
        """Give one command and wait for its reply; blocks.

        :raises TransportError: also when *timeout* seconds have passed.
        """
        until = time.monotonic() + timeout
        port = self.port(timeout)
        reply = command(port)
        try:
            return port.drive(reply, max(0.001, until - time.monotonic()))
        except TimeoutError:
            reply.cancel()
            raise TransportError(f"the broker {port.url} did not answer within {timeout:g} s") from None

    async def ado(self, command: Callable[[Transport], Reply[T]], timeout: float) -> T:
        """:meth:`do` for asyncio."""
        until = time.monotonic() + timeout
        port = await self.aport(timeout)
        reply = command(port)
        try:
            return await asyncio.wait_for(
                asyncio.shield(asyncio.wrap_future(reply)), max(0.001, until - time.monotonic())
            )
        except TimeoutError:
            reply.cancel()
            raise TransportError(f"the broker {port.url} did not answer within {timeout:g} s") from None

    def undeclared(self, queues: Iterable[QueueSpec | None]) -> list[QueueSpec]:
        """Those of *queues* that this connection has not declared yet."""
        return [queue for queue in queues if queue is not None and queue.name not in self._declared]

    def note_declared(self, queues: Iterable[QueueSpec]) -> None:
        self._declared.update(queue.name for queue in queues)

    def close(self) -> None:
        """Disconnect; the next use connects again."""
        with self._lock:
            port, self._port, self._started = self._port, None, None
        if port is not None and self._pid == os.getpid():
            reply = port.stop()
            try:
                port.drive(reply, 2.0)
            except TimeoutError:
                logger.debug("connection did not close in time", url=port.url)


@attrs.frozen
class Prepared:
    """A call that is ready to be published."""

    publication: Publication
    queue: QueueSpec | None
    ignored: bool
    timeout: float
    policy: RetryPolicy
    add_to_parent: bool
    connection: Any = None
    result_cls: type | None = None
    declare: tuple[QueueSpec, ...] = ()


@attrs.frozen
class _Plan:
    """What is decided about a call before its arguments are looked at."""

    conf: PublishSettings
    version: int
    #: The task's own options when this was decided.
    defaults: Mapping[str, Any]
    destination: Destination
    queue: QueueSpec | None
    declare: tuple[QueueSpec, ...]
    serializer: str
    compression: str | None
    eta: Any
    due: float | None
    expires: datetime | None
    ignore_result: bool | None
    timeout: float
    policy: RetryPolicy

    @property
    def ignored(self) -> bool:
        return bool(self.ignore_result)

    def valid_for(self, conf: PublishSettings, version: int, task: Task[Any, Any] | None) -> bool:
        """Whether nothing has changed since: settings, queues, or the task's own options."""
        return (
            self.conf is conf
            and self.version == version
            and task is not None
            and self.ignore_result == bool(task.ignore_result)
            and self.defaults == task.execution_options()
        )


class Publisher:
    """Makes messages of calls and has them published."""

    def __init__(self, app: Kern, connection: Connection) -> None:
        self._app = app
        self._connection = connection
        self._plans: dict[str, _Plan] = {}

    # -- from a call to a message --------------------------------------------------------------------------------------

    def prepare(
        self,
        name: str,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        task: Task[Any, Any] | None = None,
    ) -> Prepared:
        """Everything that can be decided and refused without the broker.

        :raises TypeError: arguments or options do not fit; names which.
        :raises kern.errors.EncodeError: an argument cannot be serialised; names it.
        :raises MessageTooLarge: see ``message_size_limit``.
        :raises CapabilityMissing: a continuation that nothing installed can continue.
        """
        app = self._app
        conf = app.conf.section(PublishSettings)
        args = () if args is None else args
        kwargs = {} if kwargs is None else kwargs
        parent = running_worker_task()
        plan = self._plan(name, args, kwargs, options, task, conf, parent)
        if task is not None:
            for answer in app.ask_arguments(task, tuple(args), dict(kwargs), plan.serializer):
                args, kwargs = answer
        message = self._message(name, args, kwargs, options, task, conf, plan, parent)
        if conf.message_size_limit and message.size > conf.message_size_limit:
            raise MessageTooLarge(message.size, conf.message_size_limit, name)
        destination = plan.destination
        return Prepared(
            Publication(
                app.encode_message(message),
                destination.exchange,
                destination.routing_key,
                destination.exchange_type,
                due=plan.due,
            ),
            plan.queue,
            plan.ignored,
            plan.timeout,
            plan.policy,
            options.get("add_to_parent", True) if options else True,
            options.get("connection") if options else None,
            options.get("result_cls") if options else None,
            plan.declare,
        )

    def _plan(
        self,
        name: str,
        args: Any,
        kwargs: Any,
        options: Mapping[str, Any],
        task: Task[Any, Any] | None,
        conf: PublishSettings,
        parent: Running | None,
    ) -> _Plan:
        """Where the call goes and how; remembered for calls without options, which differ in nothing but arguments."""
        simple = not options and parent is None and task is not None
        if simple:
            known = self._plans.get(name)
            if known is not None and known.valid_for(conf, self._app.conf.version, task):
                return known
        if options:
            check_options(options, options.get("stamped_headers") or ())
        given: Mapping[str, Any] = options
        defaults: Mapping[str, Any] = {}
        if task is not None:
            defaults = task.execution_options()
            if defaults:
                # A task's own priority weighs less than its route's: the router asks the task.
                given = {**{key: value for key, value in defaults.items() if key != "priority"}, **options}
        inherited = None
        if parent is not None and options.get("parent_id") is None and options.get("root_id") is None:
            inherited = (parent.request.delivery_info or {}).get("priority")
        router = self._app.router if options.get("router") is None else self._app.make_router(options["router"])
        destination = router.route(given, options.get("route_name") or name, args, kwargs, task, inherited)
        get = destination.options.get
        zone, now = self._app.timezone, clock.now()
        countdown = get("countdown")
        eta = None if countdown else get("eta")
        due = due_time(countdown, eta, zone, now)
        expires = expiry_time(get("expires"), zone, now)
        if expires is not None and expires.timestamp() <= now:
            logger.warning("published with an expiry that has passed", task=name, expires=str(expires))
        ignore = options.get("ignore_result")
        if ignore is None and task is not None:
            ignore = bool(task.ignore_result)
        policy = NO_RETRY
        if options.get("retry", conf.task_publish_retry):
            policy = RetryPolicy.of(conf.task_publish_retry_policy, options.get("retry_policy"))
        plan = _Plan(
            conf=conf,
            version=self._app.conf.version,
            defaults=dict(defaults),
            destination=destination,
            queue=destination.queue if destination.declare else None,
            declare=tuple(self._app.queue_spec(queue) for queue in options.get("declare") or ()),
            serializer=get("serializer") or conf.task_serializer,
            compression=get("compression") or conf.task_compression,
            # What the caller wrote as a date travels as written; a countdown becomes one in the application's zone.
            eta=eta if eta is not None else (due.astimezone(zone) if due is not None else None),
            due=None if due is None else due.timestamp(),
            expires=None if expires is None else expires.astimezone(zone),
            ignore_result=ignore,
            timeout=options.get("timeout") or options.get("confirm_timeout") or conf.publish_timeout,
            policy=policy,
        )
        if simple and plan.expires is None and not self._app.router.asks_arguments:
            self._plans[name] = plan
        return plan

    def _message(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        task: Task[Any, Any] | None,
        conf: PublishSettings,
        plan: _Plan,
        parent: Running | None,
    ) -> Message:
        app, get = self._app, plan.destination.options.get
        parent_id = root_id = None
        if options:
            parent_id, root_id = options.get("parent_id"), options.get("root_id")
        if parent is not None:
            parent_id = parent_id or parent.request.id
            root_id = root_id or parent.request.root_id or parent.request.id
        stamped = options.get("stamped_headers") if options else None
        continuations = self._continuations(options) if options else {}
        call = Call(
            name=name,
            id=get("task_id") or str(uuid4()),
            args=args,
            kwargs=kwargs,
            eta=plan.eta,
            expires=plan.expires,
            retries=get("retries") or 0,
            time_limit=get("time_limit"),
            soft_time_limit=get("soft_time_limit"),
            root_id=root_id,
            parent_id=parent_id,
            group=get("group_id"),
            group_index=get("group_index"),
            replaced_task_nesting=get("replaced_task_nesting") or 0,
            callbacks=continuations.get("callbacks"),
            errbacks=continuations.get("errbacks"),
            chain=continuations.get("chain"),
            chord=continuations.get("chord"),
            shadow=get("shadow") or (task.shadow_name(args, kwargs, options) if task is not None else None),
            origin=get("origin"),
            ignore_result=plan.ignore_result,
            stamped_headers=list(stamped) if stamped else None,
            stamps={stamp: options.get(stamp) for stamp in stamped} if stamped else {},
            headers=get("headers"),
            reply_to=get("reply_to") or app.thread_oid,
            priority=plan.destination.priority,
            delivery_mode=plan.destination.delivery_mode,
            properties={key: options[key] for key in _PROPERTIES if key in options} or None if options else None,
            serializer=plan.serializer,
            compression=plan.compression,
            argsrepr=get("argsrepr"),
            kwargsrepr=get("kwargsrepr"),
            repr_maxlevels=conf.task_repr_maxlevels,
            sensitive=task.sensitive if task is not None else (),
            parameter_names=task.parameter_names if task is not None else (),
            utc=app.conf.enable_utc,
        )
        return protocol.build_v1(call) if conf.task_protocol == 1 else protocol.build_v2(call)

    def _continuations(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What is to follow, as it travels; an error at the call site where nothing can continue it."""
        given = {
            "callbacks": options.get("link"),
            "errbacks": options.get("link_error"),
            "chain": options.get("chain"),
            "chord": options.get("chord"),
        }
        prepared: dict[str, Any] = {}
        for kind in CONTINUATIONS:
            value = given[kind]
            if not value:
                continue
            continuation = self._app.plugins.continuation(kind)
            if continuation is None:
                raise CapabilityMissing(unsupported([kind]))
            prepared[kind] = continuation.prepare(kind, value)
        return prepared

    # -- from messages to the broker -----------------------------------------------------------------------------------

    def send(self, prepared: Prepared) -> None:
        """Publish one call; returns once the broker has confirmed.

        :raises PublishRefused: the broker does not have it.
        :raises PublishUnknown: nobody can tell; publish it again under the same id.
        """
        if prepared.connection is not None:
            self._send_within([prepared])
            return
        errors = self.send_batch([prepared], prepared.timeout, prepared.policy)
        if errors[0] is not None:
            raise errors[0]

    async def asend(self, prepared: Prepared) -> None:
        """:meth:`send` for asyncio."""
        errors = await self.asend_batch([prepared], prepared.timeout, prepared.policy)
        if errors[0] is not None:
            raise errors[0]

    def _send_within(self, batch: Sequence[Prepared]) -> None:
        port = self._connection.port(batch[0].timeout)
        self._declare(port, batch, time.monotonic() + batch[0].timeout)
        publications = self._before([item.publication for item in batch])
        port.publish_within(publications, batch[0].connection)
        self._after(publications)

    def _declare(self, port: Transport, batch: Sequence[Prepared], until: float) -> None:
        queues = self._connection.undeclared(_queues(batch))
        if queues:
            port.drive(port.declare(queues), max(0.001, until - time.monotonic()))
            self._connection.note_declared(queues)

    def send_batch(
        self, batch: Sequence[Prepared], timeout: float, policy: RetryPolicy
    ) -> list[PublishRefused | PublishUnknown | None]:
        """Publish many; one answer for each, in order. *timeout* counts for all of them together."""
        attempt = _Attempt(batch, self._before([item.publication for item in batch]), timeout)
        for pause in (*policy.pauses(), None):
            try:
                self._send_once(attempt)
            except policy.retry_errors as error:
                attempt.refuse_rest(error)
            if attempt.settled(pause):
                break
            time.sleep(attempt.bounded(pause or 0.0))
        return self._answers(attempt)

    async def asend_batch(
        self, batch: Sequence[Prepared], timeout: float, policy: RetryPolicy
    ) -> list[PublishRefused | PublishUnknown | None]:
        """:meth:`send_batch` for asyncio."""
        attempt = _Attempt(batch, self._before([item.publication for item in batch]), timeout)
        for pause in (*policy.pauses(), None):
            try:
                await self._asend_once(attempt)
            except policy.retry_errors as error:
                attempt.refuse_rest(error)
            if attempt.settled(pause):
                break
            await asyncio.sleep(attempt.bounded(pause or 0.0))
        return self._answers(attempt)

    def _send_once(self, attempt: _Attempt) -> None:
        try:
            port = self._connection.port(attempt.left())
            self._declare(port, attempt.batch, attempt.until)
        except (TransportError, TimeoutError) as error:
            attempt.refuse_rest(error)
            return
        attempt.idempotent = TransportCapability.IDEMPOTENT_PUBLISH in port.capabilities
        for chunk, reply in self._submit(port, attempt):
            try:
                attempt.take(chunk, port.drive(reply, attempt.left()))
            except TimeoutError:
                attempt.timed_out(chunk, reply, port.url)
            except Exception as error:
                attempt.failed(chunk, error)

    async def _asend_once(self, attempt: _Attempt) -> None:
        try:
            port = await self._connection.aport(attempt.left())
            queues = self._connection.undeclared(_queues(attempt.batch))
            if queues:
                await asyncio.wait_for(asyncio.wrap_future(port.declare(queues)), attempt.left())
                self._connection.note_declared(queues)
        except (TransportError, TimeoutError) as error:
            attempt.refuse_rest(error)
            return
        attempt.idempotent = TransportCapability.IDEMPOTENT_PUBLISH in port.capabilities
        for chunk, reply in self._submit(port, attempt):
            try:
                attempt.take(chunk, await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(reply)), attempt.left()))
            except TimeoutError:
                attempt.timed_out(chunk, reply, port.url)
            except Exception as error:
                attempt.failed(chunk, error)

    def _submit(self, port: Transport, attempt: _Attempt) -> list[tuple[list[int], Reply[list[Exception | None]]]]:
        """Hand over what is left in chunks; the replies come while later chunks are on their way."""
        seams.reached("publishing")
        left = attempt.pending()
        chunks = [left[start : start + CHUNK] for start in range(0, len(left), CHUNK)]
        return [(chunk, port.publish([attempt.publications[index] for index in chunk])) for chunk in chunks]

    def _before(self, publications: list[Publication]) -> list[Publication]:
        if "kern_before_publish" in self._app.plugins.listening:
            self._app.plugins.notify("kern_before_publish", app=self._app, batch=publications)
        return publications

    def _after(self, publications: Sequence[Publication]) -> None:
        seams.reached("published")
        if publications and "kern_after_publish" in self._app.plugins.listening:
            self._app.plugins.notify("kern_after_publish", app=self._app, batch=publications)

    def _answers(self, attempt: _Attempt) -> list[PublishRefused | PublishUnknown | None]:
        self._after([p for p, error in zip(attempt.publications, attempt.errors, strict=True) if error is None])
        return attempt.errors


class _Attempt:
    """A batch on its way, and what is known of each item."""

    def __init__(self, batch: Sequence[Prepared], publications: list[Publication], timeout: float) -> None:
        self.batch = batch
        self.publications = publications
        self.timeout = timeout
        self.until = time.monotonic() + timeout
        self.idempotent = False
        self.errors: list[PublishRefused | PublishUnknown | None] = [_NOT_SENT] * len(batch)

    def left(self) -> float:
        return max(0.001, self.until - time.monotonic())

    def bounded(self, pause: float) -> float:
        return min(pause * random.uniform(0.8, 1.2), self.left())

    def pending(self) -> list[int]:
        """Items that are not in the broker, or may not be."""
        return [index for index, error in enumerate(self.errors) if error is not None]

    def take(self, chunk: Sequence[int], answers: list[Exception | None]) -> None:
        for index, error in zip(chunk, answers, strict=True):
            self.errors[index] = None if error is None else _as_answer(error, self.publications[index])

    def failed(self, chunk: Sequence[int], error: Exception) -> None:
        for index in chunk:
            self.errors[index] = _as_answer(error, self.publications[index])

    def timed_out(self, chunk: Sequence[int], reply: Reply[Any], url: str) -> None:
        """A command that had not begun was never sent; one that had may have arrived."""
        sentence = f"the broker {url} did not confirm within {self.timeout:g} s"
        never_sent = reply.cancel()
        for index in chunk:
            task_id = self.publications[index].task_id
            self.errors[index] = PublishRefused(sentence) if never_sent else PublishUnknown(sentence, [task_id])

    def refuse_rest(self, error: BaseException) -> None:
        for index in self.pending():
            refused = PublishRefused(str(error))
            refused.__cause__ = error
            if not isinstance(self.errors[index], PublishUnknown):
                self.errors[index] = refused

    def settled(self, pause: float | None) -> bool:
        """Whether another attempt would change nothing: all confirmed, final errors, or no time left."""
        if pause is None or time.monotonic() + pause >= self.until:
            return True
        return not any(self._worth_trying(error) for error in self.errors)

    def _worth_trying(self, error: PublishRefused | PublishUnknown | None) -> bool:
        if error is None:
            return False
        if isinstance(error, PublishUnknown):
            return self.idempotent
        cause = error.__cause__
        return isinstance(cause, TransportError | TimeoutError) and getattr(cause, "retryable", True)


_NOT_SENT = PublishRefused("not sent")


def _as_answer(error: Exception, publication: Publication) -> PublishRefused | PublishUnknown:
    if isinstance(error, PublishRefused | PublishUnknown):
        return error
    # A connection that broke in the middle: the message may be there.
    answer: PublishRefused | PublishUnknown
    if isinstance(error, TransportError) and error.retryable:
        answer = PublishUnknown(str(error), [publication.task_id])
    else:
        answer = PublishRefused(str(error))
    answer.__cause__ = error
    return answer


def _queues(batch: Sequence[Prepared]) -> list[QueueSpec]:
    seen: dict[str, QueueSpec] = {}
    for item in batch:
        for queue in (item.queue, *item.declare):
            if queue is not None and queue.name not in seen:
                seen[queue.name] = queue
    return list(seen.values())


def check_options(options: Mapping[str, Any], stamps: Iterable[str] = ()) -> None:
    """
    :raises TypeError: an option that does not exist, or cannot act here; names it and the remedy.
    """
    for name in options:
        if name in CALL_OPTIONS or name in stamps:
            continue
        reason = REFUSED_OPTIONS.get(name)
        if reason is not None:
            raise TypeError(f"option {name!r} is not supported: {reason}")
        close = nearest(name, CALL_OPTIONS)
        raise TypeError(f"unknown option {name!r} of a call" + (f"; did you mean {close!r}?" if close else ""))
