"""Who waits for what, and what is asked of the store meanwhile; against a store that does what the test says."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from concurrent import futures
from typing import Any

import pytest

from kern import result_wait, states
from kern.contracts.port import Reply, resolved
from kern.errors import BackendUnavailable, CapabilityMissing, TimeoutError, TransportError
from kern.outcome import Document
from kern.result_wait import BATCH, Patience, Session, Wait
from kern_testing.waiting import eventually


class Port:
    """A store that notes what it is asked, and answers at once unless told not to."""

    url = "test://here"

    def __init__(self, session: Session) -> None:
        self.session = session
        self.watched: list[list[str]] = []
        self.unwatched: list[list[str]] = []
        #: What it reports as soon as it is asked to watch.
        self.there: dict[str, Document] = {}
        self.answer: BaseException | None = None
        self.mute = False
        self.replies: list[Reply[None]] = []

    def watch(self, task_ids: Collection[str]) -> Reply[None]:
        self.watched.append(list(task_ids))
        self.session.deliver([self.there[task_id] for task_id in task_ids if task_id in self.there])
        reply: Reply[None] = Reply()
        self.replies.append(reply)
        if not self.mute:
            if self.answer is None:
                reply.set_result(None)
            else:
                reply.set_exception(self.answer)
        return reply

    def unwatch(self, task_ids: Collection[str]) -> Reply[None]:
        self.unwatched.append(list(task_ids))
        return resolved(None)


def done(task_id: str, status: str = states.SUCCESS) -> Document:
    return Document(task_id, status, whole=b"{}")


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def port(session: Session) -> Port:
    made = Port(session)
    session.store = made  # type: ignore[assignment]
    return made


def begun(session: Session, port: Any, task_ids: Sequence[str], **options: Any) -> Wait:
    wait = Wait(session, port, task_ids, **options)
    wait.begin()
    return wait


def names(documents: Sequence[Document]) -> list[str]:
    return [document.task_id for document in documents]


def test_what_is_there_is_taken_though_the_store_reports_while_it_is_asked(session: Session, port: Port) -> None:
    port.there = {"a": done("a")}
    wait = begun(session, port, ["a", "b"])
    assert wait.signal.done()
    assert names(wait.take()) == ["a"]
    assert list(wait.pending) == ["b"]


def test_what_comes_wakes_and_is_taken_once(session: Session, port: Port) -> None:
    wait = begun(session, port, ["a", "b"])
    assert wait.take() == []
    signal = wait.signal
    session.deliver([done("a"), done("a"), done("a", states.STARTED), done("c")])
    session.deliver([done("a")])
    assert signal.done()
    assert names(wait.take()) == ["a"]
    assert not wait.signal.done()
    assert session.waiting() == 1


def test_states_that_are_not_final_end_no_wait(session: Session, port: Port) -> None:
    wait = begun(session, port, ["a"])
    session.deliver([done("a", states.RETRY), done("a", "PROGRESS")])
    assert not wait.signal.done()
    session.deliver([done("a", states.REVOKED)])
    assert names(wait.take()) == ["a"]


def test_a_result_that_is_just_arriving_is_still_to_be_taken(session: Session, port: Port) -> None:
    """Between the moment it is not pending any more and the one it can be taken, nobody may think that all is done."""
    wait = begun(session, port, ["a"])
    seen: list[bool] = []
    looking = threading.Thread(target=lambda: seen.append(wait.going))

    class Pending(dict[str, None]):
        def __delitem__(self, key: str) -> None:
            super().__delitem__(key)
            looking.start()
            looking.join(0.1)

    wait.pending = Pending(wait.pending)
    session.deliver([done("a")])
    looking.join(10)
    assert seen == [True]
    assert names(wait.take()) == ["a"]
    assert not wait.going


def test_all_who_wait_for_a_result_get_it(session: Session, port: Port) -> None:
    first, second = begun(session, port, ["a"]), begun(session, port, ["a", "b"])
    session.deliver([done("a")])
    assert names(first.take()) == names(second.take()) == ["a"]


def test_the_store_stops_watching_what_nobody_waits_for_any_more(session: Session, port: Port) -> None:
    first, second = begun(session, port, ["a", "b"]), begun(session, port, ["b", "c"])
    session.deliver([done("c")])
    first.end()
    assert port.unwatched == [["a"]]
    second.end()
    assert port.unwatched == [["a"], ["b"]]
    second.end()
    assert len(port.unwatched) == 2
    assert session.waiting() == 0


def test_thousands_are_asked_for_in_batches(session: Session, port: Port) -> None:
    ids = [f"t{i}" for i in range(2 * BATCH + 3)]
    begun(session, port, ids)
    assert [len(batch) for batch in port.watched] == [BATCH, BATCH, 3]
    assert [task_id for batch in port.watched for task_id in batch] == ids


def test_a_lost_notice_is_repaired_by_asking_again(
    session: Session, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_wait, "PROBE", 0.01)
    wait = begun(session, port, ["a"])
    port.there = {"a": done("a")}  # and nobody is told
    assert eventually(lambda: names(wait.take())) == ["a"]


def test_each_question_is_about_others(session: Session, port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_wait, "PROBE", 0.0)
    monkeypatch.setattr(result_wait, "BATCH", 2)
    wait = begun(session, port, ["a", "b", "c", "d", "e"])
    port.watched.clear()
    for _ in range(3):
        wait.take()
    assert port.watched == [["a", "b"], ["c", "d"], ["e", "a"]]


def test_what_the_store_refused_is_asked_for_again_and_nothing_else(session: Session, port: Port) -> None:
    wait = Wait(session, port, [f"t{i}" for i in range(BATCH + 2)], patience=Patience(timeout=20))  # type: ignore[arg-type]
    port.mute = True
    wait.begin()
    port.mute = False
    port.replies[0].set_result(None)
    port.replies[1].set_exception(BackendUnavailable("not now"))
    eventually(lambda: wait.take() == [] and len(port.watched) == 3)
    assert port.watched[2] == port.watched[1]
    assert wait._error is None


def test_a_lost_connection_is_an_unavailable_store(session: Session, port: Port) -> None:
    port.answer = TransportError("connection reset", retryable=False)
    wait = begun(session, port, ["a"])
    with pytest.raises(BackendUnavailable, match="connection reset"):
        wait.take()


def test_an_error_that_is_no_outage_is_raised_at_once(session: Session, port: Port) -> None:
    port.answer = CapabilityMissing("cannot watch")
    wait = begun(session, port, ["a"])
    with pytest.raises(CapabilityMissing, match="cannot watch"):
        wait.take()


def test_results_that_came_are_given_before_an_error_is_raised(session: Session, port: Port) -> None:
    port.there, port.answer = {"a": done("a")}, CapabilityMissing("cannot watch")
    wait = begun(session, port, ["a", "b"])
    assert names(wait.take()) == ["a"]
    with pytest.raises(CapabilityMissing):
        wait.take()


def test_a_closed_store_ends_the_wait_though_it_still_answers(session: Session, port: Port) -> None:
    port.mute = True
    wait = begun(session, port, ["a"])
    session.fail(BackendUnavailable("closed", retryable=False))
    port.replies[0].set_result(None)
    assert wait.signal.done()
    with pytest.raises(BackendUnavailable, match="closed"):
        wait.take()


def test_before_the_time_is_up_a_last_question_is_asked(session: Session, port: Port) -> None:
    """So that what is said in the end is what was found out, and not a guess."""
    wait = begun(session, port, ["a"], timeout=result_wait.SILENCE + 0.02, patience=Patience(timeout=60))
    eventually(lambda: wait.take() == [] and len(port.watched) == 2)
    port.mute = True
    pause = wait.pause()
    assert pause is not None
    assert pause <= result_wait.SILENCE


def test_pauses_end_at_whatever_comes_first(session: Session, port: Port) -> None:
    assert begun(session, port, ["a"]).pause() == pytest.approx(result_wait.PROBE, abs=0.5)
    assert begun(session, port, ["a"], timeout=0.5).pause() == pytest.approx(0.5, abs=0.2)
    assert begun(session, port, ["a"], tick=0.25).pause() == pytest.approx(0.25, abs=0.2)
    port.mute = True
    assert begun(session, port, ["a"], patience=Patience(timeout=1)).pause() == pytest.approx(1, abs=0.5)


def test_silence_is_borne_as_often_as_failures_are(session: Session, port: Port) -> None:
    port.mute = True
    wait = begun(session, port, ["a"], patience=Patience(timeout=0.01, retries=2))
    rounds: list[list[Document]] = []

    def until_it_gives_up() -> None:
        while len(rounds) < 1000:
            rounds.append(wait.take())
            futures.wait([wait.signal], wait.pause())

    with pytest.raises(BackendUnavailable, match="has not answered"):
        until_it_gives_up()
    assert 3 <= len(rounds) < 1000


def test_time_that_is_up_is_a_timeout(session: Session, port: Port) -> None:
    wait = begun(session, port, ["a"], timeout=0)
    with pytest.raises(TimeoutError):
        wait.take()


def test_nothing_is_up_once_everything_has_come(session: Session, port: Port) -> None:
    port.there = {"a": done("a")}
    wait = begun(session, port, ["a"], timeout=0)
    assert names(wait.take()) == ["a"]
    assert wait.take() == []


def test_more_and_less_can_be_waited_for(session: Session, port: Port) -> None:
    wait = begun(session, port, ["a", "b"])
    wait.more(["b", "c"])
    assert port.watched[1:] == [["c"]]
    wait.less(["a", "unknown"])
    assert port.unwatched == [["a"]]
    session.deliver([done("a"), done("b"), done("c")])
    assert names(wait.take()) == ["b", "c"]


def test_waits_that_begin_and_end_on_many_threads_lose_nothing(session: Session, port: Port) -> None:
    """A wait that ends while another of the same result begins must not have the store stop watching."""
    watching: set[str] = set()
    watch, unwatch = port.watch, port.unwatch

    def noting_watch(task_ids: Collection[str]) -> Reply[None]:
        watching.update(task_ids)
        return watch(task_ids)

    def noting_unwatch(task_ids: Collection[str]) -> Reply[None]:
        watching.difference_update(task_ids)
        return unwatch(task_ids)

    port.watch, port.unwatch = noting_watch, noting_unwatch  # type: ignore[method-assign]
    ids = [f"t{i}" for i in range(20)]

    def restless() -> None:
        for _ in range(50):
            begun(session, port, ids).end()

    threads = [threading.Thread(target=restless) for _ in range(4)]
    for thread in threads:
        thread.start()
    patient = begun(session, port, ids)
    for thread in threads:
        thread.join()
    assert watching == set(ids)
    session.deliver([done(task_id) for task_id in ids])
    assert names(patient.take()) == ids
    assert session.waiting() == 0
