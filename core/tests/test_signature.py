"""Calls as data: completing, copying, linking, stamping, making them."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from kern import states
from kern.app import Kern
from kern.errors import CapabilityMissing, ImproperlyConfigured, NotRegistered
from kern.hookspecs import hookimpl
from kern.signature import Signature, maybe_signature, signature, subtask
from kern_testing.make import unique
from kern_testing.memory import forget


@pytest.fixture
def app() -> Iterator[Kern]:
    name = unique("signature")
    made = Kern("tests", broker=f"memory://{name}", backend=f"memory://{name}", plugins="testing")

    @made.task
    def add(x: int, y: int, z: int = 0) -> int:
        return x + y + z

    @made.task(sensitive=("password",))
    def login(user: str, password: str, *, again: int = 0) -> str:
        return user

    yield made
    made.close()
    forget(name)


@pytest.fixture
def add(app: Kern) -> Any:
    return app.tasks["tests.add"] if "tests.add" in app.tasks else app.tasks[f"{__name__}.add"]


@pytest.fixture
def published(app: Kern) -> list[tuple[str, Any, Any, dict[str, Any]]]:
    """What is published, as ``(name, args, kwargs, headers)``."""
    from kern import protocol

    seen: list[tuple[str, Any, Any, dict[str, Any]]] = []

    class Listener:
        @hookimpl
        def kern_before_publish(self, batch: Any) -> None:
            for publication in batch:
                message = publication.message
                body = protocol.read(message, frozenset({message.content_type}))
                seen.append((message.task, list(body.args), body.kwargs, dict(message.headers)))

    app.register(Listener())
    return seen


# -- the dict ----------------------------------------------------------------------------------------------------------


def test_it_is_a_dict_of_celerys_six_keys() -> None:
    made = Signature("tests.add", (1,), {"y": 2}, {"queue": "q"}, countdown=3)
    assert list(made) == ["task", "args", "kwargs", "options", "subtask_type", "immutable"]
    assert made == {
        "task": "tests.add",
        "args": (1,),
        "kwargs": {"y": 2},
        "options": {"queue": "q", "countdown": 3},
        "subtask_type": None,
        "immutable": False,
    }


def test_as_json_it_is_what_celery_writes() -> None:
    assert json.dumps(Signature("satasks.add", (1,))) == (
        '{"task": "satasks.add", "args": [1], "kwargs": {}, "options": {}, "subtask_type": null, "immutable": false}'
    )


def test_kerns_own_serializer_writes_the_same(add: Any) -> None:
    from kern.serialization import encode_json

    made = add.s(1)
    made.link(add.s(2))
    assert encode_json(made) == json.dumps(made).encode()


def test_its_keys_and_ids_are_attributes(app: Kern) -> None:
    made = app.signature("tests.other", (1,), {"y": 2}, {"task_id": "t", "parent_id": "p", "root_id": "r"})
    assert (made.task, made.name, made.args, made.kwargs) == ("tests.other", "tests.other", (1,), {"y": 2})
    assert (made.subtask_type, made.immutable) == (None, False)
    assert (made.id, made.parent_id, made.root_id) == ("t", "p", "r")
    fresh = app.signature("tests.other")
    assert (fresh.id, fresh.parent_id, fresh.root_id) == (None, None, None)
    fresh.id, fresh.parent_id, fresh.root_id = "t", "p", "r"
    assert fresh.options == {"task_id": "t", "parent_id": "p", "root_id": "r"}
    fresh.task, fresh.args, fresh.kwargs, fresh.options, fresh.immutable = "n", (9,), {"k": 1}, {}, True
    assert fresh == {
        "task": "n",
        "args": (9,),
        "kwargs": {"k": 1},
        "options": {},
        "subtask_type": None,
        "immutable": True,
    }


def test_arguments_given_as_text_are_refused() -> None:
    with pytest.raises(TypeError, match="list or tuple of arguments, not str"):
        Signature("tests.add", "ab")


# -- making ------------------------------------------------------------------------------------------------------------


def test_tasks_make_signatures_of_themselves(app: Kern, add: Any) -> None:
    assert add.s(1, y=2) == Signature(add.name, (1,), {"y": 2})
    assert add.si(1) == Signature(add.name, (1,), immutable=True)
    assert add.signature((1,), {"y": 2}, {"queue": "q"}, countdown=3).options == {"queue": "q", "countdown": 3}
    assert add.subtask((1,)) == add.s(1)
    assert add.s(1).app is app
    assert add.s(1).type is add


def test_a_signature_is_made_from_a_task_or_its_name(app: Kern, add: Any) -> None:
    assert signature(add, args=(1,)) == add.s(1)
    assert signature(add, args=(1,)).app is app
    assert signature(add.name, (1,), {"y": 2}, {"queue": "q"}, immutable=True, countdown=3) == {
        "task": add.name,
        "args": (1,),
        "kwargs": {"y": 2},
        "options": {"queue": "q", "countdown": 3},
        "subtask_type": None,
        "immutable": True,
    }
    assert subtask is signature
    assert app.signature(add.name).app is app


def test_a_signature_of_a_signature_is_a_copy(add: Any) -> None:
    made = add.s(1)
    copied = signature(made)
    assert copied == made
    assert copied is not made
    copied.options["queue"] = "q"
    assert made.options == {}


def test_a_signature_is_rebuilt_from_data(app: Kern) -> None:
    rebuilt = signature(json.loads(json.dumps(Signature("tests.add", (1,), {"y": 2}))), app=app)
    assert type(rebuilt) is Signature
    assert rebuilt == {**Signature("tests.add", (1,), {"y": 2}), "args": [1]}
    assert rebuilt.app is app


def test_what_data_leaves_out_has_its_default(app: Kern) -> None:
    assert signature({"task": "tests.add"}) == Signature("tests.add")
    assert signature({"task": "tests.add", "kwargs": None}).kwargs == {}


def test_data_without_a_task_is_no_signature() -> None:
    with pytest.raises(TypeError, match=r"not a signature, it has no 'task': \{'args': \[1\]\}"):
        signature({"args": [1]})


def test_maybe_a_signature(app: Kern, add: Any) -> None:
    made = add.s(1)
    assert maybe_signature(None) is None
    assert maybe_signature(made) is made
    cloned = maybe_signature(made, clone=True)
    assert cloned == made
    assert cloned is not made
    assert maybe_signature(dict(made), app=app).app is app
    assert type(maybe_signature(dict(made))) is Signature


@pytest.mark.parametrize("kind", ["chain", "group", "chord"])
def test_workflows_need_the_plugin_that_knows_them(app: Kern, kind: str) -> None:
    data = {"task": f"celery.{kind}", "args": [], "kwargs": {"tasks": []}, "options": {}, "subtask_type": kind}
    with pytest.raises(CapabilityMissing, match=f"'{kind}'.*install kern-canvas"):
        signature(data, app=app)
    with pytest.raises(CapabilityMissing, match="install kern-canvas"):
        signature(data)


def test_a_kind_nobody_knows_is_the_call_of_a_task() -> None:
    assert type(signature({"task": "tests.add", "subtask_type": "chunky"})) is Signature


@pytest.fixture
def registered() -> Iterator[type[Signature[Any]]]:
    @Signature.register_type("pair")
    class Pair(Signature[Any]):
        @classmethod
        def from_dict(cls, d: Any, app: Kern | None = None) -> Pair:
            return cls(d, app=app)

    yield Pair
    del Signature.TYPES["pair"]


def test_signatures_of_a_registered_kind_are_of_its_class(app: Kern, registered: type[Signature[Any]]) -> None:
    rebuilt = signature({"task": "tests.pair", "subtask_type": "pair"}, app=app)
    assert type(rebuilt) is registered
    assert type(rebuilt.clone()) is registered
    assert type(copy.deepcopy(rebuilt)) is registered
    assert type(pickle.loads(pickle.dumps(rebuilt))) is registered


def test_a_kind_is_registered_under_the_name_of_its_class() -> None:
    @Signature.register_type()
    class Trio(Signature[Any]):
        pass

    try:
        assert Signature.TYPES["Trio"] is Trio
    finally:
        del Signature.TYPES["Trio"]


# -- completing --------------------------------------------------------------------------------------------------------


def test_arguments_are_put_in_front_and_keywords_win(add: Any) -> None:
    made = add.s(3, y=1).clone((1, 2), {"y": 5, "z": 6}, queue="q")
    assert made.args == (1, 2, 3)
    assert made.kwargs == {"y": 5, "z": 6}
    assert made.options == {"queue": "q"}


def test_an_immutable_signature_takes_options_alone(add: Any) -> None:
    made = add.si(3, y=1).clone((1,), {"y": 5}, queue="q")
    assert (made.args, made.kwargs, made.options) == ((3,), {"y": 1}, {"queue": "q"})
    assert made.immutable


def test_the_group_and_stamps_of_a_signature_are_not_overridden(add: Any) -> None:
    made = add.s().set(group_id="g", stamped_headers=["customer"], customer="7", queue="a")
    merged = made.clone(group_id="other", stamped_headers=["else"], customer="8", queue="b", priority=3)
    assert merged.options == {
        "group_id": "g",
        "stamped_headers": ["customer"],
        "customer": "7",
        "queue": "b",
        "priority": 3,
    }
    assert add.s().clone(group_id="g", stamped_headers=["x"]).options == {"group_id": "g", "stamped_headers": ["x"]}


def test_a_clone_shares_nothing_that_is_changed(add: Any) -> None:
    made = add.s(1, y=[2])
    made.link(add.s(9))
    cloned = made.clone()
    cloned.options["link"].append("more")
    cloned.kwargs["z"] = 1
    cloned.args += (5,)
    assert made == {**add.s(1, y=[2]), "options": {"link": [add.s(9)]}}
    assert cloned.type is made.type
    assert add.s(1).partial((2,)) == add.s(2, 1)


def test_replacing_overwrites_sections(add: Any) -> None:
    made = add.s(1, y=2).set(queue="q")
    assert made.replace(args=(7,)) == {**made, "args": (7,)}
    assert made.replace(kwargs={}, options={"priority": 1}) == {**made, "kwargs": {}, "options": {"priority": 1}}
    assert made.options == {"queue": "q"}


def test_options_are_set_in_place(add: Any) -> None:
    made = add.s(1)
    assert made.set(queue="q", countdown=3) is made
    assert made.options == {"queue": "q", "countdown": 3}
    assert made.set(immutable=True).immutable
    made.set_immutable(False)
    assert not made.immutable


# -- freezing ----------------------------------------------------------------------------------------------------------


def test_freezing_fixes_the_id_and_names_the_result(app: Kern, add: Any) -> None:
    made = add.s(1)
    result = made.freeze()
    assert result.app is app
    assert made.id == result.id
    assert made.options == {"task_id": result.id, "reply_to": app.thread_oid}
    again = made.freeze("other")
    assert again == result
    assert again is not result


def test_freezing_notes_where_the_call_belongs(add: Any) -> None:
    made = add.s(1)
    made.freeze("t", group_id="g", chord={"task": "body"}, root_id="r", parent_id="p", group_index=0)
    assert {name: value for name, value in made.options.items() if name != "reply_to"} == {
        "task_id": "t",
        "group_id": "g",
        "chord": {"task": "body"},
        "root_id": "r",
        "parent_id": "p",
        "group_index": 0,
    }
    made._freeze(group_id="other", root_id="other")
    assert (made.options["group_id"], made.options["root_id"]) == ("g", "other")


def test_freezing_keeps_where_replies_go(add: Any) -> None:
    made = add.s(1).set(reply_to="there")
    made.freeze()
    assert made.options["reply_to"] == "there"


# -- making the call ---------------------------------------------------------------------------------------------------


def test_it_runs_like_a_function(add: Any) -> None:
    assert add.s(2)(1) == 3
    assert add.s(2)(1, z=10) == 13
    assert add.si(2, 3)(1) == 5


def test_it_is_published_completed(add: Any, published: list[Any]) -> None:
    result = add.s(2).set(task_id="t").apply_async((1,), {"z": 3}, shadow="plus", priority=None)
    name, args, kwargs, headers = published[0]
    assert (name, args, kwargs) == (add.name, [1, 2], {"z": 3})
    assert (result.id, headers["id"], headers["shadow"]) == ("t", "t", "plus")
    add.s(2).delay(1)
    assert published[1][1:3] == ([1, 2], {})


def test_asyncio_callers_publish_without_blocking(add: Any, app: Kern, published: list[Any]) -> None:
    async def main() -> None:
        await add.s(2).adelay(1)
        await add.s(2).aapply_async((1,), task_id="t")
        await app.signature("elsewhere.task", (1,)).adelay(0)

    asyncio.run(main())
    assert [call[:2] for call in published] == [
        (add.name, [1, 2]),
        (add.name, [1, 2]),
        ("elsewhere.task", [0, 1]),
    ]


def test_a_task_of_another_program_is_called_by_its_name(app: Kern, published: list[Any]) -> None:
    app.signature("elsewhere.task", (1,)).apply_async(task_id="t")
    assert published[0][:3] == ("elsewhere.task", [1], {})
    with pytest.raises(NotRegistered):
        _ = app.signature("elsewhere.task").type
    with pytest.raises(NotRegistered):
        app.signature("elsewhere.task").apply()


def test_arguments_that_do_not_fit_are_refused_where_the_call_is_made(add: Any) -> None:
    with pytest.raises(TypeError):
        add.s(1).delay()


def test_it_is_applied_here_and_now(add: Any) -> None:
    result = add.s(2).apply((1,), {"z": 3}, task_id="t")
    assert (result.id, result.get(), result.state) == ("t", 6, states.SUCCESS)


def test_tilde_publishes_and_waits(app: Kern, add: Any) -> None:
    made = add.s(1, 2).set(task_id="t")
    app.backend.mark_as_done("t", 3)
    assert ~made == 3


def test_a_signature_without_an_application_says_how_to_get_one() -> None:
    for ask in (lambda: Signature("tests.add").delay(), lambda: Signature("tests.add").freeze()):
        with pytest.raises(ImproperlyConfigured, match=r"'tests\.add' does not know its application.*app\.signature"):
            ask()


# -- linking -----------------------------------------------------------------------------------------------------------


def test_what_is_linked_is_an_option_once(add: Any) -> None:
    made, callback, errback = add.s(1), add.s(10), add.s(20)
    assert made.link(callback) is callback
    assert made.link(add.s(10)) == callback
    assert made.link_error(errback) is errback
    assert made.on_error(add.s(30)) is made
    assert made.options == {"link": [callback], "link_error": [errback, add.s(30)]}


def test_a_single_link_becomes_a_list(add: Any) -> None:
    made = add.s(1).set(link=add.s(2), link_error=(add.s(3),))
    made.link(add.s(4))
    made.link_error(dict(add.s(5)))
    assert made.options == {"link": [add.s(2), add.s(4)], "link_error": [add.s(3), add.s(5)]}


def test_only_signatures_are_linked(add: Any) -> None:
    with pytest.raises(TypeError, match=r"link\(\) takes a signature, such as task\.s\(\)"):
        add.s(1).link(print)
    with pytest.raises(TypeError, match=r"link_error\(\) takes a signature"):
        add.s(1).link_error("tests.add")


def test_list_options_are_extended(add: Any) -> None:
    made = add.s(1)
    made.extend_list_option("link", [add.s(2), add.s(2)])
    made.extend_list_option("link", add.s(3))
    assert made.append_to_list_option("link", add.s(2)) == add.s(2)
    assert made.options["link"] == [add.s(2), add.s(2), add.s(3)]


def test_links_are_flattened(add: Any) -> None:
    second = add.s(2)
    second.link(add.s(3))
    first = add.s(1)
    first.link(second)
    first.link(dict(add.s(4)))
    assert first.flatten_links() == [first, second, add.s(3), add.s(4)]


def test_a_link_that_nothing_can_continue_is_refused_where_the_call_is_made(add: Any) -> None:
    made = add.s(1, 2)
    made.link(add.s(3))
    with pytest.raises(CapabilityMissing, match="install kern-canvas"):
        made.delay()


# -- composing ---------------------------------------------------------------------------------------------------------


def test_composing_needs_a_plugin(add: Any) -> None:
    with pytest.raises(CapabilityMissing, match="kern-canvas"):
        add.s(1) | add.s(2)
    with pytest.raises(CapabilityMissing, match="kern-canvas"):
        Signature("a") | add.s(2)
    made = add.s(1)
    with pytest.raises(CapabilityMissing, match="kern-canvas"):
        made |= add.s(2)


def test_composing_is_asked_of_the_application(app: Kern, add: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kern, "compose", lambda self, left, right: ("composed", left, right))
    assert add.s(1) | add.s(2) == ("composed", add.s(1), add.s(2))


@pytest.mark.parametrize("other", [{}, {"task": "a"}, 7, "tests.add", None])
def test_a_signature_is_composed_with_signatures_alone(add: Any, other: Any) -> None:
    with pytest.raises(TypeError):
        add.s(1) | other
    with pytest.raises(TypeError):
        other | add.s(1)


# -- stamps ------------------------------------------------------------------------------------------------------------


def stamps(made: Signature[Any]) -> dict[str, Any]:
    return {name: made.options[name] for name in made.options["stamped_headers"]}


def test_stamps_are_options_and_are_listed(add: Any) -> None:
    made = add.s(1).set(queue="q")
    assert made.stamp(customer="7", job=[1, 2]) is made
    assert stamps(made) == {"customer": "7", "job": [1, 2]}
    assert made.options["queue"] == "q"


def test_a_new_stamp_wins_or_is_put_beside_the_old(add: Any) -> None:
    assert stamps(add.s().stamp(x=1).stamp(x=2, y=3)) == {"x": 2, "y": 3}
    assert stamps(add.s().stamp(x=1).stamp(x=2, append_stamps=True)) == {"x": [2, 1]}


def test_stamping_reaches_what_is_linked_but_the_own_stamps_do_not(add: Any) -> None:
    made, callback = add.s(1), add.s(2)
    made.stamp(own=1)
    made.link(callback)
    made.link_error(dict(add.s(3)))
    made.stamp(later=2)
    assert stamps(made) == {"own": 1, "later": 2}
    assert stamps(callback) == {"later": 2}
    assert stamps(made.options["link_error"][0]) == {"later": 2}


class Visitor:
    """Stamps everything with its name."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def on_signature(self, sig: Signature[Any], **headers: Any) -> dict[str, Any]:
        self.seen.append((f"signature {sig.args[0]}", headers))
        return {"number": sig.args[0]}

    def on_callback(self, sig: Signature[Any], **headers: Any) -> dict[str, Any]:
        self.seen.append((f"callback {sig.args[0]}", headers))
        return {"linked": True, "priority": 9, "stamped_headers": ["linked"]}

    def on_errback(self, sig: Signature[Any], **headers: Any) -> None:
        self.seen.append((f"errback {sig.args[0]}", headers))


def test_a_visitor_says_how_each_is_stamped(add: Any) -> None:
    made, callback, errback = add.s(1), add.s(2), add.s(3)
    made.link(callback)
    made.link_error(errback)
    visitor = Visitor()
    made.stamp(visitor, job="j")
    assert [name for name, _headers in visitor.seen] == [
        "callback 2",
        "signature 2",
        "errback 3",
        "signature 3",
        "signature 1",
    ]
    assert all(headers["job"] == "j" for _name, headers in visitor.seen)
    assert stamps(made) == {"job": "j", "number": 1}
    assert stamps(callback) == {"job": "j", "linked": True, "number": 2}
    assert callback.options["priority"] == 9
    assert stamps(errback) == {"job": "j", "number": 3}


def test_stamps_travel_in_their_header(add: Any, published: list[Any]) -> None:
    add.s(1, 2).stamp(customer="7").delay()
    headers = published[0][3]
    assert headers["stamped_headers"] == ["customer"]
    assert headers["stamps"] == {"customer": "7"}


# -- text, copies ------------------------------------------------------------------------------------------------------


def test_it_shows_the_call(app: Kern, add: Any) -> None:
    assert repr(Signature("satasks.add", (1,))) == "satasks.add(1)"
    assert repr(Signature("satasks.add", (1, "a"), {"z": [2]})) == "satasks.add(1, 'a', z=[2])"
    assert add.s(2).reprcall(1, z=3) == f"{add.name}(1, 2, z=3)"


def test_sensitive_arguments_are_masked(app: Kern) -> None:
    login = next(task for name, task in app.tasks.items() if name.endswith(".login"))
    assert repr(login.si("me", "secret")) == f"{login.name}('me', '***')"
    assert repr(login.s(user="me", password="secret")) == f"{login.name}(user='me', password='***')"
    # Completed with the user in front, the first argument is the password.
    assert "secret" not in repr(login.s("secret"))


def test_a_deep_copy_copies_options_and_no_arguments(add: Any) -> None:
    argument = object()
    made = add.s(argument)
    made.link(add.s(2))
    copied = copy.deepcopy(made)
    assert copied == made
    assert copied.args[0] is argument
    assert copied.options["link"] is not made.options["link"]
    assert copied.options["link"][0] is not made.options["link"][0]
    assert copied.app is made.app


def test_a_copy_has_containers_of_its_own(add: Any) -> None:
    made = add.s(1, y=2)
    copied = copy.copy(made)
    copied.kwargs["y"] = 3
    copied.options["queue"] = "q"
    assert made == add.s(1, y=2)


def test_a_pickled_signature_is_a_signature(app: Kern, add: Any) -> None:
    made = add.s(1)
    made.link(add.s(2))
    restored = pickle.loads(pickle.dumps(made))
    assert type(restored) is Signature
    assert restored == made
    with pytest.raises(ImproperlyConfigured):
        _ = restored.app
    assert maybe_signature(restored, app=app).type is add


@pytest.mark.parametrize("how", ["delay", "apply_async", "apply", "clone"])
def test_calling_changes_nothing_in_the_signature(add: Any, how: str) -> None:
    made = add.s(1).set(queue="q")
    before = json.dumps(made)
    arguments: Any = (2,) if how == "delay" else ((2,), {"z": 3})
    getattr(made, how)(*arguments)
    assert json.dumps(made) == before
