"""``kern shell``: a Python shell with the application at hand."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from kern.cli.failures import Failure
from kern.cli.global_options import Command
from kern.cli.session import Session, pass_session

if TYPE_CHECKING:
    from kern.app import Kern


@click.command(cls=Command, name="shell", short_help="Open a Python shell with the application.")
@click.option("-I", "--ipython", "chosen", flag_value="ipython", help="IPython.")
@click.option("-B", "--bpython", "chosen", flag_value="bpython", help="bpython.")
@click.option("--python", "chosen", flag_value="python", help="Python's own.")
@click.option("-T", "--without-tasks", is_flag=True, help="Leave the tasks out.")
@click.option("-c", "--command", "code", metavar="CODE", help="Run this and end.")
@pass_session
def command(session: Session, chosen: str | None, without_tasks: bool, code: str | None) -> None:
    """Open a Python shell: IPython, bpython or Python's own, whichever is there.

    It has app, Task, signature, and the tasks by the names of their functions.
    """
    app = session.app
    session.import_modules()
    names = namespace(app, without_tasks)
    if code is not None:
        exec(compile(code, "<command line>", "exec"), names)
        return
    shell = chosen or next(name for name in SHELLS if name == "python" or _installed(MODULES[name]))
    if shell != "python" and not _installed(MODULES[shell]):
        raise Failure(f"{MODULES[shell]} is not installed: pip install {shell}")
    SHELLS[shell](names)


def namespace(app: Kern, without_tasks: bool = False) -> dict[str, Any]:
    """What the shell has to begin with."""
    from kern.signature import signature
    from kern.task import Task

    names: dict[str, Any] = {"__name__": "__main__", "__doc__": None}
    if not without_tasks:
        # By its full name a task can always be had from app.tasks; of two functions of one name, the first is shown.
        for name, task in sorted(app.tasks.items()):
            if not name.startswith("celery."):
                names.setdefault(name.rpartition(".")[2], task)
    return {**names, "app": app, "celery": app, "Task": Task, "signature": signature}


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _ipython(names: dict[str, Any]) -> None:
    importlib.import_module(MODULES["ipython"]).start_ipython(argv=[], user_ns=names)


def _bpython(names: dict[str, Any]) -> None:
    importlib.import_module(MODULES["bpython"]).embed(locals_=names)


def _python(names: dict[str, Any]) -> None:
    import code

    try:
        import readline
        import rlcompleter

        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab: complete")
    except ImportError:
        pass  # this Python was built without; the shell has no completion
    shown = ", ".join(sorted(name for name in names if not name.startswith("_")))
    code.interact(f"Python {sys.version.split()[0]}: {shown}", local=names, exitmsg="")


#: The user's own shells, taken when they are there; nothing here depends on them.
MODULES: Mapping[str, str] = {"ipython": "IPython", "bpython": "bpython"}
SHELLS: Mapping[str, Callable[[dict[str, Any]], None]] = {"ipython": _ipython, "bpython": _bpython, "python": _python}
