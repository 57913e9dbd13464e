"""One connection to a Redis server, worked by whoever waits for an answer.

A caller gives a :data:`Conversation`: a generator that yields batches of commands, is sent the answers of each, and
returns what the caller asked for. Batches of many conversations share the connection; nobody waits for anybody's
answer but his own.

Nobody owns the socket. On an event loop (:meth:`Link.attach`) the loop reads it; elsewhere the thread that waits for an
answer reads for all, so that a blocking call costs no other thread a switch. Where answers are awaited by nobody who
could read (callbacks, asyncio, messages that come unasked) an *attendant*, a thread made when first needed, does it.

Any error throws the whole connection away. It is dialled anew with growing, jittered pauses, and greeted with what the
owner wants it to be. A conversation that had begun is told :class:`~kern_redis_client.failures.ConnectionLost`: it may
raise, or yield what is safe to be said again once the connection is back. One that had not begun waits, and may still
be cancelled meanwhile: that is how *refused* is told from *unknown*.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import hiredis

from kern import log
from kern.contracts.port import Reply
from kern_redis_client.dialling import Dialled
from kern_redis_client.facts import ServerFacts
from kern_redis_client.failures import ConnectionLost, closed, silent
from kern_redis_client.scripts import Script

logger = log.get_logger("kern.connection")
T = TypeVar("T")

Command = Sequence[str | bytes | int | float]
#: Yields batches of commands, is sent their answers (errors of single commands in place), returns a value.
Conversation = Generator[Sequence[Command], list[Any], T]

#: Seconds between attempts to connect again: first pause, factor, longest.
BACKOFF = (0.05, 2.0, 5.0)
#: Seconds for which the attendant leaves the socket to a thread that has just read it.
STEP_ASIDE = 0.01
#: Bytes read at once.
CHUNK = 262_144
#: Seconds without a sign of life after which an idle connection that somebody listens to is asked for one.
PING_AFTER = 15.0
#: Commands that the server answers with messages. A batch is made of them alone, or of none; what is sent to the
#: conversation then is the errors that came, normally none.
SUBSCRIPTIONS = frozenset({"SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE"})

_NOTHING = object()


class _AwaitedReply(Future[T]):
    """A reply that sees to it that somebody reads: whoever blocks for it does so himself, all others get help."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def result(self, timeout: float | None = None) -> T:
        if not self.done():
            self._link.drive(self, timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if not self.done():
            try:
                self._link.drive(self, timeout)
            except TimeoutError:
                raise
            except BaseException:
                pass  # it is what was asked for
        return super().exception(0)

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        super().add_done_callback(fn)
        if not self.done():
            self._link.help_wanted()


class _Exchange(Generic[T]):
    """A conversation under way."""

    __slots__ = ("answers", "asked_at", "commands", "conversation", "expected", "first_answers", "reply", "token")

    def __init__(self, conversation: Conversation[T], reply: Reply[T]) -> None:
        self.conversation = conversation
        self.reply = reply
        self.commands: Sequence[Command] = ()
        self.answers: list[Any] = []
        self.expected = 0
        self.asked_at = 0.0
        #: What the server answered before some commands were said again, because it had forgotten their scripts.
        self.first_answers: list[Any] | None = None
        #: Ends the answers to subscriptions: the server answers those with messages, and refusals with an error.
        self.token: bytes | None = None


class Link:
    """See the module's docstring.

    :param name: the server for messages: its URL with the password masked.
    :param dial: connects, and answers a socket on which the server speaks RESP3; blocks, runs on a thread of its own.
    :param greet: makes the conversation that each new connection begins with.
    :param on_push: takes messages that come unasked, as lists; on any thread, one at a time.
    :param scripts: what the server has to know; loaded with each connection.
    :param silence: seconds the oldest answer may be late before the connection counts as dead.
    """

    def __init__(
        self,
        name: str,
        dial: Callable[[], Dialled],
        greet: Callable[[], Conversation[None]],
        on_push: Callable[[list[Any]], None],
        on_down: Callable[[Exception], None],
        on_up: Callable[[], None],
        scripts: Iterable[Script] = (),
        silence: float = 10.0,
        ping_after: float = PING_AFTER,
    ) -> None:
        self._name = name
        self._dial = dial
        self._greet = greet
        self._on_push = on_push
        self._on_down = on_down
        self._on_up = on_up
        self._scripts = {script.sha: script for script in scripts}
        self._silence = silence
        self._ping_after = ping_after
        #: What the server said about itself at the latest connection.
        self.facts: ServerFacts | None = None
        # Guards all that follows; conversations are stepped under it.
        self._lock = threading.RLock()
        #: Told when the reader changes, when answers came, and when the connection came or went.
        self._turn = threading.Condition(self._lock)
        self._waiters = 0
        self._reader_busy = False
        self._driven_at = float("-inf")
        self._driver_waits = False
        self._socket: socket.socket | None = None
        self._parser: Any = None
        self._poll: Any = None
        self._out = bytearray()
        self._asked: deque[_Exchange[Any]] = deque()
        self._waiting: deque[_Exchange[Any]] = deque()
        self._heard_at = 0.0
        self._up = False
        self._started = False
        self._closed = False
        self._listening = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writing = False
        self._watch: asyncio.TimerHandle | None = None
        self._attendant: threading.Thread | None = None
        self._help_wanted = threading.Event()
        self._bell = self._bell_rope = -1

    # -- life ----------------------------------------------------------------------------------------------------------

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have *loop* read the socket; before :meth:`start`, and all further calls on the loop's thread."""
        self._loop = loop

    def start(self) -> Reply[None]:
        """Connect; the reply is the outcome of the first attempt, after success the link reconnects by itself."""
        reply: Reply[None] = Future()
        self._started = True
        self._bell, self._bell_rope = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._bell_rope, False)
        threading.Thread(target=self._connect, args=(reply,), name=f"kern dials {self._name}", daemon=True).start()
        return reply

    def stop(self) -> Reply[None]:
        """Close; what is under way fails. Safe twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._drop(closed(self._name), final=True)
                self._turn.notify_all()
        self._ring()
        reply: Reply[None] = Future()
        reply.set_result(None)
        return reply

    @property
    def up(self) -> bool:
        """Whether the connection is there."""
        return self._up

    def reset(self, error: Exception) -> None:
        """Throw the connection away and dial anew."""
        with self._lock:
            if self._up:
                self._lose(error)

    # -- asking --------------------------------------------------------------------------------------------------------

    def converse(self, conversation: Conversation[T]) -> Reply[T]:
        """Begin *conversation*, now or when the connection is back; from any thread."""
        reply: Reply[T] = _AwaitedReply(self) if self._loop is None else Future()
        exchange = _Exchange(conversation, reply)
        with self._lock:
            if self._closed or not self._started:
                reply.set_exception(closed(self._name))
            elif self._up:
                self._begin(exchange)
                self._flush()
            else:
                self._waiting.append(exchange)
        return reply

    def listen(self, wanted: bool = True) -> None:
        """Whether messages that come unasked are of interest at this moment."""
        self._listening = wanted
        if wanted:
            self.help_wanted()

    def help_wanted(self) -> None:
        """Somebody waits who cannot read the socket himself."""
        if self._loop is not None or self._closed:
            return
        with self._lock:
            if self._attendant is None:
                self._attendant = threading.Thread(target=self._attend, name=f"kern {self._name}", daemon=True)
                self._attendant.start()
        self._help_wanted.set()

    def drive(self, reply: Reply[T], timeout: float | None) -> T:
        """Block the calling thread until *reply* is there, reading the socket unless somebody else does.

        :raises TimeoutError: the built-in one, after *timeout* seconds.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not reply.done():
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            with self._turn:
                if self._reader_busy or not self._up:
                    if reply.done():
                        break
                    self._driver_waits = True
                    self._waiters += 1
                    # Now and then it looks for itself: replies may be completed by others than this link.
                    self._turn.wait(0.5 if left is None else min(left, 0.5))
                    self._waiters -= 1
                    continue
                self._reader_busy = True
            try:
                self._pump(1.0 if left is None else min(left, 1.0))
            finally:
                self._leave()
                self._driven_at = time.monotonic()
        return Future.result(reply, 0)

    # -- connecting ----------------------------------------------------------------------------------------------------

    def _connect(self, first: Reply[None] | None) -> None:
        """Dial until the connection is there; the first attempt of all is not repeated."""
        pause, factor, longest = BACKOFF
        while not self._closed:
            try:
                dialled = self._dial()
                made, self.facts = dialled.socket, dialled.facts
                try:
                    made.setblocking(False)
                    self._install(made)
                except BaseException:
                    made.close()
                    raise
            except Exception as error:
                if first is not None:
                    with self._lock:
                        self._closed = True
                        self._drop(error, final=True)
                    first.set_exception(error)
                    return
                logger.debug("cannot connect", server=self._name, error=str(error))
                self._nap(pause * random.uniform(0.5, 1.0))
                pause = min(longest, pause * factor)
            else:
                if first is not None:
                    first.set_result(None)
                    with self._turn:
                        self._turn.notify_all()
                else:
                    self._on_up()
                return
        if first is not None:
            first.set_exception(closed(self._name))

    def _nap(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with self._turn:
            while not self._closed and (left := until - time.monotonic()) > 0:
                self._turn.wait(left)
                self._forget_cancelled()

    def _forget_cancelled(self) -> None:
        self._waiting = deque(exchange for exchange in self._waiting if not exchange.reply.cancelled())

    def _install(self, made: socket.socket) -> None:
        """Greet on the new socket, still on the dialling thread; then hand it to whoever reads."""
        parser = hiredis.Reader(notEnoughData=_NOTHING)
        poll = select.poll()
        poll.register(made, select.POLLIN)
        with self._lock:
            if self._closed:
                raise closed(self._name)
            self._socket, self._parser, self._poll = made, parser, poll
            self._out.clear()
            self._heard_at = time.monotonic()
            greeting: Reply[None] = Future()
            self._reader_busy = True
            self._begin(_Exchange(self._greeting(), greeting))
            self._flush()
        try:
            until = time.monotonic() + self._silence
            while not greeting.done() and self._socket is made:
                if time.monotonic() > until:
                    raise silent(self._name, self._silence)
                self._pump(0.2, greeting=True)
            greeting.result(0 if greeting.done() else 0.0)
        except BaseException as error:
            with self._lock:
                failed = error if isinstance(error, Exception) else closed(self._name)
                self._drop(failed, final=False)
            raise
        finally:
            self._leave()
        with self._lock:
            if self._socket is not made:
                raise ConnectionLost(f"the connection to {self._name} was lost while it was greeted")
            self._up = True
            if self._loop is None:
                self._resume()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._take_over, made)

    def _greeting(self) -> Conversation[None]:
        if self._scripts:
            for answer in (yield [("SCRIPT", "LOAD", script.text) for script in self._scripts.values()]):
                if isinstance(answer, Exception):
                    raise answer
        yield from self._greet()

    def _resume(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            self._begin(exchange)
        self._flush()
        self._turn.notify_all()
        if self._listening or self._asked:
            self._help_wanted.set()

    def _take_over(self, made: socket.socket) -> None:
        """On the loop: read from now on."""
        assert self._loop is not None
        if self._socket is not made:
            return
        self._loop.add_reader(made.fileno(), self._on_readable)
        with self._lock:
            self._resume()
        self._watch_silence()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        self._receive()

    def _watch_silence(self) -> None:
        """On the loop: a connection that owes answers and says nothing is dead, whatever TCP thinks."""
        assert self._loop is not None
        if self._closed or not self._up:
            return
        self._check_silence()
        self._watch = self._loop.call_later(min(1.0, self._silence / 4), self._watch_silence)

    def _check_silence(self) -> None:
        with self._lock:
            if self._up and self._asked:
                now = time.monotonic()
                if now - max(self._heard_at, self._asked[0].asked_at) > self._silence:
                    self._lose(silent(self._name, self._silence))

    def _pump(self, timeout: float, greeting: bool = False) -> None:
        """Wait for the socket at most *timeout* seconds, and take what is there."""
        made, poll = self._socket, self._poll
        if made is None:
            return
        pending = isinstance(made, ssl.SSLSocket) and made.pending() > 0
        if self._out:
            poll.modify(made, select.POLLIN | select.POLLOUT)
        try:
            ready = True if pending else poll.poll(timeout * 1000)
        finally:
            if self._out:
                poll.modify(made, select.POLLIN)
        if self._out:
            with self._lock:
                self._flush()
        if ready:
            self._receive()
        elif not greeting:
            self._check_silence()

    def _receive(self) -> None:
        """Take what the socket has, to the last byte: what stayed in a parser would wait for the next arrival."""
        made, parser = self._socket, self._parser
        if made is None:
            return
        while True:
            try:
                chunk = made.recv(CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except (OSError, ValueError) as error:
                with self._lock:
                    if self._socket is made:
                        self._lose(ConnectionLost(f"the connection to {self._name} was lost: {error}"))
                return
            if not chunk:
                with self._lock:
                    if self._socket is made:
                        self._lose(ConnectionLost(f"{self._name} closed the connection"))
                return
            pushes: list[list[Any]] = []
            with self._lock:
                if self._socket is not made:
                    return
                self._heard_at = time.monotonic()
                try:
                    parser.feed(chunk)
                    self._take_answers(parser, pushes)
                except hiredis.ProtocolError as error:
                    self._lose(ConnectionLost(f"{self._name} speaks no RESP: {error}"))
                if self._out:
                    self._flush()
                if self._waiters:
                    self._turn.notify_all()
            for push in pushes:
                self._push(push)
            if len(chunk) < CHUNK and not isinstance(made, ssl.SSLSocket):
                return

    def _take_answers(self, parser: Any, pushes: list[list[Any]]) -> None:
        asked = self._asked
        while True:
            answer = parser.gets()
            if answer is _NOTHING:
                return
            if type(answer) is hiredis.PushNotification:
                pushes.append(list(answer))
                continue
            if not asked:
                self._lose(ConnectionLost(f"{self._name} answered what was not asked"))
                return
            exchange = asked[0]
            if exchange.token is None:
                exchange.answers.append(answer)
                complete = len(exchange.answers) == exchange.expected
            elif not (complete := answer == exchange.token):
                exchange.answers.append(answer)
            if complete:
                asked.popleft()
                self._answered(exchange)
                if asked is not self._asked:
                    return

    def _push(self, push: list[Any]) -> None:
        try:
            self._on_push(push)
        except Exception:
            logger.exception("a message from the server could not be taken", server=self._name)

    def _leave(self) -> None:
        with self._turn:
            self._reader_busy = False
            if self._waiters:
                self._turn.notify_all()
        if self._attendant is not None and (self._listening or self._asked):
            self._help_wanted.set()

    def _attend(self) -> None:
        """The attendant's life: read while somebody needs it and no other thread does."""
        while not self._closed:
            if not (self._listening or self._asked or self._waiting):
                self._help_wanted.clear()
                if not (self._listening or self._asked or self._waiting):
                    self._help_wanted.wait()
                continue
            with self._turn:
                if self._closed:
                    return
                aside = self._driver_waits or time.monotonic() - self._driven_at < STEP_ASIDE
                if self._reader_busy or not self._up or aside:
                    self._driver_waits = False
                    if self._waiters:
                        self._turn.notify_all()
                    self._turn.wait(STEP_ASIDE if self._up else 0.5)
                    continue
                self._reader_busy = True
            try:
                self._pump_with_bell()
            finally:
                self._leave()

    def _pump_with_bell(self) -> None:
        made, poll = self._socket, self._poll
        if made is None:
            return
        poll.register(self._bell, select.POLLIN)
        try:
            self._pump(1.0)
        finally:
            poll.unregister(self._bell)
            try:
                os.read(self._bell, 4096)
            except OSError:
                pass
        if self._listening and not self._asked and time.monotonic() - self._heard_at > self._ping_after:
            self.converse(_ping())

    def _ring(self) -> None:
        """Wake the attendant, if it sleeps on the socket."""
        self._help_wanted.set()
        if self._bell_rope >= 0:
            try:
                os.write(self._bell_rope, b"!")
            except OSError:
                pass

    # -- conversations; all under the lock -----------------------------------------------------------------------------

    def _begin(self, exchange: _Exchange[Any]) -> None:
        if exchange.commands:  # said before, on a connection that was lost
            self._ask(exchange, exchange.commands)
        elif exchange.reply.set_running_or_notify_cancel():
            self._step(exchange, None)

    def _step(self, exchange: _Exchange[Any], answers: list[Any] | Exception | None) -> None:
        """Tell the conversation what was answered, and ask what it asks next."""
        try:
            if isinstance(answers, Exception):
                commands = exchange.conversation.throw(answers)
            else:
                commands = exchange.conversation.send(answers)  # type: ignore[arg-type]
        except StopIteration as end:
            exchange.reply.set_result(end.value)
        except Exception as error:
            exchange.reply.set_exception(error)
        else:
            if self._closed:
                exchange.reply.set_exception(closed(self._name))
            elif self._socket is None or isinstance(answers, ConnectionLost):
                exchange.commands = commands
                self._waiting.append(exchange)
            else:
                self._ask(exchange, commands)

    def _ask(self, exchange: _Exchange[Any], commands: Sequence[Command]) -> None:
        if not commands:
            self._step(exchange, [])
            return
        exchange.commands, exchange.answers, exchange.expected = commands, [], len(commands)
        exchange.asked_at = time.monotonic()
        self._asked.append(exchange)
        for command in commands:
            self._out += hiredis.pack_command(command)
        if commands[0][0] in SUBSCRIPTIONS:
            exchange.token = os.urandom(8).hex().encode()
            self._out += hiredis.pack_command(("PING", exchange.token))
        else:
            exchange.token = None

    def _answered(self, exchange: _Exchange[Any]) -> None:
        """All answers to a batch are there."""
        answers = exchange.answers
        if exchange.first_answers is not None:
            repeated = iter(answers)
            answers = [next(repeated) if _no_script(answer) else answer for answer in exchange.first_answers]
            exchange.first_answers = None
        elif any(_no_script(answer) for answer in answers):
            again = [
                ("EVAL", self._scripts[str(command[1])].text, *command[2:])
                for command, answer in zip(exchange.commands, answers, strict=True)
                if _no_script(answer)
            ]
            self._ask(exchange, again)
            exchange.first_answers = answers
            return
        self._step(exchange, answers)

    def _flush(self) -> None:
        """Send what is to be sent, as far as the socket takes it."""
        made, out = self._socket, self._out
        if made is None:
            out.clear()
            return
        while out:
            try:
                sent = made.send(out)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                break
            except (OSError, ValueError) as error:
                self._lose(ConnectionLost(f"the connection to {self._name} was lost: {error}"))
                return
            del out[:sent]
        if self._loop is not None:
            if out and not self._writing:
                self._writing = True
                self._loop.add_writer(made.fileno(), self._flush)
            elif not out and self._writing:
                self._writing = False
                self._loop.remove_writer(made.fileno())
        elif out and self._reader_busy:
            self._ring()

    # -- losing it; under the lock -------------------------------------------------------------------------------------

    def _lose(self, error: Exception) -> None:
        """The connection is no good: throw it away, tell everybody, dial anew."""
        was_up = self._up
        self._drop(error, final=False)
        if not was_up or self._closed:
            return
        self._on_down(error)
        threading.Thread(target=self._connect, args=(None,), name=f"kern dials {self._name}", daemon=True).start()

    def _drop(self, error: Exception, final: bool) -> None:
        made, self._socket, self._parser, self._up = self._socket, None, None, False
        if made is not None:
            if self._loop is not None and made.fileno() >= 0:
                self._loop.remove_reader(made.fileno())
                if self._writing:
                    self._writing = False
                    self._loop.remove_writer(made.fileno())
            made.close()
        self._out.clear()
        asked, self._asked = self._asked, deque()
        lost = error if isinstance(error, ConnectionLost) else ConnectionLost(str(error))
        for exchange in asked:
            self._step(exchange, lost)
        if final:
            waiting, self._waiting = self._waiting, deque()
            for exchange in waiting:
                if exchange.commands or exchange.reply.set_running_or_notify_cancel():
                    exchange.reply.set_exception(error)
        self._turn.notify_all()


def _ping() -> Conversation[None]:
    yield [("PING",)]


def _no_script(answer: Any) -> bool:
    return isinstance(answer, hiredis.ReplyError) and str(answer).startswith("NOSCRIPT")
