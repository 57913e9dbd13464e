"""Tasks of whichever application there is."""

from __future__ import annotations

import gc
import pickle
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kern import shared_task
from kern.app import Kern
from kern.errors import ImproperlyConfigured
from kern.shared import SharedTasks, shared_tasks


@pytest.fixture(autouse=True)
def _own_list(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What these tests define is not there for others, nor do others' applications count here."""
    monkeypatch.setattr(shared_tasks, "_definitions", [])
    monkeypatch.setattr(shared_tasks, "_apps", weakref.WeakSet())
    monkeypatch.setattr(shared_tasks, "_closed", weakref.WeakSet())
    yield
    gc.collect()


def greet(name: str) -> str:
    """Greets."""
    return f"hello {name}"


def test_one_definition_is_a_task_of_every_application(make_bench: Callable[..., Any]) -> None:
    first = make_bench().app
    first.finalize()
    shared_task(name="greet")(greet)
    second = make_bench().app
    one, two = first.tasks["greet"], second.tasks["greet"]
    assert one is not two
    assert (one.app, two.app) == (first, second)
    assert [task.apply(("you",)).get() for task in (one, two)] == ["hello you", "hello you"]


def test_it_is_used_like_the_task_of_the_only_application(app: Kern) -> None:
    task = shared_task(greet)
    assert task("you") == "hello you"
    assert task.delay("you").id
    assert task.s("you").task == task.name == f"{__name__}.greet"
    assert task.__doc__ == "Greets."
    assert repr(task) == f"<@shared_task: {__name__}.greet>"


def test_options_are_those_of_tasks(app: Kern) -> None:
    @shared_task(bind=True, max_retries=7)
    def which(self: Any) -> Any:
        return self.name, self.max_retries

    assert which() == (which.name, 7)


def test_inside_a_task_it_belongs_to_the_application_that_runs_it(make_bench: Callable[..., Any]) -> None:
    task: Any = shared_task(greet)
    apps = [make_bench().app for _ in range(2)]
    for each in apps:
        outer = each.task(name="outer")(lambda: task._task().app)
        assert outer.apply().get() is each


def test_with_several_applications_it_says_which_way_to_go(make_bench: Callable[..., Any]) -> None:
    task = shared_task(greet)
    first, second = make_bench(), make_bench()
    with pytest.raises(ImproperlyConfigured, match=r"belongs to 2 applications; use it through one: app\.tasks"):
        task("you")
    second.app.close()
    assert task.name == f"{__name__}.greet"  # type: ignore[comparison-overlap]
    assert first.app.tasks[task.name]


def test_an_application_that_was_closed_and_is_used_again_is_still_the_only_one(app: Kern) -> None:
    task = shared_task(greet)
    app.close()
    assert task.delay("you").id


def test_an_application_that_nobody_has_any_more_does_not_count() -> None:
    task = shared_task(greet)
    kept = Kern("kept", plugins="testing", broker="memory://kept")
    Kern("lost", plugins="testing", broker="memory://lost").finalize()  # it knows itself by way of its tasks
    assert task("you") == "hello you"
    assert kept.main == "kept"


def test_without_an_application_it_says_so() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"used before an application was made"):
        SharedTasks().only_app("greet")


def test_a_mistake_in_the_options_names_the_task_when_an_application_takes_it(app: Kern) -> None:
    shared_task(name="lib.greet", max_retires=3)(greet)
    with pytest.raises(TypeError, match=r"task 'lib.greet': unknown option 'max_retires'"):
        app.finalize()


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match=r"takes a function"):
        shared_task(3)  # type: ignore[call-overload]


def test_the_option_shared_makes_a_task_of_every_other_application(make_bench: Callable[..., Any]) -> None:
    first, second = make_bench().app, make_bench().app
    first.task(name="mine", shared=True, max_retries=5)(greet)
    first.task(name="own")(greet)
    assert second.tasks["mine"].max_retries == 5
    assert second.tasks["mine"] is not first.tasks["mine"]
    assert "own" not in second.tasks


def test_it_can_be_pickled(app: Kern, monkeypatch: pytest.MonkeyPatch) -> None:
    task = shared_task(greet)
    monkeypatch.setattr(sys.modules[__name__], "greet", task)
    assert pickle.loads(pickle.dumps(task)) is task
