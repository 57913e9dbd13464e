"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

#: Option of commands that can print JSON.
json_option = click.option("-j", "--json", "as_json", is_flag=True, help="One JSON document instead of text.")


def print_json(value: Any) -> None:
    """One JSON document."""
    click.echo(json.dumps(value, indent=2, default=plain, ensure_ascii=False))


def plain(value: Any) -> Any:
    """*value* as JSON can have it; what it cannot is text."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return list(value)
    return repr(value)


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[int] = ()) -> None:
    """A table with aligned columns.

    :param right: columns of numbers.
    """
    texts = [[str(cell) for cell in row] for row in rows]
    aligned_right = set(right)
    widths = [max(len(row[column]) for row in (header, *texts)) for column in range(len(header))]
    for number, row in enumerate((header, *texts)):
        cells = [
            cell.rjust(width) if column in aligned_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        click.secho(line, bold=True) if number == 0 else click.echo(line)


def print_pairs(pairs: Iterable[tuple[str, object]], indent: int = 2) -> None:
    """Names and values, aligned."""
    known = list(pairs)
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        first, *rest = str(value).splitlines() or [""]
        click.echo(f"{' ' * indent}{name.ljust(width)}  {first}".rstrip())
        for line in rest:
            click.echo(f"{' ' * (indent + width + 2)}{line}")


def moment(seconds: float) -> str:
    """A time in seconds since the epoch, for people."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(sep=" ", timespec="seconds")


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """``1 message``, ``3 messages``."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
