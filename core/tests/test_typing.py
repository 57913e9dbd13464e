"""What users' type checkers make of kern: files that are only checked, with what is wrong in them marked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.workspace import ROOT, packages

HERE = Path(__file__).parent / "typing"


def checked(*paths: Path) -> str:
    """What mypy says, strictly. A mark on a line that is all right is an error, too."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *map(str, paths)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": os.pathsep.join(str(package.source.parent) for package in packages())},
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_calls_and_results_have_the_types_they_are_said_to_have() -> None:
    files = sorted(HERE.glob("*.py"))
    assert len(files) >= 2
    said = checked(*files)
    assert said.startswith("Success"), said


@pytest.mark.slow
def test_a_mistake_is_found(tmp_path: Path) -> None:
    """So that the test above cannot pass by looking at nothing."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from kern import Kern\n"
        "app = Kern()\n"
        "@app.task\n"
        "def add(x: int) -> int: return x\n"
        "add.delay('1')\n"
        "reveal_type(add.delay(1).get())\n"
        "text: str = add.delay(1).get()\n"
    )
    lines = [line.partition("wrong.py:")[2] for line in checked(wrong).splitlines()]
    assert lines[0].startswith('5: error: Argument 1 to "delay" of "Task" has incompatible type "str"; expected "int"')
    assert lines[1].startswith('6: note: Revealed type is "int"') or "builtins.int" in lines[1]
    assert lines[2].startswith("7: error: Incompatible types in assignment")
