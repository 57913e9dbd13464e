"""``kern quarantine``."""

from __future__ import annotations

import json

import pytest

from kern import Kern
from kern.message import Message


def keys(cli, *arguments: str) -> list[str]:
    return [row["key"] for row in cli.json("quarantine", "list", "--json", *arguments)]


def test_an_empty_quarantine_says_so(cli) -> None:
    assert cli("quarantine", "list").stdout == "Nothing is in quarantine.\n"
    assert keys(cli) == []


def test_the_list_names_key_queue_task_and_reason(cli, quarantined) -> None:
    quarantined("proj.gone")
    header, row = cli("quarantine", "list").stdout.splitlines()
    assert header.split() == ["KEY", "QUEUE", "TASK", "REASON", "SINCE"]
    assert row.split()[1:4] == ["celery", "proj.gone", "unknown-task"]


def test_the_list_is_narrowed_by_queue_reason_and_number(cli, quarantined) -> None:
    quarantined(reason="unknown-task")
    quarantined(reason="poison")
    quarantined(reason="poison", queue="other")
    assert len(keys(cli)) == 3
    assert len(keys(cli, "--reason", "poison")) == 2
    assert len(keys(cli, "--queue", "other")) == 1
    assert len(keys(cli, "--reason", "poison", "--queue", "celery")) == 1
    assert len(keys(cli, "--limit", "2")) == 2
    assert "more than these 1" in cli("quarantine", "list", "--limit", "1").stderr


def test_one_message_is_shown_with_evidence_and_arguments_as_their_sender_showed_them(cli, quarantined) -> None:
    task_id = quarantined("proj.gone", args=("hunter2",), argsrepr="('*****',)")
    (key,) = keys(cli)
    result = cli("quarantine", "show", key)
    assert result.exit_code == 0
    for text in (key, "proj.gone", "unknown-task", "nobody knows it", task_id, "('*****',)"):
        assert text in result.stdout
    assert "hunter2" not in result.stdout
    shown = cli.json("quarantine", "show", key, "--json")
    assert shown["evidence"] == {"error": "nobody knows it", "pid": 42}
    assert shown["message"]["argsrepr"] == "('*****',)"
    assert "hunter2" not in json.dumps(shown)


def test_raw_prints_the_bytes_the_broker_had_and_nothing_else(cli, app: Kern, quarantined) -> None:
    quarantined("proj.gone", args=("hunter2",))
    (item,) = app.connection.do(lambda port: port.quarantined(), 5)
    assert item.raw
    assert cli("quarantine", "show", item.key, "--raw").stdout_bytes == item.raw


def test_replay_puts_back_the_very_message_once(cli, app: Kern, quarantined) -> None:
    task_id = quarantined("proj.gone")
    (key,) = keys(cli)
    assert cli("quarantine", "replay", key, "--dry-run").stdout == f"{key}\n"
    assert keys(cli) == [key]
    assert cli("quarantine", "replay", key).stdout == "Replayed 1 message.\n"
    assert keys(cli) == []
    messages: list[Message] = app.connection.do(lambda port: port.peek("celery"), 5)
    assert [message.task_id for message in messages] == [task_id]


def test_replay_takes_all_or_all_of_a_kind(cli, quarantined) -> None:
    quarantined(reason="poison")
    quarantined(reason="unknown-task")
    assert cli.json("quarantine", "replay", "--all", "--reason", "poison", "--json")["replayed"] == 1
    assert cli.json("quarantine", "replay", "--all", "--json")["replayed"] == 1
    assert cli.json("quarantine", "replay", "--all", "--json")["replayed"] == 0


def test_drop_asks_and_then_deletes(cli, quarantined) -> None:
    quarantined()
    (key,) = keys(cli)
    assert cli("quarantine", "drop", key, input="n\n").exit_code == 1
    assert keys(cli) == [key]
    assert cli("quarantine", "drop", key, input="y\n").stdout.endswith("Dropped 1 message.\n")
    assert keys(cli) == []


def test_drop_does_not_ask_when_forced_and_deletes_nothing_in_a_dry_run(cli, quarantined) -> None:
    quarantined()
    assert cli.json("quarantine", "drop", "--all", "-n", "--json")["dropped"] == 1
    assert len(keys(cli)) == 1
    assert cli.json("quarantine", "drop", "--all", "-f", "--json")["dropped"] == 1
    assert keys(cli) == []


@pytest.mark.parametrize("command", ["show", "replay", "drop"])
def test_a_key_that_is_not_there_is_named_with_what_is_like_it(cli, quarantined, command: str) -> None:
    quarantined()
    (key,) = keys(cli)
    result = cli("quarantine", command, key[:-1])
    assert result.exit_code == 1
    assert f"did you mean {key!r}?" in result.stderr
    assert keys(cli) == [key]


@pytest.mark.parametrize("command", ["replay", "drop"])
@pytest.mark.parametrize("arguments", [[], ["--queue", "a"], ["k", "--all"], ["k", "--reason", "r"]])
def test_it_must_be_clear_which_messages_are_meant(cli, command: str, arguments: list[str]) -> None:
    assert cli("quarantine", command, *arguments).exit_code == 2
