"""``contracts.md``: what drivers owe, as their docstrings say."""

import importlib
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType

from tools.reference.docstrings import code, first_sentence, markdown, table

#: In the order in which a reader meets them.
MODULES = ("transport", "result_store", "pool", "scheduler", "monitor", "service", "continuation", "records", "port")

_INTRODUCTION = """\
# Contracts

What an author of a driver implements. Each is a module of `kern.contracts`; its docstring is the promise, and a suite
of `kern_testing.contracts` holds a driver to it. [What became of the
contracts](../explanation/contracts.md) explains the choices, [how to write a plugin](../how-to/write-a-plugin.md)
starts with an example.
"""


def page() -> str:
    return "\n\n".join([_INTRODUCTION.strip(), *(_module(name) for name in MODULES)])


def _module(name: str) -> str:
    module = importlib.import_module(f"kern.contracts.{name}")
    parts = [f"## `kern.contracts.{name}`", markdown(module.__doc__)]
    plain = []
    for cls in _classes(module):
        if inspect.isabstract(cls):
            parts.append(_interface(cls))
        else:
            plain.append((code(cls.__name__), first_sentence(_own_doc(cls))))
    if plain:
        parts += ["Values:", table(("class", "what it is"), plain)]
    return "\n\n".join(parts)


def _classes(module: ModuleType) -> Iterator[type]:
    for value in vars(module).values():
        if inspect.isclass(value) and value.__module__ == module.__name__ and not value.__name__.startswith("_"):
            yield value


def _own_doc(cls: type) -> str:
    """attrs gives a class without a docstring none; enumerations would inherit one."""
    return str(cls.__dict__.get("__doc__") or "")


def _interface(cls: type) -> str:
    rows = []
    for name, member in vars(cls).items():
        if name.startswith("_") or not inspect.isfunction(member):
            continue
        must = "must" if getattr(member, "__isabstractmethod__", False) else "may"
        doc = member.__doc__ or _doc_of_port(cls, name)
        rows.append((code(f"{name}({_parameters(member)})"), must, first_sentence(doc)))
    heading = ("method", "implement", "")
    return f"### `{cls.__name__}`\n\n{markdown(cls.__doc__)}\n\n{table(heading, rows)}"


def _doc_of_port(cls: type, name: str) -> str | None:
    """What the port says of the method of a blocking driver that says nothing itself."""
    port = getattr(sys.modules[cls.__module__], cls.__name__.removeprefix("Blocking"))
    method = getattr(port, name, None) if port is not cls else None
    return None if method is None else method.__doc__


def _parameters(function: object) -> str:
    names = [name for name in inspect.signature(function).parameters if name != "self"]  # type: ignore[arg-type]
    return ", ".join(names)
