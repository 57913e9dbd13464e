"""Messages of the table ``kern_message``: putting them in, and the statements that look at and remove them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from kern.delivery import Delivery
from kern.errors import DecodeError, PublishRefused
from kern.message import Message, Publication
from kern_broker_sql.tables import DELAYED, LEASED, READY
from kern_sql_engine import Dialect, Statements, envelope
from kern_sql_engine.schema import NAME_LENGTH

#: What a claim needs to know of a message, in the order of :func:`delivery`.
CLAIMED = (
    "id, queue, attempts, redelivered, suspect, exchange, routing_key, ready_at, parked_since, times_parked, "
    "parked_reason, raw"
)
_INSERTED = [
    "queue",
    "task_id",
    "nice",
    "state",
    "ready_at",
    "due",
    "attempts",
    "exchange",
    "routing_key",
    "size",
    "raw",
]
#: Priorities beyond are as good as these; the column has 32 bits.
_MOST = 2**31 - 1


@attrs.frozen
class Insert:
    """A message that is ready to be put into the queues it goes to."""

    publication: Publication
    raw: bytes
    queues: tuple[str, ...]

    @property
    def task_id(self) -> str | None:
        return self.publication.message.task_id

    def rows(self, now: float) -> Iterable[tuple[Any, ...]]:
        publication = self.publication
        message = publication.message
        # What is due already does not wait for somebody to notice.
        due = publication.due if publication.due is not None and publication.due > now else None
        for queue in self.queues:
            yield (
                queue,
                message.task_id,
                nice(message),
                READY if due is None else DELAYED,
                now,
                due,
                publication.attempts,
                publication.exchange,
                publication.routing_key,
                len(message.body),
                self.raw,
            )


class Messages:
    """Statements on messages that do not concern a lease."""

    def __init__(self, dialect: Dialect) -> None:
        sql = dialect.sql
        self._values = dialect.values
        self._insert = sql(dialect.insert("kern_message", _INSERTED, ["task_id", "queue"]))
        ready = f"(state = {READY} OR (state = {DELAYED} AND due <= {{now}}))"
        self._peek = sql(
            f"SELECT raw FROM kern_message WHERE queue = ? AND {ready} ORDER BY nice, ready_at, id LIMIT ?"
        )
        # One statement a state: each has an index of its own.
        self._purge = [
            sql(f"DELETE FROM kern_message WHERE queue = ? AND state = {state}") for state in (READY, DELAYED)
        ]
        self._delete = sql(f"DELETE FROM kern_message WHERE task_id {{in}} AND state IN ({READY}, {DELAYED})")
        self._count = {
            state: sql(
                f"SELECT queue, COUNT(*) FROM kern_message WHERE state = {state} AND queue {{in}} GROUP BY queue"
            )
            for state in (READY, LEASED, DELAYED)
        }
        self._count_due = sql(
            f"SELECT queue, COUNT(*) FROM kern_message WHERE state = {DELAYED} AND queue {{in}} AND due <= {{now}} "
            "GROUP BY queue"
        )
        self._where = sql(
            f"SELECT task_id, CASE WHEN {ready} THEN {READY} ELSE state END FROM kern_message WHERE task_id {{in}}"
        )

    def insert(self, statements: Statements, inserts: Sequence[Insert]) -> None:
        """Put messages in; those whose id is in their queue already are there."""
        now = time.time()
        rows = [row for insert in inserts for row in insert.rows(now)]
        if rows:
            statements.many(self._insert, rows)

    def peek(self, statements: Statements, queue: str, limit: int) -> list[Message]:
        found = []
        for (raw,) in statements.rows(self._peek, (queue, limit)):
            try:
                found.append(envelope.decode(bytes(raw)))
            except DecodeError:
                continue
        return found

    def purge(self, statements: Statements, queue: str) -> int:
        return sum(statements.run(sql, (queue,)) for sql in self._purge)

    def delete(self, statements: Statements, task_ids: Sequence[str]) -> int:
        return statements.run(self._delete, (self._values(task_ids),)) if task_ids else 0

    def depth(self, statements: Statements, queues: Sequence[str]) -> dict[tuple[str, int], int]:
        """Counts by queue and state; what has become due counts as ready."""
        values = (self._values(queues),)
        counts = {
            (str(queue), state): int(count)
            for state, sql in self._count.items()
            for queue, count in statements.rows(sql, values)
        }
        for queue, due in statements.rows(self._count_due, values):
            # What has become due since the first count is counted there.
            moved = min(int(due), counts.get((queue, DELAYED), 0))
            counts[queue, DELAYED] = counts.get((queue, DELAYED), 0) - moved
            counts[queue, READY] = counts.get((queue, READY), 0) + moved
        return counts

    def where(self, statements: Statements, task_ids: Sequence[str]) -> list[tuple[str, int]]:
        """Id and state of each message of these ids."""
        found = statements.rows(self._where, (self._values(task_ids),))
        return [(task_id, int(state)) for task_id, state in found]


def prepare(publication: Publication, queues: Sequence[str]) -> Insert:
    """The message as it will be written, for *queues*.

    :raises EncodeError: it cannot be written down.
    :raises PublishRefused: no queue receives it, or a name does not fit its column.
    """
    if not queues or queues == [""]:
        raise PublishRefused(
            f"message {publication.task_id} would be lost: no queue is bound to exchange {publication.exchange!r} "
            f"under {publication.routing_key!r}"
        )
    for what, name in (
        ("task id", publication.message.task_id),
        ("exchange", publication.exchange),
        ("routing key", publication.routing_key),
    ):
        if name is not None and not fits(name):
            raise PublishRefused(
                f"message {publication.task_id!r:.80}: the {what} must have at most {NAME_LENGTH} characters, no NUL "
                "and no half surrogate pair"
            )
    return Insert(publication, envelope.encode(publication.message), tuple(queues))


def fits(name: str) -> bool:
    """Whether every database can keep *name* in a column."""
    if len(name) > NAME_LENGTH or "\0" in name:
        return False
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def nice(message: Message) -> int:
    """The priority as the table has it: smaller is first."""
    return max(-_MOST, min(_MOST, -message.priority))


def delivery(row: Sequence[Any], token: str, owner: str) -> Delivery:
    """What a claim hands out of a row of :data:`CLAIMED`."""
    number, queue, attempts, redelivered, suspect, exchange, routing_key, ready_at, *parked, raw = row
    parked_since, times_parked, parked_reason = parked
    raw = bytes(raw)
    message: Message | None
    problem: str | None
    try:
        message, problem = envelope.decode(raw), None
    except DecodeError as error:
        message, problem = None, str(error)
    return Delivery(
        receipt=receipt(number, token),
        queue=queue,
        owner=owner,
        message=message,
        attempts=attempts,
        redelivered=bool(redelivered),
        suspect=bool(suspect),
        raw=raw if message is None else None,
        problem=problem,
        exchange=exchange,
        routing_key=routing_key,
        ready_since=ready_at,
        parked_since=parked_since,
        times_parked=times_parked,
        parked_reason=parked_reason,
    )


def receipt(number: int, token: str) -> str:
    """The row, for finding it, and the claim's secret, for proving it."""
    return f"{number}-{token}"


def parse_receipt(text: str) -> tuple[int, str] | None:
    """Row and secret; ``None`` for what no claim made."""
    number, _, token = text.partition("-")
    if not (token and number.isascii() and number.isdecimal() and len(number) < 19):
        return None
    return int(number), token
