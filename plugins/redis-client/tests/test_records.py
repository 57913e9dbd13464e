"""Records on Redis: the contract, and what is Redis' own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kern.errors import TransportError
from kern_redis_client import urls
from kern_redis_client.connect import open_link
from kern_redis_client.keys import Keys
from kern_redis_client.link import Link
from kern_redis_client.records import SCRIPTS, RedisRecords
from kern_testing.contracts.records import RecordsContract
from kern_testing.servers import Redis
from kern_testing.waiting import eventually

from .conftest import ask

KEYS = Keys("app:")


class Lender:
    """What a driver does for its records."""

    def __init__(self, url: str) -> None:
        self.address = urls.parse(url)
        self.records = RedisRecords(lambda: self.link, KEYS, self.address.masked)
        self.unasked: list[Any] = []
        self.link = open_link(
            self.address,
            greet=self.records.greet,
            on_push=self.take,
            scripts=SCRIPTS,
        )

    def take(self, message: list[Any]) -> None:
        if not self.records.take(message):
            self.unasked.append(message)


@pytest.fixture
def lenders(redis_url: str) -> Iterator[list[Lender]]:
    made = [Lender(redis_url), Lender(redis_url)]
    for lender in made:
        lender.link.start().result(20)
    yield made
    for lender in made:
        lender.link.stop()


class TestRedisRecords(RecordsContract):
    """The promises of records."""

    @pytest.fixture
    def records(self, lenders: list[Lender]) -> RedisRecords:
        return lenders[0].records

    @pytest.fixture
    def other_records(self, lenders: list[Lender]) -> RedisRecords:
        return lenders[1].records


class TestRedisRecordsOfALoop(RecordsContract):
    """The same for those of a worker, whose loop reads the socket."""

    @pytest.fixture
    def records(self, redis_url: str) -> Iterator[RedisRecords]:
        lender, loop = Lender(redis_url), asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()

        async def begin() -> None:
            lender.link.attach(loop)
            await asyncio.wrap_future(lender.link.start())

        asyncio.run_coroutine_threadsafe(begin(), loop).result(20)
        yield lender.records
        loop.call_soon_threadsafe(lender.link.stop)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()

    @pytest.fixture
    def other_records(self, lenders: list[Lender]) -> RedisRecords:
        return lenders[1].records


@pytest.fixture
def records(lenders: list[Lender]) -> RedisRecords:
    return lenders[0].records


@pytest.fixture
def link(lenders: list[Lender]) -> Link:
    return lenders[0].link


def test_a_watcher_learns_what_happened_while_the_connection_was_down(
    lenders: list[Lender], redis_server: Redis
) -> None:
    """After a reconnection, what was written and deleted meanwhile is reported, and what is as it was is not."""
    mine, other = (lender.records for lender in lenders)
    for key in ("kept", "changed", "deleted"):
        mine.put("kind", key, b"1")
    told: list[str] = []
    end = mine.watch("kind", told.append)
    dial = lenders[0].link._dial
    free = threading.Event()
    lenders[0].link._dial = lambda: free.wait(20) and dial()  # type: ignore[assignment,return-value]
    redis_server.command("CLIENT", "KILL", "ID", str(lenders[0].link.facts.client_id))  # type: ignore[union-attr]
    eventually(lambda: not lenders[0].link.up, "the connection is down")
    other.put("kind", "changed", b"2")
    other.put("kind", "new", b"2")
    other.delete("kind", "deleted")
    free.set()
    eventually(lambda: sorted(told) == ["changed", "deleted", "new"], f"all changes were reported: {told}")
    end()
    assert not any(message[0] == b"message" for message in lenders[0].unasked), "what is for watchers goes to them"


def test_names_of_expired_records_do_not_pile_up(records: RedisRecords, link: Link) -> None:
    """Each change takes some names of expired records with it."""
    for number in range(40):
        records.put("kind", f"short{number}", b"", ttl=0.001)
    eventually(lambda: records.get("kind", "short39") is None, "the last has expired")
    for number in range(6):
        records.put("kind", f"long{number}", b"")
    assert ask(link, "ZCARD", KEYS("kern.records.kind")) == 6
    assert ask(link, "ZCARD", KEYS("kern.record_expiries.kind")) == 0


def test_a_record_whose_life_was_lengthened_keeps_its_name(records: RedisRecords) -> None:
    """What was to expire and was given a longer life is still found by a scan after other changes."""
    records.put("kind", "k", b"v", ttl=0.05)
    records.expire("kind", "k", None)
    records.put("kind", "short", b"", ttl=0.06)
    eventually(lambda: records.get("kind", "short") is None, "the time is over")
    records.put("kind", "other", b"")
    assert [record.key for record in records.scan("kind")] == ["k", "other"]


def test_a_scan_goes_through_many_pages_in_order(records: RedisRecords) -> None:
    """Some hundred records come complete, and in the order of their keys."""
    names = [f"{number:04x}é" for number in range(0, 3000, 5)]
    for name in reversed(names):
        records.put("kind", name, name.encode())
    assert [record.key for record in records.scan("kind")] == names
    assert [record.key for record in records.scan("kind", "00")] == [name for name in names if name.startswith("00")]


def test_kinds_do_not_reach_into_each_other(records: RedisRecords) -> None:
    """A kind and a key that look alike when joined are still two."""
    records.put("a", "b:c", b"1")
    records.put("a:b", "c", b"2")
    assert records.get("a", "b:c").value == b"1"  # type: ignore[union-attr]
    assert [record.value for record in records.scan("a:b")] == [b"2"]


def test_a_full_server_refuses_records_and_gives_them(records: RedisRecords, redis_server: Redis) -> None:
    """Without memory a write is an error that says so; reading and deleting work, and make room."""
    records.put("kind", "k", b"x" * 100)
    redis_server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(TransportError, match="maxmemory"):
            records.put("kind", "more", b"x")
        assert records.get("kind", "k") is not None
    finally:
        redis_server.command("CONFIG", "SET", "maxmemory", "0")
    assert records.delete("kind", "k")


def test_a_foreign_key_in_the_way_is_an_error_that_names_it(records: RedisRecords, link: Link) -> None:
    """Where somebody has put a list, a write says so, and changes nothing."""
    ask(link, "LPUSH", KEYS("kern.record.4:kind:k"), "foreign")
    with pytest.raises(TransportError, match="something else than it should"):
        records.put("kind", "k", b"v")
    assert ask(link, "LLEN", KEYS("kern.record.4:kind:k")) == 1
    assert list(records.scan("kind")) == []
