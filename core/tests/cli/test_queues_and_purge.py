"""``kern queues`` and ``kern purge``."""

from __future__ import annotations

from pathlib import Path

import pytest

from kern import Kern
from kern.contracts.transport import Claim


def claim(app: Kern, queue: str = "celery") -> None:
    (_,) = app.connection.do(lambda port: port.claim(Claim({queue: 1}, 1, lease_seconds=600)), 5).deliveries


def depth(cli, queue: str = "celery") -> dict[str, int]:
    (row,) = cli.json("queues", "-Q", queue, "--json")
    return {name: count for name, count in row.items() if name != "queue" and count}


def test_queues_shows_how_many_are_where(cli, app: Kern, quarantined) -> None:
    quarantined()
    app.send_task("t")
    claim(app)
    app.send_task("t")
    app.send_task("t")
    app.send_task("t", countdown=600)
    result = cli("queues")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["QUEUE", "READY", "LEASED", "DELAYED", "QUARANTINED"],
        ["celery", "2", "1", "1", "1"],
    ]


def test_queues_shows_those_configured_and_those_there_are(cli, app: Kern) -> None:
    Path("proj.py").write_text("from kern import Kern\napp = Kern(task_queues={'mine': {}})\n")
    app.send_task("t", queue="theirs")
    assert [row["queue"] for row in cli.json("queues", "--json", "-A", "proj")] == ["mine", "theirs"]
    assert [row["queue"] for row in cli.json("queues", "--json", "-Q", "a,b")] == ["a", "b"]


def test_a_queue_that_is_neither_configured_nor_to_be_made_is_refused(cli) -> None:
    Path("proj.py").write_text("from kern import Kern\napp = Kern(task_create_missing_queues=False)\n")
    result = cli("queues", "-A", "proj", "-Q", "celry")
    assert result.exit_code == 1
    assert result.stderr == "Error: Queue 'celry' missing from task_queues; did you mean 'celery'?\n"


def test_recover_gives_back_only_what_has_expired_unless_told_otherwise(cli, app: Kern) -> None:
    app.send_task("t")
    claim(app)
    assert cli.json("queues", "recover", "--json") == {"recovered": 0}
    assert depth(cli) == {"leased": 1}
    assert cli("queues", "recover", "--all", "--force").stdout == "Gave back 1 message.\n"
    assert depth(cli) == {"ready": 1}


def test_recover_asks_before_it_takes_messages_from_living_workers(cli, app: Kern) -> None:
    app.send_task("t")
    claim(app)
    assert cli("queues", "recover", "--all", input="n\n").exit_code == 1
    assert depth(cli) == {"leased": 1}
    assert cli("queues", "recover", "--all", input="y\n").exit_code == 0
    assert depth(cli) == {"ready": 1}


def test_peek_shows_the_next_messages_as_their_senders_showed_them_and_leaves_them(cli, app: Kern) -> None:
    app.send_task("t", ("hunter2",), argsrepr="('*****',)", task_id="first")
    app.send_task("u", task_id="second")
    shown = cli.json("queues", "peek", "celery", "--json")
    assert [(row["id"], row["task"], row["argsrepr"]) for row in shown] == [
        ("first", "t", "('*****',)"),
        ("second", "u", "()"),
    ]
    header, row = cli("queues", "peek", "celery", "--limit", "1").stdout.splitlines()
    assert header.split() == ["ID", "TASK", "ARGS", "KWARGS", "PRIORITY", "BYTES"]
    assert row.split()[:2] == ["first", "t"]
    assert depth(cli) == {"ready": 2}
    assert cli("queues", "peek", "empty").stdout == "No message of queue empty is ready.\n"


def test_delete_takes_waiting_calls_out_by_their_ids(cli, app: Kern) -> None:
    app.send_task("t", task_id="held")
    claim(app)
    app.send_task("t", task_id="ready")
    app.send_task("t", task_id="later", countdown=600)
    app.send_task("t", task_id="other")
    assert cli("queues", "delete", "held", "ready", "later", "nosuch").stdout == "Deleted 2 messages.\n"
    assert depth(cli) == {"leased": 1, "ready": 1}


@pytest.mark.parametrize("answer", ["n\n", "", "\n"])
def test_purge_asks_and_anything_but_yes_leaves_the_messages(cli, app: Kern, answer: str) -> None:
    app.send_task("t")
    result = cli("purge", input=answer)
    assert result.exit_code == 1
    assert "Aborted!" in result.stderr
    assert depth(cli) == {"ready": 1}


def test_purge_says_what_goes_and_what_stays_before_it_asks(cli, app: Kern, quarantined) -> None:
    quarantined()
    app.send_task("t")
    claim(app)
    app.send_task("t")
    app.send_task("t", countdown=600)
    result = cli("purge", input="y\n")
    assert "2 messages from queue celery (1 with workers, 1 in quarantine stay)" in result.stderr
    assert result.stdout == "Purged 2 messages from 1 queue.\n"
    assert depth(cli) == {"leased": 1, "quarantined": 1}


def test_purge_does_not_ask_when_forced(cli, app: Kern) -> None:
    app.send_task("t")
    assert cli("purge", "-f").stdout == "Purged 1 message from 1 queue.\n"
    assert cli("purge", "-f").stdout == "No messages purged from 1 queue.\n"


def test_a_dry_run_counts_and_deletes_nothing(cli, app: Kern) -> None:
    app.send_task("t")
    assert cli("purge", "--dry-run").stdout == "celery: 1 message would be deleted\n"
    assert cli.json("purge", "-n", "--json") == {"purged": {"celery": 1}, "dry_run": True}
    assert depth(cli) == {"ready": 1}


def test_purge_is_about_the_queues_named(cli, app: Kern) -> None:
    for queue in ("a", "b", "c"):
        app.send_task("t", queue=queue)
    assert cli.json("purge", "-f", "-Q", "a,b", "-X", "b", "--json")["purged"] == {"a": 1}
    assert cli.json("purge", "-f", "--all", "-X", "c", "--json")["purged"].items() >= {"b": 1}.items()
    assert depth(cli, "c") == {"ready": 1}


def test_purge_remarks_on_a_queue_that_may_be_misspelt(cli, app: Kern) -> None:
    app.send_task("t", queue="invoices")
    result = cli("purge", "-f", "-Q", "invoces")
    assert "The broker has no queue 'invoces'; did you mean 'invoices'?" in result.stderr
    assert depth(cli, "invoices") == {"ready": 1}


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--all", "-Q", "a"], "exclude each other"),
        (["-X", "celery"], "no queue is left"),
        (["-Q", "a,,b"], "expected names separated by commas"),
    ],
)
def test_a_purge_of_nothing_is_a_wrong_command_line(cli, arguments: list[str], answer: str) -> None:
    result = cli("purge", "-f", *arguments)
    assert result.exit_code == 2
    assert answer in result.stderr
