"""What the modules of a source tree import, read from their syntax trees: nothing is executed."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.workspace import ROOT


@dataclass(frozen=True)
class Import:
    """One module named by an import, and where."""

    #: Dotted name of the module in which it stands.
    importer: str
    #: Dotted name of what is imported, as far as it is a module or may be one.
    target: str
    #: What is taken from the target, for ``from target import name``; None for a module.
    name: str | None
    path: Path
    line: int

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]

    def __str__(self) -> str:
        what = f"{self.target}.{self.name}" if self.name else self.target
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.importer} imports {what}"


@cache
def imports_of(folder: Path, package: str | None = None) -> list[Import]:
    """Every import below a folder, those in functions included, those for type checking left out.

    `package` is the dotted name of the folder when it is a package; scripts and tests have none.
    """
    found: list[Import] = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        names = [*(package.split(".") if package else []), *parts]
        is_package = names[-1] == "__init__"
        module = ".".join(names[:-1] if is_package else names)
        # What a single dot means.
        base = names[:-1]
        for node in executed(parsed(path)):
            for target, name in targets(node, base):
                found.append(Import(module, target, name, path, node.lineno))
    return found


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def executed(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom | ast.Call]:
    """Import statements and calls of `import_module`, except those below ``if TYPE_CHECKING``."""
    if isinstance(node, ast.If) and is_type_checking(node.test):
        for otherwise in node.orelse:
            yield from executed(otherwise)
        return
    if isinstance(node, ast.Import | ast.ImportFrom) or (isinstance(node, ast.Call) and is_import_call(node)):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from executed(child)


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def is_import_call(node: ast.Call) -> bool:
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    return (
        called in {"import_module", "__import__"}
        and bool(node.args)
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    )


def targets(node: ast.Import | ast.ImportFrom | ast.Call, base: list[str]) -> Iterator[tuple[str, str | None]]:
    """(module, name taken from it) for everything a node imports."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, None
    elif isinstance(node, ast.ImportFrom):
        parents = base[: len(base) - node.level + 1] if node.level else []
        module = ".".join([*parents, *([node.module] if node.module else [])])
        for alias in node.names:
            yield module, alias.name
    else:
        argument = node.args[0]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            name = argument.value
            dots = len(name) - len(name.lstrip("."))
            parents = base[: len(base) - dots + 1] if dots else []
            yield ".".join([*parents, name.lstrip(".")]), None


def constants(path: Path) -> set[str]:
    """Names a module binds by plain assignment at its top level, ``API = 1``."""
    names: set[str] = set()
    for node in parsed(path).body:
        assigned = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names |= {target.id for target in assigned if isinstance(target, ast.Name)}
    return names
