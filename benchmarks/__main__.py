"""``python -m benchmarks``: measure and print the table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.rows import ROWS
from benchmarks.run import CONTESTANTS, machine, measure, table


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds a row (default 3)")
    parser.add_argument("--only", default="", help="rows whose name contains this text")
    parser.add_argument("--without-celery", action="store_true", help="measure kern alone")
    parser.add_argument("--output", type=Path, help="write the table to this file, too")
    arguments = parser.parse_args()
    contestants = [name for name, python in CONTESTANTS.items() if name == "kern" or python.exists()]
    if arguments.without_celery:
        contestants = ["kern"]
    elif "celery" not in contestants:
        print("Celery's environment is missing: make .venv-celery/.installed", file=sys.stderr)
        return 1
    rows = [row for row in ROWS if arguments.only.lower() in row.name.lower()]
    results = []
    for figures in measure(rows, arguments.rounds, contestants):
        results.append(figures)
        print(table([figures], contestants).splitlines()[-1], file=sys.stderr, flush=True)
        for name, problem in figures.failures.items():
            print(f"  {name}: {problem}", file=sys.stderr)
    text = f"{table(results, contestants)}\n\n{machine()}, {arguments.rounds} rounds, medians (smallest–largest).\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
