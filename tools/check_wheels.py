"""Every package builds, and its wheel works alone.

Each wheel is installed with its dependencies, and nothing else, in a clean environment. There all its modules and entry
points must import. Packages of kern it depends on come from the same build, never from an index, where somebody else
may own the name.
"""

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.build import EVERY, build, wheel_of
from tools.workspace import ROOT, UV, Package, normalized, packages, requirement_name

# Runs in the clean environment. Arguments: the distribution, then its modules, "-", then modules that may be missing.
IMPORTS = """
import importlib, importlib.metadata, sys, traceback

distribution, *rest = sys.argv[1:]
modules, optional = rest[:rest.index("-")], rest[rest.index("-") + 1:]
failed = False

def attempt(what, load):
    global failed
    try:
        load()
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in optional:
            failed = True
            print(f"{what}: {exc}; is it declared?", file=sys.stderr)
    except BaseException as exc:
        failed = True
        where = traceback.extract_tb(exc.__traceback__)[-1]
        print(f"{what}: {where.filename}:{where.lineno}: {exc!r}", file=sys.stderr)

for module in modules:
    attempt(f"import {module}", lambda: importlib.import_module(module))
for point in importlib.metadata.distribution(distribution).entry_points:
    attempt(f"entry point {point.group}: {point.name}", point.load)
sys.exit(failed)
"""


def constraints_for(wheels: dict[str, Path], target: Path) -> Path:
    """A constraints file that binds each package of kern to its wheel."""
    target.write_text("".join(f"{name} @ {path.resolve().as_uri()}\n" for name, path in wheels.items()))
    return target


def optional_modules(package: Package) -> list[str]:
    """Import names of what only its extras bring."""
    only_extras = package.declared - {requirement_name(item) for item in package.requirements}
    by_module = importlib.metadata.packages_distributions()
    return sorted(module for module, names in by_module.items() if only_extras & {normalized(name) for name in names})


def content_problems(package: Package, wheel: Path) -> list[str]:
    """What a wheel must hold beside its code."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    problems = []
    if f"{package.import_name}/py.typed" not in names:
        problems.append("no py.typed")
    if not any(name.endswith("/licenses/LICENSE") for name in names):
        problems.append("no LICENSE")
    foreign = {name.partition("/")[0] for name in names} - {package.import_name}
    if unexpected := sorted(name for name in foreign if not name.endswith(".dist-info")):
        problems.append(f"more than {package.import_name}: {', '.join(unexpected)}")
    return problems


def check(package: Package, wheel: Path, constraints: Path, environment: Path) -> list[str]:
    """Install the wheel alone and import all of it."""
    python = environment / "bin" / "python"
    commands: list[list[str | Path]] = [
        [UV, "venv", "--quiet", "--python", sys.executable, environment],
        [
            *(UV, "pip", "install", "--quiet", "--no-sources", "--python", python),
            *("--constraint", ROOT / "constraints.txt", "--constraint", constraints, package.name),
        ],
        [UV, "pip", "check", "--quiet", "--python", python],
        [python, "-I", "-c", IMPORTS, package.name, *package.modules(), "-", *optional_modules(package)],
    ]
    for command in commands:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            return [(done.stderr or done.stdout).strip()]
    return content_problems(package, wheel)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="kern-wheels-") as folder:
        temporary = Path(folder)
        dist = temporary / "dist"
        everything = packages()
        build(EVERY, dist)
        wheels = {package.name: wheel_of(package, dist) for package in everything}
        constraints = constraints_for(wheels, temporary / "kern.txt")

        def check_one(package: Package) -> list[str]:
            return check(package, wheels[package.name], constraints, temporary / package.name)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(check_one, everything))
        for package, problems in zip(everything, found, strict=True):
            failed = failed or bool(problems)
            print(f"{package.name} {package.version}: {'installs alone and imports' if not problems else 'FAILED'}")
            for problem in problems:
                print(f"    {problem}".replace("\n", "\n    "), file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
