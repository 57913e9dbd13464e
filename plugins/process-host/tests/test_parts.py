"""Shared memory, descriptors, watching, threads, and the loop a pool lives on."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kern import Kern
from kern.errors import ImproperlyConfigured
from kern_process_host import blueprint, descriptors
from kern_process_host.evidence import Ending
from kern_process_host.home import Abandoned, Home
from kern_process_host.process import drain
from kern_process_host.slots import LONGEST, SIZE, Slot
from kern_process_host.threads import other_threads
from kern_process_host.watching import watch
from kern_testing.waiting import PATIENCE, eventually


def test_both_sides_of_a_slot_see_the_same() -> None:
    """Stamps, what was received into it, and stacks behind it."""
    ours = Slot.make()
    theirs = Slot(os.dup(ours.file))
    theirs.stamp(5, 12.5, 3.25)
    assert (ours.running, ours.since) == (5, (12.5, 3.25))
    left, right = descriptors.socket_pair()
    left.send((77).to_bytes(8, sys.byteorder) + b"body")
    assert right.recv_into(theirs.datagram) == 12
    assert ours.pulled == 77
    theirs.expect()
    theirs.clear()
    assert (ours.running, ours.pulled) == (0, 0)
    os.write(theirs.file, b"Thread 0x1\n")
    assert ours.stacks() == "Thread 0x1"
    assert len(ours.datagram) == LONGEST < SIZE
    for thing in (left, right, theirs, ours, ours):
        thing.close()


def test_files_and_data_travel_together() -> None:
    left, right = descriptors.socket_pair()
    file = descriptors.file_with(b"x" * 300_000, "test")
    descriptors.send(left, b"first", [file])
    descriptors.send(left, b"second")
    os.close(file)
    (first, attached), (second, none) = drain(right)
    assert (first, second, none) == (b"first", b"second", [])
    assert descriptors.whole_file(attached[0]) == b"x" * 300_000
    left.close()
    assert drain(right) == [(b"", [])], "the other end is gone"
    right.close()


def test_last_words_are_heard_though_their_speaker_did_not_listen() -> None:
    """It ends with messages unread, which the system tells as an error; what it had sent is there all the same."""
    left, right = descriptors.socket_pair()
    right.send(b"never read")
    left.send(b"last")
    left.send(b"words")
    left.close()
    assert drain(right) == [(b"last", []), (b"words", []), (b"", [])]
    right.close()


def test_descriptors_are_kept_out_of_reach() -> None:
    """What is opened later never gets their number."""
    ours, theirs = os.pipe()
    high = descriptors.out_of_reach(ours)
    assert high >= 60
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(ours)
    os.close(high)
    os.close(theirs)


LIVES_ON_A_LINE = """
import os, sys
from kern_process_host.descriptors import die_with
assert die_with(int(sys.argv[1]))
print("hanging", flush=True)
sum(range(10**15))
"""
LIVES_IN_A_THREAD = """
import signal, sys, threading
from kern_process_host.descriptors import wait_and_die
threading.Thread(target=wait_and_die, args=(int(sys.argv[1]),), daemon=True).start()
print("hanging", flush=True)
while True:
    signal.pause()
"""


@pytest.mark.parametrize("program", [LIVES_ON_A_LINE, LIVES_IN_A_THREAD], ids=["by the kernel", "by a thread"])
def test_who_hangs_is_killed_when_the_line_is_cut(program: str) -> None:
    """By the kernel, though the process lets no Python code run; or by a thread where the kernel cannot."""
    line, held = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", program, str(line)], pass_fds=[line], stdout=subprocess.PIPE)
    os.close(line)
    assert process.stdout is not None
    assert process.stdout.readline() == b"hanging\n"
    assert process.poll() is None
    os.close(held)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    process.stdout.close()


def test_a_line_that_is_cut_already_kills_at_once() -> None:
    line, held = os.pipe()
    os.close(held)
    process = subprocess.Popen(
        [sys.executable, "-c", LIVES_ON_A_LINE, str(line)], pass_fds=[line], stdout=subprocess.DEVNULL
    )
    os.close(line)
    assert process.wait(PATIENCE) == -signal.SIGKILL


@pytest.mark.parametrize("kernel_tells", [True, False], ids=["told by the kernel", "found by looking"])
def test_the_end_of_any_process_is_heard_of(kernel_tells: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a child with how it ended, of another's child without."""
    if not kernel_tells:
        monkeypatch.delattr(os, "pidfd_open")

    async def heard(pid: int, end: object = None) -> Ending:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Ending] = loop.create_future()
        watch(loop, pid, ended.set_result)
        os.kill(pid, signal.SIGTERM)
        return await asyncio.wait_for(ended, PATIENCE)

    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    ending = asyncio.run(heard(child.pid))
    child.returncode = 0
    assert ending.signal == signal.SIGTERM
    assert ending.rss
    grandchild = int(
        subprocess.check_output(["sh", "-c", "sleep 1000 >/dev/null & echo $!"])  # the shell ends, and is nobody's
    )
    assert asyncio.run(heard(grandchild)) == Ending(None)


def test_threads_are_seen_by_name() -> None:
    before = other_threads()
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="reporter")
    thread.start()
    assert sorted(other_threads()) == sorted([*before, "reporter"])
    done.set()
    thread.join()
    eventually(lambda: sorted(other_threads()) == sorted(before), "it is gone")


def test_a_pool_lives_on_the_loop_that_runs() -> None:
    async def main() -> None:
        home = Home()
        assert home.loop is asyncio.get_running_loop()
        assert home.do(threading.get_ident) == threading.get_ident()
        home.leave()

    asyncio.run(main())


def test_without_a_loop_it_has_one_of_its_own() -> None:
    """What is done there is done in its thread, with its answers and errors; it ends with it."""
    home = Home()
    assert home.do(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        home.do(lambda: 1 // 0)
    home.do(home.leave)
    with pytest.raises(Abandoned):
        home.do(threading.get_ident)
    eventually(home.loop.is_closed, "the thread has ended")


application = Kern("parts", broker="memory://", result_expires=123)


def test_a_blueprint_leads_to_the_same_application(tmp_path: Path) -> None:
    """By name, with the settings as they are, and nothing that is not plain."""
    application.conf.result_expires = 456
    plan = blueprint.of_application(application)
    module, _, attribute = plan.name.partition(":")
    assert getattr(sys.modules[module], attribute) is application
    assert plan.settings["result_expires"] == 456
    path, before = list(sys.path), application.conf.version
    application.conf.result_expires = 1
    loaded = blueprint.load(plan.to_fields())
    assert loaded is application
    assert loaded.conf.result_expires == 456
    assert "main process" in loaded.conf.origin("result_expires")
    assert loaded.conf.version > before
    assert sys.path == path


def test_an_application_nobody_could_import_has_no_blueprint() -> None:
    """The error says what to do."""
    with pytest.raises(ImproperlyConfigured, match="-A module:attribute"):
        blueprint.of_application(Kern("local", broker="memory://"))


def test_sockets_of_the_pair_keep_messages_whole() -> None:
    left, right = descriptors.socket_pair()
    left.send(b"a")
    left.send(b"b" * 50_000)
    assert descriptors.receive(right) == (b"a", [])
    assert descriptors.receive(right, socket.MSG_DONTWAIT) == (b"b" * 50_000, [])
    left.close()
    right.close()
