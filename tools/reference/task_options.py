"""``task-options.md``: the options of ``@app.task``."""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from kern import Kern, task
from kern.call_options import CALL_OPTIONS
from kern.task import OPTIONS, Task
from kern.task_options import EXECUTION_OPTIONS, FROM_SETTINGS
from tools.reference.docstrings import attribute_comments, code, parameters, table
from tools.reference.installed import app, distribution

_INTRODUCTION = """\
# Task options

Keywords of `@app.task(…)` and `@shared_task(…)`, and attributes of classes that inherit from `kern.Task`. An option
that is not given has the value of the setting, where there is one. An unknown option is a `TypeError` that names the
nearest known one.

"""

_DECORATOR = """\
## Of the decorator alone
"""

_PLUGINS = """\
## Of plugins
"""

#: Where neither the class nor a setting or call option of the same name says it.
_MEANINGS: Mapping[str, str] = {
    "autoretry_for": "Exceptions after which the task is retried by itself.",
    "dont_autoretry_for": "Subclasses of these that are failures all the same.",
    "retry_kwargs": "Arguments of `retry()` for these retries, such as `{'max_retries': 5}`.",
    "retry_backoff": "`True` or seconds: the pause doubles with each retry, from one second or so many.",
    "retry_backoff_max": "The longest such pause, in seconds.",
    "retry_jitter": "The pause is a random part of that, so that many do not come back at once.",
}


def page() -> str:
    comments = attribute_comments(task, "Task")
    rows = []
    for name in [name for name in comments if name in OPTIONS and name not in _of_the_decorator()]:
        setting = FROM_SETTINGS.get(name)
        default = f"setting {code(setting)}" if setting else _value(getattr(Task, name))
        rows.append((code(name), default, _meaning(name, comments)))
    parts = [_INTRODUCTION.strip(), table(("option", "default", "meaning"), rows), _DECORATOR.strip()]
    decorator = _of_the_decorator().items()
    parts.append(
        table(
            ("option", "default", "meaning"),
            [(code(name), _value(default), meaning) for name, (default, meaning) in decorator],
        )
    )
    offered = app().plugins.offered("kern_task_options")
    if offered:
        of_plugins = [(code(distribution(plugin)), ", ".join(map(code, names))) for plugin, names in offered]
        parts += [_PLUGINS.strip(), table(("distribution", "options"), of_plugins)]
    return "\n\n".join(parts)


@cache
def _of_the_decorator() -> Mapping[str, tuple[Any, str]]:
    """What ``@app.task`` takes beside the attributes of tasks: default and meaning."""
    meanings = parameters(Kern.task.__doc__)
    # The keywords are those of the method that does the work; the decorator's own signatures are for type checkers.
    taken = inspect.signature(Kern._task_from).parameters.values()
    return {
        parameter.name: (parameter.default, meanings[parameter.name][:1].upper() + meanings[parameter.name][1:])
        for parameter in taken
        if parameter.default is not parameter.empty
    }


def _meaning(name: str, comments: Mapping[str, str]) -> str:
    if name in _MEANINGS:
        return _MEANINGS[name]
    if comments[name]:
        return comments[name]
    if name in EXECUTION_OPTIONS:
        return f"Of its calls: {CALL_OPTIONS[name]}."
    return app().conf.options[FROM_SETTINGS[name]].declared.help


def _value(value: Any) -> str:
    return "unset" if value is None else code(repr(value))
