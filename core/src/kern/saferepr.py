"""Short text for values of any size and any manners, for headers, events and logs.

Never parsed by anybody. It shows what Celery shows: ``(2, 'text', [1, [2, [...]]])``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from numbers import Number
from types import NoneType
from typing import Any

#: What stands for the value of a sensitive argument.
MASK = "***"

_PLAIN = frozenset({int, float, bool, NoneType})


def saferepr(value: Any, maxlen: int = 1024, maxlevels: int = 3) -> str:
    """*value* as text of about *maxlen* characters at most (what is open is still closed), never an error.

    :param maxlevels: containers inside so many others are shown as ``[...]``; 0: no limit.
    """
    if value is None:
        return "None"
    quick = _quick(value, maxlen)
    if quick is not None:
        return quick
    writer = _Writer(maxlen, maxlevels)
    try:
        writer.write(value, 0)
    except Exception:
        # Containers that change while they are shown, or that have manners of their own.
        writer.parts.append(", ...")
    return "".join(writer.parts)


def masked(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    sensitive: Collection[str],
    names: Sequence[str],
    maxlen: int = 1024,
    maxlevels: int = 3,
) -> tuple[str, str]:
    """The representations of a call's arguments, with ``'***'`` for those that are sensitive.

    Positional arguments whose parameter is not known are not shown either, for they may be among them.

    :param sensitive: names of parameters.
    :param names: the task's parameters in the order of its signature; ``*rest`` stands for all further positional
        arguments (``*`` for the end of them), ``**others`` for all further keywords.
    """
    if sensitive:
        args = tuple(
            MASK if name is None or name in sensitive else value
            for name, value in zip(_filled(names, len(args)), args, strict=True)
        )
        others = next((name[2:] for name in names if name.startswith("**")), None)
        hide_others = others in sensitive
        kwargs = {
            name: MASK if name in sensitive or (hide_others and name not in names) else value
            for name, value in kwargs.items()
        }
    return saferepr(args, maxlen, maxlevels), saferepr(kwargs, maxlen, maxlevels)


def _filled(names: Sequence[str], count: int) -> list[str | None]:
    """The name of the parameter that each of *count* positional arguments fills."""
    star = next((position for position, name in enumerate(names) if name.startswith("*")), len(names))
    rest = names[star][1:] if star < len(names) and not names[star].startswith("**") else ""
    return [names[position] if position < star else rest or None for position in range(count)]


def _quick(value: Any, maxlen: int) -> str | None:
    """The text of a flat container of numbers and short text, which most arguments are; ``None``: not such a one."""
    kind = type(value)
    parts = []
    if kind is tuple or kind is list:
        if len(value) > maxlen >> 2:
            return None
        for item in value:
            text = _quick_item(item)
            if text is None:
                return None
            parts.append(text)
        if kind is list:
            shown = f"[{', '.join(parts)}]"
        else:
            shown = f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
    elif kind is dict:
        if len(value) > maxlen >> 3:
            return None
        for key, item in value.items():
            name, text = _quick_item(key), _quick_item(item)
            if name is None or text is None:
                return None
            parts.append(f"{name}: {text}")
        shown = f"{{{', '.join(parts)}}}"
    else:
        return None
    return shown if len(shown) <= maxlen else None


def _quick_item(item: Any) -> str | None:
    kind = type(item)
    if kind is str:
        return f"'{item}'" if len(item) < 200 and "'" not in item else None
    # Printing a huge number takes long, and is refused beyond some thousand digits.
    if kind is int:
        return str(item) if -(1 << 63) < item < 1 << 63 else None
    return str(item) if kind in _PLAIN else None


class _Writer:
    """Writes until the length is used up, then only what closes."""

    def __init__(self, maxlen: int, maxlevels: int) -> None:
        self.parts: list[str] = []
        self.left = maxlen
        self.maxlevels = maxlevels
        #: Something was left out, and ``...`` says so.
        self.cut = False
        #: Containers being written, by identity.
        self.open: set[int] = set()

    def add(self, text: str) -> None:
        self.parts.append(text)
        self.left -= len(text)

    def write(self, value: Any, level: int) -> None:
        kind = type(value)
        if kind in _PLAIN and kind is not int:
            self.add(str(value))
        elif isinstance(value, str):
            self.add(f"'{self.shortened(str.__str__(value)).replace(chr(39), chr(92) + chr(39))}'")
        elif isinstance(value, bytes | bytearray):
            self.add(f"b'{self.bytes_text(bytes(value[: max(self.left, 0) + 1]))}'")
        elif isinstance(value, dict):
            self.container("{", "}", value, level)
        elif isinstance(value, list):
            self.container("[", "]", value, level)
        elif isinstance(value, tuple):
            self.container("(", ",)" if len(value) == 1 else ")", value, level)
        elif isinstance(value, set | frozenset):
            if not value:
                self.add(f"{kind.__name__}()")
            elif kind is set:
                self.container("{", "}", value, level)
            else:
                self.container(f"{kind.__name__}({{", "})", value, level)
        else:
            self.add(self.shortened(_text(value)))

    def container(self, opening: str, closing: str, value: Any, level: int) -> None:
        if self.maxlevels and level >= self.maxlevels:
            self.add(f"{opening}...{closing}")
            return
        if id(value) in self.open:
            self.add(f"<Recursion on {type(value).__name__}>")
            return
        self.open.add(id(value))
        self.add(opening)
        pairs = isinstance(value, dict)
        for position, item in enumerate(value.items() if pairs else value):
            if self.left <= 0:
                if not self.cut:
                    self.parts.append(", ..." if position else "...")
                    self.cut = True
                break
            if position:
                self.add(", ")
            if pairs:
                self.write(item[0], level + 1)
                self.add(": ")
                item = item[1]
            self.write(item, level + 1)
            if self.cut:
                break
        self.parts.append(closing)
        self.open.discard(id(value))

    def shortened(self, text: str) -> str:
        return text if len(text) <= self.left else f"{text[: max(self.left, 0)]}..."

    def bytes_text(self, value: bytes) -> str:
        try:
            return self.shortened(value.decode("utf-8"))
        except UnicodeDecodeError:
            return self.shortened(value.hex())


def _text(value: Any) -> str:
    try:
        if isinstance(value, Number) and not isinstance(value, Decimal):
            return str(value)
        return repr(value)
    except Exception as error:
        return f"<Unrepresentable {type(value).__name__}: {type(error).__name__}>"
