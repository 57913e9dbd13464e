"""The ledger tells lost from late, once from twice, and survives whoever writes it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kern.contracts.transport import QueueDepth
from kern.errors import MessageTooLarge, PublishRefused, PublishUnknown
from kern_testing import ledger as ledgers
from kern_testing.ledger import CONFIRMED, END, START, Ledger, record, running
from kern_testing.waiting import eventually


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def fail(error: Exception) -> None:
    """What the broker does."""
    raise error


def confirmed(ledger: Ledger, *task_ids: str) -> None:
    ledger.intend(*task_ids)
    ledger.answered(CONFIRMED, *task_ids)


def run(ledger: Ledger, *task_ids: str) -> None:
    for task_id in task_ids:
        with running(ledger.executions, task_id):
            pass


def test_all_that_was_confirmed_and_ran_balances(ledger: Ledger) -> None:
    """Nothing to complain about."""
    confirmed(ledger, "a", "b")
    run(ledger, "a", "b")
    report = ledger.report(depths=[QueueDepth("q", quarantined=3)])
    report.check()
    assert report.settled == {"a", "b"}
    assert report.row()["lost"] == 0


def test_what_was_confirmed_and_did_not_end_is_lost(ledger: Ledger) -> None:
    """Also when it started; the complaint tells its history."""
    confirmed(ledger, "never-ran", "cut-off", "fine")
    record(ledger.executions, START, "cut-off")
    run(ledger, "fine")
    report = ledger.report()
    assert report.lost == {"never-ran", "cut-off"}
    with pytest.raises(AssertionError, match=r"(?s)never settled \(2\).*cut-off: intent@.* confirmed@.* start@"):
        report.check()


def test_quarantined_and_cancelled_calls_are_settled(ledger: Ledger) -> None:
    """They have a reason, and must have no effect."""
    confirmed(ledger, "poison", "revoked")
    ledger.report(quarantined=["poison"], cancelled=["revoked"]).check()
    run(ledger, "revoked")
    with pytest.raises(AssertionError, match="cancelled or quarantined, and yet with an effect"):
        ledger.report(quarantined=["poison"], cancelled=["revoked"]).check()


def test_what_was_refused_must_not_run(ledger: Ledger) -> None:
    """Refused means not there."""
    with ledger.publishing("refused"):
        fail(PublishRefused("no"))
    with ledger.publishing("too-large"):
        fail(MessageTooLarge(10, 5))
    ledger.report().check()
    run(ledger, "refused", "made-up")
    report = ledger.report()
    assert report.unexpected == {"refused", "made-up"}
    with pytest.raises(AssertionError, match="never sent"):
        report.check()


def test_what_is_unknown_may_run_or_not(ledger: Ledger) -> None:
    """It is reported as recovered if it ran; sent again and confirmed, it must run."""
    with ledger.publishing("ran"):
        fail(PublishUnknown("cut"))
    with ledger.publishing("did-not"):
        fail(PublishUnknown("cut"))
    ledger.intend("died-while-sending")
    run(ledger, "ran")
    report = ledger.report()
    report.check()
    assert report.recovered == {"ran"}
    assert report.unknown == {"ran", "did-not", "died-while-sending"}
    with ledger.publishing("did-not"):
        pass
    assert ledger.report().lost == {"did-not"}


def test_an_unforeseen_error_is_unknown_and_raised(ledger: Ledger) -> None:
    """The journal is complete even if the test fails."""
    with pytest.raises(RuntimeError), ledger.publishing("a"):
        raise RuntimeError("a fault of the test")
    assert ledger.published() == {"a": "unknown"}


def test_effects_are_counted(ledger: Ledger) -> None:
    """More than one effect is a duplicate; a run cut off before its effect is none."""
    confirmed(ledger, "twice", "thrice", "cut-off-first")
    run(ledger, "twice", "twice", "thrice", "thrice", "thrice")
    record(ledger.executions, START, "cut-off-first")
    run(ledger, "cut-off-first")
    report = ledger.report()
    assert report.duplicated == {"twice": 2, "thrice": 3}
    assert report.duplicates == 3
    report.check(duplicates=3)
    with pytest.raises(AssertionError, match="3 duplicates, 2 allowed"):
        report.check(duplicates=2)


def test_a_task_that_raises_has_no_effect(ledger: Ledger) -> None:
    """It has started, that is all."""
    with pytest.raises(ValueError), running(ledger.executions, "a"):
        raise ValueError
    assert [entry["what"] for entry in ledgers.read(ledger.executions)] == [START]


def test_runs_that_overlap_are_seen(ledger: Ledger) -> None:
    """Two at once, both to their end; one after the other is none, and neither is one that was cut off."""
    confirmed(ledger, "overlap", "in-turn", "cut-off")
    with running(ledger.executions, "overlap"):
        run(ledger, "overlap")
    run(ledger, "in-turn", "in-turn")
    record(ledger.executions, START, "cut-off", run="first")
    run(ledger, "cut-off")
    report = ledger.report()
    assert report.concurrent == {"overlap"}
    with pytest.raises(AssertionError, match="run twice at once"):
        report.check(duplicates=2)


def test_residue_is_named(ledger: Ledger) -> None:
    """Messages left, and whatever else the scenario counts."""
    report = ledger.report(depths=[QueueDepth("q", ready=1, leased=2, delayed=0)], residue={"joins": 1, "files": 0})
    with pytest.raises(AssertionError, match="left behind: joins 1, q: ready 1, q: leased 2"):
        report.check()


def test_recovery_and_lateness_are_measured(ledger: Ledger) -> None:
    """From the end of the fault to the first start; from due to start."""
    ledger.intend("late", due=time.time() - 5)
    ledger.intend("early", due=time.time() + 5)
    ledger.answered(CONFIRMED, "late", "early")
    healed_at = time.monotonic()
    run(ledger, "late", "early")
    report = ledger.report(healed_at=healed_at)
    assert report.recovery_seconds is not None
    assert 0 <= report.recovery_seconds < 5
    assert max(report.lateness) == pytest.approx(5, abs=1)
    with pytest.raises(AssertionError, match=r"started 5.*late"):
        report.check(lateness=1, early=10)
    with pytest.raises(AssertionError, match="before it was due"):
        report.check()
    report.check(lateness=10, early=10, recovery=5)
    with pytest.raises(AssertionError, match="recovery took None"):
        ledger.report(healed_at=time.monotonic()).check(early=10, recovery=1)


def test_a_damaged_journal_is_no_evidence(ledger: Ledger) -> None:
    """Rather no result than a wrong one."""
    run(ledger, "a")
    with ledger.executions.open("ab") as file:
        file.write(b'{"what": "en')
    with pytest.raises(ValueError, match="line 4 is damaged"):
        ledger.report()


def test_an_answer_is_one_of_three(ledger: Ledger) -> None:
    """A misspelt one is an error at once."""
    with pytest.raises(ValueError, match="confirmed, refused or unknown"):
        ledger.answered("confirmd", "a")


def test_many_processes_write_one_journal_and_may_be_killed(ledger: Ledger) -> None:
    """Lines of several processes do not mix, and what was written before a SIGKILL is there."""
    program = (
        "import sys\nfrom kern_testing.ledger import running\n"
        "n = 0\nwhile True:\n    n += 1\n    with running(sys.argv[1], f'{sys.argv[2]}-{n}'): pass\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(ledger.executions), str(number)]) for number in range(4)
    ]
    try:
        wanted = {f"{number}-30" for number in range(4)}
        eventually(lambda: wanted <= ledger.ended(), "each process has written thirty runs")
    finally:
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
    entries = ledgers.read(ledger.executions)
    assert {entry["pid"] for entry in entries} == {writer.pid for writer in writers}
    ended = sum(entry["what"] == END for entry in entries)
    started = sum(entry["what"] == START for entry in entries)
    assert ended <= started <= ended + len(writers)
