"""What to do instead of an option of ``celery worker`` that ``kern worker`` does not have."""

from __future__ import annotations

from collections.abc import Mapping

_LEAVE_OUT = "leave it out"
_EVENTS = "events come with a plugin: pip install kern-events"
_BEAT = "the scheduler comes with a plugin: pip install kern-beat"
_DETACH = "let systemd, a container or a supervisor keep the worker in the background"

INSTEAD: Mapping[str, str] = {
    "-B": _BEAT,
    "--beat": _BEAT,
    "-s": _BEAT,
    "--schedule": _BEAT,
    "--schedule-filename": _BEAT,
    "--scheduler": _BEAT,
    "-E": _EVENTS,
    "--events": _EVENTS,
    "--task-events": _EVENTS,
    "-D": _DETACH,
    "--detach": _DETACH,
    "--executable": _DETACH,
    "--uid": "start the worker as the user it is to run as",
    "--gid": "start the worker as the group it is to run as",
    "--umask": "set it before the worker is started",
    "-O": f"a short task never waits behind a long one while there is a free slot: {_LEAVE_OUT}",
    "--optimization": f"a short task never waits behind a long one while there is a free slot: {_LEAVE_OUT}",
    "--without-gossip": f"workers do not gossip: {_LEAVE_OUT}",
    "--without-mingle": f"workers do not mingle: {_LEAVE_OUT}",
    "--without-heartbeat": f"heartbeats keep the leases of a worker: {_LEAVE_OUT}, or see worker_heartbeat",
    "--heartbeat-interval": "set worker_heartbeat",
    "--disable-prefetch": "set worker_disable_prefetch=true behind the options",
    "--autoscale": f"set -c to the largest number of tasks at once, and {_LEAVE_OUT}",
    "-S": f"a worker keeps no state in a file: {_LEAVE_OUT}",
    "--statedb": f"a worker keeps no state in a file: {_LEAVE_OUT}",
    "--loader": "use --config",
    "--skip-checks": f"no checks are run: {_LEAVE_OUT}",
}


def instead_of(option: str) -> str | None:
    """What to do instead of that option, if it is one of Celery's."""
    return INSTEAD.get(option) or (INSTEAD.get(option[:2]) if not option.startswith("--") else None)
