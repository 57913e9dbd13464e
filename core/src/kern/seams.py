"""Named points in the flow of a task at which a test can stop the world.

``seams.reached("claimed")`` does nothing until a test arms the name; then what the test gave is called, which may kill
the process. Production code never arms anything, and the cost of a seam is one dictionary look-up.
"""

from __future__ import annotations

from collections.abc import Callable

#: Every seam, in the order a task meets them. A test kills a process at each.
NAMES: tuple[str, ...] = (
    "publishing",  # before the broker is asked to take a batch
    "published",  # the broker has confirmed, the caller does not know yet
    "claiming",  # before the broker is asked for messages
    "claimed",  # leased on the server, not yet known to the loop
    "admitted",  # admitted or parked, not yet handed to the pool
    "submitted",  # handed to the pool
    "running",  # in the process that runs the task, before user code
    "ran",  # user code returned, the outcome is not yet known to the main process
    "finished",  # the main process has the outcome, nothing is written
    "result-written",  # results are stored, follow-ups and release are not (two servers)
    "settling",  # inside the settlement's transaction, before it commits
    "settled",  # the settlement is committed, the loop does not know yet
    "parking",  # inside the parking's transaction, before it commits
    "handing-back",  # a stopping worker, before it hands its leases back
)

_armed: dict[str, Callable[[], None]] = {}


def reached(name: str) -> None:
    """Say that the point *name* has been reached."""
    if _armed:
        action = _armed.get(name)
        if action is not None:
            action()


def arm(name: str, action: Callable[[], None]) -> None:
    """Call *action* whenever *name* is reached. For tests alone.

    :raises ValueError: no such seam.
    """
    if name not in NAMES:
        raise ValueError(f"no seam {name!r}; known: {', '.join(NAMES)}")
    _armed[name] = action


def disarm(name: str | None = None) -> None:
    """Forget what was armed at *name*, or everything."""
    if name is None:
        _armed.clear()
    else:
        _armed.pop(name, None)
