"""Every hook is explained to its implementer, and tested."""

import ast

import pytest

from tools.imports import parsed
from tools.workspace import ROOT, packages

HOOKSPECS = ROOT / "core" / "src" / "kern" / "hookspecs.py"


def hooks() -> dict[str, str | None]:
    """Name and docstring of every hook, whether it stands in a class or in the module."""
    if not HOOKSPECS.exists():
        return {}
    return {
        node.name: ast.get_docstring(node)
        for node in ast.walk(parsed(HOOKSPECS))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("kern_")
    }


@pytest.fixture(scope="module")
def tests_of_the_tree() -> str:
    folders = [*(package.tests for package in packages()), ROOT / "tests"]
    return "\n".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))


def test_every_hook_has_a_docstring() -> None:
    assert not [name for name, docstring in hooks().items() if not docstring]


def test_every_hook_is_named_in_some_test(tests_of_the_tree: str) -> None:
    assert not [name for name in hooks() if name not in tests_of_the_tree]
