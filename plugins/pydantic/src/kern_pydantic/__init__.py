"""Pydantic models as task arguments and results, for kern.

There is nothing to import: ``@app.task(pydantic=True)`` is known once this is installed.
"""

from __future__ import annotations

__all__: list[str] = []
