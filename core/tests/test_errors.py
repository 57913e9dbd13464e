"""The tree of errors, and what each says."""

from __future__ import annotations

import builtins
import inspect
import pickle
from datetime import UTC, datetime

import pytest

from kern import errors
from kern.errors import (
    WIRE_MODULES,
    InvalidSetting,
    KernError,
    MaxRetriesExceededError,
    MessageTooLarge,
    NotRegistered,
    PluginMissing,
    PublishRefused,
    PublishUnknown,
    QueueNotFound,
    Reject,
    Retry,
    TransportError,
    UnknownSetting,
    nearest,
)

ALL = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == "kern.errors"]


def drawn() -> dict[str, int]:
    """Names in the tree at the top of the module, with how deep they stand."""
    assert errors.__doc__ is not None
    tree = errors.__doc__.split("::\n")[1].split("The docstring")[0]
    found = {}
    for line in tree.splitlines():
        names = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ")
        text = names.strip().partition("  ")[0]
        for name in text.split("(")[0].split(","):
            if name.strip():
                found[name.strip()] = (len(names) - len(names.lstrip())) // 4
    return found


def test_the_tree_at_the_top_is_the_one_there_is() -> None:
    def depth(cls: type[BaseException]) -> int:
        bases = [base for base in cls.__mro__ if base in ALL]
        return len(bases)

    assert drawn() == {cls.__name__: depth(cls) if issubclass(cls, KernError) else 1 for cls in ALL}


@pytest.mark.parametrize("cls", [cls for cls in ALL if issubclass(cls, KernError)])
def test_the_docstring_is_the_message(cls: type[KernError]) -> None:
    assert cls.__doc__
    try:
        error = cls()
    except TypeError:
        return  # it has to be told what it is about
    if cls not in (Reject, Retry, NotRegistered):
        assert str(error) == cls.__doc__.splitlines()[0]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            UnknownSetting("brokr_url", "kern.toml", "broker_url"),
            "unknown setting 'brokr_url' (from kern.toml); ",
        ),
        (
            InvalidSetting("timezone", "no such zone", "KERN_TIMEZONE"),
            "setting 'timezone' (from KERN_TIMEZONE): no ",
        ),
        (
            MessageTooLarge(300, 200, "a.b"),
            "the message for task 'a.b' is 300 bytes, the limit is 200 (setting ",
        ),
        (NotRegistered("a.b"), "Task of kind 'a.b' never registered, please make sure it's imported."),
        (QueueNotFound("no queue 'x'"), "no queue 'x'"),
        (Retry(when=3, exc=KeyError("x")), "Retry in 3s: KeyError('x')"),
        (Retry(when=datetime(2026, 1, 1, tzinfo=UTC)), "Retry at 2026-01-01 00:00:00+00:00"),
        (Retry("because", when=3), "because"),
        (PublishUnknown(task_ids=["a"]), "It is not known whether the broker took the message."),
    ],
)
def test_they_speak_plainly(error: Exception, text: str) -> None:
    assert str(error).startswith(text)


def test_a_rejection_shows_what_is_asked_for() -> None:
    assert repr(Reject("no", requeue=False)) == "reject requeue=False: no"


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (Retry(exc=KeyError("x"), when=3.0), ("message", "when", "excs")),
        (Reject("no", requeue=True), ("reason", "requeue")),
        (NotRegistered("a.b"), ("args",)),
        (PublishUnknown("who knows", ["a"]), ()),
        (PublishRefused("no"), ("task_ids", "outcome")),
        (TransportError("gone"), ("retryable",)),
        (MaxRetriesExceededError("over"), ("task_args", "task_kwargs")),
    ],
)
def test_they_survive_pickling(error: Exception, fields: tuple[str, ...]) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
    for name in fields:
        assert getattr(again, name) == getattr(error, name)


def test_programs_may_catch_the_built_in_ones() -> None:
    assert issubclass(errors.TimeoutError, builtins.TimeoutError)
    assert issubclass(NotRegistered, KeyError)
    assert issubclass(QueueNotFound, KeyError)
    assert PluginMissing("x", "kern-y").install == "kern-y"


def test_those_that_travel_are_found_in_celerys_modules() -> None:
    assert set(WIRE_MODULES.values()) == {"celery.exceptions", "billiard.exceptions", "kombu.exceptions"}
    assert set(WIRE_MODULES) <= set(ALL)
    for cls in (Retry, Reject, NotRegistered, errors.TimeoutError):
        assert WIRE_MODULES[cls] == "celery.exceptions"


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [("brokr", ["broker", "backend"], "broker"), ("zzz", ["broker"], None), ("x", [], None)],
)
def test_the_nearest_name(name: str, known: list[str], found: str | None) -> None:
    assert nearest(name, known) == found
