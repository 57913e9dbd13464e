"""The Makefile is the only door: its targets make what they need; who lacks something is told the line to type."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.workspace import ROOT, packages

TARGETS = ("demo", "test", "faults", "check", "bench", "docs", "dist", "release", "clean")


def make(*arguments: str) -> str:
    """What make would do."""
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_there_is_a_target_that_help_names(target: str) -> None:
    assert make(target, "PLUGIN=kern-core")
    assert re.search(rf"\b{target}\b", make("help"))


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "clean"])
def test_a_target_makes_the_environment_it_needs(target: str, tmp_path: Path) -> None:
    """As first command after a clone: nothing is there, and everything is made on the way."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "core", "plugins", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(
        ["make", "-n", target, "PLUGIN=kern-core"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    bootstrap = done.stdout.index("sh tools/bootstrap.sh .venv")
    assert bootstrap < done.stdout.index("-m tools.install --group dev")


def test_continuous_integration_tests_and_checks() -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if not line.startswith("#")]
    assert commands[-3:] == ["export CI=true", "make test", "make check"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_release_without_a_plugin_says_how_to_call_it() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "-o", ".venv/.installed", "-o", "servers", "release"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "usage: make release PLUGIN=" in done.stderr


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("import sys; sys.exit('-c' in sys.argv and 'version_info <' in ' '.join(sys.argv))", "Python 3.11 or newer"),
        (
            f"import subprocess, sys\nif 'ensurepip' in ' '.join(sys.argv): sys.exit(1)\n"
            f"sys.exit(subprocess.call([{sys.executable!r}, *sys.argv[1:]]))",
            f"cannot make virtual environments. Type: sudo apt-get install python3.{sys.version_info[1]}-venv",
        ),
    ],
    ids=["too old", "without ensurepip"],
)
def test_a_machine_that_lacks_something_is_told_the_line_to_type(tmp_path: Path, script: str, told: str) -> None:
    """Who is not root cannot have it installed, and is told how."""
    python = tmp_path / "python3"
    python.write_text(f"#!{sys.executable}\n{script}\n")
    python.chmod(0o755)
    identity = tmp_path / "id"
    identity.write_text("#!/bin/sh\necho 1000\n")
    identity.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": str(python)}
    done = subprocess.run(
        ["sh", "tools/bootstrap.sh", str(tmp_path / "venv")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert told in done.stderr


def test_constraints_are_names_and_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    wrong = [line for line in lines if not re.fullmatch(r"#.*|[a-z0-9][a-z0-9.\-]*==[\w.+!]+(?: ; .+)?", line)]
    assert not wrong


def test_every_dependency_is_pinned() -> None:
    """Of each package: what it needs always; extras are pinned where the tree installs them."""
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    own = {package.name for package in packages()}
    needed = {
        re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        for package in packages()
        for requirement in package.project.get("dependencies", ())
    }
    assert not needed - own - pinned
