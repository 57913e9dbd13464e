"""A server that refuses us: one line that says which, no password, exit code 1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest


@pytest.mark.parametrize("which", ["broker", "results"])
def test_wrong_credentials_end_a_worker_with_one_line(which: str, tmp_path: Path, postgresql_url: str) -> None:
    """Waiting would not make them right."""
    (tmp_path / "project.py").write_text("from kern import Kern\n\napp = Kern('project')\n")
    password = urlsplit(postgresql_url).password
    assert password
    wrong = postgresql_url.replace(f":{password}@", ":not-the-password@")
    servers = {"broker": ["-b", wrong], "results": ["-b", postgresql_url, "--result-backend", f"db+{wrong}"]}[which]
    worker = subprocess.run(
        [sys.executable, "-m", "kern", "-q", "worker", "-A", "project", *servers],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert worker.returncode == 1, worker.stderr
    (line,) = worker.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "refuses this user and password" in line
    assert "not-the-password" not in worker.stdout + worker.stderr
