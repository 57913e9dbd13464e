"""What is known of a death."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import attrs

#: Exit code of a process that found its way to the main process closed.
CUT_OFF = 113


@attrs.frozen
class Ending:
    """How a process ended."""

    #: As ``os.wait`` says; ``None``: nobody could wait for it.
    status: int | None
    #: KiB of resident memory at its largest.
    rss: int | None = None

    @property
    def signal(self) -> int | None:
        return os.WTERMSIG(self.status) if self.status is not None and os.WIFSIGNALED(self.status) else None

    @property
    def exit_code(self) -> int | None:
        return os.WEXITSTATUS(self.status) if self.status is not None and os.WIFEXITED(self.status) else None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"signal {self.signal} ({_signal_name(self.signal)})"
        return f"exit code {self.exit_code}" if self.exit_code is not None else "unknown"


def of_death(ending: Ending, reason: str | None = None, stack: str | None = None) -> dict[str, Any]:
    """What is kept of a death: ``signal`` or ``exit_code``, ``rss`` (KiB), ``reason``, ``stack``.

    :param reason: why we ended it; ``None``: we did not.
    """
    evidence: dict[str, Any] = {}
    if ending.signal is not None:
        evidence["signal"] = ending.signal
    if ending.exit_code is not None:
        evidence["exit_code"] = ending.exit_code
    if ending.rss:
        evidence["rss"] = ending.rss
    evidence["reason"] = reason or _reason(ending)
    if stack:
        evidence["stack"] = stack
    return evidence


def _reason(ending: Ending) -> str:
    if ending.signal == signal.SIGKILL:
        return "killed, possibly by the kernel for want of memory"
    if ending.signal is not None:
        return f"killed by {_signal_name(ending.signal)}"
    if ending.exit_code == CUT_OFF:
        return "its descriptors were closed, so that it could not answer"
    if ending.exit_code is not None:
        return f"exited with code {ending.exit_code} in the middle of a task"
    return "ended, and nobody could see how"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class OomCounter:
    """How many processes of our control group the kernel has killed for want of memory; where that can be read."""

    def __init__(self, root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> None:
        self._file = _events_file(root, membership)
        self._last = self._read()

    def has_risen(self) -> bool:
        """Whether it has since this was asked last."""
        last, self._last = self._last, self._read()
        return self._last is not None and last is not None and self._last > last

    def _read(self) -> int | None:
        if self._file is None:
            return None
        try:
            lines = self._file.read_text().split("\n")
        except OSError:
            return None
        return next((int(line[9:]) for line in lines if line.startswith("oom_kill ")), None)


def _events_file(root: Path, membership: Path) -> Path | None:
    try:
        entries = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return None
    for _, controllers, path in entries:
        inner = path.lstrip("/")
        if controllers == "":
            candidates = [root / inner / "memory.events", root / "memory.events"]
        elif "memory" in controllers.split(","):
            candidates = [root / "memory" / inner / "memory.oom_control", root / "memory" / "memory.oom_control"]
        else:
            continue
        for candidate in candidates:
            if candidate.is_file():
                return candidate
    return None
