"""A small directed graph and its drawing."""

from __future__ import annotations

import io

import pytest

from kern.graph import DependencyGraph, GraphFormatter


@pytest.fixture
def graph() -> DependencyGraph[str]:
    made: DependencyGraph[str] = DependencyGraph([("a", ["b", "c"]), ("b", ["d"]), ("c", ["d"])])
    return made


def test_nodes_are_there_with_what_they_lead_to(graph: DependencyGraph[str]) -> None:
    assert list(graph) == ["a", "b", "c", "d"]
    assert len(graph) == 4
    assert "d" in graph
    assert "e" not in graph
    assert graph["a"] == ["b", "c"]
    assert dict(graph.items()) == dict(graph.iteritems()) == {"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}
    assert list(graph.edges()) == ["a", "b", "c"]


def test_a_node_is_added_once(graph: DependencyGraph[str]) -> None:
    graph.add_arc("a")
    assert graph["a"] == ["b", "c"]


def test_valency_counts_every_edge_that_can_be_reached(graph: DependencyGraph[str]) -> None:
    assert [graph.valency_of(node) for node in "abcd"] == [4, 1, 1, 0]


def test_sorting_puts_each_after_what_it_leads_to(graph: DependencyGraph[str]) -> None:
    order = graph.topsort()
    assert sorted(order) == ["a", "b", "c", "d"]
    for node, ends in graph.items():
        assert all(order.index(end) < order.index(node) for end in ends)


def test_a_cycle_cannot_be_sorted(graph: DependencyGraph[str]) -> None:
    graph.add_edge("d", "a")
    with pytest.raises(ValueError, match="cycle through a"):
        graph.topsort()
    assert graph.valency_of("a") == 5


def test_a_graph_is_drawn_for_graphviz() -> None:
    graph: DependencyGraph[str] = DependencyGraph([('say "hi"', ["b"])], GraphFormatter(root="b", shape="oval"))
    drawing = io.StringIO()
    graph.to_dot(drawing)
    assert drawing.getvalue() == (
        'digraph "dependencies" {\n'
        '  node [shape="oval"];\n'
        '  "say \\"hi\\"" [label="say \\"hi\\""];\n'
        '  "b" [label="b", style="filled", fillcolor="palegreen"];\n'
        '  "say \\"hi\\"" -> "b";\n'
        "}\n"
    )


def test_a_graph_shows_itself(graph: DependencyGraph[str]) -> None:
    assert repr(graph).splitlines() == ["a -> b, c", "b -> d", "c -> d", "d -> (nothing)"]
