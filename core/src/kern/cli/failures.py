"""Errors as the user of a command line is to see them: one line, no secret, an exit code."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import click

from kern.errors import KernError
from kern.masking import mask_url

#: In a context's ``meta``: the user wants to see where errors come from.
DEBUG = "kern.debug"
#: Exit code when what was asked for can never be done.
WRONG_COMMAND_LINE = 2
#: Frames shown of an error in somebody's module.
FRAMES_SHOWN = 6


class Failure(click.ClickException):
    """What was asked for could not be done.

    :param cause: the error behind it, whose traceback is shown when logs are at level ``debug``.
    """

    def __init__(self, message: str, cause: BaseException | None = None, exit_code: int = 1) -> None:
        super().__init__(mask_url(message))
        self.exit_code = exit_code  # type: ignore[misc]  # click wants one a class; ours says why instead
        context = click.get_current_context(silent=True)
        wanted = cause is not None and context is not None and context.meta.get(DEBUG)
        self.details = mask_url(excerpt(cause)) if wanted and cause is not None else ""

    def show(self, file: IO[Any] | None = None) -> None:
        if self.details:
            click.echo(self.details, err=True)
        super().show(file)


@contextmanager
def reported() -> Iterator[None]:
    """Errors that kern raises on purpose become :class:`Failure`; others are bugs and keep their traceback."""
    try:
        yield
    except KernError as error:
        raise Failure(str(error), error.__cause__) from error


def where(error: BaseException) -> str:
    """Where an error came up in the user's own code: ``tasks.py, line 3``; empty when nowhere."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}, line {error.lineno}"
    frames = _frames(error.__traceback__)
    return f"{_short(frames[-1].filename)}, line {frames[-1].lineno}" if frames else ""


def excerpt(error: BaseException) -> str:
    """The last lines of a traceback: the frames of the user's own code, and the error."""
    frames = _frames(error.__traceback__)[-FRAMES_SHOWN:]
    return "".join([*traceback.format_list(frames), *traceback.format_exception_only(error)]).rstrip()


def _frames(found: TracebackType | None) -> list[traceback.FrameSummary]:
    """The frames of somebody's module: neither of kern nor of what imports modules."""
    linecache.checkcache()
    return [
        frame
        for frame in traceback.extract_tb(found)
        if not frame.filename.startswith("<frozen ")
        and not Path(frame.filename).is_relative_to(_OWN)
        and "importlib" not in Path(frame.filename).parts[-2:-1]
    ]


_OWN = Path(__file__).parent.parent


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename
