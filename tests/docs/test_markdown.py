"""What the tests of the documentation take for a block, a link and a heading."""

from pathlib import Path

import pytest

from tools.markdown import anchors, blocks, links

PAGE = """\
# Sending a task

See [the next](next.md#when-it-fails) and `[no](link.md)`.

```python title="tasks.py"
x = 1
```

<!-- notest="needs a server" -->
```python
y = 2
```

1. Then

   ```console
   $ kern worker
   ```

   ````markdown
   ```python
   not_code
   ```
   ````

## `kern worker`: what, and why?

[reference]: elsewhere.md
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_blocks_keep_their_line_their_attributes_and_lose_their_indentation(page: Path) -> None:
    assert [(block.line, block.language, block.attributes, block.code) for block in blocks(page)] == [
        (6, "python", {"title": "tasks.py"}, "x = 1\n"),
        (11, "python", {"notest": "needs a server"}, "y = 2\n"),
        (17, "console", {}, "$ kern worker\n"),
        (21, "markdown", {}, "```python\nnot_code\n```\n"),
    ]


def test_links_are_read_outside_of_code(page: Path) -> None:
    assert [link.target for link in links(page)] == ["next.md#when-it-fails", "elsewhere.md"]


def test_headings_are_anchors(page: Path) -> None:
    assert anchors(page) == {"sending-a-task", "kern-worker-what-and-why"}
