"""Where a task's time goes: microseconds of processor time in each stage, for each task.

``python -m benchmarks.profile [redis|sqlite] [--pool prefork] [--tasks 100000] [--ignored]`` drains a queue of empty
tasks twice with a worker in this process, once with nothing in its way and once with a clock at every stage. Stages of
the main process are timed by the clocks of their threads, so that waiting for others does not count, and each
stretch of work counts for the innermost stage alone.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from benchmarks import processes
from benchmarks.arena import arena
from benchmarks.lineup import CONTESTANTS, OURS
from benchmarks.resp import Connection
from benchmarks.servers import Servers
from benchmarks.stages import StageClock
from kern import Kern, hookimpl
from kern.contracts.blocking import ThreadedTransport
from kern.runner import Runner
from kern.worker import Worker
from kern.worker.admission import Admission
from kern.worker.dispatch import Dispatcher
from kern.worker.intake import Intake
from kern.worker.settling import Settler

#: What the loop calls → its stage. What is not here is shown by its own name, if it costs anything.
_CALLBACKS = {
    "Claimer.run": "claim",
    "Claimer._pause": "claim",
    "Settler.run": "settle: write",
    "Settler._write_outcomes": "settle: write",
    "Settler._write_results": "settle: write",
    "Flow._on_pool_events": "take outcomes",
    "Host.collect": "pool: read outcomes",
    "PreforkPool._refill": "pool: hand over",
    "Link._on_readable": "redis: read and parse",
    "Link._flush": "redis: send",
}
#: What the transport converses about with Redis → its stage.
_CONVERSATIONS = {"claim": "claim: encode and decode", "settle": "settle: encode and decode"}
#: What a process does with a task → its stage: module, attribute of it or of a class in it.
_IN_PROCESSES = (
    ("kern_pool_prefork.child", "Child._pull", "process: pull"),
    ("kern_pool_prefork.child", "decode_request", "process: decode request"),
    ("kern_pool_prefork.child", "encode_outcome", "process: encode outcome"),
    ("kern_process_host.hosted", "Hosted.answer", "process: answer"),
    ("kern.runner", "Runner._decode", "process: run, decode"),
    ("kern.runner", "Runner.execute", "process: run, call"),
    ("kern.runner", "Runner.__call__", "process: run, outcome"),
)
#: Microseconds a task below which a stage is counted among the rest.
_NEGLIGIBLE = 0.1


@attrs.frozen
class Drained:
    """What draining cost: seconds."""

    clock: float
    main: float
    children: float
    server: float | None


async def _drain(worker: Worker, number: int, place_pid: int | None) -> Drained:
    serving = asyncio.get_running_loop().create_task(worker.serve())
    while not worker.totals and not serving.done():
        await asyncio.sleep(0.001)
    first = sum(worker.totals.values())
    children = [pid for pid in processes.tree(os.getpid()) if pid not in (os.getpid(), place_pid)]
    began, used = time.perf_counter(), _used(children, place_pid)
    while sum(worker.totals.values()) < number and not serving.done():
        await asyncio.sleep(0.005)
    ended, after = time.perf_counter(), _used(children, place_pid)
    worker.stop()
    await serving
    counted = (number - first) / number
    main, own, server = ((b - a) / counted for a, b in zip(used, after, strict=True))
    return Drained((ended - began) / counted, main, own, server if place_pid else None)


def _used(children: list[int], server: int | None) -> tuple[float, float, float]:
    return (
        time.process_time(),
        sum(processes.processor_seconds(pid) for pid in children),
        processes.processor_seconds(server) if server else 0.0,
    )


class _Reporter:
    """Processes are forked with their clocks; each leaves its figures in *folder*."""

    def __init__(self, clock: StageClock, folder: Path) -> None:
        self._clock = clock
        self._folder = folder

    @hookimpl
    def kern_process_init(self) -> None:
        self._clock.forget()

    @hookimpl
    def kern_process_shutdown(self, pid: int) -> None:
        (self._folder / f"{pid}.stages").write_text(json.dumps(self._clock.seconds()))


def _stages(clock: StageClock, folder: Path) -> Mapping[str, float]:
    """Stage → seconds, of all processes."""
    found = Counter(clock.seconds())
    for path in folder.glob("*.stages"):
        found.update(json.loads(path.read_text()))
    return found


def _wrap_processes(app: Kern, clock: StageClock, folder: Path) -> None:
    """A clock at every stage of the processes that will be forked from this one."""
    for module, path, stage in _IN_PROCESSES:
        *owners, name = path.split(".")
        owner: Any = importlib.import_module(module)
        for attribute in owners:
            owner = getattr(owner, attribute)
        clock.function(owner, name, stage)
    app.register(_Reporter(clock, folder))


def _wrap(worker: Worker, clock: StageClock) -> None:
    """A clock at every stage of *worker*."""
    clock.function(Intake, "take", "admit: table of flights")
    clock.function(Admission, "admit", "admit")
    clock.function(Dispatcher, "submit", "dispatch")
    clock.function(Settler, "put", "settle: plan")
    transport: Any = worker.transport
    if isinstance(transport, ThreadedTransport):
        clock.function(transport.driver, "claim", "claim (driver)")
        clock.function(transport.driver, "settle", "settle: result, follow-ups, release (driver)")
    elif "kern_redis_client.link" in sys.modules:
        link: Any = sys.modules["kern_redis_client.link"].Link
        clock.generators_given_to(link, "converse", lambda name: _CONVERSATIONS.get(name, f"redis: {name}"))
    if worker.pool_name == "solo":
        clock.function(Runner, "__call__", "run")
    else:
        clock.function(worker.pool, "submit", "pool: hand over")
    clock.callbacks(lambda name: _CALLBACKS.get(name, f"loop: {name}"))


def profile(server: str, pool: str, concurrency: int, tasks: int, operation: str = "publish_bulk") -> str:
    """A Markdown table for a worker with messages and results on *server*.

    :param operation: what the client publishes, see :mod:`benchmarks.client`.
    """
    with Servers() as servers, arena(CONTESTANTS[OURS], server, servers) as place:
        os.environ |= place.environment
        # Imported once the environment says where the broker is, and by the name under which processes find it.
        app: Kern = importlib.import_module("benchmarks.contestants.kern").app
        clock, runs = StageClock(), []
        for timed in (False, True):
            # By a process of its own: a client's threads would not let the pool fork.
            place.client(operation, tasks)
            if timed and pool == "prefork":
                _wrap_processes(app, clock, place.folder)
            worker = Worker(app, pool=pool, concurrency=concurrency, signals=False)
            if timed:
                if place.place.pid is not None:
                    place.redis.command("CONFIG", "RESETSTAT")
                _wrap(worker, clock)
            runs.append(asyncio.run(_drain(worker, tasks, place.place.pid)))
        text = _table(runs[0], runs[1], _stages(clock, place.folder), tasks)
        return text if place.place.pid is None else f"{text}\n\n{_scripts(place.redis, tasks)}"


def _table(plain: Drained, timed: Drained, stages: Mapping[str, float], tasks: int) -> str:
    def line(name: str, seconds: float) -> str:
        return f"| {name} | {seconds * 1e6 / tasks:.1f} |"

    shown = {stage: spent for stage, spent in stages.items() if spent * 1e6 / tasks >= _NEGLIGIBLE}
    rows = ["| | µs a task |", "|---|---|"]
    in_processes = [stage for stage in sorted(shown) if stage.startswith("process:")]
    in_main = [stage for stage in sorted(shown) if stage not in in_processes]
    rows += [line(stage, shown[stage]) for stage in in_main]
    rows.append(line("the rest: loop, threads, and the clocks", timed.main - sum(shown[name] for name in in_main)))
    rows.append(line("**main process, with clocks**", timed.main))
    rows.append(line("**main process, without**", plain.main))
    rows += [line(stage, shown[stage]) for stage in in_processes]
    if plain.children:
        rest = timed.children - sum(shown[name] for name in in_processes)
        rows.append(line("process: the rest, and the clocks", rest))
        rows.append(line("**processes that run tasks, with clocks**", timed.children))
        rows.append(line("**processes that run tasks, without**", plain.children))
    if plain.server is not None:
        rows.append(line("**the server**", plain.server))
    rows.append(line("**by the wall clock**", plain.clock))
    return "\n".join(rows)


def _scripts(redis: Connection, tasks: int) -> str:
    """What Redis says of its commands."""
    rows = ["| Redis | calls | µs a call | µs a task |", "|---|---|---|---|"]
    for key, value in redis.info("commandstats").items():
        facts = dict(part.split("=") for part in value.split(","))
        if float(facts["usec"]) / tasks >= _NEGLIGIBLE:
            name = key.removeprefix("cmdstat_")
            each = float(facts["usec"]) / tasks
            rows.append(f"| {name} | {facts['calls']} | {float(facts['usec_per_call']):.1f} | {each:.1f} |")
    return "\n".join(rows)


def main() -> None:
    """Profile what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("server", nargs="?", default="redis", choices=("redis", "postgresql", "sqlite"))
    parser.add_argument("--pool", default="prefork")
    parser.add_argument("--concurrency", "-c", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=50_000)
    parser.add_argument("--ignored", action="store_true", help="tasks whose results are not stored")
    chosen = parser.parse_args()
    operation = "publish_ignored" if chosen.ignored else "publish_bulk"
    print(profile(chosen.server, chosen.pool, chosen.concurrency, chosen.tasks, operation))


if __name__ == "__main__":
    main()
