"""What the documentation shows is run.

The Python blocks of a page run one after the other, in one namespace and one empty folder, as a reader would type
them. A block with `title="tasks.py"` is written to that file first and then imported from it, so that tasks have the
name the page says they have. Of console blocks, each `kern …` must be a command with those options, and each
distribution of kern that is installed must exist.

A block that cannot run says why, and is only compiled:

    ```python notest="needs a Redis server"

or, where the page is also shown by readers that print the rest of that line, `<!-- notest="…" -->` on the line above.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.markdown import Block, blocks, pages
from tools.workspace import ROOT, packages

#: A page runs in a process of its own: argv is a file with the blocks, as Python literals.
RUNNER = """
import ast, importlib, pathlib, sys

sys.path.insert(0, "")
namespace = {"__name__": "__main__"}
for path, line, title, code in ast.literal_eval(pathlib.Path(sys.argv[1]).read_text()):
    if title:
        file = pathlib.Path(title)
        file.parent.mkdir(parents=True, exist_ok=True)
        name = ".".join(file.with_suffix("").parts)
        known = sys.modules.pop(name, None)
        file.write_text((file.read_text() + "\\n" if known else "") + code)
        importlib.invalidate_caches()
        module = importlib.import_module(name)
        namespace.update({key: value for key, value in vars(module).items() if not key.startswith("__")})
    else:
        # Empty lines before it, for tracebacks that name the line of the page.
        exec(compile("\\n" * (line - 1) + code, path, "exec"), namespace)
"""


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def python_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in {"python", "py"}]


def environment() -> dict[str, str]:
    """That of a reader, with kern on the PATH."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


@pytest.mark.parametrize("page", pages(), ids=ids)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    runnable = []
    for block in python_blocks(page):
        ast.parse(block.code, filename=str(block))
        if "notest" not in block.attributes:
            runnable.append((str(page), block.line, block.attributes.get("title", ""), block.code))
    if not runnable:
        return
    folder = tmp_path / "reader"
    folder.mkdir()
    (tmp_path / "blocks").write_text(repr(runnable))
    (tmp_path / "runner.py").write_text(RUNNER)
    done = subprocess.run(
        [sys.executable, tmp_path / "runner.py", tmp_path / "blocks"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", pages(), ids=ids)
def test_a_block_that_does_not_run_says_why(page: Path) -> None:
    unsaid = [str(block) for block in blocks(page) if not block.attributes.get("notest", "a reason").strip()]
    assert not unsaid


def commands(block: Block) -> Iterator[list[str]]:
    """The commands a console block shows after its prompts, one list of words each; output is no command."""
    lines = iter(block.code.splitlines())
    for line in lines:
        if not line.lstrip().startswith("$ "):
            continue
        text = line.lstrip().removeprefix("$ ")
        while text.endswith("\\"):
            text = text[:-1] + next(lines, "").lstrip().removeprefix("> ")
        lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;<>()"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def without_assignments(words: list[str]) -> list[str]:
    while words and re.match(r"[A-Za-z_]\w*=", words[0]):
        words = words[1:]
    return words


@pytest.mark.parametrize("page", pages(), ids=ids)
def test_console_blocks_show_commands_that_exist(page: Path, tmp_path: Path) -> None:
    # Modules a command may name with -A; what is in them is the other test's business.
    for block in python_blocks(page):
        if title := block.attributes.get("title"):
            (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / title).write_text(block.code)
    wrong = []
    for block in blocks(page):
        if block.language != "console" or "notest" in block.attributes:
            continue
        for words in map(without_assignments, commands(block)):
            if words[:1] == ["kern"]:
                wrong += [f"{block}: {problem}" for problem in command_problems(words, tmp_path)]
            elif "install" in words or "add" in words:
                wrong += [f"{block}: {problem}" for problem in installation_problems(words)]
    assert not wrong, "\n" + "\n".join(wrong)


def command_problems(words: list[str], folder: Path) -> Iterator[str]:
    # Options are parsed before --help is obeyed: an unknown one is refused.
    done = subprocess.run(
        [sys.executable, "-c", "from kern.cli import main; main()", *words[1:], "--help"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        yield f"{shlex.join(words)}\n{done.stderr}"


def installation_problems(words: list[str]) -> Iterator[str]:
    known = {package.name for package in packages()}
    for word in words:
        name = re.match(r"kern-[a-z0-9-]+", word)
        if name and name[0] not in known:
            yield f"{shlex.join(words)}: there is no {name[0]}"
