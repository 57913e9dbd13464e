"""Install every package of the workspace, editable and with all its extras, into this environment.

A new folder in plugins/ is found by itself. Third-party versions are those of constraints.txt: names and versions, and
nothing about where they come from, so that any mirror will do.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from tools.workspace import ROOT, UV, packages, requirement_name, uv

CONSTRAINTS = ROOT / "constraints.txt"


def install(groups: list[str], *, upgrade: bool) -> None:
    """Install the workspace and the named dependency groups; with `upgrade`, as new as their ranges allow."""
    arguments: list[str | Path] = ["pip", "install", "--python", sys.executable]
    # The sources in pyproject.toml are for `uv run` and `uv sync`; here every package is named, which says the same.
    arguments += ["--no-sources", "--quiet"]
    # Pinned is what the oldest Python can run, whichever one this is.
    arguments += ["--upgrade", "--python-version", "3.11.0"] if upgrade else ["--constraint", CONSTRAINTS]
    for package in packages():
        extras = ",".join(sorted(package.extras))
        path = package.folder.relative_to(ROOT)
        arguments += ["--editable", f"{path}[{extras}]" if extras else str(path)]
    for group in groups:
        arguments += ["--group", group]
    uv(*arguments)


def freeze(target: Path) -> None:
    """Write what is installed, without the packages of the workspace."""
    done = subprocess.run(
        [UV, "pip", "freeze", "--exclude-editable", "--python", sys.executable],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    # pip and setuptools are those of the interpreter.
    unpinned = {package.name for package in packages()} | {"pip", "setuptools"}
    pins = [line for line in done.stdout.splitlines() if "==" in line and requirement_name(line) not in unpinned]
    target.write_text("# Versions this tree is developed with. Made by `make constraints`.\n" + "\n".join(pins) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", action="append", default=[], help="dependency group of pyproject.toml")
    parser.add_argument("--upgrade", action="store_true", help="ignore constraints.txt")
    parser.add_argument("--freeze", type=Path, metavar="FILE", help="install nothing; write the installed versions")
    options = parser.parse_args()
    if options.freeze:
        freeze(options.freeze)
    else:
        install(options.group, upgrade=options.upgrade)


if __name__ == "__main__":
    main()
