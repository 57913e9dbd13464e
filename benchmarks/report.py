"""What was measured, for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from typing import Any

from benchmarks.lineup import CONTESTANTS, OURS
from benchmarks.run import Measured


def table(results: Sequence[Measured], contestants: Sequence[str]) -> str:
    """Median (smallest–largest) of each contestant, how many times better than Celery kern is, and has to be."""
    head = ["", *(CONTESTANTS[name].title for name in contestants), "kern : Celery", "to be reached"]
    lines = [_line(head), _line(["---"] * len(head))]
    for measured in results:
        ratio = measured.ratio()
        cells = [measured.figure.name, *(_cell(measured, name) for name in contestants)]
        cells += [f"{ratio:.1f} ×" if ratio else "", _goal(measured)]
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(measured: Measured, name: str) -> str:
    if name in measured.failures:
        return "failed"
    median = measured.median(name)
    if median is None:
        return "–"
    rounds = measured.rounds[name]
    spread = f" ({_number(min(rounds))}–{_number(max(rounds))})" if len(rounds) > 1 else ""
    shown = _number(median)
    return f"**{shown}**{spread}" if name == OURS else f"{shown}{spread}"


def _goal(measured: Measured) -> str:
    figure = measured.figure
    sign = "≥" if figure.better == "higher" else "≤"
    goals = [] if figure.target is None else [f"{sign} {figure.target:,g}"]
    goals += [] if figure.ratio is None else [f"{figure.ratio:g} ×"]
    mark = {True: " ✓", False: " ✗", None: ""}[measured.reached()]
    return ", ".join(goals) + (mark if goals else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> str:
    """What this was measured on."""
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def document(results: Sequence[Measured], rounds: int) -> dict[str, Any]:
    """Every number, JSON."""
    return {
        "machine": machine(),
        "rounds": rounds,
        "load": os.getloadavg(),
        "figures": [
            {
                "name": measured.figure.name,
                "better": measured.figure.better,
                "target": measured.figure.target,
                "ratio": measured.figure.ratio,
                "rounds": measured.rounds,
                "failures": measured.failures,
            }
            for measured in results
        ],
    }


def dump(results: Sequence[Measured], rounds: int) -> str:
    """:func:`document` as text."""
    return json.dumps(document(results, rounds), indent=1, ensure_ascii=False) + "\n"
