"""Types of values on the command line."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from kern.errors import nearest

if TYPE_CHECKING:
    Value = click.ParamType[Any]
else:
    Value = click.ParamType  # generic only since click 8.5

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


class Names(Value):
    """Names separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list | tuple):
            return list(value)
        names = [name.strip() for name in value.split(",")]
        if not all(names):
            self.fail(f"expected names separated by commas, not {value!r}", param, ctx)
        return names


class JsonValue(Value):
    """JSON text for a list or an object."""

    name = "json"

    def __init__(self, kind: type[Any], called: str) -> None:
        self.kind, self.called = kind, called

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            found = json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is no JSON: {error}", param, ctx)
        if not isinstance(found, self.kind):
            self.fail(f"{value!r} was not {self.called}", param, ctx)
        return found


class Moment(Value):
    """An instant in ISO 8601; with *seconds* also a number of seconds from now."""

    name = "time"

    def __init__(self, seconds: bool = False) -> None:
        self.seconds = seconds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        if self.seconds:
            try:
                return float(value)
            except ValueError:
                pass
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            either = "a number of seconds or " if self.seconds else ""
            self.fail(f"expected {either}a time like 2030-01-31T12:00:00+01:00, not {value!r}", param, ctx)


class Level(Value):
    """Level of the log, by name or number."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value.isdigit():
            return int(value)
        name = value.upper()
        if name not in LEVELS:
            close = nearest(name, LEVELS)
            hint = f"did you mean {close}?" if close else f"one of {', '.join(LEVELS)}"
            self.fail(f"no level {value!r}; {hint}", param, ctx)
        return int(getattr(logging, name))


class Slots(Value):
    """A number of slots above 0, or ``auto``."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value).strip().lower()
        if text == "auto":
            return "auto"
        if not text.isdigit():
            self.fail(f"must be a non-negative integer or 'auto', got {value!r}", param, ctx)
        return int(text)


class Number(Value):
    """A number that is not below, or with *above* not at, the smallest."""

    name = "number"

    def __init__(self, kind: type[int] | type[float], smallest: float, above: bool = False) -> None:
        self.kind, self.smallest, self.above = kind, smallest, above

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = self.kind(value)
        except ValueError:
            number = None
        if number is None or not (number > self.smallest if self.above else number >= self.smallest):
            kind = "an integer" if self.kind is int else "a number"
            bound = f"above {self.smallest:g}" if self.above else f"not below {self.smallest:g}"
            self.fail(f"expected {kind} {bound}, not {value!r}", param, ctx)
        return number


NAMES = Names()
ARRAY = JsonValue(list, "an array")
OBJECT = JsonValue(dict, "an object")
TIME = Moment()
SECONDS_OR_TIME = Moment(seconds=True)
LEVEL = Level()
SLOTS = Slots()
FROM_0 = Number(int, 0)
FROM_1 = Number(int, 1)
SECONDS = Number(float, 0, above=True)
