"""Commands and options that plugins add, through the door by which plugins come in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PLUGIN = """
from kern import hookimpl

KERN_API = 1


@hookimpl
def kern_commands():
    import click
    from kern.cli.session import pass_app

    @click.command(short_help="Ring the bell.")
    @click.option("--times", type=int, default=1)
    @pass_app
    def ring(app, times):
        click.echo(f"{app.main} {'ring ' * times}".strip())

    @click.group()
    def tower():
        pass

    @tower.command()
    @pass_app
    def height(app):
        click.echo(app.conf.broker_url)

    return [ring, tower]


@hookimpl
def kern_options(command):
    import click

    return {
        "queues": [click.Option(["--loud", "-L"], is_flag=True, help="Loud queues.")],
        "queues recover": [click.Option(["--slow"], is_flag=True)],
        "ring": [click.Option(["--softly"], is_flag=True)],
    }.get(command, [])


@hookimpl
def kern_command_options(app, command, options):
    import click, sys

    print(command, sorted(options.items()), file=sys.stderr)
    if options.get("loud") and command == "queues" and app.main == "silent":
        raise click.BadParameter("this application is silent", param_hint="--loud")
"""


def install(folder: Path, name: str = "bell", text: str = PLUGIN) -> None:
    """What an installer leaves behind for a distribution with one plugin."""
    (folder / f"{name}.py").write_text(text)
    information = folder / f"{name}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[kern.plugins]\n{name} = {name}\n")


@pytest.fixture
def kern(start, tmp_path: Path):
    """Runs a command, to its end, where the plugin is installed."""
    site = tmp_path / "site"
    site.mkdir()
    install(site)

    def run(*arguments: str, **environment: str):
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        process = start(*arguments, PYTHONPATH=path, XDG_CACHE_HOME=str(tmp_path), **environment)
        process.ended()
        return process

    run.site = site
    return run


def test_help_lists_the_commands_of_plugins(kern) -> None:
    out = kern("--help").out
    assert "Commands of plugins:\n  ring   Ring the bell." in out


def test_a_command_of_a_plugin_gets_the_application_and_takes_global_options(kern, tmp_path: Path) -> None:
    (tmp_path / "proj.py").write_text("from kern import Kern\napp = Kern('it')\n")
    assert kern("ring", "--times", "2", "-A", "proj").out == "it ring ring\n"
    assert kern("-A", "proj", "ring").out == "it ring\n"
    assert kern("tower", "height", "-b", "memory://high").out == "memory://high\n"


def test_an_option_that_a_plugin_adds_is_shown_and_its_value_goes_to_the_plugin(kern) -> None:
    assert "Loud queues." in kern("queues", "--help").out
    process = kern("queues", "--loud")
    assert process.popen.returncode == 0, process.err
    assert "queues [('loud', True)]" in process.err
    assert "queues [('loud', False)]" in kern("queues").err
    assert "queues recover [('slow', True)]" in kern("queues", "recover", "--slow").err
    assert "ring [('softly', True)]" in kern("ring", "--softly").err


def test_a_plugin_may_refuse_a_value(kern, tmp_path: Path) -> None:
    (tmp_path / "proj.py").write_text("from kern import Kern\napp = Kern('silent')\n")
    process = kern("queues", "-L", "-A", "proj")
    assert process.popen.returncode == 2
    assert "Invalid value for --loud: this application is silent" in process.err


@pytest.mark.parametrize("arguments", [["ring", "--plugins=-bell"], ["--plugins", "-bell", "ring"]])
def test_a_plugin_that_is_switched_off_adds_nothing(kern, arguments: list[str]) -> None:
    process = kern(*arguments)
    assert process.popen.returncode == 2
    assert "No such command 'ring'" in process.err
    assert kern("queues", "--loud", KERN_PLUGINS="-bell").popen.returncode == 2
    assert "ring" not in kern("--help", KERN_PLUGINS="-bell").out


def test_an_option_of_a_plugin_that_the_application_switches_off_is_refused(kern, tmp_path: Path) -> None:
    (tmp_path / "proj.py").write_text("from kern import Kern\napp = Kern('it', plugins='-bell')\n")
    process = kern("queues", "--loud", "-A", "proj")
    assert process.popen.returncode == 2
    assert "the option --loud comes from a plugin that this application has switched off" in process.err


def test_two_plugins_with_one_command_are_named(kern) -> None:
    install(kern.site, "gong", PLUGIN)
    process = kern("ring")
    assert process.popen.returncode == 1
    assert "two plugins have a command 'ring': bell and gong" in process.err


def test_an_option_that_the_command_has_already_is_named(kern) -> None:
    install(kern.site, "horn", PLUGIN.replace('"--loud", "-L"', '"--json"').replace("def ring", "def blow"))
    process = kern("queues")
    assert process.popen.returncode == 1
    assert "--json" in process.err
    assert "'kern queues'" in process.err


def test_a_plugin_that_cannot_be_loaded_stops_no_command(kern) -> None:
    install(kern.site, "gong", "import nosuchthing\n")
    process = kern("ring")
    assert (process.popen.returncode, process.out) == (0, "None ring\n")
    assert process.err.count("nosuchthing") == 1
    assert "gong is failed: ModuleNotFoundError: No module named 'nosuchthing'" in kern("plugins").out


def test_a_plugin_built_for_another_kern_is_refused_with_the_reason(kern) -> None:
    install(kern.site, "gong", PLUGIN.replace("KERN_API = 1", "KERN_API = 0"))
    assert "gong is refused: built for API 0" in kern("plugins").out
