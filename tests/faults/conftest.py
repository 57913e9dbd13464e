"""Scenarios: a fleet of real processes, seeds, and the table that is made of what the ledgers say."""

from __future__ import annotations

import platform
import random
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from tests.faults.fleet import LEASE, Balance, Fleet, Fleets
from tests.faults.table import render

from kern_testing.ledger import Report

PROPERTY = "ledger"
#: What the command line calls the driver of a URL's scheme.
BROKERS = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults-table", type=Path, metavar="PATH", help="write the table of fault scenarios to this file"
    )


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--faults-table", default=None)
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(path, config.getoption("--seeds")), "kern-faults-table")


class Table:
    """Gathers what scenarios say, also from the processes of xdist, and writes it at the end."""

    def __init__(self, path: Path, seeds: int) -> None:
        self.path, self.seeds = path, seeds
        self.rows: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.rows += [value for name, value in report.user_properties if name == PROPERTY]  # type: ignore[misc]

    def pytest_sessionfinish(self) -> None:
        facts = {"version": version("kern-core"), "python": platform.python_version(), "lease": LEASE}
        self.path.write_text(render(self.rows, seeds=self.seeds, **facts))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(metafunc.config.getoption("--seeds")))


@pytest.fixture
def chance(seed: int) -> random.Random:
    """Random numbers of this seed; the first seed is always the same."""
    return random.Random(seed)


@pytest.fixture
def make_fleet(tmp_path: Path) -> Iterator[Fleets]:
    fleets = Fleets(tmp_path)
    yield fleets
    for fleet in fleets.made:
        fleet.close()


@pytest.fixture
def fleet(make_fleet: Fleets) -> Fleet:
    """Workers on an SQLite file, which is broker and result store."""
    return make_fleet()


@pytest.fixture
def balance(record_property: Callable[[str, object], None]) -> Balance:
    """Closes the books of a fleet: the ledger is noted for the table, and has to balance."""

    def close(
        fleet: Fleet,
        scenario: str,
        duplicates: int = 0,
        healed_at: float | None = None,
        recovery: float | None = None,
        lateness: float | None = None,
        concurrent: int = 0,
    ) -> Report:
        report = fleet.report(healed_at)
        broker = BROKERS[fleet.broker.partition(":")[0].partition("+")[0]]
        kept = len(fleet.quarantined())
        row = {**report.row(), "scenario": scenario, "broker": broker, "allowed": duplicates, "quarantined": kept}
        record_property(PROPERTY, row)
        try:
            report.check(duplicates, concurrent, recovery, lateness)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{fleet.complaints()}") from error
        return report

    return close
