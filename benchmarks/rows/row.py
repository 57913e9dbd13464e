"""A line of the table, or several that one measurement gives."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from benchmarks.arena import Arena

#: Which direction is better.
HIGHER, LOWER = "higher", "lower"
#: Who takes part when a row does not say otherwise.
EVERYBODY: tuple[str, ...] = ("kern", "celery", "celery-tuned")
WITH_LIMIT: tuple[str, ...] = (*EVERYBODY, "bare")
ALONE: tuple[str, ...] = ("kern",)


@attrs.frozen
class Figure:
    """One line of the table."""

    name: str
    better: str = HIGHER
    #: What kern has to reach itself; ``None``: no such thing.
    target: float | None = None
    #: How many times better than Celery in the same run kern has to be.
    ratio: float | None = None


@attrs.frozen
class Row:
    """What is measured at once.

    :param measure: gives a number for each figure, for one contestant in one round.
    """

    figures: tuple[Figure, ...]
    measure: Callable[[Arena], tuple[float, ...]]
    #: Where messages and results are: ``redis``, ``postgresql``, ``sqlite``.
    server: str = "redis"
    contestants: tuple[str, ...] = EVERYBODY
    #: Rounds at most: long rows are measured once.
    rounds: int | None = None

    def is_called(self, text: str) -> bool:
        """Whether one of its figures has *text* in its name."""
        return any(text.lower() in figure.name.lower() for figure in self.figures)
