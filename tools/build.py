"""Build the sdist and the wheel of every package, or of those named, into a folder."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from tools.workspace import ROOT, Package, packages, uv


def build(folders: Iterable[Path], target: Path) -> None:
    """Build each folder's distribution, the wheel out of the sdist, so that the sdist is known to be complete."""
    for folder in folders:
        # Sources in pyproject.toml are for the workspace; what is published must build without them.
        uv(
            *("build", "--no-sources", "--quiet", "--build-constraints", ROOT / "constraints.txt"),
            *("--out-dir", target, folder),
        )


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
    chosen = [package for package in packages() if not options.names or package.name in options.names]
    build([package.folder for package in chosen], options.target.resolve())
    for path in sorted(options.target.iterdir()):
        if path.suffix in {".whl", ".gz"}:
            print(path)


if __name__ == "__main__":
    main()
