"""Settling: result, follow-ups and the end of the lease, in one transaction.

A batch is one transaction. If the database refuses it, it is undone and tried again one by one, so that the error stays
with the item that caused it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from kern import seams
from kern.contracts.result_store import Plan, WriteStatus, Written
from kern.contracts.transport import Settled, Settlement, SettleStatus
from kern.errors import KernError, TransportError
from kern.message import Publication
from kern.outcome import Disposition, GiveBack, ParkUntil, Quarantine, Release, RetryAt
from kern_broker_sql.claiming import Claiming
from kern_broker_sql.messages import Messages, fits, nice, prepare
from kern_broker_sql.quarantine import Quarantining
from kern_broker_sql.routing import Routing
from kern_broker_sql.tables import DELAYED, READY
from kern_sql_engine import Connection, Dialect, SqlError, SqlPlan, envelope, plans


@attrs.frozen
class Item:
    """What is to become of one lease."""

    receipt: str
    disposition: Disposition
    follow_ups: tuple[Publication, ...] = ()
    plan: Plan | None = None

    @classmethod
    def of(cls, settlement: Settlement) -> Item:
        outcome = settlement.outcome
        return cls(outcome.receipt, outcome.disposition, outcome.follow_ups, settlement.plan)


@attrs.define
class _Done:
    """The end of one transaction."""

    answers: list[Settled]
    #: Queues that got something to claim, or a new due time.
    queues: set[str]


class Settling:
    """Writes batches of :class:`Item`."""

    def __init__(
        self,
        dialect: Dialect,
        server: str,
        messages: Messages,
        routing: Routing,
        claiming: Claiming,
        quarantining: Quarantining,
        announce: Callable[[Connection, Iterable[str]], None],
    ) -> None:
        """
        :param announce: says, in the transaction, that queues got something to claim.
        """
        self._server = server
        self._messages, self._routing, self._claiming = messages, routing, claiming
        self._quarantining = quarantining
        self._announce = announce
        self._values = dialect.values
        sql = dialect.sql
        ended = "token = NULL, owner = NULL, leased_until = NULL, started = 0"
        self._release = sql("DELETE FROM kern_message WHERE id {in}")
        self._retry = sql(
            "UPDATE kern_message SET raw = ?, size = ?, task_id = ?, nice = ?, ready_at = {now}, due = ?, "
            f"state = CASE WHEN ? > {{now}} THEN {DELAYED} ELSE {READY} END, attempts = 0, redelivered = 0, "
            f"suspect = 0, parked_reason = NULL, parked_since = NULL, times_parked = 0, {ended} WHERE id = ?"
        )
        self._give_back = sql(
            f"UPDATE kern_message SET state = {READY}, attempts = attempts + ?, "
            f"suspect = CASE WHEN suspect + ? > 0 THEN 1 ELSE 0 END, {ended} WHERE id = ?"
        )
        self._give_back_later = sql(
            f"UPDATE kern_message SET state = {DELAYED}, due = ?, attempts = attempts + ?, "
            f"suspect = CASE WHEN suspect + ? > 0 THEN 1 ELSE 0 END, {ended} WHERE id = ?"
        )
        # The reason goes last: MySQL assigns from left to right, and the others look at the old one.
        self._park = sql(
            f"UPDATE kern_message SET state = {DELAYED}, due = ?, {ended}, "
            "times_parked = CASE WHEN parked_reason = ? THEN times_parked + 1 ELSE 1 END, "
            "parked_since = CASE WHEN parked_reason = ? AND parked_since IS NOT NULL AND "
            "parked_since <= COALESCE(?, {now}) THEN parked_since ELSE COALESCE(?, {now}) END, "
            "parked_reason = ? WHERE id = ?"
        )

    def write(self, connection: Connection, items: Sequence[Item], seam: str) -> list[Settled]:
        """Write *items*; an answer for each, in order.

        :param seam: reached inside each transaction, before it is committed.
        :raises SqlError: nothing is known of what was under way: the connection is gone, or the database is out of use.
        """
        if not items:
            return []
        plans.prepare(connection, [item.plan for item in items if isinstance(item.plan, SqlPlan)])
        try:
            return self._transaction(connection, items, seam)
        except SqlError as error:
            if error.lost or error.retryable:
                raise
        except KernError:
            pass
        return [self._alone(connection, item, seam) for item in items]

    def _alone(self, connection: Connection, item: Item, seam: str) -> Settled:
        """One item of a batch that was refused. What went wrong is its own answer, for others have been written."""
        try:
            return self._transaction(connection, [item], seam)[0]
        except SqlError as error:
            answer = TransportError(str(error), retryable=error.retryable)
            answer.__cause__ = error
            return Settled(item.receipt, SettleStatus.DONE, answer)
        except KernError as error:
            return Settled(item.receipt, SettleStatus.DONE, error)

    def _transaction(self, connection: Connection, items: Sequence[Item], seam: str) -> list[Settled]:
        def write() -> list[Settled]:
            done = self._write(connection, items)
            if done.queues:
                self._announce(connection, done.queues)
            seams.reached(seam)
            return done.answers

        return connection.in_transaction(write)

    def _write(self, connection: Connection, items: Sequence[Item]) -> _Done:
        held = self._claiming.held(connection, [item.receipt for item in items])
        mine: list[Item] = []
        answers: dict[int, SettleStatus] = {}
        positions: list[int] = []
        ended: set[str] = set()
        for position, item in enumerate(items):
            # The first settlement of a receipt in a batch ends its lease.
            if item.receipt in held and item.receipt not in ended:
                ended.add(item.receipt)
                mine.append(item)
                positions.append(position)
            else:
                answers[position] = SettleStatus.FENCED
        written = self._write_plans(connection, mine)
        for position, item in zip(positions, mine, strict=True):
            kept = item.receipt in written and written[item.receipt].status is WriteStatus.KEPT
            answers[position] = SettleStatus.RESULT_KEPT if kept else SettleStatus.DONE
        queues = self._end_leases(connection, mine, held)
        # Afterwards: what follows may have the id of what is leaving.
        publications = [publication for item in mine for publication in item.follow_ups]
        publications += [publication for each in written.values() for publication in each.publications]
        if publications:
            routes = self._routing.routes(connection, publications)
            inserts = [prepare(publication, to) for publication, to in zip(publications, routes, strict=True)]
            self._messages.insert(connection, inserts)
            queues.update(queue for insert in inserts for queue in insert.queues)
        return _Done([Settled(item.receipt, answers[position]) for position, item in enumerate(items)], queues)

    def _write_plans(self, connection: Connection, items: Sequence[Item]) -> dict[str, Written]:
        planned: list[tuple[str, SqlPlan]] = []
        for item in items:
            if item.plan is None:
                continue
            if not isinstance(item.plan, SqlPlan) or item.plan.server != self._server:
                raise TransportError(
                    f"a plan for {item.plan.server} was given to the transport of {self._server}", retryable=False
                )
            planned.append((item.receipt, item.plan))
        written = plans.apply(connection, [plan for _, plan in planned])
        for answer in written:
            if answer.error is not None:
                raise _Refused(answer.error) from answer.error
        return {receipt: answer for (receipt, _), answer in zip(planned, written, strict=True)}

    def _end_leases(
        self, connection: Connection, items: Sequence[Item], held: Mapping[str, tuple[int, str, str | None]]
    ) -> set[str]:
        """Apply dispositions; the queues that got something to claim, or a new due time."""
        released: list[int] = []
        changes: dict[str, list[tuple[Any, ...]]] = {}
        queues: set[str] = set()
        for item in items:
            number, queue, task_id = held[item.receipt]
            disposition = item.disposition
            if isinstance(disposition, Release):
                released.append(number)
                continue
            if isinstance(disposition, Quarantine):
                self._quarantining.put(connection, number, queue, task_id, disposition)
                released.append(number)
                continue
            queues.add(queue)
            statement, parameters = self._change(disposition, number)
            changes.setdefault(statement, []).append(parameters)
        if released:
            connection.run(self._release, (self._values(released),))
        for statement, rows in changes.items():
            connection.many(statement, rows)
        return queues

    def _change(self, disposition: RetryAt | GiveBack | ParkUntil, number: int) -> tuple[str, tuple[Any, ...]]:
        if isinstance(disposition, RetryAt):
            message = disposition.message
            if message.task_id is not None and not fits(message.task_id):
                raise TransportError(f"the task id {message.task_id[:80]!r} does not fit its column", retryable=False)
            raw = envelope.encode(message)
            due = disposition.due
            return self._retry, (raw, len(message.body), message.task_id, nice(message), due, due, number)
        if isinstance(disposition, GiveBack):
            blamed, suspect = int(disposition.blamed), int(disposition.suspect)
            if disposition.due is None:
                return self._give_back, (blamed, suspect, number)
            return self._give_back_later, (disposition.due, blamed, suspect, number)
        since, reason = disposition.since, disposition.reason[:255]
        return self._park, (disposition.due, reason, reason, since, since, reason, number)


class _Refused(KernError):
    """The result store refused its share."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
