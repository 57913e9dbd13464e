"""What the suites have in common."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NoReturn, TypeVar

import pytest

from kern.errors import CapabilityMissing
from kern_testing.waiting import REAL, Clock, eventually, throughout

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

#: Seconds any one command may take; generous, for the machine may be busy.
TIMEOUT = 30.0
_CONDITION = "_kern_applies"


def applies(condition: Callable[[Any], bool]) -> Callable[[F], F]:
    """A test that is there only in suites for which *condition* (of the class) is true."""

    def mark(test: F) -> F:
        setattr(test, _CONDITION, condition)
        return test

    return mark


class Suite:
    """Base of the contract suites."""

    #: The time the driver goes by; a driver of a virtual clock gives that clock.
    @pytest.fixture
    def server_clock(self) -> Clock:
        return REAL

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # In the order of definition: processes that share the tests have to collect them alike.
        for name in dict.fromkeys(name for base in reversed(cls.__mro__[1:]) for name in vars(base)):
            # What a class between has left out is asked again: its attributes may have changed since.
            found = next((vars(base)[name] for base in cls.__mro__ if vars(base).get(name) is not None), None)
            condition = getattr(found, _CONDITION, None)
            if condition is not None and name not in vars(cls):
                wanted = found if condition(cls) else None
                if getattr(cls, name) is not wanted:
                    setattr(cls, name, wanted)


def missing(fixture: str, example: str) -> NoReturn:
    """Fail because a suite was subclassed without its fixture."""
    pytest.fail(f"a subclass of this suite gives the fixture {fixture!r}: {example}", pytrace=False)


def refuses(command: Callable[[], Any], capability: str) -> None:
    """*command* answers that the driver cannot, instead of pretending.

    :raises AssertionError: it did something else.
    """
    try:
        answer = command()
    except CapabilityMissing:
        return
    raise AssertionError(
        f"the driver does not declare {capability!r} and answered {answer!r}; it must raise CapabilityMissing"
    )


def result_of(reply: Future[T], drive: Callable[[Future[T], float | None], T]) -> T:
    """The answer to a command, waited for as a client waits."""
    assert isinstance(reply, Future), f"a command answers with a Reply (concurrent.futures.Future), not {reply!r}"
    try:
        return drive(reply, TIMEOUT)
    except TimeoutError:
        raise AssertionError(f"no answer within {TIMEOUT:g} s") from None


__all__ = ["TIMEOUT", "Clock", "Suite", "applies", "eventually", "missing", "refuses", "result_of", "throughout"]
