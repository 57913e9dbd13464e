"""An application whose servers are in this process, and somebody who works off what was published."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from kern import protocol
from kern.app import Kern
from kern.contracts.result_store import ResultStore
from kern.contracts.transport import Claim, Owner, Settlement, Transport
from kern.delivery import Delivery
from kern.documents import Meta
from kern.message import Message
from kern.outcome import Outcome
from kern.request import Request
from kern_testing.make import unique
from kern_testing.memory import forget, space

SECONDS = 10


@attrs.define
class Bench:
    """One application and both ends of its queue."""

    app: Kern
    server: str
    _transport: Transport | None = None
    _store: ResultStore | None = None

    @property
    def space(self) -> Any:
        """The server."""
        return space(self.server)

    @property
    def transport(self) -> Transport:
        """A worker's connection."""
        if self._transport is None:
            self._transport = self.app.make_transport()
            self._transport.start(Owner("bench", "bench@here", "worker"), lambda _event: None).result(SECONDS)
        return self._transport

    @property
    def store(self) -> ResultStore:
        """A worker's connection to the result store."""
        if self._store is None:
            store = self.app.make_result_store()
            assert store is not None
            store.start(lambda _documents: None).result(SECONDS)
            self._store = store
        return self._store

    # -- what is there

    def messages(self, queue: str = "celery") -> list[Message]:
        """What waits in a queue, ready."""
        return self.transport.peek(queue, 1000).result(SECONDS)

    def message(self, queue: str = "celery") -> Message:
        """The one message that waits."""
        found = self.messages(queue)
        assert len(found) == 1, f"{len(found)} messages in {queue!r}"
        return found[0]

    def body(self, message: Message) -> protocol.Body:
        return protocol.read(message, frozenset({message.content_type}))

    def meta(self, task_id: str) -> Meta | None:
        """What the result store has of a call."""
        return self.app.backend.find([task_id]).get(task_id)

    # -- a worker

    def claim(self, *queues: str, limit: int = 1000) -> list[Delivery]:
        claim = Claim(queues=dict.fromkeys(queues or ("celery",), limit), limit=limit, lease_seconds=60.0)
        return list(self.transport.claim(claim).result(SECONDS).deliveries)

    def request(self, delivery: Delivery) -> Request:
        """What a worker admits."""
        assert delivery.message is not None
        message = self.app.decode_message(delivery.message)
        head = protocol.peek(message, self.app.accept)
        request = protocol.request_from(delivery, head, "bench@here")
        task = self.app.tasks.get(head.task)
        if task is not None:
            request.time_limit = request.time_limit or task.time_limit
            request.soft_time_limit = request.soft_time_limit or task.soft_time_limit
        return request

    def run(self, *queues: str) -> list[Outcome]:
        """Run what is ready now, and write what became of it."""
        runner = self.app.runner("bench@here")
        outcomes = [runner(self.request(delivery)) for delivery in self.claim(*queues)]
        self.settle(outcomes)
        return outcomes

    def run_one(self, *queues: str) -> Outcome:
        """Run the one call that is ready."""
        outcomes = self.run(*queues)
        assert len(outcomes) == 1, f"{len(outcomes)} calls were ready"
        return outcomes[0]

    def drain(self, *queues: str) -> list[Outcome]:
        """Run until nothing is ready any more."""
        everything: list[Outcome] = []
        while outcomes := self.run(*queues):
            everything += outcomes
        return everything

    def settle(self, outcomes: list[Outcome]) -> None:
        if self.app.result_backend_url is not None:
            documents = [outcome.document for outcome in outcomes]
            others = [outcome.documents for outcome in outcomes]
            plans = [plan for plan in self.store.plan(documents, [()] * len(documents), others) if plan is not None]
            for written in self.store.write(plans).result(SECONDS):
                assert written.error is None
        settled = self.transport.settle([Settlement(outcome) for outcome in outcomes]).result(SECONDS)
        assert [item.error for item in settled] == [None] * len(outcomes)

    def close(self) -> None:
        for port in (self._transport, self._store):
            if port is not None:
                port.stop().result(SECONDS)
        self.app.close()


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    """Makes applications, each on servers of its own; closed afterwards."""
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        server = unique("bench")
        given = {"broker": f"memory://{server}", "backend": f"memory://{server}", "plugins": "testing", **settings}
        made.append(Bench(Kern("tests", **given), server))
        return made[-1]

    yield make
    for bench in made:
        bench.close()
        forget(bench.server)


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.fixture
def app(bench: Bench) -> Kern:
    return bench.app


@pytest.fixture(autouse=True)
def _all_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What is logged is part of what holds."""
    caplog.set_level(logging.DEBUG, logger="kern")
