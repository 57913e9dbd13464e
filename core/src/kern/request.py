"""A delivery that a worker has admitted; what a task sees as ``self.request``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

#: Headers a broker adds when it moves a dead message; they must not travel on.
_DEATH_HEADERS = ("x-death", "x-first-death-", "x-last-death-")


@attrs.define
class Request:
    """One run of a task, from its admission to its outcome.

    Between processes it travels with the body undecoded; :attr:`args` and :attr:`kwargs` are there once the process
    that runs the task has decoded it. Field names are Celery's.
    """

    id: str | None = None
    task: str | None = None
    args: list[Any] | tuple[Any, ...] | None = None
    kwargs: dict[str, Any] | None = None

    # the lease
    receipt: str = ""
    queue: str = ""
    #: Deaths counted against this message before this run.
    attempts: int = 0

    # the message
    body: bytes | None = None
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    compression: str | None = None
    properties: Mapping[str, Any] | None = None
    delivery_info: Mapping[str, Any] | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    #: Headers the protocol does not know.
    headers: dict[str, Any] | None = None

    # protocol headers
    lang: str | None = None
    shadow: str | None = None
    eta: str | None = None
    expires: str | None = None
    group: str | None = None
    group_index: int | None = None
    retries: int = 0
    #: ``[hard, soft]`` in seconds, as sent.
    timelimit: list[float | None] | tuple[float | None, ...] | None = None
    root_id: str | None = None
    parent_id: str | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    origin: str | None = None
    #: ``None``: what the task says.
    ignore_result: bool | None = None
    replaced_task_nesting: int = 0
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    utc: bool | None = None

    # continuations, from the body
    callbacks: list[Any] | None = None
    errbacks: list[Any] | None = None
    chain: list[Any] | None = None
    chord: Any = None

    # this run
    hostname: str | None = None
    called_directly: bool = True
    is_eager: bool = False
    #: Seconds, counted from the start of the task; already resolved against the task's own and the settings.
    time_limit: float | None = None
    soft_time_limit: float | None = None
    #: Results of the calls this task made, recorded by ``Task.add_trail``.
    children: list[Any] = attrs.field(factory=list)

    @property
    def taskset(self) -> str | None:
        """Protocol 1's name of :attr:`group`."""
        return self.group

    def get(self, name: str, default: Any = None) -> Any:
        """The field *name*, a stamp or custom header of that name, or *default*."""
        value = getattr(self, name, None)
        if value is None and self.headers:
            value = self.headers.get(name)
        return default if value is None else value

    def update(self, *args: Mapping[str, Any], **kwargs: Any) -> None:
        """Set fields by name."""
        for name, value in {**dict(*args), **kwargs}.items():
            setattr(self, name, value)

    def clear(self) -> None:
        """Set every field back to its default."""
        fresh = type(self)()
        for field in attrs.fields(type(self)):
            setattr(self, field.name, getattr(fresh, field.name))

    def as_execution_options(self) -> dict[str, Any]:
        """The options with which this call would be made again."""
        headers = {k: v for k, v in (self.headers or {}).items() if not k.startswith(_DEATH_HEADERS)}
        options: dict[str, Any] = {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": self.soft_time_limit,
            "time_limit": self.time_limit,
            "headers": headers,
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
        }
        if self.stamped_headers and self.stamps is not None:
            options["stamped_headers"] = self.stamped_headers
            options.update(self.stamps)
        return options
