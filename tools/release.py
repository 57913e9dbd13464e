"""Prepare the release of one distribution. Nothing is published.

1. The git tag, the version in pyproject.toml and the top section of CHANGELOG.md must say the same.
2. The distribution is built into dist/.
3. Its tests run against that wheel, once with the oldest and once with the newest core of the range it names.

An old core is built from its tag (kern-core-v0.1.0). While no tag lies in the range, there is only the core of this
tree, and one run says so.
"""

import argparse
import difflib
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from tools.build import build, wheel_of
from tools.check_wheels import constraints_for
from tools.workspace import ROOT, UV, Package, packages, requirement_name, run

CORE = "kern-core"
HEADING = re.compile(r"^## +(?P<version>\S+)(?P<rest>.*)$", re.MULTILINE)


class Refused(Exception):
    """What stands against the release, each point with what to do about it."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Source:
    """A version of a package of kern, and where it is taken from."""

    version: Version
    #: None: this tree.
    tag: str | None

    def __str__(self) -> str:
        return f"{self.version} ({f'tag {self.tag}' if self.tag else 'this tree'})"


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


# Agreement ----------------------------------------------------------------------------------------------------------


def find(name: str) -> Package:
    known = {package.name: package for package in packages()}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise Refused(f"there is no distribution {name!r} here{hint} Known: {', '.join(sorted(known))}")


def tag_of_head(package: Package) -> str:
    tags = [tag for tag in git("tag", "--points-at", "HEAD").splitlines() if tag.startswith(f"{package.name}-v")]
    if len(tags) == 1:
        return tags[0]
    if tags:
        raise Refused(f"the tags on HEAD contradict each other: {', '.join(tags)}; delete one, or give TAG=")
    raise Refused(
        f"no tag: HEAD has none that starts with {package.name}-v, and none was given."
        f" Type: git tag {package.name}-v{package.version}, or give TAG={package.name}-v{package.version}"
    )


def disagreements(package: Package, tag: str) -> list[str]:
    """Everything in which tag, version, changelog and commit do not say the same."""
    problems = []
    where = package.folder.relative_to(ROOT)
    prefix, version = f"{package.name}-v", package.version
    if not tag.startswith(prefix):
        problems.append(f"tag {tag} is not one of {package.name}: those start with {prefix}")
    elif tag != f"{prefix}{version}":
        problems.append(
            f"tag and {where}/pyproject.toml disagree: {tag} says {tag.removeprefix(prefix)}, the file says {version}"
        )
    if git("tag", "--list", tag) and git("rev-list", "-1", tag) != git("rev-parse", "HEAD"):
        problems.append(f"tag {tag} is on another commit than HEAD; check it out, or move the tag")
    problems += changelog_problems(package, f"{where}/CHANGELOG.md")
    if changed := git("status", "--porcelain", "--", str(where)):
        problems.append(f"{where} has changes that are not committed:\n{changed}")
    return problems


def changelog_problems(package: Package, where: str) -> list[str]:
    heading = HEADING.search((package.folder / "CHANGELOG.md").read_text())
    if heading is None:
        return [f"{where} has no section; its first should be: ## {package.version} (<date>)"]
    if heading["version"] != package.version:
        return [
            f"{where} and pyproject.toml disagree: the top section is {heading['version']},"
            f" the version is {package.version}"
        ]
    if "unreleased" in heading["rest"].lower():
        return [f"{where}: section {package.version} still says unreleased; put the date there"]
    return []


# Both ends of the range ---------------------------------------------------------------------------------------------


def sources(package: Package) -> list[Source]:
    """Every version of the package that can be built here, oldest first. A release wins over the tree."""
    found = {Version(package.version): Source(Version(package.version), None)}
    prefix = f"{package.name}-v"
    for tag in git("tag", "--list", f"{prefix}*").splitlines():
        try:
            version = Version(tag.removeprefix(prefix))
        except InvalidVersion:
            continue
        found[version] = Source(version, tag)
    return [found[version] for version in sorted(found)]


def requirement_on(package: Package, name: str) -> Requirement | None:
    for text in package.requirements:
        requirement = Requirement(text)
        if requirement.name == name:
            return requirement
    return None


def ends(package: Package) -> list[Source]:
    """The oldest and the newest core this package says it works with; one, if that is the same."""
    core = find(CORE)
    if package.name == CORE:
        return [Source(Version(core.version), None)]
    requirement = requirement_on(package, CORE)
    if requirement is None:
        raise Refused(f"{package.name} does not say which {CORE} it works with; it should depend on {CORE}>=…,<…")
    bounds = {specifier.operator for specifier in requirement.specifier}
    if not bounds & {">=", "==", "~="} or not bounds & {"<", "==", "~="}:
        raise Refused(f"{package.name} requires {requirement}: a range needs both ends, {CORE}>=…,<…")
    inside = [source for source in sources(core) if requirement.specifier.contains(source.version, prereleases=True)]
    if not requirement.specifier.contains(core.version, prereleases=True):
        raise Refused(f"{package.name} requires {requirement}, and the core of this tree is {core.version}")
    if all(source.tag is None for source in inside):
        print(f"oldest core: no tag {CORE}-v* lies in {requirement}; it equals the core of this tree, {core.version}")
    return inside[:1] if len(inside) == 1 else [inside[0], inside[-1]]


def companion(package: Package, core: Source) -> Source:
    """The newest version of another package of kern that admits this core."""
    for source in reversed(sources(package)):
        with tempfile.TemporaryDirectory() as folder:
            requirement = requirement_on(checkout(package, source, Path(folder)), CORE)
        if requirement is None or requirement.specifier.contains(core.version, prereleases=True):
            return source
    raise Refused(f"no version of {package.name} admits {CORE} {core}")


def checkout(package: Package, source: Source, target: Path) -> Package:
    """The package as that version has it."""
    if source.tag is None:
        return package
    where = package.folder.relative_to(ROOT)
    target.mkdir(parents=True, exist_ok=True)
    git("archive", "--output", str(target / "tree.tar"), source.tag, "--", str(where))
    # Not tarfile: its safe filter came with Python 3.11.4, and Debian 12 has 3.11.2.
    run("tar", "--extract", "--file", target / "tree.tar", "--directory", target)
    return Package(target / where)


def companions(package: Package) -> dict[str, Package]:
    """What of kern its tests need: the contract suites, its dependencies, theirs, and its dependency group "test"."""
    known = {other.name: other for other in packages()}
    needed: dict[str, Package] = {}
    open_names = {"kern-testing", *package.declared, *map(requirement_name, test_requirements(package))}
    while open_names:
        name = open_names.pop()
        if name in known and name not in needed and name != package.name:
            needed[name] = known[name]
            open_names |= known[name].declared
    return needed


def test_requirements(package: Package) -> list[str]:
    return list(package.pyproject.get("dependency-groups", {}).get("test", []))


def wheels_for(package: Package, core: Source, temporary: Path) -> dict[str, Path]:
    """Wheels of kern's packages, fit for this core; the one to release is already in dist/."""
    wheels = {package.name: wheel_of(package, ROOT / "dist")}
    for name, other in companions(package).items():
        source = core if name == CORE else companion(other, core)
        taken = checkout(other, source, temporary / "sources" / name)
        build(taken.folder, temporary / "wheels")
        wheels[name] = wheel_of(taken, temporary / "wheels")
    return wheels


def test_against(package: Package, core: Source) -> None:
    print(f"{package.name} {package.version} with {CORE} {core}", flush=True)
    with tempfile.TemporaryDirectory(prefix="kern-release-") as folder:
        temporary = Path(folder)
        wheels = wheels_for(package, core, temporary)
        python = temporary / "environment" / "bin" / "python"
        run(UV, "venv", "--quiet", "--python", sys.executable, temporary / "environment")
        extras = ",".join(sorted(package.extras))
        wanted = [f"{package.name}[{extras}]" if extras else package.name, "pytest", "pytest-timeout", "pytest-xdist"]
        wanted += [*({"kern-testing"} & wheels.keys() - {package.name}), *test_requirements(package)]
        run(
            *(UV, "pip", "install", "--quiet", "--no-sources", "--python", python),
            *("--constraint", ROOT / "constraints.txt"),
            *("--constraint", constraints_for(wheels, temporary / "kern.txt")),
            *wanted,
        )
        tests = package.tests.relative_to(ROOT)
        command = [python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider", tests]
        done = subprocess.run([str(part) for part in command], cwd=ROOT, check=False)
        if done.returncode:
            raise Refused(f"the tests of {package.name} {package.version} fail with {CORE} {core}")


def release(name: str, tag: str | None, *, only_agreement: bool) -> None:
    package = find(name)
    tag = tag or tag_of_head(package)
    if problems := disagreements(package, tag):
        raise Refused(*problems)
    print(f"{tag}: tag, version and changelog agree")
    if only_agreement:
        return
    if not package.tests.is_dir():
        raise Refused(f"{package.name} has no tests")
    cores = ends(package)
    build(package.folder, ROOT / "dist")
    for core in cores:
        test_against(package, core)
    print(f"{name} {package.version} is ready, and nothing is published. In dist/:")
    for path in sorted((ROOT / "dist").glob(f"{name.replace('-', '_')}-{package.version}[.-]*")):
        print(f"    {path.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", help="name of the distribution, such as kern-broker-sql")
    parser.add_argument("--tag", help="the tag it gets or has; default: the one on HEAD")
    parser.add_argument("--only-agreement", action="store_true", help="build and test nothing")
    options = parser.parse_args()
    try:
        release(options.package, options.tag, only_agreement=options.only_agreement)
    except Refused as exc:
        for problem in exc.problems:
            print(f"not released: {problem}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
