"""Every error kern raises, in one tree.

::

    KernError
    ├── ImproperlyConfigured
    │   ├── UnknownSetting
    │   ├── InvalidSetting
    │   ├── PluginMissing
    │   └── PluginConflict
    ├── SecurityError
    ├── TaskPredicate
    │   ├── Ignore
    │   ├── Reject
    │   └── Retry
    ├── TaskError
    │   ├── AlreadyRegistered
    │   ├── ChordError
    │   ├── IncompleteStream
    │   ├── InvalidTaskError
    │   ├── MaxRetriesExceededError
    │   ├── NotRegistered            (also KeyError)
    │   ├── QueueNotFound            (also KeyError)
    │   ├── TaskRevokedError
    │   └── TimeoutError             (also the built-in TimeoutError)
    ├── MessageError
    │   ├── ContentDisallowed
    │   ├── DecodeError
    │   ├── EncodeError
    │   └── MessageTooLarge
    ├── OperationalError
    │   ├── PublishRefused
    │   ├── PublishUnknown
    │   └── TransportError
    ├── CapabilityMissing
    └── BackendError
        ├── BackendGetMetaError
        ├── BackendStoreError
        └── BackendUnavailable
    SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError, Terminated   (Exception)
    Interrupted   (BaseException)

The docstring of an error is its message when it is raised without one. Errors that Celery has under the same name
carry Celery's module on the wire (:data:`WIRE_MODULES`), so that either side reads the other's documents.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Any


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most like *name*, or ``None`` when nothing is close.

    :param cutoff: how alike they must be, from 0 to 1.
    """
    found = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


class KernError(Exception):
    """Something went wrong in kern."""

    def __init__(self, *args: Any) -> None:
        if not args and type(self).__doc__:
            args = (str(type(self).__doc__).splitlines()[0],)
        super().__init__(*args)


class ImproperlyConfigured(KernError):
    """The application is not configured correctly."""


class UnknownSetting(ImproperlyConfigured):
    """There is no setting of that name."""

    def __init__(self, key: str, origin: str = "", suggestion: str | None = None) -> None:
        self.key, self.origin, self.suggestion = key, origin, suggestion
        text = f"unknown setting {key!r}"
        if origin:
            text += f" (from {origin})"
        if suggestion:
            text += f"; did you mean {suggestion!r}?"
        super().__init__(text)


class InvalidSetting(ImproperlyConfigured):
    """A setting has a value that cannot be used."""

    def __init__(self, key: str, problem: str, origin: str = "") -> None:
        self.key, self.problem, self.origin = key, problem, origin
        super().__init__(f"setting {key!r}{f' (from {origin})' if origin else ''}: {problem}")


class PluginMissing(ImproperlyConfigured):
    """No installed plugin provides what was asked for."""

    def __init__(self, message: str, install: str | None = None) -> None:
        self.install = install
        super().__init__(message)


class PluginConflict(ImproperlyConfigured):
    """Two plugins claim the same thing."""


class SecurityError(KernError):
    """Refused for security reasons."""


# -- outcomes a task may ask for; not failures -------------------------------------------------------------------------


class TaskPredicate(KernError):
    """Base of what a task raises to say what shall become of it."""


class Ignore(TaskPredicate):
    """The task shall leave no result."""


class Reject(TaskPredicate):
    """The task's message is rejected: back to its queue, or to quarantine.

    :param reason: why; kept with the message in quarantine.
    :param requeue: ``True`` hands the message back to be run again.
    """

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        self.reason, self.requeue = reason, requeue
        super().__init__(reason, requeue)

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class Retry(TaskPredicate):
    """The task is to be tried again later.

    :param exc: the exception that caused it, if any.
    :param when: seconds from now, or an aware datetime.
    :param sig: the call that will be published.
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: Any = None,
    ) -> None:
        self.message = message
        self.exc = None if isinstance(exc, str) else exc
        self.excs = exc if isinstance(exc, str) else (repr(exc) if exc is not None else None)
        self.when, self.is_eager, self.sig = when, is_eager, sig
        super().__init__(message, exc, when)

    def humanize(self) -> str:
        if isinstance(self.when, int | float):
            return f"in {self.when}s"
        return f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        cause = f": {self.excs}" if self.excs else ""
        return f"Retry {self.humanize()}{cause}"

    def __reduce__(self) -> tuple[type[Retry], tuple[Any, ...]]:
        return type(self), (self.message, self.exc or self.excs, self.when)


# -- task errors -------------------------------------------------------------------------------------------------------


class TaskError(KernError):
    """Base of errors about tasks."""


class AlreadyRegistered(TaskError):
    """The task is already registered."""


class ChordError(TaskError):
    """A part of the chord failed, or it could not be joined."""


class IncompleteStream(TaskError):
    """The results are not complete yet."""


class InvalidTaskError(TaskError):
    """The task message has invalid data."""


class MaxRetriesExceededError(TaskError):
    """The task has been retried as often as it may be."""

    def __init__(self, *args: Any, task_args: Sequence[Any] = (), task_kwargs: Mapping[str, Any] | None = None) -> None:
        self.task_args, self.task_kwargs = task_args, dict(task_kwargs or {})
        super().__init__(*args)


class NotRegistered(TaskError, KeyError):
    """The task is not registered."""

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        name = self.args[0] if self.args else "?"
        return f"Task of kind {name!r} never registered, please make sure it's imported."


class QueueNotFound(TaskError, KeyError):
    """The queue is not configured and may not be created."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class TaskRevokedError(TaskError):
    """The task has been revoked."""


class TimeoutError(TaskError, builtins.TimeoutError):
    """The operation timed out."""


# -- messages ----------------------------------------------------------------------------------------------------------


class MessageError(KernError):
    """Base of errors about the content of messages."""


class ContentDisallowed(MessageError):
    """The content type is not on the accept list."""


class DecodeError(MessageError):
    """The content could not be decoded."""


class EncodeError(MessageError):
    """The value could not be encoded."""


class MessageTooLarge(MessageError):
    """The message is larger than allowed."""

    def __init__(self, size: int, limit: int, task: str = "") -> None:
        self.size, self.limit, self.task = size, limit, task
        super().__init__(
            f"the message{f' for task {task!r}' if task else ''} is {size} bytes, the limit is {limit} "
            "(setting 'message_size_limit'); store large data elsewhere and pass a reference"
        )


# -- servers -----------------------------------------------------------------------------------------------------------


class OperationalError(KernError):
    """A server could not do what was asked."""


class PublishRefused(OperationalError):
    """The broker did not take the message: it is not there, publishing again is safe.

    :ivar task_ids: of a batch, the calls that are not confirmed.
    """

    outcome = "refused"
    task_ids: Sequence[str] = ()


class PublishUnknown(OperationalError):
    """It is not known whether the broker took the message.

    Publish it again under the same id (``task_id=error.task_ids[0]``): the result is one message on Redis and SQL, and
    at most one duplicate on AMQP.
    """

    outcome = "unknown"

    def __init__(self, message: str = "", task_ids: Sequence[str] = ()) -> None:
        self.task_ids: Sequence[str] = tuple(task_ids)
        super().__init__(message or str(type(self).__doc__).splitlines()[0])


class TransportError(OperationalError):
    """The connection to the broker failed.

    :ivar retryable: whether trying again later may help (an unreachable server), or not (wrong credentials).
    """

    def __init__(self, message: str = "", retryable: bool = True) -> None:
        self.retryable = retryable
        super().__init__(message or str(type(self).__doc__).splitlines()[0])


class CapabilityMissing(KernError):
    """An installed driver cannot do what was asked; the message says which plugin can."""


class BackendError(KernError):
    """The result store could not do what was asked."""


class BackendGetMetaError(BackendError):
    """The result could not be read."""

    def __init__(self, *args: Any, task_id: str = "") -> None:
        self.task_id = task_id
        super().__init__(*args)


class BackendStoreError(BackendError):
    """The result could not be stored."""

    def __init__(self, *args: Any, state: str = "", task_id: str = "") -> None:
        self.state, self.task_id = state, task_id
        super().__init__(*args)


class BackendUnavailable(BackendError):
    """The result store cannot be reached."""

    def __init__(self, message: str = "", retryable: bool = True) -> None:
        self.retryable = retryable
        super().__init__(message or str(type(self).__doc__).splitlines()[0])


# -- what happens to processes; plain exceptions, as their users expect ------------------------------------------------


class SoftTimeLimitExceeded(Exception):
    """The soft time limit was exceeded: raised inside the task."""


class TimeLimitExceeded(Exception):
    """The hard time limit was exceeded: the task was killed."""


class WorkerLostError(Exception):
    """The process that ran the task died."""


class Terminated(Exception):
    """The task was terminated on request."""


class Interrupted(BaseException):
    """The worker stops: raised inside a task, which is handed back and will run again. It has not failed."""


#: Module under which an error travels in result documents: that of Celery's error of the same name.
WIRE_MODULES: dict[type[BaseException], str] = {
    **dict.fromkeys(
        (
            AlreadyRegistered,
            BackendError,
            BackendGetMetaError,
            BackendStoreError,
            ChordError,
            Ignore,
            ImproperlyConfigured,
            IncompleteStream,
            InvalidTaskError,
            MaxRetriesExceededError,
            NotRegistered,
            QueueNotFound,
            Reject,
            Retry,
            SecurityError,
            TaskError,
            TaskPredicate,
            TaskRevokedError,
            TimeoutError,
        ),
        "celery.exceptions",
    ),
    **dict.fromkeys((SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError, Terminated), "billiard.exceptions"),
    ContentDisallowed: "kombu.exceptions",
    DecodeError: "kombu.exceptions",
    EncodeError: "kombu.exceptions",
    OperationalError: "kombu.exceptions",
}
