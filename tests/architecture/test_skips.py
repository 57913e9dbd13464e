"""A skip is announced at home, and fails the run under CI=true."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.workspace import ROOT

TESTS = {
    "test_call.py": "import pytest\ndef test_it(): pytest.skip('no server')\n",
    "test_module.py": "import pytest\npytest.skip('no library', allow_module_level=True)\n",
    "test_fine.py": (
        "import pytest\n"
        "def test_it(): pass\n"
        "@pytest.mark.xfail(strict=False)\n"
        "def test_expected_to_fail(): assert False\n"
    ),
}


def run(folder: Path, *tests: str, ci: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (folder / "pytest.ini").write_text("[pytest]\n")
    for name in tests:
        (folder / name).write_text(TESTS[name])
    # Nothing of what the outer run loaded or was told.
    own = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "xdist", *options, *tests],
        cwd=folder,
        env={**own, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "xdist"])
@pytest.mark.parametrize(("skipping", "why"), [("test_call.py", "no server"), ("test_module.py", "no library")])
def test_a_skip_fails_the_run_in_ci(tmp_path: Path, skipping: str, why: str, options: tuple[str, ...]) -> None:
    done = run(tmp_path, "test_fine.py", skipping, ci="true", options=options)
    assert done.returncode == 1, done.stdout
    assert "1 SKIPPED: a failure, for CI is set" in done.stdout
    assert why in done.stdout


def test_a_skip_is_announced_and_does_not_fail_at_home(tmp_path: Path) -> None:
    done = run(tmp_path, "test_fine.py", "test_call.py", ci="")
    assert done.returncode == 0, done.stdout
    assert "1 SKIPPED (a failure under CI=true)" in done.stdout


def test_what_is_expected_to_fail_is_no_skip(tmp_path: Path) -> None:
    done = run(tmp_path, "test_fine.py", ci="true")
    assert done.returncode == 0, done.stdout
