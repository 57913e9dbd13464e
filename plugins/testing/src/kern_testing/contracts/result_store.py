"""What every result store owes, as tests. The promises are those of :mod:`kern.contracts.result_store`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kern import states
from kern.contracts.records import Records
from kern.contracts.result_store import (
    BlockingResultStore,
    DocumentForm,
    GroupDocument,
    Join,
    JoinPolicy,
    ResultStore,
    StoreCapability,
    WriteStatus,
)
from kern.errors import BackendUnavailable
from kern.message import Publication
from kern.outcome import Document, ExtendedFields, JoinPart
from kern_testing import make
from kern_testing.contracts.connection import StoreConnection
from kern_testing.contracts.records import RecordsContract, in_parallel
from kern_testing.contracts.suite import Clock, applies, eventually, missing, refuses
from kern_testing.contracts.transport import fuzzing, json_values, open_files

#: Opens a further connection: ``connect()``, ``connect(result_expires=0.2)``.
ConnectStore = Callable[..., StoreConnection]

has_joins = applies(lambda suite: suite.joins)


class MakeStore(Protocol):
    def __call__(self, result_expires: float | None = None) -> ResultStore | BlockingResultStore:
        """A store that is not started; what it writes expires after so many seconds, or never."""
        ...


class ResultStoreContract(RecordsContract):
    """Subclass it, and give ``make_store(result_expires=None)``, which makes a store that is not started."""

    #: ``False`` in the suite of a store that does not declare the capability ``JOINS``.
    joins: ClassVar[bool] = True
    #: Fields of a document in parts that this store does not keep, and why. A whole document is kept as it is.
    lost_fields: ClassVar[Mapping[str, str]] = {}
    #: Smallest difference between two times the store keeps apart; databases have types of full seconds.
    date_resolution: ClassVar[timedelta] = timedelta(0)
    #: ``True`` where :meth:`cut` is given.
    cuts: ClassVar[bool] = False
    #: ``True`` where the fixtures ``make_unreachable`` and ``make_refused`` are given.
    refuses: ClassVar[bool] = False
    #: Ids in one watch, and documents in one write; fewer only where a server is slow by nature.
    many: ClassVar[int] = 3000
    #: An id whose document this store refuses to write; ``None``: it takes any.
    refused_id: ClassVar[str | None] = None
    #: Seconds after which results expire in the tests about that; whole ones where the server counts in them.
    short_life: ClassVar[float] = 0.3

    @pytest.fixture
    def make_store(self) -> MakeStore:
        missing("make_store", "return lambda result_expires=None: RedisResultStore(redis_url, …)")

    def cut(self, connection: StoreConnection) -> None:
        """Break the connection to the server under the driver; the server goes on, and can be reached again."""
        raise NotImplementedError

    @pytest.fixture
    def make_unreachable(self) -> Callable[[], ResultStore | BlockingResultStore]:
        """Makes a store for a place where no server listens, with the password ``hunter2`` in its URL."""
        raise NotImplementedError

    @pytest.fixture
    def make_refused(self) -> Callable[[], ResultStore | BlockingResultStore]:
        """Makes a store that the server refuses for good: the password ``hunter2`` is wrong."""
        raise NotImplementedError

    @pytest.fixture
    def connect(self, make_store: MakeStore, server_clock: Clock) -> Iterator[ConnectStore]:
        opened: list[StoreConnection] = []

        def connect(result_expires: float | None = None) -> StoreConnection:
            connection = StoreConnection(make_store(result_expires=result_expires), server_clock).start()
            opened.append(connection)
            return connection

        yield connect
        for connection in opened:
            connection.stop()

    @pytest.fixture
    def store(self, connect: ConnectStore) -> StoreConnection:
        return connect()

    @pytest.fixture
    def other(self, connect: ConnectStore) -> StoreConnection:
        """Another connection to the same server."""
        return connect()

    @pytest.fixture
    def records(self, store: StoreConnection) -> Records:
        return records_of(store)

    @pytest.fixture
    def other_records(self, other: StoreConnection) -> Records:
        return records_of(other)

    # -- life ----------------------------------------------------------------------------------------------------------

    def test_it_is_stopped_twice_and_before_its_start(self, make_store: MakeStore) -> None:
        """Stopping is safe before a start, and twice."""
        StoreConnection(make_store()).stop()
        connection = StoreConnection(make_store()).start()
        connection.stop()
        connection.stop()

    def test_starting_and_stopping_leaves_nothing_behind(self, make_store: MakeStore) -> None:
        """Twenty connections, opened and closed, leave no thread and no file open."""

        def start_and_stop() -> None:
            StoreConnection(make_store()).start().stop()

        for _ in range(3):
            start_and_stop()
        threads, files = threading.active_count(), open_files()
        for _ in range(20):
            start_and_stop()
        eventually(lambda: threading.active_count() <= threads, "the threads have ended")
        eventually(lambda: open_files() <= files + 2, f"the files are closed (there were {files})")

    def test_it_shows_no_password(self, store: StoreConnection) -> None:
        """The URL it shows has no password in it."""
        assert store.port.url, "a store says where it keeps results, for banners and errors"
        user_info = store.port.url.partition("://")[2].rpartition("@")[0]
        assert set(user_info.partition(":")[2]) <= {"*"}, f"the URL shows a password: {store.port.url}"

    def test_its_capabilities_are_known_ones(self, store: StoreConnection) -> None:
        """Capabilities are members of ``StoreCapability``, and say the same as the suite and the methods."""
        assert isinstance(store.port.capabilities, frozenset)
        assert all(isinstance(capability, StoreCapability) for capability in store.port.capabilities)
        declared = store.has(StoreCapability.RECORDS)
        assert (store.port.records() is not None) == declared
        assert self.keeps_records == declared, "'keeps_records' of the suite and the capability say the same"
        assert self.joins == store.has(StoreCapability.JOINS), "'joins' of the suite and the capability say the same"

    @applies(lambda suite: suite.refuses)
    def test_a_server_that_cannot_be_reached_is_an_error(
        self, make_unreachable: Callable[[], ResultStore | BlockingResultStore]
    ) -> None:
        """The start fails, soon, worth trying again, and says no password."""
        assert refusal(make_unreachable).retryable, "a server that cannot be reached may be there later"

    @applies(lambda suite: suite.refuses)
    def test_wrong_credentials_are_an_error(
        self, make_refused: Callable[[], ResultStore | BlockingResultStore]
    ) -> None:
        """The start fails, not worth trying again, and says no password."""
        assert not refusal(make_refused).retryable, "a wrong password does not become right by waiting"

    @applies(lambda suite: suite.cuts)
    def test_a_cut_connection_is_rebuilt(self, store: StoreConnection, other: StoreConnection) -> None:
        """Reading says "unavailable" and never "absent"; watches go on, also for what came meanwhile."""
        there, meanwhile, later = (other.document() for _ in range(3))
        other.write(there)
        store.watch(meanwhile.task_id, later.task_id)
        self.cut(store)
        other.write(meanwhile)

        def back() -> bool:
            try:
                read = store.read_one(there.task_id)
            except BackendUnavailable:
                return False  # the command that noticed
            assert read is not None, "a result was called absent because the server could not be reached"
            return True

        eventually(back, "the connection is there again")
        eventually(lambda: meanwhile.task_id in store.told, "what came meanwhile was reported")
        other.write(later)
        eventually(lambda: later.task_id in store.told, "what came later was reported")

    # -- documents -----------------------------------------------------------------------------------------------------

    def test_a_document_is_read_as_it_was_written(self, store: StoreConnection, other: StoreConnection) -> None:
        """Field by field, by everybody."""
        document = store.document(
            value={"list": [1, None, "ünï ☃"], "text": 'quote " and \\ backslash'},
            children=[[["child-1", None], None], [["child-2", ["child-1", None]], []]],
            parent_id=make.unique("parent"),
            group_id=make.unique("group"),
            date_done=datetime(2026, 2, 28, 23, 59, 59, 123456, tzinfo=UTC),
        )
        assert store.write(document)[0].status == WriteStatus.WRITTEN
        for reader in (store, other):
            self.assert_kept(reader.read_one(document.task_id), document)

    @pytest.mark.parametrize("status", sorted(states.ALL_STATES | {states.REVOKED, "CUSTOM-PROGRESS"}))
    def test_every_state_can_be_stored(self, store: StoreConnection, status: str) -> None:
        """Final states, those on the way, and a user's own."""
        document = store.document(status=status, value={"done": 1})
        store.write(document)
        self.assert_kept(store.read_one(document.task_id), document)

    def test_a_failure_keeps_its_traceback(self, store: StoreConnection) -> None:
        """An exception's description and traceback are kept."""
        document = store.document(
            status=states.FAILURE,
            value={"exc_type": "ValueError", "exc_message": ["no ☃"], "exc_module": "builtins"},
            traceback='Traceback (most recent call last):\n  File "x.py", line 1\nValueError: no ☃\n' * 200,
        )
        store.write(document)
        self.assert_kept(store.read_one(document.task_id), document)

    def test_extended_fields_are_kept(self, store: StoreConnection) -> None:
        """What ``result_extended`` adds is kept in a store of parts; a whole document brings it along."""
        document = store.document(
            extended=ExtendedFields(
                name="tests.add",
                args=b"[1, 2]",
                kwargs=b'{"a": "\xc3\xbc"}',
                worker="worker@host",
                retries=3,
                queue="tests",
            )
        )
        store.write(document)
        self.assert_kept(store.read_one(document.task_id), document)

    def test_a_document_has_no_result_or_an_empty_one(self, store: StoreConnection) -> None:
        """No result is not an empty one, and null is neither."""
        if store.port.document_form is DocumentForm.WHOLE:
            values: tuple[Any, ...] = (None, "", [], {})
            documents = [store.document(value=value) for value in values]
        else:
            documents = [
                Document(make.unique("id"), states.SUCCESS, result=result, date_done=datetime.now(UTC))
                for result in (None, b"", b"null")
            ]
        store.write(*documents)
        found = store.read(*(document.task_id for document in documents))
        for document in documents:
            self.assert_kept(found.get(document.task_id), document)

    def test_a_large_document_is_kept(self, store: StoreConnection) -> None:
        """A result of 3 MB is the same when read."""
        document = store.document(value="x☃" * 750_000)
        store.write(document)
        self.assert_kept(store.read_one(document.task_id), document)

    @fuzzing
    @given(value=json_values, traceback=st.none() | st.text(max_size=50))
    def test_whatever_the_value_it_is_kept(self, store: StoreConnection, value: Any, traceback: str | None) -> None:
        """Fuzzed values and tracebacks are read as they were written, or their document is refused, not changed."""
        document = store.document(status=states.FAILURE, value=value, traceback=traceback)
        (written,) = store.write_plans([store.plan(document)])
        if written.error is None:
            self.assert_kept(store.read_one(document.task_id), document)
        else:
            assert store.read_one(document.task_id) is None

    def test_what_is_absent_is_left_out(self, store: StoreConnection) -> None:
        """Reading answers what is there; nothing for nothing."""
        document = store.document()
        store.write(document)
        assert set(store.read(document.task_id, "no such id")) == {document.task_id}
        assert store.read() == {}
        assert store.write_plans([]) == []

    def test_odd_ids_are_ids(self, store: StoreConnection) -> None:
        """An id is what a user made of it; also two that differ in case or in a space at the end."""
        base = make.unique("Id")
        ids = [base, base.lower(), base.upper(), f"{base} ", f"{base}'\"%_\\", f"{base}/ü☃", f"{base}:*?[a]"]
        documents = [store.document(task_id, value=number) for number, task_id in enumerate(dict.fromkeys(ids))]
        store.write(*documents)
        found = store.read(*(document.task_id for document in documents))
        for document in documents:
            self.assert_kept(found.get(document.task_id), document)

    def test_many_documents_are_written_and_read_at_once(self, store: StoreConnection) -> None:
        """Thousands in one write and one read, each with its own content."""
        documents = [store.document(value=number) for number in range(self.many)]
        written = store.write(*documents)
        assert {item.status for item in written} == {WriteStatus.WRITTEN}
        found = store.read(*(document.task_id for document in documents))
        assert len(found) == self.many
        for document in documents[:: self.many // 50 or 1]:
            self.assert_kept(found.get(document.task_id), document)

    def test_one_write_may_have_a_document_twice(self, store: StoreConnection) -> None:
        """Items are written in order: started, then done."""
        task_id = make.unique("id")
        started = store.document(task_id, status=states.STARTED)
        done = store.document(task_id, value="done")
        late = store.document(task_id, status=states.STARTED)
        written = store.write(started, done, late)
        assert [item.status for item in written] == [WriteStatus.WRITTEN, WriteStatus.WRITTEN, WriteStatus.KEPT]
        self.assert_kept(store.read_one(task_id), done)

    @pytest.mark.parametrize("after", [states.FAILURE, states.RETRY, states.STARTED, states.REVOKED, states.SUCCESS])
    def test_a_success_is_never_overwritten(self, store: StoreConnection, other: StoreConnection, after: str) -> None:
        """Whatever comes later, also another success: the first stays, and the writer is told."""
        document = store.document(value="the first")
        store.write(document)
        (written,) = other.write(other.document(document.task_id, status=after, value="a later one"))
        assert written.status == WriteStatus.KEPT
        self.assert_kept(store.read_one(document.task_id), document)

    @pytest.mark.parametrize("final", [states.FAILURE, states.REVOKED])
    def test_final_states_end_all_others(self, store: StoreConnection, other: StoreConnection, final: str) -> None:
        """A state that is not final does not overwrite one that is; a success does."""
        document = store.document(status=final, value={"exc_type": "KeyError"})
        store.write(document)
        for unready in (states.PENDING, states.RECEIVED, states.STARTED, states.RETRY, "CUSTOM-PROGRESS"):
            (written,) = other.write(other.document(document.task_id, status=unready))
            assert written.status == WriteStatus.KEPT, f"{unready} has overwritten {final}"
        self.assert_kept(store.read_one(document.task_id), document)
        success = other.document(document.task_id, value="it ran after all")
        assert other.write(success)[0].status == WriteStatus.WRITTEN
        self.assert_kept(store.read_one(document.task_id), success)

    def test_states_on_the_way_follow_each_other(self, store: StoreConnection) -> None:
        """Started, retried, started, done: each replaces the one before."""
        task_id = make.unique("id")
        for status in (states.STARTED, states.RETRY, states.STARTED, "CUSTOM-PROGRESS", states.FAILURE):
            document = store.document(task_id, status=status, value={"now": status})
            assert store.write(document)[0].status == WriteStatus.WRITTEN
            self.assert_kept(store.read_one(task_id), document)

    def test_of_two_writers_one_success_stays(self, connect: ConnectStore, store: StoreConnection) -> None:
        """Two connections that write a success at once: one is told that it was written, and that one is read."""
        for _ in range(10):
            task_id = make.unique("id")
            writers = [connect() for _ in range(2)]
            written: dict[int, WriteStatus] = {}

            def write(number: int, task_id: str = task_id, written: Any = written, writers: Any = writers) -> None:
                mine = writers[number]
                written[number] = mine.write(mine.document(task_id, value=number))[0].status

            in_parallel([partial(write, number) for number in range(2)])
            assert sorted(written.values()) == [WriteStatus.KEPT, WriteStatus.WRITTEN], written
            (winner,) = [number for number, status in written.items() if status == WriteStatus.WRITTEN]
            document = store.read_one(task_id)
            assert document is not None
            assert value_of(document) == winner

    def test_of_a_success_and_a_failure_the_success_stays(self, connect: ConnectStore, store: StoreConnection) -> None:
        """Whoever of two connections is first: a success that was written is what is read."""
        writers = [connect(), connect()]
        for _ in range(10):
            task_id = make.unique("id")
            documents = [
                store.document(task_id, value="success"),
                store.document(task_id, status=states.FAILURE, value={"exc_type": "E"}),
            ]
            in_parallel([partial(w.write, document) for w, document in zip(writers, documents, strict=True)])
            read = store.read_one(task_id)
            assert read is not None
            assert read.status == states.SUCCESS

    def test_a_plan_says_where_it_belongs(self, store: StoreConnection) -> None:
        """A plan carries the store's server, and nothing to write is no plan."""
        document = store.document()
        plans = store.plans([document, None])
        assert plans[0] is not None
        assert plans[0].server == store.port.server
        assert plans[0].document == document
        assert plans[1] is None
        assert store.read_one(document.task_id) is None, "planning has written"

    def test_plans_may_be_made_on_any_thread(self, store: StoreConnection) -> None:
        """Planning needs no connection, and happens where it suits the caller."""
        document = store.document()
        plans: list[Any] = []
        in_parallel([lambda: plans.extend(store.plans([document]))])
        written = store.write_plans(plans)
        assert [item.status for item in written] == [WriteStatus.WRITTEN]
        self.assert_kept(store.read_one(document.task_id), document)

    def test_forgotten_documents_are_absent(self, store: StoreConnection, other: StoreConnection) -> None:
        """Forgetting deletes what is named, says how many were there, and frees the id."""
        documents = [store.document() for _ in range(3)]
        store.write(*documents)
        first, second, third = (document.task_id for document in documents)
        assert other.forget(first, second, "no such id") == 2
        assert other.forget(first) == 0
        assert other.forget() == 0
        assert set(store.read(first, second, third)) == {third}
        failure = store.document(first, status=states.FAILURE)
        assert store.write(failure)[0].status == WriteStatus.WRITTEN

    # -- expiry --------------------------------------------------------------------------------------------------------

    def test_an_expired_document_is_absent(self, connect: ConnectStore) -> None:
        """After ``result_expires`` a document is as good as absent, swept or not, and its id is free."""
        store = connect(result_expires=self.short_life)
        document = store.document()
        store.write(document)
        eventually(lambda: store.read_one(document.task_id) is None, "the result has expired", clock=store.clock)
        (written,) = store.write(store.document(document.task_id, status=states.STARTED))
        assert written.status == WriteStatus.WRITTEN

    def test_without_expiry_documents_stay(self, store: StoreConnection) -> None:
        """Without ``result_expires`` a sweep takes nothing."""
        document = store.document()
        store.write(document)
        store.sweep()
        self.assert_kept(store.read_one(document.task_id), document)

    def test_a_sweep_deletes_what_has_expired(self, connect: ConnectStore, store: StoreConnection) -> None:
        """A sweep says how many documents it deleted; what has not expired stays."""
        brief = connect(result_expires=self.short_life)
        lasting = store.document()
        store.write(lasting)
        expiring = [brief.document() for _ in range(5)]
        brief.write(*expiring)
        if store.has(StoreCapability.AUTO_EXPIRE):
            eventually(
                lambda: not brief.read(*(d.task_id for d in expiring)), "the results have expired", clock=brief.clock
            )
            assert brief.sweep() == 0, "the server has deleted them; there is nothing to sweep"
        else:
            swept = 0

            def all_swept() -> bool:
                nonlocal swept
                swept += brief.sweep()
                return swept >= len(expiring)

            eventually(all_swept, "the expired documents are swept", clock=brief.clock)
            assert swept == len(expiring)
            assert brief.sweep() == 0
        assert set(store.read(lasting.task_id, *(d.task_id for d in expiring))) == {lasting.task_id}

    # -- waiting -------------------------------------------------------------------------------------------------------

    def test_who_watches_is_told(self, store: StoreConnection, other: StoreConnection) -> None:
        """A document that becomes final is reported to whoever watches its id, as it was written."""
        document = other.document(value="news")
        store.watch(document.task_id, "never comes")
        other.write(other.document(document.task_id, status=states.STARTED))
        other.write(document)
        eventually(lambda: document.task_id in store.told, "the document was reported")
        self.assert_kept(store.told[document.task_id], document)

    def test_who_watches_is_told_what_is_there_already(self, store: StoreConnection, other: StoreConnection) -> None:
        """Watching after the fact is not too late."""
        document = other.document(status=states.FAILURE, value={"exc_type": "E"})
        other.write(document)
        store.watch(document.task_id)
        eventually(lambda: document.task_id in store.told, "the document was reported")
        self.assert_kept(store.told[document.task_id], document)

    def test_documents_on_the_way_are_not_reported(self, store: StoreConnection, other: StoreConnection) -> None:
        """Only what is final ends a wait."""
        on_the_way, marker = other.document(status=states.RETRY), other.document()
        other.write(on_the_way)
        store.watch(on_the_way.task_id, marker.task_id)
        other.write(other.document(on_the_way.task_id, status=states.STARTED))
        other.write(marker)
        eventually(lambda: marker.task_id in store.told, "the final document was reported")
        assert on_the_way.task_id not in store.told

    def test_what_is_not_watched_is_not_reported(self, store: StoreConnection, other: StoreConnection) -> None:
        """Neither what was never asked for, nor what is not wanted any more."""
        stranger, unwatched, marker = other.document(), other.document(), other.document()
        store.watch(unwatched.task_id, marker.task_id)
        store.unwatch(unwatched.task_id, "never watched")
        other.write(stranger, unwatched)
        other.write(marker)
        eventually(lambda: marker.task_id in store.told, "the watched document was reported")
        assert set(store.told) == {marker.task_id}

    def test_thousands_can_be_watched_at_once(self, store: StoreConnection, other: StoreConnection) -> None:
        """One watch of thousands of ids, half of them there already: all are reported, no thread for each."""
        documents = [other.document(value=number) for number in range(self.many)]
        half = self.many // 2
        other.write(*documents[:half])
        threads = threading.active_count()
        store.watch_all({document.task_id for document in documents})
        other.write(*documents[half:])
        eventually(lambda: len(store.told) == self.many, "all documents were reported")
        assert threading.active_count() <= threads + 2

    def test_two_may_watch_one_id(self, connect: ConnectStore, store: StoreConnection, other: StoreConnection) -> None:
        """Everybody who watches is told."""
        third, document = connect(), other.document()
        for watcher in (store, third):
            watcher.watch(document.task_id)
        other.write(document)
        eventually(lambda: document.task_id in store.told, "the first watcher was told")
        eventually(lambda: document.task_id in third.told, "the other watcher was told")

    # -- groups --------------------------------------------------------------------------------------------------------

    def test_groups_are_saved_read_and_deleted(self, store: StoreConnection, other: StoreConnection) -> None:
        """A saved group is read as it was, by everybody, until it is deleted."""
        group = GroupDocument(make.unique("group"), json.dumps([["id", None], [["a", None]]]).encode())
        if not store.has(StoreCapability.GROUPS):
            refuses(lambda: store.save_group(group), StoreCapability.GROUPS)
            refuses(lambda: store.read_group(group.group_id), StoreCapability.GROUPS)
            return
        assert other.read_group(group.group_id) is None
        store.save_group(group)
        assert other.read_group(group.group_id) == group
        store.save_group(group)
        assert other.read_group(group.group_id) == group
        other.delete_group(group.group_id)
        other.delete_group(group.group_id)
        assert store.read_group(group.group_id) is None

    def test_groups_expire(self, connect: ConnectStore) -> None:
        """A saved group expires like a result."""
        store = connect(result_expires=self.short_life)
        if not store.has(StoreCapability.GROUPS):
            return
        group = GroupDocument(make.unique("group"), b"[]")
        store.save_group(group)
        eventually(lambda: store.read_group(group.group_id) is None, "the group has expired", clock=store.clock)

    # -- documents of other calls --------------------------------------------------------------------------------------

    def test_documents_of_other_calls_are_written_with_the_plan(
        self, store: StoreConnection, other: StoreConnection
    ) -> None:
        """A plan may bring documents of calls that end with its own, in one write with others; all are read back."""
        chains = [
            (store.document(status=states.FAILURE), [store.document(status=states.FAILURE, value=i) for i in range(3)])
            for _ in range(3)
        ]
        plans = [store.plan(own, (), others) for own, others in chains]
        assert [(written.status, written.error) for written in store.write_plans(plans)] == [
            (WriteStatus.WRITTEN, None)
        ] * 3
        for own, others in chains:
            for document in (own, *others):
                self.assert_kept(other.read_one(document.task_id), document)

    def test_documents_of_other_calls_need_no_own(self, store: StoreConnection) -> None:
        """A call whose own result is ignored still ends those that would have followed it."""
        document = store.document(status=states.FAILURE)
        plans = store.port.plan([None, None], [(), ()], [[document], []])
        assert plans[1] is None, "there was nothing to write, and a plan for it"
        assert plans[0] is not None
        assert store.write_plans([plans[0]])[0].error is None
        self.assert_kept(store.read_one(document.task_id), document)

    def test_documents_of_other_calls_overwrite_no_success(
        self, store: StoreConnection, other: StoreConnection
    ) -> None:
        """Each document by itself: what is final stays, the rest of the plan is written, and nobody is told twice."""
        succeeded, own, further = (store.document(value="first") for _ in range(3))
        store.write(succeeded)
        late = [store.document(succeeded.task_id, status=states.FAILURE), further]
        (written,) = store.write_plans([store.plan(own, (), late)])
        assert (written.status, written.error) == (WriteStatus.WRITTEN, None)
        for document in (succeeded, own, further):
            self.assert_kept(other.read_one(document.task_id), document)
        (written,) = store.write_plans(
            [store.plan(store.document(own.task_id, status=states.FAILURE), (), [store.document(further.task_id)])]
        )
        assert written.status == WriteStatus.KEPT, "the status is that of the outcome's own document"
        self.assert_kept(other.read_one(own.task_id), own)

    def test_who_watches_is_told_of_documents_of_other_calls(
        self, store: StoreConnection, other: StoreConnection
    ) -> None:
        """Who waits for a later step of a chain learns of its end."""
        own, others = store.document(status=states.FAILURE), [store.document(status=states.FAILURE) for _ in range(2)]
        ids = {document.task_id for document in (own, *others)}
        store.watch(*ids)
        other.write_plans([other.plan(own, (), others)])
        eventually(lambda: ids <= store.told.keys(), "all three were reported")

    @applies(lambda suite: suite.joins and suite.refused_id is not None)
    def test_a_plan_that_is_refused_writes_none_of_its_documents(self, store: StoreConnection) -> None:
        """If one document cannot be written, neither are the others of its plan, nor its parts; its neighbours are."""
        refused = store.document(self.refused_id)
        opened = join(members=1)
        store.open_join(opened)
        own, beside, neighbour = (store.document() for _ in range(3))
        plans = [
            store.plan(own, parts(opened, (0,)), [beside, refused]),
            store.plan(neighbour),
            store.plan(refused, (), [store.document(beside.task_id)]),
        ]
        written = store.write_plans(plans)
        assert [item.error is None for item in written] == [False, True, False]
        assert written[0].publications == (), "a refused plan has completed a join"
        assert set(store.read(own.task_id, beside.task_id, neighbour.task_id)) == {neighbour.task_id}

    # -- joins ---------------------------------------------------------------------------------------------------------

    def test_a_store_without_joins_says_so(self, store: StoreConnection) -> None:
        """Joins are refused by name where they are not declared."""
        if not store.has(StoreCapability.JOINS):
            refuses(lambda: store.open_join(join()), StoreCapability.JOINS)
            refuses(lambda: store.close_join("any"), StoreCapability.JOINS)
            refuses(store.joins_due, StoreCapability.JOINS)

    @has_joins
    def test_the_last_part_yields_the_body(self, store: StoreConnection, other: StoreConnection) -> None:
        """When the last member has succeeded, and not before, its write answers what is to be published."""
        opened = join()
        store.open_join(opened)
        assert other.write_parts(*parts(opened, (0, 1))) == []
        assert ids(store.write_parts(*parts(opened, (2,)))) == [body_id(opened)]
        assert store.joins_due() == []

    @has_joins
    def test_a_part_that_arrives_twice_counts_once(self, store: StoreConnection, other: StoreConnection) -> None:
        """Redelivered members change nothing, before and after the end; also twice in one plan."""
        opened = join()
        store.open_join(opened)
        first, second, third = parts(opened, (0, 1, 2))
        (written,) = store.write_plans([store.plan(parts=[first, first])])
        assert written.publications == ()
        assert other.write_parts(first, second, second, first) == []
        assert ids(other.write_parts(third)) == [body_id(opened)]
        assert store.write_parts(third, first) == []
        assert store.close_join(opened.id) == []

    @has_joins
    def test_opening_twice_changes_nothing(self, store: StoreConnection, other: StoreConnection) -> None:
        """A join that is there keeps its parts and its definition."""
        opened = join()
        store.open_join(opened)
        store.write_parts(*parts(opened, (0, 1)))
        other.open_join(opened)
        assert ids(store.write_parts(*parts(opened, (2,)))) == [body_id(opened)]
        other.open_join(opened)
        assert store.write_parts(*parts(opened, (0, 1, 2))) == [], "a join that was closed has been opened again"

    @has_joins
    def test_parts_of_several_joins_in_one_plan(self, store: StoreConnection) -> None:
        """A task may be a member of more than one join."""
        first, second = join(members=1), join(members=2)
        store.open_join(first)
        store.open_join(second)
        (written,) = store.write_plans([store.plan(parts=[*parts(first, (0,)), *parts(second, (0,))])])
        assert ids(written.publications) == [body_id(first)]

    @has_joins
    def test_a_document_and_a_part_are_written_together(self, store: StoreConnection) -> None:
        """The member's document and its part are one plan."""
        opened, document = join(members=1), store.document()
        store.open_join(opened)
        (written,) = store.write_plans([store.plan(document, parts(opened, (0,)))])
        assert written.status == WriteStatus.WRITTEN
        assert ids(written.publications) == [body_id(opened)]
        self.assert_kept(store.read_one(document.task_id), document)

    @has_joins
    @pytest.mark.parametrize(
        ("policy", "needed", "ends", "publishes"),
        [
            pytest.param(JoinPolicy.ALL, None, "sss", "  b", id="all: the last success"),
            pytest.param(JoinPolicy.ALL, None, "sfs", " e ", id="all: the first failure ends it"),
            pytest.param(JoinPolicy.ALL, None, "rss", "e  ", id="all: a revoked member is a failure"),
            pytest.param(JoinPolicy.ANY, None, "fss", " b ", id="any: the first success"),
            pytest.param(JoinPolicy.ANY, None, "fff", "  e", id="any: all have failed"),
            pytest.param(JoinPolicy.N_OF_M, 2, "sfs", "  b", id="two of three: the second success"),
            pytest.param(JoinPolicy.N_OF_M, 2, "ssf", " b ", id="two of three: does not wait for the third"),
            pytest.param(JoinPolicy.N_OF_M, 2, "fsf", "  e", id="two of three: cannot be reached any more"),
            pytest.param(JoinPolicy.COLLECT, None, "sfr", "  b", id="collect: all have ended"),
            pytest.param(JoinPolicy.COLLECT, None, "fff", "  b", id="collect: also if all have failed"),
        ],
    )
    def test_each_policy_ends_when_it_is_decided(
        self, store: StoreConnection, policy: JoinPolicy, needed: int | None, ends: str, publishes: str
    ) -> None:
        """Each part publishes what its policy says, and a join ends once (b: the body, e: the error calls)."""
        opened = join(policy=policy, needed=needed)
        store.open_join(opened)
        states_of = {"s": states.SUCCESS, "f": states.FAILURE, "r": states.REVOKED}
        published = ""
        for index, letter in enumerate(ends):
            told = ids(store.write_parts(*parts(opened, (index,), states_of[letter])))
            assert told in ([], [body_id(opened)], error_ids(opened))
            published += {0: " ", 1: "b", 2: "e"}[len(told)]
        assert published == publishes
        assert store.close_join(opened.id) == []

    @has_joins
    def test_one_of_many_writers_gets_the_body(self, connect: ConnectStore, store: StoreConnection) -> None:
        """Members that end at once on different connections: the body comes once in all."""
        for _ in range(5):
            opened = join(members=4)
            store.open_join(opened)
            writers = [connect() for _ in range(4)]
            barrier, published = threading.Barrier(4), list[Publication]()

            def end(
                number: int, opened: Join = opened, barrier: Any = barrier, published: Any = published, w: Any = writers
            ) -> None:
                barrier.wait(20)
                published += w[number].write_parts(*parts(opened, (number,)))

            in_parallel([partial(end, number) for number in range(4)])
            assert ids(published) == [body_id(opened)], f"four writers got {len(published)} bodies"
            for writer in writers:
                writer.stop()

    @has_joins
    def test_a_join_past_its_deadline_fails_once(self, connect: ConnectStore, store: StoreConnection) -> None:
        """It is due for a sweeper; of two that close it at once, one is told what to publish."""
        opened = join(deadline=store.clock.now() + 0.2)
        patient = join(deadline=store.clock.now() + 1000)
        store.open_join(opened)
        store.open_join(patient)
        store.write_parts(*parts(opened, (0,)))

        def due() -> bool:
            return opened.id in {state.join.id for state in store.joins_due()}

        eventually(due, "the join is past its deadline", clock=store.clock)
        listed = {state.join.id: state for state in store.joins_due()}
        assert patient.id not in listed
        state = listed[opened.id]
        assert state.join.members == opened.members
        assert not state.closed
        assert set(state.parts) == {opened.members[0]}
        assert state.parts[opened.members[0]].result == b'"part 0"'
        told: list[list[Publication]] = []
        closers = [connect(), connect()]
        in_parallel([partial(lambda closer: told.append(closer.close_join(opened.id)), closer) for closer in closers])
        assert sorted(map(ids, told), key=len) == [[], error_ids(opened)], "two closers published twice, or nobody did"
        assert store.write_parts(*parts(opened, (1, 2))) == [], "a part came after the end"
        assert not due()

    @has_joins
    def test_a_sweeper_takes_so_many_at_a_time(self, store: StoreConnection) -> None:
        """``joins_due`` keeps to its limit, and goes on with the rest once those are closed."""
        late = [join(deadline=store.clock.now() - 1) for _ in range(5)]
        for one in late:
            store.open_join(one)
        closed: list[str] = []
        while due := store.joins_due(limit=2):
            assert len(due) <= 2
            for state in due:
                assert store.close_join(state.join.id)
                closed.append(state.join.id)
        assert sorted(closed) == sorted(one.id for one in late)

    @has_joins
    def test_closing_a_join_that_goes_on_ends_nothing(self, store: StoreConnection) -> None:
        """Closing evaluates: what is neither complete nor late stays open; what nobody knows is nothing."""
        opened = join()
        store.open_join(opened)
        store.write_parts(*parts(opened, (0, 1)))
        assert store.close_join(opened.id) == []
        assert store.close_join("no such join") == []
        assert ids(store.write_parts(*parts(opened, (2,)))) == [body_id(opened)]

    @has_joins
    def test_a_part_of_nobody_we_know_does_not_count(self, store: StoreConnection) -> None:
        """Only members count."""
        opened = join(members=2)
        store.open_join(opened)
        stranger = JoinPart(opened.id, "stranger", 7, states.SUCCESS, b"1")
        assert store.write_parts(*parts(opened, (0,)), stranger) == []
        assert ids(store.write_parts(*parts(opened, (1,)))) == [body_id(opened)]

    @has_joins
    def test_parts_that_say_how_many_need_no_opening(self, store: StoreConnection, other: StoreConnection) -> None:
        """A join whose parts bring its size and body is complete when all have come: nobody opened it before."""
        join_id, size = make.unique("join"), 3
        body = make.publication("bodies")
        members = [
            JoinPart(join_id, f"m{index}", index, states.SUCCESS, b"1", size=size, body=body) for index in range(size)
        ]
        assert store.write_parts(members[0], members[1], members[0]) == []
        assert ids(other.write_parts(members[2])) == [body.task_id]
        assert store.write_parts(*members) == []

    @has_joins
    def test_the_body_is_published_as_it_was_given(self, store: StoreConnection) -> None:
        """Where the body goes, and when, is kept."""
        opened = join(members=1)
        store.open_join(opened)
        (published,) = store.write_parts(*parts(opened, (0,)))
        assert opened.body is not None
        assert (published.exchange, published.routing_key, published.due) == (
            opened.body.exchange,
            opened.body.routing_key,
            opened.body.due,
        )
        assert published.message.task == opened.body.message.task

    @has_joins
    def test_a_large_join_is_joined(self, store: StoreConnection) -> None:
        """A thousand members, in batches."""
        opened = join(members=1000)
        store.open_join(opened)
        published = []
        for start in range(0, 1000, 100):
            plans = [store.plan(parts=[part]) for part in parts(opened, range(start, start + 100))]
            published += [p for item in store.write_plans(plans) for p in item.publications]
        assert ids(published) == [body_id(opened)]

    # -- helpers

    def assert_kept(self, read: Document | None, written: Document) -> None:
        """What was read is what was written, but for what the suite says this store does not keep."""
        assert read is not None, f"no document {written.task_id!r}"
        assert read.task_id == written.task_id
        assert read.status == written.status
        assert_same_time(read.date_done, written.date_done, self.date_resolution)
        if written.whole is not None:
            assert read.whole == written.whole
            return
        for field in ("result", "content_type", "content_encoding", "traceback", "children", "group_id", "parent_id"):
            if field not in self.lost_fields:
                assert getattr(read, field) == getattr(written, field), f"the field {field!r} has changed"
        if written.extended is not None and "extended" not in self.lost_fields:
            assert read.extended == written.extended


def refusal(make_store: Callable[[], ResultStore | BlockingResultStore]) -> BackendUnavailable:
    """The error with which the start fails."""
    with pytest.raises(BackendUnavailable) as caught:
        StoreConnection(make_store()).start()
    assert "hunter2" not in str(caught.value), "the error shows the password"
    return caught.value


def records_of(connection: StoreConnection) -> Records:
    records = connection.port.records()
    assert records is not None, "the suite says that this store keeps records"
    return records


def assert_same_time(read: datetime | None, written: datetime | None, resolution: timedelta) -> None:
    if written is None:
        assert read is None, f"a time was invented: {read}"
        return
    assert read is not None, "the time it became final got lost"
    assert read.tzinfo is not None, "times are aware"
    assert abs(read - written) <= resolution, f"{written} has become {read}"


def value_of(document: Document) -> Any:
    """The value a test stored."""
    if document.whole is not None:
        return json.loads(document.whole)["result"]
    assert document.result is not None
    return json.loads(document.result)


def join(
    members: int = 3, policy: JoinPolicy = JoinPolicy.ALL, needed: int | None = None, deadline: float | None = None
) -> Join:
    """A join with a body and two error calls."""
    join_id = make.unique("join")
    return Join(
        id=join_id,
        members=tuple(f"{join_id}/member-{index}" for index in range(members)),
        policy=policy,
        needed=needed,
        body=make.publication(make.unique("bodies"), task="tests.body"),
        on_error=(make.publication("errors"), make.publication("errors")),
        deadline=deadline,
    )


def parts(of: Join, indexes: Sequence[int], state: str = states.SUCCESS) -> list[JoinPart]:
    return [
        JoinPart(of.id, of.members[index], index, state, result=json.dumps(f"part {index}").encode())
        for index in indexes
    ]


def ids(publications: Sequence[Publication]) -> list[str]:
    return [publication.task_id for publication in publications]


def body_id(of: Join) -> str:
    assert of.body is not None
    return of.body.task_id


def error_ids(of: Join) -> list[str]:
    return ids(of.on_error)
