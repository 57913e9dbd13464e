"""The contestants: name, module, environment, and how much work each is given.

To add one, see :mod:`benchmarks.contestants`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import attrs

ROOT = Path(__file__).resolve().parent.parent
#: The one that is held to targets, and the one it is compared with.
OURS, THEIRS = "kern", "celery"


def _environment(folder: str) -> Path:
    return ROOT / folder / "bin" / "python"


@attrs.frozen
class Contestant:
    """Who is measured."""

    #: Heads its column.
    title: str
    #: In :mod:`benchmarks.contestants`.
    module: str
    #: The interpreter of its environment.
    python: Path
    #: How it writes the URL of an SQL database: ``kern`` or ``celery``.
    dialect: str = "kern"
    #: Server → share of the full amount of work. One that is slower by orders of magnitude is measured at the same rate
    #: with less.
    share: Mapping[str, float] = {}


_CELERY = {"sqlite": 0.05, "postgresql": 0.05, "redis": 0.1}

CONTESTANTS: Mapping[str, Contestant] = {
    OURS: Contestant("kern", "kern", Path(sys.executable)),
    THEIRS: Contestant("Celery", "celery", _environment(".venv-celery"), "celery", _CELERY),
    "celery-tuned": Contestant("Celery, tuned", "celery_tuned", _environment(".venv-celery-tuned"), "celery", _CELERY),
    "bare": Contestant("bare loop", "bare", Path(sys.executable), share={"redis": 2.5}),
}
