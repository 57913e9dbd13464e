"""Build the sdist and the wheel of every package, or of those named, into a folder."""

import argparse
from pathlib import Path

from tools.workspace import ROOT, Package, packages, uv

EVERY = "--all-packages"


def build(what: str | Path, target: Path) -> None:
    """Build one folder's distribution, or `EVERY` package: the wheel out of the sdist, which is then known complete."""
    # Sources in pyproject.toml are for the workspace; what is published must build without them.
    options = ("--no-sources", "--quiet", "--build-constraints", ROOT / "constraints.txt", "--out-dir", target)
    uv("build", *options, what)


def wheel_of(package: Package, target: Path) -> Path:
    """The wheel of this version of the package in the folder."""
    stem = f"{package.name.replace('-', '_')}-{package.version}-"
    wheels = [path for path in target.glob("*.whl") if path.name.startswith(stem)]
    if len(wheels) != 1:
        found = ", ".join(sorted(path.name for path in target.glob("*.whl"))) or "no wheel"
        raise SystemExit(f"{target} should have one wheel of {package.name} {package.version}; it has {found}")
    return wheels[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("names", nargs="*", metavar="DISTRIBUTION")
    options = parser.parse_args()
    target = options.target.resolve()
    if options.names:
        known = {package.name: package for package in packages()}
        for name in options.names:
            build(known[name].folder, target)
    else:
        build(EVERY, target)
    for path in sorted(options.target.iterdir()):
        if path.suffix in {".whl", ".gz"}:
            print(path)


if __name__ == "__main__":
    main()
