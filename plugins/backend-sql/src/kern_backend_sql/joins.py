"""Joins: members whose ends are counted, under a lock on the join's row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from kern import states
from kern.contracts.result_store import Join, JoinPolicy, JoinState
from kern.message import Publication
from kern.outcome import JoinPart
from kern.serialization import decode_json, encode_json
from kern_sql_engine import Connection, Dialect
from kern_sql_engine.envelope import decode_publications, encode_publications

_COLUMNS = (
    "id", "opened", "policy", "needed", "members", "size", "body", "on_error", "deadline",
    "succeeded", "failed", "closed", "look_at", "expires",
)  # fmt: skip


@attrs.define
class _Row:
    """A join as the table has it; bodies as they are written there."""

    id: str
    opened: int = 0
    policy: str = JoinPolicy.ALL.value
    needed: int | None = None
    members: str | None = None
    size: int | None = None
    body: bytes | None = None
    on_error: bytes | None = None
    deadline: float | None = None
    succeeded: int = 0
    failed: int = 0
    closed: int = 0
    look_at: float | None = None
    expires: float | None = None

    def knows(self, member: str) -> bool:
        return self.members is None or member in self.member_set()

    def member_set(self) -> frozenset[str]:
        return frozenset(self.member_names())

    def member_names(self) -> list[str]:
        return list(decode_json(self.members)) if self.members else []

    def verdict(self) -> bool | None:
        """``True``: complete, ``False``: failed, ``None``: neither yet."""
        total = self.size
        if total is None:
            return True if self.opened else None
        if self.policy == JoinPolicy.COLLECT:
            return True if self.succeeded + self.failed >= total else None
        if self.policy == JoinPolicy.ANY:
            needed = 1
        elif self.policy == JoinPolicy.N_OF_M:
            needed = self.needed or total
        else:
            needed = total
        if self.succeeded >= needed:
            return True
        return False if total - self.failed < needed else None

    def late(self, now: float) -> bool:
        return bool(self.opened) and self.deadline is not None and self.deadline <= now

    def close(self, complete: bool) -> tuple[Publication, ...]:
        """End it; what is to be published."""
        self.closed, self.look_at = 1, None
        written = self.body if complete else self.on_error
        return decode_publications(written) if written else ()

    def schedule(self) -> None:
        """Say when a sweeper is to look at it."""
        if self.closed or not self.opened:
            self.look_at = None
        else:
            self.look_at = 0.0 if self.verdict() is not None else self.deadline

    def as_join(self) -> Join:
        body = decode_publications(self.body) if self.body else ()
        return Join(
            id=self.id,
            members=tuple(self.member_names()),
            policy=JoinPolicy(self.policy),
            needed=self.needed,
            body=body[0] if body else None,
            on_error=decode_publications(self.on_error) if self.on_error else (),
            deadline=self.deadline,
        )


class Joins:
    """Statements on joins, in transactions of the caller's.

    :param expires: seconds a join is kept after its last change; ``None``: for ever.
    """

    def __init__(self, dialect: Dialect, expires: float | None) -> None:
        self._expires = expires
        self._values = dialect.values
        sql = dialect.sql
        columns = ", ".join(_COLUMNS)
        self._now = sql("SELECT {now}")
        self._reserve = sql(
            dialect.insert("kern_join", ["id", "opened", "policy", "succeeded", "failed", "closed"], ["id"])
        )
        self._lock = sql(f"SELECT {columns} FROM kern_join WHERE id {{in}} ORDER BY id {{lock}}")
        changed = [column for column in _COLUMNS if column != "id"]
        self._update = sql(f"UPDATE kern_join SET {', '.join(f'{column} = ?' for column in changed)} WHERE id = ?")
        self._known = sql("SELECT member FROM kern_join_part WHERE join_id = ? AND member {in}")
        self._add = sql(
            dialect.insert("kern_join_part", ["join_id", "member", "number", "state", "result"], ["join_id", "member"])
        )
        self._parts = sql("SELECT member, number, state, result FROM kern_join_part WHERE join_id = ?")
        self._due = sql(
            f"SELECT {columns} FROM kern_join WHERE closed = 0 AND look_at <= {{now}} "
            "AND (expires IS NULL OR expires > {now}) ORDER BY look_at LIMIT ?"
        )
        self._forget_parts = sql("DELETE FROM kern_join_part WHERE join_id {in}")
        self._forget = sql("DELETE FROM kern_join WHERE id {in}")
        self._expired = sql("SELECT id FROM kern_join WHERE expires <= {now} LIMIT 1000")

    def write(self, connection: Connection, batch: Sequence[Sequence[JoinPart]]) -> list[list[Publication]]:
        """Count parts; for each item of *batch* what is to be published because of it."""
        answers: list[list[Publication]] = [[] for _ in batch]
        by_join: dict[str, list[tuple[int, JoinPart]]] = {}
        for position, parts in enumerate(batch):
            for part in parts:
                by_join.setdefault(part.join_id, []).append((position, part))
        if not by_join:
            return answers
        now, rows = self._locked(connection, by_join)
        for join_id in sorted(by_join):
            row = rows[join_id]
            if not row.closed:
                self._count(connection, row, by_join[join_id], answers)
                self._save(connection, row, now)
        return answers

    def _count(
        self, connection: Connection, row: _Row, parts: Sequence[tuple[int, JoinPart]], answers: list[list[Publication]]
    ) -> None:
        members = row.member_set() if row.members is not None else None
        names = sorted({part.member for _, part in parts})
        known = {member for (member,) in connection.rows(self._known, (row.id, self._values(names)))}
        added: list[tuple[Any, ...]] = []
        for position, part in parts:
            if row.closed or part.member in known or (members is not None and part.member not in members):
                continue
            known.add(part.member)
            added.append((row.id, part.member, part.index, part.state, part.result))
            if part.state == states.SUCCESS:
                row.succeeded += 1
            else:
                row.failed += 1
            if row.size is None:
                row.size = part.size
            if row.body is None and part.body is not None:
                row.body = encode_publications([part.body])
            verdict = row.verdict()
            if verdict is not None:
                answers[position] += row.close(verdict)
        if added:
            connection.many(self._add, added)

    def open(self, connection: Connection, join: Join) -> None:
        """Create it; nothing happens if somebody has."""
        now, rows = self._locked(connection, [join.id])
        row = rows[join.id]
        if row.opened or row.closed:
            return
        row.opened = 1
        row.policy = join.policy.value
        row.needed = join.needed
        if join.members:
            row.members = encode_json(list(join.members)).decode("ascii")
            row.size = len(join.members)
        if join.body is not None:
            row.body = encode_publications([join.body])
        row.on_error = encode_publications(join.on_error) if join.on_error else None
        row.deadline = join.deadline
        row.schedule()
        self._save(connection, row, now)

    def due(self, connection: Connection, limit: int) -> list[JoinState]:
        """Joins that somebody has to close."""
        found = []
        for row in connection.rows(self._due, (limit,)):
            join = _row(row)
            parts = {
                member: JoinPart(join.id, member, number, state, None if result is None else bytes(result))
                for member, number, state, result in connection.rows(self._parts, (join.id,))
            }
            found.append(JoinState(join.as_join(), parts, bool(join.closed)))
        return found

    def close(self, connection: Connection, join_id: str) -> tuple[Publication, ...]:
        """Evaluate and close; what is to be published, once."""
        found = connection.rows(self._lock, (self._values([join_id]),))
        now = float(connection.value(self._now))
        row = _row(found[0]) if found else None
        if row is None or row.closed or (row.expires is not None and row.expires <= now):
            return ()
        verdict = row.verdict()
        if verdict is None:
            if not row.late(now):
                return ()
            verdict = False
        publications = row.close(verdict)
        self._save(connection, row, now)
        return publications

    def sweep(self, connection: Connection) -> int:
        """Delete expired joins, a thousand at most; how many."""
        expired = [join_id for (join_id,) in connection.rows(self._expired)]
        if expired:
            self._delete(connection, expired)
        return len(expired)

    def _locked(self, connection: Connection, join_ids: Iterable[str]) -> tuple[float, dict[str, _Row]]:
        """The time, and the rows, made where there was none or an expired one."""
        names = sorted(set(join_ids))
        fresh = [(name, 0, JoinPolicy.ALL.value, 0, 0, 0) for name in names]
        connection.many(self._reserve, fresh)
        rows = {row[0]: _row(row) for row in connection.rows(self._lock, (self._values(names),))}
        now = float(connection.value(self._now))
        expired = [name for name, row in rows.items() if row.expires is not None and row.expires <= now]
        if expired:
            self._delete(connection, expired)
            connection.many(self._reserve, [row for row in fresh if row[0] in expired])
            rows.update((name, _Row(name)) for name in expired)
        return now, rows

    def _delete(self, connection: Connection, join_ids: Sequence[str]) -> None:
        values = (self._values(join_ids),)
        connection.run(self._forget_parts, values)
        connection.run(self._forget, values)

    def _save(self, connection: Connection, row: _Row, now: float) -> None:
        row.expires = None if self._expires is None else max(now, row.deadline or 0.0) + self._expires
        row.schedule()
        written = attrs.asdict(row)
        connection.run(self._update, (*(written[column] for column in _COLUMNS if column != "id"), row.id))


def _row(columns: Sequence[Any]) -> _Row:
    read: Mapping[str, Any] = dict(zip(_COLUMNS, columns, strict=True))
    blobs = {name: None if read[name] is None else bytes(read[name]) for name in ("body", "on_error")}
    return _Row(**{**read, **blobs})
