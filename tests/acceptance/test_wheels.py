"""From wheels alone, in a clean environment, a newcomer runs a task."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools.build import build, wheel_of
from tools.check_wheels import constraints_for
from tools.workspace import UV, packages

#: What somebody installs who wants no server.
NEEDED = ("kern-core", "kern-sql-engine", "kern-broker-sql", "kern-backend-sql")

PROJECT = """
from kern import Kern

app = Kern("newcomer")


@app.task
def add(x, y):
    return x + y
"""

CALL = """
from newcomer import add

print(add.delay(20, 22).get(timeout=30))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment in which nothing but these wheels, and what they need, is installed."""
    folder = tmp_path_factory.mktemp("wheels")
    wanted = [package for package in packages() if package.name in NEEDED]
    for package in wanted:
        build(package.folder, folder / "dist")
    wheels = {package.name: wheel_of(package, folder / "dist") for package in wanted}
    environment = folder / "environment"
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, environment], check=True)
    interpreter = environment / "bin" / "python"
    subprocess.run(
        [
            *(UV, "pip", "install", "-q", "--python", interpreter),
            *("-c", constraints_for(wheels, folder / "constraints.txt")),
            *[str(path) for path in wheels.values()],
        ],
        check=True,
    )
    return interpreter


def test_core_and_the_sql_plugins_run_a_task_from_their_wheels(python: Path, tmp_path: Path) -> None:
    (tmp_path / "newcomer.py").write_text(PROJECT)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    worker = subprocess.Popen(
        [python, "-m", "kern", "worker", "-A", "newcomer"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE
    )
    try:
        answer = subprocess.run(
            [python, "-c", CALL], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
    finally:
        worker.send_signal(signal.SIGTERM)
        _, said = worker.communicate(timeout=30)
    assert answer.stdout.strip() == "42", answer.stderr + said.decode()
    assert worker.returncode == 0, said.decode()


def test_the_environment_has_nothing_of_kern_but_these_wheels(python: Path) -> None:
    listed = subprocess.run(
        [UV, "pip", "list", "--python", python, "--format", "freeze"], check=True, capture_output=True, text=True
    )
    ours = {line.split("==")[0].split(" ")[0] for line in listed.stdout.splitlines() if line.startswith("kern")}
    assert ours == set(NEEDED)
