"""Logging: named standard loggers, spoken to through structlog.

A library says, the application decides where: nothing here touches the root logger, and without configuration a
message goes to the standard logger of its name like any other. ``kern worker`` calls :func:`configure`, which attaches
one handler to the logger ``kern``.

structlog is imported with the first message, not with this module.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import IO, Any

#: What is bound to every line logged while a task runs: ``task_id``, ``task_name``.
task_context: ContextVar[dict[str, Any] | None] = ContextVar("kern_task_context", default=None)


#: Name of the handler that :func:`configure` attaches.
_HANDLER = "kern console"


class Logger:
    """A structlog logger over the standard logger *name*, made when it is first used."""

    __slots__ = ("_bound", "_name", "_standard")

    def __init__(self, name: str) -> None:
        self._name = name
        self._standard = logging.getLogger(name)
        self._bound: Any = None

    def _get(self) -> Any:
        if self._bound is None:
            import structlog

            self._bound = structlog.wrap_logger(
                self._standard,
                wrapper_class=structlog.stdlib.BoundLogger,
                processors=[_bind_task, structlog.stdlib.filter_by_level, structlog.stdlib.add_log_level, _render],
            )
        return self._bound

    def debug(self, event: str, **fields: Any) -> None:
        if self._standard.isEnabledFor(logging.DEBUG):
            self._get().debug(event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        if self._standard.isEnabledFor(logging.INFO):
            self._get().info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        if self._standard.isEnabledFor(logging.WARNING):
            self._get().warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        if self._standard.isEnabledFor(logging.ERROR):
            self._get().error(event, **fields)

    def exception(self, event: str, **fields: Any) -> None:
        if self._standard.isEnabledFor(logging.ERROR):
            self._get().error(event, exc_info=True, **fields)


def get_logger(name: str) -> Logger:
    """The logger *name*; by convention ``kern.<area>`` or ``kern_<plugin>``."""
    return Logger(name)


def _bind_task(_logger: Any, _method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = task_context.get()
    if context:
        for key, value in context.items():
            event_dict.setdefault(key, value)
    return event_dict


def _render(_logger: Any, _method: str, event_dict: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    """Give the standard logger a readable line, and its handlers the fields as ``record.fields``."""
    event = str(event_dict.pop("event", ""))
    event_dict.pop("level", None)
    exc_info = event_dict.pop("exc_info", None)
    # Text, of an exception that was raised elsewhere.
    traceback = event_dict.pop("traceback", None)
    text = event + "".join(f" {key}={value!r}" for key, value in event_dict.items())
    if traceback:
        text += f"\n{traceback.rstrip()}"
    extra = {"fields": event_dict, "event": event, "traceback": traceback}
    return (text,), {"extra": extra, "exc_info": exc_info}


class _TaskFilter(logging.Filter):
    """Adds ``task_id`` and ``task_name`` to records of any logger while a task runs."""

    def filter(self, record: logging.LogRecord) -> bool:
        context = task_context.get() or {}
        record.task_id = context.get("task_id", "")
        record.task_name = context.get("task_name", "")
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``timestamp level logger event`` and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        import json
        from datetime import UTC, datetime

        entry: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": getattr(record, "event", None) or record.getMessage(),
        }
        entry.update(task_context.get() or {})
        entry.update(getattr(record, "fields", None) or {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        elif getattr(record, "traceback", None):
            entry["exception"] = record.traceback  # type: ignore[attr-defined]
        return json.dumps(entry, default=str)


class ConsoleFormatter(logging.Formatter):
    """``12:30:01 info  event key=value``, coloured on a terminal."""

    _COLOURS = {"DEBUG": "34", "WARNING": "33", "ERROR": "31", "CRITICAL": "35"}

    def __init__(self, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower():<8}"
        code = self._COLOURS.get(record.levelname) if self._colour else None
        if code:
            level = f"\x1b[{code}m{level}\x1b[0m"
        line = f"{self.formatTime(record, '%H:%M:%S')} {level} {record.getMessage()}"
        context = task_context.get()
        if context and not getattr(record, "fields", None):
            line += "".join(f" {key}={value!r}" for key, value in context.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(
    level: int | str = logging.INFO,
    json_logs: bool = False,
    colour: bool | None = None,
    stream: IO[str] | None = None,
    logfile: str | None = None,
) -> logging.Handler:
    """Send what kern, its plugins and its task loggers say to *stream* (default stderr) or *logfile*.

    The handler is attached to the logger ``kern``; the root logger and its handlers are left alone.

    :param colour: ``None`` means: when the stream is a terminal.
    """
    handler: logging.Handler
    if logfile:
        from logging.handlers import WatchedFileHandler  # here: it costs several milliseconds, and few log to a file

        handler = WatchedFileHandler(logfile, encoding="utf-8")
    else:
        handler = logging.StreamHandler(stream or sys.stderr)
    if colour is None:
        colour = not logfile and bool(getattr(stream or sys.stderr, "isatty", lambda: False)())
    handler.setFormatter(JsonFormatter() if json_logs else ConsoleFormatter(colour))
    handler.addFilter(_TaskFilter())
    logger = logging.getLogger("kern")
    for old in [h for h in logger.handlers if h.name == _HANDLER]:
        logger.removeHandler(old)
        old.close()
    handler.name = _HANDLER
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    return handler
