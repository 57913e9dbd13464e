"""An application whose server is in this process, and somebody who plays the worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from kern import states
from kern.app import Kern
from kern.contracts.result_store import DocumentForm, ResultStore
from kern.documents import encode_document
from kern.request import Request
from kern_testing.make import unique
from kern_testing.memory import forget
from kern_testing.waiting import eventually


@attrs.define
class Worker:
    """Writes what workers write, on a connection of its own."""

    store: ResultStore

    def write(self, task_id: str, state: str, value: Any = None, **fields: Any) -> None:
        """Store a document. *fields* are those of :func:`encode_document`."""
        self.write_many([(task_id, state, value)], **fields)

    def write_many(self, items: list[tuple[str, str, Any]], **fields: Any) -> None:
        whole = self.store.document_form is DocumentForm.WHOLE
        documents = [encode_document(i, state, value, whole=whole, **fields) for i, state, value in items]
        plans = [plan for plan in self.store.plan(documents, [()] * len(documents)) if plan is not None]
        for written in self.store.write(plans).result(10):
            assert written.error is None

    def succeed(self, task_id: str, value: Any = None, **fields: Any) -> None:
        self.write(task_id, states.SUCCESS, value, **fields)

    def fail(self, task_id: str, error: BaseException, **fields: Any) -> None:
        self.write(task_id, states.FAILURE, error, **fields)


class Waiting:
    """A call that blocks, made on a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._value: Any = None
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._value = call()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def outcome(self) -> Any:
        """What it returned, or raise what it raised."""
        self._thread.join(20)
        assert self.over, "still waiting"
        if self._error is not None:
            raise self._error
        return self._value


@pytest.fixture
def name() -> Iterator[str]:
    """Of a server of this test alone."""
    given = unique("results")
    yield given
    forget(given)


@pytest.fixture(params=["whole", "parts"])
def form(request: pytest.FixtureRequest) -> str:
    """In which form the store keeps documents; asked for by tests to which it matters."""
    return str(request.param)


@pytest.fixture
def make_app(name: str) -> Iterator[Callable[..., Kern]]:
    """Makes applications on the server; they are closed afterwards."""
    made: list[Kern] = []

    def make(**settings: Any) -> Kern:
        given = {"broker": f"memory://{name}", "backend": f"memory://{name}", "plugins": "testing", **settings}
        made.append(Kern("tests", **given))
        return made[-1]

    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(make_app: Callable[..., Kern]) -> Kern:
    return make_app()


@pytest.fixture
def worker(app: Kern) -> Iterator[Worker]:
    store = app.make_result_store()
    assert store is not None
    store.start(lambda _documents: None).result(10)
    yield Worker(store)
    store.stop().result(10)


@pytest.fixture
def waiting(app: Kern) -> Callable[[Callable[[], Any]], Waiting]:
    """Starts a call that waits for results, and comes back once it does wait."""

    def start(call: Callable[[], Any]) -> Waiting:
        before = app.backend._session().waiting()
        started = Waiting(call)
        eventually(lambda: started.over or app.backend._session().waiting() > before, "somebody waits")
        return started

    return start


@pytest.fixture
def request_of() -> Callable[..., Request]:
    """A request as the process that runs a task has it."""

    def make(**fields: Any) -> Request:
        return Request(task="tests.add", args=[2, 3], kwargs={"z": 1}, hostname="w@here", **fields)

    return make
