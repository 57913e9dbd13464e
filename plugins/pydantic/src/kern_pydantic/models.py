"""From data to models before a task runs, and from models to data before a call or a result is written."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

from kern.log import get_logger

if TYPE_CHECKING:
    from kern.app import Kern
    from kern.task import Task

logger = get_logger("kern_pydantic")


@dataclass(frozen=True)
class Models:
    """The models of one task: those of its parameters, and that of its result."""

    #: By name: the model, and whether ``None`` may stand in its place.
    parameters: Mapping[str, tuple[type[BaseModel], bool]]
    result: type | None
    signature: inspect.Signature
    #: Names of parameters whose values are not to be shown.
    sensitive: frozenset[str]
    strict: bool
    context: Mapping[str, Any]
    dump_kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, app: Kern, task: Task[Any, Any]) -> Models:
        """What *task* says of itself: its annotations and its options."""
        signature = inspect.signature(task.run)
        hints = resolved_annotations(task.run, task.name)
        result, _ = unwrapped(hints.get("return"))
        found = {name: unwrapped(hints.get(name)) for name in signature.parameters}
        return cls(
            {
                name: hint
                for name, hint in found.items()
                if isinstance(hint[0], type) and issubclass(hint[0], BaseModel)
            },
            result if isinstance(result, type) else None,
            signature,
            frozenset(task.sensitive),
            bool(getattr(task, "pydantic_strict", False)),
            {
                **(getattr(task, "pydantic_context", None) or {}),
                # The names under which Celery gives them to validators.
                "celery_app": app,
                "celery_task_name": task.name,
            },
            {"mode": "json", **(getattr(task, "pydantic_dump_kwargs", None) or {})},
        )

    def around(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """*run* with models for data, and data for a model."""
        if inspect.iscoroutinefunction(run):

            @functools.wraps(run)
            async def converted_async(*args: Any, **kwargs: Any) -> Any:
                args, kwargs = self.validated(args, kwargs)
                return self.dumped_result(await run(*args, **kwargs))

            return converted_async

        @functools.wraps(run)
        def converted(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = self.validated(args, kwargs)
            return self.dumped_result(run(*args, **kwargs))

        return converted

    def validated(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments with models where the task has them.

        :raises pydantic.ValidationError: the data is not what the model says.
        """
        return self._each(args, kwargs, self._validated)

    def dumped(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments with data in the place of models, where the worker will make an equal model of it.

        Another model stays as it is, and the serializer says that it cannot be written.
        """
        return self._each(args, kwargs, self._dumped)

    def dumped_result(self, value: Any) -> Any:
        """*value* as data, if it is the model the task says it returns."""
        if self.result is not None and isinstance(value, BaseModel) and isinstance(value, self.result):
            return value.model_dump(**self.dump_kwargs)
        return value

    def _each(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], convert: Callable[[str, type[BaseModel], Any], Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self.parameters:
            return args, kwargs
        bound = self.signature.bind(*args, **kwargs)
        for name, (model, may_be_none) in self.parameters.items():
            if name not in bound.arguments:
                continue
            value, kind = bound.arguments[name], self.signature.parameters[name].kind
            converted = functools.partial(convert, name, model)
            if kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(converted(item) for item in value)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: converted(item) for key, item in value.items()}
            elif value is not None or not may_be_none:
                bound.arguments[name] = converted(value)
        return bound.args, bound.kwargs

    def _validated(self, name: str, model: type[BaseModel], value: Any) -> BaseModel:
        try:
            return model.model_validate(value, strict=self.strict, context=dict(self.context))
        except ValidationError as error:
            problem = without_input(error) if name in self.sensitive else error
            # An exception travels as its class and arguments; without any, nobody would read what is wrong.
            problem.args = (str(problem),)
            raise problem from None

    def _dumped(self, name: str, model: type[BaseModel], value: Any) -> Any:
        if not isinstance(value, BaseModel):
            return value
        # Strict validation wants a date for a date, which data in JSON's own types does not have.
        modes: tuple[Literal["json", "python"], ...] = ("json", "python")
        for mode in modes:
            try:
                data = value.model_dump(mode=mode)
                if self._validated(name, model, data) == value:
                    return data
            except (ValidationError, ValueError, TypeError):
                continue
        return value


def resolved_annotations(run: Callable[..., Any], task: str) -> dict[str, Any]:
    """The annotations of a function, as far as they can be resolved."""
    try:
        return typing.get_type_hints(run)
    except (NameError, AttributeError, TypeError, SyntaxError):
        pass
    function: Any = inspect.unwrap(getattr(run, "__func__", run))
    known = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    found = {}
    for name, annotation in function.__annotations__.items():
        try:
            while isinstance(annotation, str):
                annotation = eval(annotation, known)
        except (NameError, AttributeError, TypeError, SyntaxError) as error:
            logger.warning("annotation not understood, no model", task=task, parameter=name, error=str(error))
            continue
        found[name] = annotation
    return found


def unwrapped(annotation: Any) -> tuple[Any, bool]:
    """``X`` of ``X | None``, and whether it was one; everything else as it is."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = typing.get_args(annotation)
        others = [member for member in members if member is not type(None)]
        if len(members) == 2 and len(others) == 1:
            return others[0], True
    return annotation, False


def without_input(error: ValidationError) -> ValidationError:
    """The same error, saying what is wrong and not what was given."""
    details: list[Any] = [
        {"type": line["type"], "loc": line["loc"], "input": None, "ctx": line.get("ctx", {})}
        for line in error.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(error.title, details, hide_input=True)


def is_model(annotation: Any) -> bool:
    """Whether it is a class of models."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
