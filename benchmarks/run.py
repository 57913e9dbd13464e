"""Alternating rounds: within a row the contestants take turns."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

import attrs

from benchmarks.arena import arena, settle_down
from benchmarks.lineup import CONTESTANTS, OURS, THEIRS
from benchmarks.rows.row import HIGHER, Figure, Row
from benchmarks.servers import Servers


@attrs.define
class Measured:
    """What was measured of one figure: contestant → one number a round."""

    figure: Figure
    rounds: dict[str, list[float]] = attrs.field(factory=dict)
    #: Contestant → why there is no number.
    failures: dict[str, str] = attrs.field(factory=dict)

    def median(self, contestant: str) -> float | None:
        """``None``: not measured."""
        numbers = self.rounds.get(contestant)
        return statistics.median(numbers) if numbers and contestant not in self.failures else None

    def ratio(self, contestant: str = OURS) -> float | None:
        """How many times better than Celery at its defaults."""
        ours, theirs = self.median(contestant), self.median(THEIRS)
        if ours is None or theirs is None or min(ours, theirs) <= 0:
            return None
        return ours / theirs if self.figure.better == HIGHER else theirs / ours

    def reached(self) -> bool | None:
        """Whether kern reaches what it has to; ``None``: nothing to reach, or not known."""
        figure, ours, ratio = self.figure, self.median(OURS), self.ratio()
        known = []
        if figure.target is not None and ours is not None:
            known.append(ours >= figure.target if figure.better == HIGHER else ours <= figure.target)
        if figure.ratio is not None and ratio is not None:
            known.append(ratio >= figure.ratio)
        return all(known) if known else None


def measure(rows: Sequence[Row], rounds: int, contestants: Sequence[str]) -> Iterator[list[Measured]]:
    """Measure row by row: the figures of each.

    :param contestants: those that take part at all.
    """
    with Servers() as servers:
        for row in rows:
            names = [name for name in row.contestants if name in contestants]
            measured = [Measured(figure, {name: [] for name in names}) for figure in row.figures]
            failures: dict[str, str] = {}
            for _ in range(min(rounds, row.rounds or rounds)):
                for name in names:
                    if name in failures:
                        continue
                    try:
                        with arena(CONTESTANTS[name], row.server, servers) as place:
                            numbers = row.measure(place)
                    except Exception as error:
                        failures[name] = f"{type(error).__name__}: {error}"
                    else:
                        for one, number in zip(measured, numbers, strict=True):
                            one.rounds[name].append(number)
                    settle_down()
            for one in measured:
                one.failures = failures
            yield measured
