"""`make release` lets through what agrees and works at both ends of its range, and says what else is in the way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.release import changelog_problems
from tools.workspace import ROOT, packages

PLUGIN = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "kern-echo"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["kern-core>=0.1,<0.2"]

[tool.hatch.build.targets.wheel]
packages = ["src/kern_echo"]
"""

CORE = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "kern-core"
version = "0.1.0"
requires-python = ">=3.11"

[tool.hatch.build.targets.wheel]
packages = ["src/kern"]
"""

# Notes which core it met: one line a run.
TEST = """
import importlib.metadata, os, pathlib
import kern_echo

def test_it() -> None:
    assert "site-packages" in kern_echo.__file__
    with pathlib.Path(os.environ["CORES_SEEN"]).open("a") as file:
        print(importlib.metadata.version("kern-core"), file=file)
"""


class Clone:
    """A clone of a workspace of two packages, with the tools of this one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen = root.parent / "seen.txt"

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def replace(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def git(self, *arguments: str) -> None:
        who = ("-c", "user.name=kern", "-c", "user.email=kern@localhost", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *arguments], cwd=self.root, check=True, capture_output=True)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change")

    def release(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tools.release", *arguments],
            cwd=self.root,
            env={**os.environ, "CORES_SEEN": str(self.seen)},
            capture_output=True,
            text=True,
            check=False,
        )

    def refusal(self, *arguments: str) -> str:
        done = self.release(*arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stderr


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    origin = Clone(tmp_path_factory.mktemp("origin") / "kern")
    shutil.copytree(ROOT / "tools", origin.root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "constraints.txt", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, origin.root / name)
    origin.write("core/pyproject.toml", CORE)
    origin.write("core/src/kern/__init__.py", "")
    origin.write("core/CHANGELOG.md", "## 0.1.0 (2026-01-01)\n")
    origin.write("plugins/echo/pyproject.toml", PLUGIN)
    origin.write("plugins/echo/src/kern_echo/__init__.py", "import kern\n")
    origin.write("plugins/echo/tests/test_echo.py", TEST)
    origin.write("plugins/echo/CHANGELOG.md", "# Changelog of kern-echo\n\n## 0.1.0 (2026-01-01)\n\nFirst.\n")
    origin.git("init", "--quiet")
    origin.commit()
    return origin.root


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Clone:
    subprocess.run(["git", "clone", "--quiet", origin, tmp_path / "kern"], check=True)
    return Clone(tmp_path / "kern")


def agreement(clone: Clone, tag: str = "kern-echo-v0.1.0") -> str:
    return clone.refusal("kern-echo", "--tag", tag, "--only-agreement")


def test_what_agrees_passes(clone: Clone) -> None:
    done = clone.release("kern-echo", "--tag", "kern-echo-v0.1.0", "--only-agreement")
    assert done.returncode == 0, done.stderr


def test_the_tag_on_head_is_taken_when_none_is_given(clone: Clone) -> None:
    clone.git("tag", "kern-core-v0.1.0")
    clone.git("tag", "kern-echo-v0.1.0")
    done = clone.release("kern-echo", "--only-agreement")
    assert done.returncode == 0, done.stderr


def test_without_a_tag_it_says_which_one_to_make(clone: Clone) -> None:
    assert "git tag kern-echo-v0.1.0" in clone.refusal("kern-echo")


def test_two_tags_on_head_contradict_each_other(clone: Clone) -> None:
    clone.git("tag", "kern-echo-v0.1.0")
    clone.git("tag", "kern-echo-v0.2.0")
    assert "contradict" in clone.refusal("kern-echo")


def test_a_tag_of_another_version_disagrees(clone: Clone) -> None:
    assert "kern-echo-v0.2.0 says 0.2.0, the file says 0.1.0" in agreement(clone, "kern-echo-v0.2.0")


def test_a_tag_of_another_package_is_named(clone: Clone) -> None:
    assert "is not one of kern-echo" in agreement(clone, "kern-core-v0.1.0")


def test_a_tag_on_another_commit_is_refused(clone: Clone) -> None:
    clone.git("tag", "kern-echo-v0.1.0")
    clone.write("plugins/echo/README.md", "later")
    clone.commit()
    assert "another commit" in agreement(clone)


def test_a_changelog_of_another_version_disagrees(clone: Clone) -> None:
    clone.replace("plugins/echo/CHANGELOG.md", "0.1.0", "0.3.0")
    clone.commit()
    assert "the top section is 0.3.0, the version is 0.1.0" in agreement(clone)


def test_an_unreleased_section_has_no_date_yet(clone: Clone) -> None:
    clone.replace("plugins/echo/CHANGELOG.md", "(2026-01-01)", "(unreleased)")
    clone.commit()
    assert "still says unreleased" in agreement(clone)


def test_what_is_not_committed_is_not_released(clone: Clone) -> None:
    clone.write("plugins/echo/src/kern_echo/more.py", "")
    assert "not committed" in agreement(clone)


def test_every_disagreement_is_named_at_once(clone: Clone) -> None:
    clone.replace("plugins/echo/CHANGELOG.md", "0.1.0", "0.3.0")
    seen = agreement(clone, "kern-echo-v0.2.0")
    assert "says 0.2.0" in seen
    assert "0.3.0" in seen
    assert "not committed" in seen


def test_an_unknown_distribution_comes_with_the_nearest_known_one(clone: Clone) -> None:
    assert "did you mean kern-echo?" in clone.refusal("kern-eco")


def test_a_core_outside_the_range_is_refused(clone: Clone) -> None:
    clone.replace("core/pyproject.toml", "0.1.0", "0.2.0")
    clone.commit()
    assert "the core of this tree is 0.2.0" in clone.refusal("kern-echo", "--tag", "kern-echo-v0.1.0")


@pytest.mark.slow
def test_it_is_tested_with_the_oldest_and_the_newest_core(clone: Clone) -> None:
    clone.git("tag", "kern-core-v0.1.0")
    clone.replace("core/pyproject.toml", "0.1.0", "0.1.7")
    clone.commit()
    done = clone.release("kern-echo", "--tag", "kern-echo-v0.1.0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert clone.seen.read_text().split() == ["0.1.0", "0.1.7"]
    built = {path.name for path in (clone.root / "dist").iterdir()}
    assert {"kern_echo-0.1.0-py3-none-any.whl", "kern_echo-0.1.0.tar.gz"} <= built


@pytest.mark.slow
def test_without_a_tag_of_core_the_oldest_is_the_one_of_the_tree(clone: Clone) -> None:
    done = clone.release("kern-echo", "--tag", "kern-echo-v0.1.0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it equals the core of this tree, 0.1.0" in done.stdout
    assert clone.seen.read_text().split() == ["0.1.0"]


@pytest.mark.slow
def test_what_fails_with_the_oldest_core_is_not_released(clone: Clone) -> None:
    clone.git("tag", "kern-core-v0.1.0")
    clone.replace("core/pyproject.toml", "0.1.0", "0.1.7")
    clone.write("core/src/kern/__init__.py", "NEW = 1\n")
    clone.write("plugins/echo/src/kern_echo/__init__.py", "from kern import NEW\n")
    clone.commit()
    done = clone.release("kern-echo", "--tag", "kern-echo-v0.1.0")
    assert done.returncode == 1
    assert "fail with kern-core 0.1.0 (tag kern-core-v0.1.0)" in done.stderr


def test_every_changelog_begins_with_the_version_of_its_package() -> None:
    problems = [problem for package in packages() for problem in changelog_problems(package, package.name)]
    assert not [problem for problem in problems if "unreleased" not in problem]
