"""A file with the number of the process that runs, so that it runs once and can be found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from kern.cli.failures import Failure

#: Exit code when another process has it.
CANNOT_CREATE = 73


@contextmanager
def pidfile(path: str) -> Iterator[None]:
    """Have the file for as long as it lasts. One left behind by a process that is gone is taken over.

    :raises Failure: another process has it, or it cannot be written.
    """
    # Written elsewhere and linked: whoever finds the file finds a number in it.
    draft = f"{path}.{os.getpid()}"
    try:
        with open(draft, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
        try:
            _claim(draft, path)
        finally:
            os.unlink(draft)
    except OSError as error:
        raise Failure(f"cannot write the pidfile {path!r}: {error.strerror}", error, CANNOT_CREATE) from error
    try:
        yield
    finally:
        if _owner(path) == os.getpid():
            os.unlink(path)


def _claim(draft: str, path: str) -> None:
    while True:
        try:
            os.link(draft, path)
            return
        except FileExistsError:
            owner = _owner(path)
            if owner is not None and owner != os.getpid() and _alive(owner):
                raise Failure(
                    f"the pidfile {path!r} belongs to process {owner}, which is alive", exit_code=CANNOT_CREATE
                ) from None
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass  # its owner has ended meanwhile


def _owner(path: str) -> int | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return int(file.read().strip())
    except (OSError, ValueError):
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
