"""What ``app.backend`` reads, writes and remembers, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from kern import states
from kern.app import Kern
from kern.contracts.blocking import threaded_store
from kern.contracts.result_store import GroupDocument, StoreCapability
from kern.errors import (
    BackendGetMetaError,
    BackendStoreError,
    BackendUnavailable,
    ContentDisallowed,
    EncodeError,
    TaskRevokedError,
    TimeoutError,
)
from kern.outcome import Document
from kern.request import Request
from kern.result_wait import Patience
from kern_testing.memory import MemoryResultStore, space
from kern_testing.waiting import Deadline

# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_document_is_read_as_a_dict(app: Kern, worker: Any, request_of: Callable[..., Request]) -> None:
    request = request_of(id="t", group="g", parent_id="p", retries=1, delivery_info={"routing_key": "q"})
    request.stamps, request.stamped_headers = {"customer": "7"}, ["customer"]
    worker.succeed("t", 5, request=request, extended=True)
    meta = app.backend.get_task_meta("t")
    date_done = meta.pop("date_done")
    assert date_done.tzinfo is not None
    assert meta == {
        "status": "SUCCESS",
        "result": 5,
        "traceback": None,
        "children": [],
        "group_id": "g",
        "parent_id": "p",
        "name": "tests.add",
        "args": [2, 3],
        "kwargs": {"z": 1},
        "worker": "w@here",
        "retries": 1,
        "queue": "q",
        "stamped_headers": ["customer"],
        "customer": "7",
        "task_id": "t",
    }


def test_of_a_call_without_a_document_it_is_pending(app: Kern) -> None:
    assert app.backend.get_task_meta("t") == {"status": "PENDING", "result": None}


def test_single_fields_are_read(app: Kern, worker: Any, request_of: Callable[..., Request]) -> None:
    backend = app.backend
    worker.fail("t", KeyError("k"), traceback="…", request=request_of(children=[app.AsyncResult("child")]))
    assert backend.get_state("t") == backend.get_status("t") == states.FAILURE
    assert isinstance(backend.get_result("t"), KeyError)
    assert backend.get_traceback("t") == "…"
    assert backend.get_children("t") == [[["child", None], None]]
    assert backend.task_result_exists("t")
    assert not backend.task_result_exists("never")
    assert backend.get_state("never") == states.UNKNOWN
    assert backend.get_children("never") is None


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_id_is_refused(app: Kern, empty: Any) -> None:
    for method in (app.backend.get_task_meta, app.backend.get_state, app.backend.forget, app.backend.wait_for):
        with pytest.raises(ValueError, match=f"task_id must not be empty. Got {empty!r} instead"):
            method(empty)
    with pytest.raises(ValueError, match="task_id must not be empty"):
        app.backend.store_result(empty, 1, states.SUCCESS)
    with pytest.raises(ValueError, match="group_id must not be empty"):
        app.backend.restore_group(empty)


def test_thousands_are_read_in_batches(app: Kern, worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    read = MemoryResultStore.read

    def counted(self: Any, task_ids: Any) -> Any:
        sizes.append(len(task_ids))
        return read(self, task_ids)

    ids = [f"t{i}" for i in range(1200)]
    worker.write_many([(task_id, states.SUCCESS, 1) for task_id in ids[:700]])
    monkeypatch.setattr(MemoryResultStore, "read", counted)
    assert list(app.backend.find(ids)) == ids[:700]
    assert sizes == [500, 500, 200]


def test_whose_a_document_is_says_the_key_and_not_the_document(app: Kern, worker: Any) -> None:
    lying = Document("t", "SUCCESS", whole=json.dumps({"status": "SUCCESS", "result": 1, "task_id": "other"}).encode())
    worker.store.write(worker.store.plan([lying], [()])).result(10)
    assert app.backend.get_task_meta("t")["task_id"] == "t"
    assert app.AsyncResult("t").get(timeout=5) == 1


def test_a_document_of_a_type_that_is_not_accepted_is_refused(make_app: Any, worker: Any) -> None:
    worker.succeed("t", {1, 2}, serializer="pickle")
    with pytest.raises(ContentDisallowed):
        make_app().AsyncResult("t").get(timeout=5)
    assert make_app(result_accept_content=["pickle"]).AsyncResult("t").get(timeout=5) == {1, 2}
    assert make_app(accept_content=["pickle"]).AsyncResult("t").get(timeout=5) == {1, 2}
    with pytest.raises(ContentDisallowed):
        make_app(accept_content=["pickle"], result_accept_content=["json"]).AsyncResult("t").get(timeout=5)


# -- remembering -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "remembered"), [(-1, set()), (2, {"t2", "t3"}), (0, {"t1", "t2", "t3"}), (None, {"t1", "t2", "t3"})]
)
def test_successes_are_remembered_as_the_settings_say(
    make_app: Any, worker: Any, limit: int | None, remembered: set[str]
) -> None:
    backend = make_app(result_cache_max=limit).backend
    worker.write_many([("t1", states.SUCCESS, 1), ("t2", states.SUCCESS, 2), ("t3", states.SUCCESS, 3)])
    worker.fail("failed", ValueError())
    for task_id in ("t1", "t2", "t3", "failed"):
        assert backend.task_result_exists(task_id)
    worker.store.forget(["t1", "t2", "t3", "failed"]).result(10)
    assert {task_id for task_id in ("t1", "t2", "t3", "failed") if backend.task_result_exists(task_id)} == remembered
    assert not any(backend.find(["t1", "t2", "t3"], cache=False))


def test_what_was_used_last_is_remembered_longest(make_app: Any, worker: Any) -> None:
    backend = make_app(result_cache_max=2).backend
    worker.write_many([("a", states.SUCCESS, 1), ("b", states.SUCCESS, 2), ("c", states.SUCCESS, 3)])
    for task_id in ("a", "b", "a", "c"):
        assert backend.get_result(task_id)
    worker.store.forget(["a", "b", "c"]).result(10)
    assert set(backend.find(["a", "b", "c"])) == {"a", "c"}


def test_a_remembered_result_is_waited_for_without_the_server(make_app: Any, worker: Any, name: str) -> None:
    app = make_app(result_cache_max=10, result_backend_timeout=0.3)
    worker.succeed("t", 5)
    assert app.AsyncResult("t").get(timeout=5) == 5
    with space(name).outage():
        assert app.AsyncResult("t").get() == 5


def test_a_forgotten_result_is_not_remembered(make_app: Any, worker: Any) -> None:
    app = make_app(result_cache_max=10)
    worker.succeed("t", 5)
    assert app.AsyncResult("t").get(timeout=5) == 5
    app.AsyncResult("t").forget()
    assert not app.AsyncResult("t").exists()


def test_reloading_reads_anew(make_app: Any, worker: Any) -> None:
    backend = make_app(result_cache_max=10).backend
    worker.succeed("t", 5)
    assert backend.get_result("t") == 5
    worker.store.forget(["t"]).result(10)
    backend.reload_task_result("t")
    assert not backend.task_result_exists("t")


def test_nothing_is_kept_of_results_nobody_waits_for(app: Kern, worker: Any) -> None:
    app.AsyncResult("t").ready()
    session = app.backend._session()
    session.deliver([Document(f"nobody{i}", states.SUCCESS, whole=b"{}") for i in range(100)])
    assert session.waiting() == 0
    assert not session._metas
    assert not session._waits


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_many_documents_come_as_they_arrive(app: Kern, worker: Any) -> None:
    worker.write_many([("a", states.SUCCESS, 1), ("b", states.FAILURE, ValueError("v"))])
    found = dict(app.backend.get_many(["a", "b"], timeout=5))
    assert {task_id: meta["status"] for task_id, meta in found.items()} == {"a": "SUCCESS", "b": "FAILURE"}

    async def main() -> list[str]:
        return sorted([task_id async for task_id, _meta in app.backend.aget_many(["a", "b"], timeout=5)])

    assert asyncio.run(main()) == ["a", "b"]


def test_what_came_in_time_is_given_before_the_timeout_is_raised(app: Kern, worker: Any) -> None:
    worker.succeed("a", 1)
    for timeout in (0, 0.1):
        found = app.backend.get_many(["a", "never"], timeout=timeout)
        assert next(found)[0] == "a"
        with pytest.raises(TimeoutError):
            next(found)


def test_one_document_can_be_waited_for(app: Kern, worker: Any) -> None:
    worker.succeed("a", 1)
    assert app.backend.wait_for("a", timeout=5)["result"] == 1
    with pytest.raises(TimeoutError):
        app.backend.wait_for("never", timeout=0.05)


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_state_is_stored(app: Kern) -> None:
    assert app.backend.store_result("t", {"done": 3}, "PROGRESS") == {"done": 3}
    assert app.AsyncResult("t").state == "PROGRESS"
    assert app.AsyncResult("t").info == {"done": 3}


def test_a_state_is_stored_with_its_request(make_app: Any, request_of: Callable[..., Request]) -> None:
    app = make_app(result_extended=True)
    app.backend.store_result("t", 1, "PROGRESS", request=request_of(parent_id="p"))
    assert app.AsyncResult("t").name == "tests.add"
    assert app.backend.get_task_meta("t")["parent_id"] == "p"


def test_a_success_is_not_overwritten(app: Kern) -> None:
    app.backend.mark_as_done("t", 5)
    app.backend.store_result("t", None, "PROGRESS")
    app.backend.mark_as_failure("t", ValueError())
    assert app.AsyncResult("t").get(timeout=5) == 5


def test_states_are_marked(app: Kern) -> None:
    backend = app.backend
    backend.mark_as_started("started", pid=7, hostname="w@here")
    backend.mark_as_retry("retry", KeyError("again"), traceback="…")
    backend.mark_as_failure("failed", KeyError("boom"), traceback="…")
    backend.mark_as_revoked("revoked", "terminated")
    backend.mark_as_done("not stored", 1, store_result=False)
    assert (app.AsyncResult("started").state, app.AsyncResult("started").info) == (
        states.STARTED,
        {"pid": 7, "hostname": "w@here"},
    )
    assert app.AsyncResult("retry").state == states.RETRY
    assert app.AsyncResult("failed").traceback == "…"
    with pytest.raises(TaskRevokedError, match="terminated"):
        app.AsyncResult("revoked").get(timeout=5)
    assert not app.AsyncResult("not stored").exists()


def test_a_state_that_cannot_be_written_is_an_error_of_the_caller(app: Kern) -> None:
    with pytest.raises(EncodeError):
        app.backend.store_result("t", object(), "PROGRESS")


def test_a_task_updates_its_own_state(app: Kern) -> None:
    from kern.task import entered

    @app.task(bind=True, ignore_result=True)
    def work(self: Any) -> None:
        self.update_state(state="PROGRESS", meta={"done": 1})

    with entered(work, Request(id="t", task=work.name, called_directly=False)):
        work.run()
    assert app.AsyncResult("t").info == {"done": 1}


def test_expired_results_are_cleaned_up(make_app: Any, name: str) -> None:
    from kern_testing.clock import VirtualClock

    clock = VirtualClock()
    space(name).use_clock(clock)
    app = make_app(result_expires=60)
    app.backend.store_result("t", 1, states.SUCCESS)
    clock.advance(61)
    assert app.backend.cleanup() == 1
    assert not app.AsyncResult("t").exists()


# -- groups ------------------------------------------------------------------------------------------------------------


def test_a_group_is_kept_under_its_id(app: Kern) -> None:
    group = app.GroupResult("g", [app.AsyncResult("a")])
    assert app.backend.save_group("g", group) is group
    assert app.backend.restore_group("g") == group
    assert app.backend.get_group_meta("g") == {"result": group}
    assert app.backend.reload_group_result("g") == group
    app.backend.delete_group("g")
    assert app.backend.restore_group("g") is None
    assert app.backend.get_group_meta("g") is None


def test_a_group_that_celery_saved_is_restored(app: Kern, worker: Any) -> None:
    saved = b'{"result": [["13c6", null], [[["6a01", null], null], [["5102", null], null]]]}'
    worker.store.save_group(GroupDocument("13c6", saved)).result(10)
    restored = app.backend.restore_group("13c6")
    assert restored is not None
    assert [member.id for member in restored] == ["6a01", "5102"]


# -- about the store ---------------------------------------------------------------------------------------------------


def test_it_says_what_the_store_can(app: Kern, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = app.backend
    assert backend.supports_native_join
    assert backend.is_async
    assert not backend.supports_autoexpire
    backend.close()
    monkeypatch.setattr(MemoryResultStore, "capabilities", frozenset({StoreCapability.AUTO_EXPIRE}))
    assert backend.supports_autoexpire
    assert not backend.is_async


def test_asking_about_the_store_makes_one_and_connects_none(app: Kern, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    make = type(app).make_result_store

    def noted(self: Kern) -> Any:
        made.append(make(self))
        return made[-1]

    monkeypatch.setattr(Kern, "make_result_store", noted)
    for _ in range(3):
        assert app.backend.enabled
        assert app.backend.as_uri().startswith("memory://")
        assert app.backend.supports_native_join
    assert len(made) == 1
    assert made[0]._thread is None
    assert not app.AsyncResult("t").ready()
    assert len(made) == 1


def test_the_url_is_shown_without_its_password(make_app: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kern, "result_store", property(lambda self: threaded_store(Masked())))
    backend = make_app(backend=f"memory://user:secret@{name}").backend
    assert backend.as_uri() == "memory://user:***@here"
    assert backend.as_uri(include_password=True) == f"memory://user:secret@{name}"


class Masked(MemoryResultStore):
    """A store that has a password."""

    def __init__(self) -> None:
        super().__init__("memory://masked")
        self.url = "memory://user:***@here"


# -- without a store ---------------------------------------------------------------------------------------------------


def test_without_a_store_nothing_is_stored_and_nothing_can_be_read(make_app: Any) -> None:
    app = make_app(backend=None)
    backend = app.backend
    assert backend.store_result("t", 5, states.SUCCESS) == 5
    assert backend.cleanup() == 0
    assert backend.as_uri() == "disabled://"
    assert not any((backend.supports_native_join, backend.is_async, backend.supports_autoexpire))
    result = app.AsyncResult("t")
    for ask in (
        lambda: result.state,
        lambda: result.result,
        lambda: result.traceback,
        lambda: result.ready(),
        lambda: result.get(),
        lambda: result.get(timeout=0),
        lambda: asyncio.run(result.aget()),
        lambda: result.then(print),
        lambda: list(backend.get_many(["t"])),
        lambda: backend.wait_for("t"),
        lambda: app.GroupResult("g", [result]).save(),
        lambda: app.GroupResult("g", [result]).get(),
    ):
        with pytest.raises(
            NotImplementedError, match=r"^No result backend is configured.*result_backend.*kern-backend"
        ):
            ask()
    with pytest.raises(NotImplementedError, match=r"^backend does not implement forget\.$"):
        result.forget()


# -- eager applications ------------------------------------------------------------------------------------------------


def test_reading_in_an_eager_application_is_warned_about(make_app: Any) -> None:
    app = make_app(task_always_eager=True)
    for ask in (lambda: app.AsyncResult("t").ready(), lambda: app.AsyncResult("t").maybe_throw()):
        with pytest.warns(RuntimeWarning, match="should not be retrieved when task_always_eager is enabled"):
            ask()
    with pytest.warns(RuntimeWarning), pytest.raises(TimeoutError):
        app.AsyncResult("t").get(timeout=0.01)


def test_not_where_eager_results_are_stored(make_app: Any) -> None:
    app = make_app(task_always_eager=True, task_store_eager_result=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert not app.AsyncResult("t").ready()


# -- trying again ------------------------------------------------------------------------------------------------------


class Failing:
    """Fails so often, then does what it should."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, times: float, retryable: bool = True) -> None:
        self.calls = 0
        proper = getattr(MemoryResultStore, method)

        def maybe(store: Any, *args: Any) -> Any:
            self.calls += 1
            if self.calls <= times:
                raise BackendUnavailable("not now", retryable=retryable)
            return proper(store, *args)

        monkeypatch.setattr(MemoryResultStore, method, maybe)


@pytest.fixture
def retrying(make_app: Any, monkeypatch: pytest.MonkeyPatch) -> Kern:
    from kern.contracts import blocking

    monkeypatch.setattr(blocking, "BACKOFF", (0.001, 1.0, 0.001))
    app: Kern = make_app(
        result_backend_timeout=0.2,
        result_backend_always_retry=True,
        result_backend_max_retries=3,
        result_backend_base_sleep_between_retries_ms=1,
        result_backend_max_sleep_between_retries_ms=2,
    )
    return app


def test_reading_is_tried_again_if_wanted(retrying: Kern, worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.succeed("t", 5)
    failing = Failing(monkeypatch, "read", 3)
    assert retrying.AsyncResult("t").result == 5
    assert failing.calls == 4


def test_reading_gives_up_after_so_many_attempts(retrying: Kern, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing(monkeypatch, "read", math.inf)
    with pytest.raises(BackendGetMetaError, match="failed to get meta") as caught:
        _ = retrying.AsyncResult("t").result
    assert caught.value.task_id == "t"
    assert isinstance(caught.value.__cause__, BackendUnavailable)
    assert failing.calls == 4


def test_asyncio_callers_try_again_too(retrying: Kern, worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.succeed("t", 5)
    failing = Failing(monkeypatch, "read", 2)
    assert asyncio.run(retrying.AsyncResult("t").aready())
    assert failing.calls == 3


def test_storing_is_tried_again_and_gives_up(retrying: Kern, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing(monkeypatch, "write", 2)
    retrying.backend.store_result("t", 1, "PROGRESS")
    assert failing.calls == 3
    failing = Failing(monkeypatch, "write", math.inf)
    with pytest.raises(BackendStoreError, match="failed to store result on the backend") as caught:
        retrying.backend.store_result("t", 2, "PROGRESS")
    assert (caught.value.task_id, caught.value.state) == ("t", "PROGRESS")
    assert failing.calls == 4


def test_an_error_that_concerns_one_document_is_raised(app: Kern, monkeypatch: pytest.MonkeyPatch) -> None:
    from kern.contracts.result_store import WriteStatus, Written

    answer = [Written(WriteStatus.WRITTEN, error=BackendStoreError("value too large"))]
    monkeypatch.setattr(MemoryResultStore, "write", lambda self, plans: answer)
    with pytest.raises(BackendStoreError, match="value too large"):
        app.backend.store_result("t", 1, "PROGRESS")


def test_waiting_gives_up_after_so_many_attempts(retrying: Kern, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing(monkeypatch, "read", math.inf)
    with pytest.raises(BackendUnavailable):
        retrying.AsyncResult("t").get()
    assert failing.calls >= 4


def test_waiting_outlives_failures_that_end(retrying: Kern, worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.succeed("t", 5)
    Failing(monkeypatch, "read", 3)
    assert retrying.AsyncResult("t").get(timeout=20) == 5


def test_without_that_setting_the_first_error_is_raised(app: Kern, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing(monkeypatch, "read", math.inf)
    with pytest.raises(BackendUnavailable, match="not now"):
        _ = app.AsyncResult("t").result
    assert failing.calls == 1


def test_what_cannot_get_better_is_not_tried_again(retrying: Kern, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing(monkeypatch, "read", math.inf, retryable=False)
    with pytest.raises(BackendUnavailable, match="not now"):
        _ = retrying.AsyncResult("t").result
    with pytest.raises(BackendUnavailable, match="not now"):
        retrying.AsyncResult("t").get()
    assert failing.calls == 2


def test_pauses_grow_to_a_limit() -> None:
    patience = Patience(retries=math.inf, base_ms=10, longest_ms=1000)
    pauses = [[patience.pause(attempt) for _ in range(200)] for attempt in (1, 3, 1000)]
    for values, ceiling in zip(pauses, (0.02, 0.08, 1.0), strict=True):
        assert min(values) >= 0
        assert ceiling / 2 < max(values) <= ceiling


# -- a server that says nothing ----------------------------------------------------------------------------------------


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server that takes commands and answers none, until the test is over."""
    released = threading.Event()

    def nothing(self: MemoryResultStore, task_ids: Any) -> dict[str, Document]:
        released.wait(30)
        return {}

    monkeypatch.setattr(MemoryResultStore, "read", nothing)
    yield
    released.set()


def test_a_mute_server_is_unavailable(make_app: Any, mute: Any) -> None:
    app = make_app(result_backend_timeout=0.2)
    deadline = Deadline(10)
    with pytest.raises(BackendUnavailable, match=r"memory://.* has not answered for 0\.2 s"):
        app.AsyncResult("t").ready()
    with pytest.raises(BackendUnavailable, match="has not answered"):
        app.AsyncResult("t").get()
    with pytest.raises(BackendUnavailable, match="has not answered"):
        asyncio.run(app.AsyncResult("t").aget())
    with pytest.raises(BackendUnavailable, match="has not answered"):
        asyncio.run(app.AsyncResult("t").aready())
    assert not deadline.over


def test_a_mute_server_is_no_timeout_of_the_task(make_app: Any, mute: Any) -> None:
    """After so long a silence nobody can say that the result was not there in time."""
    app = make_app(result_backend_timeout=30)
    with pytest.raises(BackendUnavailable, match="has not answered"):
        app.AsyncResult("t").get(timeout=1.2)


def test_a_server_that_is_a_little_slow_is_a_timeout(make_app: Any, mute: Any) -> None:
    with pytest.raises(TimeoutError):
        make_app(result_backend_timeout=30).AsyncResult("t").get(timeout=0.05)


def test_a_server_that_accepts_no_connection_is_unavailable(make_app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(MemoryResultStore, "open", lambda self: released.wait(30) and None)
    try:
        app = make_app(result_backend_timeout=0.2)
        with pytest.raises(BackendUnavailable, match="has not answered"):
            app.AsyncResult("t").ready()
        with pytest.raises(BackendUnavailable, match="has not answered"):
            asyncio.run(app.AsyncResult("t").aready())
    finally:
        released.set()
