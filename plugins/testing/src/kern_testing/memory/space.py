"""The server behind ``memory://name``: one lock, one clock, and what is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from kern.errors import ImproperlyConfigured
from kern_testing.memory.broker import Broker
from kern_testing.memory.records import MemoryRecords
from kern_testing.memory.results import Results

if TYPE_CHECKING:
    from kern_testing.clock import VirtualClock

_spaces: dict[str, Space] = {}
_spaces_lock = threading.Lock()


class Space:
    """What one name stands for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.server = f"memory://{name}"
        self.lock = threading.RLock()
        self._clock: Callable[[], float] = time.time
        self._virtual: VirtualClock | None = None
        #: What every command fails with while the server "cannot be reached".
        self._outage: str | None = None
        #: Connections that are broken.
        self._cut: set[int] = set()
        self.broker = Broker(self.now)
        self.results = Results(self.now)
        #: What hears each broadcast, by connection.
        self.subscribers: dict[int, Callable[[str, bytes], None]] = {}
        self.records = MemoryRecords(self.lock, self.now)

    def now(self) -> float:
        """Seconds since the epoch, as this server counts them."""
        return self._clock()

    @property
    def clock(self) -> VirtualClock | None:
        """The clock it was told to go by."""
        return self._virtual

    def use_clock(self, clock: VirtualClock) -> None:
        """Go by *clock* from now on; when it moves, waiting workers look again."""
        self._clock = self._virtual = clock
        clock.on_advance(self._moved)

    def _moved(self) -> None:
        with self.lock:
            woken = self.broker.due_queues()
        if woken:
            self.broker.wake(woken)

    def cut(self, driver: object) -> None:
        """Break one connection; the next thing its driver does fails, and opening it again helps."""
        self._cut.add(id(driver))
        self.broker.wake(frozenset())

    def mend(self, driver: object) -> None:
        """What opening a connection does."""
        self._cut.discard(id(driver))

    @contextmanager
    def outage(self, why: str = "the server was taken away by a test") -> Iterator[None]:
        """Every command fails meanwhile, also those of connections that are open."""
        self._outage = why
        try:
            yield
        finally:
            self._outage = None

    def problem(self, driver: object) -> str | None:
        """Why *driver* cannot reach this server; ``None``: it can."""
        if self._outage is not None:
            return f"cannot reach {self.server}: {self._outage}"
        if id(driver) in self._cut:
            return f"the connection to {self.server} was cut by a test"
        return None


def space(name: str = "") -> Space:
    """The space of that name, made when it is first asked for."""
    with _spaces_lock:
        found = _spaces.get(name)
        if found is None:
            found = _spaces[name] = Space(name)
        return found


def forget(name: str = "") -> None:
    """Throw the space away, with everything in it; connections that are open keep the old one."""
    with _spaces_lock:
        _spaces.pop(name, None)


def parse(url: str, *options: str) -> tuple[str, dict[str, str]]:
    """Name and options of a ``memory://name?option=value``.

    :raises ImproperlyConfigured: the URL is not of that form, or has an option that is not one of *options*.
    """
    parts = urlsplit(url)
    if parts.scheme != "memory":
        raise ImproperlyConfigured(f"{url!r} is not a memory:// URL")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(given) - set(options))
    if unknown:
        known = f"known: {', '.join(options)}" if options else "there are none"
        raise ImproperlyConfigured(f"{url!r}: unknown option {unknown[0]!r} ({known})")
    return parts.netloc + parts.path.rstrip("/"), given
