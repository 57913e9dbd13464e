"""The thread that owns a blocking driver outlives a server that comes back and goes again."""

from __future__ import annotations

import pytest

from kern import states
from kern.contracts import blocking
from kern.contracts.blocking import threaded_store
from kern.documents import encode_document
from kern.errors import BackendUnavailable
from kern.outcome import Document
from kern_testing.make import unique
from kern_testing.memory import MemoryResultStore
from kern_testing.waiting import eventually


def test_a_server_that_is_gone_again_while_watches_are_restored_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "BACKOFF", (0.001, 1.0, 0.001))
    told: list[Document] = []
    store = threaded_store(MemoryResultStore(f"memory://{unique()}"))
    store.start(told.extend).result(10)
    store.watch(["t"]).result(10)
    read, failures = MemoryResultStore.read, iter(range(3))

    def fails_at_first(self: MemoryResultStore, task_ids: list[str]) -> dict[str, Document]:
        if next(failures, None) is not None:
            raise BackendUnavailable("gone again")
        return read(self, task_ids)

    monkeypatch.setattr(MemoryResultStore, "read", fails_at_first)
    with pytest.raises(BackendUnavailable):
        store.read(["other"]).result(10)
    assert store.read(["other"]).result(10) == {}
    store.write(store.plan([encode_document("t", states.SUCCESS, 1, whole=True)], [()])).result(10)
    eventually(lambda: told, "the watch is restored")
    store.stop().result(10)
