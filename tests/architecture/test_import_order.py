"""Within core, a module knows only those written before it."""

import ast
from pathlib import Path

from tools.imports import Import, constants, imports_of, parsed
from tools.workspace import ROOT

CORE = ROOT / "core" / "src" / "kern"

#: The one place where the order stands. A line is a step of the way from values to the command line; a module may
#: import those on the lines above it, and on its own line those to its left. contracts, worker and cli are packages,
#: each one word here. Imports inside functions count; imports under TYPE_CHECKING do not.
ORDER = [
    *("errors", "log", "states", "seams"),
    *("timeutil", "saferepr", "masking", "tracebacks", "loops", "identity", "modules"),
    *("message", "delivery", "request", "outcome"),
    *("serialization", "protocol", "documents"),
    *("queues", "setting_types", "config_sources", "celery_settings", "settings", "settings_core", "routing"),
    "contracts",
    *("hookspecs", "plugins"),
    "signature",
    *("task_options", "call_options", "arguments", "task", "task_annotations", "decorators", "shared"),
    *("graph", "result_wait", "result_callbacks", "result", "result_client"),
    *("connection", "publish"),
    *("runner", "eager", "calls", "builtin_tasks"),
    "app",
    "worker",
    "cli",
]

#: They stand outside: the first names everything, lazily; the second starts the last.
EXEMPT = {"kern", "kern.__main__"}


def module_of(name: str) -> str:
    """``kern.worker.loop`` is part of `worker`."""
    return name.split(".")[1]


def modules_here() -> set[str]:
    files = {path.stem for path in CORE.glob("*.py")}
    packages = {path.name for path in CORE.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    return (files | packages) - {"__init__", "__main__"}


def test_every_module_has_its_place_in_the_order() -> None:
    unknown = sorted(modules_here() - set(ORDER))
    assert not unknown, (
        f"core has modules without a place: {', '.join(unknown)}."
        f" Give each one in ORDER, in {Path(__file__).relative_to(ROOT)}, as far to the front as its imports allow."
    )


def test_no_module_stands_twice_in_the_order() -> None:
    assert len(ORDER) == len(set(ORDER))


def target_in_core(found: Import) -> str | None:
    """The module of core an import needs, or "kern" if it takes an exported name; None if that is no matter of core."""
    if found.top != "kern":
        return None
    if found.target == "kern":
        if found.name is None or found.name in constants(CORE / "__init__.py"):
            return None
        return found.name if found.name in modules_here() else "kern"
    return module_of(found.target)


def test_a_module_imports_only_those_before_it() -> None:
    wrong = []
    for found in imports_of(CORE, "kern"):
        target = target_in_core(found)
        if found.importer in EXEMPT or target is None:
            continue
        own = module_of(found.importer)
        if target == "kern":
            wrong.append(f"{found}: name the module it comes from, the package's own exports are for users")
        elif own in ORDER and target in ORDER and ORDER.index(target) > ORDER.index(own):
            wrong.append(f"{found}, but `{target}` comes after `{own}`")
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_package_itself_imports_nothing_of_its_modules_before_it_is_asked() -> None:
    eager = [
        str(found)
        for found in imports_of(CORE, "kern")
        if found.importer == "kern" and found.top == "kern" and found.line in top_level_lines()
    ]
    assert not eager, "exports of kern/__init__.py are lazy (a module's __getattr__, PEP 562):\n" + "\n".join(eager)


def top_level_lines() -> set[int]:
    """Lines of `kern/__init__.py` that run when it is imported: all but the bodies of its functions."""
    tree = parsed(CORE / "__init__.py")
    inside = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return {node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)} - inside
