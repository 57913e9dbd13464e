"""The table of results: one line a scenario, made of the ledgers of all its runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

HEAD = """\
<!-- Made by `make faults` from the ledgers of tests/faults; run it again. -->

# Faults

What `tests/faults` does to real worker processes, and what the ledger says afterwards. The ledger is kept in files that
the fault cannot touch: what was published and confirmed, what ran, and how often it had its effect.

* **lost**: confirmed, and neither run to its end nor in quarantine nor cancelled. Must be 0.
* **unexpected**: run, though it was never sent. Must be 0.
* **duplicates**: effects beyond the first, the most in one run, *of* how many the scenario allows.
* **fenced**: late outcomes that were refused, for the lease was somebody else's.
* **quarantined**: kept apart with their reason.
* **recovery**: seconds from the fault, or its end, to the next start of a task; the longest. A lease lasts
  {lease:g} s in these runs, 15 s by default.

Workers run with `-P prefork -c 2` on Redis, which writes each change to its disk (`appendfsync always`), and with
`-P solo` elsewhere. Networks are cut, silenced and slowed down by a TCP proxy in front of the server.

{runs} runs with {seeds} seeds; kern {version}, Python {python}; {brokers}.

| scenario | broker | runs | calls | lost | unexpected | duplicates | fenced | quarantined | recovery |
|---|---|---|---|---|---|---|---|---|---|
"""

Row = Mapping[str, Any]


def render(rows: Iterable[Row], **facts: Any) -> str:
    """The page."""
    gathered: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        gathered.setdefault((row["scenario"], row["broker"]), []).append(row)
    runs = sum(len(of_one) for of_one in gathered.values())
    lines = [_line(scenario, broker, gathered[scenario, broker]) for scenario, broker in sorted(gathered)]
    met = sorted({f"{row['broker']} {row['version']}" for of_one in gathered.values() for row in of_one})
    return HEAD.format(runs=runs, brokers=", ".join(met), **facts) + "".join(lines)


def _line(scenario: str, broker: str, rows: list[Row]) -> str:
    def total(key: str) -> int:
        return sum(row[key] for row in rows)

    worst = max(row["duplicated"] for row in rows)
    allowed = max(row["allowed"] for row in rows)
    recoveries = [row["recovery"] for row in rows if row["recovery"] is not None]
    cells = [
        scenario,
        broker,
        len(rows),
        total("confirmed") + total("unknown"),
        total("lost"),
        total("unexpected"),
        f"{worst} of {allowed}",
        total("fenced"),
        total("quarantined"),
        f"{max(recoveries):.1f}" if recoveries else "",
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"
