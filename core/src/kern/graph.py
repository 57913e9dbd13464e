"""A small directed graph, with its drawing in the language of Graphviz."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Generic, TextIO, TypeVar

N = TypeVar("N", bound=Hashable)


class GraphFormatter:
    """How a graph is drawn.

    :param root: what stands above the graph, drawn apart; usually an id.
    :param shape: the shape of nodes; further attributes of nodes are keywords.
    """

    def __init__(self, root: Any = None, id: str = "dependencies", **node_attributes: Any) -> None:
        self.root = root
        self.id = id
        self.node_attributes = {"shape": "box", **node_attributes}

    def label(self, node: Any) -> str:
        """The text of a node."""
        return str(node)

    def is_root(self, node: Any) -> bool:
        return self.root is not None and str(node) == str(self.root)

    def attributes(self, node: Any) -> Mapping[str, Any]:
        """Attributes of one node beside its label."""
        return {"style": "filled", "fillcolor": "palegreen"} if self.is_root(node) else {}

    def head(self) -> str:
        return f"digraph {_quoted(self.id)} {{\n  node [{_attributes(self.node_attributes)}];\n"

    def node(self, node: Any) -> str:
        return f"  {_quoted(self.label(node))} [{_attributes({'label': self.label(node), **self.attributes(node)})}];\n"

    def edge(self, start: Any, end: Any) -> str:
        return f"  {_quoted(self.label(start))} -> {_quoted(self.label(end))};\n"

    def tail(self) -> str:
        return "}\n"


class DependencyGraph(Generic[N]):
    """Nodes, and for each the nodes that it leads to, in the order in which they were added."""

    def __init__(self, edges: Iterable[tuple[N, Iterable[N]]] = (), formatter: GraphFormatter | None = None) -> None:
        self.formatter = formatter or GraphFormatter()
        self.adjacent: dict[N, list[N]] = {}
        self.update(edges)

    def add_arc(self, node: N) -> None:
        """Add a node."""
        self.adjacent.setdefault(node, [])

    def add_edge(self, start: N, end: N) -> None:
        """Lead from one node to another."""
        self.add_arc(start)
        self.add_arc(end)
        self.adjacent[start].append(end)

    def update(self, edges: Iterable[tuple[N, Iterable[N]]]) -> None:
        """Add nodes with the nodes each leads to."""
        for start, ends in edges:
            self.add_arc(start)
            for end in ends:
                self.add_edge(start, end)

    def valency_of(self, node: N) -> int:
        """How many edges lead on from *node* and from what can be reached from it."""
        seen: set[N] = set()
        stack, count = [node], 0
        while stack:
            current = stack.pop()
            if current in seen:
                continue
            seen.add(current)
            count += len(self.adjacent[current])
            stack.extend(self.adjacent[current])
        return count

    def edges(self) -> Iterator[N]:
        """Nodes that lead somewhere."""
        return (node for node, ends in self.adjacent.items() if ends)

    def topsort(self) -> list[N]:
        """All nodes, each after those that it leads to.

        :raises ValueError: there is a cycle.
        """
        found: list[N] = []
        state: dict[N, bool] = {}  # False: being looked at, True: done
        for start in self.adjacent:
            stack: list[tuple[N, Iterator[N]]] = [(start, iter(self.adjacent[start]))] if start not in state else []
            state.setdefault(start, False)
            while stack:
                node, ends = stack[-1]
                for end in ends:
                    if end not in state:
                        state[end] = False
                        stack.append((end, iter(self.adjacent[end])))
                        break
                    if not state[end]:
                        raise ValueError(f"there is a cycle through {end}")
                else:
                    state[node] = True
                    found.append(node)
                    stack.pop()
        return found

    def to_dot(self, file: TextIO, formatter: GraphFormatter | None = None) -> None:
        """Write the graph in Graphviz's language."""
        draw = formatter or self.formatter
        file.write(draw.head())
        for node in self.adjacent:
            file.write(draw.node(node))
        for node, ends in self.adjacent.items():
            for end in ends:
                file.write(draw.edge(node, end))
        file.write(draw.tail())

    def items(self) -> Iterable[tuple[N, list[N]]]:
        return self.adjacent.items()

    iteritems = items

    def __iter__(self) -> Iterator[N]:
        return iter(self.adjacent)

    def __len__(self) -> int:
        return len(self.adjacent)

    def __contains__(self, node: object) -> bool:
        return node in self.adjacent

    def __getitem__(self, node: N) -> list[N]:
        return self.adjacent[node]

    def __repr__(self) -> str:
        return "\n".join(f"{node} -> {', '.join(map(str, ends)) or '(nothing)'}" for node, ends in self.items())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _attributes(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_quoted(str(value))}" for name, value in values.items())
