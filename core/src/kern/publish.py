"""Publishing: from a call to a message that the broker has confirmed, within one deadline.

An answer is always one of three: confirmed, *refused* (the message is not there), *unknown* (publish it again under
the same id). :class:`Publisher` makes messages of calls and gives them to the transport; a :class:`Sending` is what is
known of a batch on its way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import attrs

from kern import log, protocol, seams
from kern.call_options import NO_RETRY, PROPERTIES, RetryPolicy
from kern.connection import Connection
from kern.contracts.continuation import unsupported
from kern.contracts.port import Reply
from kern.contracts.transport import Transport, TransportCapability
from kern.errors import CapabilityMissing, MessageTooLarge, PublishRefused, PublishUnknown, TransportError
from kern.identity import new_id
from kern.message import CONTINUATIONS, Message, Publication
from kern.protocol import Call, Template
from kern.queues import QueueSpec
from kern.request import Request
from kern.routing import Destination
from kern.settings_core import PublishSettings
from kern.task import Running, Task, running_worker_task
from kern.task_options import EXECUTION_OPTIONS
from kern.timeutil import clock, due_time, expiry_time

if TYPE_CHECKING:
    from kern.app import Kern

logger = log.get_logger("kern.publish")

#: Messages in one round trip.
CHUNK = 300

#: What became of one publication: confirmed, or why not.
Answer = PublishRefused | PublishUnknown | None


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
    #: What was configured by code: queues added or taken away.
    queue_changes: int
    #: The task's own options when this was decided.
    own: tuple[Any, ...] | None
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

    def valid_for(self, conf: PublishSettings, app: Kern, task: Task[Any, Any]) -> bool:
        """Whether nothing has changed since: settings, queues, or the task's own options."""
        return (
            self.conf is conf
            and self.version == app.conf.version
            and self.queue_changes == app.router.changes
            and self.own == _own_options(task)
        )


#: What a task says itself of its calls.
_own_options: Callable[[Task[Any, Any]], tuple[Any, ...]] = attrgetter(*EXECUTION_OPTIONS, "ignore_result", "sensitive")


_NO_OPTIONS: Mapping[str, Any] = {}


class Publisher:
    """Makes messages of calls and has them published."""

    def __init__(self, app: Kern, connection: Connection) -> None:
        self._app = app
        self._connection = connection
        self._plans: dict[str, _Plan] = {}
        #: Messages of plans, made with their first call. A plan is known by its identity.
        self._templates: dict[str, tuple[_Plan, Template | None]] = {}

    # -- from a call to a message --------------------------------------------------------------------------------------

    def prepare(
        self,
        name: str,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        task: Task[Any, Any] | None = None,
        by_name: bool = False,
        again: Request | None = None,
    ) -> Prepared:
        """Everything that can be decided and refused without the broker.

        :param options: see :data:`kern.call_options.CALL_OPTIONS`; checked already.
        :param task: the task, if it is known here.
        :param by_name: it is called by its name: what it says itself of results and its shown name does not count.
        :param again: the run that the call repeats: what follows it travels on as it came.
        :raises TypeError: arguments do not fit.
        :raises kern.errors.EncodeError: an argument cannot be serialised; names it.
        :raises MessageTooLarge: see ``message_size_limit``.
        :raises CapabilityMissing: a continuation that nothing installed can continue.
        """
        app = self._app
        conf = app.conf.section(PublishSettings)
        args = () if args is None else args
        kwargs = {} if kwargs is None else kwargs
        parent = running_worker_task()
        task_id = None
        if len(options) == 1 and "task_id" in options:
            # What apply_async() always brings; a call with an id of its own differs from others in nothing else.
            task_id, options = options["task_id"], _NO_OPTIONS
        plan = self._plan(name, args, kwargs, options, task, by_name, conf, parent)
        if task is not None:
            args, kwargs = app.prepare_arguments(task, args, kwargs, plan.serializer)
        shown = None if by_name else task
        message = None
        if plan.own is not None and shown is not None:
            message = self._from_template(name, args, kwargs, plan, shown, task_id)
        if message is None:
            follows = self.continuations(options, again) if options else {}
            call = self._call(name, args, kwargs, options, task, shown, conf, plan, parent, follows, task_id)
            message = protocol.build_v1(call) if conf.task_protocol == 1 else protocol.build_v2(call)
            if plan.own is not None:
                template = Template.of(call, message) if conf.task_protocol != 1 else None
                self._templates[name] = (plan, template)
        message = app.encode_message(message)
        if conf.message_size_limit and message.size > conf.message_size_limit:
            raise MessageTooLarge(message.size, conf.message_size_limit, name)
        destination = plan.destination
        return Prepared(
            Publication(message, destination.exchange, destination.routing_key, destination.exchange_type, plan.due),
            plan.queue,
            bool(plan.ignore_result),
            plan.timeout,
            plan.policy,
            options.get("add_to_parent", True) if options else True,
            options.get("connection") if options else None,
            options.get("result_cls") if options else None,
            plan.declare,
        )

    def _from_template(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        plan: _Plan,
        shown: Task[Any, Any],
        task_id: str | None,
    ) -> Message | None:
        """The message, if one like it was made before."""
        known = self._templates.get(name)
        if known is None or known[0] is not plan or known[1] is None:
            return None
        shadow = shown.shadow_name(args, kwargs, _NO_OPTIONS)
        return known[1].message(task_id or new_id(), args, kwargs, shadow, self._app.thread_oid)

    def _plan(
        self,
        name: str,
        args: Any,
        kwargs: Any,
        options: Mapping[str, Any],
        task: Task[Any, Any] | None,
        by_name: bool,
        conf: PublishSettings,
        parent: Running | None,
    ) -> _Plan:
        """Where the call goes and how; remembered for calls without options, which differ in nothing but arguments."""
        app = self._app
        simple = not options and parent is None and task is not None and not by_name
        if simple:
            known = self._plans.get(name)
            if known is not None and task is not None and known.valid_for(conf, app, task):
                return known
        given: Mapping[str, Any] = options
        if task is not None:
            given = {**task.execution_options(), **options}
            if not by_name and "priority" not in options:
                # A task's own priority weighs less than its route's: the router asks the task.
                given.pop("priority", None)
        inherited = None
        if parent is not None and options.get("parent_id") is None and options.get("root_id") is None:
            inherited = (parent.request.delivery_info or {}).get("priority")
        router = app.router if options.get("router") is None else app.make_router(options["router"])
        destination = router.route(given, options.get("route_name") or name, args, kwargs, task, inherited)
        get = destination.options.get
        zone, now = app.timezone, clock.now()
        countdown = get("countdown")
        eta = None if countdown else get("eta")
        # What comes without a zone is in UTC: so it is read by whoever takes the message.
        due = due_time(countdown, eta, UTC, now)
        expires = expiry_time(get("expires"), UTC, now)
        if expires is not None and expires.timestamp() <= now:
            logger.warning("published with an expiry that has passed", task=name, expires=str(expires))
        ignore = options.get("ignore_result")
        if ignore is None and task is not None and not by_name:
            ignore = bool(task.ignore_result)
        policy = NO_RETRY
        if _given(options.get("retry"), conf.task_publish_retry):
            policy = RetryPolicy.of(conf.task_publish_retry_policy, options.get("retry_policy"))
        plan = _Plan(
            conf=conf,
            version=app.conf.version,
            queue_changes=app.router.changes,
            own=_own_options(task) if simple and task is not None and expires is None and due is None else None,
            destination=destination,
            queue=destination.queue if destination.declare else None,
            declare=tuple(app.queue_spec(queue) for queue in options.get("declare") or ()),
            serializer=get("serializer") or conf.task_serializer,
            compression=get("compression") or conf.task_compression,
            # What the caller wrote as a date travels as written; a countdown becomes one in the application's zone.
            eta=eta if eta is not None else (due.astimezone(zone) if due is not None else None),
            due=None if due is None else due.timestamp(),
            expires=None if expires is None else expires.astimezone(zone),
            ignore_result=ignore,
            timeout=_given(options.get("timeout"), options.get("confirm_timeout"), conf.publish_timeout),
            policy=policy,
        )
        if plan.own is not None:
            if router.asks_arguments:
                return attrs.evolve(plan, own=None)
            self._plans[name] = plan
        return plan

    def _call(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        task: Task[Any, Any] | None,
        shown: Task[Any, Any] | None,
        conf: PublishSettings,
        plan: _Plan,
        parent: Running | None,
        follows: Mapping[str, Any],
        task_id: str | None,
    ) -> Call:
        app, get = self._app, plan.destination.options.get
        parent_id = root_id = None
        if options:
            parent_id, root_id = options.get("parent_id"), options.get("root_id")
        if parent is not None:
            parent_id = parent_id or parent.request.id
            root_id = root_id or parent.request.root_id or parent.request.id
        stamped = options.get("stamped_headers") if options else None
        return Call(
            name=name,
            id=task_id or get("task_id") or new_id(),
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
            callbacks=follows.get("callbacks"),
            errbacks=follows.get("errbacks"),
            chain=follows.get("chain"),
            chord=follows.get("chord"),
            shadow=get("shadow") or (shown.shadow_name(args, kwargs, options) if shown is not None else None),
            origin=get("origin"),
            ignore_result=plan.ignore_result,
            stamped_headers=list(stamped) if stamped else None,
            stamps={stamp: options[stamp] for stamp in stamped} if stamped else {},
            headers=get("headers"),
            reply_to=get("reply_to") or app.thread_oid,
            priority=plan.destination.priority,
            delivery_mode=plan.destination.delivery_mode,
            properties={key: options[key] for key in PROPERTIES if key in options} or None if options else None,
            serializer=plan.serializer,
            compression=plan.compression,
            argsrepr=get("argsrepr"),
            kwargsrepr=get("kwargsrepr"),
            repr_maxlevels=conf.task_repr_maxlevels,
            sensitive=task.sensitive if task is not None else (),
            parameter_names=task.parameter_names if task is not None else (),
            utc=app.conf.enable_utc,
        )

    def continuations(self, options: Mapping[str, Any], again: Request | None = None) -> dict[str, Any]:
        """What is to follow, as it travels; an error at the call site where nothing can continue it.

        :param again: what this request brought is as it travels already.

        :raises CapabilityMissing: says what to install.
        """
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
            if again is not None and value is getattr(again, kind):
                prepared[kind] = value
                continue
            continuation = self._app.plugins.continuation(kind)
            if continuation is None:
                raise CapabilityMissing(unsupported([kind]))
            prepared[kind] = continuation.prepare(kind, value)
        return prepared

    # -- from messages to the broker -----------------------------------------------------------------------------------

    def announce(self, batch: Sequence[Prepared]) -> Sequence[Prepared]:
        """Tell listeners what is about to be sent; the batch as they want it."""
        plugins = self._app.plugins
        if "kern_before_publish" not in plugins.listening:
            return batch
        publications = [item.publication for item in batch]
        plugins.notify("kern_before_publish", app=self._app, batch=publications)
        if len(publications) != len(batch):
            logger.error("listeners may replace what is published, not add or remove; sent as it was")
            return batch
        return [
            item if publication is item.publication else attrs.evolve(item, publication=publication)
            for item, publication in zip(batch, publications, strict=True)
        ]

    def send(self, batch: Sequence[Prepared], timeout: float, policy: RetryPolicy) -> list[Answer]:
        """Publish calls; one answer for each, in order.

        :param timeout: seconds, for all of them and all attempts together.
        """
        sending = Sending(batch, timeout, policy)
        for pause in chain(policy.pauses(), (None,)):
            self._send_once(sending)
            if sending.settled(pause):
                break
            time.sleep(sending.bounded(pause or 0.0))
        return self._answers(sending)

    async def asend(self, batch: Sequence[Prepared], timeout: float, policy: RetryPolicy) -> list[Answer]:
        """:meth:`send` for asyncio."""
        import asyncio  # here: most callers have no loop, and importing it is half of what importing kern costs

        sending = Sending(batch, timeout, policy)
        for pause in chain(policy.pauses(), (None,)):
            await self._asend_once(sending)
            if sending.settled(pause):
                break
            await asyncio.sleep(sending.bounded(pause or 0.0))
        return self._answers(sending)

    def send_within(self, batch: Sequence[Prepared], connection: Any) -> None:
        """Publish calls inside the caller's own transaction on *connection*.

        They are sent when it commits, and nobody here is told whether it did: listeners of ``kern_after_publish`` are
        not called.

        :raises PublishRefused: the broker's own connection, which is needed for declarations, cannot be made.
        :raises CapabilityMissing: this transport cannot.
        """
        timeout = batch[0].timeout
        until = time.monotonic() + timeout
        try:
            port = self._connection.port(timeout)
            # A queue that is named directly needs no declaration, which would wait for the caller's own transaction.
            self._declare(port, [item for item in batch if item.publication.exchange or item.declare], until)
        except (TransportError, TimeoutError) as error:
            raise PublishRefused(str(error)) from error
        port.publish_within([item.publication for item in batch], connection)

    def _declare(self, port: Transport, batch: Sequence[Prepared], until: float) -> None:
        queues = self._connection.undeclared(_queues(batch))
        if queues:
            port.drive(port.declare(queues), max(0.001, until - time.monotonic()))
            self._connection.note_declared(queues)

    def _send_once(self, sending: Sending) -> None:
        try:
            port = self._connection.port(sending.left())
            self._declare(port, sending.batch, sending.until)
        except sending.unreachable as error:
            sending.refuse_rest(error)
            return
        for chunk, reply in self._submit(port, sending):
            try:
                sending.take(chunk, port.drive(reply, sending.left()))
            except TimeoutError:
                sending.timed_out(chunk, reply, port.url)
            except Exception as error:
                sending.failed(chunk, error)

    async def _asend_once(self, sending: Sending) -> None:
        import asyncio

        try:
            port = await self._connection.aport(sending.left())
            queues = self._connection.undeclared(_queues(sending.batch))
            if queues:
                await asyncio.wait_for(asyncio.wrap_future(port.declare(queues)), sending.left())
                self._connection.note_declared(queues)
        except sending.unreachable as error:
            sending.refuse_rest(error)
            return
        for chunk, reply in self._submit(port, sending):
            try:
                sending.take(chunk, await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(reply)), sending.left()))
            except TimeoutError:
                sending.timed_out(chunk, reply, port.url)
            except Exception as error:
                sending.failed(chunk, error)

    def _submit(self, port: Transport, sending: Sending) -> list[tuple[list[int], Reply[list[Exception | None]]]]:
        """Hand over what is left in chunks; the replies come while later chunks are on their way."""
        sending.idempotent = TransportCapability.IDEMPOTENT_PUBLISH in port.capabilities
        seams.reached("publishing")
        left = sending.pending()
        chunks = [left[start : start + CHUNK] for start in range(0, len(left), CHUNK)]
        return [(chunk, port.publish([sending.batch[index].publication for index in chunk])) for chunk in chunks]

    def _answers(self, sending: Sending) -> list[Answer]:
        seams.reached("published")
        if "kern_after_publish" in self._app.plugins.listening:
            confirmed = sending.confirmed()
            if confirmed:
                self._app.plugins.notify("kern_after_publish", app=self._app, batch=confirmed)
        return sending.answers


class Sending:
    """A batch on its way, and what is known of each item."""

    def __init__(self, batch: Sequence[Prepared], timeout: float, policy: RetryPolicy) -> None:
        self.batch = batch
        self.timeout = timeout
        self.policy = policy
        self.until = time.monotonic() + timeout
        #: Whether the broker takes the same id twice as one message.
        self.idempotent = False
        self.answers: list[Answer] = [_NOT_SENT] * len(batch)
        #: Errors that mean that nothing could be sent at all.
        self.unreachable: tuple[type[BaseException], ...] = (TransportError, TimeoutError, *policy.retry_errors)

    def left(self) -> float:
        """Seconds left; a little even when the time is over, so that what has arrived is taken."""
        return max(0.001, self.until - time.monotonic())

    def bounded(self, pause: float) -> float:
        """A pause with some jitter that does not outlast the deadline."""
        return min(pause * random.uniform(0.8, 1.2), self.left())

    def pending(self) -> list[int]:
        """Items to be sent: those that never were, and those that it is worth trying again."""
        return [index for index, answer in enumerate(self.answers) if answer is _NOT_SENT or self._worth_trying(answer)]

    def confirmed(self) -> list[Publication]:
        """What is in the broker."""
        return [item.publication for item, answer in zip(self.batch, self.answers, strict=True) if answer is None]

    def take(self, chunk: Sequence[int], errors: list[Exception | None]) -> None:
        """The broker's answer, item by item."""
        for index, error in zip(chunk, errors, strict=True):
            self.answers[index] = None if error is None else self._told_apart(error, index)

    def failed(self, chunk: Sequence[int], error: Exception) -> None:
        """The command failed as a whole."""
        for index in chunk:
            self.answers[index] = self._told_apart(error, index)

    def timed_out(self, chunk: Sequence[int], reply: Reply[Any], url: str) -> None:
        """A command that had not begun was never sent; one that had may have arrived."""
        sentence = f"the broker {url} did not confirm within {self.timeout:g} s"
        never_sent = reply.cancel()
        for index in chunk:
            if never_sent and not isinstance(self.answers[index], PublishUnknown):
                self.answers[index] = PublishRefused(sentence)
            else:
                self.answers[index] = PublishUnknown(sentence, [self.batch[index].publication.task_id])

    def refuse_rest(self, error: BaseException) -> None:
        """There is no connection to send on: what may have been sent before stays unknown."""
        for index in self.pending():
            if not isinstance(self.answers[index], PublishUnknown):
                refused = PublishRefused(str(error))
                refused.__cause__ = error
                self.answers[index] = refused

    def settled(self, pause: float | None) -> bool:
        """Whether another attempt after *pause* seconds would change nothing."""
        if pause is None or time.monotonic() + pause >= self.until:
            return True
        worth = next((answer for answer in self.answers if self._worth_trying(answer)), None)
        if worth is None:
            return True
        if self.policy.errback is not None:
            self.policy.errback(worth.__cause__ or worth, pause)
        return False

    def _worth_trying(self, answer: Answer) -> bool:
        if answer is None:
            return False
        if isinstance(answer, PublishUnknown):
            return self.idempotent
        cause = answer.__cause__
        if isinstance(cause, self.policy.retry_errors):
            return True
        return isinstance(cause, TransportError | TimeoutError) and getattr(cause, "retryable", True)

    def _told_apart(self, error: Exception, index: int) -> PublishRefused | PublishUnknown:
        """Refused or unknown: a connection that broke in the middle may have carried the message over."""
        if isinstance(error, PublishRefused | PublishUnknown):
            answer = error
        elif isinstance(error, TransportError) and error.retryable:
            answer = PublishUnknown(str(error), [self.batch[index].publication.task_id])
            answer.__cause__ = error
        else:
            answer = PublishRefused(str(error))
            answer.__cause__ = error
        if isinstance(answer, PublishRefused) and isinstance(self.answers[index], PublishUnknown):
            # An attempt before this one may have arrived.
            return PublishUnknown(str(answer), [self.batch[index].publication.task_id])
        return answer


_NOT_SENT = PublishRefused("not sent")


def _given(*values: Any) -> Any:
    """The first that is not ``None``."""
    return next((value for value in values if value is not None), None)


def _queues(batch: Sequence[Prepared]) -> list[QueueSpec]:
    seen: dict[str, QueueSpec] = {}
    last: QueueSpec | None = None
    for item in batch:
        # Most batches are for one queue.
        if item.queue is not last and item.queue is not None:
            last = item.queue
            seen.setdefault(last.name, last)
        for queue in item.declare:
            seen.setdefault(queue.name, queue)
    return list(seen.values())
