"""What a type checker makes of calls and their results. Checked by mypy, never run."""

from __future__ import annotations

from typing import Any, assert_type

from kern.app import Kern
from kern.result import AsyncResult, EagerResult, GroupResult, ResultSet
from kern.signature import Signature, maybe_signature, signature

app = Kern("typing")


@app.task
def add(x: int, y: int) -> int:
    return x + y


def a_result_has_the_type_the_task_returns() -> None:
    result = add.delay(1, 2)
    assert_type(result, AsyncResult[int])
    assert_type(result.get(timeout=3), int)
    assert_type(result.wait(), int)
    assert_type(result.state, str)


async def so_it_has_when_it_is_awaited() -> None:
    assert_type(await add.delay(1, 2), int)
    assert_type(await add.delay(1, 2).aget(timeout=3), int)
    assert_type(await add.adelay(1, 2), AsyncResult[int])


def so_does_the_call_as_data() -> None:
    call = add.s(1, 2)
    assert_type(call, Signature[int])
    assert_type(call.delay(), AsyncResult[int])
    assert_type(call.apply_async(), AsyncResult[int])
    assert_type(call.apply(), EagerResult[int])
    assert_type(call.apply().get(), int)
    assert_type(call.freeze(), AsyncResult[int])
    assert_type(call(), int)
    assert_type(~call, int)
    assert_type(call.clone(), Signature[int])
    assert_type(call.set(queue="q").clone((1,)), Signature[int])


def signatures_of_tasks_know_their_type_and_data_does_not() -> None:
    assert_type(signature(add), Signature[int])
    assert_type(signature("app.add"), Signature[Any])
    assert_type(signature({"task": "app.add"}), Signature[Any])
    assert_type(maybe_signature(add.s(1, 2)), Signature[int])
    assert_type(maybe_signature(None), None)


def several_results_give_a_list() -> None:
    results = ResultSet([add.delay(1, 2), add.delay(3, 4)])
    assert_type(results.get(), list[int])
    assert_type(GroupResult("g", [add.delay(1, 2)]).join(), list[int])


async def several_results_can_be_awaited() -> None:
    assert_type(await ResultSet([add.delay(1, 2)]), list[int])


def a_result_of_something_special_is_one_of_something_general(special: AsyncResult[bool]) -> AsyncResult[int]:
    return special


def arguments_are_checked() -> None:
    add.delay("1", 2)  # type: ignore[arg-type]
    add.delay(1)  # type: ignore[call-arg]
    assert_type(AsyncResult[str]("id").get(), str)
