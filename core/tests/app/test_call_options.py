"""Every option of a call acts, or is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kern.app import Kern
from kern.call_options import CALL_OPTIONS, REFUSED_OPTIONS, RetryPolicy
from kern.contracts.continuation import Continuation, Follows
from kern.errors import CapabilityMissing, EncodeError, ImproperlyConfigured, MessageTooLarge, QueueNotFound
from kern.hookspecs import hookimpl
from kern.message import Message
from kern.queues import QueueSpec
from kern.request import Request
from kern.result import AsyncResult
from kern.task import Task
from kern.timeutil import clock

from .conftest import Bench

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC).timestamp()


def add(x: Any, y: Any = 1) -> Any:
    return x


class Links(Continuation):
    """Understands every continuation, and changes none."""

    kinds = frozenset({"callbacks", "errbacks", "chain", "chord"})

    def prepare(self, kind: str, value: Any) -> Any:
        return value if kind == "chord" or isinstance(value, list) else [value]

    def follow(self, request: Request, state: str, value: Any) -> Follows:
        return Follows()

    @hookimpl
    def kern_continuations(self) -> list[Continuation]:
        return [self]


@pytest.fixture
def task(app: Kern) -> Task[..., Any]:
    app.register(Links())
    return app.task(name="add")(add)


class OtherResult(AsyncResult[Any]):
    pass


CALLBACK = {"task": "after", "args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}

#: Options that show in the message: what is given, where it shows, and how. The clock stands still meanwhile.
SHOWN: list[tuple[dict[str, Any], Callable[[Message], Any], Any]] = [
    ({"task_id": "mine"}, lambda m: (m.headers["id"], m.properties["correlation_id"]), ("mine", "mine")),
    ({"countdown": 10}, lambda m: m.headers["eta"], "2026-11-20T12:00:10+00:00"),
    ({"countdown": timedelta(seconds=10)}, lambda m: m.headers["eta"], "2026-11-20T12:00:10+00:00"),
    ({"countdown": 0}, lambda m: m.headers["eta"], None),
    ({"eta": datetime(2027, 1, 1)}, lambda m: m.headers["eta"], "2027-01-01T00:00:00"),
    ({"eta": "2027-01-01T00:00:00+01:00"}, lambda m: m.headers["eta"], "2027-01-01T00:00:00+01:00"),
    ({"eta": "2027-01-01", "countdown": 5}, lambda m: m.headers["eta"], "2026-11-20T12:00:05+00:00"),
    (
        {"expires": 60},
        lambda m: (m.headers["expires"], m.properties["expiration"]),
        ("2026-11-20T12:01:00+00:00", "60000"),
    ),
    (
        {"expires": datetime(2026, 11, 20, 12, 1)},
        lambda m: (m.headers["expires"], m.properties["expiration"]),
        ("2026-11-20T12:01:00+00:00", "60000"),
    ),
    ({"shadow": "nick"}, lambda m: m.headers["shadow"], "nick"),
    ({"priority": 5}, lambda m: m.properties["priority"], 5),
    ({"delivery_mode": 1}, lambda m: m.properties["delivery_mode"], 1),
    ({"delivery_mode": "transient"}, lambda m: m.properties["delivery_mode"], 1),
    ({"headers": {"mine": "x"}}, lambda m: m.headers["mine"], "x"),
    ({"time_limit": 30, "soft_time_limit": 20}, lambda m: m.headers["timelimit"], [30, 20]),
    ({"ignore_result": True}, lambda m: m.headers["ignore_result"], True),
    ({"reply_to": "there"}, lambda m: m.properties["reply_to"], "there"),
    ({"root_id": "r", "parent_id": "p"}, lambda m: (m.headers["root_id"], m.headers["parent_id"]), ("r", "p")),
    ({"group_id": "g", "group_index": 3}, lambda m: (m.headers["group"], m.headers["group_index"]), ("g", 3)),
    ({"retries": 2}, lambda m: m.headers["retries"], 2),
    ({"replaced_task_nesting": 2}, lambda m: m.headers["replaced_task_nesting"], 2),
    ({"origin": "me@here"}, lambda m: m.headers["origin"], "me@here"),
    (
        {"argsrepr": "(…)", "kwargsrepr": "{…}"},
        lambda m: (m.headers["argsrepr"], m.headers["kwargsrepr"]),
        ("(…)", "{…}"),
    ),
    (
        {"stamped_headers": ["customer"], "customer": 7},
        lambda m: (m.headers["stamped_headers"], m.headers["stamps"]),
        (["customer"], {"customer": 7}),
    ),
    ({"app_id": "a"}, lambda m: m.properties["app_id"], "a"),
    ({"message_id": "m"}, lambda m: m.properties["message_id"], "m"),
    ({"type": "t"}, lambda m: m.properties["type"], "t"),
    ({"user_id": "u"}, lambda m: m.properties["user_id"], "u"),
    ({"timestamp": 5}, lambda m: m.properties["timestamp"], 5),
    ({"cluster_id": "c"}, lambda m: m.properties["cluster_id"], "c"),
    ({"serializer": "pickle"}, lambda m: m.content_type, "application/x-python-serialize"),
    ({"compression": "zlib"}, lambda m: m.headers["compression"], "application/x-gzip"),
    ({"mandatory": True}, lambda m: m.headers["task"], "add"),
    ({"timeout": 3}, lambda m: m.headers["task"], "add"),
]

#: Those that show in the body.
IN_THE_BODY = {"link": "callbacks", "link_error": "errbacks", "chain": "chain", "chord": "chord"}

#: Those that have a test of their own, here or in test_publishing.
ELSEWHERE = {
    "queue",
    "exchange",
    "exchange_type",
    "routing_key",
    "route_name",
    "router",
    "declare",
    "add_to_parent",
    "result_cls",
    "retry",
    "retry_policy",
    "confirm_timeout",
    "connection",
}


@pytest.mark.parametrize(("options", "shown", "expected"), SHOWN, ids=[str(case[0])[:60] for case in SHOWN])
def test_it_shows_in_the_message(
    bench: Bench, task: Task[..., Any], options: dict[str, Any], shown: Callable[[Message], Any], expected: Any
) -> None:
    sent: list[Message] = []

    class Listener:
        @hookimpl
        def kern_after_publish(self, batch: Any) -> None:
            sent.extend(publication.message for publication in batch)

    bench.app.register(Listener())
    with clock.use(lambda: NOW):
        task.apply_async((1,), **options)
    assert shown(sent[0]) == expected


@pytest.mark.parametrize(("option", "kind"), IN_THE_BODY.items())
def test_continuations_travel_in_the_body(bench: Bench, task: Task[..., Any], option: str, kind: str) -> None:
    task.apply_async((1,), **{option: CALLBACK})
    carried = getattr(bench.body(bench.message()), kind)
    assert carried == (CALLBACK if kind == "chord" else [CALLBACK])


def test_every_option_is_tested_here() -> None:
    tested = {option for options, _, _ in SHOWN for option in options if option != "customer"}
    assert tested | IN_THE_BODY.keys() | ELSEWHERE == CALL_OPTIONS.keys()


def test_a_due_call_waits_in_the_broker(bench: Bench, task: Task[..., Any]) -> None:
    from kern_testing.clock import VirtualClock

    bench.space.use_clock(VirtualClock(NOW))
    with clock.use(lambda: NOW):
        task.apply_async((1,), countdown=10)
        task.apply_async((2,), eta=datetime(2026, 11, 20, 12, 0, 20))
        assert bench.messages() == []
        bench.space.clock.advance(10)
        assert [bench.body(message).args for message in bench.messages()] == [[1]]
        bench.space.clock.advance(10)
        assert len(bench.messages()) == 2, "what comes without a zone is in UTC, for the broker as for the worker"


def test_a_naive_time_is_utc_whatever_the_applications_zone(make_bench: Callable[..., Bench]) -> None:
    from kern_testing.clock import VirtualClock

    bench = make_bench(timezone="Asia/Tokyo")
    bench.space.use_clock(VirtualClock(NOW))
    task = bench.app.task(add)
    with clock.use(lambda: NOW):
        task.apply_async((1,), eta=datetime(2026, 11, 20, 11, 59))
        assert bench.message().headers["eta"] == "2026-11-20T11:59:00", "it travels as it was written"
        task.apply_async((1,), countdown=60)
        bench.space.clock.advance(60)
        assert bench.messages()[1].headers["eta"] == "2026-11-20T21:01:00+09:00", (
            "a countdown in the application's zone"
        )


class TestPlaces:
    @pytest.mark.parametrize("queue", ["other", QueueSpec("other")])
    def test_queue_names_it(self, bench: Bench, task: Task[..., Any], queue: Any) -> None:
        task.apply_async((1,), queue=queue)
        assert bench.message("other").task == "add"
        assert bench.messages() == []

    def test_an_unknown_queue_is_an_error_where_none_are_made(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(task_create_missing_queues=False)
        with pytest.raises(QueueNotFound, match=r"nowhere"):
            bench.app.task(add).apply_async((1,), queue="nowhere")

    def test_exchange_routing_key_and_type(self, bench: Bench, task: Task[..., Any]) -> None:
        queue = QueueSpec("logs", exchange="topics", exchange_type="topic", routing_key="log.#")
        place = {"exchange": "topics", "exchange_type": "topic"}
        task.apply_async((1,), declare=[queue], routing_key="log.error", **place)
        assert bench.message("logs").task == "add"
        task.apply_async((2,), routing_key="log.info", **place)
        assert len(bench.messages("logs")) == 2

    def test_declare_makes_queues_that_are_not_configured(self, bench: Bench, task: Task[..., Any]) -> None:
        task.apply_async((1,), declare=[QueueSpec("beside")])
        assert "beside" in bench.transport.queues().result(10)

    def test_route_name_stands_for_the_task_in_routes(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(task_routes={"feeds.*": {"queue": "feeds"}})
        bench.app.task(add).apply_async((1,), route_name="feeds.add")
        assert bench.message("feeds")

    def test_router_stands_for_the_applications(self, make_bench: Callable[..., Bench]) -> None:
        bench = make_bench(task_routes={"*": {"queue": "usual"}})
        task = bench.app.task(add)
        task.apply_async((1,), router={"*": {"queue": "special"}})
        task.apply_async((1,))
        assert bench.message("special")
        assert bench.message("usual")

    def test_queues_added_later_are_seen_by_calls_that_were_planned_before(self, bench: Bench) -> None:
        task = bench.app.task(add)
        task.delay(1)
        bench.app.conf.task_routes = {"*": {"queue": "new"}}
        task.delay(2)
        assert bench.message("new")
        task.queue = "own"
        task.delay(3)
        bench.app.conf.task_routes = {}
        task.delay(4)
        assert len(bench.messages("own")) == 1 + (len(bench.messages("new")) == 1)


class TestResults:
    def test_result_cls_is_the_class_of_the_result(self, task: Task[..., Any]) -> None:
        assert isinstance(task.apply_async((1,), result_cls=OtherResult), OtherResult)

    def test_an_ignored_result_says_so(self, app: Kern, task: Task[..., Any]) -> None:
        assert task.apply_async((1,), ignore_result=True).ignored
        assert app.task(name="quiet", ignore_result=True)(add).delay(1).ignored
        assert not app.task(name="loud", ignore_result=True)(add).apply_async((1,), ignore_result=False).ignored

    @pytest.mark.parametrize("record", [True, False])
    def test_calls_of_a_task_are_its_children_unless_it_says_otherwise(self, bench: Bench, record: bool) -> None:
        inner = bench.app.task(name="inner")(add)

        @bench.app.task
        def outer() -> str:
            return str(inner.apply_async((1,), add_to_parent=record).id)

        parent = outer.delay()
        bench.drain()
        meta = bench.meta(parent.id)
        assert meta is not None
        children = [child[0][0] for child in meta.children]
        assert children == ([meta.result] if record else [])

    def test_ids_of_parent_and_root_are_those_of_the_calling_task(self, bench: Bench) -> None:
        @bench.app.task
        def outer(depth: int) -> None:
            if depth:
                outer.delay(depth - 1)

        top = outer.delay(2)
        seen = []
        while deliveries := bench.claim():
            for delivery in deliveries:
                assert delivery.message is not None
                seen.append(delivery.message.headers)
                bench.settle([bench.app.runner("b@h")(bench.request(delivery))])
        assert [headers["root_id"] for headers in seen] == [top.id] * 3
        assert [headers["parent_id"] for headers in seen] == [None, seen[0]["id"], seen[1]["id"]]


class TestTasksOwn:
    def test_options_of_the_task_are_defaults(self, bench: Bench) -> None:
        task = bench.app.task(
            queue="own", priority=3, expires=60, compression="zlib", delivery_mode=1, time_limit=9, soft_time_limit=8
        )(add)
        task.delay(1)
        message = bench.message("own")
        assert message.properties["priority"] == 3
        assert message.properties["delivery_mode"] == 1
        assert message.headers["timelimit"] == [9, 8]
        assert message.headers["expires"]
        assert message.headers["compression"]

    def test_what_the_call_says_weighs_more_even_none(self, bench: Bench) -> None:
        task = bench.app.task(queue="own", expires=60, time_limit=9)(add)
        task.apply_async((1,), queue="other", expires=None, time_limit=None)
        message = bench.message("other")
        assert (message.headers["expires"], message.headers["timelimit"]) == (None, [None, None])

    def test_an_exchange_of_the_task(self, bench: Bench) -> None:
        queue = QueueSpec("logs", exchange="topics", exchange_type="topic", routing_key="log.#")
        task = bench.app.task(exchange="topics", exchange_type="topic", routing_key="log.warn")(add)
        task.apply_async((1,), declare=[queue])
        assert bench.message("logs")

    def test_the_serializer_of_the_task(self, bench: Bench) -> None:
        bench.app.task(serializer="pickle")(add).delay({1, 2})
        assert bench.body(bench.message()).args == ({1, 2},)

    def test_a_shown_name_made_by_the_class(self, bench: Bench) -> None:
        class Named(Task[..., Any]):
            def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
                return f"add {args[0]}"

        bench.app.task(base=Named)(add).delay(5)
        assert bench.message().headers["shadow"] == "add 5"


class TestByName:
    def test_a_task_that_is_not_known_here(self, bench: Bench) -> None:
        result = bench.app.send_task("elsewhere.task", (1,), {"k": 2}, queue="other")
        message = bench.message("other")
        assert (message.task, message.task_id, message.headers["ignore_result"]) == ("elsewhere.task", result.id, None)
        assert bench.body(message).kwargs == {"k": 2}

    def test_a_known_task_gives_its_options_but_neither_its_name_to_show_nor_its_word_on_results(
        self, bench: Bench
    ) -> None:
        def shadow_name(*_: Any) -> str:
            return "never"

        bench.app.task(name="known", queue="own", priority=4, ignore_result=True, shadow_name=shadow_name)(add)
        result = bench.app.send_task("known", (1,))
        message = bench.message("own")
        assert (message.headers["ignore_result"], message.headers["shadow"], result.ignored) == (None, None, False)
        assert message.properties["priority"] == 4

    def test_sensitive_arguments_of_a_known_task_are_masked(self, bench: Bench) -> None:
        bench.app.task(name="pay", sensitive=("card",))(pay)
        bench.app.send_task("pay", ("4111",), {"amount": 3})
        assert bench.message().headers["argsrepr"] == "('***',)"

    def test_a_name_is_text(self, app: Kern) -> None:
        with pytest.raises(TypeError, match=r"takes the name of a task"):
            app.send_task(app.task(add), (1,))  # type: ignore[arg-type]


def pay(card: str, amount: int, *rest: Any, pin: str = "", **others: Any) -> None: ...


class TestSensitive:
    """What a task calls sensitive is shown nowhere."""

    @pytest.mark.parametrize(
        ("sensitive", "args", "kwargs", "shown"),
        [
            (("card",), ("4111", 3), {}, ("('***', 3)", "{}")),
            (("card",), (), {"card": "4111", "amount": 3}, ("()", "{'card': '***', 'amount': 3}")),
            (("pin",), ("4111", 3), {"pin": "0000"}, ("('4111', 3)", "{'pin': '***'}")),
            (("rest",), ("4111", 3, "a", "b"), {}, ("('4111', 3, '***', '***')", "{}")),
            (("others",), ("4111", 3), {"x": "0000"}, ("('4111', 3)", "{'x': '***'}")),
        ],
    )
    def test_not_in_headers_nor_signatures(
        self, bench: Bench, sensitive: tuple[str, ...], args: Any, kwargs: Any, shown: tuple[str, str]
    ) -> None:
        task = bench.app.task(sensitive=sensitive)(pay)
        task.apply_async(args, kwargs)
        headers = bench.message().headers
        assert (headers["argsrepr"], headers["kwargsrepr"]) == shown
        secret = [value for value in (*args, *kwargs.values()) if repr(value) not in shown[0] + shown[1]]
        assert secret
        assert not any(repr(value) in repr(task.s(*args, **kwargs)) for value in secret)

    def test_not_in_the_log_nor_in_what_the_store_shows(
        self, make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
    ) -> None:
        bench = make_bench(result_extended=True)
        task = bench.app.task(sensitive=("card",))(pay)
        result = task.delay("4111", 3, pin="1")
        outcome = bench.run_one()
        meta = bench.meta(result.id)
        assert meta is not None
        assert (meta.args, meta.kwargs) == (["***", 3], {"pin": "1"})
        assert "4111" not in caplog.text + outcome.summary

    def test_not_when_the_retries_are_used_up(self, bench: Bench) -> None:
        @bench.app.task(bind=True, max_retries=0, sensitive=("card",))
        def failing(self: Task[..., Any], card: str) -> None:
            self.retry()

        failing.delay("4111")
        assert "4111" not in str(bench.run_one())


class TestRefused:
    def test_unknown_with_the_nearest(self, task: Task[..., Any]) -> None:
        with pytest.raises(TypeError, match=r"unknown option 'countdwon' of a call; did you mean 'countdown'"):
            task.apply_async((1,), countdwon=3)

    @pytest.mark.parametrize("option", REFUSED_OPTIONS)
    def test_what_cannot_act_with_the_reason(self, task: Task[..., Any], option: str) -> None:
        with pytest.raises(TypeError, match=rf"option '{option}' is not supported: "):
            task.apply_async((1,), **{option: True})

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"task_id": 3}, "'task_id' of a call is text"),
            ({"task_id": ""}, "'task_id' of a call is text that is not empty"),
            ({"time_limit": "10"}, "'time_limit' of a call is seconds"),
            ({"timeout": -1}, "'timeout' of a call is seconds"),
            ({"headers": [1]}, "'headers' of a call is a mapping"),
            ({"headers": {1: 2}}, "'headers' of a call is a mapping with text as keys"),
            ({"retries": "2"}, "'retries' of a call is an integer"),
            ({"group_index": 1.5}, "'group_index' of a call is an integer"),
            ({"stamped_headers": "customer"}, "'stamped_headers' of a call is a list of names"),
            ({"stamped_headers": ["customer"]}, "the stamp 'customer' has no value: pass customer="),
            ({"retry_policy": {"max_retires": 3}}, "unknown key 'max_retires' in a retry policy"),
            ({"retry_policy": {"max_retries": -3}}, "'max_retries' of a retry policy is an integer"),
            ({"retry_policy": {"interval_max": "x"}}, "'interval_max' of a retry policy is seconds"),
            ({"retry_policy": {"retry_errors": "x"}}, "'retry_errors' of a retry policy are classes"),
        ],
    )
    def test_a_value_that_cannot_be(self, task: Task[..., Any], options: dict[str, Any], complaint: str) -> None:
        with pytest.raises(TypeError, match=complaint):
            task.apply_async((1,), **options)

    @pytest.mark.parametrize(
        "options", [{"countdown": -(2**40)}, {"eta": "soon"}, {"expires": "soon"}, {"priority": 300}]
    )
    def test_a_time_or_priority_that_is_none(self, task: Task[..., Any], options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"range|date|priority"):
            task.apply_async((1,), **options)

    @pytest.mark.parametrize("options", [{"serializer": "jsno"}, {"compression": "zlibb"}])
    def test_a_serializer_or_compression_that_is_not_there(self, task: Task[..., Any], options: Any) -> None:
        with pytest.raises(ImproperlyConfigured):
            task.apply_async((1,), **options)

    @pytest.mark.parametrize("option", IN_THE_BODY)
    def test_a_continuation_that_nothing_can_continue(self, app: Kern, option: str) -> None:
        with pytest.raises(CapabilityMissing, match=r"install kern-canvas"):
            app.task(add).apply_async((1,), **{option: CALLBACK})

    def test_an_argument_that_cannot_be_serialised_is_named(self, task: Task[..., Any]) -> None:
        with pytest.raises(EncodeError, match=r"task 'add': argument 'y' at \['deep'\]"):
            task.apply_async((1,), {"y": {"deep": object()}})

    def test_a_message_that_is_too_large(self, make_bench: Callable[..., Bench]) -> None:
        task = make_bench(message_size_limit=200).app.task(name="add")(add)
        task.delay("x" * 50)
        with pytest.raises(MessageTooLarge, match=r"for task 'add' is \d+ bytes, the limit is 200 "):
            task.delay("x" * 200)

    def test_a_call_that_has_expired_is_published_with_a_warning(
        self, bench: Bench, task: Task[..., Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        task.apply_async((1,), expires=datetime(2020, 1, 1))
        assert "expiry that has passed" in caplog.text


class TestRetryPolicy:
    def test_pauses_grow_to_the_longest(self) -> None:
        policy = RetryPolicy.of({"max_retries": 4, "interval_start": 0.1}, {"interval_step": 0.5, "interval_max": 1})
        assert list(policy.pauses()) == [0.1, 0.6, 1, 1]

    def test_without_end(self) -> None:
        pauses = RetryPolicy.of({"max_retries": None}).pauses()
        assert [next(pauses) for _ in range(1000)][-1] == 1.0
