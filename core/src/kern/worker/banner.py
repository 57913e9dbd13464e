"""What a worker says of itself at its start: a few lines for people, the same as fields for programs."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from kern.contracts.pool import PoolCapability
from kern.errors import ImproperlyConfigured
from kern.masking import mask_url
from kern.plugins import State

if TYPE_CHECKING:
    from kern.app import Kern
    from kern.worker.worker import Worker


def facts(worker: Worker) -> dict[str, Any]:
    """What holds for this worker; passwords are masked."""
    app = worker.app
    results = app.result_backend_url
    return {
        "app": app_name(app),
        "broker": mask_url(app.broker_url),
        "results": "not kept" if results is None else mask_url(results),
        "concurrency": worker.pool.slots,
        "pool": worker.pool_name,
        "queues": [spec.alias or spec.name for spec in worker.queue_specs],
        "tasks": own_tasks(app),
        "plugins": [info.name for info in app.plugins.infos() if info.state is State.ACTIVE],
    }


def remarks(worker: Worker) -> Iterator[str]:
    """What its user had better know, a sentence each."""
    app, conf, pool = worker.app, worker.conf, worker.pool
    if conf.celery_heritage and not conf.task_acks_late:
        yield (
            "settings for Celery: tasks are released before they run, so a worker that dies loses those that it has "
            "begun; task_acks_late = True keeps them"
        )
    if PoolCapability.HARD_LIMITS not in pool.capabilities:
        limited = sorted(task.name for task in app.tasks.values() if task.time_limit)
        which = f" (set for {', '.join(limited[:3])}{' …' if len(limited) > 3 else ''})" if limited else ""
        yield f"the pool {worker.pool_name!r} cannot kill a task at its hard time limit, only fail it{which}"
    if not own_tasks(app):
        yield "no tasks are registered: name the modules that define them in include, or import them beside the app"


def lines(worker: Worker, with_tasks: bool = False) -> list[str]:
    """The banner.

    :param with_tasks: name the tasks, instead of counting them.
    """
    known = facts(worker)
    tasks = known["tasks"]
    rows = [
        ("app", known["app"]),
        ("broker", known["broker"]),
        ("results", known["results"]),
        ("concurrency", f"{known['concurrency']} ({known['pool']})"),
        ("queues", ", ".join(known["queues"])),
        ("tasks", str(len(tasks))),
        ("plugins", ", ".join(known["plugins"]) or "none"),
    ]
    width = max(len(name) for name, _ in rows)
    found = [f"kern {version('kern-core')}  {worker.hostname}  (Python {platform.python_version()})"]
    for name, value in rows:
        found.append(f"  {name.ljust(width)}  {value}")
        if name == "tasks" and with_tasks:
            found += [f"  {' ' * width}  . {task}" for task in tasks]
    return found


def app_name(app: Kern) -> str:
    """Where the application can be imported from, or its name."""
    try:
        return app.import_path
    except ImproperlyConfigured:
        return app.main or "unnamed"


def own_tasks(app: Kern) -> list[str]:
    """Names of the tasks but for those that every application has."""
    return sorted(name for name in app.tasks if not name.startswith("celery."))
