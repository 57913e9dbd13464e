"""Short text for anything."""

import tracemalloc
from collections import OrderedDict, deque
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kern.saferepr import masked, saferepr


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((), "()"),
        ((1,), "(1,)"),
        ((2, 2), "(2, 2)"),
        ([1, 2.5, None, True], "[1, 2.5, None, True]"),
        ({}, "{}"),
        ({"a": 1, "b": "x"}, "{'a': 1, 'b': 'x'}"),
        ({1: (), None: []}, "{1: (), None: []}"),
        (["it's"], r"['it\'s']"),
        ({"a": [1, [2, [3]]]}, "{'a': [1, [2, [...]]]}"),
        ([[[{1: 2}]]], "[[[{...}]]]"),
        ([[[(1,)]]], "[[[(...,)]]]"),
        (b"abc", "b'abc'"),
        (b"\xff\xfe", "b'fffe'"),
        ({1}, "{1}"),
        (set(), "set()"),
        (frozenset({1}), "frozenset({1})"),
        (frozenset(), "frozenset()"),
        (range(3), "range(0, 3)"),
        ((Decimal("1.50"), 10**30), "(Decimal('1.50'), 1000000000000000000000000000000)"),
        (OrderedDict(a=1), "{'a': 1}"),
        (deque([1]), "deque([1])"),
        ("text", "'text'"),
        (5, "5"),
        (("é\n",), "('é\n',)"),
    ],
)
def test_a_value_is_shown_as_celery_shows_it(value: Any, text: str) -> None:
    assert saferepr(value) == text


def test_long_text_is_cut_and_what_is_open_is_closed() -> None:
    assert saferepr(["x" * 100], 10) == "['xxxxxxxxx...']"
    assert saferepr({"a": ["x" * 100, 5]}, 10) == "{'a': ['xxx...', ...]}"


def test_a_long_container_is_cut_once() -> None:
    text = saferepr([[1, 2], list(range(1000)), 3], 40)
    assert text.startswith("[[1, 2], [0, 1, 2, ")
    assert text.endswith(", ...]]")
    assert text.count(", ...") == 1
    assert len(text) < 60


def test_levels_can_be_chosen() -> None:
    value = [[[[1]]]]
    assert saferepr(value, maxlevels=1) == "[[...]]"
    assert saferepr(value, maxlevels=0) == "[[[[1]]]]"


def test_a_container_in_itself_is_named() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert saferepr(value) == "[1, <Recursion on list>]"
    pair = [[5], [5]]
    pair[1] = pair[0]
    assert saferepr(pair) == "[[5], [5]]", "twice is not in itself"


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Unruly(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("no")


class Enumerated(str):
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_no_value_raises() -> None:
    assert saferepr((1, Hostile())) == "(1, <Unrepresentable Hostile: RuntimeError>)"
    assert saferepr((Enumerated("x"),)) == "('x',)"
    assert saferepr([Unruly(a=1)]).startswith("[{")
    assert saferepr((10**5000,)).startswith("(")


def test_nesting_without_end_raises_nothing() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert saferepr(value, maxlevels=0).startswith("[[[")


def test_large_values_cost_little() -> None:
    value = ("x" * 10_000_000, b"y" * 10_000_000, list(range(1_000_000)), {n: n for n in range(100_000)})
    tracemalloc.start()
    text = saferepr(value)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(text) < 1200
    assert peak < 1_000_000


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner) | st.frozensets(st.integers())
    ),
    max_leaves=30,
)


@given(values, st.integers(1, 200), st.integers(0, 5))
def test_text_is_bounded(value: Any, maxlen: int, maxlevels: int) -> None:
    text = saferepr(value, maxlen, maxlevels)
    # What closes, quotes and escaped quotes may come on top.
    assert len(text) <= 2 * maxlen + 100


class TestMasked:
    NAMES = ("user", "password", "*rest", "token", "**others")

    def shown(self, args: tuple[Any, ...], kwargs: dict[str, Any], *sensitive: str) -> tuple[str, str]:
        return masked(args, kwargs, sensitive, self.NAMES)

    def test_by_position_and_by_keyword(self) -> None:
        assert self.shown(("me", "hunter2"), {}, "password") == ("('me', '***')", "{}")
        assert self.shown(("me",), {"password": "hunter2"}, "password") == ("('me',)", "{'password': '***'}")
        assert self.shown(("me",), {"token": [1, 2]}, "token") == ("('me',)", "{'token': '***'}")

    def test_nothing_is_hidden_where_nothing_is_sensitive(self) -> None:
        assert self.shown(("me", "x"), {"token": 1}) == ("('me', 'x')", "{'token': 1}")

    def test_all_the_rest(self) -> None:
        assert self.shown(("me", "x", 1, 2), {}, "rest") == ("('me', 'x', '***', '***')", "{}")
        assert self.shown((), {"user": 1, "a": 2, "b": 3}, "others") == ("()", "{'user': 1, 'a': '***', 'b': '***'}")

    def test_an_argument_of_no_known_parameter_is_hidden(self) -> None:
        assert masked(("a", "b"), {"x": 1}, {"password"}, ("user",)) == ("('a', '***')", "{'x': 1}")

    def test_a_keyword_only_parameter_takes_no_position(self) -> None:
        assert masked((1, 2), {"b": 3}, {"b"}, ("a", "*", "b")) == ("(1, '***')", "{'b': '***'}")

    def test_the_arguments_stay_as_they_are(self) -> None:
        args, kwargs = ["me", "hunter2"], {"token": 1}
        masked(args, kwargs, {"password", "token"}, self.NAMES)
        assert (args, kwargs) == (["me", "hunter2"], {"token": 1})
