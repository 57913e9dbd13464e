"""What the annotation of a setting accepts, and how text becomes it.

Apart from :mod:`kern.settings` because it knows nothing of settings: an annotation goes in, a :class:`Checker` comes
out. Text (environment, command line) is parsed by type; values from Python are checked, and only converted where no
meaning can be lost (``"4"`` for an integer, a list for a tuple).
"""

from __future__ import annotations

import collections.abc
import types
from collections.abc import Callable, Mapping
from datetime import timedelta, tzinfo
from typing import Any, Literal, Union, get_args, get_origin

from kern.timeutil import seconds

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_NONE = frozenset({"", "none", "null"})

#: A value and whether it is text to be parsed; gives the value to be kept or raises ``ValueError``.
_Convert = Callable[[Any, bool], Any]


def is_none(value: Any) -> bool:
    """Whether text stands for no value."""
    return isinstance(value, str) and value.strip().lower() in _NONE


class Checker:
    """Checks and converts values of one annotated type.

    :ivar accepts: what is accepted, in words: "an integer or None".
    """

    __slots__ = ("_convert", "_exact", "accepts")

    def __init__(self, accepts: str, exact: Callable[[Any], bool], convert: _Convert) -> None:
        self.accepts, self._exact, self._convert = accepts, exact, convert

    def exact(self, value: Any) -> bool:
        """Whether *value* is of the type as it is."""
        return self._exact(value)

    def convert(self, value: Any, text: bool = False) -> Any:
        """*value* as the type.

        :param text: it comes from where there is only text.
        :raises ValueError: it is not one, and cannot become one.
        """
        if not text and self._exact(value):
            return value
        return self._convert(value, text)


def checker(hint: Any) -> Checker:
    """The checker of an annotation.

    :raises TypeError: an annotation that settings cannot have.
    """
    if hint is Any or hint is object:
        return Checker("any value", lambda value: True, _any)
    if hint is None or hint is type(None):
        return Checker("None", lambda value: value is None, _none)
    simple = _SIMPLE.get(hint)
    if simple is not None:
        return simple
    origin = get_origin(hint)
    if origin is Union or origin is types.UnionType:
        return _union([checker(part) for part in get_args(hint)])
    if origin is Literal:
        return _literal(get_args(hint))
    container = origin or hint
    if container in (tuple, list, set, frozenset, collections.abc.Sequence, collections.abc.Collection):
        parts = get_args(hint)
        if container is tuple and parts and (len(parts) != 2 or parts[1] is not Ellipsis):
            raise TypeError(f"a setting cannot be a {hint!r}; write tuple[X, ...]")
        return _sequence(container, checker(parts[0]) if parts else checker(Any))
    if container in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
        key, value = get_args(hint) or (Any, Any)
        return _mapping(checker(key), checker(value))
    if container is collections.abc.Callable:
        return Checker("a callable", callable, _refuse("a callable"))
    if isinstance(container, type):
        name = f"a {container.__name__}"
        return Checker(name, lambda value: isinstance(value, container), _refuse(name))
    raise TypeError(f"a setting cannot be a {hint!r}")


# -- simple types ------------------------------------------------------------------------------------------------------


def _refuse(accepts: str) -> _Convert:
    def convert(value: Any, text: bool) -> Any:
        raise ValueError(f"expected {accepts}")

    return convert


def _any(value: Any, text: bool) -> Any:
    """Text that looks like a JSON container is one; all else stays as it is."""
    if text and isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        return _json(value)
    return value


def _json(value: str) -> Any:
    import json

    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None


def _none(value: Any, text: bool) -> None:
    if text and is_none(value):
        return
    raise ValueError("expected None")


def _bool(value: Any, text: bool) -> bool:
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
    elif isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise ValueError("expected true or false")


def _int(value: Any, text: bool) -> int:
    if isinstance(value, str):
        try:
            return int(value.strip())
        except ValueError:
            pass
    elif isinstance(value, float) and value.is_integer():
        return int(value)
    raise ValueError("expected an integer")


def _float(value: Any, text: bool) -> float:
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    if isinstance(value, str):
        try:
            number = float(value.strip())
        except ValueError:
            pass
        else:
            if number == number:
                return number
    raise ValueError("expected a number")


def _str(value: Any, text: bool) -> str:
    if isinstance(value, str):
        return str(value)
    raise ValueError("expected text")


def _bytes(value: Any, text: bool) -> bytes:
    if isinstance(value, str):
        return value.encode()
    raise ValueError("expected bytes")


def _timedelta(value: Any, text: bool) -> timedelta:
    try:
        return timedelta(seconds=seconds(value))
    except OverflowError:
        raise ValueError("expected a timedelta or seconds, fewer than there are") from None


_SIMPLE: dict[Any, Checker] = {
    bool: Checker("true or false", lambda value: isinstance(value, bool), _bool),
    int: Checker("an integer", lambda value: isinstance(value, int) and not isinstance(value, bool), _int),
    float: Checker("a number", lambda value: isinstance(value, float) and value == value, _float),
    str: Checker("text", lambda value: type(value) is str, _str),
    bytes: Checker("bytes", lambda value: isinstance(value, bytes), _bytes),
    timedelta: Checker(
        "a timedelta or seconds",
        lambda value: isinstance(value, timedelta),
        _timedelta,
    ),
    tzinfo: Checker("a tzinfo", lambda value: isinstance(value, tzinfo), _refuse("a tzinfo")),
}


# -- composed types ----------------------------------------------------------------------------------------------------


def _union(parts: list[Checker]) -> Checker:
    # "None" is said last and tried first: the empty text means "unset", not a text of no length.
    named = [part for part in parts if part.accepts != "None"]
    optional = len(named) != len(parts)
    accepts = " or ".join([part.accepts for part in named] + (["None"] if optional else []))
    only_text_may_be_a_word = all(part.accepts == "text" for part in named)

    def exact(value: Any) -> bool:
        return any(part.exact(value) for part in parts)

    def convert(value: Any, text: bool) -> Any:
        # Where any text is a value, "none" is one too, and only the empty text is not.
        if text and optional and is_none(value) and not (only_text_may_be_a_word and value.strip()):
            return None
        for part in sorted(named, key=lambda part: _eagerness(part, value)):
            try:
                return part.convert(value, text)
            except ValueError:
                continue
        raise ValueError(f"expected {accepts}")

    return Checker(accepts, exact, convert)


def _eagerness(part: Checker, value: Any) -> int:
    """The stricter first: any text is "text", and any text is a list of one."""
    if part.accepts.startswith("a list"):
        return 0 if isinstance(value, str) and value.lstrip()[:1] == "[" else 2
    return int(part.accepts in ("text", "any value"))


def _literal(values: tuple[Any, ...]) -> Checker:
    accepts = " or ".join(repr(value) for value in values)
    by_text = {str(value).lower(): value for value in values}

    def convert(value: Any, text: bool) -> Any:
        if isinstance(value, str) and (text or not isinstance(by_text.get(value.lower()), str)):
            found = by_text.get(value.strip().lower())
            if found is not None:
                return found
        raise ValueError(f"expected {accepts}")

    return Checker(accepts, lambda value: any(type(v) is type(value) and v == value for v in values), convert)


def _sequence(container: type, item: Checker) -> Checker:
    make: Callable[[Any], Any] = container if container in (list, set, frozenset) else tuple
    accepts = f"a list (each {item.accepts})" if item.accepts != "any value" else "a list"
    kinds: Any = make

    def exact(value: Any) -> bool:
        return isinstance(value, kinds) and all(item.exact(each) for each in value)

    def convert(value: Any, text: bool) -> Any:
        if isinstance(value, str):
            if not text:
                raise ValueError(f"expected {accepts}; write [{value!r}] for a list of one")
            value = _json(value) if value.lstrip()[:1] == "[" else [w.strip() for w in value.split(",") if w.strip()]
        elif isinstance(value, bytes | Mapping) or not isinstance(value, collections.abc.Iterable):
            raise ValueError(f"expected {accepts}")
        try:
            return make(item.convert(each, text and isinstance(each, str)) for each in value)
        except ValueError as error:
            raise ValueError(f"expected {accepts}; in it: {error}") from None

    return Checker(accepts, exact, convert)


def _mapping(key: Checker, value: Checker) -> Checker:
    accepts = "a mapping"

    def exact(given: Any) -> bool:
        return isinstance(given, dict) and all(key.exact(k) and value.exact(v) for k, v in given.items())

    def convert(given: Any, text: bool) -> Any:
        if text and isinstance(given, str):
            given = _json(given)
        if not isinstance(given, Mapping):
            raise ValueError(f"expected {accepts}{' (as JSON)' if text else ''}")
        converted: dict[Any, Any] = {}
        for k, v in given.items():
            try:
                converted[key.convert(k)] = value.convert(v)
            except ValueError as error:
                raise ValueError(f"expected {accepts}; at {k!r}: {error}") from None
        return converted

    return Checker(accepts, exact, convert)
