"""Every module can be the first one imported: no cycle, no reliance on somebody having been there before."""

import subprocess
import sys

import pytest

from tools.imports import imports_of
from tools.workspace import Package, packages

# Each module in a process of its own, forked after loading the third parties: those cost the time, and ours the errors.
PROGRAM = """
import importlib, os, sys, traceback

split = sys.argv.index("-")
for name in sys.argv[1:split]:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # optional to some module, or missed by it below
assert not [name for name in sys.modules if name.partition(".")[0].startswith("kern")]
failed = 0
for name in sys.argv[split + 1:]:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            importlib.import_module(name)
            status = 0
        except BaseException as exc:
            where = traceback.extract_tb(exc.__traceback__)[-1]
            print(f"import {name}: {where.filename}:{where.lineno}: {exc!r}", file=sys.stderr, flush=True)
        os._exit(status)
    failed |= os.waitpid(child, 0)[1]
sys.exit(bool(failed))
"""


@pytest.mark.parametrize("package", packages(), ids=lambda package: package.name)
def test_each_module_is_importable_alone(package: Package) -> None:
    third_parties = {
        found.top
        for found in imports_of(package.source, package.import_name)
        if found.top not in sys.stdlib_module_names and not found.top.startswith("kern")
    }
    program = [sys.executable, "-c", PROGRAM, *sorted(third_parties), "-", *package.modules()]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"\n{done.stderr}"
