"""Commands and options that plugins add to the command line."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import click

from kern.cli.session import current_session
from kern.errors import PluginConflict
from kern.plugins import Plugins


class Extensions:
    """What the plugins of one selection add."""

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        own = logging.getLogger("kern.plugins")
        level = own.level
        # The application loads them, too, and says in the configured log what is wrong with one.
        own.setLevel(logging.CRITICAL)
        try:
            plugins.load()
        finally:
            own.setLevel(level)

    @cached_property
    def commands(self) -> Mapping[str, click.Command]:
        """By name.

        :raises PluginConflict: two plugins have a command of the same name.
        """
        found: dict[str, click.Command] = {}
        for commands in self.plugins.ask("kern_commands"):
            for command in commands:
                name = str(command.name)
                if name in found:
                    homes = " and ".join(sorted(_home(each) for each in (found[name], command)))
                    raise PluginConflict(f"two plugins have a command {name!r}: {homes}; switch one off")
                found[name] = command
        return found

    def extended(self, command: click.Command, path: str) -> click.Command:
        """A copy of *command*, and of its sub-commands, with the options that plugins add.

        :param path: its name, after those of the groups it is in.
        :raises PluginConflict: an option string is taken already.
        """
        made = copy.copy(command)
        options = [option for offered in self.plugins.ask("kern_options", command=path) for option in offered]
        if options:
            _check(command, options, path)
            made.params = [*command.params, *options]
            made.callback = _without(command.callback, [str(option.name) for option in options], path)
        if isinstance(command, click.Group) and isinstance(made, click.Group):
            made.commands = {name: self.extended(child, f"{path} {name}") for name, child in command.commands.items()}
        return made


def _check(command: click.Command, options: Sequence[click.Option], path: str) -> None:
    taken = {string for param in command.params for string in (param.name, *param.opts, *param.secondary_opts)}
    for option in options:
        for string in (option.name, *option.opts, *option.secondary_opts):
            if string in taken:
                raise PluginConflict(
                    f"a plugin adds the option {'/'.join(option.opts)} to 'kern {path}', which has {string!r} already"
                )
        taken.update((option.name, *option.opts, *option.secondary_opts))


def _without(callback: Callable[..., Any] | None, names: Sequence[str], path: str) -> Callable[..., Any]:
    """*callback* without the values of plugins' options; the session keeps those for the plugins."""

    def call(*args: Any, **kwargs: Any) -> Any:
        current_session().plugin_options[path] = {name: kwargs.pop(name) for name in names}
        return callback(*args, **kwargs) if callback is not None else None

    return functools.update_wrapper(call, callback) if callback is not None else call


def _home(command: click.Command) -> str:
    return str(getattr(command.callback, "__module__", "unknown"))
