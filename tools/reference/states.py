"""``states.md``: the states of a task."""

import inspect

from kern import states
from tools.reference.docstrings import code, simple_table, table

_INTRODUCTION = """\
# States

A state is a text, with Celery's names and one meaning each. `result.state` is what is stored; where nothing is stored
the broker is asked, if it can tell (capability [`locate`](capabilities.md)).
"""

_CLOSE = """\
A task may store states of its own with `self.update_state(state="PROGRESS", meta={{…}})`; they count as not final.

`kern.states` has the names, the sets `READY_STATES`, `UNREADY_STATES`, `EXCEPTION_STATES` and `PROPAGATE_STATES`, and
`precedence(name)`: of two documents about one call, the one whose state is more final is kept. From the most final:
{order}; a state of your own stands after `FAILURE`.
"""


def page() -> str:
    lines = inspect.cleandoc(states.__doc__ or "").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("==="))
    rows, _, _ = simple_table(lines, start)
    made = [
        (code(name), meaning, _yes(name in states.READY_STATES), _yes(name in states.PROPAGATE_STATES))
        for name, meaning in rows
    ]
    order = ", ".join(code(name) for name in states.PRECEDENCE if name)
    return "\n\n".join(
        (
            _INTRODUCTION.strip(),
            table(("state", "means", "final", "`get()` raises"), made),
            _CLOSE.format(order=order).strip(),
        )
    )


def _yes(flag: bool) -> str:
    return "yes" if flag else ""
