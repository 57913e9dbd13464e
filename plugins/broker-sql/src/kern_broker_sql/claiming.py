"""Leases: taking them, keeping them, and handing back those whose owner fell silent."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from kern.contracts.transport import Claim
from kern.delivery import Delivery
from kern_broker_sql.messages import CLAIMED, delivery, parse_receipt
from kern_broker_sql.tables import DELAYED, LEASED, READY
from kern_sql_engine import Connection, Dialect, Family

#: Delayed messages that one claim makes ready, and expired leases that one step hands back, at most.
BATCH = 500

Candidate = tuple[int, int, int]


class Claiming:
    """Statements on leases. All that write are run in a transaction of the caller's."""

    def __init__(self, dialect: Dialect) -> None:
        sql = dialect.sql
        self._values = dialect.values
        self._returning = dialect.family is not Family.MYSQL
        self._ready = sql(
            f"SELECT id, nice, size FROM kern_message WHERE state = {READY} AND queue = ? "
            "ORDER BY nice, ready_at, id LIMIT ? {skip}"
        )
        self._any_ready = sql(f"SELECT 1 FROM kern_message WHERE state = {READY} AND queue = ? LIMIT 1")
        self._until_due = sql(
            f"SELECT due - {{now}} FROM kern_message WHERE state = {DELAYED} AND queue = ? ORDER BY due LIMIT 1"
        )
        self._due = sql(
            f"SELECT id FROM kern_message WHERE state = {DELAYED} AND queue = ? AND due <= {{now}} "
            f"ORDER BY due LIMIT {BATCH} {{skip}}"
        )
        self._promote = sql(f"UPDATE kern_message SET state = {READY}, ready_at = due, due = NULL WHERE id {{in}}")
        take = (
            f"UPDATE kern_message SET state = {LEASED}, token = ?, owner = ?, leased_until = {{now}} + ?, started = 0 "
            "WHERE id {in}"
        )
        self._take = sql(f"{take} RETURNING {CLAIMED}" if self._returning else take)
        self._taken = sql(f"SELECT {CLAIMED} FROM kern_message WHERE id {{in}}")
        self._expired = sql(
            f"SELECT id, queue FROM kern_message WHERE state = {LEASED} AND leased_until <= {{now}} "
            f"ORDER BY leased_until LIMIT {BATCH} {{skip}}"
        )
        self._any_expired = sql(
            f"SELECT 1 FROM kern_message WHERE state = {LEASED} AND leased_until <= {{now}} LIMIT 1"
        )
        self._all_leased = sql(f"SELECT id, queue FROM kern_message WHERE state = {LEASED} LIMIT {BATCH} {{skip}}")
        self._leased = sql(f"SELECT COUNT(*) FROM kern_message WHERE state = {LEASED}")
        # The count goes first: MySQL assigns from left to right.
        ended = f"state = {READY}, token = NULL, owner = NULL, leased_until = NULL, redelivered = 1"
        self._bury = sql(
            f"UPDATE kern_message SET attempts = attempts + started, started = 0, suspect = 1, {ended} WHERE id {{in}}"
        )
        self._return = sql(f"UPDATE kern_message SET started = 0, {ended} WHERE id {{in}}")
        self.lock = sql(
            f"SELECT id, token, queue, task_id FROM kern_message WHERE state = {LEASED} AND id {{in}} "
            "ORDER BY id {lock}"
        )
        self._renew = sql("UPDATE kern_message SET leased_until = {now} + ? WHERE id {in}")
        self._start = sql("UPDATE kern_message SET started = 1 WHERE id {in}")

    # -- looking

    def ready(self, connection: Connection, queues: Iterable[str]) -> list[str]:
        """Those of *queues* from which something can be claimed now."""
        return [
            queue for queue in queues if connection.rows(self._any_ready, (queue,)) or self._is_due(connection, queue)
        ]

    def _is_due(self, connection: Connection, queue: str) -> bool:
        until = connection.value(self._until_due, (queue,))
        return until is not None and until <= 0

    def next_due(self, connection: Connection, queues: Iterable[str]) -> float | None:
        """Seconds until the next delayed message of *queues* is due, not below zero."""
        found = [connection.value(self._until_due, (queue,)) for queue in queues]
        waits = [float(until) for until in found if until is not None]
        return max(0.0, min(waits)) if waits else None

    def anything(self, connection: Connection, queues: Iterable[str]) -> bool:
        """Whether a claim has anything to do, or an expired lease is to be handed back. Locks nothing."""
        return bool(self.ready(connection, queues)) or self.expired(connection)

    def expired(self, connection: Connection) -> bool:
        """Whether a lease has expired. Locks nothing."""
        return bool(connection.rows(self._any_expired))

    def leased(self, connection: Connection) -> int:
        """How many messages are leased."""
        return int(connection.value(self._leased))

    # -- taking

    def claim(self, connection: Connection, claim: Claim, owner: str, turn: int) -> tuple[Delivery, ...]:
        """Lease messages.

        :param turn: counts the claims; the queue that is served first changes with it.
        """
        caps = {queue: min(most, claim.limit) for queue, most in claim.queues.items() if most > 0}
        candidates = self._candidates(connection, caps)
        if not candidates and self.recover(connection):
            candidates = self._candidates(connection, caps)
        chosen = choose(candidates, claim.limit, claim.byte_budget, turn)
        if not chosen:
            return ()
        token = uuid.uuid4().hex
        values = self._values(chosen)
        parameters = (token, owner, claim.lease_seconds, values)
        if self._returning:
            rows = connection.rows(self._take, parameters)
        else:
            connection.run(self._take, parameters)
            rows = connection.rows(self._taken, (values,))
        by_number = {row[0]: row for row in rows}
        return tuple(delivery(by_number[number], token, owner) for number in chosen if number in by_number)

    def _candidates(self, connection: Connection, caps: dict[str, int]) -> dict[str, list[Candidate]]:
        candidates: dict[str, list[Candidate]] = {}
        for queue, cap in caps.items():
            if self._is_due(connection, queue):
                due = [number for (number,) in connection.rows(self._due, (queue,))]
                if due:
                    connection.run(self._promote, (self._values(due),))
            found = connection.rows(self._ready, (queue, cap))
            if found:
                candidates[queue] = [(row[0], row[1], row[2]) for row in found]
        return candidates

    # -- keeping

    def held(self, connection: Connection, receipts: Iterable[str]) -> dict[str, tuple[int, str, str | None]]:
        """Row, queue and task id of those *receipts* that are current leases, locked until the transaction ends."""
        known = {text: parsed for text in receipts if (parsed := parse_receipt(text)) is not None}
        if not known:
            return {}
        numbers = sorted({number for number, _ in known.values()})
        leases = {row[0]: row for row in connection.rows(self.lock, (self._values(numbers),))}
        return {
            text: (number, leases[number][2], leases[number][3])
            for text, (number, token) in known.items()
            if number in leases and leases[number][1] == token
        }

    def renew(self, connection: Connection, receipts: Sequence[str], seconds: float) -> frozenset[str]:
        """Prolong; answers those that are no lease of ours any more."""
        held = self.held(connection, receipts)
        if held:
            connection.run(self._renew, (seconds, self._values([number for number, _, _ in held.values()])))
        return frozenset(receipts) - held.keys()

    def mark_started(self, connection: Connection, receipts: Sequence[str]) -> None:
        held = self.held(connection, receipts)
        if held:
            connection.run(self._start, (self._values([number for number, _, _ in held.values()]),))

    # -- handing back

    def recover(self, connection: Connection, everything: bool = False) -> dict[int, str]:
        """Hand back a batch of expired leases; row and queue of each.

        :param everything: instead a batch of any leases, of which nobody is suspected.
        """
        expired: dict[int, str] = dict(connection.rows(self._expired))
        if expired:
            connection.run(self._bury, (self._values(sorted(expired)),))
        elif everything:
            expired = dict(connection.rows(self._all_leased))
            if expired:
                connection.run(self._return, (self._values(sorted(expired)),))
        return expired


def choose(candidates: dict[str, list[Candidate]], limit: int, budget: int, turn: int) -> list[int]:
    """Rows to take: the most urgent first, queues in turn among equally urgent ones, within *limit* and bytes.

    :param candidates: row, urgency (smaller is first) and size, by queue, each in its order.
    """
    merged = next(iter(candidates.values())) if len(candidates) == 1 else _in_turn(candidates, limit, turn)
    chosen: list[int] = []
    for number, _, size in merged[:limit]:
        if chosen and size > budget:
            break
        budget -= size
        chosen.append(number)
    return chosen


def _in_turn(candidates: dict[str, list[Candidate]], limit: int, turn: int) -> list[Candidate]:
    queues = list(candidates)
    first = turn % len(queues) if queues else 0
    order = queues[first:] + queues[:first]
    position = dict.fromkeys(queues, 0)
    merged: list[Candidate] = []
    while order and len(merged) < limit:
        queue = min(order, key=lambda queue: candidates[queue][position[queue]][1])
        merged.append(candidates[queue][position[queue]])
        position[queue] += 1
        order.remove(queue)
        if position[queue] < len(candidates[queue]):
            order.append(queue)
    return merged
