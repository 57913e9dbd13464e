"""Finding the modules of an application: named, discovered, and what is wrong with them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kern.app import Kern
from kern.errors import ImproperlyConfigured
from kern.hookspecs import hookimpl
from kern_testing.make import unique


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Makes packages of files; they can be imported from the working directory."""
    made: list[str] = []
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def make(**files: str) -> str:
        name = unique("pkg").replace("-", "_")
        made.append(name)
        folder = tmp_path / "work" / name
        folder.mkdir()
        for file, content in {"__init__": "", **files}.items():
            (folder / f"{file}.py").write_text(content)
        return name

    yield make
    for name in [n for n in sys.modules if n.partition(".")[0] in made]:
        del sys.modules[name]


def imported(name: str) -> bool:
    return name in sys.modules


def test_a_worker_imports_what_is_named_from_the_working_directory(
    tree: Callable[..., str], make_bench: Callable[..., Any]
) -> None:
    one, two = tree(tasks=""), tree()
    app = make_bench(imports=[f"{one}.tasks"], include=[two]).app
    path = list(sys.path)
    app.import_modules()
    assert imported(f"{one}.tasks")
    assert imported(two)
    assert sys.path == path


def test_packages_are_looked_through_when_tasks_are_needed(app: Kern, tree: Callable[..., str]) -> None:
    with_tasks, without, other = tree(tasks=""), tree(), tree(jobs="")
    app.autodiscover_tasks([with_tasks, without])
    app.autodiscover_tasks(lambda: [other], related_name="jobs")
    assert not imported(with_tasks)
    app.import_modules()
    assert imported(f"{with_tasks}.tasks")
    assert imported(without)
    assert imported(f"{other}.jobs")


def test_force_looks_at_once(app: Kern, tree: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    name = tree(tasks="")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    app.autodiscover_tasks([name], force=True)
    assert imported(f"{name}.tasks")


def test_without_a_related_name_the_package_alone_is_imported(app: Kern, tree: Callable[..., str]) -> None:
    name = tree(tasks="")
    app.autodiscover_tasks([name], related_name=None)
    app.import_modules()
    assert imported(name)
    assert not imported(f"{name}.tasks")


def test_the_name_of_a_class_in_a_package_means_the_package(app: Kern, tree: Callable[..., str]) -> None:
    name = tree(tasks="")
    app.autodiscover_tasks([f"{name}.SomeConfig"])
    app.import_modules()
    assert imported(f"{name}.tasks")


def test_plugins_may_know_the_packages(app: Kern, tree: Callable[..., str]) -> None:
    name = tree(tasks="")

    class Framework:
        @hookimpl
        def kern_task_packages(self, app: Kern) -> list[str]:
            return [name]

    app.register(Framework())
    app.autodiscover_tasks()
    app.import_modules()
    assert imported(f"{name}.tasks")


def test_naming_nothing_is_an_error_where_nobody_knows_better(app: Kern) -> None:
    app.autodiscover_tasks()
    with pytest.raises(ImproperlyConfigured, match=r"names no packages.*autodiscover_tasks\(\['package'\]\)"):
        app.import_modules()


def test_one_name_in_place_of_a_list_is_an_error(app: Kern) -> None:
    app.autodiscover_tasks("proj")  # type: ignore[arg-type]
    with pytest.raises(ImproperlyConfigured, match=r"takes a list of packages"):
        app.import_modules()


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import there_is_no_such_module", "ModuleNotFoundError: No module named 'there_is_no_such_module'"),
        ("raise ValueError('broken')", "ValueError: broken"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_cause(
    app: Kern, tree: Callable[..., str], source: str, cause: str
) -> None:
    name = tree(tasks=source)
    app.autodiscover_tasks([name])
    with pytest.raises(ImproperlyConfigured, match=rf"the module '{name}.tasks' cannot be imported: {cause}"):
        app.import_modules()


def test_a_package_that_does_not_exist_is_named(app: Kern) -> None:
    app.autodiscover_tasks(["there_is_no_such_package"])
    with pytest.raises(ImproperlyConfigured, match=r"the package 'there_is_no_such_package' cannot be imported"):
        app.import_modules()


def test_a_package_that_breaks_is_named(app: Kern, tree: Callable[..., str]) -> None:
    name = tree(__init__="1 / 0")
    app.autodiscover_tasks([name])
    with pytest.raises(ImproperlyConfigured, match=rf"the package '{name}' cannot be imported: ZeroDivisionError"):
        app.import_modules()


def test_modules_are_imported_once_and_listeners_told_before(app: Kern, tree: Callable[..., str]) -> None:
    told: list[bool] = []
    name = tree(tasks="")

    class Listener:
        @hookimpl
        def kern_import_modules(self, app: Kern) -> None:
            told.append(imported(f"{name}.tasks"))

    app.register(Listener())
    app.autodiscover_tasks([name])
    app.import_modules()
    app.import_modules()
    assert told == [False]


def test_after_a_failure_they_are_imported_again(tree: Callable[..., str], make_bench: Callable[..., Any]) -> None:
    name = tree(tasks="raise ValueError")
    app = make_bench(imports=[f"{name}.tasks"]).app
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured):
            app.import_modules()


def test_objects_are_found_by_dotted_names(app: Kern) -> None:
    assert app.import_object("kern.errors:Retry") is app.import_object("kern.errors.Retry")
    with pytest.raises(ImproperlyConfigured, match=r"no attribute 'Rety'.*did you mean 'Retry'"):
        app.import_object("kern.errors:Rety")
