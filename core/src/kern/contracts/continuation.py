"""What follows an outcome: links, chains and chords.

Core carries continuations (``callbacks errbacks chain chord`` of the message body) and does not understand them. A
plugin that does (``kern-canvas``) hands over a :class:`Continuation` for each kind. Without one, ``link=`` is an error
at the call site, and a message that carries one is quarantined, never run with its continuation dropped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import attrs

from kern.message import Publication
from kern.outcome import JoinPart
from kern.request import Request


@attrs.frozen
class Ending:
    """The end of another call, which never runs."""

    #: The call as the request it would have been: its id, task and group, and what is said of its result.
    request: Request
    #: Final.
    state: str
    #: The exception, or the value.
    value: Any


@attrs.frozen
class Follows:
    """What is to be written together with the outcome."""

    publications: tuple[Publication, ...] = ()
    join_parts: tuple[JoinPart, ...] = ()
    #: Other calls that end with this one: the later steps of a chain that failed. Their documents are made by core.
    endings: tuple[Ending, ...] = ()
    #: Result tuples to record as the task's children.
    children: tuple[Any, ...] = ()


class Continuation(ABC):
    """Understands one or more kinds. Runs where the task runs; must not block on a server."""

    #: Which of :data:`kern.message.CONTINUATIONS` it understands.
    kinds: frozenset[str]

    @abstractmethod
    def follow(self, request: Request, state: str, value: Any) -> Follows:
        """What follows *request* having ended as *state* with *value* (the result or the exception)."""

    @abstractmethod
    def prepare(self, kind: str, value: Any) -> Any:
        """What a caller gave (``link=``, ``link_error=``, ``chain=``, ``chord=``), as it travels in the message."""


class Composer(Continuation):
    """A continuation that also understands ``left | right``."""

    @abstractmethod
    def compose(self, left: Any, right: Any) -> Any:
        """The workflow that runs *left*, then *right* with its value."""


def unsupported(kinds: Sequence[str]) -> str:
    """The sentence that names the plugin, for errors and quarantine."""
    return f"nothing installed can continue {', '.join(kinds)}; install kern-canvas"
