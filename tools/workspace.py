"""The packages of this tree, as their pyproject.toml files describe them.

Standard library only: `tools.install` runs before anything is installed.
"""

import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).parent / "uv"


def normalized(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(requirement: str) -> str:
    """`kern-core[yaml]>=0.1` -> `kern-core`."""
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    if match is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    return normalized(match[1])


@dataclass(frozen=True)
class Package:
    """One distribution of the workspace."""

    folder: Path

    @cached_property
    def pyproject(self) -> dict[str, Any]:
        return tomllib.loads((self.folder / "pyproject.toml").read_text())

    @property
    def project(self) -> dict[str, Any]:
        project: dict[str, Any] = self.pyproject["project"]
        return project

    @property
    def name(self) -> str:
        return str(self.project["name"])

    @property
    def version(self) -> str:
        return str(self.project["version"])

    @property
    def import_name(self) -> str:
        return "kern" if self.name == "kern-core" else self.name.replace("-", "_")

    @property
    def source(self) -> Path:
        return self.folder / "src" / self.import_name

    @property
    def tests(self) -> Path:
        return self.folder / "tests"

    @property
    def requirements(self) -> list[str]:
        """What it needs always."""
        return list(self.project.get("dependencies", []))

    @property
    def extras(self) -> dict[str, list[str]]:
        return dict(self.project.get("optional-dependencies", {}))

    @property
    def entry_points(self) -> dict[str, dict[str, str]]:
        """Group -> name -> module or object, scripts included."""
        points: dict[str, dict[str, str]] = dict(self.project.get("entry-points", {}))
        if "scripts" in self.project:
            points["console_scripts"] = self.project["scripts"]
        return points

    @property
    def declared(self) -> set[str]:
        """Names of the distributions it may import: its dependencies, and those of its extras."""
        optional = [item for items in self.extras.values() for item in items]
        return {requirement_name(item) for item in self.requirements + optional}

    def modules(self) -> list[str]:
        """Dotted names of all its modules, each package before what is in it."""
        names = []
        for path in sorted(self.source.rglob("*.py")):
            parts = path.relative_to(self.source.parent).with_suffix("").parts
            if parts[-1] != "__main__":  # runs the program
                names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        return sorted(names)


def packages(root: Path = ROOT) -> list[Package]:
    """Core first, then the plugins by name. A folder becomes a package by having a pyproject.toml."""
    manifests = [root / "core" / "pyproject.toml", *sorted(root.glob("plugins/*/pyproject.toml"))]
    return [Package(path.parent) for path in manifests]


def uv(*arguments: str | Path, cwd: Path = ROOT) -> None:
    """Run uv, from the root by default: its settings are in the pyproject.toml there.

    What it prints is shown only when it fails.
    """
    run(UV, *arguments, cwd=cwd)


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Run a command and be silent about it, unless it fails: then its output, and `SystemExit`."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        print(f"failed ({done.returncode}): {' '.join(str(part) for part in command)}", file=sys.stderr)
        raise SystemExit(1)
