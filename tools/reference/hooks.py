"""``hooks.md``: every hook with its docstring, and which stands for which signal of Celery's."""

import ast
import inspect
import re

from kern import hookspecs
from kern.hookspecs import Hooks
from tools.reference.docstrings import code, markdown, table
from tools.reference.signals import APPLICATION_SIGNALS, SIGNALS

_GROUP = re.compile(r"^ *# -- (.+?) -+$")

_INTRODUCTION = """\
# Hooks

{module}

[How to hook into tasks](../how-to/hook-into-tasks.md) uses some of them in an application, [how to write a
plugin](../how-to/write-a-plugin.md) in a distribution.
"""

_SIGNALS = """\
## Celery's signals

Each signal has a hook that stands for it, or a reason why it has none. Where Celery gives one message at a time, kern
gives a batch.
"""


def page() -> str:
    groups = _groups()
    parts = [_INTRODUCTION.format(module=markdown(_without_title(hookspecs.__doc__))).strip()]
    for title, names in groups.items():
        parts.append(f"## {title[0].upper()}{title[1:]}")
        parts += [_hook(name) for name in names]
    parts.append(_SIGNALS.strip())
    _check_hooks_exist()
    for signals in (SIGNALS, APPLICATION_SIGNALS):
        rows = [(code(signal), code(hook) if hook else "–", remark) for signal, hook, remark in signals]
        parts.append(table(("Celery", "kern", ""), rows))
    return "\n\n".join(parts)


def _without_title(doc: str | None) -> str:
    return inspect.cleandoc(doc or "").split("\n\n", 1)[1]


def _groups() -> dict[str, list[str]]:
    """Names of the hooks under the headings that the source has for them."""
    source = inspect.getsource(hookspecs)
    lines = source.splitlines()
    (cls,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Hooks")
    headings = {number: match[1] for number, line in enumerate(lines, 1) if (match := _GROUP.match(line))}
    found: dict[str, list[str]] = {}
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("kern_"):
            heading = headings[max(number for number in headings if number < node.lineno)]
            found.setdefault(heading, []).append(node.name)
    return found


def _hook(name: str) -> str:
    function = getattr(Hooks, name)
    signature = inspect.signature(function)
    parameters = [str(parameter) for key, parameter in signature.parameters.items() if key != "self"]
    first = " The first answer counts." if getattr(function, "kern_spec", {}).get("firstresult") else ""
    declared = f"{name}({', '.join(parameters)}) -> {signature.return_annotation}".replace("'", "")
    return f"### `{name}`\n\n```text\n{_wrapped(declared)}\n```\n\n{markdown(function.__doc__)}{first}"


def _wrapped(declared: str, width: int = 100) -> str:
    if len(declared) <= width:
        return declared
    name, _, rest = declared.partition("(")
    parameters, _, answer = rest.rpartition(")")
    return f"{name}(\n    " + ",\n    ".join(re.split(r", (?=\w+: )", parameters)) + f",\n){answer}"


def _check_hooks_exist() -> None:
    for signal, hook, _ in (*SIGNALS, *APPLICATION_SIGNALS):
        if hook and not hasattr(Hooks, hook):
            raise ValueError(f"{signal}: there is no hook {hook}")
