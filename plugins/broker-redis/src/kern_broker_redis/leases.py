"""Keeping leases alive, and handing back those of workers that fell silent.

A lease that has expired is handed back by whoever notices, unless it may have expired for another reason than its
owner's silence: a server that was down, stopped or out of reach let nobody renew anything, and a clock that was set
makes leases expire all at once. Whoever finds the server restarted prolongs all leases first; and whose own connection
was gone or silent, or who sees the server's clock jump, looks at others' leases only when they have had the time of a
lease to come back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from kern import log
from kern_broker_redis import notes
from kern_broker_redis.holdings import Holdings, holding_of
from kern_broker_redis.names import Names
from kern_redis_client.failures import failure
from kern_redis_client.link import Command, Conversation
from kern_redis_client.scripts import load

logger = log.get_logger("kern.connection")

RENEW = load("kern_broker_redis", "scripts/renew")
START = load("kern_broker_redis", "scripts/start")
EXPIRED = load("kern_broker_redis", "scripts/expired")
HAND_BACK = load("kern_broker_redis", "scripts/hand_back", include=("record",))
RESTARTED = load("kern_broker_redis", "scripts/restarted")
SCRIPTS = (RENEW, START, EXPIRED, HAND_BACK, RESTARTED)

#: Leases that one script call renews, and that one hands back, at most; and bytes of the latter.
RENEWED, HANDED_BACK, BYTES = 500, 50, 512 * 1024
#: Seconds a lease lasts, as long as nobody has said.
LEASE_SECONDS = 15.0


class Leases:
    """For one connection.

    :param name: the server for messages, its URL with the password masked.
    """

    def __init__(self, name: str, names: Names, holdings: Holdings) -> None:
        self._name = name
        self._names = names
        self._holdings = holdings
        self._clock = ServerClock()
        #: What a cluster looks at to know where the script belongs.
        self._keys = (names("kern.leases"),)
        self._owner = ""
        #: Seconds; the longest that was asked for lately.
        self.seconds = LEASE_SECONDS
        #: Monotonic time before which nobody's silence means anything.
        self._trusted_from = 0.0

    def use(self, owner: str) -> None:
        """In whose name leases are renewed."""
        self._owner = owner

    # -- whom to believe

    def now(self) -> float:
        """Seconds since the epoch, the server's clock."""
        return self._clock.now()

    def heard(self, now: int, asked_at: float) -> None:
        """The server has said that it is *now* (ms), asked at this monotonic time."""
        seconds = self.seconds / 3
        jump = self._clock.set(now)
        if jump > seconds or time.monotonic() - asked_at > seconds:
            self._doubt()

    def _doubt(self) -> None:
        """Others may have been kept from renewing."""
        self._trusted_from = time.monotonic() + self.seconds

    # -- a new connection

    def reassert(self, again: bool) -> Conversation[frozenset[str]]:
        """Say first of all that what is held is held; answers what is lost.

        :param again: there was a connection before.
        """
        lost: frozenset[str] = frozenset()
        if again:
            lost, _known = yield from self._renew(self._holdings.receipts(), self.seconds)
            self._doubt()
        (server,) = yield [("INFO", "server")]
        if not isinstance(server, Exception) and (run := _field(server, "run_id")):
            until = 0
            while True:
                (until,) = yield [
                    RESTARTED.call(self._keys, (self._names.prefix, run, LEASE_SECONDS * 1000, until, RENEWED))
                ]
                if isinstance(until, Exception):
                    raise failure(until, self._name)
                if not until:
                    break
        return lost

    # -- keeping

    def renew(self, receipts: Sequence[str], lease_seconds: float) -> Conversation[tuple[frozenset[str], bool]]:
        """Prolong; answers what is ours no more, and whether presence knows the owner."""
        self.seconds = max(lease_seconds, 0.001)
        lost, known = yield from self._renew(receipts, lease_seconds)
        for receipt in lost:
            self._holdings.forget(receipt)
        self._holdings.renewed(receipts)
        return lost, known

    def _renew(self, receipts: Sequence[str], seconds: float) -> Conversation[tuple[frozenset[str], bool]]:
        pieces = [receipts[start : start + RENEWED] for start in range(0, len(receipts), RENEWED)] or [()]
        head = (self._names.prefix, self._owner, max(1, int(seconds * 1000)))
        asked_at = time.monotonic()
        commands: list[Command] = [RENEW.call(self._keys, (*head, *piece)) for piece in pieces]
        lost: set[str] = set()
        known = False
        for piece, answer in zip(pieces, (yield commands), strict=True):
            if isinstance(answer, Exception):
                raise failure(answer, self._name)
            self.heard(answer[0], asked_at)
            known = known or answer[1] == 1
            lost.update(piece[number - 1] for number in answer[2:])
        return frozenset(lost), known

    def mark_started(self, receipts: Sequence[str]) -> Conversation[None]:
        if receipts:
            (answer,) = yield [START.call(self._keys, (self._names.prefix, *receipts))]
            if isinstance(answer, Exception):
                raise failure(answer, self._name)

    # -- handing back

    def recover(self, everything: bool = False) -> Conversation[int]:
        """Hand back what has expired; answers how much.

        :param everything: also what has not.
        """
        if not everything and time.monotonic() < self._trusted_from:
            return 0
        count = 0
        (most,) = yield [("ZCARD", self._names("kern.lease_index"))]
        if isinstance(most, Exception):
            raise failure(most, self._name)
        # Bounded: live workers may take new leases faster than all are handed back.
        while count < most:
            (found,) = yield [EXPIRED.call(self._keys, (self._names.prefix, int(everything), HANDED_BACK, BYTES))]
            if isinstance(found, Exception):
                raise failure(found, self._name)
            handed = (yield from self._hand_back(found, everything)) if found else 0
            if not handed:
                break
            count += handed
        return count

    def _hand_back(self, found: Sequence[Any], everything: bool) -> Conversation[int]:
        leases = [
            (
                receipt.decode("utf-8", "surrogateescape"),
                bool(expired),
                bool(started),
                holding_of(receipt.decode("utf-8", "surrogateescape"), record, self._names) if record else None,
            )
            for receipt, expired, started, record in zip(*(found[start::4] for start in range(4)), strict=True)
        ]
        keys = [holding.key for _, _, _, holding in leases if holding is not None]
        noted: Any = ()
        if keys:
            (noted,) = yield [("HMGET", self._names(notes.NOTES), *keys)]
            if isinstance(noted, Exception):
                raise failure(noted, self._name)
        values = iter(noted)
        arguments: list[str | bytes] = []
        for receipt, expired, started, holding in leases:
            if holding is None:
                arguments += (receipt, "", "")
                continue
            note = notes.handed_back(notes.read(next(values)), expired, started)
            arguments += (receipt, holding.key, note.written())
            self._holdings.forget(receipt)
        (count,) = yield [HAND_BACK.call(self._keys, (self._names.prefix, int(everything), *arguments))]
        if isinstance(count, Exception):
            raise failure(count, self._name)
        return int(count)


class ServerClock:
    """The server's time, from what its answers say."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._origin: float | None = None

    def set(self, now: int) -> float:
        """The server has just said that it is *now* (ms); by how many seconds that is not what was expected."""
        said = now / 1000
        self._ahead = said - time.time()
        before, self._origin = self._origin, said - time.monotonic()
        return 0.0 if before is None else abs(self._origin - before)

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self._ahead


def _field(info: bytes, name: str) -> str | None:
    for line in info.decode("utf-8", "replace").splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2]
    return None
