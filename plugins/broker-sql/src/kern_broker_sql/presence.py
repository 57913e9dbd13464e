"""Who is alive, and what is said to everybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kern.contracts.transport import Owner, Presence
from kern.serialization import decode_json, encode_json
from kern_sql_engine import Connection, Dialect

#: Seconds after its last beat for which a worker counts as alive that has not said how long its leases last.
LASTS = 15.0
#: Seconds for which a broadcast can be read; who looks less often misses it.
BROADCASTS_LAST = 300.0
#: Seconds after which what nobody needs of a silent worker is deleted.
FORGET_AFTER = 3600.0


class Presences:
    """Statements on the table ``kern_presence``."""

    def __init__(self, dialect: Dialect) -> None:
        sql = dialect.sql
        columns = ["id", "hostname", "queues", "facts", "last_beat", "lasts"]
        self._now = sql("SELECT {now}")
        self._put = sql(dialect.insert("kern_presence", columns, ["id"], keep=False))
        self._beat = sql("UPDATE kern_presence SET last_beat = {now}, lasts = ? WHERE id = ?")
        self._list = sql(
            "SELECT id, hostname, queues, facts, last_beat FROM kern_presence "
            "WHERE last_beat + lasts >= {now} ORDER BY hostname, id"
        )
        self._delete = sql("DELETE FROM kern_presence WHERE id = ?")
        self._outdated = sql(f"SELECT 1 FROM kern_presence WHERE last_beat < {{now}} - {FORGET_AFTER} LIMIT 1")
        self._sweep = sql(f"DELETE FROM kern_presence WHERE last_beat < {{now}} - {FORGET_AFTER}")

    def announce(self, connection: Connection, owner: Owner, queues: Sequence[str], facts: Mapping[str, Any]) -> None:
        now = float(connection.value(self._now))
        written = encode_json(list(queues)).decode("ascii"), encode_json(dict(facts)).decode("ascii")
        connection.run(self._put, (owner.id, owner.hostname, *written, now, LASTS))

    def beat(self, connection: Connection, owner: Owner, lasts: float) -> None:
        connection.run(self._beat, (lasts, owner.id))

    def list(self, connection: Connection) -> list[Presence]:
        return [
            Presence(number, hostname, tuple(decode_json(queues)), last_beat, decode_json(facts))
            for number, hostname, queues, facts, last_beat in connection.rows(self._list)
        ]

    def leave(self, connection: Connection, owner: Owner) -> None:
        connection.run(self._delete, (owner.id,))

    def outdated(self, connection: Connection) -> bool:
        """Whether :meth:`sweep` has anything to do. Locks nothing."""
        return bool(connection.rows(self._outdated))

    def sweep(self, connection: Connection) -> None:
        """Delete what workers left that fell silent long ago."""
        connection.run(self._sweep)


class Broadcasts:
    """Statements on what is sent to everybody: numbered in the order of the commits, so that nobody skips any."""

    def __init__(self, dialect: Dialect) -> None:
        sql = dialect.sql
        # Whoever has raised the number holds its row until the end of the transaction.
        self._raise = sql("UPDATE kern_broadcast_head SET last = last + 1 WHERE id = 1")
        self._create = sql(dialect.insert("kern_broadcast_head", ["id", "last"], ["id"]))
        self._last = sql("SELECT last FROM kern_broadcast_head WHERE id = 1")
        self._put = sql("INSERT INTO kern_broadcast (id, topic, payload, at) VALUES (?, ?, ?, {now})")
        self._prune = sql(f"DELETE FROM kern_broadcast WHERE at < {{now}} - {BROADCASTS_LAST}")
        self._after = sql("SELECT id, topic, payload FROM kern_broadcast WHERE id > ? ORDER BY id")

    def send(self, connection: Connection, topic: str, payload: bytes) -> None:
        """In a transaction of the caller's."""
        if not connection.run(self._raise):
            connection.run(self._create, (1, 0))
            connection.run(self._raise)
        number = connection.value(self._last)
        connection.run(self._put, (number, topic, payload))
        connection.run(self._prune)

    def last(self, connection: Connection) -> int:
        """Number of the latest."""
        return int(connection.value(self._last) or 0)

    def after(self, connection: Connection, number: int) -> list[tuple[int, str, bytes]]:
        return [(found, topic, bytes(payload)) for found, topic, payload in connection.rows(self._after, (number,))]
