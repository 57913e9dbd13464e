"""From docstrings to Markdown: as much of reStructuredText as docstrings of this project use."""

import ast
import inspect
import re
from collections.abc import Iterable, Sequence
from types import ModuleType

_ROLE = re.compile(r":(?:class|meth|func|data|attr|mod|exc|ref):`([^`]+)`")
_LITERAL = re.compile(r"``([^`]+)``")
_FIELD = re.compile(r"^:(\w+)(?: ([\w.]+))?:(?: +(.*))?$")
_BORDER = re.compile(r"^=+(?: +=+)+ *$")


def inline(text: str) -> str:
    """Roles and literals of one text as code."""
    return _LITERAL.sub(r"`\1`", _ROLE.sub(_role, text))


def _role(match: re.Match[str]) -> str:
    """What a role shows: of a name behind a tilde the last part."""
    name = match[1]
    return f"`{name.rpartition('.')[2] if name.startswith('~') else name}`"


def first_sentence(doc: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return inline(" ".join(inspect.cleandoc(doc or "").split("\n\n")[0].split()))


def markdown(doc: str | None) -> str:
    """A whole docstring: paragraphs, lists, simple tables, literal blocks, fields."""
    lines = inspect.cleandoc(doc or "").splitlines()
    made: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        if _BORDER.match(line):
            number = _table(lines, number, made)
        elif line.rstrip().endswith("::"):
            if line.strip() != "::":
                made.append(inline(line.rstrip()[:-1]))
            number = _literal_block(lines, number + 1, made)
        elif field := _FIELD.match(line):
            text, number = _field_text(lines, number, field[3] or "")
            subject = f" `{field[2]}`" if field[2] else ""
            word = {"param": "", "ivar": "", "raises": "raises"}.get(field[1], field[1])
            made.append(f"- {word}{subject}: {inline(text)}".replace("-  ", "- "))
        else:
            made.append(inline(line))
            number += 1
    return _spaced(made)


def parameters(doc: str | None) -> dict[str, str]:
    """What a docstring says of each parameter, in Markdown."""
    lines = (inspect.cleandoc(doc) if doc else "").splitlines()
    found = {}
    for number, line in enumerate(lines):
        field = _FIELD.match(line)
        if field and field[1] == "param":
            found[field[2]] = inline(_field_text(lines, number, field[3] or "")[0])
    return found


def _spaced(lines: Sequence[str]) -> str:
    """A list needs an empty line before it."""
    made: list[str] = []
    for line in lines:
        starts = re.match(r"[-*] ", line) is not None
        if starts and made and made[-1].strip() and not re.match(r"([-*] |  )", made[-1]):
            made.append("")
        made.append(line)
    return "\n".join(made).strip()


def _field_text(lines: Sequence[str], number: int, first: str) -> tuple[str, int]:
    text = [first]
    number += 1
    while number < len(lines) and lines[number].startswith("    "):
        text.append(lines[number].strip())
        number += 1
    return " ".join(text), number


def _literal_block(lines: Sequence[str], number: int, made: list[str]) -> int:
    while number < len(lines) and not lines[number].strip():
        number += 1
    block: list[str] = []
    while number < len(lines) and (lines[number].startswith(" ") or not lines[number].strip()):
        block.append(lines[number])
        number += 1
    made += ["", "```text", *inspect.cleandoc("\n".join(["", *block])).splitlines(), "```", ""]
    return number


def _table(lines: Sequence[str], number: int, made: list[str]) -> int:
    """A simple table; one with two borders has no heading."""
    rows, has_heading, number = simple_table(lines, number)
    heading, body = (rows[0], rows[1:]) if has_heading else ([""] * len(rows[0]), rows)
    made += ["", *table(heading, body).splitlines(), ""]
    return number


def simple_table(lines: Sequence[str], number: int) -> tuple[list[list[str]], bool, int]:
    """Rows of cells of the simple table that starts at line *number*, whether the first is a heading, and its end.

    A row whose first cell is empty goes on with the one before it.
    """
    starts = [match.start() for match in re.finditer(r"=+", lines[number])]
    borders, rows = 1, list[list[str]]()
    has_heading = False
    number += 1
    while number < len(lines):
        line = lines[number]
        number += 1
        if _BORDER.match(line):
            borders += 1
            rest = lines[number] if number < len(lines) else ""
            if borders == 3 or not rest.strip():
                break
            has_heading = True
            continue
        cells = [
            line[start : (starts[at + 1] if at + 1 < len(starts) else None)].strip() for at, start in enumerate(starts)
        ]
        if rows and not cells[0]:
            rows[-1] = [" ".join(filter(None, pair)) for pair in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    return [[inline(cell) for cell in row] for row in rows], has_heading, number


def cell(text: object) -> str:
    """Text that does not end its cell; what looks like HTML outside of code is text."""
    parts = str(text).replace("|", "\\|").replace("\n", " ").split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(heading)} |", f"|{'---|' * len(heading)}"]
    lines += [f"| {' | '.join(cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines)


def code(text: object) -> str:
    """Inline code, also of text with backticks."""
    fence = "``" if "`" in str(text) else "`"
    return f"{fence}{text}{fence}"


def attribute_comments(module: ModuleType, class_name: str) -> dict[str, str]:
    """What the ``#:`` comments above or behind the attributes of a class say, by attribute, in order.

    An attribute without a comment has an empty one.
    """
    source = inspect.getsource(module)
    lines = source.splitlines()
    (cls,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == class_name)
    found: dict[str, str] = {}
    for node in cls.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name):
                found[target.id] = _comment_above(lines, node.lineno - 2)
    return found


def _comment_above(lines: Sequence[str], number: int) -> str:
    text: list[str] = []
    while number >= 0 and lines[number].lstrip().startswith("#:"):
        text.insert(0, lines[number].strip()[2:].strip())
        number -= 1
    return inline(" ".join(text))
