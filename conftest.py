"""What holds for every test of the tree: options, and that a skip is never silent."""

import os
from collections.abc import Iterator

import pytest

SKIPPED = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="how many seeds each fault scenario runs with (1: the fixed one)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SKIPPED] = {}
    config.pluginmanager.register(Skips(config), "kern-skips")


class Skips:
    """A skipped test says nothing about the code: at home it is announced, under ``CI=true`` it fails the run.

    Under xdist the reports of all workers arrive here, in the controlling process, whose exit status counts.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.skipped = config.stash[SKIPPED]
        self.counts = not hasattr(config, "workerinput")
        self.forbidden = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # An expected failure is reported as skipped, too; it ran.
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped[report.nodeid] = reason(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.skipped[report.nodeid] = reason(report)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        # Before the terminal reports, so that its last line has the colour of the result.
        if self.skipped and self.forbidden and self.counts and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.skipped:
            return
        many = f"{len(self.skipped)} SKIPPED"
        terminalreporter.section(
            f"{many}: a failure, for CI is set" if self.forbidden else f"{many} (a failure under CI=true)",
            red=self.forbidden,
            yellow=not self.forbidden,
            bold=True,
        )
        for nodeid, why in sorted(self.skipped.items()):
            terminalreporter.line(f"{nodeid}: {why}")


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    longrepr = report.longrepr
    return str(longrepr[2] if isinstance(longrepr, tuple) else longrepr).removeprefix("Skipped: ")
