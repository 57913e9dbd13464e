"""The states of a task, Celery's names with one meaning each.

=========  =============================================================================================
UNKNOWN    the broker was asked and knows no such call, and nothing is stored (a broker that cannot tell
           leaves it at PENDING)
PENDING    published and waiting: ready, delayed or leased, not started
RECEIVED   a worker has it (events only)
STARTED    running (stored only with ``task_track_started``)
RETRY      failed once, will be tried again
SUCCESS    done, the value is stored
FAILURE    failed for good, the error is stored
REVOKED    cancelled, or expired before it started
REJECTED   rejected by the task (events and eager results)
IGNORED    asked to leave no result (eager results)
=========  =============================================================================================
"""

from __future__ import annotations

from functools import total_ordering

UNKNOWN = "UNKNOWN"
PENDING = "PENDING"
RECEIVED = "RECEIVED"
STARTED = "STARTED"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
REJECTED = "REJECTED"
RETRY = "RETRY"
IGNORED = "IGNORED"

#: Final: the document will not change any more.
READY_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
UNREADY_STATES = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
#: The stored result is an exception.
EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})
#: The stored exception is raised by ``get()``.
PROPAGATE_STATES = frozenset({FAILURE, REVOKED})
ALL_STATES = frozenset({PENDING, RECEIVED, STARTED, SUCCESS, FAILURE, REVOKED, RETRY})

#: Most final first; ``None`` stands for every state not named here.
PRECEDENCE: tuple[str | None, ...] = (
    SUCCESS,
    FAILURE,
    None,
    REVOKED,
    STARTED,
    RECEIVED,
    REJECTED,
    RETRY,
    PENDING,
    UNKNOWN,
)
_RANK = {name: rank for rank, name in enumerate(PRECEDENCE)}


def precedence(name: str) -> int:
    """Rank of a state; the lower, the more final."""
    return _RANK.get(name, _RANK[None])


@total_ordering
class state(str):
    """A state that compares by precedence: ``state("PENDING") < state("SUCCESS")``."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return precedence(self) > precedence(other)

    def __gt__(self, other: str) -> bool:
        return precedence(self) < precedence(other)

    def __le__(self, other: str) -> bool:
        return not self > other

    def __ge__(self, other: str) -> bool:
        return not self < other

    __hash__ = str.__hash__
