"""Eager runs: a task in the caller's thread, with the semantics of a worker and without broker."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import attrs

from kern import protocol, serialization, states
from kern.call_options import check_options
from kern.contracts.continuation import Follows
from kern.delivery import Delivery
from kern.protocol import Call
from kern.request import Request
from kern.result import EagerResult, denied_join_result
from kern.runner import Execution, is_ignored
from kern.task import Task, running

if TYPE_CHECKING:
    from kern.app import Kern
    from kern.message import Message, Publication


def run(
    app: Kern,
    task: Task[Any, Any],
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    task_id: str | None = None,
    throw: bool | None = None,
) -> EagerResult[Any]:
    """Run *task* here and now. Where and when it would have been sent does not matter.

    :param throw: raise the task's exception at once; ``None``: as ``task_eager_propagates`` says.
    """
    app.finalize()
    check_options(options)
    throw = app.conf.task_eager_propagates if throw is None else throw
    request = _request(app, task, args, kwargs, options, task_id or str(uuid4()))
    execution = _run(app, task, request, throw)
    return EagerResult(
        request.id or "", execution.value, execution.state, traceback=execution.traceback, name=task.name
    )


def run_instead_of_publishing(
    app: Kern, task: Task[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> EagerResult[Any]:
    """What ``task_always_eager`` makes of a call: run, with arguments that have been through the serializer.

    :raises kern.errors.EncodeError: an argument cannot be serialised; names it.
    """
    serializer = options.get("serializer") or task.serializer or app.conf.task_serializer
    args, kwargs = app.prepare_arguments(task, args, kwargs, serializer)
    call = Call(
        task.name,
        "",
        args,
        kwargs,
        serializer=serializer,
        argsrepr="",
        kwargsrepr="",
        parameter_names=task.parameter_names,
    )
    message = protocol.build_v2(call)
    body = protocol.read(message, _readable(message))
    with denied_join_result():
        return run(app, task, body.args, body.kwargs, options, task_id=options.get("task_id"))


def _request(
    app: Kern,
    task: Task[Any, Any],
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    task_id: str,
) -> Request:
    get = options.get
    parent = running()
    stamped = get("stamped_headers")
    limits = [get("time_limit"), get("soft_time_limit")]
    return Request(
        id=task_id,
        task=task.name,
        args=list(args) if isinstance(args, list) else tuple(args or ()),
        kwargs=dict(kwargs or {}),
        retries=get("retries") or 0,
        called_directly=False,
        is_eager=True,
        hostname=socket.gethostname(),
        headers=dict(get("headers") or {}) or None,
        ignore_result=get("ignore_result"),
        shadow=get("shadow"),
        root_id=get("root_id") or (parent.request.root_id or parent.request.id if parent else task_id),
        parent_id=get("parent_id") or (parent.request.id if parent else None),
        group=get("group_id"),
        group_index=get("group_index"),
        timelimit=limits if any(limits) else None,
        replaced_task_nesting=get("replaced_task_nesting") or 0,
        stamped_headers=list(stamped) if stamped else None,
        stamps={name: get(name) for name in stamped} if stamped else None,
        delivery_info={
            "is_eager": True,
            "exchange": get("exchange"),
            "routing_key": get("routing_key"),
            "priority": get("priority"),
        },
        **app.continuations(options),
    )


def _run(app: Kern, task: Task[Any, Any], request: Request, throw: bool) -> Execution:
    """Run, and again at once for as long as the task asks to be tried again; then what follows."""
    runner = app.runner(request.hostname or "")
    while True:
        execution = runner.execute(task, request, eager=True, throw=throw)
        if execution.retry is None:
            break
        call = execution.retry.sig
        request = attrs.evolve(
            request,
            retries=call.options["retries"],
            args=call.args,
            kwargs=dict(call.kwargs),
            headers=call.options.get("headers") or None,
            children=[],
        )
    if task.store_eager_result:
        _store(app, task, request, execution)
    if execution.state in (states.SUCCESS, states.FAILURE):
        follows = runner.follow(request, execution.state, execution.value)
        if task.store_eager_result:
            _store_endings(app, follows)
        if app.conf.task_always_eager:
            for publication in follows.publications:
                _run_publication(app, publication, throw)
        elif follows.publications:
            app.publish(follows.publications)
    return execution


def _store(app: Kern, task: Task[Any, Any], request: Request, execution: Execution) -> None:
    if execution.state not in states.READY_STATES or is_ignored(request, task, execution.state):
        return
    app.backend.store_result(
        request.id or "", execution.value, execution.state, traceback=execution.traceback, request=request
    )


def _store_endings(app: Kern, follows: Follows) -> None:
    for ending in follows.endings:
        if not is_ignored(ending.request, app.tasks.get(ending.request.task or ""), ending.state):
            app.backend.store_result(ending.request.id or "", ending.value, ending.state, request=ending.request)


def _run_publication(app: Kern, publication: Publication, throw: bool) -> None:
    """Run a call that would have been published.

    :raises NotRegistered: its task is not known here.
    """
    message = app.decode_message(publication.message)
    accept = _readable(message)
    head = protocol.peek(message, accept)
    request = protocol.request_from(Delivery("", "", "", message), head, socket.gethostname())
    protocol.attach(request, protocol.read(head.message, accept))
    request.is_eager = True
    request.delivery_info = {"is_eager": True, "exchange": None, "routing_key": None, "priority": message.priority}
    _run(app, app.tasks[head.task], request, throw)


def _readable(message: Message) -> frozenset[str]:
    """What we have encoded ourselves may be decoded."""
    return serialization.accept_set(None) | {message.content_type}
