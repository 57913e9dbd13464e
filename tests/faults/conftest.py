"""Scenarios: a fleet of real processes, seeds, and the table that is made of what the ledgers say."""

from __future__ import annotations

import platform
import random
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from tests.faults.brokers import BROKERS, EVERYWHERE, Broker
from tests.faults.fleet import LEASE, Balance, Fleet, Fleets
from tests.faults.table import render

from kern_testing.fixtures import running
from kern_testing.ledger import Report
from kern_testing.servers import Redis

PROPERTY = "ledger"


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


@pytest.fixture(scope="module")
def _durable_redis() -> Iterator[Redis]:
    yield from running(Redis(append_only=True))


@pytest.fixture
def durable_redis(_durable_redis: Redis) -> Redis:
    """Redis that has on disk what it has confirmed; empty."""
    _durable_redis.start()  # a fault may have ended it
    _durable_redis.flush()
    return _durable_redis


@pytest.fixture(scope="module")
def _second_redis() -> Iterator[Redis]:
    yield from running(Redis(append_only=True))


@pytest.fixture
def second_redis(_second_redis: Redis) -> Redis:
    """Another one, for results alone; empty."""
    _second_redis.start()
    _second_redis.flush()
    return _second_redis


@pytest.fixture(params=EVERYWHERE)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Broker:
    """What the scenario stands on: each broker in turn, or those named by ``@on(…)``."""
    return BROKERS[request.param](request, tmp_path)


@pytest.fixture
def make_fleet(tmp_path: Path, broker: Broker) -> Iterator[Fleets]:
    fleets = Fleets(tmp_path, broker)
    yield fleets
    for fleet in fleets.made:
        fleet.close()


@pytest.fixture
def fleet(make_fleet: Fleets) -> Fleet:
    """Workers on one server, which is broker and result store."""
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
        kept = len(fleet.quarantined())
        row = {
            **report.row(),
            "scenario": scenario,
            "broker": fleet.broker.title,
            "version": fleet.broker.version,
            "allowed": duplicates,
            "quarantined": kept,
        }
        record_property(PROPERTY, row)
        try:
            report.check(duplicates, concurrent, recovery, lateness)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{fleet.complaints()}") from error
        return report

    return close
