"""What one result says, is and does."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from kern import states
from kern.app import Kern
from kern.errors import CapabilityMissing, ImproperlyConfigured, TaskRevokedError
from kern.request import Request
from kern.result import AsyncResult
from kern.task import entered

#: Found by import, as pickled results find their application.
importable = Kern("importable", broker="memory://results-importable", backend="memory://results-importable")


class Odd(Exception):
    """An error of a user's."""


# -- reading -----------------------------------------------------------------------------------------------------------


def test_nothing_is_known_of_an_id_nobody_has_heard_of(app: Kern) -> None:
    result = app.AsyncResult("abc")
    assert result.result is None
    assert result.info is None
    assert result.traceback is None
    assert result.children is None
    assert result.date_done is None
    assert (result.name, result.args, result.kwargs, result.worker, result.retries, result.queue) == (None,) * 6
    assert (result.ready(), result.successful(), result.failed(), result.exists()) == (False,) * 4


def test_a_value_is_read_back(app: Kern, worker: Any, form: str, make_app: Any, name: str) -> None:
    app = make_app(backend=f"memory://{name}?form={form}")
    worker.store = app.make_result_store()
    worker.store.start(lambda _documents: None).result(10)
    before = datetime.now(UTC)
    worker.succeed("t", {"sum": [1, 2, 3]})
    result = app.AsyncResult("t")
    assert result.result == result.info == {"sum": [1, 2, 3]}
    assert result.state == result.status == states.SUCCESS
    assert (result.ready(), result.successful(), result.failed(), result.exists()) == (True, True, False, True)
    assert result.date_done is not None
    assert before <= result.date_done <= datetime.now(UTC)


def test_an_error_is_read_back_as_the_exception_it_was(app: Kern, worker: Any) -> None:
    worker.fail("t", Odd("boom", 42), traceback="Traceback …")
    result = app.AsyncResult("t")
    assert (result.ready(), result.successful(), result.failed()) == (True, False, True)
    assert isinstance(result.result, Odd)
    assert result.result.args == ("boom", 42)
    assert result.traceback == "Traceback …"


def test_a_retry_is_neither_ready_nor_failed_and_carries_the_exception(app: Kern, worker: Any) -> None:
    worker.write("t", states.RETRY, KeyError("nope"))
    result = app.AsyncResult("t")
    assert result.state == states.RETRY
    assert isinstance(result.result, KeyError)
    assert (result.ready(), result.failed(), result.exists()) == (False, False, True)
    assert result.date_done is None


def test_what_a_custom_state_carries_is_its_result(app: Kern, worker: Any) -> None:
    worker.write("t", "PROGRESS", {"done": 3})
    assert app.AsyncResult("t").state == "PROGRESS"
    assert app.AsyncResult("t").info == {"done": 3}


def test_a_revoked_call_is_ready_and_did_not_fail(app: Kern, worker: Any) -> None:
    worker.write("t", states.REVOKED, TaskRevokedError("revoked"))
    result = app.AsyncResult("t")
    assert (result.ready(), result.successful(), result.failed()) == (True, False, False)


def test_the_extended_fields_are_read(make_app: Any, worker: Any, request_of: Callable[..., Request]) -> None:
    request = request_of(retries=2, delivery_info={"routing_key": "q"})
    worker.succeed("t", 6, request=request, extended=True)
    result = make_app().AsyncResult("t")
    assert (result.name, result.args, result.kwargs) == ("tests.add", [2, 3], {"z": 1})
    assert (result.worker, result.retries, result.queue) == ("w@here", 2, "q")


def test_children_are_results_of_the_application(app: Kern, worker: Any, request_of: Callable[..., Request]) -> None:
    group = app.GroupResult("g", [app.AsyncResult("m1"), app.AsyncResult("m2")])
    worker.succeed("t", None, request=request_of(children=[app.AsyncResult("child"), group]))
    children = app.AsyncResult("t").children
    assert children == ["child", "g"]
    assert [member.id for member in children[1]] == ["m1", "m2"]
    worker.succeed("child", 7)
    assert children[0].get() == 7


def test_a_final_document_is_read_once_and_others_each_time(app: Kern, worker: Any) -> None:
    result = app.AsyncResult("t")
    worker.write("t", states.STARTED, {"pid": 1})
    assert result.state == states.STARTED
    worker.succeed("t", 1)
    assert result.state == states.SUCCESS
    worker.store.forget(["t"]).result(10)
    assert result.result == 1
    assert not app.AsyncResult("t").exists()


# -- states of calls nothing is stored of ------------------------------------------------------------------------------


def test_a_call_the_broker_has_is_pending_and_one_it_never_had_is_unknown(app: Kern) -> None:
    queued = app.send_task("tests.add", (1, 2))
    assert queued.state == states.PENDING
    assert app.AsyncResult("never-heard-of").state == states.UNKNOWN


def test_a_delayed_call_is_pending(app: Kern) -> None:
    assert app.send_task("tests.add", (1, 2), countdown=3600).state == states.PENDING


def test_a_broker_that_cannot_tell_leaves_it_at_pending(app: Kern, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(app), "locate", lambda self, task_ids: None)
    assert app.AsyncResult("never-heard-of").state == states.PENDING


def test_a_broker_that_is_down_leaves_it_at_pending(make_app: Any, name: str) -> None:
    from kern_testing.memory import space

    app = make_app(broker=f"memory://{name}-broker", publish_timeout=0.2)
    with space(f"{name}-broker").outage():
        assert app.AsyncResult("t").state == states.PENDING


def test_a_call_that_ends_between_the_two_questions_is_not_unknown(
    app: Kern, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stored yet when the store is asked, gone from the broker when the broker is."""

    def ends_now(self: Kern, task_ids: Any) -> Any:
        worker.succeed("t", 5)
        return {}

    monkeypatch.setattr(type(app), "locate", ends_now)
    result = app.AsyncResult("t")
    assert result.state == states.SUCCESS
    assert result.result == 5


# -- what it is --------------------------------------------------------------------------------------------------------


def test_a_result_needs_an_id() -> None:
    with pytest.raises(ValueError, match=r"AsyncResult requires valid id, not <class 'NoneType'>"):
        AsyncResult(None)  # type: ignore[arg-type]


def test_it_equals_results_and_text_of_its_id() -> None:
    result: AsyncResult[Any] = AsyncResult("abc")
    assert result == "abc"
    assert result == AsyncResult("abc")
    assert result != AsyncResult("abd")
    assert result != 7
    assert hash(result) == hash("abc")
    assert {result: 1}["abc"] == 1  # type: ignore[index]


def test_it_shows_its_id() -> None:
    result: AsyncResult[Any] = AsyncResult("abc")
    assert str(result) == "abc"
    assert repr(result) == "<AsyncResult: abc>"


def test_task_id_is_another_name_of_id() -> None:
    result: AsyncResult[Any] = AsyncResult("abc")
    assert result.task_id == "abc"
    result.task_id = "xyz"
    assert result.id == "xyz"


def test_a_copy_has_id_application_and_parent(app: Kern) -> None:
    result = app.AsyncResult("abc", parent=app.AsyncResult("before"))
    copied = copy.copy(result)
    assert copied == result
    assert copied is not result
    assert copied.app is app
    assert copied.parent == "before"


def test_a_pickled_result_finds_its_application_again() -> None:
    result = importable.AsyncResult("abc", parent=importable.AsyncResult("before"))
    restored = pickle.loads(pickle.dumps(result))
    assert restored == "abc"
    assert restored.parent == "before"
    assert restored.app is importable


def test_a_result_of_an_application_that_cannot_be_imported_is_pickled_without_it(app: Kern) -> None:
    restored = pickle.loads(pickle.dumps(app.AsyncResult("abc")))
    assert restored == "abc"
    with pytest.raises(ImproperlyConfigured, match=r"<AsyncResult: abc> does not know its application.*app=") as caught:
        restored.ready()
    assert "app.AsyncResult(" in str(caught.value)
    restored.app = app
    assert not restored.ready()


def test_inside_a_task_a_result_belongs_to_the_application_of_the_task(app: Kern, worker: Any) -> None:
    @app.task
    def asks() -> Any:
        return AsyncResult("t").result

    worker.succeed("t", 9)
    with entered(asks, Request(id="here")):
        assert AsyncResult("t").result == 9


def test_tuple_and_list_form_name_what_came_before(app: Kern) -> None:
    first = app.AsyncResult("93d0")
    second = app.AsyncResult("ed73", parent=first)
    last = app.AsyncResult("4fba", parent=second)
    assert first.as_tuple() == (("93d0", None), None)
    assert last.as_tuple() == (("4fba", (("ed73", (("93d0", None), None)), None)), None)
    assert last.as_list() == ["4fba", "ed73", "93d0"]


def test_it_names_backend_and_application(app: Kern) -> None:
    result = app.AsyncResult("abc")
    assert result.app is app
    assert result.backend is app.backend
    assert result.supports_native_join
    assert AsyncResult("abc", backend=app.backend).app is app


# -- raising -----------------------------------------------------------------------------------------------------------


def test_maybe_throw_raises_the_error_of_a_failed_call(app: Kern, worker: Any) -> None:
    worker.fail("t", Odd("boom"))
    with pytest.raises(Odd, match="boom"):
        app.AsyncResult("t").maybe_throw()
    with pytest.raises(Odd):
        app.AsyncResult("t").maybe_reraise()


def test_maybe_throw_gives_the_value_and_calls_back(app: Kern, worker: Any) -> None:
    called: list[Any] = []
    worker.succeed("good", 3)
    worker.fail("bad", Odd("boom"))
    assert app.AsyncResult("good").maybe_throw(callback=lambda *args: called.append(args)) == 3
    error = app.AsyncResult("bad").maybe_throw(propagate=False, callback=lambda *args: called.append(args))
    assert isinstance(error, Odd)
    assert called == [("good", 3), ("bad", error)]


def test_a_call_that_failed_without_an_exception_still_raises(app: Kern, worker: Any) -> None:
    worker.write_many([("failed", states.FAILURE, None), ("revoked", states.REVOKED, "what is no exception")])
    for task_id in ("failed", "revoked"):
        with pytest.raises(Exception, match=r"not stored|what is no exception"):
            app.AsyncResult(task_id).get(timeout=5)


def test_raising_again_does_not_grow_the_traceback(app: Kern, worker: Any) -> None:
    def length(error: BaseException) -> int:
        count, traceback = 0, error.__traceback__
        while traceback is not None:
            count, traceback = count + 1, traceback.tb_next
        return count

    worker.fail("t", Odd("boom"))
    result, lengths = app.AsyncResult("t"), []
    for _ in range(3):
        with pytest.raises(Odd) as caught:
            result.get()
        lengths.append(length(caught.value))
    assert lengths[1] == lengths[2]


TRACEBACK = """Traceback (most recent call last):
  File "/srv/tasks.py", line 7, in work
    explode()
tasks.Odd: boom
"""


def test_the_workers_traceback_is_raised_where_the_settings_ask_for_it(make_app: Any, worker: Any) -> None:
    import traceback

    worker.fail("t", Odd("boom"), traceback=TRACEBACK)
    with pytest.raises(Odd) as caught:
        make_app(task_remote_tracebacks=True).AsyncResult("t").get()
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert ("/srv/tasks.py", 7, "work") in [(frame.filename, frame.lineno, frame.name) for frame in frames]


def test_a_text_that_is_no_traceback_hides_no_error(make_app: Any, worker: Any) -> None:
    worker.fail("t", Odd("boom"), traceback="no traceback at all")
    with pytest.raises(Odd):
        make_app(task_remote_tracebacks=True).AsyncResult("t").get()


def test_without_tblib_remote_tracebacks_say_what_to_install(
    make_app: Any, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tblib", None)
    worker.fail("t", Odd("boom"), traceback=TRACEBACK)
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'kern-core\[tblib\]'"):
        make_app(task_remote_tracebacks=True).AsyncResult("t").get()


# -- forgetting and revoking -------------------------------------------------------------------------------------------


def test_forgetting_deletes_the_result_and_those_before_it(app: Kern, worker: Any) -> None:
    worker.write_many([("a", states.SUCCESS, 1), ("b", states.SUCCESS, 2)])
    result = app.AsyncResult("b", parent=app.AsyncResult("a"))
    assert result.get() == 2
    result.forget()
    assert not result.exists()
    assert not app.AsyncResult("a").exists()


class Control:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def revoke(self, task_id: Any, **options: Any) -> str:
        self.calls.append(("revoke", task_id, options))
        return "answers"

    def revoke_by_stamped_headers(self, headers: Any, **options: Any) -> str:
        self.calls.append(("stamped", headers, options))
        return "answers"


@pytest.fixture
def control(app: Kern) -> Control:
    from kern.hookspecs import hookimpl

    made = Control()

    class Plugin:
        @hookimpl
        def kern_control(self) -> Control:
            return made

    app.register(Plugin())
    return made


def test_revoking_is_asked_of_the_control(app: Kern, control: Control) -> None:
    result = app.AsyncResult("t")
    assert result.revoke(terminate=True, signal="SIGUSR1", wait=True, timeout=3) == "answers"
    result.revoke()
    result.revoke_by_stamped_headers({"customer": "7"}, connection="c")
    assert control.calls == [
        ("revoke", "t", {"terminate": True, "signal": "SIGUSR1", "reply": True, "timeout": 3}),
        ("revoke", "t", {"terminate": False, "signal": None, "reply": False, "timeout": None}),
        (
            "stamped",
            {"customer": "7"},
            {"terminate": False, "signal": None, "reply": False, "timeout": None, "connection": "c"},
        ),
    ]


def test_a_set_is_revoked_with_one_command(app: Kern, control: Control) -> None:
    group = app.GroupResult("g", [app.AsyncResult("b"), app.AsyncResult("c")])
    app.ResultSet([app.AsyncResult("a"), group]).revoke(terminate=True)
    assert [call[1] for call in control.calls] == [["a", "b", "c"]]


def test_revoking_without_control_says_what_to_install(app: Kern) -> None:
    with pytest.raises(CapabilityMissing, match="kern-control"):
        app.AsyncResult("t").revoke()


# -- the tree ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(app: Kern, worker: Any, request_of: Callable[..., Request]) -> AsyncResult[Any]:
    """``root`` made ``left`` and ``right``, ``left`` made ``leaf``."""
    worker.succeed("root", 1, request=request_of(children=[app.AsyncResult("left"), app.AsyncResult("right")]))
    worker.succeed("left", 2, request=request_of(children=[app.AsyncResult("leaf")]))
    worker.succeed("right", 3)
    worker.succeed("leaf", 4)
    return app.AsyncResult("root")


def test_dependencies_come_breadth_first(tree: AsyncResult[Any]) -> None:
    assert [(parent and str(parent), str(node)) for parent, node in tree.iterdeps()] == [
        (None, "root"),
        ("root", "left"),
        ("root", "right"),
        ("left", "leaf"),
    ]


def test_collecting_gives_each_result_with_its_value(tree: AsyncResult[Any]) -> None:
    assert list(tree.collect(timeout=5)) == [("root", 1), ("left", 2), ("right", 3), ("leaf", 4)]
    assert tree.get_leaf() == 4


def test_a_tree_that_is_not_complete_is_an_error_unless_asked_for(
    app: Kern, worker: Any, request_of: Callable[..., Request]
) -> None:
    from kern.errors import IncompleteStream

    worker.succeed("root", 1, request=request_of(children=[app.AsyncResult("pending")]))
    root = app.AsyncResult("root")
    with pytest.raises(IncompleteStream):
        list(root.iterdeps())
    assert [str(node) for _, node in root.iterdeps(intermediate=True)] == ["root", "pending"]


def test_the_graph_has_the_tree_and_is_drawn_with_its_root(tree: AsyncResult[Any]) -> None:
    import io

    graph = tree.build_graph()
    assert {str(node): [str(end) for end in ends] for node, ends in graph.items()} == {
        "root": ["left", "right"],
        "left": ["leaf"],
        "right": [],
        "leaf": [],
    }
    drawing = io.StringIO()
    graph.to_dot(drawing)
    assert '"root" -> "left"' in drawing.getvalue()
    assert 'shape="oval"' in drawing.getvalue()
    assert tree.graph is tree.graph
