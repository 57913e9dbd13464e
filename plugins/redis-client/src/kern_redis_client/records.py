"""Records on Redis, on the connection of the driver that lends them.

=========================================  ==========  ==============================================================
key                                        type        content
=========================================  ==========  ==============================================================
``kern.record.<length of kind>:<kind>:…``  string      ``<version>:<expires, ms>:<value>``; expires with the record
``kern.records.<kind>``                    sorted set  names, in their order
``kern.record_expiries.<kind>``            sorted set  names by the ms at which they expire
channel ``kern.records.<kind>``                        ``<version>:<name>`` of each change; version 0: deleted
=========================================  ==========  ==============================================================

The driver says three things to it: its greeting is part of the driver's, it looks at each message first, and the link
knows its script::

    records = RedisRecords(lambda: self._link, keys, address.masked)
    open_link(address, greet=…, on_push=…, scripts=[*own, *SCRIPTS])
"""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs

from kern import log
from kern.contracts.records import Record, Records
from kern.errors import KernError
from kern_redis_client import scripts
from kern_redis_client.failures import ConnectionLost, RedisError, failure
from kern_redis_client.keys import Keys
from kern_redis_client.link import Conversation, Link

logger = log.get_logger("kern.connection")

#: Seconds that a call waits for the server, an interrupted connection included.
TIMEOUT = 20.0
#: Records read at once.
PAGE = 256

_CHANGE = scripts.Script(scripts.fragment("change_record"))
#: What the link has to know.
SCRIPTS = (_CHANGE,)


class RedisRecords(Records):
    """Small shared facts.

    :param link: answers the driver's link.
    :param name: the server's URL with the password masked.
    :param error: makes the error of the driver's contract out of ours.
    """

    def __init__(
        self,
        link: Callable[[], Link],
        keys: Keys,
        name: str,
        error: Callable[[RedisError], KernError] = lambda error: error,
    ) -> None:
        self._link, self._keys, self._name, self._error = link, keys, name, error
        self._lock = threading.Lock()
        self._watches: dict[str, _Watch] = {}
        self._teller: _Teller | None = None

    # -- what the driver calls

    def greet(self) -> Conversation[None]:
        """Part of the driver's greeting: listen again, and see what was missed."""
        with self._lock:
            watches = list(self._watches.values())
        for watch in watches:
            for answer in (yield [("SUBSCRIBE", watch.channel)]):
                raise failure(answer, self._name)
            found = yield from self._read_all(watch.kind, "")
            self._compare(watch, {record.key: record.version for record in found})

    def take(self, message: list[Any]) -> bool:
        """Whether *message* was for watchers."""
        if not self._watches or len(message) != 3 or message[0] != b"message":
            return False
        watch = self._watches.get(message[1].decode("utf-8", "surrogateescape"))
        if watch is None:
            return False
        version, _, key = message[2].partition(b":")
        self._changed(watch, key.decode(), int(version))
        return True

    # -- reading

    def get(self, kind: str, key: str) -> Record | None:
        found: list[Record | None] = self._ask(lambda: self._read(kind, [key]))
        return found[0]

    def scan(self, kind: str, prefix: str = "") -> Iterator[Record]:
        return iter(self._ask(lambda: self._read_all(kind, prefix)))

    # -- writing

    def put(self, kind: str, key: str, value: bytes, ttl: float | None = None) -> Record:
        record = self._write("put", kind, key, value, ttl)
        assert record is not None
        return record

    def put_if_absent(self, kind: str, key: str, value: bytes, ttl: float | None = None) -> Record | None:
        return self._write("add", kind, key, value, ttl)

    def compare_and_set(self, record: Record, value: bytes, ttl: float | None = None) -> Record | None:
        return self._write("swap", record.kind, record.key, value, ttl, record.version)

    def expire(self, kind: str, key: str, ttl: float | None) -> bool:
        return self._write("expire", kind, key, b"", ttl) is not None

    def delete(self, kind: str, key: str, version: int | None = None) -> bool:
        return self._write("delete", kind, key, b"", None, version) is not None

    # -- watching

    def watch(self, kind: str, callback: Callable[[str], None]) -> Callable[[], None]:
        channel = self._keys(f"kern.records.{kind}")
        with self._lock:
            watch = self._watches.get(channel)
            first = watch is None
            if watch is None:
                watch = self._watches[channel] = _Watch(kind, channel)
            watch.callbacks[token := object()] = callback
            if self._teller is None:
                self._teller = _Teller()
                self._teller.start()
        if first:
            try:
                self._ask(lambda: self._subscribe(watch))
            except BaseException:
                self._end(watch, token)
                raise
        self._link().listen()
        return partial(self._end, watch, token)

    def _end(self, watch: _Watch, token: object) -> None:
        with self._lock:
            watch.callbacks.pop(token, None)
            last = not watch.callbacks and self._watches.get(watch.channel) is watch
            if last:
                del self._watches[watch.channel]
            if not self._watches and self._teller is not None:
                self._teller.end()
                self._teller = None
        if last:
            try:
                self._ask(lambda: _say([("UNSUBSCRIBE", watch.channel)]))
            except KernError as error:
                # A connection that is gone listens to nothing.
                logger.debug("a watch could not be ended on the server", error=str(error))

    def _subscribe(self, watch: _Watch) -> Conversation[None]:
        for answer in (yield [("SUBSCRIBE", watch.channel)]):
            raise failure(answer, self._name)
        found = yield from self._read_all(watch.kind, "")
        with self._lock:
            watch.known.update({record.key: record.version for record in found})

    def _changed(self, watch: _Watch, key: str, version: int) -> None:
        with self._lock:
            if version:
                watch.known[key] = version
            else:
                watch.known.pop(key, None)
            if self._teller is not None:
                for callback in watch.callbacks.values():
                    self._teller.tell(callback, key)

    def _compare(self, watch: _Watch, now: dict[str, int]) -> None:
        before = watch.known
        for key in {key for key, version in now.items() if before.get(key) != version} | (before.keys() - now.keys()):
            self._changed(watch, key, now.get(key, 0))

    # -- inside

    def _record_key(self, kind: str, key: str = "") -> str:
        # With its length, so that no kind can reach into another.
        return self._keys(f"kern.record.{len(kind)}:{kind}:{key}")

    def _read(self, kind: str, names: list[str]) -> Conversation[list[Record | None]]:
        (found,) = yield from _repeated([("MGET", *(self._record_key(kind, name) for name in names))])
        if isinstance(found, Exception):
            raise failure(found, self._name)
        return [_parsed(kind, name, held) for name, held in zip(names, found, strict=True)]

    def _read_all(self, kind: str, prefix: str) -> Conversation[list[Record]]:
        index = self._keys(f"kern.records.{kind}")
        start: bytes = b"[" + prefix.encode() if prefix else b"-"
        end: bytes = b"(" + prefix.encode() + b"\xff" if prefix else b"+"
        records: list[Record] = []
        while True:
            (names,) = yield from _repeated([("ZRANGEBYLEX", index, start, end, "LIMIT", 0, PAGE)])
            if isinstance(names, Exception):
                raise failure(names, self._name)
            if names:
                found = yield from self._read(kind, [name.decode() for name in names])
                records += [record for record in found if record is not None]
            if len(names) < PAGE:
                return records
            start = b"(" + names[-1]

    def _write(
        self, what: str, kind: str, key: str, value: bytes, ttl: float | None, expected: int | None = None
    ) -> Record | None:
        # Random and not counted: a key that was deleted and written again must not repeat a version.
        version = random.SystemRandom().getrandbits(62) | 1
        channel = index = self._keys(f"kern.records.{kind}")
        life = "" if ttl is None else max(1, round(ttl * 1000))
        command = _CHANGE.call(
            (self._record_key(kind, key), index, self._keys(f"kern.record_expiries.{kind}")),
            (
                *(what, key, version, "" if expected is None else expected, life, bytes(value)),
                *(channel, self._record_key(kind)),
            ),
        )
        done, expires = self._ask(lambda: self._change(command, what == "delete"))
        if not done:
            return None
        return Record(kind, key, bytes(value), version, int(expires) / 1000 if expires else None)

    def _change(self, command: Any, deletes: bool) -> Conversation[tuple[int, bytes]]:
        lost = False
        while True:
            try:
                (answer,) = yield [command]
            except ConnectionLost:
                # The version tells a change of ours that had arrived; what is not there any more we have deleted.
                lost = True
                continue
            if isinstance(answer, Exception):
                raise failure(answer, self._name)
            return (1, b"") if deletes and lost else (answer[0], answer[1])

    def _ask(self, conversation: Callable[[], Conversation[Any]]) -> Any:
        try:
            return self._link().ask(conversation(), TIMEOUT)
        except RedisError as error:
            translated = self._error(error)
            if translated is error:
                raise
            raise translated from error


@attrs.define
class _Watch:
    """One kind, and who watches it."""

    kind: str
    channel: str
    callbacks: dict[object, Callable[[str], None]] = attrs.field(factory=dict)
    #: Versions by key, to see what happened while there was no connection.
    known: dict[str, int] = attrs.field(factory=dict)


class _Teller(threading.Thread):
    """Calls watchers: they may take their time, and read records."""

    def __init__(self) -> None:
        super().__init__(name="kern records", daemon=True)
        self._said: queue.SimpleQueue[tuple[Callable[[str], None], str] | None] = queue.SimpleQueue()

    def tell(self, callback: Callable[[str], None], key: str) -> None:
        self._said.put((callback, key))

    def end(self) -> None:
        self._said.put(None)

    def run(self) -> None:
        while (said := self._said.get()) is not None:
            callback, key = said
            try:
                callback(key)
            except Exception:
                logger.exception("a watcher of records failed", key=key)


def _parsed(kind: str, key: str, held: bytes | None) -> Record | None:
    if held is None:
        return None
    version, expires, value = held.split(b":", 2)
    return Record(kind, key, value, int(version), int(expires) / 1000 if expires else None)


def _say(commands: list[Any]) -> Conversation[list[Any]]:
    return (yield commands)


def _repeated(commands: list[Any]) -> Conversation[list[Any]]:
    """The answers to what may be said as often as one likes."""
    while True:
        try:
            return (yield commands)
        except ConnectionLost:
            continue
