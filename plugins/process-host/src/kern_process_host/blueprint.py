"""How a fresh interpreter comes by the same application: by its name, and with its settings as data."""

from __future__ import annotations

import importlib
import logging
import marshal
import sys
from typing import Any

import attrs

from kern import Kern, log
from kern.errors import ImproperlyConfigured

logger = log.get_logger("kern.pool")
_LOGGERS = "kern"


@attrs.frozen
class Blueprint:
    """All that it takes."""

    #: ``module:attribute``; ``""``: a plain application, which only its settings distinguish.
    name: str
    settings: dict[str, Any]
    path: list[str]
    #: Level, whether lines are JSON, file.
    logs: tuple[int, bool, str | None] | None

    def to_fields(self) -> tuple[Any, ...]:
        return attrs.astuple(self, recurse=False)


def of_application(app: Kern) -> Blueprint:
    """The blueprint of *app*.

    :raises ImproperlyConfigured: no module has it as an attribute.
    """
    name = _name_of(app)
    if name is None:
        raise ImproperlyConfigured(
            "the application cannot be loaded again: no imported module has it as an attribute. "
            "Assign it at the top level of a module, and start the worker with -A module:attribute"
        )
    given = app.conf.table(censored=False)
    return Blueprint(name, {key: value for key, value in given.items() if _is_plain(value)}, list(sys.path), _logs())


def load(fields: tuple[Any, ...]) -> Kern:
    """The application of a blueprint, ready to run tasks."""
    blueprint = Blueprint(*fields)
    sys.path[:] = blueprint.path
    if blueprint.logs is not None:
        level, json_logs, logfile = blueprint.logs
        log.configure(level, json_logs, logfile=logfile)
    app = _find(blueprint.name) if blueprint.name else Kern()
    conf = app.conf
    differing = {key: value for key, value in blueprint.settings.items() if conf[key] != value}
    if differing:
        conf.assign(differing, "the worker's main process")
    app.import_modules()
    app.finalize()
    return app


def _find(name: str) -> Kern:
    module, _, attribute = name.partition(":")
    found: Kern = getattr(importlib.import_module(module), attribute)
    return found


def _name_of(app: Kern) -> str | None:
    try:
        return app.import_path
    except ImproperlyConfigured:
        return "" if _is_plain_application(app) else None


def _is_plain_application(app: Kern) -> bool:
    """Whether it is the one that ``kern worker`` makes when nobody names another."""
    if "kern.cli.session" not in sys.modules:
        return False
    from kern.cli.session import current_session

    try:
        session = current_session()
    except RuntimeError:  # there is no command
        return False
    return not session.named and session.app is app


def _is_plain(value: Any) -> bool:
    try:
        marshal.dumps(value)
    except ValueError:
        return False
    return True


def _logs() -> tuple[int, bool, str | None] | None:
    own = logging.getLogger(_LOGGERS)
    for handler in own.handlers:
        if isinstance(handler.formatter, log.JsonFormatter | log.ConsoleFormatter):
            json_logs = isinstance(handler.formatter, log.JsonFormatter)
            return own.level, json_logs, getattr(handler, "baseFilename", None)
    return None
