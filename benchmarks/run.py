"""Alternating rounds, medians, ratios, a table."""

from __future__ import annotations

import platform
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import attrs

from benchmarks.arena import ROOT, arena, settle_down
from benchmarks.rows import HIGHER, Row
from kern_testing.servers import PostgreSQL

#: Name and interpreter of each contestant; the first is the one all others are compared with.
CONTESTANTS: dict[str, Path] = {
    "kern": Path(sys.executable),
    "celery": ROOT / ".venv-celery" / "bin" / "python",
}

#: Celery moves some tens of tasks a second over SQL: it gets a twentieth of the work, at the same rate.
SCALE = {"celery": 0.05}


@attrs.define
class Figures:
    """What was measured of one row: contestant → one figure a round."""

    row: Row
    rounds: dict[str, list[float]]
    #: Contestant → why there is no figure.
    failures: dict[str, str] = attrs.field(factory=dict)

    def median(self, contestant: str) -> float | None:
        figures = self.rounds.get(contestant)
        return statistics.median(figures) if figures else None

    def ratio(self) -> float | None:
        """How many times better kern is."""
        ours, theirs = self.median("kern"), self.median("celery")
        if not ours or not theirs:
            return None
        return ours / theirs if self.row.better == HIGHER else theirs / ours

    def reached(self) -> bool | None:
        """Whether kern's median reaches the target, if the row has one."""
        ours = self.median("kern")
        if self.row.target is None or ours is None:
            return None
        return ours >= self.row.target if self.row.better == HIGHER else ours <= self.row.target


def measure(rows: Sequence[Row], rounds: int, contestants: Sequence[str]) -> Iterator[Figures]:
    """Measure row by row; within a row the contestants take turns."""
    wants_postgresql = any(row.server == "postgresql" for row in rows)
    with _postgresql() if wants_postgresql else nullcontext() as server:
        for row in rows:
            figures = Figures(row, {name: [] for name in contestants})
            for _ in range(rounds):
                for name in contestants:
                    if (row.alone and name != "kern") or name in figures.failures:
                        continue
                    try:
                        figures.rounds[name].append(_once(row, name, server))
                    except Exception as error:
                        figures.failures[name] = str(error)
                    settle_down()
            yield figures


def _once(row: Row, name: str, server: PostgreSQL | None) -> float:
    database = server.create_database() if row.server == "postgresql" and server is not None else None
    try:
        with arena(name, str(CONTESTANTS[name]), database, SCALE.get(name, 1.0)) as place:
            return row.measure(place)
    finally:
        if database is not None and server is not None:
            server.drop_database(database)


@contextmanager
def _postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def table(results: Sequence[Figures], contestants: Sequence[str]) -> str:
    """The results in Markdown: median (smallest–largest), ratio, target."""
    names = [name for name in contestants if name != "kern"]
    lines = [
        f"| | kern | {' | '.join(names)} | ratio | target |".replace("|  |", "|"),
        "|---|---|" + "---|" * len(names) + "---|---|",
    ]
    for figures in results:
        cells = [_cell(figures, name) for name in ("kern", *names)]
        ratio, reached = figures.ratio(), figures.reached()
        target = "" if figures.row.target is None else f"{figures.row.target:,g} {'✓' if reached else '✗'}"
        lines.append(f"| {figures.row.name} | {' | '.join(cells)} | {f'{ratio:.1f} ×' if ratio else ''} | {target} |")
    return "\n".join(lines)


def _cell(figures: Figures, name: str) -> str:
    rounds = figures.rounds.get(name)
    if name in figures.failures:
        return "failed"
    if not rounds:
        return "–"
    median = statistics.median(rounds)
    return f"**{_number(median)}** ({_number(min(rounds))}–{_number(max(rounds))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> str:
    """What this was measured on."""
    import os

    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
