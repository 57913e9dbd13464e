"""What several tests of the engine use."""

from __future__ import annotations

import os
import pickle
import pwd
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can look into."""
    folder = Path(tempfile.mkdtemp(prefix="kern-sql-"))
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


def in_child(work: Callable[[], Any], unprivileged: bool = False) -> Any:
    """What *work* answers in a forked process.

    :param unprivileged: as a user to whom permissions apply; root may do everything.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            if unprivileged and os.geteuid() == 0:
                nobody = pwd.getpwnam("nobody")
                os.setgroups([])
                os.setgid(nobody.pw_gid)
                os.setuid(nobody.pw_uid)
            answer: Any
            try:
                answer = work()
            except BaseException as error:
                answer = error
            with os.fdopen(writer, "wb") as stream:
                pickle.dump(answer if not isinstance(answer, BaseException) else str(answer), stream)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        written = stream.read()
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
    return pickle.loads(written)


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What *work* answers in each of *count* processes, that start at the same moment."""
    start_reader, start_writer = os.pipe()
    children = []
    for number in range(count):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(start_writer)
                os.read(start_reader, 1)  # ends when the parent closes its end
                try:
                    answer = work(number)
                except BaseException as error:
                    answer = f"{type(error).__name__}: {error}"
                os.write(writer, pickle.dumps(answer))
            finally:
                os._exit(0)
        os.close(writer)
        children.append((child, reader))
    os.close(start_reader)
    os.close(start_writer)
    answers = []
    for child, reader in children:
        with os.fdopen(reader, "rb") as stream:
            answers.append(pickle.loads(stream.read()))
        os.waitpid(child, 0)
    return answers


@pytest.fixture
def at_once() -> Callable[..., list[Any]]:
    """:func:`together`."""
    return together


@pytest.fixture
def forked() -> Callable[..., Any]:
    """:func:`in_child`."""
    return in_child
