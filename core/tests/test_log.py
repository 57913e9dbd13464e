"""Logging: named standard loggers, and nothing of the application's touched."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kern import log


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """The logger of kern as it was."""
    logger = logging.getLogger("kern")
    before = list(logger.handlers), logger.level, logger.propagate
    yield
    for handler in [each for each in logger.handlers if each not in before[0]]:
        logger.removeHandler(handler)
        handler.close()
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def test_without_configuration_a_line_goes_to_the_standard_logger_of_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="kern.here")
    logger = log.get_logger("kern.here")
    for method in ("debug", "info", "warning", "error"):
        getattr(logger, method)("something happened", number=3)
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("kern.here", level) for level in ("DEBUG", "INFO", "WARNING", "ERROR")
    ]
    record: Any = caplog.records[0]
    assert record.getMessage() == "something happened number=3"
    assert (record.event, record.fields) == ("something happened", {"number": 3})


def test_a_level_that_is_off_costs_not_even_an_import() -> None:
    program = (
        "import sys; from kern import log; logger = log.get_logger('kern.x'); logger.debug('x'); logger.info('x');"
        "assert 'structlog' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("configured", [False, True])
def test_the_root_logger_is_left_alone(configured: bool) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level, list(root.filters)
    if configured:
        log.configure(logging.DEBUG, stream=io.StringIO())
    log.get_logger("kern.here").warning("something happened")
    assert (list(root.handlers), root.level, list(root.filters)) == before


def test_configured_twice_there_is_one_handler() -> None:
    first, second = io.StringIO(), io.StringIO()
    log.configure(stream=first)
    log.configure(stream=second)
    log.get_logger("kern.here").info("once")
    assert (first.getvalue(), second.getvalue().count("once")) == ("", 1)


def test_lines_for_people() -> None:
    stream = io.StringIO()
    log.configure(logging.INFO, stream=stream)
    logger = log.get_logger("kern.here")
    logger.debug("hidden")
    logger.info("task succeeded", task="a.b")
    logging.getLogger("kern.theirs").warning("plain %s", "line")
    lines = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == ["info     task succeeded task='a.b'", "warning  plain line"]


@pytest.mark.parametrize(("colour", "coloured"), [(None, False), (True, True), (False, False)])
def test_colours_on_a_terminal_or_when_asked_for(colour: bool | None, coloured: bool) -> None:
    stream = io.StringIO()
    log.configure(stream=stream, colour=colour)
    log.get_logger("kern.here").error("red")
    assert ("\x1b[31m" in stream.getvalue()) == coloured


def test_colours_by_themselves_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    log.configure(stream=stream)
    log.get_logger("kern.here").warning("yellow")
    assert "\x1b[33m" in stream.getvalue()


class TestJson:
    def line(self, say: Any) -> dict[str, Any]:
        stream = io.StringIO()
        log.configure(logging.DEBUG, json_logs=True, stream=stream)
        say()
        (line,) = stream.getvalue().splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    def test_one_object_a_line(self) -> None:
        found = self.line(lambda: log.get_logger("kern.here").info("task\nsucceeded", task="a.b", odd=object))
        assert (found["level"], found["logger"], found["event"], found["task"]) == (
            "info",
            "kern.here",
            "task\nsucceeded",
            "a.b",
        )
        assert found["timestamp"].endswith("+00:00")
        assert "object" in found["odd"]

    def test_of_other_loggers_below_kern_too(self) -> None:
        found = self.line(lambda: logging.getLogger("kern.theirs").warning("plain %s", "line"))
        assert (found["event"], found["level"]) == ("plain line", "warning")

    def test_with_the_exception(self) -> None:
        def say() -> None:
            try:
                raise KeyError("x")
            except KeyError:
                log.get_logger("kern.here").exception("it broke")

        found = self.line(say)
        assert found["exception"].endswith("KeyError: 'x'")
        assert found["event"] == "it broke"

    def test_with_a_traceback_from_elsewhere(self) -> None:
        found = self.line(lambda: log.get_logger("kern.here").error("task failed", traceback="Traceback…\nKeyError\n"))
        assert (found["exception"], found["event"]) == ("Traceback…\nKeyError\n", "task failed")

    def test_with_the_task_that_runs(self) -> None:
        token = log.task_context.set({"task_id": "1", "task_name": "a.b"})
        try:
            found = self.line(lambda: logging.getLogger("kern.theirs").info("inside"))
        finally:
            log.task_context.reset(token)
        assert (found["task_id"], found["task_name"]) == ("1", "a.b")


def test_people_see_the_task_that_runs_and_tracebacks() -> None:
    stream = io.StringIO()
    log.configure(logging.DEBUG, stream=stream)
    token = log.task_context.set({"task_id": "1", "task_name": "a.b"})
    try:
        logging.getLogger("kern.theirs").info("theirs")
        log.get_logger("kern.here").info("ours")
    finally:
        log.task_context.reset(token)
    log.get_logger("kern.here").error("task failed", error="x", traceback="Traceback…\nKeyError\n")
    try:
        raise KeyError("y")
    except KeyError:
        logging.getLogger("kern.theirs").exception("broke")
    text = stream.getvalue()
    assert "theirs task_id='1' task_name='a.b'\n" in text
    assert "ours task_id='1' task_name='a.b'\n" in text
    assert "task failed error='x'\nTraceback…\nKeyError\n" in text
    assert text.endswith("KeyError: 'y'\n")


def test_records_carry_the_task_for_formats_of_ones_own() -> None:
    stream = io.StringIO()
    handler = log.configure(logging.DEBUG, stream=stream)
    handler.setFormatter(logging.Formatter("%(task_name)s[%(task_id)s] %(message)s"))
    token = log.task_context.set({"task_id": "1", "task_name": "a.b"})
    try:
        logging.getLogger("kern.theirs").info("inside")
    finally:
        log.task_context.reset(token)
    logging.getLogger("kern.theirs").info("outside")
    assert stream.getvalue() == "a.b[1] inside\n[] outside\n"


def test_to_a_file_that_may_be_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "kern.log"
    log.configure(logfile=str(path))
    logger = log.get_logger("kern.here")
    logger.info("before")
    path.rename(tmp_path / "kern.log.1")
    logger.info("after")
    assert "before" in (tmp_path / "kern.log.1").read_text()
    assert "after" in path.read_text()
    assert "\x1b[" not in path.read_text()
