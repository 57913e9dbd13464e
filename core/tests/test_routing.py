"""Queues as configured, routers in all their forms, and the destination of a call."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Exchange, Queue
from kombu.common import Broadcast

from kern.errors import ImproperlyConfigured, InvalidSetting, QueueNotFound
from kern.queues import QueueSpec
from kern.routing import Destination, MapRoute, Queues, Router, RoutingSettings, queue_spec, worker_direct
from kern.settings import Settings


def make_conf(**settings: Any) -> Settings:
    return Settings([RoutingSettings], changes=settings, environ={}, directory=Path("/"))


def route(options: Any = None, name: str = "proj.add", task: Any = None, **settings: Any) -> Destination:
    """Where a call goes with these settings."""
    return Router(make_conf(**settings)).route(options, name, (1,), {"k": 2}, task)


def place(destination: Destination) -> tuple[str, str, str]:
    return destination.exchange, destination.routing_key, destination.queue.name if destination.queue else ""


class TestDefaults:
    def test_a_call_goes_to_the_default_queue(self) -> None:
        """Through the anonymous exchange, declared beforehand, persistent, without a priority."""
        found = route()
        assert place(found) == ("", "celery", "celery")
        assert (found.exchange_type, found.declare, found.delivery_mode) == ("direct", True, 2)
        assert (found.priority, dict(found.options)) == (None, {})
        assert found.queue == QueueSpec("celery", exchange="celery", routing_key="celery")

    def test_another_default_queue(self) -> None:
        """Its exchange and key follow its name."""
        found = route(task_default_queue="tasks")
        assert place(found) == ("", "tasks", "tasks")
        assert found.queue == QueueSpec("tasks", exchange="tasks", routing_key="tasks")

    def test_a_default_exchange_and_key(self) -> None:
        """A direct exchange is not needed to reach the queue; a topic exchange is."""
        settings = {"task_default_exchange": "media", "task_default_routing_key": "media.any"}
        direct = route(**settings)
        assert place(direct) == ("", "celery", "celery")
        assert direct.queue.all_bindings()[0].exchange == "media"
        topic = route(**settings, task_default_exchange_type="topic")
        assert place(topic) == ("media", "media.any", "celery")
        assert topic.exchange_type == "topic"

    def test_a_quorum_queue(self) -> None:
        """The type is an argument of the implicit default queue."""
        assert route(task_default_queue_type="quorum").queue.queue_arguments == {"x-queue-type": "quorum"}
        assert route().queue.queue_arguments is None
        explicit = route(task_default_queue_type="quorum", task_queues=[Queue("celery")])
        assert explicit.queue.queue_arguments is None

    @pytest.mark.parametrize(("setting", "expected"), [(1, 1), ("transient", 1), ("persistent", 2)])
    def test_the_delivery_mode(self, setting: Any, expected: int) -> None:
        """Of the call, else of the queue's exchange, else of the settings."""
        assert route(task_default_delivery_mode=setting).delivery_mode == expected
        queues = [Queue("q", Exchange("q", delivery_mode="transient"))]
        assert route({"queue": "q"}, task_queues=queues).delivery_mode == 1
        assert route({"queue": "q", "delivery_mode": "persistent"}, task_queues=queues).delivery_mode == 2


class TestOptions:
    def test_a_queue_by_name(self) -> None:
        """One that nobody declared is made, bound to an exchange of its name."""
        found = route({"queue": "other"})
        assert place(found) == ("", "other", "other")
        assert found.queue == QueueSpec("other", exchange="other", routing_key="other")

    @pytest.mark.parametrize("queue", [Queue("mine", Exchange("x"), "k"), QueueSpec("mine", "x", "direct", "k")])
    def test_a_queue_itself(self, queue: Any) -> None:
        """kombu's or kern's; it is used as it is."""
        found = route({"queue": queue})
        assert place(found) == ("", "mine", "mine")
        assert (found.queue.exchange, found.queue.routing_key, found.declare) == ("x", "k", True)

    def test_exchange_and_routing_key(self) -> None:
        """Both are given: the message goes there, and no queue is declared."""
        found = route({"exchange": "media", "routing_key": "video.high", "exchange_type": "topic"})
        assert place(found) == ("media", "video.high", "")
        assert (found.exchange_type, found.declare, found.queue) == ("topic", False, None)

    def test_an_exchange_without_key_has_the_default_key(self) -> None:
        """There is no queue whose name it could be."""
        assert place(route({"exchange": "media"})) == ("media", "celery", "")

    def test_an_exchange_of_kombu_brings_its_type(self) -> None:
        """As an object."""
        found = route({"exchange": Exchange("media", "topic"), "routing_key": "a"})
        assert (found.exchange, found.exchange_type) == ("media", "topic")

    def test_the_type_of_a_declared_exchange_is_known(self) -> None:
        """It need not be repeated at each call."""
        queues = [Queue("videos", Exchange("media", "topic"), "video.#")]
        assert route({"exchange": "media", "routing_key": "a"}, task_queues=queues).exchange_type == "topic"
        assert route({"exchange": "other", "routing_key": "a"}, task_queues=queues).exchange_type == "direct"

    def test_exchange_key_and_queue(self) -> None:
        """The queue is declared, the message goes by exchange and key."""
        found = route({"queue": "q", "exchange": "x", "routing_key": "k"})
        assert place(found) == ("x", "k", "q")
        assert found.declare

    def test_a_key_alone_changes_nothing_for_a_direct_queue(self) -> None:
        """It is reached by its name."""
        assert place(route({"queue": "q", "routing_key": "k"})) == ("", "q", "q")
        assert place(route({"routing_key": "k"})) == ("", "celery", "celery")

    def test_a_key_for_a_topic_queue(self) -> None:
        """It goes to the queue's exchange; without one, under the queue's own key."""
        queues = [Queue("videos", Exchange("media", "topic"), "video.any")]
        assert place(route({"queue": "videos", "routing_key": "video.x"}, task_queues=queues)) == (
            "media",
            "video.x",
            "videos",
        )
        assert place(route({"queue": "videos"}, task_queues=queues)) == ("media", "video.any", "videos")

    def test_a_broadcast_is_not_declared_by_who_publishes(self) -> None:
        """Its queues are the consumers'; it is found by its alias."""
        found = route({"queue": "news"}, task_queues=[Queue("celery"), Broadcast("news")])
        assert (found.exchange, found.exchange_type, found.declare) == ("news", "fanout", False)
        assert found.queue.alias == "news"

    def test_none_says_nothing(self) -> None:
        """Options are often passed on without being set."""
        options = dict.fromkeys(("queue", "exchange", "routing_key", "priority", "serializer", "expires"))
        assert route(options, task_routes={"*": {"queue": "q", "priority": 3}}) == route(
            None, task_routes={"*": {"queue": "q", "priority": 3}}
        )

    def test_other_options_come_through(self) -> None:
        """The call's over the route's."""
        routes = {"*": {"queue": "q", "serializer": "yaml", "expires": 5, "time_limit": None}}
        found = route({"serializer": "json", "headers": {"a": 1}, "ignored": None}, task_routes=routes)
        assert dict(found.options) == {"serializer": "json", "expires": 5, "headers": {"a": 1}}
        assert place(found) == ("", "q", "q")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"queue": 5}, r"expected a queue \(kombu.Queue\), not 5"),
            ({"exchange": 5}, "exchange must be text, not 5"),
            ({"routing_key": 5}, "routing_key must be text, not 5"),
            ({"exchange_type": "tropic"}, "'direct', 'topic', 'fanout'"),
            ({"exchange_type": 5}, "exchange_type must be text"),
            ({"priority": "high"}, "a priority is an integer from 0 to 255, not 'high'"),
            ({"priority": True}, "a priority is an integer"),
            ({"priority": 256}, "expected a priority from 0 to 255"),
            ({"delivery_mode": "durable"}, "a delivery mode is 1 or"),
        ],
    )
    def test_an_option_that_cannot_be_one_is_refused_at_the_call(self, options: Any, message: str) -> None:
        """The error says what it may be."""
        with pytest.raises(ValueError, match=message):
            route(options)


class TestMapRoutes:
    def test_a_name_and_a_pattern(self) -> None:
        """An exact name beats a glob before it; patterns are tried in order."""
        routes = {"proj.*": "globbed", "proj.add": {"queue": "exact"}, "*": "all"}
        assert place(route(name="proj.add", task_routes=routes))[2] == "exact"
        assert place(route(name="proj.sub", task_routes=routes))[2] == "globbed"
        assert place(route(name="other", task_routes=routes))[2] == "all"

    def test_a_glob_is_the_whole_name(self) -> None:
        """Not a part of it; without a star it is a name."""
        assert place(route(name="my.proj.add", task_routes={"proj.*": "q"}))[2] == "celery"
        assert place(route(name="proj.a", task_routes={"proj.?": "q"}))[2] == "celery"
        assert place(route(name="proj.add.x", task_routes={"proj.*.x": "q"}))[2] == "q"

    def test_a_compiled_expression_matches_from_the_start(self) -> None:
        """As ``re.match`` does."""
        routes = [[(re.compile(r"(video|image)\."), "media"), ("*", "rest")]]
        assert place(route(name="video.encode", task_routes=routes))[2] == "media"
        assert place(route(name="proj.video.encode", task_routes=routes))[2] == "rest"

    @pytest.mark.parametrize(
        "form", [[("a.*", "q"), ("*", "r")], ([("a.*", "q"), ("*", "r")],), [[("a.*", "q"), ("*", "r")]]]
    )
    def test_pairs_keep_their_order(self, form: Any) -> None:
        """Alone or as one router of a list."""
        assert place(route(name="a.x", task_routes=form))[2] == "q"
        assert place(route(name="b.x", task_routes=form))[2] == "r"

    def test_pairs_from_json(self) -> None:
        """The environment can have routes too."""
        conf = Settings([RoutingSettings], environ={"KERN_TASK_ROUTES": '[["a.*", {"queue": "q"}]]'})
        assert place(Router(conf).route(None, "a.x"))[2] == "q"

    def test_a_route_may_be_a_queue(self) -> None:
        """kombu's, alone or among options."""
        assert place(route(task_routes={"*": Queue("mine")}))[2] == "mine"
        assert place(route(task_routes={"*": {"queue": Queue("mine")}}))[2] == "mine"

    def test_an_empty_route_is_an_answer(self) -> None:
        """Routers after it are not asked; ``None`` is no answer."""
        assert place(route(task_routes=[{"proj.add": {}}, {"*": "q"}]))[2] == "celery"
        assert place(route(task_routes=[{"proj.add": None}, {"*": "q"}]))[2] == "q"

    def test_a_route_without_a_queue_goes_to_the_default(self) -> None:
        """With the rest of what it says."""
        found = route(task_routes={"*": {"priority": 5}})
        assert (place(found)[2], found.priority) == ("celery", 5)

    @pytest.mark.parametrize(
        ("routes", "message"),
        [
            (5, "a router is a mapping"),
            ({"a": 5}, "the route of 'a' must be the name of a queue, a queue, or a mapping of options, not 5"),
            ({5: "q"}, "a pattern is a task's name, a glob or a compiled regular expression, not 5"),
            ({"a": {"quue": "q"}}, "the route of 'a' has an option 'quue'; did you mean 'queue'"),
            ({"a": {5: "q"}}, "has an option 5 that is no text"),
            ({"a": {"priority": "high"}}, "a priority is an integer"),
            ({"a": {"delivery_mode": 3}}, "a delivery mode is"),
            ({"a": {"queue": 5}}, "expected a queue"),
            ([("a.*", "q", "x")], "expected pairs of pattern and route"),
            ([["abc"]], "expected pairs of pattern and route"),
            ([5], "a router is a mapping"),
            ("", "a router's name is 'module:object'"),
        ],
    )
    def test_mistakes_are_found_when_assigned(self, routes: Any, message: str) -> None:
        """And not at the first call."""
        conf = make_conf()
        with pytest.raises(InvalidSetting, match=message) as caught:
            conf.task_routes = routes
        assert caught.value.key == "task_routes"

    @given(
        st.dictionaries(st.text("ab.*", min_size=1, max_size=5), st.sampled_from(["q1", "q2", "q3"]), max_size=5),
        st.text("ab.", min_size=1, max_size=5),
    )
    def test_every_map_answers_by_its_rule(self, routes: dict[str, str], name: str) -> None:
        """Exact first, then the first glob whose stars can stand for what is between its other characters."""

        def fits(pattern: str, text: str) -> bool:
            if not pattern:
                return not text
            if pattern[0] == "*":
                return any(fits(pattern[1:], text[cut:]) for cut in range(len(text) + 1))
            return bool(text) and pattern[0] == text[0] and fits(pattern[1:], text[1:])

        globs = [queue for pattern, queue in routes.items() if "*" in pattern and fits(pattern, name)]
        expected = routes.get(name) or (globs[0] if globs else None)
        assert MapRoute(routes)(name) == expected


def send_to_functions(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
    return {"queue": f"{name}-{args[0]}-{kwargs['k']}", "priority": options.get("priority")}


class ByTask:
    made = 0

    def __init__(self) -> None:
        type(self).made += 1

    def route_for_task(self, task: str, args: Any, kwargs: Any) -> Any:
        return f"class-{task}-{args[0]}"


ROUTERS = """
a_map = {"proj.*": "imported"}

def a_function(name, args, kwargs, options, task=None, **kw):
    return f"function-{name}-{args[0]}"

class AClass:
    def route_for_task(self, task, args, kwargs):
        return f"class-{task}-{args[0]}"
"""


class TestRouters:
    def test_a_callable(self) -> None:
        """It gets everything, and may read the arguments."""
        seen: list[Any] = []

        def router(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
            seen.append((name, args, kwargs, dict(options), task))

        task = SimpleNamespace(priority=None)
        found = route({"expires": 5, "queue": None}, task=task, task_routes=router)
        assert seen == [("proj.add", (1,), {"k": 2}, {"expires": 5}, task)]
        assert place(found)[2] == "celery"
        assert place(route(task_routes=[send_to_functions]))[2] == "proj.add-1-2"

    @pytest.mark.parametrize("form", [ByTask, ByTask()])
    def test_an_object_or_class_with_route_for_task(self, form: Any) -> None:
        """A class is instantiated."""
        assert place(route(task_routes=form))[2] == "class-proj.add-1"

    def test_a_class_is_instantiated_once(self) -> None:
        """Also when another setting changes: a router may remember things."""
        conf = make_conf(task_routes=ByTask)
        router = Router(conf)
        ByTask.made = 0
        router.route(None, "a", (1,))
        conf.task_default_priority = 3
        assert router.route(None, "b", (1,)).priority == 3
        assert ByTask.made == 1

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("a_function", "function-proj.add-1"),
            ("AClass", "class-proj.add-1"),
            ("a_map", "imported"),
        ],
    )
    @pytest.mark.parametrize("separator", [":", "."])
    def test_a_dotted_name(
        self, name: str, separator: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Imported when the first call is routed, and whatever a router can be."""
        module = f"demo_routers_{name.lower()}_{'dot' if separator == '.' else 'colon'}"
        monkeypatch.syspath_prepend(tmp_path)
        conf = make_conf(task_routes=f"{module}{separator}{name}")
        router = Router(conf)
        (tmp_path / f"{module}.py").write_text(ROUTERS)
        assert place(router.route(None, "proj.add", (1,), {"k": 2}))[2] == expected

    def test_a_name_that_cannot_be_imported_is_named(self) -> None:
        """With the setting it is from."""
        with pytest.raises(
            ImproperlyConfigured, match=r"setting 'task_routes', router 'no_such:router': there is no module"
        ):
            route(task_routes="no_such:router")
        for name, found in (
            ("json:__version__", r"'\d.*' is no router"),
            ("math:pi", r"a router is a mapping.* not 3\.14"),
        ):
            with pytest.raises(ImproperlyConfigured, match=f"setting 'task_routes', router '{name}': {found}"):
                route(task_routes=name)

    def test_the_first_answer_counts(self) -> None:
        """Routers of every form in one list."""
        routes = ({"proj.mul": "m"}, lambda *args, **kw: None, send_to_functions, {"*": "never"})
        assert place(route(name="proj.mul", task_routes=routes))[2] == "m"
        assert place(route(name="proj.add", task_routes=routes))[2] == "proj.add-1-2"

    def test_a_wrong_answer_is_refused(self) -> None:
        """The error names the task."""
        with pytest.raises(ValueError, match=r"the route of 'proj.add' must be the name of a queue"):
            route(task_routes=lambda *args, **kw: 5)

    def test_an_error_in_a_router_comes_through(self) -> None:
        """It is the user's code."""
        with pytest.raises(ZeroDivisionError):
            route(task_routes=lambda *args, **kw: 1 / 0)


class TestCallAndRoute:
    def test_the_calls_queue_beats_the_routes(self) -> None:
        """What else the route says still holds."""
        found = route({"queue": "explicit"}, task_routes={"*": {"queue": "routed", "priority": 4, "expires": 9}})
        assert (place(found)[2], found.priority, found.options["expires"]) == ("explicit", 4, 9)

    def test_a_named_queue_is_where_it_goes(self) -> None:
        """Even if the route names an exchange."""
        routes = {"*": {"exchange": "media", "exchange_type": "topic", "routing_key": "video"}}
        assert place(route({"queue": "explicit"}, task_routes=routes)) == ("", "explicit", "explicit")
        assert place(route(task_routes=routes)) == ("media", "video", "")

    def test_a_key_of_the_call_goes_with_the_routes_exchange(self) -> None:
        """Options are merged one by one."""
        routes = {"*": {"exchange": "media", "exchange_type": "topic", "routing_key": "video"}}
        assert place(route({"routing_key": "audio"}, task_routes=routes)) == ("media", "audio", "")


class TestPriority:
    @pytest.mark.parametrize(
        ("call", "parent", "routed", "own", "default", "expected"),
        [
            (1, 2, 3, 4, 5, 1),
            (None, 2, 3, 4, 5, 2),
            (None, None, 3, 4, 5, 3),
            (None, None, None, 4, 5, 4),
            (None, None, None, None, 5, 5),
            (None, None, None, None, None, None),
            (0, 2, 3, 4, 5, 0),
            (None, 0, 3, 4, 5, 0),
            (None, None, 0, 4, 5, 0),
            (None, None, None, 0, 5, 0),
        ],
    )
    def test_call_parent_route_task_default(
        self, call: Any, parent: Any, routed: Any, own: Any, default: Any, expected: Any
    ) -> None:
        """In this order; zero is a priority."""
        conf = make_conf(
            task_inherit_parent_priority=True, task_default_priority=default, task_routes={"*": {"priority": routed}}
        )
        task = SimpleNamespace(priority=own)
        found = Router(conf).route({"priority": call}, "a", task=task, parent_priority=parent)
        assert found.priority == expected

    def test_the_parents_counts_only_when_asked_for(self) -> None:
        """``task_inherit_parent_priority`` is off by default."""
        router = Router(make_conf())
        assert router.route(None, "a", parent_priority=7).priority is None
        router = Router(make_conf(task_inherit_parent_priority=True))
        assert router.route(None, "a", parent_priority=7).priority == 7
        assert router.route(None, "a").priority is None

    def test_two_tasks_of_one_name_have_their_own(self) -> None:
        """What is remembered of a name does not mix them up."""
        router = Router(make_conf())
        assert router.route(None, "a", task=SimpleNamespace(priority=1)).priority == 1
        assert router.route(None, "a", task=SimpleNamespace(priority=2)).priority == 2
        assert router.route(None, "a").priority is None


class TestRemembering:
    def test_a_name_is_routed_once(self) -> None:
        """The hot path is a look-up: the very same destination comes back."""
        router = Router(make_conf(task_routes={"a.*": "q"}))
        assert router.route(None, "a.b") is router.route({}, "a.b")
        assert router.route({"queue": None}, "a.b") is router.route(None, "a.b")
        assert not router.asks_arguments

    def test_a_router_that_reads_arguments_is_always_asked(self) -> None:
        """Nothing of it is remembered."""
        router = Router(make_conf(task_routes=lambda name, args, *rest, **kw: f"q{args[0]}"))
        assert [place(router.route(None, "a", (number,)))[2] for number in (1, 2)] == ["q1", "q2"]
        assert router.asks_arguments

    def test_a_changed_setting_is_seen_at_the_next_call(self) -> None:
        """Whatever was remembered."""
        conf = make_conf()
        router = Router(conf)
        assert place(router.route(None, "a"))[2] == "celery"
        conf.task_routes = {"a": "q"}
        assert place(router.route(None, "a"))[2] == "q"
        conf.task_routes = None
        conf.task_default_queue = "other"
        assert place(router.route(None, "a"))[2] == "other"
        assert not router.asks_arguments
        conf.task_routes = send_to_functions
        assert router.asks_arguments

    def test_a_queue_added_later_is_seen_at_the_next_call(self) -> None:
        """Also if one of its name was made before."""
        router = Router(make_conf(task_routes={"a": "q"}))
        assert router.route(None, "a").exchange == ""
        router.queues.add(Queue("q", Exchange("media", "topic"), "k"))
        assert place(router.route(None, "a")) == ("media", "k", "q")

    def test_made_up_names_do_not_fill_the_memory(self) -> None:
        """Neither names of tasks nor of queues."""
        router = Router(make_conf())
        for number in range(5000):
            router.route(None, f"task{number}")
            router.route({"queue": f"queue{number}"}, "a")
        assert len(router._current().cache) <= 4096
        assert len(router.queues._created) <= 4096
        assert list(router.queues) == ["celery"]

    def test_routes_in_place_of_the_settings(self) -> None:
        """A call may bring its own router; the queues are the same."""
        conf = make_conf(task_routes={"*": "routed"})
        router = Router(conf)
        before = router.route(None, "a")
        other = Router(conf, router.queues, {"*": "other"})
        assert place(other.route(None, "a"))[2] == "other"
        assert router.route(None, "a") is before

    def test_many_threads_while_settings_change(self) -> None:
        """Each answer is that of the old settings or of the new ones."""
        conf = make_conf(task_queues={"q0": {}, "q1": {}}, task_create_missing_queues=False, task_default_queue="q0")
        router, stop, wrong = Router(conf), threading.Event(), []

        def publish() -> None:
            while not stop.is_set():
                try:
                    name = place(router.route(None, "a"))[2]
                except Exception as error:
                    name = repr(error)
                if name not in ("q0", "q1"):
                    wrong.append(name)
                    return

        threads = [threading.Thread(target=publish) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(200):
            conf.task_default_queue = f"q{number % 2}"
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []


class TestQueues:
    def test_forms_of_task_queues(self) -> None:
        """kombu's, kern's, mappings, plain names."""
        forms: list[Any] = [
            [Queue("a", Exchange("x"), "k"), QueueSpec("b", "y", "topic", "m.#"), "c"],
            (Queue("a", Exchange("x"), "k"), QueueSpec("b", "y", "topic", "m.#"), "c"),
            {
                "a": {"exchange": "x", "routing_key": "k"},
                "b": QueueSpec("b", "y", "topic", "m.#"),
                "c": {"exchange": "c", "binding_key": "c"},
            },
        ]
        for form in forms:
            queues = Queues(RoutingSettings(task_queues=form))
            assert list(queues) == ["a", "b", "c"]
            assert (queues["a"].exchange, queues["a"].routing_key) == ("x", "k")
            assert (queues["b"].exchange_type, queues["b"].routing_key) == ("topic", "m.#")
            assert (queues["c"].exchange, queues["c"].routing_key) == ("c", "c")

    def test_an_entry_without_exchange_or_key_has_the_defaults(self) -> None:
        """So ``Queue("q1")`` is bound under the default key, and still reached by its name."""
        queues = Queues(RoutingSettings(task_queues=[Queue("q1")]))
        assert (queues["q1"].exchange, queues["q1"].routing_key) == ("celery", "celery")
        queues = Queues(RoutingSettings(task_queues={"q2": {}, "q3": None}))
        assert (queues["q2"].exchange, queues["q2"].routing_key) == ("celery", "q2")
        assert queues["q3"].routing_key == "q3"

    def test_a_mappings_key_finds_the_queue(self) -> None:
        """Even if the queue has another name."""
        queues = Queues(RoutingSettings(task_queues={"short": Queue("a.long.name", Exchange("x"), "k")}))
        assert queues["short"] is queues["a.long.name"]
        assert "short" in queues
        assert queues["short"].alias is None

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("celery", "expected a list of queues, or {name: options}"),
            (5, "expected a list of queues"),
            ([5], r"expected a queue \(kombu.Queue\), not 5"),
            ({5: {}}, "with text for a name, not 5"),
            ({"q": 5}, "expected a queue"),
            ({"q": {"exchnge": "x"}}, "queue 'q' has no option 'exchnge'; did you mean 'exchange'"),
            ([Queue(None)], "a queue needs a name"),
        ],
    )
    def test_mistakes_are_found_when_assigned(self, value: Any, message: str) -> None:
        """And not when the first worker starts."""
        with pytest.raises(InvalidSetting, match=message):
            make_conf().task_queues = value

    def test_a_name_nobody_declared(self) -> None:
        """It is made as the settings say, and not counted among the declared: who publishes does not consume."""
        queues = Queues(RoutingSettings(task_create_missing_queue_type="quorum"))
        made = queues["new"]
        assert made.queue_arguments == {"x-queue-type": "quorum"}
        assert queues["new"] is made
        assert "new" not in queues
        assert list(queues) == list(queues.consume_from) == ["celery"]
        topic = Queues(RoutingSettings(task_create_missing_queue_exchange_type="topic"))["new"]
        assert (topic.exchange, topic.exchange_type, topic.routing_key) == ("new", "topic", "new")

    def test_a_name_that_may_not_be_made(self) -> None:
        """The error is Celery's, a KeyError, and says the nearest."""
        queues = Queues(RoutingSettings(task_queues=[Queue("media")], task_create_missing_queues=False))
        with pytest.raises(QueueNotFound, match=r"\AQueue 'nope' missing from task_queues\Z"):
            queues["nope"]
        with pytest.raises(KeyError, match=r"Queue 'meda' missing from task_queues; did you mean 'media'"):
            queues["meda"]
        assert queues.get("nope") is None
        with pytest.raises(QueueNotFound, match="Queue 'celery' missing from task_queues"):
            route(task_queues=[Queue("media")], task_create_missing_queues=False)
        for name in ("", 5):
            with pytest.raises(QueueNotFound, match="a queue has a name"):
                Queues()[name]

    def test_the_largest_priority_is_put_where_it_is_missing(self) -> None:
        """On declared and made queues."""
        settings = RoutingSettings(
            task_queue_max_priority=10,
            task_queues=[
                Queue("a"),
                Queue("b", max_priority=3),
                Queue("c", queue_arguments={"x-max-priority": 4, "x": 1}),
            ],
        )
        queues = Queues(settings)
        assert [queues[name].max_priority for name in "abcd"] == [10, 3, 4, 10]
        assert queues["a"].queue_arguments == {"x-max-priority": 10}
        assert queues["c"].queue_arguments == {"x-max-priority": 4, "x": 1}

    def test_adding(self) -> None:
        """A name with options, kombu's, kern's; the last of a name counts, and settings do not take it away."""
        conf = make_conf()
        queues = Router(conf).queues
        queues.add("a", exchange="x", binding_key="k")
        queues.add(Queue("b", Exchange("y"), "l"))
        queues.add(QueueSpec("b"))
        assert list(queues) == ["celery", "a", "b"]
        assert (queues["a"].exchange, queues["a"].routing_key) == ("x", "k")
        assert (queues["b"].exchange, queues["b"].routing_key) == ("celery", "celery")
        queues.use(RoutingSettings(task_default_queue="other"))
        assert list(queues) == ["other", "a", "b"]
        with pytest.raises(ValueError, match="options go with a queue's name"):
            queues.add(Queue("c"), exchange="x")

    def test_selecting(self) -> None:
        """What a worker consumes: all that are declared, those selected, those not deselected, and added ones."""
        queues = Queues(RoutingSettings(task_queues=["a", "b", "c"]))
        assert list(queues.consume_from) == ["a", "b", "c"]
        queues.select(None)
        queues.select([])
        queues.deselect(())
        assert list(queues.consume_from) == ["a", "b", "c"]
        queues.select(["a", "new"])
        assert list(queues.consume_from) == ["a", "new"]
        queues.select("b, c")
        assert list(queues.consume_from) == ["b", "c"]
        queues.deselect("c")
        assert list(queues.consume_from) == ["b"]
        queues.select_add("d")
        assert list(queues.consume_from) == ["b", "d"]
        queues.add("e")
        assert list(queues.consume_from) == ["b", "d"]
        assert list(queues) == ["a", "b", "c", "d", "e"]

    def test_deselecting_from_all(self) -> None:
        """Also by the alias of a broadcast."""
        queues = Queues(RoutingSettings(task_queues=["a", "b", Broadcast("news")]))
        queues.deselect(["a", "news"])
        assert list(queues.consume_from) == ["b"]

    def test_selecting_what_may_not_be_made(self) -> None:
        """Is an error, and nothing is selected."""
        queues = Queues(RoutingSettings(task_queues=["a"], task_create_missing_queues=False))
        with pytest.raises(QueueNotFound, match="'nope'"):
            queues.select(["a", "nope"])
        assert list(queues.consume_from) == ["a"]

    def test_as_lines(self) -> None:
        """Celery's, sorted by name."""
        queues = Queues(
            RoutingSettings(task_queues=[Queue("video", Exchange("media", "topic"), "video.#"), Queue("celery")])
        )
        assert queues.format() == (
            ".> celery           exchange=celery(direct) key=celery\n"
            ".> video            exchange=media(topic) key=video.#"
        )
        assert queues.format(indent=2).splitlines()[1].startswith("  .> video")
        assert queues.format(indent=2, indent_first=False).startswith(".> celery")

    def test_the_queue_of_one_worker(self) -> None:
        """``worker_direct``: name, exchange and key of Celery."""
        queue = worker_direct("w1@host")
        assert (queue.name, queue.exchange, queue.exchange_type) == ("w1@host.dq2", "C.dq2", "direct")
        assert (queue.routing_key, queue.durable, worker_direct(queue)) == ("w1@host", True, queue)
        assert place(route({"queue": queue})) == ("", "w1@host.dq2", "w1@host.dq2")

    def test_a_queue_spec_of_anything_else_is_refused(self) -> None:
        """With what is expected."""
        with pytest.raises(ValueError, match=r"expected a queue \(kombu.Queue\), not 'q'"):
            queue_spec("q")


def test_routing_does_not_import_kombu() -> None:
    """It costs a tenth of a second, and only those who write its queues need it."""
    code = (
        "import sys\n"
        "from kern.routing import Router, RoutingSettings\n"
        "from kern.settings import Settings\n"
        "changes = {'task_routes': {'a': 'b'}, 'task_queues': {'b': {}}}\n"
        "conf = Settings([RoutingSettings], changes=changes, environ={})\n"
        "assert Router(conf).route(None, 'a').routing_key == 'b'\n"
        "assert 'kombu' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
