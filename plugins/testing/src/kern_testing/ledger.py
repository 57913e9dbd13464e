"""The ledger: counts what was published, run and settled, in files that the fault cannot touch.

Nothing counts on logs, and nothing on the server that is restarted. The producer notes what it intends *before* it
sends, and the answer after; the task notes start, effect and end; every line is appended in one write and synced::

    ledger = Ledger(tmp_path)
    with ledger.publishing(task_id):            # confirmed, refused or unknown, by what is raised
        add.apply_async((str(ledger.executions), …), task_id=task_id)

    @app.task(bind=True)
    def add(self, ledger_path, …):
        with ledger.running(ledger_path, self.request.id):
            …

    report = ledger.report(quarantined=…, depths=…)
    report.check(duplicates=0)

==============  ============================================================
lost            confirmed, and neither ended nor quarantined nor cancelled
unexpected      run, though nobody ever got it through (refused counts here)
recovered       publishing unknown, and run
duplicated      more than one effect
concurrent      two runs of one call that overlapped and both ended
residue         what is left in the broker when all is quiet
==============  ============================================================
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from kern.contracts.transport import QueueDepth

INTENT, CONFIRMED, REFUSED, UNKNOWN = "intent", "confirmed", "refused", "unknown"
START, EFFECT, END = "start", "effect", "end"
#: Ids that a complaint lists; the rest is counted.
LISTED = 10


def record(path: str | os.PathLike[str], what: str, task_id: str, **fields: Any) -> None:
    """Append one line and sync it: it is on disk when this returns, whatever happens to the process then.

    Safe from any number of processes at once. The line says when, by both clocks, and which process it was.

    :param fields: JSON values.
    """
    entry = {
        "what": what,
        "id": task_id,
        "at": time.time(),
        "monotonic": time.monotonic(),  # one clock for all processes of a machine
        "pid": os.getpid(),
        **fields,
    }
    line = json.dumps(entry).encode() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        written = os.write(descriptor, line)
        if written != len(line):
            raise OSError(f"{path}: {written} of {len(line)} bytes written; the ledger's disk is full")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def running(path: str | os.PathLike[str], task_id: str, **fields: Any) -> Iterator[None]:
    """Around a task's work: start before it, effect and end after it; a task that raises has neither.

    :param fields: noted with each line: ``attempt``, ``worker``, ``token``, …
    """
    run = os.urandom(8).hex()
    record(path, START, task_id, run=run, **fields)
    yield
    record(path, EFFECT, task_id, run=run, **fields)
    record(path, END, task_id, run=run, **fields)


class Ledger:
    """Two journals in *folder*: what was published, and what ran."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        #: Give this path to tasks.
        self.executions = self.folder / "executions.jsonl"
        self.publishes = self.folder / "publishes.jsonl"

    # -- the producer

    def intend(self, *task_ids: str, due: float | None = None) -> None:
        """About to publish; *due* in seconds since the epoch."""
        for task_id in task_ids:
            record(self.publishes, INTENT, task_id, due=due)

    def answered(self, what: str, *task_ids: str, why: str = "") -> None:
        """The answer: ``confirmed``, ``refused`` or ``unknown``.

        :raises ValueError: it is none of these.
        """
        if what not in (CONFIRMED, REFUSED, UNKNOWN):
            raise ValueError(f"an answer is {CONFIRMED}, {REFUSED} or {UNKNOWN}, not {what!r}")
        for task_id in task_ids:
            record(self.publishes, what, task_id, why=why)

    @contextmanager
    def publishing(self, *task_ids: str, due: float | None = None) -> Iterator[None]:
        """Around publishing: the answer follows from what is raised, and ends here.

        A refused and an unknown publish are answers, not failures of the test; anything else is noted as unknown and
        raised.
        """
        from kern.errors import EncodeError, MessageTooLarge, PublishRefused, PublishUnknown

        self.intend(*task_ids, due=due)
        try:
            yield
        except (PublishRefused, MessageTooLarge, EncodeError) as error:
            self.answered(REFUSED, *task_ids, why=str(error))
        except PublishUnknown as error:
            self.answered(UNKNOWN, *task_ids, why=str(error))
        except BaseException as error:
            self.answered(UNKNOWN, *task_ids, why=repr(error))
            raise
        else:
            self.answered(CONFIRMED, *task_ids)

    # -- reading

    def published(self) -> dict[str, str]:
        """What is known of each intended call: an intent without an answer is unknown."""
        known: dict[str, str] = {}
        for entry in read(self.publishes):
            if entry["what"] == INTENT:
                known.setdefault(entry["id"], UNKNOWN)
            elif known.get(entry["id"]) != CONFIRMED:  # sent again: once confirmed it is there
                known[entry["id"]] = entry["what"]
        return known

    def ended(self) -> set[str]:
        """Calls that have run to their end, at least once; for waiting until all have."""
        return {entry["id"] for entry in read(self.executions) if entry["what"] == END}

    def report(
        self,
        quarantined: Collection[str] = (),
        cancelled: Collection[str] = (),
        depths: Iterable[QueueDepth] = (),
        residue: Mapping[str, int] | None = None,
        fenced: int = 0,
        healed_at: float | None = None,
    ) -> Report:
        """The account, once all is quiet.

        :param quarantined: ids in quarantine; they are settled, with a reason.
        :param cancelled: ids that were revoked, have expired or were deleted.
        :param depths: what the broker has left; ready, leased and delayed messages are residue.
        :param residue: further leftovers, by what they are: joins, keys, files, processes.
        :param fenced: late settlements that were refused.
        :param healed_at: when the fault ended, by ``time.monotonic()``.
        """
        left = Counter(residue or {})
        for depth in depths:
            for condition in ("ready", "leased", "delayed"):
                left[f"{depth.queue}: {condition}"] += getattr(depth, condition)
        return Report.of(
            read(self.publishes),
            read(self.executions),
            self.published(),
            set(quarantined),
            set(cancelled),
            {name: count for name, count in left.items() if count},
            fenced,
            healed_at,
        )


@attrs.frozen
class Report:
    """What became of everything."""

    confirmed: frozenset[str]
    refused: frozenset[str]
    unknown: frozenset[str]
    executed: frozenset[str]
    settled: frozenset[str]
    lost: frozenset[str]
    unexpected: frozenset[str]
    recovered: frozenset[str]
    #: How often each duplicated call had its effect.
    duplicated: Mapping[str, int]
    #: Calls of which two runs overlapped that both came to their end.
    concurrent: frozenset[str]
    #: Calls that were cancelled or quarantined and had their effect all the same.
    executed_though_ended: frozenset[str]
    residue: Mapping[str, int]
    fenced: int
    #: Seconds from the end of the fault to the first start after it.
    recovery_seconds: float | None
    #: Seconds between due and start, of calls with a due time; below zero: too early.
    lateness: tuple[float, ...]
    #: Lines of each call, in the order in which they were written.
    history: Mapping[str, tuple[Mapping[str, Any], ...]] = attrs.field(repr=False)

    @classmethod
    def of(
        cls,
        publishes: list[dict[str, Any]],
        executions: list[dict[str, Any]],
        published: Mapping[str, str],
        quarantined: set[str],
        cancelled: set[str],
        residue: Mapping[str, int],
        fenced: int,
        healed_at: float | None,
    ) -> Report:
        answers = {
            answer: frozenset(task_id for task_id, known in published.items() if known == answer)
            for answer in (CONFIRMED, REFUSED, UNKNOWN)
        }
        executed = frozenset(entry["id"] for entry in executions)
        settled = frozenset(entry["id"] for entry in executions if entry["what"] == END) | quarantined | cancelled
        effects = Counter(entry["id"] for entry in executions if entry["what"] == EFFECT)
        starts_after = [
            entry["monotonic"] - healed_at
            for entry in executions
            if healed_at is not None and entry["what"] == START and entry["monotonic"] >= healed_at
        ]
        dues = {entry["id"]: entry["due"] for entry in publishes if entry.get("due") is not None}
        firsts: dict[str, float] = {}
        for entry in executions:
            if entry["what"] == START:
                firsts.setdefault(entry["id"], entry["at"])
        history: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for entry in sorted(publishes + executions, key=lambda entry: entry["monotonic"]):
            history[entry["id"]].append(entry)
        return cls(
            confirmed=answers[CONFIRMED],
            refused=answers[REFUSED],
            unknown=answers[UNKNOWN],
            executed=executed,
            settled=settled,
            lost=answers[CONFIRMED] - settled,
            unexpected=executed - answers[CONFIRMED] - answers[UNKNOWN],
            recovered=answers[UNKNOWN] & executed,
            duplicated={task_id: count for task_id, count in effects.items() if count > 1},
            concurrent=overlapping(executions),
            executed_though_ended=frozenset(effects) & (quarantined | cancelled),
            residue=residue,
            fenced=fenced,
            recovery_seconds=min(starts_after, default=None),
            lateness=tuple(firsts[task_id] - due for task_id, due in dues.items() if task_id in firsts),
            history={task_id: tuple(entries) for task_id, entries in history.items()},
        )

    @property
    def duplicates(self) -> int:
        """Effects beyond the first, of all calls."""
        return sum(self.duplicated.values()) - len(self.duplicated)

    def row(self) -> dict[str, Any]:
        """One line for the table of results."""
        return {
            "confirmed": len(self.confirmed),
            "refused": len(self.refused),
            "unknown": len(self.unknown),
            "executed": len(self.executed),
            "lost": len(self.lost),
            "unexpected": len(self.unexpected),
            "recovered": len(self.recovered),
            "duplicated": self.duplicates,
            "concurrent": len(self.concurrent),
            "fenced": self.fenced,
            "residue": sum(self.residue.values()),
            "recovery": self.recovery_seconds,
            "latest": max(self.lateness, default=None),
        }

    def check(
        self,
        duplicates: int = 0,
        concurrent: int = 0,
        recovery: float | None = None,
        lateness: float | None = None,
        early: float = 0.0,
    ) -> None:
        """Nothing lost, nothing unexpected, nothing left, and no more duplicates than the scenario says.

        :param duplicates: effects beyond the first that the scenario allows.
        :param recovery: seconds within which something ran again.
        :param lateness: seconds after its due time at which the latest call may have started.
        :param early: seconds before its due time; two clocks may differ.
        :raises AssertionError: says all that is wrong, and what happened to the calls concerned.
        """
        wrong: list[str] = []
        self._complain(wrong, "lost: confirmed, and never settled", self.lost)
        self._complain(wrong, "unexpected: run, and never sent", self.unexpected)
        self._complain(wrong, "cancelled or quarantined, and yet with an effect", self.executed_though_ended)
        if self.duplicates > duplicates:
            self._complain(wrong, f"{self.duplicates} duplicates, {duplicates} allowed", self.duplicated)
        if len(self.concurrent) > concurrent:
            self._complain(wrong, f"run twice at once, {concurrent} allowed", self.concurrent)
        if self.residue:
            wrong.append(f"left behind: {', '.join(f'{name} {count}' for name, count in self.residue.items())}")
        if recovery is not None and (self.recovery_seconds is None or self.recovery_seconds > recovery):
            wrong.append(f"recovery took {self.recovery_seconds} s, {recovery:g} allowed")
        if lateness is not None and max(self.lateness, default=0.0) > lateness:
            wrong.append(f"the latest call started {max(self.lateness):.3f} s late, {lateness:g} allowed")
        if min(self.lateness, default=0.0) < -early:
            wrong.append(f"a call started {-min(self.lateness):.3f} s before it was due")
        if wrong:
            raise AssertionError("\n".join([f"the ledger does not balance: {self.row()}", *wrong]))

    def _complain(self, wrong: list[str], what: str, task_ids: Iterable[str]) -> None:
        concerned = sorted(task_ids)
        if not concerned:
            return
        wrong.append(f"{what} ({len(concerned)}):")
        for task_id in concerned[:LISTED]:
            steps = " ".join(f"{entry['what']}@{entry['monotonic']:.3f}[{entry['pid']}]" for entry in self._of(task_id))
            wrong.append(f"  {task_id}: {steps or 'nothing is known of it'}")
        if len(concerned) > LISTED:
            wrong.append(f"  … and {len(concerned) - LISTED} more")

    def _of(self, task_id: str) -> tuple[Mapping[str, Any], ...]:
        return self.history.get(task_id, ())


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal; none if nobody has written yet.

    :raises ValueError: a line cannot be read: the journal, and with it the scenario, is worth nothing.
    """
    if not path.exists():
        return []
    entries = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is damaged: {line[:100]!r}") from error
    return entries


def overlapping(executions: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Calls of which two runs, each from its start to its end, overlapped. A run without an end was cut off."""
    starts: dict[tuple[str, str], float] = {}
    spans: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in executions:
        run = (entry["id"], str(entry.get("run", entry["pid"])))
        if entry["what"] == START:
            starts[run] = entry["monotonic"]
        elif entry["what"] == END and run in starts:
            spans[entry["id"]].append((starts[run], entry["monotonic"]))
    found = set()
    for task_id, runs in spans.items():
        runs.sort()
        if any(later[0] < earlier[1] for earlier, later in itertools.pairwise(runs)):
            found.add(task_id)
    return frozenset(found)
