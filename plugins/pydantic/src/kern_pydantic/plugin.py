"""The options of ``@app.task`` that concern models, and what makes them act."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kern.hookspecs import hookimpl

if TYPE_CHECKING:
    from kern.app import Kern
    from kern.task import Task

KERN_API = 1

#: ``pydantic``: convert at all. ``pydantic_strict``: validate strictly. ``pydantic_context``: what validators get as
#: their context. ``pydantic_dump_kwargs``: arguments of ``model_dump`` for results.
OPTIONS = ("pydantic", "pydantic_strict", "pydantic_context", "pydantic_dump_kwargs")


@hookimpl
def kern_task_options() -> Sequence[str]:
    return OPTIONS


@hookimpl
def kern_task_registered(app: Kern, task: Task[Any, Any]) -> None:
    if getattr(task, "pydantic", False):
        from kern_pydantic.models import Models

        models = Models.of(app, task)
        task.annotate_with({"@run": models.around, "pydantic_models": models})


@hookimpl
def kern_prepare_arguments(
    task: Task[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any], serializer: str
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    models = getattr(task, "pydantic_models", None)
    # A pickle carries models as they are.
    return None if models is None or serializer == "pickle" else models.dumped(args, kwargs)
