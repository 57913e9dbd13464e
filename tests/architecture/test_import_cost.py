"""What an import costs whoever only wants to send a task."""

import json
import subprocess
import sys

import pytest

#: Third parties that `import kern` may load.
CHEAP = {"attr", "attrs", "pluggy"}

LOADED = """
import json, sys, sysconfig
before = set(sys.modules)
import {module}
places = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
new = [sys.modules[name] for name in sys.modules.keys() - before]
foreign = [module for module in new if (getattr(module, "__file__", None) or "").startswith(places)]
print(json.dumps(sorted({{module.__name__.partition(".")[0] for module in foreign}})))
"""


def loaded_by(module: str) -> set[str]:
    """Top-level names of third parties that importing a module brings, in a fresh process."""
    program = [sys.executable, "-c", LOADED.format(module=module)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_kern_loads_attrs_and_pluggy_at_most() -> None:
    assert loaded_by("kern") <= CHEAP


@pytest.mark.parametrize("module", ["kern.errors", "kern.states", "kern.seams"])
def test_the_words_of_kern_cost_no_third_party_but_those(module: str) -> None:
    assert loaded_by(module) <= CHEAP
