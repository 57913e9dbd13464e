"""``call-options.md``: the options of a call."""

from kern.call_options import CALL_OPTIONS, REFUSED_OPTIONS
from kern.task_options import EXECUTION_OPTIONS
from tools.reference.docstrings import code, table

_INTRODUCTION = """\
# Call options

Keywords of `task.apply_async(args, kwargs, …)`, `aapply_async`, `app.send_task(name, args, kwargs, …)`, of
`task.signature(…).set(…)`, and, for all calls of a batch, of `app.send_many`. An unknown option is a `TypeError` that
names the nearest known one. An option marked *task* may also be set on the [task](task-options.md), where it is the
default for its calls. [How to call tasks](../how-to/call-tasks.md) shows them at work.
"""

_REFUSED = """\
## Options of Celery's that are refused

An option that is accepted acts. These cannot:
"""


def page() -> str:
    defaults = {*EXECUTION_OPTIONS, "ignore_result"}
    rows = [(code(name), "task" if name in defaults else "", meaning) for name, meaning in CALL_OPTIONS.items()]
    refused = [(code(name), why) for name, why in REFUSED_OPTIONS.items()]
    return "\n\n".join(
        (
            _INTRODUCTION.strip(),
            table(("option", "", "meaning"), rows),
            _REFUSED.strip(),
            table(("option", "instead"), refused),
        )
    )
