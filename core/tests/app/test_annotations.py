"""The setting ``task_annotations``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kern.errors import ImproperlyConfigured
from kern.task import Task


def add(x: int, y: int) -> int:
    return x + y


class ByObject:
    """As a setting may name it."""

    def annotate(self, task: Task[..., Any]) -> dict[str, Any] | None:
        return {"rate_limit": "3/s"} if task.name == "add" else None

    def annotate_any(self) -> dict[str, Any]:
        return {"max_retries": 11}


@pytest.fixture
def annotated(make_bench: Callable[..., Any]) -> Callable[[Any], Task[..., Any]]:
    def make(annotations: Any) -> Task[..., Any]:
        app = make_bench(task_annotations=annotations).app
        task: Task[..., Any] = app.task(name="add")(add)
        app.finalize()
        return task

    return make


def test_by_name_and_for_all_where_all_weighs_more(annotated: Callable[[Any], Task[..., Any]]) -> None:
    task = annotated({"add": {"rate_limit": "1/s", "max_retries": 5}, "*": {"max_retries": 6}, "other": {"trail": 0}})
    assert (task.rate_limit, task.max_retries, task.trail) == ("1/s", 6, True)


@pytest.mark.parametrize("form", [ByObject(), ByObject, f"{__name__}:ByObject", [{"no": {}}, ByObject()]])
def test_by_an_object_in_every_form(annotated: Callable[[Any], Task[..., Any]], form: Any, monkeypatch: Any) -> None:
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__("types").ModuleType(__name__))
    monkeypatch.setattr(sys.modules[__name__], "ByObject", ByObject, raising=False)
    task = annotated(form)
    assert (task.rate_limit, task.max_retries) == ("3/s", 11)


def test_of_a_list_the_first_that_answers_counts(annotated: Callable[[Any], Task[..., Any]]) -> None:
    task = annotated([{"*": {"max_retries": 1}}, {"add": {"rate_limit": "2/s"}}, {"add": {"rate_limit": "9/s"}}])
    assert (task.rate_limit, task.max_retries) == ("2/s", 1)


def test_an_attribute_can_be_wrapped(annotated: Callable[[Any], Task[..., Any]]) -> None:
    def doubled(run: Callable[..., int]) -> Callable[..., int]:
        return lambda *args: 2 * run(*args)

    task = annotated({"add": {"@run": doubled}})
    run: Any = task.run
    assert task.apply((1, 2)).get() == 6
    assert run.__wrapped__(1, 2) == 3


@pytest.mark.parametrize(
    ("annotations", "complaint"),
    [
        ({"add": {"rate_limti": "1/s"}}, r"'task_annotations'.*'rate_limti'; did you mean 'rate_limit'"),
        ({"*": {"@rnu": str}}, r"'task_annotations'.*'rnu'"),
        ("no.such.module", r"'task_annotations'.*no\.such"),
    ],
)
def test_what_nobody_knows_is_refused(
    annotated: Callable[[Any], Task[..., Any]], annotations: Any, complaint: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=complaint):
        annotated(annotations)


def test_values_are_checked_like_those_of_the_decorator(annotated: Callable[[Any], Task[..., Any]]) -> None:
    with pytest.raises(TypeError, match=r"task 'add': option 'rate_limit'"):
        annotated({"add": {"rate_limit": "fast"}})


def test_they_weigh_more_than_the_tasks_own_options(make_bench: Callable[..., Any]) -> None:
    app = make_bench(task_annotations={"add": {"max_retries": 9}}).app
    task = app.task(name="add", max_retries=1)(add)
    app.finalize()
    assert task.max_retries == 9
