"""Models as arguments and results of tasks."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Union

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from kern import Kern
from kern.errors import EncodeError
from kern.plugins import KNOWN_TASK_OPTIONS
from kern_pydantic.models import Models, resolved_annotations, unwrapped
from kern_pydantic.plugin import OPTIONS
from kern_testing.worker import enqueued, in_memory, run_until_idle


class Order(BaseModel):
    number: int
    when: date = date(2026, 11, 20)
    price: Decimal = Decimal("1.50")


class SpecialOrder(Order):
    discount: int = 0


class Receipt(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    total: int = Field(alias="sum")
    note: str | None = None


class Seen(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def _look(cls, value: int, info: ValidationInfo) -> int:
        assert info.context is not None
        contexts.append(dict(info.context))
        return value


contexts: list[dict[str, Any]] = []


@pytest.fixture
def app() -> Iterator[Kern]:
    with in_memory(Kern("tests", broker="memory://", plugins="testing,pydantic")) as app:
        yield app


def run(app: Kern, task: Any, *args: Any, **kwargs: Any) -> Any:
    """The value of a call that goes the whole way, or raise what it raised."""
    result = task.apply_async(args, kwargs)
    run_until_idle(app)
    return result.get(timeout=5)


class TestArguments:
    def test_data_becomes_a_model(self, app: Kern) -> None:
        def price(order: Order, times: int = 1) -> str:
            assert type(order) is Order
            return str(order.price * times)

        task = app.task(pydantic=True)(price)
        assert run(app, task, {"number": 3, "price": "2.5"}) == "2.5"
        assert run(app, task, order={"number": 3, "price": "2.5"}, times=2) == "5.0"

    def test_a_model_travels_as_data(self, app: Kern) -> None:
        def number(order: Order) -> int:
            assert type(order) is Order
            return order.number

        task = app.task(pydantic=True)(number)
        task.delay(Order(number=7))
        (call,) = enqueued(app)
        assert call.args == ({"number": 7, "when": "2026-11-20", "price": "1.50"},)
        assert run(app, task, Order(number=7)) == 7

    def test_one_that_would_not_arrive_as_it_is_is_refused(self, app: Kern) -> None:
        """The worker would make an Order of it, and nobody would know of the discount."""
        task = app.task(name="t", pydantic=True)(takes_order)
        with pytest.raises(EncodeError, match=r"task 't': argument 'order'"):
            task.delay(SpecialOrder(number=1, discount=5))

    def test_a_pickle_carries_models_as_they_are(self, app: Kern) -> None:
        app.conf.accept_content = ["json", "pickle"]
        task = app.task(pydantic=True, serializer="pickle")(takes_order)
        task.delay(SpecialOrder(number=1, discount=5))
        run_until_idle(app).check()

    @pytest.mark.parametrize("annotation", [Order | None, Annotated[Order, "x"], Annotated[Order | None, "x"]])
    def test_what_may_be_missing_is_converted_when_it_is_not(self, app: Kern, annotation: Any) -> None:
        def kind(order):  # type: ignore[no-untyped-def]
            return type(order).__name__

        kind.__annotations__ = {"order": annotation}
        task = app.task(pydantic=True)(kind)
        assert run(app, task, {"number": 1}) == "Order"
        if "None" in str(annotation):
            assert run(app, task, None) == "NoneType"

    def test_nothing_in_the_place_of_a_model_is_a_mistake(self, app: Kern) -> None:
        with pytest.raises(Exception, match=r"validation error"):
            run(app, app.task(pydantic=True)(takes_order), None)

    def test_several_by_star(self, app: Kern) -> None:
        def numbers(*orders: Order, **others: Order) -> list[int]:
            return [order.number for order in (*orders, *others.values())]

        task = app.task(pydantic=True)(numbers)
        assert run(app, task, {"number": 1}, Order(number=2), last={"number": 3}) == [1, 2, 3]

    def test_inside_containers_nothing_is_converted(self, app: Kern) -> None:
        def kinds(orders: list[Order], either: Order | int) -> list[str]:
            return [type(orders[0]).__name__, type(either).__name__]

        assert run(app, app.task(pydantic=True)(kinds), [{"number": 1}], {"number": 1}) == ["dict", "dict"]

    def test_wrong_data_is_a_failure_of_the_task_and_the_caller_reads_why(self, app: Kern) -> None:
        result = app.task(pydantic=True)(takes_order).delay({"number": "many"})
        (outcome,) = run_until_idle(app).outcomes
        assert outcome.state == "FAILURE"
        assert "valid integer" in outcome.summary
        # Its constructor takes no text, so that what is raised only names it.
        with pytest.raises(Exception, match=r"ValidationError: .*1 validation error for Order") as caught:
            result.get(timeout=5)
        assert "valid integer" in str(caught.value)

    @pytest.mark.parametrize("data", [{"number": "4111-1111"}, {"number": -1, "when": "4111-1111"}])
    def test_of_what_is_sensitive_only_what_is_wrong_is_told(
        self, app: Kern, caplog: pytest.LogCaptureFixture, data: Any
    ) -> None:
        app.task(name="t", pydantic=True, sensitive=("order",))(takes_order).delay(data)
        (outcome,) = run_until_idle(app).outcomes
        assert "1 validation error for Order" in outcome.summary
        assert outcome.document is not None
        assert "4111" not in f"{outcome.summary}{outcome.traceback}{outcome.document}{caplog.text}"

    def test_defaults_are_left_alone(self, app: Kern) -> None:
        default = Order(number=9)

        def number(order: Order = default) -> int:
            return order.number

        assert run(app, app.task(pydantic=True)(number)) == 9

    def test_wrong_arguments_are_the_callers_error(self, app: Kern) -> None:
        with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'order'"):
            app.task(pydantic=True)(takes_order).delay()

    def test_a_bound_task(self, app: Kern) -> None:
        def number(self: Any, order: Order) -> list[Any]:
            return [self.name, order.number]

        assert run(app, app.task(pydantic=True, bind=True, name="t")(number), Order(number=3)) == ["t", 3]

    def test_a_coroutine(self, app: Kern) -> None:
        async def receipt(order: Order) -> Receipt:
            return Receipt(total=order.number)

        assert run(app, app.task(pydantic=True)(receipt), Order(number=3)) == {"total": 3, "note": None}

    def test_an_eager_run(self, app: Kern) -> None:
        task = app.task(pydantic=True)(takes_order)
        assert task.apply(({"number": 1},)).get() == "Order"
        app.conf.task_always_eager = True
        assert task.delay(Order(number=1)).get() == "Order"

    def test_a_class(self, app: Kern) -> None:
        from kern import Task

        class Number(Task[..., Any]):
            name = "number"
            pydantic = True

            def run(self, order: Order) -> int:
                return order.number

        assert run(app, app.register_task(Number), Order(number=4)) == 4


def takes_order(order: Order) -> str:
    return type(order).__name__


class TestOptions:
    def test_off_by_default(self, app: Kern) -> None:
        def kind(order: Order) -> str:
            return type(order).__name__

        assert run(app, app.task(name="plain")(kind), {"number": 1}) == "dict"
        with pytest.raises(EncodeError):
            app.task(name="other")(kind).delay(Order(number=1))

    @pytest.mark.parametrize("strict", [False, True])
    def test_strict(self, app: Kern, strict: bool) -> None:
        task = app.task(pydantic=True, pydantic_strict=strict)(takes_order)
        task.delay({"number": "3"})
        (outcome,) = run_until_idle(app).outcomes
        assert outcome.state == ("FAILURE" if strict else "SUCCESS")

    def test_strict_models_keep_their_types_on_the_way(self, app: Kern) -> None:
        """A date is no date any more in JSON's own types; kern's JSON has dates."""
        task = app.task(pydantic=True, pydantic_strict=True)(takes_order)
        assert run(app, task, Order(number=1)) == "Order"

    def test_context(self, app: Kern) -> None:
        def number(seen: Seen) -> int:
            return seen.number

        task = app.task(name="t", pydantic=True, pydantic_context={"tenant": "t1"})(number)
        contexts.clear()
        assert run(app, task, {"number": 1}) == 1
        assert contexts == [{"tenant": "t1", "celery_app": app, "celery_task_name": "t"}]

    def test_dump_kwargs(self, app: Kern) -> None:
        def receipt() -> Receipt:
            return Receipt(total=3)

        plain = app.task(name="plain", pydantic=True)(receipt)
        short = app.task(name="short", pydantic=True, pydantic_dump_kwargs={"by_alias": True, "exclude_none": True})(
            receipt
        )
        assert run(app, plain) == {"total": 3, "note": None}
        assert run(app, short) == {"sum": 3}

    def test_core_knows_where_they_come_from(self) -> None:
        assert set(OPTIONS) == {option for option, plugin in KNOWN_TASK_OPTIONS.items() if plugin == "kern-pydantic"}


class TestResults:
    def test_a_model_that_is_said_to_be_returned_is_stored_as_data(self, app: Kern) -> None:
        def order(number: int) -> Order | None:
            return SpecialOrder(number=number) if number else None

        task = app.task(pydantic=True)(order)
        assert run(app, task, 3) == {"number": 3, "when": "2026-11-20", "price": "1.50", "discount": 0}
        assert run(app, task, 0) is None

    def test_other_values_are_left_alone(self, app: Kern) -> None:
        def order() -> Order:
            return {"mine": 1}  # type: ignore[return-value]

        assert run(app, app.task(pydantic=True)(order)) == {"mine": 1}

    def test_called_like_a_function_it_converts_too(self, app: Kern) -> None:
        def receipt(order: Order) -> Receipt:
            return Receipt(total=order.number)

        task: Any = app.task(pydantic=True)(receipt)
        app.finalize()
        assert task({"number": 3}) == {"total": 3, "note": None}


class TestAnnotations:
    def test_those_of_a_function_inside_another_are_found(self, app: Kern) -> None:
        class Local(BaseModel):
            x: int

        def kind(value: Local) -> str:
            assert issubclass(Local, BaseModel)
            return type(value).__name__

        assert run(app, app.task(pydantic=True)(kind), {"x": 1}) == "Local"

    def test_one_that_cannot_be_understood_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        def body(order: Order, other: NotThere, odd: "1 +") -> None: ...  # type: ignore[name-defined]  # noqa: F722, F821

        assert resolved_annotations(body, "t") == {"order": Order, "return": None}
        assert "no model" in caplog.text
        assert "parameter='other'" in caplog.text
        assert "parameter='odd'" in caplog.text

    @pytest.mark.parametrize(
        ("annotation", "expected"),
        [
            (Order, (Order, False)),
            (Order | None, (Order, True)),
            (Union[None, Order], (Order, True)),  # noqa: UP007
            (Order | int, (Order | int, False)),
            (Order | int | None, (Order | int | None, False)),
            (None, (None, False)),
        ],
    )
    def test_unwrapping(self, annotation: Any, expected: Any) -> None:
        assert unwrapped(annotation) == expected


def test_importing_the_plugin_does_not_import_pydantic() -> None:
    import subprocess
    import sys

    program = "import sys, kern_pydantic.plugin; assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_models_of_a_task_can_be_seen(app: Kern) -> None:
    task: Any = app.task(pydantic=True)(takes_order)
    app.finalize()
    assert isinstance(task.pydantic_models, Models)
    assert task.pydantic_models.parameters == {"order": (Order, False)}
    assert pickle.loads(pickle.dumps(Order(number=1))) == Order(number=1)
