"""Records of a memory space."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

import attrs

from kern.contracts.records import Record, Records


class MemoryRecords(Records):
    """Small shared facts, under the lock and clock of the space."""

    def __init__(self, lock: threading.RLock, now: Callable[[], float]) -> None:
        self._lock, self._now = lock, now
        self._records: dict[tuple[str, str], Record] = {}
        self._versions = itertools.count(1)
        self._watchers: dict[int, tuple[str, Callable[[str], None]]] = {}
        self._watcher_keys = itertools.count()

    def get(self, kind: str, key: str) -> Record | None:
        with self._lock:
            record = self._records.get((kind, key))
            if record is not None and record.expires is not None and record.expires <= self._now():
                del self._records[kind, key]
                return None
            return record

    def put(self, kind: str, key: str, value: bytes, ttl: float | None = None) -> Record:
        with self._lock:
            record = self._write(kind, key, value, ttl)
        self._tell(kind, key)
        return record

    def put_if_absent(self, kind: str, key: str, value: bytes, ttl: float | None = None) -> Record | None:
        with self._lock:
            if self.get(kind, key) is not None:
                return None
            record = self._write(kind, key, value, ttl)
        self._tell(kind, key)
        return record

    def compare_and_set(self, record: Record, value: bytes, ttl: float | None = None) -> Record | None:
        with self._lock:
            there = self.get(record.kind, record.key)
            if there is None or there.version != record.version:
                return None
            written = self._write(record.kind, record.key, value, ttl)
        self._tell(record.kind, record.key)
        return written

    def expire(self, kind: str, key: str, ttl: float | None) -> bool:
        with self._lock:
            record = self.get(kind, key)
            if record is None:
                return False
            self._records[kind, key] = attrs.evolve(record, expires=None if ttl is None else self._now() + ttl)
            return True

    def delete(self, kind: str, key: str, version: int | None = None) -> bool:
        with self._lock:
            record = self.get(kind, key)
            if record is None or (version is not None and record.version != version):
                return False
            del self._records[kind, key]
        self._tell(kind, key)
        return True

    def scan(self, kind: str, prefix: str = "") -> Iterator[Record]:
        with self._lock:
            keys = sorted(key for its_kind, key in self._records if its_kind == kind and key.startswith(prefix))
            found = [self.get(kind, key) for key in keys]
        return iter([record for record in found if record is not None])

    def watch(self, kind: str, callback: Callable[[str], None]) -> Callable[[], None]:
        with self._lock:
            number = next(self._watcher_keys)
            self._watchers[number] = (kind, callback)

        def end() -> None:
            with self._lock:
                self._watchers.pop(number, None)

        return end

    def _write(self, kind: str, key: str, value: bytes, ttl: float | None) -> Record:
        expires = None if ttl is None else self._now() + ttl
        record = Record(kind, key, bytes(value), next(self._versions), expires)
        self._records[kind, key] = record
        return record

    def _tell(self, kind: str, key: str) -> None:
        with self._lock:
            callbacks = [callback for its_kind, callback in self._watchers.values() if its_kind == kind]
        for callback in callbacks:
            callback(key)
