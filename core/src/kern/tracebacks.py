"""Tracebacks as text, from the task's own frame on: how kern came to call it says nothing about the error."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from traceback import TracebackException

_HERE = Path(__file__).parent
#: Where frames come from that stand between the runner and the task.
_OURS = tuple(
    str(place)
    for place in (
        *(_HERE / f"{name}.py" for name in ("runner", "task", "loops", "eager")),
        Path(os.__file__).parent / "asyncio",
    )
)


def traceback_text(error: BaseException) -> str:
    """The traceback of *error* and of what caused it; never an error itself."""
    try:
        described = TracebackException.from_exception(error)
        for each in _chain(described, set()):
            own = next((n for n, frame in enumerate(each.stack) if not frame.filename.startswith(_OURS)), None)
            del each.stack[: len(each.stack) if own is None else own]
        return "".join(described.format())
    except Exception as problem:
        return f"{type(error).__name__}: (its traceback cannot be shown: {type(problem).__name__})\n"


def _chain(described: TracebackException, seen: set[int]) -> Iterator[traceback.TracebackException]:
    """It, what caused it, and what is grouped in it."""
    if id(described) in seen:
        return
    seen.add(id(described))
    yield described
    for other in (described.__cause__, described.__context__, *(described.exceptions or ())):
        if other is not None:
            yield from _chain(other, seen)
