"""Documents, groups and joins of a memory space. Callers hold the space's lock, except for :meth:`Results.tell`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from kern import states
from kern.contracts.result_store import GroupDocument, Join, JoinPolicy, JoinState, Plan
from kern.message import Publication
from kern.outcome import Document, JoinPart


@attrs.frozen
class Kept:
    """A value and when it ceases to be."""

    value: Document | GroupDocument
    expires: float | None


@attrs.frozen
class JoinRecord:
    """A join and the parts that came. It may be known by its parts alone."""

    id: str
    join: Join | None = None
    parts: dict[str, JoinPart] = attrs.field(factory=dict)
    #: How many members, where only the parts say so.
    size: int | None = None
    body: Publication | None = None
    closed: bool = False
    expires: float | None = None

    def with_part(self, part: JoinPart) -> JoinRecord:
        """The record with *part* in it; the first part of a member counts."""
        known = self.join is None or not self.join.members or part.member in self.join.members
        if part.member in self.parts or not known:
            return self
        return attrs.evolve(
            self,
            parts={**self.parts, part.member: part},
            size=self.size if self.size is not None else part.size,
            body=self.body or part.body,
        )

    def verdict(self) -> bool | None:
        """``True``: complete, ``False``: failed, ``None``: neither yet."""
        total = len(self.join.members) if self.join is not None and self.join.members else self.size
        if total is None:
            return True if self.join is not None else None
        succeeded = sum(part.state == states.SUCCESS for part in self.parts.values())
        failed = len(self.parts) - succeeded
        policy = self.join.policy if self.join is not None else JoinPolicy.ALL
        if policy is JoinPolicy.COLLECT:
            return True if succeeded + failed >= total else None
        needed = {JoinPolicy.ALL: total, JoinPolicy.ANY: 1}.get(policy, (self.join and self.join.needed) or total)
        if succeeded >= needed:
            return True
        return False if total - failed < needed else None

    def ending(self, complete: bool) -> tuple[Publication, ...]:
        """What is to be published when it ends."""
        if not complete:
            return self.join.on_error if self.join is not None else ()
        body = (self.join.body if self.join is not None else None) or self.body
        return (body,) if body is not None else ()


@attrs.frozen
class Change:
    """What a plan comes to, before anything is changed."""

    #: What is to be stored.
    documents: tuple[Document, ...]
    #: The outcome's own document is not: a final one is there and stays.
    kept: bool
    joins: tuple[JoinRecord, ...]
    publications: tuple[Publication, ...]
    #: Seconds what is written lives; ``None``: for ever.
    expires: float | None


#: Takes final documents as they come.
Listener = Callable[[Sequence[Document]], None]


class Results:
    """What a result store keeps."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._documents: dict[str, Kept] = {}
        self._groups: dict[str, Kept] = {}
        self._joins: dict[str, JoinRecord] = {}
        self._listeners: dict[int, Listener] = {}
        self._news: list[Document] = []

    # -- documents

    def read(self, task_id: str) -> Document | None:
        value = self._alive(self._documents, task_id)
        return value if isinstance(value, Document) else None

    def forget(self, task_id: str) -> bool:
        there = self.read(task_id) is not None
        self._documents.pop(task_id, None)
        return there

    def change(self, plan: Plan, expires: float | None) -> Change:
        """What writing *plan* comes to. Changes nothing."""
        own = plan.document
        kept = own is not None and self._stays(own)
        documents = [own] if own is not None and not kept else []
        documents += [document for document in plan.documents if not self._stays(document)]
        joins: dict[str, JoinRecord] = {}
        publications: list[Publication] = []
        for part in plan.join_parts:
            record = joins.get(part.join_id) or self._join(part.join_id) or JoinRecord(part.join_id)
            if record.closed:
                continue
            record = record.with_part(part)
            verdict = record.verdict()
            if verdict is not None:
                publications += record.ending(verdict)
                record = attrs.evolve(record, closed=True)
            joins[part.join_id] = record
        return Change(tuple(documents), kept, tuple(joins.values()), tuple(publications), expires)

    def _stays(self, document: Document) -> bool:
        """Whether what is there of that call is not overwritten by *document*."""
        there = self.read(document.task_id)
        return there is not None and (
            there.status == states.SUCCESS
            or (there.status in states.READY_STATES and document.status not in states.READY_STATES)
        )

    def apply(self, change: Change) -> None:
        until = None if change.expires is None else self._now() + change.expires
        for document in change.documents:
            self._documents[document.task_id] = Kept(document, until)
            if document.status in states.READY_STATES:
                self._news.append(document)
        for record in change.joins:
            self._joins[record.id] = attrs.evolve(record, expires=until)

    # -- who waits

    def listen(self, key: int, listener: Listener | None) -> None:
        if listener is None:
            self._listeners.pop(key, None)
        else:
            self._listeners[key] = listener

    def tell(self) -> None:
        """Pass on the final documents written since; without the lock."""
        news, self._news = self._news, []
        if news:
            for listener in list(self._listeners.values()):
                listener(news)

    # -- groups

    def save_group(self, group: GroupDocument, expires: float | None) -> None:
        self._groups[group.group_id] = Kept(group, None if expires is None else self._now() + expires)

    def read_group(self, group_id: str) -> GroupDocument | None:
        value = self._alive(self._groups, group_id)
        return value if isinstance(value, GroupDocument) else None

    def delete_group(self, group_id: str) -> None:
        self._groups.pop(group_id, None)

    def sweep(self) -> int:
        now, swept = self._now(), 0
        for kept in (self._documents, self._groups):
            for key in [key for key, entry in kept.items() if entry.expires is not None and entry.expires <= now]:
                del kept[key]
                swept += 1
        for key in [key for key, join in self._joins.items() if join.expires is not None and join.expires <= now]:
            del self._joins[key]
        return swept

    def _alive(self, kept: dict[str, Kept], key: str) -> Document | GroupDocument | None:
        entry = kept.get(key)
        if entry is None or (entry.expires is not None and entry.expires <= self._now()):
            return None
        return entry.value

    # -- joins

    def open_join(self, join: Join, expires: float | None) -> None:
        record = self._join(join.id)
        if record is not None and record.join is not None:
            return
        record = attrs.evolve(record or JoinRecord(join.id), join=join)
        self._joins[join.id] = attrs.evolve(record, expires=None if expires is None else self._now() + expires)

    def joins_due(self, limit: int) -> list[JoinState]:
        due: list[JoinState] = []
        for record in self._joins.values():
            if len(due) >= limit:
                break
            if record.join is not None and not record.closed and (record.verdict() is not None or self._late(record)):
                due.append(JoinState(record.join, dict(record.parts), record.closed))
        return due

    def close_join(self, join_id: str) -> tuple[Publication, ...]:
        record = self._join(join_id)
        if record is None or record.closed:
            return ()
        verdict = record.verdict()
        if verdict is None:
            if not self._late(record):
                return ()
            verdict = False
        self._joins[join_id] = attrs.evolve(record, closed=True)
        return record.ending(verdict)

    def _join(self, join_id: str) -> JoinRecord | None:
        record = self._joins.get(join_id)
        return None if record is None or (record.expires is not None and record.expires <= self._now()) else record

    def _late(self, record: JoinRecord) -> bool:
        return record.join is not None and record.join.deadline is not None and record.join.deadline <= self._now()
