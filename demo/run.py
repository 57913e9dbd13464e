"""Publish, work, wait, show."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from kern import AsyncResult, Kern
from kern.message import Message, Publication

ROOT = Path(__file__).resolve().parent.parent


def library_files() -> list[str]:
    """Every Python file of this interpreter's standard library, without what was installed into it."""
    root = Path(sysconfig.get_path("stdlib"))
    installed = {"site-packages", "dist-packages"}
    return sorted(str(path) for path in root.rglob("*.py") if not installed & set(path.parts))


@contextmanager
def workers(number: int, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many workers on the embedded default in *folder*; stopped gracefully in the end."""
    command = [sys.executable, "-m", "kern", "-q", "worker", "-A", "demo.app:app", "-l", "critical"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen(command, cwd=folder, env=environment) for _ in range(number)]
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)


def publish_poison(app: Kern) -> str:
    """A message whose body breaks off in the middle; its id."""
    task_id = "poison-0001"
    message = Message(
        body=b'[["this body breaks off',
        headers={"lang": "py", "task": "demo.app.measure", "id": task_id, "retries": 0},
        properties={"correlation_id": task_id},
    )
    queue = app.conf.task_default_queue
    app.connection.do(lambda port: port.publish([Publication(message, "", queue)]), timeout=10)
    return task_id


def wait_for_all(results: Sequence[AsyncResult[Any]], app: Kern) -> list[dict[str, Any]]:
    """The values as they arrive, with a progress bar."""
    values: list[dict[str, Any]] = []
    with click.progressbar(length=len(results), label="  working", file=sys.stderr, width=40) as bar:
        for _task_id, meta in app.ResultSet(results).iter_native(timeout=120):
            if meta["status"] == "SUCCESS":
                values.append(meta["result"])
            bar.update(1)
    return values


def show(values: Sequence[dict[str, Any]], seconds: float) -> None:
    """The summary."""
    names: Counter[str] = Counter()
    for value in values:
        names.update(dict(value["names"]))
    click.secho("\nThe standard library, measured by kern\n", bold=True)
    total = {key: sum(value[key] for value in values) for key in ("bytes", "lines", "tokens")}
    rows = [
        ("files", f"{len(values):,}"),
        ("bytes", f"{total['bytes']:,}"),
        ("lines", f"{total['lines']:,}"),
        ("tokens", f"{total['tokens']:,}"),
        ("broken on purpose", f"{sum(1 for value in values if value['problem']):,}"),
        ("seconds", f"{seconds:.1f}"),
        ("files a second", f"{len(values) / seconds:,.0f}"),
    ]
    for label, figure in rows:
        click.echo(f"  {label:<20}{figure:>14}")
    click.echo("\n  most frequent names   " + ", ".join(f"{name} {count:,}" for name, count in names.most_common(6)))
    click.echo("  largest files")
    for value in sorted(values, key=lambda each: -each["tokens"])[:3]:
        click.echo(f"    {value['tokens']:>9,} tokens  {Path(value['path']).name}")


def show_quarantine(app: Kern, task_id: str, patience: float = 20.0) -> bool:
    """What became of the broken message; whether it is where it should be."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        found = app.connection.do(lambda port: port.quarantined(), timeout=10)
        mine = [item for item in found if item.message is not None and item.message.task_id == task_id]
        if mine:
            item = mine[0]
            click.echo(f"\n  in quarantine         {task_id}: {item.reason} ({item.evidence.get('error')})")
            click.echo("                        nothing is lost: `kern quarantine show|replay|drop`")
            return True
        time.sleep(0.05)
    click.secho("  the broken message is not in quarantine", fg="red")
    return False


def main(number_of_workers: int, folder: Path, limit: int | None) -> int:
    """The demo in *folder*; the exit code."""
    os.chdir(folder)
    from demo.app import app, measure, stubborn

    files = library_files()[:limit]
    started = time.perf_counter()
    with workers(number_of_workers, folder):
        poison = publish_poison(app)
        retried = stubborn.delay(2)
        results = app.send_many([measure.s(path) for path in files], timeout=60)
        click.echo(f"  published {len(files):,} tasks to {folder / 'kern.db'}, {number_of_workers} worker(s)")
        values = wait_for_all(results, app)
        seconds = time.perf_counter() - started
        show(values, seconds)
        attempts = retried.get(timeout=60)
        click.echo(f"\n  failing on purpose    done after {attempts} attempts")
        quarantined = show_quarantine(app, poison)
    app.close()
    complete = len(values) == len(files) and attempts == 3 and quarantined
    click.secho(f"\n  {'nothing lost' if complete else 'SOMETHING IS MISSING'}\n", fg="green" if complete else "red")
    return 0 if complete else 1


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="kern-demo-"))
    try:
        yield folder
    finally:
        os.chdir(ROOT)
        shutil.rmtree(folder, ignore_errors=True)
