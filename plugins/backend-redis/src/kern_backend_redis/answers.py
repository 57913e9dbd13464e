"""Answers of the server in conversations: errors stand among them."""

from __future__ import annotations

from typing import Any


def checked(answers: list[Any]) -> list[Any]:
    """The answers, if none of them is an error.

    :raises hiredis.ReplyError: one is; the store says it in kern's words.
    """
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers
