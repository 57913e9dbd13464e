"""Each package has all that is needed to release it alone."""

import json
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from tools.imports import constants
from tools.workspace import ROOT, Package, packages

each_package = pytest.mark.parametrize("package", packages(), ids=lambda package: package.name)

EXPORTS = """
import importlib, json, sys, types
module = importlib.import_module(sys.argv[1])
exported = getattr(module, "__all__", None)
missing = [name for name in exported or () if not hasattr(module, name)]
public = [
    name
    for name, value in vars(module).items()
    if not name.startswith("_")
    and not isinstance(value, types.ModuleType)
    and str(getattr(value, "__module__", "")).partition(".")[0] == sys.argv[1]
]
print(json.dumps({"exported": exported, "missing": missing, "public": public}))
"""


@each_package
def test_it_is_named_after_its_folder(package: Package) -> None:
    assert package.name == f"kern-{package.folder.name}"
    assert package.source.is_dir()


@each_package
@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "LICENSE"])
def test_it_has_a_readme_a_changelog_and_a_license(package: Package, name: str) -> None:
    assert (package.folder / name).read_text().strip()


@each_package
def test_it_has_the_license_of_the_tree(package: Package) -> None:
    # A copy, for a distribution can only ship what is in its folder.
    assert (package.folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@each_package
def test_it_is_typed(package: Package) -> None:
    assert (package.source / "py.typed").exists()
    assert (package.source / "__init__.py").exists()


@each_package
def test_its_entry_points_name_modules_it_has(package: Package) -> None:
    modules = set(package.modules())
    points = [value for group in package.entry_points.values() for value in group.values()]
    assert not [value for value in points if value.partition(":")[0] not in modules]


@each_package
def test_it_names_both_ends_of_the_core_it_works_with(package: Package) -> None:
    ranges = [Requirement(text) for text in package.requirements]
    for requirement in ranges:
        if requirement.name.startswith("kern-"):
            operators = {specifier.operator for specifier in requirement.specifier}
            assert {">=", "<"} <= operators, f"{requirement}: write {requirement.name}>=…,<…"
    assert package.name == "kern-core" or "kern-core" in {requirement.name for requirement in ranges}


@each_package
def test_its_exports_are_its_public_names(package: Package) -> None:
    program = [sys.executable, "-c", EXPORTS, package.import_name]
    seen = json.loads(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
    assert not seen["missing"], "in __all__, but not there"
    assigned = {name for name in constants(package.source / "__init__.py") if not name.startswith("_")}
    public = {*seen["public"], *assigned}
    if public:
        assert seen["exported"] is not None, f"{package.import_name}/__init__.py has public names and no __all__"
        assert not public - set(seen["exported"]), "public, but not in __all__"
        assert len(seen["exported"]) == len(set(seen["exported"])), "twice in __all__"


@each_package
def test_uv_takes_it_from_the_workspace(package: Package) -> None:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    sources = root["tool"]["uv"]["sources"]
    assert sources.get(package.name) == {"workspace": True}, (
        f"add to [tool.uv.sources] in pyproject.toml: {package.name} = {{ workspace = true }}"
    )
