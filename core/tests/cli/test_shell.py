"""``kern shell``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kern import Kern
from kern.cli.commands.shell import namespace


@pytest.mark.usefixtures("project")
def test_code_runs_with_application_and_tasks_at_hand(cli) -> None:
    result = cli("shell", "-A", "proj", "-c", "print(app.main, add(1, 2), Task, signature('x').task)")
    assert (result.exit_code, result.stdout) == (0, "proj 3 <class 'kern.task.Task'> x\n")


@pytest.mark.usefixtures("project")
def test_modules_of_the_application_are_imported(cli) -> None:
    Path("more.py").write_text("from kern import shared_task\n\n\n@shared_task\ndef four():\n    return 4\n")
    Path("proj.py").write_text(Path("proj.py").read_text() + "\napp.conf.include = ('more',)\n")
    assert cli("shell", "-A", "proj", "-c", "print(four())").stdout == "4\n"


def test_the_namespace_has_no_task_of_kerns_own_and_none_at_all_on_request() -> None:
    app = Kern("it")

    @app.task(name="deep.down.add")
    def add() -> None: ...

    @app.task(name="other.app")
    def shadow() -> None: ...

    names = namespace(app)
    assert names["add"] is app.tasks["deep.down.add"]
    assert names["app"] is app
    assert "backend_cleanup" not in names
    assert "add" not in namespace(app, without_tasks=True)


def test_pythons_own_shell_reads_what_is_typed_and_ends_with_the_input(cli) -> None:
    result = cli("shell", "--python", input="print(app.main is None)\n")
    assert result.exit_code == 0
    assert "True" in result.stdout


def test_the_first_shell_that_is_installed_is_used_once(cli, monkeypatch) -> None:
    Path("IPython.py").write_text(
        "def start_ipython(argv, user_ns):\n    print('ipython', argv, user_ns['app'].main)\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    assert cli("shell").stdout == "ipython [] None\n"
    sys.modules.pop("IPython", None)


@pytest.mark.parametrize("shell", ["--ipython", "--bpython"])
def test_a_shell_that_is_not_installed_says_what_to_install(cli, monkeypatch, shell: str) -> None:
    monkeypatch.setattr("kern.cli.commands.shell._installed", lambda module: False)
    result = cli("shell", shell)
    assert result.exit_code == 1
    assert f"pip install {shell.strip('-')}" in result.stderr


@pytest.mark.usefixtures("project")
def test_a_module_that_raises_is_named(cli) -> None:
    Path("bad.py").write_text("1 / 0\n")
    Path("proj.py").write_text(Path("proj.py").read_text() + "\napp.conf.include = ('bad',)\n")
    result = cli("shell", "-A", "proj", "-c", "print(1)")
    assert result.exit_code == 1
    assert "the module 'bad' cannot be imported: ZeroDivisionError: division by zero (bad.py, line 1)" in result.stderr
