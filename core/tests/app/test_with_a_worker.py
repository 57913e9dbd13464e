"""The whole way: called, published, claimed, admitted, run, settled, and the result read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from kern import states
from kern.errors import Reject, SecurityError, SoftTimeLimitExceeded
from kern.hookspecs import hookimpl
from kern.message import Message
from kern_testing.waiting import eventually
from kern_testing.worker import WorkerThread, run_until_idle

from .conftest import Bench


class Expected(Exception):
    pass


def test_results_come_back(bench: Bench) -> None:
    add = bench.app.task(name="add")(lambda x, y: x + y)

    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    twice = bench.app.task(name="twice")(double)
    worker = WorkerThread(bench.app).start()
    try:
        results = bench.app.send_many([add.s(n, 1) for n in range(50)])
        assert [result.get(timeout=20) for result in results] == list(range(1, 51))
        assert twice.delay(21).get(timeout=20) == 42
    finally:
        worker.stop()


def test_a_task_is_tried_again_until_it_works(bench: Bench) -> None:
    def flaky(self: Any) -> int:
        if self.request.retries < 2:
            raise self.retry(exc=Expected("not yet"), countdown=0)
        return int(self.request.retries)

    result = bench.app.task(bind=True, name="flaky")(flaky).delay()
    ran = run_until_idle(bench.app)
    assert [outcome.state for outcome in ran.outcomes] == [states.RETRY, states.RETRY, states.SUCCESS]
    assert result.get(timeout=5) == 2


def test_a_retry_asked_for_without_raising_runs_beside(bench: Bench) -> None:
    def body(self: Any) -> str:
        if not self.request.retries:
            self.retry(throw=False, countdown=0, queue="celery")
        return f"run {self.request.retries}"

    bench.app.task(bind=True, name="t", ignore_result=True)(body).delay()
    assert [outcome.summary for outcome in run_until_idle(bench.app).outcomes] == ["'run 0'", "'run 1'"]


def test_what_is_rejected_is_kept_apart(bench: Bench) -> None:
    def body() -> None:
        raise Reject("not in this house")

    result = bench.app.task(name="t")(body).delay()
    run_until_idle(bench.app)
    (kept,) = bench.transport.quarantined().result(10)
    assert (kept.reason, kept.message is not None) == ("rejected", True)
    with pytest.raises(Reject):
        result.get(timeout=5)


@pytest.mark.parametrize(("throws", "level"), [((Expected,), logging.INFO), ((), logging.ERROR)])
def test_a_failure_that_may_happen_is_logged_without_its_traceback(
    bench: Bench, caplog: pytest.LogCaptureFixture, throws: Any, level: int
) -> None:
    def body() -> None:
        raise Expected("as said")

    bench.app.task(name="t", throws=throws)(body).delay()
    run_until_idle(bench.app)
    (record,) = [record for record in caplog.records if record.message.startswith("task failed")]
    assert record.levelno == level
    assert ("Traceback" in record.message) == (level == logging.ERROR)
    assert "Expected('as said')" in record.message


def test_secrets_are_in_no_line_of_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def pay(self: Any, card: str, amount: int) -> None:
        if not self.request.retries:
            self.retry(countdown=0)
        raise Expected

    bench.app.task(bind=True, name="pay", sensitive=("card",))(pay).delay("4111-1111", amount=3)
    run_until_idle(bench.app)
    assert "pay" in caplog.text
    assert "4111" not in caplog.text


def test_a_soft_limit_ends_a_task_that_does_not_mind_it(bench: Bench) -> None:
    def endless() -> None:
        while True:
            sum(range(100))

    result = bench.app.task(name="t", soft_time_limit=0.05)(endless).delay()
    worker = WorkerThread(bench.app).start()
    try:
        with pytest.raises(SoftTimeLimitExceeded):
            result.get(timeout=20)
    finally:
        worker.stop()


class Signing:
    """Signs messages, and takes no others."""

    @hookimpl
    def kern_encode_message(self, message: Message) -> Message:
        return attrs.evolve(message, headers={**message.headers, "signature": str(len(message.body))})

    @hookimpl
    def kern_decode_message(self, message: Message) -> Message:
        if message.headers.get("signature") != str(len(message.body)):
            raise SecurityError("the signature is wrong")
        return message


def test_a_message_that_a_plugin_refuses_does_not_run(bench: Bench) -> None:
    ran: list[int] = []
    task = bench.app.task(name="t")(ran.append)
    bench.app.register(Signing())
    task.delay(1)
    forged = bench.app.publication(task.s(2))
    bench.transport.publish(
        [attrs.evolve(forged, message=attrs.evolve(forged.message, body=b"[[22], {}, {}]"))]
    ).result(10)
    run_until_idle(bench.app)
    assert ran == [1]
    (kept,) = bench.transport.quarantined().result(10)
    assert "the signature is wrong" in str(kept.evidence)


def test_children_know_their_parents(bench: Bench) -> None:
    seen: dict[str, Any] = {}

    def inner(self: Any) -> None:
        seen["inner"] = (self.request.parent_id, self.request.root_id)

    task = bench.app.task(bind=True, name="inner")(inner)
    outer = bench.app.task(name="outer")(lambda: str(task.delay().id))
    result = outer.delay()
    run_until_idle(bench.app)
    assert seen["inner"] == (result.id, result.id)
    meta = bench.meta(result.id)
    assert meta is not None
    assert [child[0][0] for child in meta.children] == [meta.result]


def test_listeners_hear_of_the_whole_way_in_order(bench: Bench) -> None:
    told: list[str] = []

    def note(name: str) -> Any:
        return hookimpl(lambda self: told.append(name), specname=name)

    names = (
        "kern_import_modules",
        "kern_before_publish",
        "kern_after_publish",
        "kern_worker_init",
        "kern_worker_ready",
        "kern_received",
        "kern_task_prerun",
        "kern_task_success",
        "kern_task_postrun",
        "kern_settled",
        "kern_worker_stopping",
        "kern_worker_stopped",
    )
    bench.app.register(type("Witness", (), {name: note(name) for name in names})())
    bench.app.task(lambda: 1).delay()
    run_until_idle(bench.app)
    assert told == [
        "kern_before_publish",
        "kern_after_publish",
        "kern_import_modules",
        *names[3:],
    ]


def test_two_applications_of_one_process_keep_to_themselves(make_bench: Callable[..., Bench]) -> None:
    benches = [make_bench() for _ in range(2)]
    ran: list[str] = []
    for name, bench in zip("ab", benches, strict=True):
        bench.app.task(name="same")(lambda name=name: ran.append(name))
    workers = [WorkerThread(bench.app).start() for bench in benches]
    try:
        for bench in benches:
            bench.app.tasks["same"].delay().get(timeout=20)
    finally:
        for worker in workers:
            worker.stop()
    eventually(lambda: sorted(ran) == ["a", "b"], "each has run its own")
