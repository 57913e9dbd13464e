"""The setting ``task_annotations``: options put on tasks from outside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from kern.config_sources import import_name
from kern.errors import ImproperlyConfigured
from kern.task import Task

SETTING = "setting 'task_annotations'"

#: Asked ``annotate`` for what fits a task by name, and ``annotate_any`` for what fits all.
_Source = Callable[[str, Task[Any, Any]], Mapping[str, Any] | None]


def annotate(task: Task[Any, Any], annotations: Any, check: Callable[[str], None]) -> None:
    """Apply *annotations* to *task*: first what fits its name, then what fits every task.

    :param annotations: the setting's value: a mapping, an object, the dotted name of one, or a list of these.
    :param check: refuses options that nobody knows.
    :raises ImproperlyConfigured: an option that does not exist, or an object that is not there.
    """
    if not annotations:
        return
    given = annotations if isinstance(annotations, list | tuple) else (annotations,)
    sources = [_source(item) for item in given]
    for question in ("annotate", "annotate_any"):
        answers = (source(question, task) for source in sources)
        found = next((answer for answer in answers if answer is not None), None)
        if found is None:
            continue
        for name in found:
            try:
                check(name.removeprefix("@"))
            except TypeError as error:
                raise ImproperlyConfigured(f"{SETTING}: {error}") from None
        task.annotate_with(found)


def _source(given: Any) -> _Source:
    source = import_name(given, SETTING) if isinstance(given, str) else given
    if inspect.isclass(source):
        source = source()
    if isinstance(source, Mapping):
        mapping = source
        return lambda question, task: mapping.get(task.name if question == "annotate" else "*")

    def ask(question: str, task: Task[Any, Any]) -> Mapping[str, Any] | None:
        function = getattr(source, question, None)
        if function is None:
            return None
        return cast("Mapping[str, Any] | None", function(task) if question == "annotate" else function())

    return ask
