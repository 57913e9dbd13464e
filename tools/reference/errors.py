"""``errors.md``: the tree of errors."""

import inspect
from collections.abc import Iterator

from kern import errors
from tools.reference.docstrings import code, first_sentence, markdown, table

_INTRODUCTION = """\
# Errors

Everything kern raises on purpose is in `kern.errors` and, with the exception of the last group, a `KernError`.
Attributes are for programs, sentences for people; no message contains a password.
"""

_WIRE = """\
## On the wire

In result documents an error travels as module, name and arguments. Those that Celery, billiard or kombu have travel
under their names, so that either side reads the other's documents; all others under `kern.errors`. An error of your
own comes back as itself where its module can be imported, else as a class of the same name made on the spot.
"""


def page() -> str:
    classes = [
        cls
        for cls in vars(errors).values()
        if inspect.isclass(cls) and issubclass(cls, BaseException) and cls.__module__ == errors.__name__
    ]
    known = set(classes)
    roots = [cls for cls in classes if not known & set(cls.__bases__)]
    rows = [(code(cls.__name__), first_sentence(cls.__doc__)) for cls in classes]
    details = [_details(cls) for cls in classes]
    wire = [(code(cls.__name__), code(f"{module}.{cls.__name__}")) for cls, module in errors.WIRE_MODULES.items()]
    tree = "\n".join(line for root in roots for line in _tree(root, classes, 0))
    return "\n\n".join(
        (
            _INTRODUCTION.strip(),
            f"```text\n{tree}\n```",
            table(("error", "raised when"), rows),
            *filter(None, details),
            _WIRE.strip(),
            table(("error", "travels as"), sorted(wire)),
        )
    )


def _tree(cls: type, classes: list[type], depth: int) -> Iterator[str]:
    others = [base.__name__ for base in cls.__bases__ if base not in classes and base is not Exception]
    yield "    " * depth + cls.__name__ + (f"  (also the built-in {', '.join(others)})" if others else "")
    for child in classes:
        if cls in child.__bases__:
            yield from _tree(child, classes, depth + 1)


def _details(cls: type) -> str:
    """What the docstring says beyond its first paragraph."""
    paragraphs = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[1:]
    if not paragraphs:
        return ""
    return f"### `{cls.__name__}`\n\n{first_sentence(cls.__doc__)}\n\n" + markdown("\n\n".join(paragraphs))
