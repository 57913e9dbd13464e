"""What the global options of one invocation say, and the application they lead to."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from kern import log
from kern.cli.discovery import find_app, make_importable, modules_with_app
from kern.cli.failures import WRONG_COMMAND_LINE, Failure, where
from kern.errors import ImproperlyConfigured, KernError

if TYPE_CHECKING:
    from kern.app import Kern
    from kern.cli.extensions import Extensions
    from kern.config_sources import Project
    from kern.contracts.port import Reply
    from kern.contracts.transport import Transport

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds an operation on the broker may take: those of people, on queues of any length.
OPERATION_TIMEOUT = 60.0


class Session:
    """One invocation of the command line; every command finds it in its context."""

    def __init__(self) -> None:
        self.app_name: str | None = None
        self.broker: str | None = None
        self.result_backend: str | None = None
        self.config: str | None = None
        self.plugins: str | None = None
        self.workdir: str | None = None
        #: Also by what other programs read: https://no-color.org
        self.no_color = bool(os.environ.get("NO_COLOR"))
        self.quiet = False
        #: What was given for options that plugins added: command → name → value.
        self.plugin_options: dict[str, Mapping[str, Any]] = {}
        self._app: Kern | None = None

    # -- what is known before the command's own options are read -------------------------------------------------------

    def enter_workdir(self, directory: str) -> None:
        """Work in that directory; once, for a relative one would lead further down."""
        if self.workdir is not None:
            return
        try:
            os.chdir(directory)
        except OSError as error:
            raise click.BadParameter(f"{directory!r}: {error.strerror}", param_hint="'--workdir'") from None
        self.workdir = directory

    @cached_property
    def project(self) -> Project | None:
        """``[tool.kern]`` of the nearest ``pyproject.toml``."""
        if not _may_have_project():
            return None
        from kern.config_sources import read_project

        return read_project()

    @property
    def plugins_wanted(self) -> str | None:
        """As ``--plugins``; ``None``: nobody chose."""
        if self.plugins is not None:
            return self.plugins
        chosen = os.environ.get("KERN_PLUGINS")
        if chosen is None and self.project is not None and self.project.plugins is not None:
            chosen = ",".join(self.project.plugins)
        return chosen

    @cached_property
    def extensions(self) -> Extensions:
        """What plugins add to the command line."""
        from kern.cli.extensions import Extensions
        from kern.plugins import Plugins, Selection

        return Extensions(Plugins(Selection.parse(self.plugins_wanted)))

    # -- the application -----------------------------------------------------------------------------------------------

    @property
    def named(self) -> bool:
        """Whether anybody said which application."""
        return self.app_name is not None or (self.project is not None and self.project.app is not None)

    @property
    def app(self) -> Kern:
        """The application of ``-A``, of ``KERN_APP`` or of ``[tool.kern]``; else a plain one.

        What the command line says about it has been applied.
        """
        if self._app is None:
            if not logging.getLogger("kern").handlers:
                self.log()
            # What a module prints when it is imported is not the answer of a command.
            with contextlib.redirect_stdout(sys.stderr):
                self._app = self._find()
        return self._app

    def app_with_tasks(self) -> Kern:
        """:attr:`app`, for a command that runs tasks.

        :raises Failure: nobody said which, and no module is named that a plain one could import.
        """
        app = self.app
        if not self.named and not (app.conf.imports or app.conf.include):
            found = modules_with_app()
            example = f"-A {found[0]}" if found else "-A module:app"
            raise Failure(
                f"no application. Say which with {example}, with KERN_APP, "
                'or once and for all with app = "module:app" under [tool.kern] in pyproject.toml',
                exit_code=WRONG_COMMAND_LINE,
            )
        return app

    def import_modules(self) -> None:
        """Import the modules in which tasks are defined.

        :raises Failure: one raises; says which, what and where.
        """
        app = self.app
        _ = app.conf.include  # what is wrong with the settings is no matter of a module
        try:
            app.import_modules()
        except ImproperlyConfigured as error:
            cause = error.__cause__
            place = where(cause) if cause is not None else ""
            raise Failure(f"{error}{f' ({place})' if place else ''}", cause) from error

    def log(self, level: int = logging.WARNING, json_logs: bool = False, logfile: str | None = None) -> None:
        """Send logs to stderr or a file."""
        log.configure(level, json_logs, False if self.no_color else None, logfile=logfile)

    def _find(self) -> Kern:
        from kern.app import Kern

        wanted = self.plugins_wanted
        if wanted is not None:
            # Read by applications when they are made, also by those that child processes make.
            os.environ["KERN_PLUGINS"] = wanted
        if self.broker is not None:
            os.environ["KERN_BROKER_URL"] = self.broker
        if self.result_backend is not None:
            os.environ["KERN_RESULT_BACKEND"] = self.result_backend
        make_importable()
        if self.app_name is not None:
            app = find_app(self.app_name)
        elif self.project is not None and self.project.app is not None:
            make_importable(self.project.path.parent)
            app = find_app(self.project.app)
        else:
            app = Kern()
        self._apply_plugins(app)
        self._apply_settings(app)
        for command, options in self.plugin_options.items():
            self._apply_plugin_options(app, command, options)
        return app

    def _apply_plugins(self, app: Kern) -> None:
        from kern.plugins import Selection

        if self.plugins is not None and app.plugins.selection != Selection.parse(self.plugins):
            raise Failure(
                "--plugins cannot act: the application chooses its plugins itself, by Kern(plugins=…)",
                exit_code=WRONG_COMMAND_LINE,
            )

    def _apply_settings(self, app: Kern) -> None:
        if self.config is not None:
            app.config_from_object(self.config)
        if self.broker is not None:
            app.conf.assign({"broker_url": self.broker}, "command line -b")
            more = [key for key in ("broker_read_url", "broker_write_url") if app.conf[key] is not None]
            app.conf.assign(dict.fromkeys(more), "command line -b")
        if self.result_backend is not None:
            app.conf.assign({"result_backend": self.result_backend}, "command line --result-backend")
        if self.no_color:
            app.conf.assign({"worker_log_color": False}, "command line -C")

    def _apply_plugin_options(self, app: Kern, command: str, options: Mapping[str, Any]) -> None:
        offered = {option.name for options in app.plugins.ask("kern_options", command=command) for option in options}
        for name in options.keys() - offered:
            raise Failure(
                f"the option --{name.replace('_', '-')} comes from a plugin that this application has switched off",
                exit_code=WRONG_COMMAND_LINE,
            )
        # Not one by one and guarded as listeners are: a value that a plugin refuses ends the command.
        app.plugins.hook.kern_command_options(app=app, command=command, options=options)

    # -- the broker ----------------------------------------------------------------------------------------------------

    def ask(self, command: Callable[[Transport], Reply[T]], timeout: float = OPERATION_TIMEOUT) -> T:
        """The broker's answer to one command.

        :raises kern.errors.TransportError: it cannot be used.
        """
        return self.app.connection.do(command, timeout)

    def queue_names(self, wanted: Sequence[str] | None = None, excluded: Sequence[str] = ()) -> list[str]:
        """Names of queues: those *wanted*, else the configured ones; without those *excluded*.

        :raises kern.errors.QueueNotFound: a name that is not configured and may not be created.
        """
        queues = self.app.router.queues
        names = [queues[name].name for name in wanted] if wanted else list(queues)
        left_out = {queues[name].name for name in excluded}
        return [name for name in dict.fromkeys(names) if name not in left_out]

    def close(self) -> None:
        """Close what was opened."""
        if self._app is not None:
            try:
                self._app.close()
            except KernError:
                pass  # a server that is gone; what the command had to say has been said


def _may_have_project() -> bool:
    """Whether it is worth importing what reads projects; most commands are run where there is none."""
    try:
        start = Path.cwd()
    except OSError:  # the working directory is gone
        return False
    for folder in (start, *start.parents):
        try:
            if b"kern" in (folder / "pyproject.toml").read_bytes():
                return True
        except OSError:
            continue
    return False


def current_session() -> Session:
    """The session of the running command."""
    return click.get_current_context().ensure_object(Session)


def pass_session(function: Callable[Concatenate[Session, P], T]) -> Callable[P, T]:
    """Decorator of a command: the session as its first argument."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return function(current_session(), *args, **kwargs)

    return functools.update_wrapper(call, function)


def pass_app(function: Callable[Concatenate[Kern, P], T]) -> Callable[P, T]:
    """Decorator of a command: the application as its first argument. For plugins."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return function(current_session().app, *args, **kwargs)

    return functools.update_wrapper(call, function)
