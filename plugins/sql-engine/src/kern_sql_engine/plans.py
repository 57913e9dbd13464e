"""Joint settlement: what the result store wants written, applied in the transport's transaction.

The store makes :class:`SqlPlan` objects, which know how to write themselves; the transport, if it is of the same
database, calls :func:`prepare` before its transaction and :func:`apply` in it. Neither knows the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from kern.contracts.result_store import Plan, Written
from kern_sql_engine.connections import Connection


class PlanWriter(Protocol):
    """Writes the plans of one store. Used by the store's thread and the transport's at once."""

    def prepare(self, connection: Connection) -> None:
        """Make sure that the tables are there; outside a transaction."""

    def write(self, connection: Connection, plans: Sequence[SqlPlan]) -> list[Written]:
        """Write *plans* in the transaction that is open on *connection*; an answer for each.

        :raises SqlError: the transaction must be undone.
        """


@attrs.frozen
class SqlPlan(Plan):
    """A plan and who can write it."""

    writer: PlanWriter = attrs.field(kw_only=True, eq=False, repr=False)


def prepare(connection: Connection, plans: Sequence[SqlPlan]) -> None:
    """Make sure that the tables of *plans* are there."""
    for writer in {id(plan.writer): plan.writer for plan in plans}.values():
        writer.prepare(connection)


def apply(connection: Connection, plans: Sequence[SqlPlan]) -> list[Written]:
    """Write *plans* in the open transaction; an answer for each, in order.

    :raises SqlError: the transaction must be undone; one by one those that can be written can be told from the others.
    """
    answers: dict[int, Written] = {}
    for writer in {id(plan.writer): plan.writer for plan in plans}.values():
        mine = [(position, plan) for position, plan in enumerate(plans) if plan.writer is writer]
        for (position, _plan), written in zip(mine, writer.write(connection, [plan for _, plan in mine]), strict=True):
            answers[position] = written
    return [answers[position] for position in range(len(plans))]
