"""Publishing: confirmed, refused or unknown, within one deadline; many at once; listeners; threads and processes."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import pytest

from kern import seams
from kern.contracts.transport import TransportCapability
from kern.errors import CapabilityMissing, EncodeError, MessageTooLarge, PublishRefused, PublishUnknown, TransportError
from kern.hookspecs import hookimpl
from kern.message import Message, Publication
from kern.queues import QueueSpec
from kern.result import AsyncResult
from kern.task import Task
from kern_testing.memory import MemoryTransport
from kern_testing.waiting import eventually

from .conftest import SECONDS, Bench

#: Seconds a call may take that is to run into its deadline.
SHORT = 0.15


def add(x: Any, y: Any = 1) -> Any:
    return x


class Faulty(MemoryTransport):
    """A driver whose publishing a test can hold up or break, before or after the broker has the messages."""

    def __init__(self, url: str, conf: Any, faults: Faults) -> None:
        super().__init__(url.replace("faulty://", "memory://"), conf)
        self.faults = faults
        if not faults.idempotent:
            self.capabilities = self.capabilities - {TransportCapability.IDEMPOTENT_PUBLISH}

    def open(self, *args: Any) -> None:
        if self.faults.open:
            raise self.faults.open.pop(0)
        super().open(*args)

    def publish(self, batch: Sequence[Publication]) -> list[Exception | None]:
        self.faults.batches.append(batch)
        self.faults.pass_by("before")
        answers = super().publish(batch)
        self.faults.pass_by("after")
        return [self.faults.of_item(item, answer) for item, answer in zip(batch, answers, strict=True)]

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        self.faults.pass_by("declare")
        super().declare(queues)

    def publish_within(self, batch: Sequence[Publication], connection: Any) -> None:
        if not isinstance(connection, list):
            super().publish_within(batch, connection)
        connection.extend(batch)


@attrs.define
class Faults:
    """What happens to one driver, and what it was asked."""

    idempotent: bool = True
    #: Errors of the next attempts to connect.
    open: list[Exception] = attrs.field(factory=list)
    #: By place: errors to be raised next, one a time.
    errors: dict[str, list[Exception]] = attrs.field(factory=dict)
    #: Places at which to wait until the test goes on.
    held: set[str] = attrs.field(factory=set)
    #: Answers by task id, instead of the broker's.
    items: dict[str, Exception] = attrs.field(factory=dict)
    batches: list[Sequence[Publication]] = attrs.field(factory=list)
    reached: threading.Event = attrs.field(factory=threading.Event)
    go_on: threading.Event = attrs.field(factory=threading.Event)

    def pass_by(self, place: str) -> None:
        if place in self.held:
            self.reached.set()
            self.go_on.wait(20)
        if self.errors.get(place):
            raise self.errors[place].pop(0)

    def of_item(self, item: Publication, answer: Exception | None) -> Exception | None:
        return self.items.get(item.task_id, answer)


@pytest.fixture
def faults() -> Iterator[Faults]:
    given = Faults()
    yield given
    given.go_on.set()


@pytest.fixture
def faulty(make_bench: Callable[..., Bench], faults: Faults) -> Bench:
    """An application that publishes by way of the faulty driver; others reach the same server directly."""
    bench = make_bench()

    class Driver:
        @hookimpl
        def kern_transports(self) -> dict[str, Any]:
            return {"faulty": lambda url, conf: Faulty(url, conf, faults)}

    bench.app.register(Driver())
    bench.app.conf.broker_write_url = f"faulty://{bench.server}"
    bench.app.conf.publish_timeout = 5
    return bench


@pytest.fixture
def task(faulty: Bench) -> Task[..., Any]:
    return faulty.app.task(name="add")(add)


class TestConfirmed:
    def test_a_call_is_in_the_broker_when_it_returns(self, bench: Bench) -> None:
        result = bench.app.task(name="add")(add).delay(1, y=2)
        message = bench.message()
        assert isinstance(result, AsyncResult)
        assert (message.task, message.task_id) == ("add", result.id)
        assert (bench.body(message).args, bench.body(message).kwargs) == ([1], {"y": 2})

    def test_the_same_from_a_loop(self, bench: Bench) -> None:
        task = bench.app.task(name="add")(add)

        async def main() -> list[str]:
            results = [await task.adelay(1), await task.aapply_async((2,), priority=3)]
            results.append(await bench.app.asend_task("add", (3,)))
            results += await bench.app.asend_many([task.s(4), task.s(5)])
            return [result.id for result in results]

        ids = asyncio.run(main())
        messages = bench.messages()
        assert [message.task_id for message in messages] == [ids[1], ids[0], *ids[2:]], "the first has a priority"
        assert sorted(bench.body(message).args[0] for message in messages) == [1, 2, 3, 4, 5]

    def test_seams_are_passed_in_order(self, bench: Bench) -> None:
        passed: list[str] = []
        for name in ("publishing", "published"):
            seams.arm(name, lambda name=name: passed.append(name))  # type: ignore[misc]
        try:
            bench.app.task(add).delay(1)
        finally:
            seams.disarm()
        assert passed[0] == "publishing"
        assert passed[-1] == "published"


class TestMessagesOfOneKind:
    """Calls that differ in their arguments alone are made of the first one."""

    def sent(self, bench: Bench, call: Callable[[], Any]) -> Message:
        call()
        message = bench.message()
        bench.transport.purge("celery").result(SECONDS)
        return message

    @pytest.mark.parametrize("options", [{}, {"task_id": "mine"}])
    def test_the_second_is_what_it_would_be_as_the_first(
        self, make_bench: Callable[..., Bench], options: dict[str, Any]
    ) -> None:
        """Headers in the same order, with the same values but for ids; the body of its own arguments."""
        arguments: tuple[Any, ...] = (((1, 2), {"key": ["value", None]}),)
        messages = []
        for calls_before in (0, 1):
            bench = make_bench()
            task = bench.app.task(name="add")(add)
            for number in range(calls_before):
                self.sent(bench, lambda number=number, task=task: task.delay(number, y="other"))
            messages.append(self.sent(bench, lambda task=task: task.apply_async(arguments, {"y": 2.5}, **options)))
        first, second = messages
        ids = {"id", "root_id"} if not options else set()
        assert list(first.headers) == list(second.headers)
        for name in set(first.headers) - ids:
            assert first.headers[name] == second.headers[name], name
        assert first.body == second.body
        assert list(first.properties) == list(second.properties)
        assert second.headers["id"] == second.headers["root_id"] == second.properties["correlation_id"]

    def test_they_share_nothing_that_can_be_changed(self, bench: Bench) -> None:
        task = bench.app.task(name="add")(add)
        messages = [self.sent(bench, lambda: task.delay(1)) for _ in range(3)]
        for name, value in messages[1].headers.items():
            if isinstance(value, list | dict):
                assert all(message.headers[name] is not value for message in (messages[0], messages[2])), name

    def test_what_the_task_says_anew_counts(self, bench: Bench) -> None:
        task = bench.app.task(name="add")(add)
        for _ in range(2):
            self.sent(bench, lambda: task.delay(1))
        task.time_limit, task.ignore_result = 7, True
        changed = self.sent(bench, lambda: task.delay(1))
        assert changed.headers["timelimit"] == [7, None]
        assert changed.headers["ignore_result"] is True

    def test_settings_that_change_count(self, bench: Bench) -> None:
        task = bench.app.task(name="add")(add)
        for _ in range(2):
            self.sent(bench, lambda: task.delay(1))
        task.serializer = "pickle"
        assert self.sent(bench, lambda: task.delay(1)).content_type == "application/x-python-serialize"
        bench.app.conf.task_protocol = 1
        assert self.sent(bench, lambda: task.delay(1)).headers == {}

    def test_what_cannot_be_sent_is_said_each_time(self, bench: Bench) -> None:
        task = bench.app.task(name="add")(add)
        self.sent(bench, lambda: task.delay(1))
        for _ in range(2):
            with pytest.raises(EncodeError, match="'add': argument 'y'"):
                task.delay(1, object())
            with pytest.raises(TypeError, match="must be strings"):
                task.apply_async((), {1: 2})

    def test_sensitive_arguments_stay_hidden(self, bench: Bench) -> None:
        task = bench.app.task(name="add", sensitive=("y",))(add)
        for _ in range(3):
            assert "secret" not in str(self.sent(bench, lambda: task.delay(1, y="secret")).headers)


class TestRefused:
    def test_an_unreachable_broker_is_refused_within_the_deadline(self, faulty: Bench, task: Task[..., Any]) -> None:
        with faulty.space.outage("it is gone"):
            started = time.monotonic()
            with pytest.raises(PublishRefused, match=r"it is gone") as caught:
                task.apply_async((1,), timeout=SHORT, retry=False)
            assert time.monotonic() - started < 5
        assert caught.value.outcome == "refused"
        assert faulty.messages() == []
        task.delay(2)
        assert len(faulty.messages()) == 1, "and the next call finds it again"

    def test_wrong_credentials_are_not_tried_again(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        faults.open = [TransportError("wrong password", retryable=False), TransportError("must not be seen")]
        with pytest.raises(PublishRefused, match=r"wrong password"):
            task.delay(1)
        assert len(faults.open) == 1

    def test_a_command_that_never_began_was_not_sent(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        faults.held = {"before"}
        first = threading.Thread(target=lambda: task.apply_async((1,), timeout=20))
        first.start()
        assert faults.reached.wait(10)
        with pytest.raises(PublishRefused, match=r"did not confirm within 0.15 s"):
            task.apply_async((2,), timeout=SHORT)
        faults.held = set()
        faults.go_on.set()
        first.join(10)
        eventually(lambda: len(faulty.messages()) == 1, "the first arrives")
        assert faulty.body(faulty.message()).args == [1]

    def test_what_the_broker_refuses_is_not_tried_again(
        self, faulty: Bench, task: Task[..., Any], faults: Faults
    ) -> None:
        faults.items["full"] = PublishRefused("the queue is full")
        with pytest.raises(PublishRefused, match=r"the queue is full"):
            task.apply_async((1,), task_id="full")
        assert len(faults.batches) == 1

    def test_a_queue_that_cannot_be_declared(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        faults.errors["declare"] = [TransportError("declared otherwise", retryable=False)]
        with pytest.raises(PublishRefused, match=r"declared otherwise"):
            task.apply_async((1,), retry=False)
        assert not faults.batches

    def test_a_declaration_that_hangs(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        faults.held = {"declare"}
        with pytest.raises(PublishRefused):
            task.apply_async((1,), timeout=SHORT)
        assert not faults.batches


class TestUnknown:
    @pytest.mark.parametrize(("place", "arrived"), [("before", False), ("after", True)])
    def test_a_broker_that_does_not_confirm(
        self, faulty: Bench, task: Task[..., Any], faults: Faults, place: str, arrived: bool
    ) -> None:
        task.delay(0)
        faults.held = {place}
        with pytest.raises(PublishUnknown, match=r"did not confirm within 0.15 s") as caught:
            task.apply_async((1,), task_id="again", timeout=SHORT)
        assert (caught.value.outcome, caught.value.task_ids) == ("unknown", ("again",))
        assert len(faulty.messages()) == 1 + arrived
        faults.held = set()
        faults.go_on.set()
        task.apply_async((1,), task_id=caught.value.task_ids[0])
        eventually(lambda: len(faulty.messages()) == 2, "one message under one id")

    def test_on_a_loop_too(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        task.delay(0)
        faults.held = {"after"}

        async def main() -> None:
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0)

            ticking = asyncio.ensure_future(tick())
            with pytest.raises(PublishUnknown):
                await task.aapply_async((1,), timeout=SHORT)
            ticking.cancel()
            assert ticks > 3, "the loop goes on meanwhile"

        asyncio.run(main())

    @pytest.mark.parametrize("idempotent", [True, False])
    def test_it_is_sent_again_where_that_leaves_one_message(
        self, faulty: Bench, task: Task[..., Any], faults: Faults, idempotent: bool
    ) -> None:
        faults.idempotent = idempotent
        faults.errors["after"] = [TransportError("cut off")]
        if idempotent:
            task.apply_async((1,), task_id="one")
        else:
            with pytest.raises(PublishUnknown, match=r"cut off"):
                task.apply_async((1,), task_id="one")
        assert [message.task_id for message in faulty.messages()] == ["one"]
        assert len(faults.batches) == 1 + idempotent

    def test_once_unknown_a_later_refusal_does_not_make_it_refused(
        self, faulty: Bench, task: Task[..., Any], faults: Faults
    ) -> None:
        faults.errors["after"] = [TransportError("cut off")]

        def refuse(error: BaseException, pause: float) -> None:
            faults.items["one"] = PublishRefused("no more room")

        with pytest.raises(PublishUnknown, match=r"no more room"):
            task.apply_async((1,), task_id="one", retry_policy={"errback": refuse})
        assert len(faulty.messages()) == 1


class TestTryingAgain:
    def test_by_the_settings(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        faults.open = [TransportError("not yet"), TransportError("not yet")]
        faulty.app.conf.task_publish_retry_policy = {"max_retries": 2, "interval_step": 0}
        task.delay(1)
        assert len(faulty.messages()) == 1

    def test_not_more_often_than_the_policy_says(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        faults.open = [TransportError("not yet") for _ in range(3)]
        with pytest.raises(PublishRefused, match=r"not yet"):
            task.apply_async((1,), retry_policy={"max_retries": 1, "interval_step": 0})
        assert len(faults.open) == 1

    def test_not_at_all(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        for given in ({"retry": False}, {}):
            faults.open = [TransportError("not yet"), TransportError("not yet")]
            faulty.app.conf.task_publish_retry = False
            with pytest.raises(PublishRefused):
                task.apply_async((1,), **given)
            assert len(faults.open) == 1

    def test_for_as_long_as_there_is_time(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        faults.open = [TransportError("not yet") for _ in range(1000)]
        started = time.monotonic()
        with pytest.raises(PublishRefused):
            task.apply_async((1,), timeout=SHORT, retry_policy={"max_retries": None, "interval_step": 0.01})
        assert time.monotonic() - started < 5
        assert 1 < 1000 - len(faults.open) < 100

    def test_errback_is_told_each_time(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        faults.open = [TransportError("not yet"), TransportError("still not")]
        told: list[tuple[str, float]] = []
        task.apply_async(
            (1,),
            retry_policy={"interval_step": 0.01, "errback": lambda error, pause: told.append((str(error), pause))},
        )
        assert told == [("not yet", 0.0), ("still not", 0.01)]

    def test_further_errors_by_name(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        for policy in ({}, {"retry_errors": (ZeroDivisionError,)}):
            faults.errors["before"] = [ZeroDivisionError("odd")]
            if policy:
                task.apply_async((1,), retry_policy=policy)
            else:
                with pytest.raises(PublishRefused, match=r"odd"):
                    task.apply_async((1,), retry_policy=policy)

    def test_of_several_brokers_the_next_is_tried(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        faulty.app.conf.broker_write_url = ["faulty://nowhere", f"memory://{faulty.server}"]
        faults.open = [TransportError("this one is down")]
        task.delay(1)
        assert len(faulty.messages()) == 1

    def test_confirm_timeout_is_the_same_as_timeout(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        faults.held = {"before"}
        with pytest.raises(PublishUnknown, match=r"within 0.15 s"):
            task.apply_async((1,), confirm_timeout=SHORT)


class TestMany:
    def test_in_few_round_trips_and_in_order(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        results = faulty.app.send_many([task.s(n) for n in range(1000)], queue="bulk", ignore_result=True)
        assert [len(batch) for batch in faults.batches] == [300, 300, 300, 100]
        assert [message.task_id for message in faulty.messages("bulk")] == [result.id for result in results]
        assert all(result.ignored for result in results)

    def test_nothing_is_sent_when_one_cannot_be(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        for wrong in (task.s(), task.s(1).set(countdwon=3)):
            with pytest.raises(TypeError):
                faulty.app.send_many([task.s(1), wrong])
        with pytest.raises(MessageTooLarge):
            faulty.app.send_many([task.s(1), task.s("x" * 20_000_000)])
        assert not faults.batches

    def test_of_nothing_comes_nothing(self, bench: Bench) -> None:
        assert bench.app.send_many([]) == []

    def test_the_error_names_those_that_are_missing(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        faults.items = {"b": PublishRefused("no room"), "d": PublishRefused("no room")}
        with pytest.raises(PublishRefused, match=r"2 of 4 calls are not confirmed: no room") as caught:
            faulty.app.send_many([task.s(1).set(task_id=name) for name in "abcd"])
        assert caught.value.task_ids == ("b", "d")
        assert [message.task_id for message in faulty.messages()] == ["a", "b", "c", "d"]

    def test_when_some_are_unknown_all_of_it_is(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        faults.items = {"b": PublishRefused("no room"), "d": PublishUnknown("who knows", ["d"])}
        faults.idempotent = False
        with pytest.raises(PublishUnknown, match=r"2 of 4 .*who knows") as caught:
            faulty.app.send_many([task.s(1).set(task_id=name) for name in "abcd"])
        assert caught.value.task_ids == ("b", "d")

    def test_only_what_may_be_sent_twice_is(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        """One call's trouble sends no other again."""
        faults.idempotent = False
        faults.items = {"lost": PublishUnknown("who knows", ["lost"])}

        def mend(error: BaseException, pause: float) -> None:
            del faults.items["late"]

        late = PublishRefused("cut off")
        late.__cause__ = TransportError("cut off")
        faults.items["late"] = late
        faulty.app.conf.task_publish_retry_policy = {"errback": mend}
        with pytest.raises(PublishUnknown) as caught:
            faulty.app.send_many([task.s(1).set(task_id=name) for name in ("fine", "lost", "late")])
        assert caught.value.task_ids == ("lost",)
        assert [[item.task_id for item in batch] for batch in faults.batches] == [["fine", "lost", "late"], ["late"]]

    def test_one_deadline_for_all(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        faults.held = {"before"}
        started = time.monotonic()
        with pytest.raises(PublishUnknown) as caught:
            faulty.app.send_many([task.s(n) for n in range(700)], timeout=SHORT)
        assert time.monotonic() - started < 5
        assert len(caught.value.task_ids) == 700

    def test_what_is_no_call_is_refused(self, bench: Bench) -> None:
        task = bench.app.task(add)
        group: Any = task.s(1)
        group["subtask_type"] = "group"
        for wrong, complaint in (("add", "takes calls as data"), (group, "takes calls of single tasks")):
            with pytest.raises(TypeError, match=complaint):
                bench.app.send_many([wrong])  # type: ignore[list-item]

    def test_calls_by_name_and_of_tasks_may_be_mixed(self, bench: Bench) -> None:
        task = bench.app.task(name="add")(add)
        bench.app.send_many([task.s(1), bench.app.signature("elsewhere", (2,))])
        assert [message.task for message in bench.messages()] == ["add", "elsewhere"]

    def test_ready_messages_are_published_as_they_are(self, bench: Bench) -> None:
        task = bench.app.task(name="add")(add)
        bench.app.publish([bench.app.publication(task.s(n), task_id=f"id-{n}") for n in range(3)])
        assert [message.task_id for message in bench.messages()] == ["id-0", "id-1", "id-2"]
        bench.app.publish([])


class TestTransaction:
    """Publishing inside the caller's own transaction; here a list plays the connection."""

    def test_it_is_given_to_the_connection_and_nobody_is_told(self, faulty: Bench, task: Task[..., Any]) -> None:
        told: list[Any] = []

        class Listener:
            @hookimpl
            def kern_before_publish(self, batch: list[Publication]) -> None:
                told.append("before")

            @hookimpl
            def kern_after_publish(self, batch: Sequence[Publication]) -> None:
                told.append("after")

        faulty.app.register(Listener())
        transaction: list[Publication] = []
        result = task.apply_async((1,), connection=transaction)
        results = faulty.app.send_many([task.s(2), task.s(3)], connection=transaction)
        assert [item.task_id for item in transaction] == [result.id, *(each.id for each in results)]
        assert faulty.messages() == []
        assert told == ["before", "before"]

    def test_a_queue_named_directly_is_not_declared_on_the_side(
        self, faulty: Bench, task: Task[..., Any], faults: Faults
    ) -> None:
        """The declaration would wait for the caller's own locks."""
        faults.held = {"declare"}
        task.apply_async((1,), connection=[], queue="plain")

    def test_a_transport_that_cannot_says_so(self, bench: Bench) -> None:
        with pytest.raises(CapabilityMissing, match=r"cannot publish inside a caller's transaction"):
            bench.app.task(add).apply_async((1,), connection=object())

    def test_on_a_loop_it_is_refused_with_the_way_to_do_it(self, bench: Bench) -> None:
        task = bench.app.task(add)

        async def main() -> None:
            with pytest.raises(TypeError, match=r"connection.run_sync"):
                await task.aapply_async((1,), connection=[])
            with pytest.raises(TypeError, match=r"connection.run_sync"):
                await bench.app.asend_many([task.s(1)], connection=[])

        asyncio.run(main())

    def test_it_is_for_all_calls_of_a_batch(self, faulty: Bench, task: Task[..., Any]) -> None:
        for call in (task.s(1), faulty.app.signature("elsewhere", (1,))):
            with pytest.raises(TypeError, match=r"for all calls of send_many"):
                faulty.app.send_many([call.set(connection=[]), task.s(2)])

    def test_an_unreachable_broker_is_refused(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        faults.open = [TransportError("down")]
        with pytest.raises(PublishRefused, match=r"down"):
            task.apply_async((1,), connection=[])


class TestListeners:
    def test_what_is_sent_can_be_replaced(self, bench: Bench) -> None:
        class Stamping:
            @hookimpl
            def kern_before_publish(self, batch: list[Publication]) -> None:
                for index, item in enumerate(batch):
                    headers = {**item.message.headers, "tenant": "t1", "id": "replaced"}
                    batch[index] = attrs.evolve(item, message=attrs.evolve(item.message, headers=headers))

        bench.app.register(Stamping())
        result = bench.app.task(add).delay(1)
        assert bench.message().headers["tenant"] == "t1"
        assert bench.message().task_id == result.id == "replaced"

    def test_so_can_what_follows_a_task_and_its_retries(self, bench: Bench) -> None:
        class Tracing:
            @hookimpl
            def kern_before_publish(self, batch: list[Publication]) -> None:
                for index, item in enumerate(batch):
                    traced = str(int(item.message.headers.get("traced", "0")) + 1)
                    message = attrs.evolve(item.message, headers={**item.message.headers, "traced": traced})
                    batch[index] = attrs.evolve(item, message=message)

        bench.app.register(Tracing())
        task = bench.app.task(bind=True, name="t")(lambda self: self.retry(countdown=0))
        task.delay()
        bench.run_one()
        assert bench.message().headers["traced"] == "2", "once for the call, once for its retry"
        made = bench.app.publication(task.s())
        bench.app.publish([made])
        assert bench.messages()[-1].headers["traced"] == "1", "asked when it was made"

    def test_adding_and_removing_is_not_done(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        class Removing:
            @hookimpl
            def kern_before_publish(self, batch: list[Publication]) -> None:
                batch.clear()

        bench.app.register(Removing())
        bench.app.task(add).delay(1)
        assert len(bench.messages()) == 1
        assert "not add or remove" in caplog.text

    def test_they_are_told_of_what_is_confirmed_only(self, faulty: Bench, task: Task[..., Any], faults: Faults) -> None:
        confirmed: list[str] = []

        class Listener:
            @hookimpl
            def kern_after_publish(self, app: Any, batch: Sequence[Publication]) -> None:
                confirmed.extend(item.task_id for item in batch)

        faulty.app.register(Listener())
        faults.items["b"] = PublishRefused("no")
        with pytest.raises(PublishRefused):
            faulty.app.send_many([task.s(1).set(task_id=name) for name in "abc"])
        with pytest.raises(PublishRefused):
            task.apply_async((1,), task_id="b")
        assert confirmed == ["a", "c"]

    def test_one_that_raises_is_logged_with_its_plugins_name_and_stops_nothing(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Breaking:
            @hookimpl
            def kern_before_publish(self) -> None:
                raise ValueError("oops before")

            @hookimpl
            def kern_after_publish(self) -> None:
                raise ValueError("oops after")

        bench.app.register(Breaking(), "the-breaking-one")
        bench.app.task(add).delay(1)
        assert len(bench.messages()) == 1
        assert caplog.text.count("the-breaking-one") == 2
        assert "oops before" in caplog.text
        assert "oops after" in caplog.text


class TestCodecs:
    """Plugins that rewrite messages: one after the other, and back in reverse."""

    class Bracket:
        def __init__(self, mark: bytes) -> None:
            self.mark = mark

        @hookimpl
        def kern_encode_message(self, message: Message) -> Message:
            return attrs.evolve(message, body=self.mark + message.body)

        @hookimpl
        def kern_decode_message(self, message: Message) -> Message:
            if not message.body.startswith(self.mark):
                raise ValueError(f"not marked {self.mark!r}")
            return attrs.evolve(message, body=message.body[len(self.mark) :])

    def test_in_order_and_back(self, bench: Bench) -> None:
        for mark in (b"one.", b"two."):
            bench.app.register(self.Bracket(mark))
        task = bench.app.task(name="add")(add)
        result = task.delay(5)
        assert bench.message().body.startswith(b"one.two.[[5]")
        bench.run_one()
        assert result.get(timeout=5) == 5
        with pytest.raises(ValueError, match=r"not marked"):
            bench.app.decode_message(attrs.evolve(bench.app.publication(task.s(1)).message, body=b"forged"))

    def test_one_that_cannot_keeps_the_message_from_being_sent(self, bench: Bench) -> None:
        class Broken:
            @hookimpl
            def kern_encode_message(self, message: Message) -> Message:
                raise RuntimeError("no key")

        bench.app.register(Broken())
        with pytest.raises(RuntimeError, match=r"no key"):
            bench.app.task(add).delay(1)
        assert bench.messages() == []

    def test_the_limit_counts_what_is_sent(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(message_size_limit=200)
        bench.app.register(self.Bracket(b"x" * 200))
        with pytest.raises(MessageTooLarge):
            bench.app.task(add).delay(1)

    def test_arguments_are_prepared_one_after_the_other(self, bench: Bench) -> None:
        class Adding:
            @hookimpl
            def kern_prepare_arguments(self, args: Any, kwargs: Any, serializer: str) -> Any:
                return (*args, serializer), kwargs

        class Asking:
            @hookimpl
            def kern_prepare_arguments(self) -> None:
                return None

        for plugin in (Adding(), Asking(), Adding()):
            bench.app.register(plugin)
        bench.app.task(typing=False)(add).delay(1)
        assert bench.body(bench.message()).args == [1, "json", "json"]

    def test_what_one_of_them_raises_is_the_callers(self, bench: Bench) -> None:
        class Refusing:
            @hookimpl
            def kern_prepare_arguments(self) -> None:
                raise LookupError("no such customer")

        bench.app.register(Refusing())
        with pytest.raises(LookupError, match=r"no such customer"):
            bench.app.task(add).delay(1)


class TestConnection:
    def test_it_is_made_when_first_used_and_closed_and_used_again(
        self, faulty: Bench, task: Task[..., Any], faults: Faults
    ) -> None:
        connection = faulty.app.connection
        faulty.app.close()
        task.delay(1)
        port = connection.port(5)
        assert connection.port(5) is port
        faulty.app.close()
        faulty.app.close()
        task.delay(2)
        assert connection.port(5) is not port
        assert len(faulty.messages()) == 2

    def test_what_it_does_not_answer_in_time_is_an_error_with_the_url(
        self, faulty: Bench, task: Task[..., Any], faults: Faults
    ) -> None:
        connection = faulty.app.connection
        assert connection.do(lambda port: port.queues(), 5) is not None
        faults.held = {"declare"}
        with pytest.raises(TransportError, match=rf"the broker memory://{faulty.server} did not answer within 0.15 s"):
            connection.do(lambda port: port.declare([QueueSpec("x")]), SHORT)

        async def main() -> None:
            assert await connection.ado(lambda port: port.queues(), 5) is not None
            with pytest.raises(TransportError, match=r"did not answer"):
                await connection.ado(lambda port: port.declare([QueueSpec("x")]), SHORT)

        faults.held = set()
        faults.go_on.set()
        faults.go_on = threading.Event()
        faults.held = {"declare"}
        asyncio.run(main())
        faults.go_on.set()

    def test_a_lost_connection_is_made_again(self, bench: Bench) -> None:
        task = bench.app.task(add)
        task.delay(1)
        bench.space.cut(bench.app.connection.port(5).driver)  # type: ignore[attr-defined]
        task.delay(2)
        assert len(bench.messages()) == 2

    def test_42_threads_share_it(self, bench: Bench) -> None:
        task = bench.app.task(name="add")(add)
        gate = threading.Barrier(42)

        def publish(number: int) -> tuple[str, list[str]]:
            gate.wait(20)
            return bench.app.thread_oid, [task.delay(number, n).id for n in range(10)]

        with ThreadPoolExecutor(42) as threads:
            found = list(threads.map(publish, range(42)))
        ids = [each for _, made in found for each in made]
        assert {message.task_id for message in bench.messages()} == set(ids)
        assert len(ids) == 420
        assert len({oid for oid, _ in found}) == 42
        replies = {message.properties["reply_to"] for message in bench.messages()}
        assert replies == {oid for oid, _ in found}

    def test_closing_while_others_publish_loses_nothing_and_lies_to_nobody(self, bench: Bench) -> None:
        task = bench.app.task(name="add")(add)
        over = threading.Event()

        def publish(_: int) -> list[str]:
            confirmed = []
            while not over.is_set():
                try:
                    confirmed.append(task.delay(1).id)
                except (PublishRefused, PublishUnknown):
                    pass
            return confirmed

        with ThreadPoolExecutor(4) as threads:
            working = [threads.submit(publish, n) for n in range(4)]
            for _ in range(20):
                eventually(lambda: bench.app.connection._port is not None, "it is open again")
                bench.app.connection.close()
            over.set()
            confirmed = {task_id for each in working for task_id in each.result(20)}
        bench.app.connection.close()
        assert confirmed
        assert confirmed <= {message.task_id for message in bench.transport.peek("celery", 10**6).result(20)}

    def test_a_forked_process_has_its_own(self, bench: Bench, tmp_path: Any) -> None:
        """Also when the fork comes while another thread holds the lock."""
        task = bench.app.task(name="add")(add)
        task.delay(1)
        ours, oid = bench.app.connection.port(5), bench.app.thread_oid
        seen = tmp_path / "seen"
        with bench.app.connection._lock:
            pid = os.fork()
            if pid == 0:
                try:
                    theirs = bench.app.connection.port(5)
                    task.delay(2)
                    seen.write_text(f"{theirs is not ours} {bench.app.thread_oid != oid}")
                finally:
                    os._exit(0)
        os.waitpid(pid, 0)
        assert seen.read_text() == "True True"
        assert bench.app.connection.port(5) is ours
        assert [bench.body(message).args for message in bench.messages()] == [[1]], "memory is not shared"


class TestBrokerUrls:
    def test_those_who_publish_and_those_who_consume_may_have_their_own(self, make_bench: Callable[..., Bench]) -> None:
        app = make_bench(broker_read_url="memory://r", broker_write_url=["memory://w1", "memory://w2"]).app
        assert app.broker_urls() == ["memory://r"]
        assert app.broker_urls(write=True) == ["memory://w1", "memory://w2"]
        assert app.broker_url == "memory://r"
        assert [app.make_transport(attempt, write=True).url for attempt in range(3)] == [
            "memory://w1",
            "memory://w2",
            "memory://w1",
        ]

    def test_several_in_one_text(self, make_bench: Callable[..., Bench]) -> None:
        assert make_bench(broker="memory://a; memory://b").app.broker_urls() == ["memory://a", "memory://b"]

    def test_in_the_order_of_the_strategy(self, make_bench: Callable[..., Bench]) -> None:
        import itertools

        urls = [f"memory://{letter}" for letter in "abcdefgh"]
        backwards = make_bench(broker=urls, broker_failover_strategy=lambda given: reversed(given)).app
        assert backwards.broker_urls() == urls[::-1]
        endless = make_bench(broker=urls, broker_failover_strategy=itertools.cycle).app
        assert endless.broker_urls() == urls
        shuffled = make_bench(broker=urls, broker_failover_strategy="shuffle").app
        orders = {tuple(shuffled.broker_urls()) for _ in range(50)}
        assert len(orders) > 1
        assert {frozenset(order) for order in orders} == {frozenset(urls)}
