"""A link on a real Redis: many threads, loops, forks, interruptions, and a server that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kern_redis_client import link as link_module
from kern_redis_client import urls
from kern_redis_client.connect import open_link
from kern_redis_client.failures import ConnectionLost, RedisError
from kern_redis_client.link import Conversation, Link
from kern_redis_client.scripts import Script
from kern_testing.servers import Redis
from kern_testing.waiting import Deadline, eventually

from .conftest import ask, say

Connect = Callable[..., Link]


@pytest.fixture
def own_redis(redis_server: Redis) -> Iterator[Redis]:
    """The server, that a test may do to as it likes."""
    redis_server.start()
    yield redis_server
    redis_server.start()


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def insisting(*commands: Any) -> Conversation[list[Any]]:
    while True:
        try:
            return (yield list(commands))
        except ConnectionLost:
            continue


def test_many_threads_get_their_own_answers(link: Link) -> None:
    """64 threads ask at once, and each is answered what it asked."""

    def work(number: int) -> None:
        for turn in range(40):
            words = f"{number}-{turn}".encode()
            assert link.converse(say(("ECHO", words), ("ECHO", b"x" + words))).result(30) == [words, b"x" + words]

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(work, range(64)))


def test_callers_of_all_kinds_share_one_connection(link: Link) -> None:
    """Threads that block, callbacks and coroutines, all at once: nobody is forgotten."""
    called: list[bytes] = []

    def block(number: int) -> None:
        for _ in range(100):
            assert link.converse(say(("ECHO", number))).result(30) == [str(number).encode()]

    def call_back() -> None:
        for _ in range(100):
            link.converse(say(("ECHO", "called"))).add_done_callback(lambda reply: called.append(reply.result()[0]))

    async def wait() -> None:
        for _ in range(100):
            assert await asyncio.wrap_future(link.converse(say(("ECHO", "awaited")))) == [b"awaited"]

    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(block, number) for number in range(3)]
        jobs += [pool.submit(call_back), pool.submit(lambda: asyncio.run(wait()))]
        for job in jobs:
            job.result(60)
    eventually(lambda: called == [b"called"] * 100, "all callbacks were called")


@pytest.mark.parametrize("where", ["thread", "loop"])
def test_a_thousand_connections_leave_nothing_behind(
    redis_url: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors, threads and memory are the same after 1,000 reconnections, and gone after the end."""
    monkeypatch.setattr(link_module, "STEADY", -1.0)  # each counts as having lasted
    address = urls.parse(redis_url)
    threads = threading.active_count()
    before = descriptors()
    growth: list[int] = []

    def measure() -> None:
        eventually(lambda: threading.active_count() <= threads + 3, "the threads that dialled have ended")
        gc.collect()
        growth.append(descriptors())

    if where == "loop":

        async def main() -> None:
            link = open_link(address)
            link.attach(asyncio.get_running_loop())
            await asyncio.wrap_future(link.start())
            inside = descriptors()
            for _ in range(1000):
                link.reset(ConnectionLost("for the test"))
                assert await asyncio.wrap_future(link.converse(insisting(("PING",)))) == [b"PONG"]
            measure()
            assert growth[0] <= inside + 1
            link.stop()

        asyncio.run(main())
    else:
        link = open_link(address)
        link.start().result(20)
        link.listen()
        inside = descriptors()
        for _ in range(1000):
            link.reset(ConnectionLost("for the test"))
            assert link.converse(insisting(("PING",))).result(20) == [b"PONG"]
        measure()
        assert growth[0] <= inside + 1
        link.stop()
    eventually(lambda: descriptors() <= before, f"all descriptors are closed: {before} before, {descriptors()} after")
    eventually(lambda: threading.active_count() <= threads, "all threads have ended")


def test_memory_does_not_grow_with_conversations(link: Link) -> None:
    """Ten thousand conversations, some large, leave nothing behind."""

    def work(count: int) -> None:
        for number in range(count):
            ask(link, "ECHO", b"x" * (200_000 if number % 100 == 0 else 10))

    work(500)
    gc.collect()
    tracemalloc.start()
    work(500)
    before = tracemalloc.get_traced_memory()[0]
    work(10_000)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 100_000


def test_an_idle_link_costs_nothing(link: Link) -> None:
    """A link that listens, with an attendant, sleeps: no loop turns in it."""
    link.listen()
    asyncio.run(_once(link))
    used = time.process_time()
    threading.Event().wait(0.5)  # the time in which nothing happens is what is measured
    assert time.process_time() - used < 0.1


async def _once(link: Link) -> None:
    assert await asyncio.wrap_future(link.converse(say(("PING",)))) == [b"PONG"]


def test_scripts_are_known_again_after_they_were_flushed(connect: Connect) -> None:
    """After ``SCRIPT FLUSH`` scripts run as before, and the next call needs no text."""
    script = Script("return {KEYS[1], ARGV[1]}")
    link = connect(scripts=[script])
    assert ask(link, "SCRIPT", "EXISTS", script.sha) == [1], "it was loaded with the connection"
    ask(link, "SCRIPT", "FLUSH")
    assert ask(link, *script.call(["k"], ["v"])) == [b"k", b"v"]
    assert ask(link, "SCRIPT", "EXISTS", script.sha) == [1]


def test_a_killed_connection_is_made_anew_and_its_owner_knows(connect: Connect, own_redis: Redis) -> None:
    """The server ends the connection of an idle listener: down, up, and messages arrive again."""
    told: list[str] = []
    pushes: list[Any] = []
    link = connect(
        greet=lambda: say(("SUBSCRIBE", "news")),
        on_push=pushes.append,
        on_down=lambda error: told.append("down"),
        on_up=lambda: told.append("up"),
    )
    link.listen()
    assert link.facts is not None
    own_redis.command("CLIENT", "KILL", "ID", str(link.facts.client_id))
    eventually(lambda: told == ["down", "up"], "the owner knows")
    own_redis.command("PUBLISH", "news", "hello")
    eventually(lambda: pushes[-1] == [b"message", b"news", b"hello"], "the message arrives")


def test_a_refused_subscription_is_an_error_among_those_that_are_not(connect: Connect, own_redis: Redis) -> None:
    """A user who may use one channel is told of the other, on Redis' own words."""
    own_redis.command("ACL", "SETUSER", "listener", "on", ">secret", "+@all", "~*", "resetchannels", "&open")
    try:
        pushes: list[Any] = []
        link = connect(f"redis://listener:secret@127.0.0.1:{own_redis.port}/0", on_push=pushes.append)
        (error,) = link.ask(say(("SUBSCRIBE", "open"), ("SUBSCRIBE", "closed")), 20)
        assert str(error).startswith("NOPERM")
        assert pushes == [[b"subscribe", b"open", 1]]
    finally:
        own_redis.command("ACL", "DELUSER", "listener")


def test_a_server_that_restarts_is_found_again(connect: Connect, own_redis: Redis) -> None:
    """Conversations of several threads that insist survive a server that is killed and comes back."""
    link = connect()
    done = threading.Event()

    def insist(number: int) -> int:
        turns = 0
        while not done.is_set():
            assert link.converse(insisting(("ECHO", number))).result(30) == [str(number).encode()]
            turns += 1
        return turns

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(insist, number) for number in range(8)]
        try:
            for hard in (True, False):
                eventually(lambda: link.up, "the connection is there")
                own_redis.restart(hard=hard)
            eventually(lambda: link.up, "the connection is there again")
        finally:
            done.set()
        assert all(job.result(30) > 0 for job in jobs)


def test_a_paused_server_is_noticed_and_found_again(own_redis: Redis, redis_url: str) -> None:
    """A server that is stopped in its tracks counts as dead after the agreed silence, and works once it goes on."""
    link = open_link(urls.parse(redis_url, {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}))
    link.start().result(20)
    own_redis.pause()
    try:
        with pytest.raises(ConnectionLost, match=r"has not answered for 0\.5 s"):
            ask(link, "PING")
    finally:
        own_redis.resume()
    assert link.converse(insisting(("PING",))).result(20) == [b"PONG"]
    link.stop()


def test_a_large_command_does_not_keep_others_waiting_for_ever(link: Link) -> None:
    """16 MB from each of four threads, and small commands between them: all are answered with what they sent."""
    large = os.urandom(16 << 20)

    def send(number: int) -> None:
        words = large if number % 2 else b"small"
        assert link.converse(say(("ECHO", words))).result(60) == [words]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(8)))


def test_a_worker_loop_sends_and_receives_large_values(redis_url: str) -> None:
    """16 MB there and back on a loop."""
    large = os.urandom(16 << 20)

    async def main() -> None:
        link = open_link(urls.parse(redis_url))
        link.attach(asyncio.get_running_loop())
        await asyncio.wrap_future(link.start())
        replies = [asyncio.wrap_future(link.converse(say(("ECHO", words)))) for words in (large, b"small", large)]
        assert [await reply for reply in replies] == [[large], [b"small"], [large]]
        link.stop()

    asyncio.run(main())


class Interruption(BaseException):
    """Comes out of nowhere, as a soft time limit does."""


def test_an_exception_from_a_signal_leaves_the_link_usable(connect: Connect) -> None:
    """An exception that a signal raises in the middle of anything ends that call alone; other threads are answered, and
    the link goes on."""
    link = connect()
    done = threading.Event()

    def insist(number: int) -> int:
        turns = 0
        while not done.is_set():
            assert link.converse(insisting(("ECHO", number))).result(30) == [str(number).encode()]
            turns += 1
        return turns

    def interrupt(*_: object) -> None:
        raise Interruption

    old = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(insist, number) for number in range(2)]
        try:
            deadline = Deadline(30)
            while interrupted < 60 and not deadline.over:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0005 + interrupted % 7 / 5000)
                    while True:
                        ask(link, "ECHO", "mine")
                except Interruption:
                    interrupted += 1
                except RedisError:
                    signal.setitimer(signal.ITIMER_REAL, 0)  # the one before had thrown the connection away
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
            done.set()
        assert [job.result(30) > 0 for job in jobs] == [True, True]
    assert interrupted == 60
    assert link.converse(insisting(("PING",))).result(20) == [b"PONG"]


def test_a_forked_child_has_nothing_of_the_link(connect: Connect) -> None:
    """A child cannot talk on its parent's connection, not even while a thread of the parent was using it, and its end
    does not disturb the parent. Its copies of the descriptors are closed."""
    link = connect()
    link.listen()
    pending = link.converse(say(("BLPOP", "nothing", 0.5)))
    reading = threading.Thread(target=pending.result, daemon=True)
    reading.start()
    eventually(lambda: link._wire is not None and bool(link._wire.asked), "a thread waits for an answer")
    client = link.facts.client_id if link.facts else 0
    bell, wire = link._bell, link._wire
    assert wire is not None
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = True
        try:
            closed = 0
            for descriptor in (bell, wire.fd):
                try:
                    os.fstat(descriptor)
                except OSError:
                    closed += 1
            refused = 0
            for reply in (link.converse(say(("PING",))), pending):
                try:
                    reply.result(5)
                except RedisError as error:
                    refused += "parent of this process" in str(error)
            link.stop()
            status = (closed, refused) != (2, 2)
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert ask(link, "CLIENT", "ID") == client, "it is still the same connection"
    reading.join(20)


def test_a_loop_of_a_parent_goes_on_after_a_fork(redis_url: str) -> None:
    """A child does not take the socket out of the selector that it shares with its parent."""

    async def main() -> None:
        link = open_link(urls.parse(redis_url))
        link.attach(asyncio.get_running_loop())
        await asyncio.wrap_future(link.start())
        child = os.fork()
        if child == 0:
            try:
                link.stop()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        for _ in range(10):
            assert await asyncio.wait_for(asyncio.wrap_future(link.converse(say(("PING",)))), 20) == [b"PONG"]
        link.stop()

    asyncio.run(main())


def test_a_loop_that_ends_first_ends_the_link(redis_url: str) -> None:
    """A link whose loop is gone gives up dialling, and can still be stopped."""
    links: list[Link] = []

    async def main() -> None:
        link = open_link(urls.parse(redis_url))
        link.attach(asyncio.get_running_loop())
        await asyncio.wrap_future(link.start())
        links.append(link)
        link.reset(ConnectionLost("for the test"))

    asyncio.run(main())
    eventually(
        lambda: not any(thread.name.startswith("kern dials") for thread in threading.enumerate()), "nobody dials"
    )
    links[0].stop()
    assert not links[0].up


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.002])
def test_stopping_at_any_moment_of_a_start_leaves_nothing(redis_url: str, seconds: float) -> None:
    """Stopped while it dials or greets, a link leaves no descriptor behind."""
    before = descriptors()
    for _ in range(10):
        link = open_link(urls.parse(redis_url), scripts=[Script("return 1")])
        with contextlib.suppress(TimeoutError):
            link.start().exception(seconds)
        link.stop()
    eventually(lambda: descriptors() <= before, "all descriptors are closed")
