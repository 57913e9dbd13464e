"""Records: small shared facts. Part of the suites of transports and result stores that declare them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from kern.contracts.records import Record, Records
from kern_testing import make
from kern_testing.contracts.suite import Clock, Suite, applies, eventually

has_records = applies(lambda suite: suite.keeps_records)


class RecordsContract(Suite):
    """What a driver with the capability ``RECORDS`` owes."""

    #: ``False`` in the suite of a driver that does not declare the capability ``RECORDS``.
    keeps_records: bool = True

    @pytest.fixture
    def records(self) -> Records:
        """Records of one connection; ``other_records`` are those of another one to the same server."""
        raise NotImplementedError

    @pytest.fixture
    def other_records(self) -> Records:
        raise NotImplementedError

    @has_records
    def test_a_record_is_read_as_it_was_written(self, records: Records, other_records: Records) -> None:
        """A record is read as it was written, byte for byte, by everybody."""
        kind, value = make.unique("kind"), bytes(range(256))
        written = records.put(kind, "key/with ünusual: characters", value)
        for reader in (records, other_records):
            read = reader.get(kind, "key/with ünusual: characters")
            assert read is not None
            assert read.value == value
            assert (read.kind, read.key, read.version) == (kind, "key/with ünusual: characters", written.version)
            assert read.expires is None

    @has_records
    def test_an_absent_record_is_none(self, records: Records) -> None:
        """What was never written is absent for every method."""
        kind = make.unique("kind")
        assert records.get(kind, "k") is None
        assert records.delete(kind, "k") is False
        assert records.expire(kind, "k", 10) is False
        assert list(records.scan(kind)) == []
        assert records.compare_and_set(Record(kind, "k", b"", 1), b"x") is None

    @has_records
    def test_each_write_changes_the_version(self, records: Records) -> None:
        """Each write changes the version, also a write of the same value, and also after a deletion."""
        kind = make.unique("kind")
        versions = [records.put(kind, "k", b"same").version for _ in range(5)]
        records.delete(kind, "k")
        versions.append(records.put(kind, "k", b"same").version)
        assert len(set(versions)) == len(versions)

    @has_records
    def test_only_the_first_puts_if_absent(self, records: Records, other_records: Records) -> None:
        """Of those who put if absent, the first wins, and its value stays."""
        kind = make.unique("kind")
        first = records.put_if_absent(kind, "k", b"first")
        assert first is not None
        assert first.value == b"first"
        assert other_records.put_if_absent(kind, "k", b"second") is None
        read = other_records.get(kind, "k")
        assert read is not None
        assert read.value == b"first"

    @has_records
    def test_compare_and_set_writes_only_over_the_version_read(self, records: Records, other_records: Records) -> None:
        """Who has read an older version does not overwrite."""
        kind = make.unique("kind")
        read = records.put(kind, "k", b"0")
        by_other = other_records.compare_and_set(read, b"1")
        assert by_other is not None
        assert records.compare_and_set(read, b"2") is None
        current = records.get(kind, "k")
        assert current is not None
        assert current.value == b"1"
        assert records.compare_and_set(current, b"3") is not None

    @has_records
    def test_of_many_who_read_the_same_one_writes(self, records: Records, other_records: Records) -> None:
        """Two connections, four threads, each adding one to what all have read: one of them may, each time."""
        kind, threads, rounds = make.unique("kind"), 4, 10
        records.put(kind, "sum", b"0")
        barrier, written = threading.Barrier(threads), list[Record]()

        def add(mine: Records) -> None:
            for _ in range(rounds):
                read = mine.get(kind, "sum")
                assert read is not None
                barrier.wait(20)
                if (record := mine.compare_and_set(read, str(int(read.value) + 1).encode())) is not None:
                    written.append(record)
                barrier.wait(20)

        in_parallel([partial(add, mine) for mine in (records, other_records) * (threads // 2)])
        assert len(written) == rounds, f"{len(written)} writers of {rounds} rounds were told that they had written"
        total = records.get(kind, "sum")
        assert total is not None
        assert int(total.value) == rounds

    @has_records
    def test_only_one_of_many_puts_if_absent(self, records: Records, other_records: Records) -> None:
        """Of eight threads that put if absent at once, one is first."""
        kind = make.unique("kind")
        for key in map(str, range(10)):
            winners: list[bytes] = []
            barrier = threading.Barrier(8)

            def put(
                mine: Records, value: bytes, key: str = key, winners: list[bytes] = winners, barrier: Any = barrier
            ) -> None:
                barrier.wait(10)
                if mine.put_if_absent(kind, key, value) is not None:
                    winners.append(value)

            in_parallel([partial(put, mine, b"%d" % n) for n, mine in enumerate([records, other_records] * 4)])
            assert len(winners) == 1, f"{len(winners)} writers were told that they were first"
            read = records.get(kind, key)
            assert read is not None
            assert read.value == winners[0]

    @has_records
    def test_an_expired_record_is_absent(self, records: Records, server_clock: Clock) -> None:
        """An expired record is as good as absent everywhere, and its key is free."""
        kind = make.unique("kind")
        written = records.put(kind, "k", b"v", ttl=0.2)
        assert written.expires is not None
        eventually(lambda: records.get(kind, "k") is None, "the record has expired", clock=server_clock)
        assert list(records.scan(kind)) == []
        assert records.delete(kind, "k") is False
        assert records.expire(kind, "k", 10) is False
        assert records.compare_and_set(written, b"w") is None
        assert records.put_if_absent(kind, "k", b"again") is not None

    @has_records
    def test_a_life_can_be_changed(self, records: Records, server_clock: Clock) -> None:
        """``expire`` shortens a life, and ``None`` makes it endless."""
        kind = make.unique("kind")
        records.put(kind, "short", b"v")
        records.put(kind, "endless", b"v", ttl=0.3)
        assert records.expire(kind, "endless", None) is True
        assert records.expire(kind, "short", 0.3) is True
        eventually(lambda: records.get(kind, "short") is None, "the record has expired", clock=server_clock)
        endless = records.get(kind, "endless")
        assert endless is not None
        assert endless.value == b"v"
        assert endless.expires is None

    @has_records
    def test_a_write_without_a_life_is_for_ever(self, records: Records) -> None:
        """The life of a record is that of its last write."""
        kind = make.unique("kind")
        records.put(kind, "k", b"v", ttl=1000)
        assert records.put(kind, "k", b"w").expires is None
        read = records.get(kind, "k")
        assert read is not None
        assert read.expires is None

    @has_records
    def test_only_the_given_version_is_deleted(self, records: Records) -> None:
        """Deleting an older version deletes nothing."""
        kind = make.unique("kind")
        old = records.put(kind, "k", b"old")
        new = records.put(kind, "k", b"new")
        assert records.delete(kind, "k", version=old.version) is False
        assert records.get(kind, "k") is not None
        assert records.delete(kind, "k", version=new.version) is True
        assert records.get(kind, "k") is None

    @has_records
    def test_scan_gives_a_kind_in_the_order_of_keys(self, records: Records) -> None:
        """A scan gives what has the prefix, in order of the keys, and nothing of another kind."""
        kind, other = make.unique("kind"), make.unique("kind")
        for key in ("b/2", "a/1", "b/10", "c", "b%", "b_"):
            records.put(kind, key, key.encode())
        records.put(other, "b/3", b"")
        assert [record.key for record in records.scan(kind, "b/")] == ["b/10", "b/2"]
        assert [record.key for record in records.scan(kind, "b%")] == ["b%"]
        assert [record.key for record in records.scan(kind, "b_")] == ["b_"]
        assert [(record.key, record.value) for record in records.scan(kind)] == sorted(
            (key, key.encode()) for key in ("b/2", "a/1", "b/10", "c", "b%", "b_")
        )

    @has_records
    def test_who_watches_a_kind_is_told_of_changes(self, records: Records, other_records: Records) -> None:
        """Writes and deletions of others are reported, until the watch ends."""
        kind = make.unique("kind")
        told: list[str] = []
        end: Callable[[], None] = records.watch(kind, told.append)
        try:
            other_records.put(kind, "written", b"v")
            eventually(lambda: "written" in told, "the write was reported")
            told.clear()
            other_records.delete(kind, "written")
            eventually(lambda: "written" in told, "the deletion was reported")
        finally:
            end()
        end()  # twice is fine


def in_parallel(jobs: list[Callable[[], object]]) -> None:
    """Run each on a thread of its own; the first error is raised here."""
    errors: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread has not finished after 60 s"
    if errors:
        raise errors[0]
