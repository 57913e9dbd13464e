"""The command ``kern`` as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kern.cli import extensions_known
from kern.cli.failures import WRONG_COMMAND_LINE, Failure
from kern.cli.pidfile import CANNOT_CREATE
from kern.cli.root import COMMANDS, EPILOG, root
from kern.plugins import Plugins

IMPORTED = """
import sys
from kern.cli.root import root
try:
    root.main(sys.argv[1:], prog_name="kern")
except SystemExit as ended:
    assert not ended.code, ended.code
print("\\nIMPORTED", *sorted(sys.modules))
"""


def imported_by(*arguments: str) -> set[str]:
    """The modules that are loaded once these arguments have been dealt with in a fresh process."""
    program = [sys.executable, "-c", IMPORTED, *arguments]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("IMPORTED")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_help_loads_neither_commands_nor_plugins_nor_what_they_stand_on(arguments: list[str]) -> None:
    dear = {"kern.app", "kern.plugins", "kern.settings", "kombu", "sqlalchemy", "stevedore", "attrs", "structlog"}
    loaded = imported_by(*arguments)
    assert "kern.cli.root" in loaded
    assert not loaded & dear
    assert not {name for name in loaded if name.startswith(("kern.cli.commands.", "kern_"))}


def test_a_command_loads_no_other_command() -> None:
    loaded = imported_by("queues", "--help")
    assert "kern.cli.commands.queues" in loaded
    assert not {f"kern.cli.commands.{name}" for name in COMMANDS if name != "queues"} & loaded


def test_help_says_of_each_command_what_the_command_says_of_itself() -> None:
    context = click.Context(root)
    for name, line in COMMANDS.items():
        command = root.get_command(context, name)
        assert command is not None
        assert command.short_help == line


def test_what_is_known_of_our_plugins_commands_is_what_they_have() -> None:
    plugins = Plugins()
    plugins.load()
    offered = {module: set[str]() for module in extensions_known.installed_modules()}
    for module, known in offered.items():
        assert module in extensions_known.COMMANDS, f"{module} is missing in kern.cli.extensions_known.COMMANDS"
        for name, commands in plugins.offered("kern_commands"):
            if f"kern_{name.replace('-', '_')}" == module:
                known.update(str(command.name) for command in commands)
        assert known == set(extensions_known.COMMANDS[module])


def test_help_lists_every_command_and_the_exit_codes(cli) -> None:
    result = cli("--help", broker=False)
    assert result.exit_code == 0
    for name, line in COMMANDS.items():
        assert f"  {name.ljust(10)}  {line}" in result.stdout
    assert "Exit codes:" in result.stdout


def commands(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
            if not command.invoke_without_command:
                continue
        yield (*before, name), command


def test_whatever_prints_data_prints_it_as_json_on_request() -> None:
    """A worker has logs in JSON; a shell and a completion script have a form of their own."""
    without = {
        words[0]
        for words, command in commands(root)
        if words[0] in COMMANDS and "--json" not in {option for param in command.params for option in param.opts}
    }
    assert without == {"worker", "shell", "completion"}


def test_the_exit_codes_that_are_used_are_those_that_help_lists() -> None:
    listed = re.findall(r"^  (\d+) ", EPILOG, re.MULTILINE)
    assert [int(code) for code in listed] == [0, Failure("x").exit_code, WRONG_COMMAND_LINE, CANNOT_CREATE]


@pytest.mark.parametrize("arguments", [[], ["-q"], ["-A", "nosuch"]])
def test_without_a_command_there_is_help(cli, arguments: list[str]) -> None:
    result = cli(*arguments, broker=False)
    assert result.exit_code == 0
    assert "Usage: kern" in result.stdout


def test_the_version_is_that_of_the_distribution(cli) -> None:
    from importlib.metadata import version

    result = cli("--version", broker=False)
    assert (result.exit_code, result.stdout) == (0, f"kern {version('kern-core')}\n")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["wrker"], "No such command 'wrker'. Did you mean 'worker'?"),
        (["zzz"], "No such command 'zzz'."),
        (["queues", "recovr"], "No such command 'recovr'. Did you mean 'recover'?"),
        (["--brokr", "x"], "No such option '--brokr'"),
        (["worker", "--concurency", "2"], "--concurrency"),
    ],
)
def test_a_misspelling_is_answered_with_what_is_like_it_and_exit_code_2(cli, arguments: list[str], answer: str) -> None:
    result = cli(*arguments, broker=False)
    assert result.exit_code == 2
    assert answer in result.stderr
    assert result.stdout == ""


def test_a_command_of_a_plugin_that_is_not_installed_says_what_to_install(cli, monkeypatch) -> None:
    monkeypatch.setattr(extensions_known, "COMMANDS", {"kern_bell": {"ring": "Ring it."}})
    result = cli("ring", broker=False)
    assert result.exit_code == 2
    assert "pip install kern-bell" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_of_each_shell_asks_kern(cli, shell: str) -> None:
    result = cli("completion", shell, broker=False)
    assert result.exit_code == 0
    assert "_KERN_COMPLETE" in result.stdout


def test_completion_proposes_commands_and_their_options(tmp_path: Path) -> None:
    def proposed(words: str, current: str) -> list[str]:
        runner = CliRunner(env={"COMP_WORDS": words, "COMP_CWORD": current, "_KERN_COMPLETE": "bash_complete"})
        done = runner.invoke(root, prog_name="kern")
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert proposed("kern qu", "1") == ["queues", "quarantine"]
    assert proposed("kern worker --conc", "2") == ["--concurrency"]


def test_python_m_kern_is_kern() -> None:
    done = subprocess.run([sys.executable, "-m", "kern", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("kern ")
