"""Points in the flow at which a test can stop the world."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kern
from kern import seams


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    seams.disarm()


def test_nothing_happens_until_somebody_arms_it() -> None:
    passed: list[str] = []
    seams.reached("claimed")
    seams.arm("claimed", lambda: passed.append("claimed"))
    seams.arm("settled", lambda: passed.append("settled"))
    for name in ("claimed", "settled", "ran"):
        seams.reached(name)
    seams.disarm("claimed")
    seams.reached("claimed")
    seams.disarm()
    seams.reached("settled")
    assert passed == ["claimed", "settled"]


def test_a_seam_that_does_not_exist_cannot_be_armed() -> None:
    with pytest.raises(ValueError, match=r"no seam 'claimd'; known: publishing, published, "):
        seams.arm("claimd", lambda: None)


def test_code_reaches_only_seams_that_exist() -> None:
    assert kern.__file__ is not None
    reached = set()
    for path in Path(kern.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "seams.reached":
                reached.add(ast.literal_eval(node.args[0]))
    assert reached <= set(seams.NAMES)
    assert {"publishing", "published", "running"} <= reached
