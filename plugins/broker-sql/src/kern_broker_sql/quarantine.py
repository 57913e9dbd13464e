"""Quarantine: messages kept for a person, byte for byte."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from kern.contracts.transport import Quarantined
from kern.errors import DecodeError, EncodeError
from kern.message import Message
from kern.outcome import Quarantine
from kern.saferepr import saferepr
from kern.serialization import decode_json, encode_json
from kern_broker_sql.tables import KEY_LENGTH
from kern_sql_engine import Connection, Dialect, envelope

_KEPT = "name, queue, task_id, nice, reason, evidence, at, exchange, routing_key, size, raw"


class Quarantining:
    """Statements on the table ``kern_quarantine``, in transactions of the caller's."""

    def __init__(self, dialect: Dialect) -> None:
        sql = dialect.sql
        self._values = dialect.values
        self._there = sql("SELECT 1 FROM kern_quarantine WHERE name = ?")
        self._put = sql(
            f"INSERT INTO kern_quarantine ({_KEPT}) SELECT ?, queue, task_id, nice, ?, ?, {{now}}, exchange, "
            "routing_key, size, raw FROM kern_message WHERE id = ?"
        )
        listed = "SELECT name, queue, reason, at, evidence, raw, exchange, routing_key FROM kern_quarantine"
        self._list = sql(f"{listed} ORDER BY id LIMIT ?")
        self._list_queue = sql(f"{listed} WHERE queue = ? ORDER BY id LIMIT ?")
        self._lock = sql("SELECT id, queue, task_id FROM kern_quarantine WHERE name = ? {lock}")
        back = ["queue", "task_id", "nice", "ready_at", "exchange", "routing_key", "size", "raw"]
        self._taken = sql("SELECT 1 FROM kern_message WHERE task_id = ? AND queue = ? {lock}")
        self._back = sql(
            f"INSERT INTO kern_message ({', '.join(back)}) "
            f"SELECT {', '.join('{now}' if name == 'ready_at' else name for name in back)} "
            "FROM kern_quarantine WHERE id = ?"
        )
        self._drop = sql("DELETE FROM kern_quarantine WHERE name {in}")
        self._counts = sql("SELECT queue, COUNT(*) FROM kern_quarantine WHERE queue {in} GROUP BY queue")
        self._where = sql("SELECT DISTINCT task_id FROM kern_quarantine WHERE task_id {in}")

    def put(self, connection: Connection, number: int, queue: str, task_id: str | None, quarantine: Quarantine) -> None:
        """Keep the message of row *number*; the row itself is left to be deleted."""
        key = self._free_key(connection, f"{queue}/{task_id or number}/{quarantine.reason}")
        connection.run(self._put, (key, quarantine.reason.replace("\0", " "), _evidence(quarantine.evidence), number))

    def _free_key(self, connection: Connection, base: str) -> str:
        """Not taken by an earlier message of the same id."""
        base = base.replace("\0", " ")[: KEY_LENGTH - 10]
        key = base
        for copy in itertools.count(2):
            if not connection.rows(self._there, (key,)):
                return key
            key = f"{base}/{copy}"
        raise AssertionError("unreachable")

    def entries(self, connection: Connection, queue: str | None, limit: int) -> list[Quarantined]:
        if queue is None:
            rows = connection.rows(self._list, (limit,))
        else:
            rows = connection.rows(self._list_queue, (queue, limit))
        return [_entry(row) for row in rows]

    def replay(self, connection: Connection, keys: Sequence[str]) -> tuple[int, set[str]]:
        """Put messages back; how many, and into which queues.

        Where a message of the same id is in the queue by now, the one in quarantine stays there.
        """
        count, queues = 0, set()
        for key in dict.fromkeys(keys):
            found = connection.rows(self._lock, (key,))
            if not found:
                continue
            number, queue, task_id = found[0]
            if task_id is not None and connection.rows(self._taken, (task_id, queue)):
                continue
            connection.run(self._back, (number,))
            connection.run(self._drop, (self._values([key]),))
            count += 1
            queues.add(str(queue))
        return count, queues

    def drop(self, connection: Connection, keys: Sequence[str]) -> int:
        return connection.run(self._drop, (self._values(sorted(set(keys))),)) if keys else 0

    def counts(self, connection: Connection, queues: Sequence[str]) -> dict[str, int]:
        return {queue: int(count) for queue, count in connection.rows(self._counts, (self._values(queues),))}

    def where(self, connection: Connection, task_ids: Sequence[str]) -> list[str]:
        """Those of *task_ids* that have a message in quarantine."""
        return [task_id for (task_id,) in connection.rows(self._where, (self._values(task_ids),))]


def _evidence(evidence: Mapping[str, Any]) -> str:
    try:
        return encode_json(dict(evidence)).decode("ascii")
    except EncodeError:
        # What a task died of must not keep it from being put aside.
        return encode_json({key: saferepr(value) for key, value in evidence.items()}).decode("ascii")


def _entry(row: Sequence[Any]) -> Quarantined:
    key, queue, reason, at, evidence, raw, exchange, routing_key = row
    message: Message | None
    try:
        message = envelope.decode(bytes(raw))
    except DecodeError:
        message = None
    return Quarantined(
        key=key,
        queue=queue,
        reason=reason,
        at=at,
        evidence=decode_json(evidence),
        message=message,
        raw=bytes(raw),
        exchange=exchange,
        routing_key=routing_key,
    )
