"""A live Celery, in an environment of its own, to talk to."""

import base64
import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def celery_python() -> str:
    """The interpreter that has Celery: ``KERN_TEST_CELERY_PYTHON``, or ``.venv-celery`` at the root of the tree."""
    found = os.environ.get("KERN_TEST_CELERY_PYTHON") or str(ROOT / ".venv-celery" / "bin" / "python")
    if not Path(found).exists():
        pytest.skip(f"there is no Celery: {found} does not exist (make .venv-celery/.installed)")
    return found


class Probe:
    """Asks a script of Celery's: ``probe.publish(...)`` is its ``op_publish(...)``."""

    def __init__(self, python: str, script: str = "celery_probe.py", **environment: str) -> None:
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name(script))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def ask(self, op: str, **question: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(base64.b64encode(pickle.dumps({"op": op, **question})).decode() + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"Celery's process ended with {self.process.wait(10)} instead of answering {op!r}")
        answer = pickle.loads(base64.b64decode(line))
        if "error" in answer:
            raise AssertionError(f"Celery could not {op}:\n{answer['error']}")
        return answer["answer"]

    def __getattr__(self, op: str) -> Any:
        return lambda **question: self.ask(op, **question)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def probe(celery_python: str) -> Iterator[Probe]:
    """A process with a real Celery application and a real worker in it."""
    started = Probe(celery_python)
    yield started
    started.close()
