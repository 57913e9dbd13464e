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

A forked child has nothing of its parent's link: it makes its own.
"""

from __future__ import annotations

import os
import random
import select
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED
from typing import TYPE_CHECKING, Any, TypeVar

import hiredis

from kern import log
from kern.contracts.port import Reply
from kern_redis_client.dialling import Dialled
from kern_redis_client.facts import ServerFacts
from kern_redis_client.failures import ConnectionLost, closed, failure, inherited, is_elsewhere, lost, silent
from kern_redis_client.scripts import Script
from kern_redis_client.wire import (
    AGAIN,
    CHUNK,
    NOTHING,
    Command,
    Conversation,
    Exchange,
    Wire,
    filled,
    packed,
    would_block,
)

if TYPE_CHECKING:
    import asyncio

__all__ = ["Command", "Conversation", "Link"]

logger = log.get_logger("kern.connection")
T = TypeVar("T")

#: Seconds between attempts to connect again: first pause, factor, longest.
BACKOFF = (0.05, 2.0, 5.0)
#: Seconds a connection has to last for the next one to be dialled without a pause.
STEADY = 5.0
#: How often a conversation may be told that its connection was lost and begin again, and how often a command may be
#: sent on to another server: what kills each connection must not be repeated for ever.
REPETITIONS = 5
#: Seconds for which the attendant leaves the socket to a thread that has just read it.
STEP_ASIDE = 0.01
#: Seconds without a sign of life after which an idle connection that somebody listens to is asked for one.
PING_AFTER = 15.0
#: Commands that the server answers with messages. A batch is made of them alone, or of none; what is sent to the
#: conversation then is the errors that came, normally none.
SUBSCRIPTIONS = frozenset({"SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE"})
#: Follows subscriptions: its answer, the only mapping among errors, says that all of theirs have come. It is never
#: refused, whatever the server is doing and whoever we are.
_END_OF_SUBSCRIPTIONS = hiredis.pack_command(("HELLO",))


class _AwaitedReply(Future[T]):
    """A reply that sees to it that somebody reads: whoever blocks for it does so himself, who is called back gets help.

    Who neither blocks for it nor wants to be called back waits in vain, unless somebody else reads.
    """

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def done(self) -> bool:
        return self._state in _DONE  # without the lock: it is asked often, and the answer does not change back

    def result(self, timeout: float | None = None) -> T:
        if not self.done() and not self._link.wait_for(self, timeout):
            raise TimeoutError
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if not self.done() and not self._link.wait_for(self, timeout):
            raise TimeoutError
        return super().exception(0)

    def cancel(self) -> bool:
        try:
            return super().cancel()
        except BaseException:
            _release(self)
            raise

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        _call_back(self, fn)
        if not self.done():
            self._link.help_wanted()


_DONE = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})


def _call_back(reply: Future[T], fn: Callable[[Future[T]], object]) -> None:
    try:
        Future.add_done_callback(reply, fn)
    except BaseException:
        _release(reply)
        raise


def _release(reply: Future[Any]) -> None:
    """After an interruption: a condition is written in Python, and an exception that comes while one is entered leaves
    its lock held. Whoever completes the reply, or waits for it, would hang."""
    condition: Any = reply._condition
    while condition._is_owned():
        condition.release()


class _Waiter:
    """A thread that waits for another one; safe from interruptions, which an event of :mod:`threading` is not."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self, _: object = None) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            pass  # awake already

    def wait(self, seconds: float) -> None:
        """At most *seconds*; -1: without end."""
        self._lock.acquire(timeout=seconds)

    def rest(self) -> None:
        """Forget that it was woken."""
        self._lock.acquire(blocking=False)


class Link:
    """See the module's docstring.

    :param name: the server for messages: its URL with the password masked.
    :param dial: connects, and answers a socket on which the server speaks RESP3; blocks, runs on a thread of its own.
    :param greet: makes the conversation that each new connection begins with.
    :param on_push: takes messages that come unasked, as lists; on any thread, one at a time.
    :param on_down: told why the connection was lost; on any thread.
    :param on_up: told that it is there again; on any thread.
    :param scripts: what the server has to know; loaded with each connection.
    :param silence: seconds the oldest answer may be late before the connection counts as dead.
    :param ping_after: seconds without a sign of life after which it is asked for one, while :meth:`listen` is on.
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
        #: Seconds after which whoever sleeps on the socket looks at the clock.
        self._look_every = min(1.0, silence / 4, ping_after / 4)
        #: What the server said about itself at the latest connection.
        self.facts: ServerFacts | None = None
        # Guards all that follows; conversations are stepped under it, callers are told after it.
        self._lock = threading.RLock()
        self._depth = 0
        #: Replies to be completed once the lock is free; one without reply is the end of a connection.
        self._finished: list[tuple[Reply[Any] | None, Any, BaseException | None]] = []
        self._wire: Wire | None = None
        self._waiting: deque[Exchange[Any]] = deque()
        self._queue: deque[_Waiter] = deque()
        self._driven_at = float("-inf")
        self._pause = 0.0
        self._started = False
        self._closed = False
        self._inherited = False
        self._stopped = threading.Event()
        self._listening = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._attendant: threading.Thread | None = None
        self._help = _Waiter()
        #: Somebody who cannot read waits for an answer.
        self._urgent = False
        self._bell = self._bell_rope = -1
        #: Threads that may look at the bell.
        self._bell_users = 0
        _links.add(self)

    # -- life ----------------------------------------------------------------------------------------------------------

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have *loop* read the socket; before :meth:`start`, and all further calls on the loop's thread."""
        self._loop = loop

    def start(self) -> Reply[None]:
        """Connect; the reply is the outcome of the first attempt, after success the link reconnects by itself."""
        reply: Reply[None] = Future()
        reply.set_running_or_notify_cancel()
        with self._lock:
            self._started = True
            if self._loop is None and not self._closed:
                self._bell, self._bell_rope = os.pipe()
                os.set_blocking(self._bell, False)
                os.set_blocking(self._bell_rope, False)
        self._dial_on_a_thread(reply)
        return reply

    def stop(self) -> Reply[None]:
        """Close; what is under way fails. Safe twice."""
        with self._lock:
            self._shut(closed(self._name))
        self._complete()
        reply: Reply[None] = Future()
        reply.set_result(None)
        return reply

    @property
    def up(self) -> bool:
        """Whether the connection is there."""
        return self._wire is not None

    def reset(self, error: Exception) -> None:
        """Throw the connection away and dial anew."""
        with self._lock:
            if self._wire is not None:
                self._lose(self._wire, error)
        self._complete()

    # -- asking --------------------------------------------------------------------------------------------------------

    def converse(self, conversation: Conversation[T]) -> Reply[T]:
        """Begin *conversation*, now or when the connection is back; from any thread."""
        reply: Reply[T] = _AwaitedReply(self) if self._loop is None else Future()
        exchange = Exchange(conversation, reply)
        with self._lock:
            wire = self._wire
            if self._closed or not self._started:
                self._finished.append((reply, None, self._gone()))
            elif wire is None or wire.retiring is not None:
                self._waiting.append(exchange)
            else:
                self._depth += 1
                try:
                    self._begin(wire, exchange)
                    if wire.out:
                        self._flush(wire)
                except BaseException as error:
                    self._interrupted(wire, error)
                    raise
                finally:
                    self._depth -= 1
        if self._finished:
            self._complete()
        return reply

    def listen(self, wanted: bool = True, patient: bool = False) -> None:
        """Whether messages that come unasked are of interest at this moment.

        :param patient: whoever is interested is about to read himself: the attendant waits a moment whether he does.
        """
        self._listening = wanted
        if wanted:
            if patient:
                self._driven_at = time.monotonic()
            self._get_help()

    def help_wanted(self) -> None:
        """Somebody waits for an answer who cannot read the socket himself."""
        self._urgent = True
        self._get_help()

    def drive(self, reply: Reply[T], timeout: float | None) -> T:
        """Block the calling thread until *reply* is there, reading the socket unless somebody else does.

        :param reply: of this link, or any that its conversations lead to.
        :param timeout: seconds; ``None``: for ever.
        :raises TimeoutError: the built-in one, after *timeout* seconds.
        """
        if not self.wait_for(reply, timeout):
            raise TimeoutError
        return Future.result(reply, 0)

    def wait_for(self, reply: Reply[Any], timeout: float | None) -> bool:
        """:meth:`drive` that says whether *reply* is there, instead of what it is."""
        if self._loop is not None:
            try:
                Future.exception(reply, timeout)
            except TimeoutError:
                return reply.done()
            return True
        until = None if timeout is None else time.monotonic() + timeout
        waiter: _Waiter | None = None
        while not reply.done():
            left = self._look_every if until is None else min(until - time.monotonic(), self._look_every)
            if left <= 0:
                return False
            if waiter is None and (self._wire is None or self._wire.reader or type(reply) is not _AwaitedReply):
                waiter = _Waiter()
                _call_back(reply, waiter.wake)
                if type(reply) is not _AwaitedReply:
                    self._watch_from_outside(reply)
                continue
            wire = self._wire
            try:
                if wire is not None and self._enter(wire):
                    # Whoever read before may have completed it just before he left: nothing would come any more.
                    if not reply.done():
                        self._pump(wire, left)
                    continue
            finally:
                # Also where an exception came out of nowhere just after it had entered.
                if wire is not None and wire.reader == threading.get_ident():
                    self._driven_at = time.monotonic()
                    self._leave(wire)
            if waiter is not None:
                self._stand_in_line(waiter, reply, left)
        return True

    def ask(self, conversation: Conversation[T], timeout: float) -> T:
        """Converse, and block until the end; from any thread but the loop's.

        :param timeout: seconds.
        :raises RedisError: also when they have passed.
        """
        until = time.monotonic() + timeout
        try:
            reply = self.converse(conversation) if self._loop is None else self._handed_over(conversation, timeout)
            try:
                return self.drive(reply, max(0.0, until - time.monotonic()))
            except TimeoutError:
                reply.cancel()
                raise
        except TimeoutError:
            raise ConnectionLost(f"{self._name} did not answer within {timeout:g} s") from None

    def _handed_over(self, conversation: Conversation[T], timeout: float) -> Reply[T]:
        assert self._loop is not None
        reply: Future[Reply[T]] = Future()
        try:
            self._loop.call_soon_threadsafe(lambda: reply.set_result(self.converse(conversation)))
        except RuntimeError:  # the loop has ended
            raise closed(self._name) from None
        return reply.result(timeout)

    def _watch_from_outside(self, reply: Reply[Any]) -> None:
        """This thread may sleep on the socket when something else than the link completes *reply*."""
        reader = threading.get_ident()
        _call_back(reply, lambda _: None if threading.get_ident() == reader else self._ring())

    def _stand_in_line(self, waiter: _Waiter, reply: Reply[Any], seconds: float) -> None:
        """Until *reply* is there, or it is this thread's turn to read."""
        reads_next = False
        with self._lock:
            if self._inherited:
                raise inherited(self._name)
            if self._wire is not None and not self._wire.reader:
                return
            self._driven_at = time.monotonic()
            self._queue.append(waiter)
        try:
            waiter.wait(seconds)
            reads_next = not reply.done()
        finally:
            with self._lock:
                try:
                    self._queue.remove(waiter)
                except ValueError:
                    if not reads_next:
                        self._next_reader()

    # -- connecting ----------------------------------------------------------------------------------------------------

    def _dial_on_a_thread(self, first: Reply[None] | None) -> None:
        threading.Thread(target=self._connect, args=(first,), name=f"kern dials {self._name}", daemon=True).start()

    def _connect(self, first: Reply[None] | None) -> None:
        """Dial until the connection is there; the first attempt of all is not repeated."""
        while not self._stopped.wait(self._pause * random.uniform(0.5, 1.0)):
            self._forget_cancelled()
            try:
                wire = self._establish()
            except Exception as error:
                if first is not None:
                    with self._lock:
                        self._shut(error)
                    self._complete()
                    first.set_exception(error)
                    return
                logger.debug("cannot connect", server=self._name, error=str(error))
                self._pause = _longer(self._pause)
                continue
            if self._loop is None:
                self._take_over(wire, first)
            else:
                try:
                    self._loop.call_soon_threadsafe(self._take_over, wire, first)
                except RuntimeError:  # the loop has ended, and with it whoever wanted this
                    wire.socket.close()
                    break
            return
        if first is not None:
            first.set_exception(closed(self._name))

    def _forget_cancelled(self) -> None:
        with self._lock:
            self._waiting = deque(exchange for exchange in self._waiting if not exchange.reply.cancelled())

    def _establish(self) -> Wire:
        """Dial and greet."""
        dialled = self._dial()
        try:
            dialled.socket.setblocking(False)
            with self._lock:
                if self._closed:
                    raise closed(self._name)
                wire = Wire(dialled.socket, dialled.secure, self._bell)
                self._enter(wire)
        except BaseException:
            dialled.socket.close()
            raise
        greeting: Reply[None] = Future()
        try:
            with self._lock:
                self._begin(wire, Exchange(self._greeting(), greeting, once=True))
                self._flush(wire)
            self._complete()
            while not greeting.done():
                if self._closed:
                    raise closed(self._name)
                self._pump(wire, 0.2)
            greeting.result()
            if wire.lost:
                raise lost(self._name, "went while it was greeted")
        except BaseException:
            with self._lock:
                self._lose(wire, closed(self._name))
            raise
        finally:
            self._leave(wire)
        self.facts = dialled.facts
        return wire

    def _greeting(self) -> Conversation[None]:
        if self._scripts:
            for answer in (yield [("SCRIPT", "LOAD", script.text) for script in self._scripts.values()]):
                if isinstance(answer, Exception):
                    raise failure(answer, self._name)
        yield from self._greet()

    def _take_over(self, wire: Wire, first: Reply[None] | None) -> None:
        """The connection is there: read from now on, and begin what was waiting; on the loop, if there is one."""
        with self._lock:
            if self._closed or self._wire is not None:
                # Interrupted just when it set out, somebody may have dialled twice.
                self._lose(wire, closed(self._name))
            else:
                wire.since = wire.heard_at = time.monotonic()
                self._wire = wire
                if self._loop is not None:
                    self._loop.add_reader(wire.fd, self._receive, wire)
                    wire.watched = True
                waiting, self._waiting = self._waiting, deque()
                self._depth += 1
                try:
                    for exchange in waiting:
                        self._begin(wire, exchange)
                    self._flush(wire)
                finally:
                    self._depth -= 1
                self._next_reader()
                if self._listening or self._urgent:
                    self._help.wake()
        if self._loop is not None:
            self._watch_silence(wire)
        self._complete()
        if first is None:
            self._tell(self._on_up)
        elif self._closed:
            first.set_exception(closed(self._name))
        else:
            first.set_result(None)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _watch_silence(self, wire: Wire) -> None:
        """On the loop: a connection that owes answers and says nothing is dead, whatever TCP thinks."""
        assert self._loop is not None
        if wire.lost or self._loop.is_closed():
            return
        self._check_silence(wire)
        self._ping_if_idle(wire)
        self._loop.call_later(self._look_every, self._watch_silence, wire)

    def _check_silence(self, wire: Wire) -> None:
        with self._lock:
            if wire.asked and time.monotonic() - max(wire.heard_at, wire.asked[0].asked_at) > self._silence:
                self._lose(wire, silent(self._name, self._silence))
        if self._finished:
            self._complete()

    def _ping_if_idle(self, wire: Wire) -> None:
        if self._listening and not wire.asked and time.monotonic() - wire.heard_at > self._ping_after:
            self.converse(_ping())

    def _pump(self, wire: Wire, timeout: float) -> None:
        """Wait for the socket at most *timeout* seconds, and take what is there."""
        writing = bool(wire.out)
        if writing:
            wire.poll.modify(wire.fd, select.POLLIN | select.POLLOUT)
        try:
            ready = wire.poll.poll(timeout * 1000)
        finally:
            if writing:
                wire.poll.modify(wire.fd, select.POLLIN)
        for fd, events in ready:
            if fd == wire.fd:
                if events & ~select.POLLOUT:
                    self._receive(wire)
                if events & select.POLLOUT:
                    self._go_on_writing(wire)
            else:
                try:
                    os.read(fd, 4096)
                except OSError:
                    pass
        if not ready:
            self._check_silence(wire)

    def _receive(self, wire: Wire) -> None:
        """Take what the socket has, to the last byte: what stayed in a parser would wait for the next arrival."""
        try:
            self._receive_all(wire)
        except BaseException as error:
            self._interrupted(wire, error)
            raise

    def _interrupted(self, wire: Wire, error: BaseException) -> None:
        """An exception came out of nowhere (a time limit, Ctrl-C): nobody knows what was read, and what was sent."""
        self._fail(wire, f"a thread that worked it was interrupted by {type(error).__name__}")

    def _receive_all(self, wire: Wire) -> None:
        more = True
        while more:
            try:
                if wire.secure:
                    # Reading and writing at the same time is not for TLS.
                    with self._lock:
                        if wire.lost:
                            return
                        count = wire.socket.recv_into(wire.buffer)
                else:
                    count = wire.socket.recv_into(wire.buffer)
            except (OSError, ValueError) as error:
                if not would_block(error):
                    self._fail(wire, str(error))
                return
            if not count:
                self._fail(wire, "was closed by the server")
                return
            more = wire.secure or count == CHUNK
            pushes: list[list[Any]] = []
            with self._lock:
                if wire.lost:
                    return
                self._depth += 1
                try:
                    wire.heard_at = time.monotonic()
                    wire.parser.feed(wire.buffer, 0, count)
                    self._take_answers(wire, pushes)
                    if wire.out:
                        self._flush(wire)
                except hiredis.ProtocolError as error:
                    self._lose(wire, lost(self._name, f"does not speak RESP: {error}"))
                finally:
                    self._depth -= 1
            if self._finished:
                self._complete()
            for push in pushes:
                self._tell(self._on_push, push)

    def _fail(self, wire: Wire, why: str) -> None:
        with self._lock:
            self._lose(wire, lost(self._name, why))
        self._complete()

    def _take_answers(self, wire: Wire, pushes: list[list[Any]]) -> None:
        asked, gets = wire.asked, wire.parser.gets
        while not wire.lost:
            answer = gets()
            if answer is NOTHING:
                break
            if type(answer) is hiredis.PushNotification:
                pushes.append(list(answer))
                continue
            if not asked:
                self._lose(wire, lost(self._name, f"answered what was not asked: {answer!r:.200}"))
                return
            exchange = asked[0]
            if exchange.subscribing and isinstance(answer, dict):
                complete = True
            else:
                exchange.answers.append(answer)
                complete = len(exchange.answers) == exchange.expected
            if complete:
                # Taken off afterwards: should this be interrupted, it is told of the loss.
                self._answered(wire, exchange)
        if wire.retiring is not None and not asked:
            self._lose(wire, wire.retiring)

    def _tell(self, callback: Callable[..., object], *arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception:
            logger.exception("what the server sent or did could not be taken", server=self._name)

    def _next_reader(self) -> None:
        """Under the lock: nobody reads; have one of those who wait do it."""
        wire = self._wire
        if wire is None or wire.reader:
            return
        if self._queue:
            self._queue.popleft().wake()
        elif self._urgent and wire.asked:
            self._help.wake()

    def _enter(self, wire: Wire) -> bool:
        """Whether this thread may read now, and nobody else until it leaves."""
        with self._lock:
            if wire.reader or wire.lost:
                return False
            wire.reader = threading.get_ident()
            self._bell_users += 1
            return True

    def _leave(self, wire: Wire) -> None:
        """This thread reads no more."""
        with self._lock:
            wire.reader = 0
            self._bell_users -= 1
            if wire.lost:
                wire.socket.close()
            if self._closed:
                self._take_bell_down()
            else:
                self._next_reader()

    # -- the attendant -------------------------------------------------------------------------------------------------

    def _get_help(self) -> None:
        if self._loop is not None:
            return
        with self._lock:
            if self._attendant is None and not self._closed:
                self._attendant = threading.Thread(target=self._attend, name=f"kern {self._name}", daemon=True)
                self._attendant.start()
        self._help.wake()

    def _attend(self) -> None:
        """The attendant's life: read while somebody needs it and no other thread does."""
        while not self._stopped.is_set():
            self._help.rest()
            with self._lock:
                wire = self._wire
                if wire is not None and not wire.asked and not self._waiting:
                    self._urgent = False
                wanted = wire is not None and (self._listening or self._urgent)
                driven = not self._urgent and time.monotonic() - self._driven_at < STEP_ASIDE
                reads = wire is not None and wanted and not driven and self._enter(wire)
            if wire is not None and reads:
                try:
                    self._pump(wire, self._look_every)
                finally:
                    self._leave(wire)
                self._ping_if_idle(wire)
            elif not self._stopped.is_set():
                self._help.wait(STEP_ASIDE if wanted else -1)

    def _ring(self, _: object = None) -> None:
        """Wake whoever sleeps on the socket."""
        with self._lock:
            if self._bell_rope >= 0:
                try:
                    os.write(self._bell_rope, b"!")
                except OSError:
                    pass  # it rings already

    def _take_bell_down(self) -> None:
        """Under the lock, after the end: the last who may look at the bell removes it."""
        if self._bell >= 0 and self._bell_users == 0:
            os.close(self._bell)
            os.close(self._bell_rope)
            self._bell = self._bell_rope = -1

    # -- conversations; all under the lock -----------------------------------------------------------------------------

    def _begin(self, wire: Wire, exchange: Exchange[Any]) -> None:
        if exchange.commands:  # said before, on a connection that was lost
            self._ask(wire, exchange)
        elif exchange.reply.set_running_or_notify_cancel():
            self._step(wire, exchange, None)

    def _step(self, wire: Wire | None, exchange: Exchange[Any], answers: list[Any] | Exception | None) -> None:
        """Tell the conversation what was answered, and ask what it asks next."""
        while True:
            try:
                if isinstance(answers, Exception):
                    commands = exchange.conversation.throw(answers)
                else:
                    commands = exchange.conversation.send(answers)  # type: ignore[arg-type]
            except StopIteration as end:
                self._finished.append((exchange.reply, end.value, None))
                return
            except Exception as error:
                self._finished.append((exchange.reply, None, error))
                return
            except BaseException:
                # Meant for the thread, which may be doing this for another one.
                self._finished.append((exchange.reply, None, lost(self._name, "nobody knows how far it came")))
                raise
            if commands:
                break
            answers = []
        exchange.commands, exchange.kept = commands, None
        if exchange.once and isinstance(answers, Exception):
            self._give_up(exchange, answers)
        elif self._closed:
            self._give_up(exchange, self._gone())
        elif wire is None or wire.lost or wire.retiring is not None:
            self._waiting.append(exchange)
        else:
            self._ask(wire, exchange)

    def _ask(self, wire: Wire, exchange: Exchange[Any]) -> None:
        commands = exchange.commands
        try:
            sent = packed(commands[0]) if len(commands) == 1 else b"".join([packed(command) for command in commands])
        except Exception as error:  # a value that is neither text nor number
            self._give_up(exchange, error)
            return
        exchange.answers, exchange.expected = [], len(commands)
        exchange.subscribing = commands[0][0] in SUBSCRIPTIONS
        exchange.asked_at = time.monotonic()
        wire.asked.append(exchange)
        wire.out += sent
        if exchange.subscribing:
            wire.out += _END_OF_SUBSCRIPTIONS
            exchange.expected = -1

    def _give_up(self, exchange: Exchange[Any], error: Exception) -> None:
        exchange.conversation.close()
        self._finished.append((exchange.reply, None, error))

    def _answered(self, wire: Wire, exchange: Exchange[Any]) -> None:
        """All answers to a batch are there."""
        answers = exchange.answers
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                again, answers = self._said_again(wire, exchange)
                break
        else:
            again = False
            if exchange.kept is not None:
                answers = filled(exchange.kept, answers)
        wire.asked.popleft()
        if not again:
            self._step(wire, exchange, answers)
        elif wire.retiring is not None:
            self._waiting.append(exchange)
        else:
            self._ask(wire, exchange)

    def _said_again(self, wire: Wire, exchange: Exchange[Any]) -> tuple[bool, list[Any]]:
        """Whether some commands are to be said again, as nothing was carried out: the server has forgotten their
        scripts, or it is the wrong one now."""
        answers, repeated, gaps = exchange.answers, list[Command](), list[Any]()
        for command, answer in zip(exchange.commands, answers, strict=False):
            if exchange.subscribing or not isinstance(answer, hiredis.ReplyError):
                gaps.append(answer)
            elif (script := self._forgotten(command, answer)) is not None:
                repeated.append(("EVAL", script.text, *command[2:]))
                gaps.append(AGAIN)
            elif is_elsewhere(answer) and exchange.losses < REPETITIONS and not exchange.once:
                wire.retiring = lost(self._name, f"has to be found anew ({answer})")
                repeated.append(command)
                gaps.append(AGAIN)
            else:
                gaps.append(answer)
        if wire.retiring is not None and repeated:
            exchange.losses += 1
        answers = gaps if exchange.kept is None else filled(exchange.kept, gaps)
        if not repeated:
            return False, answers
        exchange.commands, exchange.kept = repeated, answers
        return True, answers

    def _forgotten(self, command: Command, answer: Exception) -> Script | None:
        if command[0] == "EVALSHA" and str(answer).startswith("NOSCRIPT"):
            return self._scripts.get(str(command[1]))
        return None

    def _go_on_writing(self, wire: Wire) -> None:
        try:
            with self._lock:
                if not wire.lost:
                    wire.heard_at = time.monotonic()  # it takes more: a sign of life
                    self._flush(wire)
        except BaseException as error:
            self._interrupted(wire, error)
            raise
        if self._finished:
            self._complete()

    def _flush(self, wire: Wire) -> None:
        """Send what is to be sent, as far as the socket takes it."""
        out = wire.out
        while out:
            try:
                if wire.secure:
                    with memoryview(out) as view, view[:CHUNK] as part:
                        sent = wire.socket.send(part)
                else:
                    sent = wire.socket.send(out)
            except (OSError, ValueError) as error:
                if not would_block(error):
                    self._lose(wire, lost(self._name, str(error)))
                    return
                break
            del out[:sent]
        if self._loop is not None and wire is self._wire:
            if bool(out) != wire.writing:
                wire.writing = bool(out)
                if out:
                    self._loop.add_writer(wire.fd, self._go_on_writing, wire)
                else:
                    self._loop.remove_writer(wire.fd)
        elif out and wire.reader:
            self._ring()  # whoever sleeps on the socket is to look for room too

    # -- losing it; under the lock -------------------------------------------------------------------------------------

    def _lose(self, wire: Wire, error: Exception) -> None:
        """The connection is no good: throw it away, tell everybody, dial anew."""
        if wire.lost:
            return
        wire.lost = True
        was_up = wire is self._wire
        if was_up:
            self._wire = None
        self._close(wire)
        asked, wire.asked = wire.asked, deque()
        wire.out = bytearray()
        said = error if isinstance(error, ConnectionLost) else ConnectionLost(str(error))
        for exchange in asked:
            exchange.losses += 1
            if exchange.losses > REPETITIONS:
                self._give_up(exchange, said)
            else:
                self._step(None, exchange, said)
        if was_up and not self._closed:
            steady = time.monotonic() - wire.since > STEADY
            self._pause = 0.0 if steady else _longer(self._pause)
            self._finished.append((None, None, error))

    def _close(self, wire: Wire) -> None:
        if self._loop is not None:
            if wire.watched:
                self._loop.remove_reader(wire.fd)
            if wire.writing:
                self._loop.remove_writer(wire.fd)
            wire.watched = wire.writing = False
        if wire.reader:
            # A descriptor must not be closed, and given to another, while a thread sleeps on it.
            try:
                socket.socket.shutdown(wire.socket, socket.SHUT_RDWR)
            except OSError:
                pass
        else:
            wire.socket.close()

    def _shut(self, error: Exception) -> None:
        """No connection any more, ever."""
        if self._closed:
            return
        self._closed = True
        self._stopped.set()
        if self._wire is not None:
            self._lose(self._wire, error)
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            if exchange.commands or exchange.reply.set_running_or_notify_cancel():
                self._give_up(exchange, error)
        self._ring()
        self._help.wake()
        self._take_bell_down()

    def _gone(self) -> Exception:
        return inherited(self._name) if self._inherited else closed(self._name)

    def _complete(self) -> None:
        """Tell callers what came of their conversations; without the lock, for they do what they like."""
        interruption: BaseException | None = None
        while True:
            with self._lock:
                if self._depth or not self._finished:
                    break  # whoever is in the middle of it comes here next
                finished, self._finished = self._finished, []
            for outcome in finished:
                try:
                    self._report(*outcome)
                except BaseException as error:
                    # Meant for this thread, which tells the others what concerns them first.
                    interruption = error
                    if outcome[0] is not None:
                        _release(outcome[0])
                    self._report(*outcome)
        if interruption is not None:
            raise interruption

    def _report(self, reply: Reply[Any] | None, value: Any, error: BaseException | None) -> None:
        if reply is None:
            self._tell(self._on_down, error)
            self._dial_on_a_thread(None)
        elif reply.done():
            pass  # an interruption came after it was told
        elif error is not None:
            reply.set_exception(error)
        else:
            reply.set_result(value)

    # -- a forked child ------------------------------------------------------------------------------------------------

    def _disown(self) -> None:
        """In a child: nothing here is ours. Only our copies of descriptors go; the parent's connection stays."""
        self._lock = threading.RLock()
        self._depth = 0
        self._closed = self._inherited = True
        # Replies of the parent are not completed here: their locks may be those of threads that do not exist.
        self._finished, self._waiting, self._queue = [], deque(), deque()
        wire, self._wire = self._wire, None
        descriptors = [self._bell, self._bell_rope]
        self._bell = self._bell_rope = -1
        if wire is not None and not wire.lost:
            wire.lost = True
            descriptors.append(wire.socket.detach())
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)


def _longer(pause: float) -> float:
    first, factor, longest = BACKOFF
    return min(longest, pause * factor) if pause else first


def _ping() -> Conversation[None]:
    yield [("PING",)]


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _after_fork() -> None:
    for link in list(_links):
        link._disown()


os.register_at_fork(after_in_child=_after_fork)
