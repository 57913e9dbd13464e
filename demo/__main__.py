"""``python -m demo``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from demo.run import main, temporary_folder


@click.command()
@click.option("--workers", default=min(2, os.cpu_count() or 1), show_default=True, help="Workers to start.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Work here and leave everything.")
@click.option("--limit", type=int, help="Measure only so many files.")
def demo(workers: int, folder: Path | None, limit: int | None) -> None:
    """Measure the standard library with kern."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        sys.exit(main(workers, folder, limit))
    with temporary_folder() as temporary:
        code = main(workers, temporary, limit)
    sys.exit(code)


if __name__ == "__main__":
    demo()
