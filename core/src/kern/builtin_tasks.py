"""Celery's own tasks that need no workflow, under their names, in every application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kern.app import Kern


def define_on(app: Kern) -> None:
    """Make them tasks of *app*."""

    def backend_cleanup() -> None:
        """Delete expired results where the server does not."""
        app.backend.cleanup()

    def accumulate(*args: Any, index: int | None = None) -> Any:
        """All arguments, or the one at *index*."""
        return args if index is None else args[index]

    app.task(name="celery.backend_cleanup")(backend_cleanup)
    app.task(name="celery.accumulate")(accumulate)
