"""Claims: one script pops and leases; what came back before is looked up, what cannot be read is handed out as such.

A claim that finds nothing leaves its worker waiting: the script says of which queues it is a sentry, and the lists of
those are then named in an ``EXISTS``, by which the server remembers to tell of the next message. The answer to the
``EXISTS`` says whether one has come in between.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from kern import log, seams
from kern.contracts.transport import Claim, Claimed
from kern.delivery import Delivery
from kern.errors import DecodeError
from kern_broker_redis import notes
from kern_broker_redis.holdings import Holding, Holdings
from kern_broker_redis.leases import RENEW, Leases
from kern_broker_redis.names import Names
from kern_broker_redis.records import parts
from kern_redis_client.envelope import decode
from kern_redis_client.failures import ConnectionLost, failure
from kern_redis_client.link import Command, Conversation
from kern_redis_client.scripts import load

logger = log.get_logger("kern.connection")

CLAIM = load("kern_broker_redis", "scripts/claim", include=("record", "waiting"))
LEAVE = load("kern_broker_redis", "scripts/leave", include=("waiting",))
SCRIPTS = (CLAIM, LEAVE)
#: What stands in a claim's answer before its messages.
HEAD = 6
#: How often a claim looks again because something came just when it had found nothing.
LOOKS = 3


class Claiming:
    """For one connection.

    :param name: the server for messages, its URL with the password masked.
    """

    def __init__(self, name: str, names: Names, holdings: Holdings, leases: Leases) -> None:
        self._name = name
        self._names = names
        self._holdings = holdings
        self._leases = leases
        self._owner = ""
        self._waits = False
        #: Whether the server has us down as waiting, and for which queues.
        self.waiting: tuple[str, ...] = ()
        self._count = 0
        self._turn = 0
        self._reported: set[str] = set()
        #: Behind a queue's name, by step.
        self._suffixes = tuple(key.removeprefix(names.prefix) for key in names.lists(""))
        self._asked: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def use(self, owner: str, waits: bool) -> None:
        """In whose name leases are taken, and whether that is somebody who waits when there is nothing."""
        self._owner, self._waits = owner, waits

    def claim(self, claim: Claim) -> Conversation[Claimed]:
        """Lease messages."""
        seams.reached("claiming")
        shares = {queue: most for queue, most in claim.queues.items() if most > 0}
        if not shares or claim.limit <= 0:
            return Claimed()
        claimed = Claimed()
        for _ in range(LOOKS):
            claimed, lists, expired = yield from self._once(claim, shares)
            # Sentries look after the dead, too, sooner than the next heartbeat.
            if expired and (back := (yield from self._leases.recover())):
                logger.warning("messages of dead workers handed back", messages=back)
                continue
            if not lists:
                break
            armed, came = yield [("CLIENT", "CACHING", "YES"), ("EXISTS", *lists)]
            if isinstance(armed, Exception):
                break  # it was said when the connection was made
            if not isinstance(came, int) or not came:
                break
        if claimed.deliveries:
            seams.reached("claimed")
        return claimed

    def leave(self) -> Conversation[None]:
        """Wait for nothing any more."""
        if self.waiting:
            yield [LEAVE.call((self._names("kern.leases"),), (self._names.prefix, self._owner, *self.waiting))]

    def _once(self, claim: Claim, shares: Mapping[str, int]) -> Conversation[tuple[Claimed, Sequence[str], bool]]:
        """What was claimed; if nothing, the lists to be told of, and whether leases have expired."""
        base, self._count = self._count, self._count + claim.limit
        queues, keys = self._keys(shares)
        asked_at = time.monotonic()
        try:
            (answer,) = yield [self._command(claim, shares, keys, base)]
        except ConnectionLost:
            answer = yield from self._after_all(claim, keys, base)
            asked_at = time.monotonic()  # what was lost is known to be
        if isinstance(answer, Exception):
            raise failure(answer, self._name)
        now, next_due, noted, sentry_of, broken, expired = answer[:HEAD]
        self._leases.heard(now, asked_at)
        if broken:
            self._report(keys, broken)
        steps = len(self._names.steps)
        waits_for = None if next_due < 0 else max(0, next_due - now) / 1000
        if len(answer) == HEAD:
            if self._waits:
                self.waiting = queues
            lists = [key for queue in sentry_of for key in keys[(queue - 1) * steps : queue * steps]]
            return Claimed((), waits_for), lists, bool(expired)
        self.waiting = ()
        deliveries = self._deliveries(answer, queues, base)
        if noted:
            deliveries = yield from self._with_notes(deliveries)
        return Claimed(tuple(deliveries), waits_for), (), False

    def _keys(self, shares: Mapping[str, int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        queues = tuple(shares)
        if self._asked[0] != queues:
            self._asked = (queues, tuple(key for queue in queues for key in self._names.lists(queue)))
        return self._asked

    def _command(self, claim: Claim, shares: Mapping[str, int], keys: Sequence[str], base: int) -> Command:
        self._turn += 1
        return CLAIM.call(
            keys,
            (
                self._names.prefix,
                self._owner,
                base,
                max(1, int(claim.lease_seconds * 1000)),
                claim.limit,
                claim.byte_budget,
                self._turn,
                len(self._names.steps),
                int(self._waits),
                int(bool(self.waiting)),
                *(part for share in shares.items() for part in share),
            ),
        )

    def _deliveries(self, answer: Sequence[Any], queues: Sequence[str], base: int) -> list[Delivery]:
        owner, steps, suffixes = self._owner, len(self._names.steps), self._suffixes
        hold = self._holdings.hold
        found = []
        for position in range(HEAD, len(answer), 2):
            base += 1
            number, raw = answer[position] - 1, answer[position + 1]
            queue, receipt = queues[number // steps], f"{owner}:{base}"
            try:
                envelope = decode(raw)
            except DecodeError as error:
                key = notes.key_of(None, raw)
                delivery = Delivery(receipt, queue, owner, None, raw=raw, problem=str(error), routing_key=queue)
            else:
                message = envelope.message
                key = message.task_id or notes.key_of(message, raw)
                delivery = Delivery(
                    receipt,
                    queue,
                    owner,
                    message,
                    0,
                    envelope.redelivered,
                    exchange=envelope.exchange,
                    routing_key=envelope.routing_key,
                )
            hold(Holding(delivery, suffixes[number % steps], key))
            found.append(delivery)
        return found

    def _after_all(self, claim: Claim, keys: Sequence[str], base: int) -> Conversation[list[Any]]:
        """What a claim whose answer was lost has leased, prolonged; in the form of its answer."""
        receipts = [f"{self._owner}:{base + number}" for number in range(1, claim.limit + 1)]
        renewal = RENEW.call(
            (self._names("kern.leases"),), (self._names.prefix, self._owner, int(claim.lease_seconds * 1000), *receipts)
        )
        while True:
            try:
                renewed, records = yield [renewal, ("HMGET", self._names("kern.leases"), *receipts)]
                break
            except ConnectionLost:
                continue
        for answer in (renewed, records):
            if isinstance(answer, Exception):
                raise failure(answer, self._name)
        numbers = {key: number for number, key in enumerate(keys, 1)}
        answer = [renewed[0], -1, 1, (), (), 0]
        for record in records:
            if record is not None:
                key, envelope = parts(record)
                answer += (numbers[key], envelope)
        return answer

    def _with_notes(self, deliveries: Sequence[Delivery]) -> Conversation[list[Delivery]]:
        """Those that came back before, with what is known of them."""
        held = [self._holdings[delivery.receipt] for delivery in deliveries]
        while True:
            try:
                (found,) = yield [("HMGET", self._names(notes.NOTES), *(holding.key for holding in held))]
                break
            except ConnectionLost:
                continue  # they are ours, and renewed with each new connection
        if isinstance(found, Exception):
            raise failure(found, self._name)
        noted = []
        for holding, value in zip(held, found, strict=True):
            delivery = holding.delivery
            if value is not None:
                delivery = self._holdings.note(holding, notes.read(value))
            noted.append(delivery)
        return noted

    def _report(self, keys: Sequence[str], numbers: Sequence[int]) -> None:
        for number in numbers:
            key = keys[number - 1]
            if key not in self._reported:
                self._reported.add(key)
                logger.error("the key of a queue holds something else than a list", key=key, server=self._name)
