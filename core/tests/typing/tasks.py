"""What a type checker makes of defining and calling tasks. Checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, assert_type

from kern import Kern, shared_task
from kern.result import AsyncResult, EagerResult
from kern.signature import Signature
from kern.task import AsyncTask, Task

app = Kern("typing")


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


@app.task(max_retries=5, queue="slow")
def join(*parts: str, by: str = ",") -> str:
    return by.join(parts)


@app.task(bind=True, autoretry_for=(KeyError,))
def fetch(self: Task[[str], bytes], url: str) -> bytes:
    raise self.retry(countdown=3)


@app.task
async def wait(seconds: float) -> list[int]:
    return []


@app.task(bind=True)
async def wait_bound(self: Task[..., Any], seconds: float) -> list[int]:
    return []


@shared_task
def shared(x: int) -> str:
    return str(x)


@shared_task(bind=True, name="lib.shared")
def shared_bound(self: Any, x: int) -> str:
    return str(x)


class Double(Task[[int], int]):
    def run(self, x: int) -> int:
        return 2 * x


def a_task_keeps_the_signature_of_its_function() -> None:
    assert_type(add.delay(1, 2), AsyncResult[int])
    assert_type(add.delay(1, y=2), AsyncResult[int])
    assert_type(join.delay("a", "b", by=";"), AsyncResult[str])
    assert_type(add(1), int)
    assert_type(join("a"), str)
    add.delay("1")  # type: ignore[arg-type]
    add.delay()  # type: ignore[call-arg]
    add.delay(1, 2, 3)  # type: ignore[call-arg]
    add.delay(x=1, z=2)  # type: ignore[call-arg]
    add("1")  # type: ignore[arg-type]
    join.delay("a", by=1)  # type: ignore[arg-type]


def a_bound_tasks_own_parameter_is_not_its_callers_affair() -> None:
    narrowed: Task[[str], bytes] = fetch
    assert_type(narrowed.delay("there"), AsyncResult[bytes])
    assert_type(fetch.delay("there").get(timeout=1), bytes)
    assert_type(fetch("there"), bytes)
    fetch.delay(fetch, "there")  # type: ignore[call-arg, arg-type]
    fetch.delay(url=3)  # type: ignore[arg-type]


async def a_coroutine_makes_a_task_whose_result_is_its_value() -> None:
    narrowed: AsyncTask[[float], list[int]] = wait
    assert_type(await narrowed(3), list[int])
    assert_type(wait.delay(3), AsyncResult[list[int]])
    assert_type(wait.delay(3).get(), list[int])
    coroutine: Coroutine[Any, Any, list[int]] = wait(3)
    assert_type(await coroutine, list[int])
    assert_type(await wait_bound(3), list[int])
    assert_type(await wait.adelay(3), AsyncResult[list[int]])
    wait.delay("x")  # type: ignore[arg-type]
    await wait_bound.adelay()  # type: ignore[call-arg]


def other_ways_to_call_know_the_result() -> None:
    assert_type(add.apply_async((1,), countdown=3), AsyncResult[int])
    assert_type(add.apply((1,)), EagerResult[int])
    assert_type(add.apply((1,)).get(), int)
    assert_type(add.s(1), Signature[int])
    assert_type(add.si(1).delay().get(), int)
    assert_type(add.AsyncResult("id").get(), int)
    assert_type(app.send_task("add", (1,)), AsyncResult[Any])
    assert_type(app.send_many([add.s(1), join.s("a")]), list[AsyncResult[Any]])


def shared_tasks_are_like_others() -> None:
    assert_type(shared.delay(1).get(), str)
    assert_type(shared_bound.delay(1).get(), str)
    shared.delay("x")  # type: ignore[arg-type]
    shared_bound.delay()  # type: ignore[call-arg]


def a_class_says_its_own_types() -> None:
    made = Double()
    assert_type(made.delay(1), AsyncResult[int])
    made.delay("1")  # type: ignore[arg-type]


def a_task_of_something_special_is_one_of_something_general(special: Task[[int], bool]) -> Task[[int], int]:
    return special
