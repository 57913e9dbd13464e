"""``kern worker``, as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kern_testing.waiting import eventually

SECRET = "hunter2"


@pytest.mark.usefixtures("project")
class TestRunning:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
    def test_it_runs_tasks_and_ends_with_0_when_told_to_stop(self, start, number: signal.Signals) -> None:
        worker = start("worker", "-A", "proj")
        worker.printed("ready")
        call = start("call", "-A", "proj", "proj.add", "-a", "[1, 2]", "--wait", "--timeout", "30")
        assert call.ended() == 0, call.err
        assert call.out == "3\n"
        worker.popen.send_signal(number)
        assert worker.ended() == 0

    def test_it_says_what_it_is_and_is_quiet_about_the_rest(self, start, sqlite_url: str) -> None:
        worker = start("worker", "-A", "proj", "-Q", "a,b", "-n", "w1@here", "-P", "solo")
        worker.printed("ready")
        rows = [line.split(maxsplit=1) for line in worker.out.splitlines()]
        assert rows[0][0] == "kern"
        assert "w1@here" in rows[0][1]
        facts = dict(row for row in rows[1:8] if len(row) == 2)
        assert facts["app"] == "proj:app"
        assert facts["broker"] == sqlite_url
        assert facts["concurrency"] == "1 (solo)"
        assert facts["queues"] == "a, b"
        assert facts["tasks"] == "2"
        assert "broker-sql" in facts["plugins"]
        assert "cannot kill a task at its hard time limit" in worker.out
        assert worker.err == ""

    def test_it_names_its_tasks_when_asked_for_more(self, start) -> None:
        worker = start("worker", "-A", "proj", "-l", "info", "-P", "solo")
        worker.printed("ready")
        assert ". proj.add" in worker.out

    def test_quiet_means_no_banner_and_no_remarks(self, start) -> None:
        worker = start("-q", "worker", "-A", "proj", "-P", "solo", "-l", "info")
        worker.printed("ready node=")
        assert worker.out == ""

    def test_json_logs_are_json_line_by_line_and_have_what_the_banner_has(self, start) -> None:
        worker = start("worker", "-A", "proj", "-P", "solo", "-l", "info", "--json-logs")
        worker.printed('"event": "ready"')
        entries = [json.loads(line) for line in worker.err.splitlines()]
        (starting,) = [entry for entry in entries if entry["event"] == "worker starting"]
        assert starting["tasks"] == ["proj.add", "proj.fail"]
        assert worker.out == ""

    def test_settings_may_be_given_behind_the_options(self, start, tmp_path: Path) -> None:
        (tmp_path / "proj.py").write_text(
            (tmp_path / "proj.py").read_text() + "\n\n@app.task\ndef prefetch():\n"
            "    conf = app.conf\n"
            "    return [conf.worker_prefetch_multiplier, conf.worker_heartbeat, add.time_limit, add.soft_time_limit]\n"
        )
        worker = start(
            *("worker", "-A", "proj", "-P", "solo", "--time-limit", "90", "--soft-time-limit", "60"),
            *("--prefetch-multiplier", "3"),
            *("worker.heartbeat=2", "broker_connection_retry=no"),
        )
        worker.printed("ready")
        call = start("call", "proj.prefetch", "--wait", "--json", "--timeout", "30")
        assert call.ended() == 0, call.err
        assert json.loads(call.out)["result"] == [3, 2.0, 90.0, 60.0]

    def test_modules_given_are_imported_and_their_tasks_run_without_any_application_named(
        self, start, tmp_path: Path
    ) -> None:
        (tmp_path / "more.py").write_text("from kern import shared_task\n\n\n@shared_task\ndef four():\n    return 4\n")
        worker = start("worker", "-I", "more", "-P", "solo")
        worker.printed("ready")
        call = start("call", "more.four", "--wait", "--timeout", "30")
        assert (call.ended(), call.out) == (0, "4\n")

    def test_a_pool_with_one_slot_says_so_to_who_wants_more(self, start) -> None:
        worker = start("worker", "-A", "proj", "-P", "solo", "-c", "3")
        worker.printed("ready")
        assert "\n  concurrency  1 (solo)\n" in worker.out
        assert "one task at a time" in worker.err

    def test_queues_left_out_are_not_consumed(self, start) -> None:
        worker = start("worker", "-A", "proj", "-P", "solo", "-Q", "a,b", "-X", "b")
        worker.printed("ready")
        assert "\n  queues       a\n" in worker.out

    def test_purge_empties_the_queues_before_it_starts(self, start, sqlite_url: str) -> None:
        assert start("call", "proj.add", "-a", "[1, 2]").ended() == 0
        worker = start("worker", "-A", "proj", "-P", "solo", "--purge", "-l", "info")
        worker.printed("ready node=")
        assert "queue purged" in worker.err
        assert "messages=1" in worker.err

    def test_the_log_goes_to_a_file_named_after_the_node(self, start, tmp_path: Path) -> None:
        worker = start("worker", "-A", "proj", "-P", "solo", "-n", "w1@here", "-l", "info", "-f", "%n-%d.log")
        worker.printed("ready; ")
        assert "ready" in (tmp_path / "w1-here.log").read_text()
        assert worker.err == ""

    def test_a_pidfile_names_the_process_and_keeps_a_second_one_away(self, start, tmp_path: Path) -> None:
        file = tmp_path / "w1.pid"
        file.write_text("999999999\n")  # somebody who is gone
        worker = start("worker", "-A", "proj", "-P", "solo", "-n", "w1@here", "--pidfile", "%n.pid")
        worker.printed("ready")
        assert int(file.read_text()) == worker.popen.pid
        second = start("worker", "-A", "proj", "-P", "solo", "--pidfile", "w1.pid")
        assert second.ended() == 73
        assert second.err == f"Error: the pidfile 'w1.pid' belongs to process {worker.popen.pid}, which is alive\n"
        worker.popen.terminate()
        assert worker.ended() == 0
        assert not file.exists()

    def test_a_configuration_for_celery_is_told_what_it_can_lose(self, start, tmp_path: Path) -> None:
        (tmp_path / "celeryconfig.py").write_text("worker_pool = 'solo'\n")
        worker = start("worker", "-A", "proj", "--config", "celeryconfig")
        worker.printed("ready")
        assert "a worker that dies loses those that it has begun" in worker.out


# -- what is wrong -----------------------------------------------------------------------------------------------------


def one_line(process) -> str:
    """The only line on stderr of a process that ended with exit code 1."""
    code = process.ended()
    assert code == 1, f"exit code {code}\n{process.err}"
    assert process.err.startswith("Error: ")
    assert process.err.count("\n") == 1, process.err
    assert SECRET not in process.err
    return process.err


@pytest.mark.usefixtures("project")
class TestWrong:
    def test_a_task_module_that_raises_is_named_with_cause_and_place(self, start, tmp_path: Path) -> None:
        (tmp_path / "bad.py").write_text("def f():\n    return 1 / 0\n\n\nf()\n")
        line = one_line(start("worker", "-A", "proj", "-I", "bad"))
        assert "the module 'bad' cannot be imported: ZeroDivisionError: division by zero (bad.py, line 2)" in line

    def test_its_traceback_is_shown_at_level_debug(self, start, tmp_path: Path) -> None:
        (tmp_path / "bad.py").write_text("def f():\n    return 1 / 0\n\n\nf()\n")
        worker = start("worker", "-A", "proj", "-I", "bad", "-l", "debug")
        assert worker.ended() == 1
        assert 'bad.py", line 5, in <module>\n    f()' in worker.err
        assert "importlib" not in worker.err
        assert worker.err.splitlines()[-1].startswith("Error: the module 'bad' cannot be imported")

    def test_a_scheme_nobody_speaks(self, start) -> None:
        line = one_line(start("worker", "-A", "proj", "-b", f"nosuch://me:{SECRET}@here"))
        assert "no installed plugin provides the transport 'nosuch'" in line

    def test_a_server_that_cannot_be_reached(self, start) -> None:
        url = f"postgresql://me:{SECRET}@127.0.0.1:1/x"
        worker = start("worker", "-A", "proj", "-b", url, "-q", "broker_connection_retry=no")
        assert "postgresql://me:********@127.0.0.1:1/x" in one_line(worker)

    def test_a_server_that_cannot_be_reached_yet_is_tried_again(self, start) -> None:
        url = f"postgresql://me:{SECRET}@127.0.0.1:1/x"
        worker = start("worker", "-A", "proj", "-b", url)
        eventually(lambda: worker.err.count("cannot reach the broker, trying again") >= 2, timeout=30)
        assert SECRET not in worker.out + worker.err
        worker.popen.terminate()
        assert worker.ended() == 0

    def test_an_unknown_setting(self, start) -> None:
        line = one_line(start("worker", "-A", "proj", "worker.hartbeat=1"))
        assert "unknown setting 'worker_hartbeat'" in line
        assert "did you mean 'worker_heartbeat'?" in line

    def test_a_queue_that_is_not_configured(self, start) -> None:
        worker = start("worker", "-A", "proj", "-Q", "celry", KERN_TASK_CREATE_MISSING_QUEUES="no")
        assert "did you mean 'celery'?" in one_line(worker)

    def test_a_pool_that_is_not_installed(self, start) -> None:
        assert "no installed plugin provides the pool 'nosuch'" in one_line(
            start("worker", "-A", "proj", "-P", "nosuch")
        )

    def test_a_log_file_that_cannot_be_written(self, start) -> None:
        assert "cannot write the log file" in one_line(start("worker", "-A", "proj", "-f", "no/such/folder.log"))

    @pytest.mark.parametrize(
        ("arguments", "answer"),
        [
            (["worker"], "no application. Say which with -A proj, with KERN_APP"),
            (["worker", "-A", "nosuch"], "The module nosuch was not found."),
            (["worker", "-A", "proj", "-P", "solo", "--max-tasks-per-child", "3"], "no processes to replace"),
            (["worker", "-A", "proj", "-P", "solo", "--max-memory-per-child", "9"], "no processes to replace"),
            (["worker", "-A", "proj", "-c", "many"], "must be a non-negative integer or 'auto', got 'many'"),
            (["worker", "-A", "proj", "-l", "inof"], "no level 'inof'; did you mean INFO?"),
            (["worker", "-A", "proj", "--soft-time-limit", "0"], "expected a number above 0"),
            (["worker", "-A", "proj", "-Ofair"], "leave it out"),
            (["worker", "-A", "proj", "--without-gossip"], "workers do not gossip: leave it out"),
            (["worker", "-A", "proj", "--detach"], "let systemd, a container or a supervisor"),
        ],
    )
    def test_a_wrong_command_line_is_exit_code_2_with_what_to_do(self, start, arguments, answer: str) -> None:
        worker = start(*arguments)
        assert worker.ended() == 2
        assert answer in worker.err
        assert "Traceback" not in worker.err

    def test_an_argument_that_is_no_setting(self, start) -> None:
        assert "settings are given as 'name=value'" in one_line(start("worker", "-A", "proj", "stray"))


@pytest.mark.parametrize("command", [["queues"], ["purge", "-f"], ["quarantine", "list"], ["call", "x"]])
def test_a_server_that_cannot_be_reached_is_one_line_for_every_command(start, command: list[str]) -> None:
    line = one_line(start(*command, "-b", f"postgresql://me:{SECRET}@127.0.0.1:1/x"))
    assert "postgresql://me:********@127.0.0.1:1/x" in line


@pytest.mark.parametrize("command", [["queues"], ["plugins"], ["config"], ["report"], ["quarantine", "list"]])
def test_json_is_all_that_is_on_stdout_whatever_is_logged_or_printed(start, tmp_path: Path, command) -> None:
    (tmp_path / "chatty.py").write_text(
        "import logging\nfrom kern import Kern\nprint('printed')\napp = Kern(worker_autoscaler='x')\n"
        "logging.getLogger('kern.chatty').warning('logged')\nlogging.getLogger('other').warning('said')\n"
    )
    process = start(*command, "--json", "-A", "chatty")
    assert process.ended() == 0, process.err
    json.loads(process.out)
    for text in ("printed", "logged", "said"):
        assert text in process.err


def test_a_pipe_that_is_closed_is_no_reason_for_a_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "kern", "config"], stdout=closed, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
    assert done.stderr == ""
    assert done.returncode == 1
