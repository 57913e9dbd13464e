"""Measure kern beside Celery, print a table, and write it with a picture and every number into a folder."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks import plot, report
from benchmarks.lineup import CONTESTANTS, ROOT
from benchmarks.rows import ROWS
from benchmarks.rows.row import Row
from benchmarks.run import Measured, measure

SERVERS = ("redis", "postgresql", "sqlite", "none")


def main() -> int:
    """Measure what was asked for."""
    arguments = _arguments()
    rows = [row for row in ROWS if _wanted(row, arguments.on, arguments.row)]
    if arguments.list or not rows:
        print("\n".join(figure.name for row in rows for figure in row.figures) or "no row is called so: see --list")
        return 0 if rows else 2
    contestants = [name for name in CONTESTANTS if name in arguments.contestants]
    if missing := [name for name in contestants if not CONTESTANTS[name].python.exists()]:
        environments = " ".join(f".venv-{name}/.installed" for name in missing)
        print(f"no environment for {', '.join(missing)}: make {environments}", file=sys.stderr)
        return 1
    results: list[Measured] = []
    began = time.monotonic()
    for measured in measure(rows, arguments.rounds, contestants):
        results += measured
        print("\n".join(report.table(measured, contestants).splitlines()[2:]), file=sys.stderr)
        print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        for name, problem in measured[0].failures.items():
            print(f"  {name}: {problem}", file=sys.stderr, flush=True)
    _write(results, contestants, arguments.rounds, arguments.output)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the names of the figures, and measure nothing")
    parser.add_argument("--row", action="append", default=[], metavar="TEXT", help="rows with this text in their name")
    parser.add_argument(
        "--on",
        action="append",
        default=[],
        choices=(*SERVERS, "all"),
        help="rows on this server (default: redis, or whatever --row names)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds a row (default 3)")
    parser.add_argument(
        "--contestants",
        type=lambda text: text.split(","),
        default=list(CONTESTANTS),
        metavar="NAMES",
        help=f"some of {','.join(CONTESTANTS)}",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks", metavar="FOLDER")
    arguments = parser.parse_args()
    if unknown := set(arguments.contestants) - set(CONTESTANTS):
        parser.error(f"no contestant {', '.join(sorted(unknown))}: choose from {', '.join(CONTESTANTS)}")
    if not arguments.on:
        arguments.on = ["all"] if arguments.row or arguments.list else ["redis"]
    return arguments


def _wanted(row: Row, servers: list[str], texts: list[str]) -> bool:
    if "all" not in servers and row.server not in servers:
        return False
    return not texts or any(row.is_called(text) for text in texts)


def _write(results: list[Measured], contestants: list[str], rounds: int, folder: Path) -> None:
    caption = f"{report.machine()}, {rounds} rounds, medians"
    text = f"{report.table(results, contestants)}\n\n{caption} (smallest–largest).\n"
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.md").write_text(text)
    (folder / "results.json").write_text(report.dump(results, rounds))
    if plot.draw(results, contestants, caption, folder / "results.png"):
        print(f"{folder / 'results.png'}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
