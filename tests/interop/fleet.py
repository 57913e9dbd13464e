"""A Celery worker and a kern worker on one broker, and a client of each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kern import Kern
from kern_testing.waiting import eventually

HERE = Path(__file__).parent


class Side:
    """A worker process of either kind."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, ready: str) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=HERE, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self._ready = ready

    def said(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def wait_until_ready(self) -> None:
        eventually(lambda: self._ready in self.said() or self._process.poll() is not None, "the worker is ready")
        assert self._process.poll() is None, self.said()

    def stop(self) -> None:
        """End it in order; what it ran is finished."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Fleet:
    """Both sides of one broker.

    :param folder: empty; for logs and the journal.
    """

    def __init__(self, folder: Path, celery_python: str, broker: str, results: str) -> None:
        self.folder = folder
        self._celery_python = celery_python
        self.journal = folder / "journal"
        self.journal.touch()
        self.environment = {
            "PEER_BROKER": broker,
            "PEER_RESULTS": results,
            "PEER_JOURNAL": str(self.journal),
            "C_FORCE_ROOT": "1",  # Celery refuses pickle to root, and tests may be run by root
        }
        self._sides: list[Side] = []
        accepted = ["json", "pickle", "yaml", "msgpack"]
        self.kern = Kern(
            "client",
            broker=broker,
            backend=results,
            accept_content=accepted,
            result_accept_content=accepted,
            task_default_queue="for-celery",
        )

    def _start(self, command: Sequence[str], name: str, ready: str, more: Mapping[str, str]) -> Side:
        log = self.folder / f"{name}-{len(self._sides)}.log"
        side = Side(command, {**os.environ, **self.environment, **more}, log, ready)
        self._sides.append(side)
        return side

    def celery_worker(self, queues: str, *arguments: str, **environment: str) -> Side:
        command = [
            *(self._celery_python, "-m", "celery", "-A", "celery_peer", "worker", "-Q", queues, "-l", "INFO"),
            *("--without-gossip", "--without-mingle", "-n", f"celery-{len(self._sides)}@test", *arguments),
        ]
        return self._start(command, "celery", " ready.", environment)

    def kern_worker(self, queues: str, *arguments: str, **environment: str) -> Side:
        command = [
            *(sys.executable, "-m", "kern", "worker", "-A", "kern_peer", "-Q", queues, "-l", "INFO"),
            *("-n", f"kern-{len(self._sides)}@test", *arguments),
        ]
        return self._start(command, "kern", "ready; Ctrl+C", environment)

    def get(self, task_id: str, timeout: float = 20) -> dict[str, Any]:
        """What kern's client gets, however the task ended."""
        result = self.kern.AsyncResult(task_id)
        value = result.get(timeout=timeout, propagate=False)
        error = isinstance(value, BaseException)
        return {
            "state": result.state,
            "value": repr(value) if error else value,
            "class": type(value).__qualname__,
            "args": [str(argument) for argument in value.args] if isinstance(value, BaseException) else None,
            "traceback": result.traceback,
        }

    def noted(self) -> Counter[str]:
        """How often each ``peer.note`` was run."""
        return Counter(line.split()[0] for line in self.journal.read_text().splitlines())

    def noted_by(self) -> Counter[str]:
        """How many each side ran."""
        return Counter(line.split()[1] for line in self.journal.read_text().splitlines())

    def close(self) -> None:
        self.kern.close()
        for side in self._sides:
            side.stop()
