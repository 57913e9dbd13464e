"""Fenced code blocks, headings and links of Markdown pages: as much of the syntax as the project's pages use."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from tools.workspace import ROOT, packages

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>[\w+-]*)(?P<info>[^`]*)$")
ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')
#: The same attributes for readers that show what follows the language: a comment on the line above the fence.
COMMENT = re.compile(r"^ *<!-- *(?P<info>(?:\w+=\"[^\"]*\" *)+)-->\s*$")
HEADING = re.compile(r"^ {0,3}#{1,6} +(?P<text>.+?) *#*$")
EXPLICIT_ID = re.compile(r"\s*\{[^}]*#(?P<id>[\w-]+)[^}]*\}$")
LINK = re.compile(r"(?<!\\)\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?(?P<target>[^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]: *<?(?P<target>[^\s>]+)")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    path: Path
    #: Of its first line of code, counted from one.
    line: int
    language: str
    attributes: dict[str, str]
    code: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Link:
    path: Path
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.target}"


def pages(root: Path = ROOT) -> list[Path]:
    """Every page that is written for readers: of the tree, of its documentation, of each package."""
    own = [path for path in (root / "README.md", root / "CONTRIBUTING.md") if path.exists()]
    of_packages = [package.folder / "README.md" for package in packages(root)]
    return [*own, *(path for path in of_packages if path.exists()), *sorted((root / "docs").rglob("*.md"))]


def blocks(path: Path) -> list[Block]:
    found: list[Block] = []
    lines = path.read_text().splitlines()
    number = 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        number += 1
        if opening is None:
            continue
        start, indent, fence = number, len(opening["indent"]), opening["fence"]
        while number < len(lines) and lines[number].strip() != fence:
            number += 1
        code = [line[min(indent, len(line) - len(line.lstrip())) :] for line in lines[start:number]]
        comment = COMMENT.match(lines[start - 2]) if start >= 2 else None
        info = opening["info"] + (" " + comment["info"] if comment else "")
        found.append(Block(path, start + 1, opening["language"], dict(ATTRIBUTE.findall(info)), "\n".join(code) + "\n"))
        number += 1
    return found


def prose(path: Path) -> list[tuple[int, str]]:
    """Numbered lines outside of code, inline code blanked."""
    kept: list[tuple[int, str]] = []
    fence: str | None = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if fence is not None:
            if line.strip() == fence:
                fence = None
        elif opening := FENCE.match(line):
            fence = opening["fence"]
        else:
            kept.append((number, line))
    return kept


def links(path: Path) -> list[Link]:
    found: list[Link] = []
    for number, line in prose(path):
        text = re.sub(r"`[^`]*`", "``", line)
        found += [Link(path, number, match["target"]) for match in LINK.finditer(text)]
        if reference := REFERENCE.match(text):
            found.append(Link(path, number, reference["target"]))
    return found


def anchors(path: Path) -> set[str]:
    """What `#…` may point at in a page: its headings, by Python-Markdown and by GitHub, and ids given by hand."""
    found: set[str] = set()
    for _, line in prose(path):
        found |= set(re.findall(r"\bid=\"([^\"]+)\"", line))
        if heading := HEADING.match(line):
            text = heading["text"]
            if explicit := EXPLICIT_ID.search(text):
                found.add(explicit["id"])
                text = text[: explicit.start()]
            found |= {slug(text), github_slug(text)}
    return found


def plain(text: str) -> str:
    """A heading without its markup."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"[`*]", "", text)


def slug(text: str) -> str:
    """As Python-Markdown's toc extension."""
    ascii_only = unicodedata.normalize("NFKD", plain(text)).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def github_slug(text: str) -> str:
    return re.sub(r"[^\w\- ]", "", plain(text).strip().lower()).replace(" ", "-")
