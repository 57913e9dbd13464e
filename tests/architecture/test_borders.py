"""Who may know whom: core no technology and no plugin, a plugin only what it declares."""

import importlib.metadata
import sys

import pytest

from tools.imports import Import, imports_of
from tools.workspace import ROOT, Package, normalized, packages, requirement_name

CORE, *PLUGINS = packages()
INSTALLED = importlib.metadata.packages_distributions()

#: What core may stand on. Whatever else there is to stand on, a plugin stands on it.
LIBRARIES_OF_CORE = {
    *("attr", "attrs", "click", "importlib_metadata", "kombu", "msgspec", "pluggy", "stevedore", "structlog"),
}

#: What comes with an extra, and the one module that asks for it when it is needed: codecs a body may be written with,
#: and what makes a traceback of its text.
EXTRAS_OF_CORE = {"kern.serialization": {"backports", "brotli", "msgpack", "yaml"}, "kern.result": {"tblib"}}

#: Technology that needs no installation.
FORBIDDEN_IN_CORE = {"dbm", "sqlite3"}

#: kombu is there for its serializers, queue and exchange entities. Its connections and transports are another house.
FORBIDDEN_OF_KOMBU = {"transport", "connection", "messaging", "pools", "mixins", "Connection", "Consumer", "Producer"}


def is_foreign(found: Import) -> bool:
    return found.top not in sys.stdlib_module_names


def is_extra(found: Import) -> bool:
    return found.top in EXTRAS_OF_CORE.get(found.importer, ())


def taken_from_kombu(found: Import) -> str | None:
    """The submodule or name of kombu an import takes first."""
    if found.top != "kombu":
        return None
    _, _, rest = found.target.partition(".")
    return rest.partition(".")[0] or found.name


def test_core_imports_no_technology() -> None:
    wrong = [
        str(found)
        for found in imports_of(CORE.source, CORE.import_name)
        if (is_foreign(found) and found.top not in {"kern", *LIBRARIES_OF_CORE} and not is_extra(found))
        or found.top in FORBIDDEN_IN_CORE
        or taken_from_kombu(found) in FORBIDDEN_OF_KOMBU
    ]
    assert not wrong, f"core stands on {', '.join(sorted(LIBRARIES_OF_CORE))} and nothing else:\n" + "\n".join(wrong)


def test_core_declares_no_plugin() -> None:
    ours = {package.name for package in PLUGINS}
    assert not CORE.declared & ours


@pytest.mark.parametrize("package", packages(), ids=lambda package: package.name)
def test_a_package_imports_only_what_it_declares(package: Package) -> None:
    wrong: dict[str, str] = {}
    for found in imports_of(package.source, package.import_name):
        if is_foreign(found) and found.top != package.import_name and not providers(found.top) & package.declared:
            wrong.setdefault(found.top, f"{found}; add {' or '.join(providers(found.top))}")
    where = (package.folder / "pyproject.toml").relative_to(ROOT)
    assert not wrong, f"missing among the dependencies in {where}:\n" + "\n".join(wrong.values())


def providers(module: str) -> set[str]:
    """The distributions a top-level module may come from."""
    ours = {package.import_name: package.name for package in packages()}
    if module in ours:
        return {ours[module]}
    return {normalized(name) for name in INSTALLED.get(module, [module])}


def is_plugin(package: Package) -> bool:
    """Whether it registers something. What does not is shared code, and may be shared."""
    return "kern.plugins" in package.entry_points


@pytest.mark.parametrize("package", PLUGINS, ids=lambda package: package.name)
def test_no_plugin_stands_on_another(package: Package) -> None:
    others = {other.name: other for other in PLUGINS if other is not package and is_plugin(other)}
    always = {requirement_name(item) for item in package.requirements} & others.keys()
    assert not always, f"{package.name} depends on {always}: what two plugins share is a distribution of its own"
    modules = {other.import_name for other in others.values()}
    wrong = [str(found) for found in imports_of(package.source, package.import_name) if found.top in modules]
    assert not wrong, "one plugin imports another:\n" + "\n".join(wrong)


def test_only_tests_import_kern_testing() -> None:
    wrong = [
        str(found)
        for package in packages()
        if package.import_name != "kern_testing"
        for found in imports_of(package.source, package.import_name)
        if found.top == "kern_testing"
    ]
    assert not wrong, "\n" + "\n".join(wrong)
