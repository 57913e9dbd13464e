"""``kern call`` and ``kern result``."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from kern import Kern
from kern.states import FAILURE, SUCCESS
from kern.worker import Worker


@pytest.fixture
def working(app: Kern) -> Iterator[None]:
    """A worker in this process that knows ``add`` and ``fail``."""

    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    @app.task(name="fail")
    def fail(message: str) -> None:
        raise ValueError(message)

    worker = Worker(app, pool="solo", signals=False)
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield
    worker.stop()
    thread.join(20)
    assert not thread.is_alive()


def peek(app: Kern, queue: str = "celery") -> dict:
    (message,) = app.connection.do(lambda port: port.peek(queue), 5)
    return {"headers": message.headers, "properties": message.properties, "body": json.loads(message.body)}


def test_a_call_prints_its_id_and_nothing_else(cli, app: Kern) -> None:
    result = cli("call", "any.task", "-a", "[1, 2]", "-k", '{"x": 3}')
    assert result.exit_code == 0
    sent = peek(app)
    assert result.stdout == f"{sent['headers']['id']}\n"
    assert sent["headers"]["task"] == "any.task"
    assert sent["body"][:2] == [[1, 2], {"x": 3}]


def test_what_is_said_of_a_call_travels_with_it(cli, app: Kern) -> None:
    arguments = ["--queue", "other", "--priority", "7", "--task-id", "mine", "--expires", "60", "--serializer", "json"]
    assert cli("call", "any.task", *arguments).stdout == "mine\n"
    sent = peek(app, "other")
    assert sent["properties"]["priority"] == 7
    assert sent["headers"]["expires"] is not None


@pytest.mark.parametrize("option", [["--countdown", "600"], ["--eta", "2099-01-01T00:00:00+00:00"]])
def test_a_call_for_later_is_delayed(cli, option: list[str]) -> None:
    cli("call", "any.task", *option)
    (depth,) = cli.json("queues", "--json")
    assert (depth["ready"], depth["delayed"]) == (0, 1)


def test_exchange_and_routing_key_decide_where_a_call_goes(cli, app: Kern) -> None:
    app.conf.task_queues = {"media": {"exchange": "media", "routing_key": "m"}}
    app.connection.do(lambda port: port.declare([app.queue_spec("media")]), 5)
    result = cli("call", "any.task", "--exchange", "media", "--routing-key", "m")
    assert result.exit_code == 0, result.output
    assert peek(app, "media")["headers"]["task"] == "any.task"


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["-a", "[1"], "is no JSON"),
        (["-a", '{"a": 1}'], "was not an array"),
        (["-k", "[]"], "was not an object"),
        (["--eta", "tomorrow"], "expected a time like"),
        (["--expires", "soon"], "expected a number of seconds or a time like"),
        (["--eta", "2099-01-01", "--countdown", "1"], "exclude each other"),
        (["--timeout", "1"], "--timeout is for --wait"),
        (["--wait", "--timeout", "0"], "expected a number above 0"),
    ],
)
def test_a_value_that_cannot_be_used_is_a_wrong_command_line(cli, arguments: list[str], answer: str) -> None:
    result = cli("call", "any.task", *arguments)
    assert result.exit_code == 2
    assert answer in result.stderr
    assert result.stdout == ""


def test_a_serializer_that_does_not_exist_is_one_line(cli) -> None:
    result = cli("call", "any.task", "--serializer", "xml")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "xml" in result.stderr


@pytest.mark.usefixtures("working")
class TestWithAWorker:
    def test_a_call_may_wait_for_its_result(self, cli) -> None:
        result = cli("call", "add", "-a", "[1, 2]", "--wait", "--timeout", "20")
        assert (result.exit_code, result.stdout) == (0, "3\n")

    def test_a_task_that_failed_is_exit_code_1_and_its_error_on_stderr(self, cli) -> None:
        result = cli("call", "fail", "-a", '["no luck"]', "--wait", "--timeout", "20")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.endswith("FAILURE: ValueError: no luck\n")

    def test_a_result_is_waited_for_and_printed(self, cli) -> None:
        task_id = cli("call", "add", "-a", "[2, 3]").stdout.strip()
        result = cli("result", task_id, "--timeout", "20")
        assert (result.exit_code, result.stdout) == (0, "5\n")

    def test_results_as_json(self, cli) -> None:
        done = cli("call", "add", "-a", "[2, 3]", "--wait", "--json")
        assert json.loads(done.stdout).items() >= {"state": SUCCESS, "result": 5}.items()
        failed = cli("call", "fail", "-a", '["x"]', "--wait", "--json")
        document = json.loads(failed.stdout)
        assert failed.exit_code == 1
        assert document["state"] == FAILURE
        assert document["error"] == {"type": "ValueError", "message": "x"}
        assert "Traceback" in document["traceback"]

    def test_the_traceback_of_a_failed_task_is_printed_on_request(self, cli) -> None:
        task_id = cli("call", "fail", "-a", '["x"]').stdout.strip()
        cli("result", task_id, "--timeout", "20")
        result = cli("result", task_id, "--traceback")
        assert result.exit_code == 0
        assert result.stdout.startswith("Traceback (most recent call last):")
        assert result.stdout.rstrip().endswith("ValueError: x")


def test_a_result_that_does_not_come_is_said_with_the_state(cli) -> None:
    task_id = cli("call", "any.task").stdout.strip()
    result = cli("result", task_id, "--timeout", "0.1")
    assert result.exit_code == 1
    assert f"no result after 0.1 s; the call {task_id} is PENDING" in result.stderr


def test_a_call_nobody_has_heard_of_is_not_waited_for_in_silence(cli) -> None:
    result = cli("result", "nosuch", "--timeout", "0.1")
    assert result.exit_code == 1
    assert "Nothing is known of the call nosuch" in result.stderr
    assert "is UNKNOWN" in result.stderr


def test_the_traceback_of_what_has_not_failed_is_empty(cli) -> None:
    assert cli("result", "nosuch", "--traceback").stdout == "\n"


@pytest.mark.parametrize("command", [["result", "x"], ["result", "x", "--traceback"], ["call", "t", "--wait"]])
def test_without_a_result_store_there_is_nothing_to_wait_for(cli, url: str, command: list[str]) -> None:
    result = cli("-b", url, *command, broker=False)
    assert result.exit_code == 1
    assert "results are not kept" in result.stderr
