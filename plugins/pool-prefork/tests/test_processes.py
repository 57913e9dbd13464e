"""What tasks may do to their processes, and what becomes of both."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kern import Kern, states
from kern.contracts.pool import Died, Finished, PoolBroken, PoolOptions, Started
from kern.errors import ImproperlyConfigured, SoftTimeLimitExceeded
from kern.hookspecs import hookimpl
from kern.result import task_join_will_block
from kern_pool_prefork.pool import PreforkPool
from kern_process_host.slots import Slot
from kern_testing.contracts.pool import Running
from kern_testing.waiting import eventually, throughout

if TYPE_CHECKING:
    from conftest import Bench


@pytest.fixture
def app() -> Kern:
    app = Kern("tests", broker="memory://", backend="memory://")

    @app.task(name="pid")
    def pid() -> int:
        return os.getpid()

    @app.task(name="echo")
    def echo(value: Any) -> Any:
        return value

    @app.task(name="wait")
    def wait(gate: str) -> int:
        while not os.path.exists(gate):
            time.sleep(0.002)  # the task's own duration
        return os.getpid()

    @app.task(name="spin")
    def spin(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    @app.task(name="hold-gil")
    def hold_gil() -> None:
        sum(range(10**15))  # takes months in C, where no signal is handled and no other thread runs

    @app.task(name="patient")
    def patient(gate: str) -> str:
        try:
            while not os.path.exists(gate):
                time.sleep(0.002)  # the task's own duration
        except SoftTimeLimitExceeded as error:
            return f"soft {error}"
        return "in time"

    @app.task(name="exit")
    def leave() -> None:
        sys.exit(3)

    @app.task(name="suicide")
    def suicide() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="close-all")
    def close_all() -> None:
        os.closerange(0, 4096)

    @app.task(name="close-and-open")
    def close_and_open(path: str) -> None:
        os.closerange(3, 4096)
        for _ in range(50):
            os.open(path, os.O_WRONLY)

    @app.task(name="fork")
    def fork() -> int:
        return os.fork()

    @app.task(name="fork-and-stay")
    def fork_and_stay(gate: str) -> int:
        child = os.fork()
        if not child:
            while not os.path.exists(gate):
                time.sleep(0.002)  # the task's own duration
            os._exit(0)
        return child

    @app.task(name="threads")
    def threads() -> int:
        for _ in range(20):
            threading.Thread(target=threading.Event().wait, args=(60,), daemon=True).start()
        return threading.active_count()

    @app.task(name="shout")
    def shout(size: int) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.write("x" * size + "\n")
            stream.flush()

    @app.task(name="stdin")
    def stdin() -> str:
        return os.read(0, 100).decode() + os.readlink("/proc/self/fd/0")

    @app.task(name="join-will-block")
    def blocks() -> bool:
        return task_join_will_block()

    @app.task(name="grow")
    def grow(megabytes: int) -> int:
        kept.append(b"x" * (megabytes << 20))
        return os.getpid()

    @app.task(name="sockets")
    def sockets() -> list[str]:
        links = []
        for name in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink(f"/proc/self/fd/{name}"))
            except OSError:
                continue
        return links

    return app


#: What tasks never let go of.
kept: list[bytes] = []


def exists(pid: int) -> bool:
    """Whether the process lives; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


# -- time limits -------------------------------------------------------------------------------------------------------


def test_a_soft_limit_is_raised_in_the_task(bench: Bench, gate: Path) -> None:
    """The task sees it as an exception, and the next task in the same process does not."""
    pool = bench.start(1)
    limited, free = pool.submit(
        bench.request("patient", str(gate), soft_time_limit=0.2), bench.request("patient", str(gate))
    )
    assert bench.result(pool, limited) == "soft 0.2"
    pool.has_started(free)
    throughout(lambda: free not in pool.ended, 0.3, "the other one runs on")
    gate.touch()
    assert bench.result(pool, free) == "in time"


def test_a_soft_limit_never_reaches_the_next_task(bench: Bench) -> None:
    """Tasks that end at the very moment of their limit: those without limits between them are left alone."""
    pool = bench.start(2)
    limited = [bench.request("spin", 0.022, soft_time_limit=0.02 + number % 5 * 0.001) for number in range(60)]
    free = [bench.request("spin", 0.022) for _ in range(60)]
    receipts = pool.submit(*[request for pair in zip(limited, free, strict=True) for request in pair])
    pool.all_end_once(receipts)
    assert {pool.outcome_of(request.receipt).state for request in free} == {states.SUCCESS}
    # How many of them were quick enough depends on what else the machine does.
    assert states.FAILURE in {pool.outcome_of(request.receipt).state for request in limited}


def test_a_task_that_holds_the_interpreter_is_killed_at_its_limit(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """It runs in C and lets no Python code run in its process: it is killed in time, and what it did is known."""
    pool = bench.start(2)
    begin = time.monotonic()
    (stuck,) = pool.submit(bench.request("hold-gil", soft_time_limit=0.3, time_limit=0.6))
    death = pool.death_of(stuck)
    assert time.monotonic() - begin < 0.6 + 1.0
    assert death.time_limit == 0.6
    assert not death.terminated
    assert "hold_gil" in death.evidence["stack"]
    assert "hold_gil" in caplog.text
    assert bench.run(pool, "echo", 1) == 1


def test_the_neighbours_of_what_is_killed_know_nothing_of_it(bench: Bench, gate: Path) -> None:
    """One process is killed at a limit, one by somebody else; the third goes on."""
    pool = bench.start(3)
    limited, victim, free = pool.submit(
        bench.request("wait", "never", time_limit=0.3),
        bench.request("wait", "never either"),
        bench.request("wait", str(gate)),
    )
    pool.has_started(limited, victim, free)
    pids = {event.receipt: event.pid for event in pool.events if isinstance(event, Started)}
    os.kill(pids[victim], signal.SIGKILL)
    assert pool.death_of(limited).time_limit == 0.3
    assert pool.death_of(victim).time_limit is None
    gate.touch()
    assert bench.result(pool, free) == pids[free]


# -- terminating -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGINT])
def test_a_termination_by_any_signal_ends_the_task(bench: Bench, number: int | None) -> None:
    """Those that processes hold off for their own sake, too."""
    pool = bench.start(1)
    (victim,) = pool.submit(bench.request("wait", "never"))
    pool.has_started(victim)
    assert pool.pool.terminate(victim, number)
    assert pool.death_of(victim).terminated
    assert bench.run(pool, "echo", 2) == 2


def test_a_termination_by_a_signal_that_is_ignored_ends_the_task_all_the_same(bench: Bench) -> None:
    """After a second it is a signal that cannot be ignored."""
    pool = bench.start(1)
    (victim,) = pool.submit(bench.request("wait", "never"))
    pool.has_started(victim)
    assert pool.pool.terminate(victim, signal.SIGCHLD)
    assert pool.death_of(victim).terminated


def test_termination_by_sigusr1_is_a_soft_limit(bench: Bench) -> None:
    """As Celery's ``revoke(…, terminate=True, signal="SIGUSR1")``."""
    pool = bench.start(1)
    (receipt,) = pool.submit(bench.request("patient", "never"))
    pool.has_started(receipt)
    assert pool.pool.terminate(receipt, signal.SIGUSR1)
    assert bench.result(pool, receipt).startswith("soft")


def test_an_interruption_at_the_end_hands_the_task_back(bench: Bench) -> None:
    """A task that does not end in time is told so, and what it then says of itself is an end."""
    pool = bench.start(1)
    (receipt,) = pool.submit(bench.request("wait", "never"))
    pool.has_started(receipt)
    pool.pool.stop(0.1).result(10)
    end = pool.end_of(receipt)
    assert isinstance(end, Finished)
    assert end.outcome.state == states.PENDING


# -- deaths ------------------------------------------------------------------------------------------------------------


def test_a_dead_process_is_replaced_within_a_second(bench: Bench) -> None:
    """And idle ones, too."""
    pool = bench.start(2)
    before = bench.children(pool, 2)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    after = eventually(
        lambda: new if len(new := set(pool.pool.info()["processes"]) - before) == 2 else set[int](), "both are replaced"
    )
    assert time.monotonic() - begin < 1.0
    assert bench.run(pool, "pid") in after


def test_sys_exit_in_a_task_is_no_death(bench: Bench) -> None:
    """It is an exception that the task raised."""
    pool = bench.start(1)
    (before,) = bench.children(pool, 1)
    (receipt,) = pool.submit(bench.request("exit"))
    assert pool.outcome_of(receipt).state == states.FAILURE
    assert bench.run(pool, "pid") == before


def test_evidence_says_what_is_known(bench: Bench) -> None:
    """The signal, memory, and a sentence."""
    pool = bench.start(1)
    (receipt,) = pool.submit(bench.request("suicide"))
    evidence = pool.death_of(receipt).evidence
    assert evidence["signal"] == signal.SIGKILL
    assert evidence["rss"] > 1000
    assert "possibly by the kernel" in evidence["reason"]


def test_nobody_is_lost_whenever_processes_die(bench: Bench) -> None:
    """Processes are killed all the time, at whatever they do: each request ends once, and no answer is garbled."""
    pool = bench.start(3)
    requests = [bench.request("echo", number) for number in range(600)]
    receipts = pool.submit(*requests)
    killed = set[int]()
    for _ in range(40):
        eventually(lambda: len(pool.ended) >= 15 * len(killed), "some have ended meanwhile")
        victim = eventually(lambda: next(iter(set(pool.pool.info()["processes"]) - killed), 0), "there is a process")
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)
    pool.all_end_once(receipts)
    for number, receipt in enumerate(receipts):
        end = pool.end_of(receipt)
        if isinstance(end, Finished):
            assert bench.result(pool, receipt) == number
        else:
            assert end.started


@pytest.mark.parametrize("body", ["short", "x" * 200_000])
def test_a_death_between_taking_a_task_and_starting_it_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str
) -> None:
    """The task had not begun: another process runs it, and nobody is blamed."""
    stamp, once = Slot.stamp, tmp_path / "once"

    def die_first(self: Slot, *arguments: Any) -> None:
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            stamp(self, *arguments)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Slot, "stamp", die_first)
    pool = bench.start(2)
    receipts = pool.submit(*[bench.request("echo", body) for _ in range(20)])
    pool.all_end_once(receipts)
    assert all(bench.result(pool, receipt) == body for receipt in receipts)
    assert once.exists()


def test_closing_all_descriptors_harms_the_task_alone(bench: Bench) -> None:
    """It cannot answer any more; that is its own death, and has a reason that can be read."""
    pool = bench.start(2)
    receipts = pool.submit(bench.request("close-all"), *[bench.request("echo", n) for n in range(20)])
    death = pool.death_of(receipts[0])
    assert "descriptors were closed" in death.evidence["reason"]
    assert [bench.result(pool, receipt) for receipt in receipts[1:]] == list(range(20))


def test_an_answer_is_never_written_into_a_file_of_the_task(bench: Bench, tmp_path: Path) -> None:
    """The task closes what it does not own and opens files instead: they have other numbers."""
    path = tmp_path / "mine"
    path.touch()
    pool = bench.start(1)
    (receipt,) = pool.submit(bench.request("close-and-open", str(path)))
    pool.death_of(receipt)
    assert path.read_bytes() == b""


def test_a_fork_that_returns_from_its_task_is_no_second_worker(bench: Bench) -> None:
    """The task ends once, with what its own process returned."""
    pool = bench.start(1)
    forks = [bench.run(pool, "fork") for _ in range(5)]
    assert all(forks)
    eventually(lambda: not any(exists(fork) for fork in forks), "the forks have ended")


def test_a_fork_that_outlives_its_process_hides_no_death(bench: Bench, gate: Path) -> None:
    """It holds on to all that its parent had open; that the parent has died is seen all the same."""
    pool = bench.start(1)
    grandchild = bench.run(pool, "fork-and-stay", str(gate))
    (pid,) = bench.children(pool, 1)
    (receipt,) = pool.submit(bench.request("wait", "never"))
    pool.has_started(receipt)
    os.kill(pid, signal.SIGKILL)
    assert pool.death_of(receipt).evidence["signal"] == signal.SIGKILL
    assert exists(grandchild)
    assert bench.run(pool, "echo", 3) == 3
    gate.touch()
    eventually(lambda: not exists(grandchild), "the fork has ended")


def test_threads_of_tasks_do_not_matter(bench: Bench) -> None:
    """They neither keep the process from working nor from ending."""
    pool = bench.start(1)
    assert bench.run(pool, "threads") > 20
    assert bench.run(pool, "echo", 4) == 4
    pool.pool.stop(5).result(10)


def test_output_without_end_is_no_harm(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    """Megabytes on both streams."""
    pool = bench.start(2)
    receipts = pool.submit(*[bench.request("shout", 1 << 20) for _ in range(4)])
    pool.all_end_once(receipts)
    assert all(pool.outcome_of(receipt).state == states.SUCCESS for receipt in receipts)
    out, _ = capfd.readouterr()
    assert len(out) > 4 << 20


def test_stdin_is_empty(bench: Bench) -> None:
    """A task that asks for input gets its end."""
    pool = bench.start(1)
    assert bench.run(pool, "stdin") == "/dev/null"


def test_processes_have_no_socket_of_the_main_process(bench: Bench) -> None:
    """What is opened after the pool was made is not theirs, whenever they are made."""
    pool = bench.start(1)
    with socket.socket() as ours:
        inode = os.readlink(f"/proc/self/fd/{ours.fileno()}")
        pool.pool.resize(2)
        bench.children(pool, 2)
        (one,) = bench.children(pool, 2) - {bench.run(pool, "pid")} or {0}
        os.kill(one, signal.SIGKILL)
        links = [bench.run(pool, "sockets") for _ in range(5)]
    assert not any(inode in found for found in links)


# -- what is carried ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3_000, 4_100, 50_000, 70_000, 5_000_000])
def test_answers_of_any_size_arrive(bench: Bench, size: int) -> None:
    """In a pipe, a packet or a file."""
    pool = bench.start(2)
    receipts = pool.submit(*[bench.request("echo", "x" * size) for _ in range(5)])
    assert all(bench.result(pool, receipt) == "x" * size for receipt in receipts)


def test_large_requests_can_be_taken_back(bench: Bench, gate: Path) -> None:
    """They wait as files, and no file is left of them."""
    pool = bench.start(1)
    (running,) = pool.submit(bench.request("wait", str(gate)))
    pool.has_started(running)
    before = len(os.listdir("/proc/self/fd"))
    receipts = pool.submit(*[bench.request("echo", "x" * 100_000) for _ in range(30)])
    assert set(pool.pool.withdraw(receipts[::2])) == set(receipts[::2])
    assert set(pool.pool.withdraw()) == set(receipts[1::2])
    assert len(os.listdir("/proc/self/fd")) <= before
    gate.touch()
    pool.all_end_once([running])


# -- replacing ---------------------------------------------------------------------------------------------------------


def test_a_process_is_replaced_after_so_many_tasks(bench: Bench) -> None:
    """No process runs more, and none is missing meanwhile."""
    pool = bench.start(1, max_tasks_per_child=3)
    pids = [bench.run(pool, "pid") for _ in range(9)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


def own_memory() -> int:
    """KiB that a process forked from this one has from the start."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def test_a_process_is_replaced_when_it_has_grown(bench: Bench) -> None:
    """It is looked at after each task; what runs is never interrupted."""
    pool = bench.start(1, max_memory_per_child=own_memory() + 100_000)
    first = bench.run(pool, "grow", 1)
    assert bench.run(pool, "grow", 1) == first
    assert bench.run(pool, "grow", 200) == first
    assert bench.run(pool, "pid") != first


def test_recycling_replaces_idle_processes_at_once_and_busy_ones_later(bench: Bench, gate: Path) -> None:
    """What runs is not interrupted, and there is room for others meanwhile."""
    pool = bench.start(2)
    before = bench.children(pool, 2)
    (running,) = pool.submit(bench.request("wait", str(gate)))
    pool.has_started(running)
    pool.pool.recycle()
    others = {bench.run(pool, "pid") for _ in range(5)}
    assert not others & before
    gate.touch()
    assert bench.result(pool, running) in before
    assert not bench.children(pool, 2) & before


def test_idle_processes_go_first(bench: Bench, gate: Path) -> None:
    """Fewer slots: the busy process stays."""
    pool = bench.start(3)
    bench.children(pool, 3)
    (running,) = pool.submit(bench.request("wait", str(gate)))
    pool.has_started(running)
    pool.pool.resize(1)
    (left,) = bench.children(pool, 1)
    gate.touch()
    assert bench.result(pool, running) == left


# -- the start ---------------------------------------------------------------------------------------------------------


class Listener:
    """Tells of the life of processes in files, or makes it short."""

    def __init__(self, folder: Path, init: Callable[[], object] = lambda: None) -> None:
        self._folder, self._init = folder, init

    @hookimpl
    def kern_process_init(self, app: Kern) -> None:
        (self._folder / f"init-{os.getpid()}").touch()
        self._init()

    @hookimpl
    def kern_process_shutdown(self, app: Kern, pid: int, exitcode: int) -> None:
        (self._folder / f"shutdown-{pid}-{exitcode}").touch()


def test_listeners_hear_of_each_process(bench: Bench, tmp_path: Path) -> None:
    """When it begins and when it ends, in it."""
    bench.app.register(Listener(tmp_path))
    pool = bench.start(2)
    pids = bench.children(pool, 2)
    assert bench.run(pool, "join-will-block") is True
    eventually(lambda: len(list(tmp_path.glob("init-*"))) == 2, "both are ready")
    pool.pool.stop(5).result(10)
    expected = {f"init-{pid}" for pid in pids} | {f"shutdown-{pid}-0" for pid in pids}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_processes_that_die_at_their_start_break_the_pool(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some attempts with pauses between; the sentence says what happened, and what waited has not started."""
    monkeypatch.setattr("kern_pool_prefork.workforce.PAUSES", (0.001, 0.01))
    bench.app.register(Listener(tmp_path, lambda: os._exit(9)))
    running = Running(PreforkPool(bench.app, PoolOptions(concurrency=1)), bench.app.runner("x"))
    bench.started.append(running)
    running.pool.start(bench.app.runner("x"), running._take)
    (receipt,) = running.submit(bench.request("echo", 1))
    broken = eventually(lambda: [e for e in running.events if isinstance(e, PoolBroken)], "the pool has broken")
    assert "exit code 9" in broken[0].error
    assert not running.death_of(receipt).started


def test_a_process_that_is_not_ready_in_time_is_replaced(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first one hangs before it is ready."""

    def hang_first() -> None:
        if len(list(tmp_path.glob("init-*"))) == 1:
            signal.pause()

    bench.app.conf.worker_proc_alive_timeout = 0.3
    bench.app.register(Listener(tmp_path, hang_first))
    pool = bench.start(1)
    assert bench.run(pool, "echo", 5) == 5
    assert "not ready in time" in caplog.text


def test_signals_to_the_whole_group_do_not_end_processes(bench: Bench, gate: Path) -> None:
    """Ctrl+C in a terminal and a service manager's SIGTERM reach all: the main process decides what they mean."""
    pool = bench.start(2)
    pids = bench.children(pool, 2)
    receipts = pool.submit(*[bench.request("wait", str(gate)) for _ in range(2)])
    pool.has_started(*receipts)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        for pid in pids:
            os.kill(pid, number)
    throughout(lambda: all(exists(pid) for pid in pids), 0.2, "they go on")
    gate.touch()
    assert {bench.result(pool, receipt) for receipt in receipts} <= pids


def test_programs_that_tasks_start_can_be_ended(bench: Bench) -> None:
    """They do not inherit that their parent ignores signals."""

    @bench.app.task(name="start-program")
    def start_program() -> int:
        program = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        program.terminate()
        return program.wait(20)

    bench.app.finalize()
    pool = bench.start(1)
    assert bench.run(pool, "start-program") == -signal.SIGTERM


def test_a_process_says_what_it_does(bench: Bench, gate: Path) -> None:
    """In the list of processes."""
    pool = bench.start(1)
    (pid,) = bench.children(pool, 1)

    def title() -> str:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")

    eventually(lambda: title() == "kern: tests@here child 1 (idle)", "it is idle")
    (receipt,) = pool.submit(bench.request("wait", str(gate)))
    eventually(lambda: title() == "kern: tests@here child 1 (wait)", "it runs a task")
    gate.touch()
    pool.outcome_of(receipt)
    eventually(lambda: title().endswith("(idle)"), "it is idle again")


def test_facts_are_those_that_monitors_know(bench: Bench) -> None:
    """Celery's keys."""
    bench.app.conf.task_time_limit = 60.0
    pool = bench.start(2, max_tasks_per_child=7)
    bench.children(pool, 2)
    bench.run(pool, "echo", 1)
    facts = pool.pool.info()
    assert facts["max-concurrency"] == 2
    assert len(facts["processes"]) == 2
    assert facts["max-tasks-per-child"] == 7
    assert facts["put-guarded-by-semaphore"] is False
    assert facts["timeouts"] == [0, 60.0]
    assert facts["writes"]["total"] == 1


def test_a_death_is_told_as_what_it_is(bench: Bench) -> None:
    """Not as an end of the runner's."""
    pool = bench.start(1)
    (receipt,) = pool.submit(bench.request("suicide"))
    assert isinstance(pool.end_of(receipt), Died)


def test_without_a_zygote_and_without_a_name_the_pool_is_broken(bench: Bench, gate: Path) -> None:
    """An application that cannot be loaded again: what runs may finish, then it is over, and the sentence says why."""
    pool = bench.start(1)
    (pid,) = bench.children(pool, 1)
    running, waiting = pool.submit(bench.request("wait", str(gate)), bench.request("echo", 1))
    pool.has_started(running)
    os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1]), signal.SIGKILL)
    broken = eventually(lambda: [e for e in pool.events if isinstance(e, PoolBroken)], "the pool has broken")
    assert "forked from is gone" in broken[0].error
    assert "-A module:attribute" in broken[0].error
    assert not pool.death_of(waiting).started
    gate.touch()
    assert bench.result(pool, running) == pid
    eventually(lambda: not exists(pid), "nothing is left")


def test_a_process_that_cannot_be_told_to_leave_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task has taken the signal for itself by which orders are announced."""
    monkeypatch.setattr("kern_pool_prefork.workforce.DEAF", 0.3)

    @bench.app.task(name="take-signal")
    def take_signal() -> int:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        return os.getpid()

    bench.app.finalize()
    pool = bench.start(1)
    before = bench.run(pool, "take-signal")
    pool.pool.recycle()
    eventually(lambda: not exists(before), "it is gone")
    assert bench.run(pool, "pid") != before


def test_a_request_that_cannot_be_sent_ends_alone(bench: Bench) -> None:
    """A header of a class that only the main process has; the evidence says so."""
    pool = bench.start(1)
    receipts = pool.submit(
        bench.request("echo", 1), bench.request("echo", 2, headers={"x": object()}), bench.request("echo", 3)
    )
    assert "cannot be sent" in pool.death_of(receipts[1]).evidence["reason"]
    assert bench.result(pool, receipts[0]) == 1
    assert bench.result(pool, receipts[2]) == 3


def test_there_are_as_many_processes_as_processors(app: Kern) -> None:
    """Those that this process may use, unless it is told otherwise; none is an error."""
    pool = PreforkPool(app, PoolOptions())
    assert pool.slots == len(os.sched_getaffinity(0))
    pool.stop().result(10)
    with pytest.raises(ImproperlyConfigured, match="at least one"):
        PreforkPool(app, PoolOptions(concurrency=0))
    with pytest.raises(ValueError, match="at least one"):
        pool.resize(0)


def test_a_runner_that_no_process_could_find_is_refused(bench: Bench) -> None:
    """A function within a function has no name elsewhere."""
    with pytest.raises(TypeError, match="application's runner"):
        bench.start(1, runner=lambda request: None)  # type: ignore[arg-type, return-value]
