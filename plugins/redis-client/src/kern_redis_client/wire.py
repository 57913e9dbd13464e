"""A connection and what is under way on it: the parts that :mod:`kern_redis_client.link` works with."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, Generic, TypeVar

import hiredis

from kern.contracts.port import Reply

T = TypeVar("T")

Command = Sequence[str | bytes | int | float]
#: Yields batches of commands, is sent their answers (errors of single commands in place), returns a value.
Conversation = Generator[Sequence[Command], list[Any], T]

#: Bytes read at once, and given to TLS at once.
CHUNK = 65_536
#: What the parser answers when there is no whole answer yet.
NOTHING = object()
#: Stands where the answer of a command is to come that is said again.
AGAIN = object()


class Exchange(Generic[T]):
    """A conversation under way."""

    __slots__ = (
        "answers",
        "asked_at",
        "commands",
        "conversation",
        "expected",
        "kept",
        "losses",
        "once",
        "reply",
        "subscribing",
    )

    def __init__(self, conversation: Conversation[T], reply: Reply[T], once: bool = False) -> None:
        self.conversation = conversation
        self.reply = reply
        #: What was said last, and is said again after a reconnection; empty before the beginning.
        self.commands: Sequence[Command] = ()
        self.answers: list[Any] = []
        self.expected = 0
        self.asked_at = 0.0
        #: Answers that stand, with gaps for those of *commands*, where only these are said again.
        self.kept: list[Any] | None = None
        self.subscribing = False
        self.losses = 0
        #: Not to be said again on another connection.
        self.once = once


class Wire:
    """One connection, from its greeting to its end."""

    __slots__ = (
        "asked",
        "buffer",
        "fd",
        "heard_at",
        "lost",
        "out",
        "parser",
        "poll",
        "reader",
        "retiring",
        "secure",
        "since",
        "socket",
        "watched",
        "writing",
    )

    def __init__(self, made: socket.socket, secure: bool, bell: int) -> None:
        self.socket, self.secure = made, secure
        self.fd = made.fileno()
        self.parser: Any = hiredis.Reader(notEnoughData=NOTHING)
        self.buffer = bytearray(CHUNK)
        self.poll = select.poll()
        self.poll.register(self.fd, select.POLLIN)
        if bell >= 0:
            self.poll.register(bell, select.POLLIN)
        self.out = bytearray()
        self.asked: deque[Exchange[Any]] = deque()
        self.heard_at = self.since = time.monotonic()
        #: The thread that is in there, by its number; if the connection is lost meanwhile, it closes the socket when it
        #: leaves.
        self.reader = 0
        #: It takes no more commands, and ends for this reason with the last answer that is awaited.
        self.retiring: Exception | None = None
        self.lost = False
        #: The loop watches for reading, for writing.
        self.watched = self.writing = False


def packed(command: Command) -> bytes:
    """*command* as it is sent.

    :raises Exception: a part of it is neither text nor a number.
    """
    # Its stub has a tuple of one.
    return hiredis.pack_command(command if type(command) is tuple else tuple(command))  # type: ignore


def filled(kept: list[Any], answers: list[Any]) -> list[Any]:
    """*kept*, with its gaps filled."""
    repeated = iter(answers)
    return [next(repeated) if answer is AGAIN else answer for answer in kept]


def would_block(error: Exception) -> bool:
    """Whether the socket has nothing, or takes nothing, at this moment."""
    # The two of ssl by their names: it is imported by those alone who use it.
    return isinstance(error, BlockingIOError) or type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")
