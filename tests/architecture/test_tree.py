"""What no file of the tree may hold."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tools.imports import parsed
from tools.workspace import ROOT, packages

THIS_FILE = Path(__file__)

#: Where packages come from and where things lie on a machine are settings of whoever builds, not of the project.
FORBIDDEN = {
    "the address of a package index": re.compile(
        r"https?://\S*/simple\b|\b(?:test\.)?pypi\.org/simple|pythonhosted\.org"
    ),
    "an option that names a package index": re.compile(r"--(?:extra-)?index-url\b|\bindex-url\s*="),
    "a path of one machine": re.compile(r"(?<![\w.~$}/-])/(?:work|root|Users)/"),
}

#: Says that a sleep is what a task does, and not how the test waits.
ALLOWED = "# the task's own duration"


def files() -> list[Path]:
    """Everything that is or would be committed."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def texts() -> Iterator[tuple[Path, str]]:
    for path in files():
        try:
            yield path, path.read_text()
        except UnicodeDecodeError:
            continue


def test_no_file_names_a_package_index_or_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {what}: {match[0]}"
        for path, text in texts()
        if path != THIS_FILE
        for what, pattern in FORBIDDEN.items()
        for number, line in enumerate(text.splitlines(), 1)
        if (match := pattern.search(line))
    ]
    assert not found, "\n" + "\n".join(found)


def sleeps(path: Path) -> Iterator[int]:
    """Lines that call a sleep, unless it lasts no time, which only lets others run."""
    tree = parsed(path)
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in {"time", "asyncio"}
        for alias in node.names
        if alias.name == "sleep"
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Attribute(value=ast.Name(id="time" | "asyncio"), attr="sleep"):
                pass
            case ast.Name(id=name) if name in names:
                pass
            case _:
                continue
        match node.args:
            case [ast.Constant(value=0)]:
                continue
        yield node.lineno


def test_no_test_waits_by_sleeping() -> None:
    folders = [*(package.tests for package in packages()), ROOT / "tests"]
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            lines = path.read_text().splitlines()
            found += [
                f"{path.relative_to(ROOT)}:{number}" for number in sleeps(path) if ALLOWED not in lines[number - 1]
            ]
    assert not found, f"wait for what is to happen, or, where a task is what sleeps, say so: {ALLOWED}\n" + "\n".join(
        found
    )
