"""A TCP proxy that does to a connection what networks do: cuts it, swallows what it carries, slows it, refuses it.

It runs in a thread of the test's process, in front of one server::

    with Proxy("127.0.0.1", server.port) as proxy:
        …                       # whoever connects to proxy.port reaches the server
        proxy.cut()             # RST, both ways, whatever is open
        proxy.silence()         # connections stay open and carry nothing
        proxy.heal()

Directions are named after what they carry: *requests* go to the server, *replies* come back from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, TypeVar

import attrs

T = TypeVar("T")
Direction = Literal["requests", "replies"]

#: Bytes that are read at once; small enough for a throttle to be smooth.
CHUNK = 16_384
#: Seconds between two pieces of what is throttled: whoever reads sees many half frames.
TICK = 0.02
#: Seconds a command to the proxy's thread may take.
PATIENCE = 10.0
_RESET = struct.pack("ii", 1, 0)


@attrs.define
class _Trap:
    """Cuts the connection on which something comes to pass, once."""

    direction: Direction
    #: What has to be in the stream; empty: anything.
    marker: bytes
    #: How many bytes after that are still forwarded.
    after: int
    #: Whether the bytes up to the marker's end are forwarded, too.
    forward: bool
    sprung: threading.Event = attrs.field(factory=threading.Event)


@attrs.define
class _Way:
    """One direction: what is done to all that goes there."""

    silent: bool = False
    #: Seconds that everything comes late.
    delay: float = 0.0
    #: Bytes a second; ``None``: no limit.
    rate: float | None = None
    carried: int = 0
    #: Whether it carries, for those who wait until it does again.
    open: asyncio.Event = attrs.field(factory=asyncio.Event)


class _Pair:
    """One client's connection, and the one that was made to the server for it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        #: Whether the server's side is gone and the client has not been told.
        self.half_open = False
        #: The direction on which it is about to be cut; the other one carries nothing any more.
        self.doomed: Direction | None = None

    def reset(self) -> None:
        for writer in (self.client, self.server):
            _reset(writer)


class Proxy:
    """In front of the server at *host* and *port*."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        #: The port to connect to, on 127.0.0.1.
        self.port = 0
        #: When each connection was asked for, by ``time.monotonic()``; refused ones, too.
        self.asked_at: list[float] = []
        self._ways: dict[Direction, _Way] = {"requests": _Way(), "replies": _Way()}
        self._pairs: set[_Pair] = set()
        self._traps: list[_Trap] = []
        self._refusing = False
        self._loop = asyncio.new_event_loop()
        self._listener: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    # -- life

    def start(self) -> Proxy:
        self._thread.start()
        self._run(self._listen())
        return self

    def stop(self) -> None:
        """Close everything. Safe twice."""
        if not self._thread.is_alive():
            return
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def __enter__(self) -> Proxy:
        return self.start()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.stop()

    def instead_of(self, url: str) -> str:
        """*url* with the proxy in the place of the server."""
        host, port = self._target
        return url.replace(f"{host}:{port}", f"127.0.0.1:{self.port}")

    # -- faults

    def cut(self) -> int:
        """Reset all open connections, both ways; how many there were."""
        return self._do(self._cut)

    def silence(self, requests: bool = True, replies: bool = True) -> None:
        """Carry nothing from now on, in the directions named: connections stay open, new ones are taken.

        What is sent meanwhile comes through when all is healed, as after a partition that TCP outlives.
        """

        def act() -> None:
            for direction, silent in (("requests", requests), ("replies", replies)):
                self._silence(direction, silent)  # type: ignore[arg-type]

        self._do(act)

    def half_open(self) -> int:
        """The server sees its connections end; the clients see nothing, and what they send is swallowed.

        Connections made from now on are sound. How many there were.
        """

        def act() -> int:
            pairs = [pair for pair in self._pairs if not pair.half_open]
            for pair in pairs:
                pair.half_open = True
                _reset(pair.server)
            return len(pairs)

        return self._do(act)

    def slow(self, delay: float = 0.0, rate: float | None = None) -> None:
        """Everything comes *delay* seconds late, and no faster than *rate* bytes a second, each way."""

        def act() -> None:
            for way in self._ways.values():
                way.delay, way.rate = delay, rate

        self._do(act)

    def refuse(self) -> None:
        """Reset whoever connects from now on; what is open stays."""
        self._do(lambda: setattr(self, "_refusing", True))

    def cut_at(
        self, direction: Direction, marker: bytes = b"", after: int = 0, forward: bool = False
    ) -> threading.Event:
        """Reset the one connection on which *marker* comes along, once; set when that has happened.

        :param direction: ``requests`` or ``replies``.
        :param marker: bytes to look for, across segments; empty: whatever comes next.
        :param after: bytes after the marker that are still forwarded.
        :param forward: the other side gets what came up to the marker's end, and its answer is lost; else it gets
            nothing of that segment.
        """
        trap = _Trap(direction, marker, after, forward or after > 0)
        self._do(lambda: self._traps.append(trap))
        return trap.sprung

    def heal(self) -> None:
        """Carry everything again, at once, and take whoever connects."""

        def act() -> None:
            self._refusing = False
            self._traps.clear()
            for direction, way in self._ways.items():
                way.delay, way.rate = 0.0, None
                self._silence(direction, False)

        self._do(act)

    # -- looking

    @property
    def connections(self) -> int:
        """How many are open, and carry what is sent."""
        return self._do(lambda: sum(not pair.half_open for pair in self._pairs))

    def carried(self, direction: Direction) -> int:
        """Bytes forwarded so far."""
        return self._ways[direction].carried

    # -- in the proxy's thread

    async def _listen(self) -> None:
        for way in self._ways.values():
            way.open.set()
        self._listener = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._listener is not None
        self._listener.close()
        self._cut()
        ours = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not ours]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _silence(self, direction: Direction, silent: bool) -> None:
        way = self._ways[direction]
        way.silent = silent
        if silent:
            way.open.clear()
        else:
            way.open.set()

    def _cut(self) -> int:
        pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            pair.reset()
        return len(pairs)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked_at.append(time.monotonic())
        if self._refusing:
            _reset(writer)
            return
        try:
            from_server, to_server = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        for each in (writer, to_server):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = _Pair(writer, to_server)
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._carry(pair, "requests", reader, to_server),
                self._carry(pair, "replies", from_server, writer),
            )
        except (OSError, asyncio.CancelledError):
            pass  # the end of a connection, or of the proxy
        finally:
            self._pairs.discard(pair)
            pair.reset()

    async def _carry(
        self, pair: _Pair, direction: Direction, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        """From one side to the other until the source ends."""
        way = self._ways[direction]
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1024)
        delivering = asyncio.ensure_future(self._deliver(pair, direction, late, sink))
        try:
            while data := await source.read(CHUNK):
                if pair.half_open:
                    continue
                await late.put((time.monotonic() + way.delay, data))
            await late.put((0.0, b""))
            await delivering
        except OSError:
            if not pair.half_open:
                raise
        finally:
            delivering.cancel()
        if pair.half_open and direction == "replies":
            await asyncio.Event().wait()  # the client is not told, for as long as it stays

    async def _deliver(
        self, pair: _Pair, direction: Direction, late: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter
    ) -> None:
        way = self._ways[direction]
        seen = b""
        while True:
            due, data = await late.get()
            await _passes(max(0.0, due - time.monotonic()))
            await way.open.wait()
            if not data:
                if sink.can_write_eof() and not pair.half_open:
                    sink.write_eof()
                return
            if self._traps and (cut := self._trapped(direction, seen, data)) is not None:
                pair.doomed = direction
                way.carried += await _send(sink, data[:cut])
                self._pairs.discard(pair)
                # The other side has read what it is to get before it hears of the reset.
                await _passes(0.01)
                pair.reset()
                return
            seen = (seen + data)[-256:]
            if pair.half_open or pair.doomed not in (None, direction):
                continue
            while data:
                rate = way.rate
                size = len(data) if rate is None else max(1, int(rate * TICK))
                piece, data = data[:size], data[size:]
                way.carried += await _send(sink, piece)
                if rate is not None:
                    await _passes(len(piece) / rate)

    def _trapped(self, direction: Direction, seen: bytes, data: bytes) -> int | None:
        """How many bytes of *data* go through before the cut; ``None``: there is none."""
        for trap in self._traps:
            if trap.direction != direction:
                continue
            if trap.marker:
                tail = seen[-(len(trap.marker) - 1) :] if len(trap.marker) > 1 else b""
                found = (tail + data).find(trap.marker)
                if found < 0:
                    continue
                end = max(0, found + len(trap.marker) - len(tail))
            else:
                end = 0
            if trap.forward and end + trap.after > len(data):
                trap.marker, trap.after = b"", end + trap.after - len(data)
                continue
            self._traps.remove(trap)
            trap.sprung.set()
            return end + trap.after if trap.forward else 0
        return None

    # -- from outside

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def _do(self, act: Callable[[], T]) -> T:
        async def work() -> T:
            return act()

        return self._run(work())


async def _passes(seconds: float) -> None:
    """What is late, or slow, takes its time."""
    await asyncio.sleep(seconds)  # the task's own duration


async def _send(sink: asyncio.StreamWriter, data: bytes) -> int:
    sink.write(data)
    await sink.drain()
    return len(data)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, whatever is still to be sent."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
