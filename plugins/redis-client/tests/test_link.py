"""A link against a server that sends exactly the bytes a test wants: the other end of a pair of sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import hiredis
import pytest

from kern.contracts.port import Reply
from kern_redis_client import link as link_module
from kern_redis_client.dialling import Dialled
from kern_redis_client.facts import ServerFacts
from kern_redis_client.failures import ConnectionLost, Kind, RedisError
from kern_redis_client.link import Conversation, Link
from kern_redis_client.scripts import Script
from kern_testing.waiting import eventually

from .conftest import say

FACTS = ServerFacts("redis", "7.0.0", 1)
SCRIPT = Script("return 1")


class End:
    """The server's end of one connection."""

    def __init__(self, made: socket.socket) -> None:
        self.socket = made
        made.settimeout(20)
        self._parser = hiredis.Reader()

    def hears(self) -> list[bytes]:
        """The next command that arrives."""
        while (command := self._parser.gets()) is False:
            self._parser.feed(self.socket.recv(65536))
        heard: list[bytes] = command
        return heard

    def says(self, text: bytes) -> None:
        self.socket.sendall(text)

    def hears_nothing_more(self) -> bool:
        """Whether nothing has arrived that was not heard yet."""
        self.socket.setblocking(False)
        try:
            return self._parser.gets() is False and not self.socket.recv(1)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(20)

    def ends(self) -> None:
        self.socket.close()


class FakeServer:
    """Answers dialling with pairs of sockets."""

    def __init__(self) -> None:
        self.ends: list[End] = []
        self.dialled_at: list[float] = []
        self.pushes: list[list[Any]] = []
        self.told: list[str] = []
        self.reachable = threading.Event()
        self.reachable.set()
        self.greet: Callable[[], Conversation[None]] = nothing
        self.given: dict[str, Any] = {}

    def dial(self) -> Dialled:
        self.dialled_at.append(time.monotonic())
        if not self.reachable.is_set():
            raise RedisError(Kind.UNREACHABLE, "nobody is there")
        ours, theirs = socket.socketpair()
        self.ends.append(End(theirs))
        return Dialled(ours, False, FACTS)

    def link(self, **given: Any) -> Link:
        return Link(
            "redis://fake",
            self.dial,
            lambda: self.greet(),
            self.pushes.append,
            lambda error: self.told.append(f"down: {error}"),
            lambda: self.told.append("up"),
            **given,
        )

    def next(self, number: int) -> End:
        """The connection of that number, once it is there."""
        eventually(lambda: len(self.ends) > number, f"connection {number} is made")
        return self.ends[number]

    def close(self) -> None:
        for end in self.ends:
            end.ends()


def nothing() -> Conversation[None]:
    return
    yield


@pytest.fixture
def server() -> Iterator[FakeServer]:
    made = FakeServer()
    yield made
    made.close()


@pytest.fixture
def link(server: FakeServer) -> Iterator[Link]:
    made = server.link()
    made.start().result(20)
    yield made
    made.stop()


def insisting(*commands: Any) -> Conversation[list[Any]]:
    """Says again what was lost."""
    while True:
        try:
            return (yield list(commands))
        except ConnectionLost:
            continue


def in_background(reply: Reply[Any]) -> threading.Thread:
    """A thread that waits for *reply*."""

    def wait() -> None:
        try:
            reply.result(20)
        except (RedisError, CancelledError):
            pass  # what came of it is asked of the reply

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def on_a_loop(server: FakeServer, work: Callable[[Link], Coroutine[Any, Any, None]], **given: Any) -> None:
    """Run *work* with a link that a loop reads."""

    async def main() -> None:
        link = server.link(**given)
        link.attach(asyncio.get_running_loop())
        await asyncio.wait_for(asyncio.wrap_future(link.start()), 20)
        try:
            await asyncio.wait_for(work(link), 20)
        finally:
            link.stop()

    asyncio.run(main())


# -- answers and messages ----------------------------------------------------------------------------------------------


def test_answers_find_those_who_asked_and_messages_those_who_listen(server: FakeServer, link: Link) -> None:
    """An answer, a message and another answer in one segment: each goes where it belongs, in order."""
    replies = [link.converse(say(("GET", name))) for name in "ab"]
    server.ends[0].says(b"+one\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\nhello\r\n+two\r\n>1\r\n$3\r\nend\r\n")
    assert [reply.result(20) for reply in replies] == [[b"one"], [b"two"]]
    assert server.pushes == [[b"message", b"c", b"hello"], [b"end"]]


@pytest.mark.parametrize("where", ["thread", "loop"])
def test_an_answer_may_be_cut_anywhere(server: FakeServer, where: str) -> None:
    """An answer that arrives byte by byte is the same answer."""
    text = b"*3\r\n$3\r\na\r\n\r\n:42\r\n%1\r\n+k\r\n_\r\n"

    def drip() -> None:
        server.next(0).hears()
        for number in range(len(text)):
            server.ends[0].says(text[number : number + 1])

    dripping = threading.Thread(target=drip)
    dripping.start()
    if where == "loop":

        async def ask(link: Link) -> None:
            assert await asyncio.wrap_future(link.converse(say(("X",)))) == [[b"a\r\n", 42, {b"k": None}]]

        on_a_loop(server, ask)
    else:
        link = server.link()
        link.start().result(20)
        assert link.converse(say(("X",))).result(20) == [[b"a\r\n", 42, {b"k": None}]]
        link.stop()
    dripping.join(20)


def test_an_error_stays_with_its_command(server: FakeServer, link: Link) -> None:
    """One command of a batch is refused: the error stands in its place, among the answers of the others."""
    reply = link.converse(say(("A",), ("B",), ("C",)))
    server.ends[0].says(b"+a\r\n-ERR no b\r\n+c\r\n")
    first, error, last = reply.result(20)
    assert (first, str(error), last) == (b"a", "ERR no b", b"c")
    assert isinstance(error, hiredis.ReplyError)


def test_a_conversation_goes_on_with_what_it_was_answered(server: FakeServer, link: Link) -> None:
    """A conversation asks, is answered, asks again, and others are answered meanwhile."""

    def longer() -> Conversation[bytes]:
        (first,) = yield [("FIRST",)]
        (second,) = yield [("SECOND", first)]
        assert isinstance(second, bytes)
        return second

    reply, other = link.converse(longer()), link.converse(say(("OTHER",)))
    end = server.ends[0]
    assert (end.hears(), end.hears()) == ([b"FIRST"], [b"OTHER"])
    end.says(b"+1\r\n+o\r\n")
    assert other.result(20) == [b"o"]
    assert end.hears() == [b"SECOND", b"1"]
    end.says(b"+2\r\n")
    assert reply.result(20) == b"2"


def test_a_value_that_cannot_be_sent_fails_alone(server: FakeServer, link: Link) -> None:
    """A command of a wrong type is an error of its conversation; nothing of its batch is sent, others go on."""
    bad = link.converse(say(("GOOD",), ("SET", "k", object())))
    other = link.converse(say(("OTHER",)))
    with pytest.raises(TypeError):
        bad.result(20)
    assert server.ends[0].hears() == [b"OTHER"]
    server.ends[0].says(b"+o\r\n")
    assert other.result(20) == [b"o"]


def test_an_error_of_a_conversation_is_that_of_its_reply(server: FakeServer, link: Link) -> None:
    """What a conversation raises comes out of its reply, and the link goes on."""

    def failing() -> Conversation[None]:
        yield [("A",)]
        raise LookupError("mine")

    reply = link.converse(failing())
    server.ends[0].says(b"+a\r\n")
    with pytest.raises(LookupError, match="mine"):
        reply.result(20)
    assert isinstance(reply.exception(20), LookupError)
    assert link.up


@pytest.mark.parametrize("answer", [b"+unasked\r\n", b"HTTP/1.1 400 Bad Request\r\n"])
def test_what_was_not_asked_ends_the_connection(server: FakeServer, link: Link, answer: bytes) -> None:
    """An answer too many, or no RESP at all: who knows to whom the next one belongs. The link starts anew."""
    link.listen()
    server.ends[0].says(answer)
    eventually(lambda: link.up and len(server.ends) == 2, "another connection is there")
    assert server.told[0].startswith("down: the connection to redis://fake was lost")
    eventually(lambda: server.told[1:] == ["up"], "and the owner knows")


def test_a_failing_taker_of_messages_disturbs_nobody(server: FakeServer) -> None:
    """An error in ``on_push`` is logged, and the answer behind the message arrives."""

    def fail(message: list[Any]) -> None:
        raise LookupError(f"what to do with {message}?")

    failing = Link("redis://fake", server.dial, nothing, fail, lambda _: None, lambda: None)
    failing.start().result(20)
    reply = failing.converse(say(("A",)))
    server.ends[0].says(b">1\r\n+x\r\n+a\r\n")
    assert reply.result(20) == [b"a"]
    failing.stop()


# -- subscriptions -----------------------------------------------------------------------------------------------------


def test_subscriptions_are_confirmed_by_messages(server: FakeServer, link: Link) -> None:
    """A batch of subscriptions has no answers but errors; what confirms them goes to those who listen."""
    reply = link.converse(say(("SUBSCRIBE", "a", "b"), ("PSUBSCRIBE", "secret*")))
    end = server.ends[0]
    assert [end.hears() for _ in range(3)] == [
        [b"SUBSCRIBE", b"a", b"b"],
        [b"PSUBSCRIBE", b"secret*"],
        [b"HELLO"],
    ]
    end.says(b">3\r\n+subscribe\r\n+a\r\n:1\r\n>3\r\n+subscribe\r\n+b\r\n:2\r\n")
    end.says(b"-NOPERM not that\r\n%1\r\n+server\r\n+redis\r\n")
    (error,) = reply.result(20)
    assert str(error) == "NOPERM not that"
    assert server.pushes == [[b"subscribe", b"a", 1], [b"subscribe", b"b", 2]]


# -- scripts, and servers that are the wrong ones ----------------------------------------------------------------------


def test_a_forgotten_script_is_sent_whole(server: FakeServer) -> None:
    """Where the server knows a script no more, its text follows, and only for the commands that need it."""
    link = server.link(scripts=[SCRIPT])
    started = link.start()
    end = server.next(0)
    assert end.hears() == [b"SCRIPT", b"LOAD", b"return 1"]
    end.says(b"+" + SCRIPT.sha.encode() + b"\r\n")
    started.result(20)
    reply = link.converse(say(("A",), SCRIPT.call(["k"], [1]), ("B",), SCRIPT.call(["k"], [2])))
    for _ in range(4):
        end.hears()
    end.says(b"+a\r\n-NOSCRIPT No matching script\r\n+b\r\n-NOSCRIPT No matching script\r\n")
    waiting = in_background(reply)
    assert end.hears() == [b"EVAL", b"return 1", b"1", b"k", b"1"]
    assert end.hears() == [b"EVAL", b"return 1", b"1", b"k", b"2"]
    end.says(b"+one\r\n-ERR two\r\n")
    a, one, b, two = reply.result(20)
    assert (a, one, b, str(two)) == (b"a", b"one", b"b", "ERR two")
    waiting.join(20)
    unknown = link.converse(say(("EVALSHA", "0" * 40, 0)))
    end.says(b"-NOSCRIPT No matching script\r\n")
    assert str(unknown.result(20)[0]).startswith("NOSCRIPT")
    link.stop()


@pytest.mark.parametrize("refusal", [b"-MOVED 866 10.0.0.9:7001\r\n", b"-READONLY You can't write\r\n"])
def test_what_another_server_has_to_do_is_said_again_there(server: FakeServer, link: Link, refusal: bytes) -> None:
    """A server that is the wrong one now has done nothing: the link finds the right one and says it again, once all
    answers that the wrong one owes have come."""
    moved = link.converse(say(("A",), ("B",)))
    later = link.converse(say(("C",)))
    end = server.ends[0]
    waiting = in_background(moved)
    end.says(b"+a\r\n" + refusal)
    eventually(lambda: link._wire is None or link._wire.retiring is not None, "the refusal has arrived")
    fresh = link.converse(say(("D",)))
    end.says(b"+c\r\n")
    assert later.result(20) == [b"c"]
    other = server.next(1)
    assert [other.hears(), other.hears()] == [[b"B"], [b"D"]]
    other.says(b"+b\r\n+d\r\n")
    assert fresh.result(20) == [b"d"]
    assert moved.result(20) == [b"a", b"b"]
    waiting.join(20)


def test_servers_that_send_us_round_in_circles_are_left(server: FakeServer, link: Link) -> None:
    """After some attempts the refusal is the answer."""

    def refuse() -> None:
        for number in range(link_module.REPETITIONS + 1):
            end = server.next(number)
            end.hears()
            end.says(b"-READONLY You can't write\r\n")

    refusing = threading.Thread(target=refuse)
    refusing.start()
    assert str(link.converse(say(("A",))).result(60)[0]).startswith("READONLY")
    refusing.join(20)


# -- losing the connection ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["thread", "loop"])
def test_a_connection_cut_in_the_middle_of_an_answer(server: FakeServer, where: str) -> None:
    """Who had begun is told, and may say it again; who had not begun yet is asked afterwards; nobody waits for ever."""

    def cut() -> None:
        end = server.next(0)
        assert [end.hears(), end.hears()] == [[b"A"], [b"B"]]
        server.reachable.clear()
        end.says(b"+a\r\n$100\r\nonly half")
        end.ends()
        eventually(lambda: len(server.dialled_at) > 2, "the link tries again")
        server.reachable.set()
        other = server.next(1)
        assert [other.hears(), other.hears()] == [[b"B"], [b"C"]]
        other.says(b"+b\r\n+c\r\n")

    cutting = threading.Thread(target=cut)
    cutting.start()

    async def ask(link: Link) -> None:
        first, second = (asyncio.wrap_future(link.converse(insisting((name,)))) for name in "AB")
        assert await first == [b"a"]
        await asyncio.to_thread(eventually, lambda: not link.up, "the cut is seen")
        third = asyncio.wrap_future(link.converse(say(("C",))))
        assert [await second, await third] == [[b"b"], [b"c"]]

    if where == "loop":
        on_a_loop(server, ask)
    else:
        link = server.link()
        link.start().result(20)
        first, second = (link.converse(insisting((name,))) for name in "AB")
        assert first.result(20) == [b"a"]
        second.add_done_callback(lambda _: None)  # the attendant reads
        eventually(lambda: not link.up, "the cut is seen")
        third = link.converse(say(("C",)))
        assert [second.result(20), third.result(20)] == [[b"b"], [b"c"]]
        link.stop()
    cutting.join(20)


def test_what_had_begun_is_lost_with_its_connection(server: FakeServer, link: Link) -> None:
    """A conversation that says nothing more gets an error that is not *refused*: nobody knows what was carried out."""
    reply = link.converse(say(("A",)))
    server.ends[0].hears()
    server.ends[0].ends()
    with pytest.raises(ConnectionLost, match="the connection to redis://fake was lost") as lost:
        reply.result(20)
    assert lost.value.retryable
    assert not lost.value.refused


def test_what_has_not_begun_can_be_taken_back_and_is_never_sent(server: FakeServer, link: Link) -> None:
    """While the connection is down, a conversation waits; cancelled it is certain never to be sent."""
    server.reachable.clear()
    link.reset(ConnectionLost("for the test"))
    cancelled, kept = link.converse(say(("CANCELLED",))), link.converse(say(("KEPT",)))
    assert cancelled.cancel()
    server.reachable.set()
    end = server.next(1)
    assert end.hears() == [b"KEPT"]
    end.says(b"+k\r\n")
    assert kept.result(20) == [b"k"]
    assert not link.converse(say(("X",))).cancel(), "what has begun cannot be taken back"
    assert end.hears() == [b"X"]


def test_what_kills_each_connection_is_not_repeated_for_ever(server: FakeServer, link: Link) -> None:
    """A conversation that insists is given up after some lost connections."""

    def kill() -> None:
        for number in range(link_module.REPETITIONS + 1):
            end = server.next(number)
            end.hears()
            end.ends()

    killing = threading.Thread(target=kill)
    killing.start()
    with pytest.raises(ConnectionLost):
        link.converse(insisting(("POISON",))).result(60)
    killing.join(20)


def test_a_server_that_is_gone_is_not_dialled_in_a_frenzy(server: FakeServer, link: Link) -> None:
    """Pauses between attempts grow, and differ from each other."""
    server.reachable.clear()
    server.dialled_at.clear()
    link.reset(ConnectionLost("for the test"))
    eventually(lambda: len(server.dialled_at) >= 5, "some attempts were made")
    gaps = [later - earlier for earlier, later in zip(server.dialled_at, server.dialled_at[1:], strict=False)]
    first, factor, _ = link_module.BACKOFF
    # Half of each pause is sure, the rest is chance; the first attempt was after one already.
    assert all(gap >= first * factor**number / 2 for number, gap in enumerate(gaps)), gaps


def test_a_connection_that_never_lasts_is_not_dialled_in_a_frenzy(server: FakeServer, link: Link) -> None:
    """A server that takes each connection and ends it at once is dialled with growing pauses too."""
    link.listen()
    server.dialled_at.clear()
    for number in range(5):
        server.next(number).ends()
    server.next(5)
    assert server.dialled_at[-1] - server.dialled_at[0] >= sum(link_module.BACKOFF[0] * 2**n / 2 for n in range(4))


def test_a_first_attempt_that_fails_is_the_end(server: FakeServer) -> None:
    """The first attempt is not repeated: its reason comes out of ``start``, and whoever asks later is told."""
    server.reachable.clear()
    link = server.link()
    with pytest.raises(RedisError, match="nobody is there") as error:
        link.start().result(20)
    assert error.value.retryable
    with pytest.raises(RedisError, match="is closed"):
        link.converse(say(("A",))).result(20)
    assert len(server.dialled_at) == 1
    link.stop()


def test_a_greeting_that_fails_is_a_first_attempt_that_fails(server: FakeServer) -> None:
    """What the greeting raises comes out of ``start``; a connection that ends in it is not greeted again and again."""

    def demanding() -> Conversation[None]:
        (answer,) = yield from insisting(("GREET",))
        raise RedisError(Kind.UNSUITABLE, str(answer))

    server.greet = demanding
    for number, (answer, message) in enumerate(((b"-ERR not you\r\n", "not you"), (b"", "closed by the server"))):
        link = server.link()
        started = link.start()
        end = server.next(number)
        assert end.hears() == [b"GREET"]
        end.says(answer)
        if not answer:
            end.ends()
        with pytest.raises(RedisError, match=message):
            started.result(20)
        link.stop()


def test_each_connection_is_greeted_before_anything_else(server: FakeServer) -> None:
    """What waits is said after the greeting, on each connection."""

    def greet() -> Conversation[None]:
        yield [("GREET",)]

    server.greet = greet
    link = server.link()
    started = link.start()
    asked = link.converse(insisting(("A",)))
    for number in range(2):
        end = server.next(number)
        assert end.hears() == [b"GREET"]
        assert end.hears_nothing_more()
        end.says(b"+OK\r\n")
        started.result(20)
        assert end.hears() == [b"A"]
        if not number:
            waiting = in_background(asked)
            end.ends()
    end.says(b"+a\r\n")
    assert asked.result(20) == [b"a"]
    waiting.join(20)
    link.stop()


# -- silence -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["thread", "attendant", "loop"])
def test_a_server_that_says_nothing_counts_as_dead(server: FakeServer, where: str) -> None:
    """Half-open connections take what is sent and never answer: that is noticed, and another one is made."""

    async def ask(link: Link) -> None:
        with pytest.raises(ConnectionLost, match=r"has not answered for 0\.2 s"):
            await asyncio.wrap_future(link.converse(say(("A",))))

    if where == "loop":
        on_a_loop(server, ask, silence=0.2)
    else:
        link = server.link(silence=0.2)
        link.start().result(20)
        if where == "attendant":
            asyncio.run(ask(link))
        else:
            with pytest.raises(ConnectionLost, match=r"has not answered for 0\.2 s"):
                link.converse(say(("A",))).result(20)
        server.next(1)
        link.stop()
    assert server.told[0].startswith("down: redis://fake has not answered")


@pytest.mark.parametrize("where", ["thread", "loop"])
def test_an_idle_connection_is_asked_for_a_sign_of_life(server: FakeServer, where: str) -> None:
    """Whoever listens and hears nothing asks now and then, and does not listen to a dead connection for ever."""

    def serve() -> None:
        first = server.next(0)
        for _ in range(2):
            assert first.hears() == [b"PING"]
            first.says(b"+PONG\r\n")
        assert first.hears() == [b"PING"]
        server.next(1)

    serving = threading.Thread(target=serve)
    serving.start()

    async def listen(link: Link) -> None:
        link.listen()
        await asyncio.to_thread(serving.join, 20)

    if where == "loop":
        on_a_loop(server, listen, silence=0.2, ping_after=0.1)
    else:
        link = server.link(silence=0.2, ping_after=0.1)
        link.start().result(20)
        link.listen()
        serving.join(20)
        link.stop()
    serving.join(20)
    assert len(server.ends) == 2


# -- threads -----------------------------------------------------------------------------------------------------------


def test_callers_are_told_outside_of_the_lock(server: FakeServer, link: Link) -> None:
    """A callback may wait for a thread that itself uses the link."""
    outcome: list[bool] = []

    def callback(_: object) -> None:
        other = threading.Thread(target=lambda: link.converse(say(("B",))))
        other.start()
        other.join(5)
        outcome.append(not other.is_alive())

    reply = link.converse(say(("A",)))
    reply.add_done_callback(callback)
    server.ends[0].says(b"+a\r\n")
    eventually(lambda: outcome == [True], "the other thread was not kept waiting")


def test_stopping_wakes_whoever_waits(server: FakeServer) -> None:
    """Threads that wait for an answer, or for somebody else to read it: all hear of the end at once."""
    link = server.link()
    link.start().result(20)
    replies = [link.converse(say(("A",))) for _ in range(5)]
    waiting = [in_background(reply) for reply in replies]
    eventually(lambda: link._wire is not None and bool(link._wire.reader), "one of them reads")
    link.stop()
    link.stop()  # twice is fine
    for thread in waiting:
        thread.join(5)
        assert not thread.is_alive()
    assert all(isinstance(reply.exception(0), RedisError) for reply in replies)
    with pytest.raises(RedisError, match="is closed"):
        link.converse(say(("A",))).result(0)


def test_stopping_before_the_start_is_known(server: FakeServer) -> None:
    """A link stopped while it dials ends; its start says that it was closed."""
    dialling = threading.Event()
    dial = server.dial

    def slow() -> Dialled:
        dialling.wait(20)
        return dial()

    server.dial = slow  # type: ignore[method-assign]
    link = server.link()
    started = link.start()
    link.stop()
    dialling.set()
    with pytest.raises(RedisError, match="is closed"):
        started.result(20)
    assert server.ends[0].socket.recv(1) == b"", "what was dialled is closed"


def test_a_wait_may_end_before_the_answer(server: FakeServer, link: Link) -> None:
    """A timeout leaves the conversation alone: the answer that comes later is still its answer."""
    reply = link.converse(say(("A",)))
    with pytest.raises(TimeoutError):
        reply.result(0.01)
    with pytest.raises(TimeoutError):
        reply.exception(0.01)
    with pytest.raises(TimeoutError):
        link.drive(reply, 0.01)
    server.ends[0].says(b"+a\r\n")
    assert link.drive(reply, 20) == [b"a"]


def test_who_waits_for_something_else_is_woken_by_it(server: FakeServer, link: Link) -> None:
    """A reply that somebody else completes ends the wait of a thread that sleeps on the socket."""
    foreign: Reply[str] = Future()
    waiting = in_background_drive(link, foreign)
    eventually(lambda: link._wire is not None and bool(link._wire.reader), "the thread reads")
    began = time.monotonic()
    foreign.set_result("done")
    waiting.join(20)
    assert time.monotonic() - began < 0.9, "it was not told, but looked by itself"


def in_background_drive(link: Link, reply: Reply[Any]) -> threading.Thread:
    thread = threading.Thread(target=link.drive, args=(reply, 20), daemon=True)
    thread.start()
    return thread


def test_large_commands_of_many_threads_arrive_whole(server: FakeServer, link: Link) -> None:
    """Commands of several megabytes, written in parts by several threads while another reads: each arrives as sent."""
    size, count = 4 << 20, 6

    def serve() -> None:
        for _ in range(count):
            _, text = server.ends[0].hears()
            server.ends[0].says(b"+%d %d\r\n" % (len(text), text.count(text[:1])))

    serving = threading.Thread(target=serve)
    serving.start()
    answers: dict[int, Any] = {}

    def send(number: int) -> None:
        answers[number] = link.converse(say(("SET", bytes([65 + number]) * size))).result(60)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in (*threads, serving):
        thread.join(60)
    assert answers == {number: [b"%d %d" % (size, size)] for number in range(count)}


def test_large_commands_of_a_loop_arrive_whole(server: FakeServer) -> None:
    """On a loop the rest of a large command follows when the socket takes it, and nothing else waits for that."""
    size = 4 << 20

    def serve() -> None:
        end = server.next(0)
        for _ in range(3):
            _, text = end.hears()
            end.says(b"+%d\r\n" % len(text))

    serving = threading.Thread(target=serve)

    async def send(link: Link) -> None:
        replies = [asyncio.wrap_future(link.converse(say(("SET", b"x" * size)))) for _ in range(3)]
        serving.start()
        assert [await reply for reply in replies] == [[b"%d" % size]] * 3

    on_a_loop(server, send)
    serving.join(20)
