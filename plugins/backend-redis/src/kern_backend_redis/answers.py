"""Questions and answers of conversations."""

from __future__ import annotations

from typing import Any

from kern_redis_client.link import Command

# Sent as text: the connection may be a transport's, which does not know it, and it is rare.
_ELSEWHERE = "redis.call('SELECT', ARGV[1]) return redis.call(unpack(ARGV, 2))"


def checked(answers: list[Any]) -> list[Any]:
    """The answers, if none of them is an error.

    :raises hiredis.ReplyError: one is; the store says it in kern's words.
    """
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def in_database(database: int, *command: str | bytes | int) -> Command:
    """A command on one key (its second word), carried out in *database* whichever the connection's own is.

    Its answer is of RESP2: no numbers with a fraction, and no pairs.
    """
    return ("EVAL", _ELSEWHERE, 1, command[1], database, *command)
