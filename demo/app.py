"""The demo's application and its tasks."""

from __future__ import annotations

import io
import keyword
import tokenize
from collections import Counter
from pathlib import Path
from typing import Any

from kern import Kern, Task

app = Kern("demo")


@app.task
def measure(path: str) -> dict[str, Any]:
    """Size, lines, tokens and the most frequent names of one Python file."""
    source = Path(path).read_bytes()
    names: Counter[str] = Counter()
    tokens = 0
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            tokens += 1
            if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                names[token.string] += 1
        problem = None
    except (tokenize.TokenError, SyntaxError) as error:
        # The standard library's tests contain files that are broken on purpose.
        problem = f"{type(error).__name__}: {error}"
    return {
        "path": path,
        "bytes": len(source),
        "lines": source.count(b"\n"),
        "tokens": tokens,
        "names": names.most_common(20),
        "problem": problem,
    }


@app.task(bind=True, max_retries=5)
def stubborn(self: Task[..., Any], failures: int) -> int:
    """Fails *failures* times, then gives the number of attempts it took."""
    if self.request.retries < failures:
        raise self.retry(exc=ConnectionError("the demo's service is not there yet"), countdown=0.2)
    return self.request.retries + 1
