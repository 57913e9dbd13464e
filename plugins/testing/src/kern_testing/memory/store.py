"""The result store of ``memory://name``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import Any

import attrs

from kern.contracts.records import Records
from kern.contracts.result_store import (
    BlockingResultStore,
    DocumentForm,
    GroupDocument,
    Join,
    JoinState,
    Plan,
    StoreCapability,
    WriteStatus,
    Written,
)
from kern.errors import BackendUnavailable, ImproperlyConfigured
from kern.message import Publication
from kern.outcome import Document, JoinPart
from kern_testing.memory.bell import Bell
from kern_testing.memory.space import Space, parse, space


@attrs.frozen
class MemoryPlan(Plan):
    """What a memory store wants written; the transport of the same space does it together with the lease."""

    #: Seconds the document lives; ``None``: for ever.
    expires: float | None = None


class MemoryResultStore(BlockingResultStore):
    """A connection to a space.

    ``memory://name?form=parts`` keeps documents in parts, as stores with columns do; else they are kept whole.
    """

    capabilities = frozenset(StoreCapability) - {StoreCapability.AUTO_EXPIRE}

    def __init__(self, url: str = "memory://", conf: Any = None, result_expires: float | None = None) -> None:
        """
        :param conf: its ``result_expires`` (seconds or a ``timedelta``) is looked at.
        :param result_expires: seconds; goes before the one of *conf*.
        """
        name, options = parse(url, "form")
        try:
            self.document_form = DocumentForm(options.get("form", DocumentForm.WHOLE))
        except ValueError:
            raise ImproperlyConfigured(f"{url!r}: 'form' is whole or parts") from None
        self.url = url
        self.space: Space = space(name)
        self.server = self.space.server
        configured = getattr(conf, "result_expires", None) if result_expires is None else result_expires
        self._expires = configured.total_seconds() if isinstance(configured, timedelta) else (configured or None)
        self._bell: Bell[Document] | None = None

    def open(self) -> None:
        self.space.mend(self)
        self._reach()
        self.close()
        bell: Bell[Document] = Bell()
        self._bell = bell

        def hear(documents: Sequence[Document]) -> None:
            for document in documents:
                bell.ring(document)

        with self.space.lock:
            self.space.results.listen(id(self), hear)

    def close(self) -> None:
        with self.space.lock:
            self.space.results.listen(id(self), None)
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()

    def _reach(self) -> None:
        """
        :raises BackendUnavailable: a test has taken the server or this connection away.
        """
        if (problem := self.space.problem(self)) is not None:
            raise BackendUnavailable(problem)

    def wake_fd(self) -> int | None:
        return self._bell.descriptor if self._bell is not None else None

    def collect(self, watched: Collection[str]) -> Iterable[Document]:
        self._reach()
        news = self._bell.drain() if self._bell is not None else []
        return [document for document in news if document.task_id in watched]

    def plan(
        self,
        documents: Sequence[Document | None],
        parts: Sequence[Sequence[JoinPart]],
        others: Sequence[Sequence[Document]] = (),
    ) -> list[Plan | None]:
        return [
            MemoryPlan(self.server, document, tuple(its_parts), tuple(its_others), expires=self._expires)
            if document or its_parts or its_others
            else None
            for document, its_parts, its_others in zip(documents, parts, others or [()] * len(documents), strict=True)
        ]

    def write(self, plans: Sequence[Plan]) -> list[Written]:
        self._reach()
        answers = []
        for plan in plans:
            with self.space.lock:
                change = self.space.results.change(plan, self._expires)
                self.space.results.apply(change)
            answers.append(Written(WriteStatus.KEPT if change.kept else WriteStatus.WRITTEN, change.publications))
        self.space.results.tell()
        return answers

    def read(self, task_ids: Sequence[str]) -> dict[str, Document]:
        self._reach()
        with self.space.lock:
            found = ((task_id, self.space.results.read(task_id)) for task_id in task_ids)
            return {task_id: document for task_id, document in found if document is not None}

    def forget(self, task_ids: Sequence[str]) -> int:
        self._reach()
        with self.space.lock:
            return sum(self.space.results.forget(task_id) for task_id in task_ids)

    def save_group(self, group: GroupDocument) -> None:
        self._reach()
        with self.space.lock:
            self.space.results.save_group(group, self._expires)

    def read_group(self, group_id: str) -> GroupDocument | None:
        self._reach()
        with self.space.lock:
            return self.space.results.read_group(group_id)

    def delete_group(self, group_id: str) -> None:
        self._reach()
        with self.space.lock:
            self.space.results.delete_group(group_id)

    def sweep(self) -> int:
        self._reach()
        with self.space.lock:
            return self.space.results.sweep()

    def open_join(self, join: Join) -> None:
        self._reach()
        with self.space.lock:
            self.space.results.open_join(join, self._expires)

    def joins_due(self, limit: int = 100) -> list[JoinState]:
        self._reach()
        with self.space.lock:
            return self.space.results.joins_due(limit)

    def close_join(self, join_id: str) -> tuple[Publication, ...]:
        self._reach()
        with self.space.lock:
            return self.space.results.close_join(join_id)

    def records(self) -> Records:
        return self.space.records
