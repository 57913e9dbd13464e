"""What a server answers when something is wrong, in kern's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import hiredis
import pytest

from kern_redis_client.failures import Kind, code_of, failure, is_elsewhere, was_refused
from kern_redis_client.link import Link
from kern_testing.fixtures import running
from kern_testing.servers import Redis

from .conftest import ask

NAME = "redis://:**@h:6379/0"


@pytest.mark.parametrize(
    ("said", "kind", "retryable", "refused", "words"),
    [
        ("WRONGPASS invalid username-password pair or user is disabled.", Kind.CREDENTIALS, False, True, "password"),
        ("NOAUTH Authentication required.", Kind.CREDENTIALS, False, True, "write it in the URL"),
        ("NOPERM User w has no permissions to run the 'get' command", Kind.FORBIDDEN, False, True, "'get'"),
        ("READONLY You can't write against a read only replica.", Kind.READ_ONLY, True, True, "name its master"),
        ("OOM command not allowed when used memory > 'maxmemory'.", Kind.FULL, True, True, "make room, or raise it"),
        ("MISCONF Redis is configured to save RDB snapshots, but", Kind.DISK, True, True, "its log says why"),
        ("LOADING Redis is loading the dataset in memory", Kind.NOT_READY, True, True, "still reading its data"),
        ("MASTERDOWN Link with MASTER is down", Kind.NOT_READY, True, True, "lost its master"),
        ("NOREPLICAS Not enough good replicas to write.", Kind.NOT_READY, True, True, "enough replicas"),
        ("CLUSTERDOWN Hash slot not served", Kind.NOT_READY, True, True, "Hash slot not served"),
        ("MOVED 3999 127.0.0.1:6381", Kind.MOVED, True, True, "another node"),
        ("ASK 3999 127.0.0.1:6381", Kind.NOT_READY, True, True, "moving the keys"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Kind.NOT_READY, True, True, "moving the keys"),
        ("CROSSSLOT Keys in request don't hash to the same slot", Kind.UNSUITABLE, False, True, "such as '{kern}'"),
        ("BUSY Redis is busy running a script.", Kind.BUSY, True, True, "SCRIPT KILL"),
        ("NOSCRIPT No matching script.", Kind.NO_SCRIPT, True, True, "forgotten"),
        ("WRONGTYPE Operation against a key holding the wrong kind", Kind.WRONG_TYPE, False, True, "something else"),
        ("ERR value is not an integer or out of range", Kind.OTHER, False, True, "not an integer"),
        (
            f"WRONGTYPE Operation against a key script: {'0' * 40}, on @user_script:1.",
            *(Kind.WRONG_TYPE, False, False, "something else"),
        ),
        (
            f"OOM command not allowed script: {'0' * 40}, on @user_script:3.",
            *(Kind.FULL, True, True, "make room"),
        ),
        (
            f"ERR Error running script (call to f_{'0' * 40}): @user_script:3: @user_script: 3: -OOM command refused",
            *(Kind.FULL, True, True, "make room"),
        ),
        (
            f"ERR Error running script (call to f_{'0' * 40}): @user_script:3: user_script:3: attempt to index a nil",
            *(Kind.OTHER, False, False, "attempt to index"),
        ),
    ],
)
def test_an_answer_says_what_is_wrong_and_whether_to_try_again(
    said: str, kind: Kind, retryable: bool, refused: bool, words: str
) -> None:
    """Kind, remedy, whether trying again may help, and whether certainly nothing was carried out; one line."""
    error = failure(hiredis.ReplyError(said), NAME)
    assert (error.kind, error.retryable, error.refused) == (kind, retryable, refused)
    assert words in str(error)
    assert str(error).startswith(f"{NAME}: ")
    assert was_refused(error) is refused
    assert failure(error, "other") is error


def test_what_is_elsewhere() -> None:
    """Answers of a server that has done nothing because it is the wrong one; values and other errors are not."""
    assert is_elsewhere(hiredis.ReplyError("MOVED 1 h:1"))
    assert is_elsewhere(hiredis.ReplyError("READONLY You can't write"))
    assert not any(
        map(is_elsewhere, (b"MOVED", None, hiredis.ReplyError("ASK 1 h:1"), hiredis.ReplyError("ERR MOVED")))
    )
    assert not was_refused(ValueError("x"))


@pytest.fixture(scope="module")
def small() -> Iterator[Redis]:
    """A server of our own, that can be filled, and made a replica."""
    yield from running(Redis())


def answer(link: Link, *words: object) -> Exception:
    error = ask(link, *words)
    assert isinstance(error, hiredis.ReplyError)
    return error


def test_codes_are_those_of_a_real_server(connect: Callable[..., Link], small: Redis) -> None:
    """What a server really says, from commands and from scripts, is told apart."""
    link = connect(small.url())
    ask(link, "SET", "text", "x")
    ask(link, "ACL", "SETUSER", "modest", "on", ">secret", "~*", "&*", "+@all", "-flushall")
    modest = connect(f"redis://modest:secret@127.0.0.1:{small.port}/0")
    assert code_of(answer(link, "LPUSH", "text", "x")) == "WRONGTYPE"
    assert code_of(answer(link, "EVAL", "return redis.call('LPUSH', 'text', 'x')", 0)) == "WRONGTYPE"
    assert code_of(answer(modest, "FLUSHALL")) == "NOPERM"
    assert code_of(answer(modest, "EVAL", "return redis.call('FLUSHALL')", 0)) in ("NOPERM", "ERR")
    assert code_of(answer(link, "EVALSHA", "0" * 40, 0)) == "NOSCRIPT"
    small.command("CONFIG", "SET", "maxmemory", "1")
    try:
        for refusal in (answer(link, "SET", "k", "v"), answer(link, "EVAL", "return redis.call('SET', 'k', 'v')", 0)):
            assert code_of(refusal) == "OOM"
            assert failure(refusal, NAME).refused
    finally:
        small.command("CONFIG", "SET", "maxmemory", "0")
    small.command("REPLICAOF", "127.0.0.1", "1")
    try:
        assert code_of(answer_of_a_replica(small, "SET", "k", "v")) == "READONLY"
        assert code_of(answer_of_a_replica(small, "EVAL", "return redis.call('SET', 'k', 'v')", "0")) == "READONLY"
    finally:
        small.command("REPLICAOF", "NO", "ONE")


def answer_of_a_replica(server: Redis, *words: str) -> Exception:
    """Asked without a link, which would leave such a server."""
    return hiredis.ReplyError(server.command(*words).removeprefix("-"))
