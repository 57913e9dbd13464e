"""From the value of ``-A`` to an application."""

from __future__ import annotations

from pathlib import Path

import pytest

from kern import Kern
from kern.cli.discovery import NoApplication, find_app, make_importable
from kern.cli.failures import Failure

MAKES = "from kern import Kern\n{name} = Kern('{called}')\n"


def write(path: str, text: str = "") -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    make_importable()


@pytest.mark.parametrize("value", ["mod", "mod:app", "mod.app"])
def test_an_application_is_named_by_module_or_by_attribute(value: str) -> None:
    write("mod.py", MAKES.format(name="app", called="it"))
    assert find_app(value).main == "it"


def test_app_comes_before_celery_and_celery_before_any_other() -> None:
    write("mod.py", "".join(["from kern import Kern\nother = Kern('other')\n", "celery = Kern('celery')\n"]))
    assert find_app("mod").main == "celery"
    write("both.py", "from kern import Kern\ncelery = Kern('celery')\napp = Kern('app')\n")
    assert find_app("both").main == "app"


def test_any_attribute_will_do_when_it_is_the_only_one() -> None:
    write("mod.py", MAKES.format(name="queue", called="it"))
    assert find_app("mod").main == "it"


def test_an_app_that_is_something_else_does_not_hide_the_application() -> None:
    write("mod.py", "from kern import Kern\napp = object()\ncelery = Kern('it')\n")
    assert find_app("mod").main == "it"


@pytest.mark.parametrize("submodule", ["celery", "kern"])
def test_a_package_may_have_it_in_a_module_of_its_own(submodule: str) -> None:
    write("pkg/__init__.py")
    write(f"pkg/{submodule}.py", MAKES.format(name="app", called="it"))
    assert find_app("pkg").main == "it"
    assert find_app(f"pkg.{submodule}").main == "it"


def test_an_attribute_that_is_a_module_is_looked_into() -> None:
    write("pkg/__init__.py")
    write("pkg/work.py", MAKES.format(name="app", called="it"))
    assert find_app("pkg:work").main == "it"


def test_attributes_of_attributes_are_found() -> None:
    write("mod.py", "from kern import Kern\nclass Box:\n    inner = Kern('it')\n")
    assert find_app("mod:Box.inner").main == "it"


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("nosuch", "The module nosuch was not found."),
        ("nosuch.deep:app", "The module nosuch.deep was not found."),
        ("modd", "The module modd was not found. Did you mean 'mod'?"),
        ("mod:ap", "Module 'mod' has no attribute 'ap' (for 'mod:ap'). Did you mean 'app'?"),
        ("mod.zzz", "Module 'mod' has no attribute 'zzz'"),
        ("empty", "Module 'empty' has no application"),
        ("flask:app", "'flask:app' is a builtins.dict, not a kern.Kern."),
        ("flask", "'flask:app' is a builtins.dict, not a kern.Kern."),
        (":app", "not of the form module:attribute"),
        ("mod:", "not of the form module:attribute"),
    ],
)
def test_what_leads_nowhere_is_said_with_what_is_like_it(value: str, answer: str) -> None:
    write("mod.py", MAKES.format(name="app", called="it"))
    write("empty.py")
    write("flask.py", "app = {}\n")
    with pytest.raises(NoApplication) as caught:
        find_app(value)
    assert answer in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("\n1 / 0\n", "ZeroDivisionError: division by zero (broken.py, line 2)"),
        ("import nosuchthing\n", "ModuleNotFoundError: No module named 'nosuchthing' (broken.py, line 1)"),
        ("def f(:\n", "broken.py, line 1"),
        ("raise SystemExit('no licence')\n", "SystemExit: no licence"),
    ],
)
def test_a_module_that_raises_is_named_with_cause_and_place(text: str, cause: str) -> None:
    write("broken.py", text)
    with pytest.raises(Failure) as caught:
        find_app("broken:app")
    assert "the module 'broken' cannot be imported" in str(caught.value)
    assert cause in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_package_whose_submodule_raises_says_so() -> None:
    write("pkg/__init__.py")
    write("pkg/celery.py", "import nosuchthing\n")
    with pytest.raises(Failure, match=r"pkg\.celery"):
        find_app("pkg")


def test_the_application_named_in_the_project_is_used_from_any_folder_of_it(cli, monkeypatch) -> None:
    write("proj.py", MAKES.format(name="app", called="it"))
    Path("pyproject.toml").write_text('[tool.kern]\napp = "proj:app"\ntask_default_queue = "mine"\n')
    Path("deep").mkdir()
    monkeypatch.chdir("deep")
    assert cli.json("queues", "--json")[0]["queue"] == "mine"
    assert cli("shell", "-c", "print(app.main)").stdout == "it\n"


def test_the_environment_names_it_too_and_the_command_line_wins(cli, monkeypatch) -> None:
    write("one.py", MAKES.format(name="app", called="one"))
    write("two.py", MAKES.format(name="app", called="two"))
    monkeypatch.setenv("KERN_APP", "one")
    assert cli("shell", "-c", "print(app.main)").stdout == "one\n"
    assert cli("shell", "-A", "two", "-c", "print(app.main)").stdout == "two\n"


def test_what_a_module_prints_at_its_import_is_no_answer(cli) -> None:
    write("chatty.py", "print('hello')\n" + MAKES.format(name="app", called="it"))
    result = cli("queues", "--json", "-A", "chatty")
    assert result.stdout.startswith("[")
    assert "hello" in result.stderr


def test_it_is_an_application_and_nothing_else() -> None:
    write("mod.py", "from kern import Kern\napp = Kern\n")
    with pytest.raises(NoApplication):
        find_app("mod:app")
    assert not isinstance(Kern, Kern)
