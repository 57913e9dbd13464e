"""What annotations of settings accept, from Python and from text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, timedelta, tzinfo
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kern.setting_types import checker

ACCEPTED_FROM_PYTHON: list[tuple[Any, Any, Any]] = [
    (int, 5, 5),
    (int, "5", 5),
    (int, 5.0, 5),
    (float, 5, 5.0),
    (float, "0.5", 0.5),
    (float, float("inf"), float("inf")),
    (bool, True, True),
    (bool, "false", False),
    (bool, 1, True),
    (str, "x", "x"),
    (bytes, b"x", b"x"),
    (bytes, "ä", "ä".encode()),
    (timedelta, 60, timedelta(minutes=1)),
    (float, 10**300, 1e300),
    (tzinfo, UTC, UTC),
    (tuple[str, ...], ["a", "b"], ("a", "b")),
    (tuple[str, ...], {"a"}, ("a",)),
    (list[int], ("1", 2), [1, 2]),
    (Sequence[str], ["a"], ("a",)),
    (frozenset[str], ["a", "a"], frozenset({"a"})),
    (dict[str, int], {"a": "1"}, {"a": 1}),
    (Mapping[str, Any], {"a": [1]}, {"a": [1]}),
    (dict, {}, {}),
    (int | None, None, None),
    (int | None, "7", 7),
    (str | int, 5, 5),
    (bool | dict[str, Any], {"cert": "x"}, {"cert": "x"}),
    (str | tuple[str, ...] | None, ["a"], ("a",)),
    (Literal["a", "b"], "a", "a"),
    (Literal[1, 2], 1, 1),
    (Literal[1, 2], "2", 2),
    (Any, object, object),
    (Callable[..., Any], print, print),
]

REFUSED_FROM_PYTHON: list[tuple[Any, Any, str]] = [
    (int, True, "an integer"),
    (int, 5.5, "an integer"),
    (int, "five", "an integer"),
    (int, None, "an integer"),
    (float, "x", "a number"),
    (float, float("nan"), "a number"),
    (float, "nan", "a number"),
    (float, True, "a number"),
    (float, 10**400, "a number"),
    (timedelta, 1e300, "a timedelta or seconds"),
    (timedelta, 10**400, "a duration is a number of seconds"),
    (timedelta, "soon", "a duration is a number of seconds"),
    (bool, "maybe", "true or false"),
    (bool, 2, "true or false"),
    (bool, None, "true or false"),
    (str, 5, "text"),
    (str, b"x", "text"),
    (bytes, 5, "bytes"),
    (tuple[str, ...], "abc", r"write \['abc'\] for a list of one"),
    (tuple[str, ...], 5, "a list"),
    (tuple[str, ...], {"a": 1}, "a list"),
    (tuple[str, ...], ["a", 5], "in it: expected text"),
    (dict[str, int], [("a", 1)], "a mapping"),
    (dict[str, int], {"a": "x"}, "at 'a': expected an integer"),
    (dict[str, int], {1: 1}, "at 1: expected text"),
    (dict[str, int], '{"a": 1}', "a mapping"),
    (int | None, "none", "an integer or None"),
    (Literal["a", "b"], "c", "'a' or 'b'"),
    (Literal[1, 2], True, "1 or 2"),
    (Callable[..., Any], "os.getcwd", "a callable"),
    (tzinfo, "UTC", "a tzinfo"),
    (type(None), 0, "None"),
]

ACCEPTED_FROM_TEXT: list[tuple[Any, str, Any]] = [
    (int, " 12 ", 12),
    (float, "1e3", 1000.0),
    *((bool, word, True) for word in ("true", "YES", "on", "1")),
    *((bool, word, False) for word in ("false", "No", "off", "0")),
    (str, "", ""),
    (str, "none", "none"),
    (tuple[str, ...], "a, b,,c", ("a", "b", "c")),
    (tuple[str, ...], "", ()),
    (tuple[str, ...], '["a", "b,c"]', ("a", "b,c")),
    (list[int], "1,2", [1, 2]),
    (dict[str, Any], '{"a": {"b": 1}}', {"a": {"b": 1}}),
    (int | None, "none", None),
    (int | None, "", None),
    (int | None, "null", None),
    (str | None, "", None),
    (str | None, "none", "none"),
    (bool | None, "off", False),
    (bool | dict[str, Any], "yes", True),
    (bool | dict[str, Any], '{"a": 1}', {"a": 1}),
    (str | tzinfo | None, "UTC", "UTC"),
    (str | float | None, "10/m", "10/m"),
    (Literal["a", "b"] | None, "A", "a"),
    (str | tuple[str, ...] | None, "a://b,c", "a://b,c"),
    (str | tuple[str, ...] | None, '["a://", "b://"]', ("a://", "b://")),
    (tuple[str, ...] | None, "a,b", ("a", "b")),
    (Any, '{"a": 1}', {"a": 1}),
    (Any, "[1]", [1]),
    (Any, "text", "text"),
]

REFUSED_FROM_TEXT: list[tuple[Any, str, str]] = [
    (int, "", "an integer"),
    (bool, "", "true or false"),
    (dict[str, Any], "a=1", "not JSON"),
    (dict[str, Any], "[1]", r"a mapping \(as JSON\)"),
    (tuple[str, ...], "[1", "not JSON"),
    (tuple[str, ...], "[1]", "in it: expected text"),
    (list[int], "a,b", "in it: expected an integer"),
    (Any, "{", "not JSON"),
]


@pytest.mark.parametrize(("hint", "value", "expected"), ACCEPTED_FROM_PYTHON, ids=repr)
def test_values_from_python_become_the_type(hint: Any, value: Any, expected: Any) -> None:
    """What loses nothing is converted, and what is right already stays as it is."""
    found = checker(hint).convert(value)
    assert found == expected
    assert type(found) is type(expected)
    assert checker(hint).exact(found)


@pytest.mark.parametrize(("hint", "value", "message"), REFUSED_FROM_PYTHON, ids=repr)
def test_values_from_python_that_mean_something_else_are_refused(hint: Any, value: Any, message: str) -> None:
    """The error says what is accepted."""
    with pytest.raises(ValueError, match=message):
        checker(hint).convert(value)


@pytest.mark.parametrize(("hint", "text", "expected"), ACCEPTED_FROM_TEXT, ids=repr)
def test_text_is_parsed_by_type(hint: Any, text: str, expected: Any) -> None:
    """The environment has only text."""
    found = checker(hint).convert(text, text=True)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(("hint", "text", "message"), REFUSED_FROM_TEXT, ids=repr)
def test_text_that_cannot_be_parsed_is_refused(hint: Any, text: str, message: str) -> None:
    """The error says what is accepted."""
    with pytest.raises(ValueError, match=message):
        checker(hint).convert(text, text=True)


@pytest.mark.parametrize("hint", [tuple[int, str], "int", 5])
def test_annotations_nobody_could_write_in_an_environment_are_refused(hint: Any) -> None:
    """Whoever declares such a setting learns it at once."""
    with pytest.raises(TypeError, match="a setting cannot be a"):
        checker(hint)


def test_what_is_accepted_is_said_in_words() -> None:
    """For messages and ``kern config``."""
    assert checker(int | None).accepts == "an integer or None"
    assert checker(tuple[str, ...]).accepts == "a list (each text)"
    assert checker(bool | dict[str, Any]).accepts == "true or false or a mapping"
    assert checker(Literal["a", 1]).accepts == "'a' or 1"


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), plain))
def test_a_mapping_survives_the_environment(value: dict[str, Any]) -> None:
    """Written as JSON, it is read as it was."""
    assert checker(dict[str, Any]).convert(json.dumps(value), text=True) == value


@given(plain, st.sampled_from([hint for hint, _, _ in ACCEPTED_FROM_PYTHON]), st.booleans())
def test_no_value_breaks_a_checker(value: Any, hint: Any, text: bool) -> None:
    """Whatever is given, the answer is a value of the type or a ValueError; and checking it again changes nothing."""
    check = checker(hint)
    try:
        found = check.convert(value, text)
    except ValueError:
        return
    assert check.exact(found)
    assert check.convert(found) == found
