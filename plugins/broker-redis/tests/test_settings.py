"""Options of the driver: what acts is checked, what cannot act says what does instead, what is unknown is an error."""

from __future__ import annotations

from typing import Any

import pytest

from kern.app import Kern
from kern.errors import InvalidSetting
from kern_broker_redis.names import Names
from kern_broker_redis.settings import Options


def options(**given: Any) -> Options:
    """Of an application with these ``broker_transport_options``."""
    return Options.of(Kern("tests", broker="redis://", broker_transport_options=given).conf)


def test_defaults_are_kombus() -> None:
    found = Options.of(None)
    assert found.names(3) == Names("", "\x06\x16", (0, 3, 6, 9), "/3.", True)
    assert found.visibility_timeout == 3600
    assert (found.unacked_key, found.unacked_index_key, found.unacked_mutex_key) == (
        "unacked",
        "unacked_index",
        "unacked_mutex",
    )
    assert found.connection == {"socket_connect_timeout": 4.0, "global_keyprefix": ""}


@pytest.mark.parametrize(
    ("given", "prefix"),
    [(True, "/2."), (False, ""), ("own.", "own."), ("/{db}!", "/2!")],
)
def test_channels_are_called_as_the_option_says(given: bool | str, prefix: str) -> None:
    names = options(fanout_prefix=given, global_keyprefix="p_").names(2)
    assert names.channel("x") == f"p_{prefix}x"
    assert names.channel("x", "k") == f"p_{prefix}x/k"
    assert names.topic_of(names.channel("x", "k")) == "x/k"
    assert options(fanout_patterns=False).names(0).channel("x", "k") == "/0.x"


def test_what_is_for_the_connection_goes_there() -> None:
    app = Kern(
        "tests",
        broker="redis://",
        broker_connection_timeout=2.5,
        broker_use_ssl={"ssl_cert_reqs": "none"},
        broker_redis_allow_eviction=True,
        broker_transport_options={"socket_timeout": 7, "master_name": "m", "global_keyprefix": "p"},
    )
    found = Options.of(app.conf)
    assert found.connection == {
        "socket_timeout": 7,
        "master_name": "m",
        "global_keyprefix": "p",
        "socket_connect_timeout": 2.5,
        "allow_eviction": True,
    }
    assert found.use_ssl == {"ssl_cert_reqs": "none"}
    assert options(socket_connect_timeout=1).connection["socket_connect_timeout"] == 1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"visibility_timeot": 1}, "no option 'visibility_timeot'; did you mean 'visibility_timeout'"),
        ({"qwertz": 1}, "no option 'qwertz'; known are"),
        ({"priority_steps": [3, 3]}, "'priority_steps' cannot be"),
        ({"priority_steps": "0369"}, "'priority_steps' cannot be"),
        ({"priority_steps": []}, "'priority_steps' cannot be"),
        ({"sep": ""}, "'sep' cannot be ''"),
        ({"global_keyprefix": 5}, "'global_keyprefix' cannot be 5: expected text"),
        ({"visibility_timeout": -1}, "'visibility_timeout' cannot be -1"),
        ({"visibility_timeout": "3600"}, "'visibility_timeout' cannot be '3600'"),
        ({"fanout_prefix": 5}, "'fanout_prefix' cannot be 5"),
        ({"fanout_patterns": "yes"}, "'fanout_patterns' cannot be 'yes'"),
        ({"quarantine_bytes": -1}, "'quarantine_bytes' cannot be -1"),
        ({"body_encoding": "utf-8"}, "'body_encoding' cannot be 'utf-8': bodies are written in base64"),
    ],
)
def test_what_cannot_be_is_refused_by_name(given: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidSetting, match=why):
        options(**given)


def test_an_option_that_cannot_act_says_what_does_instead(caplog: pytest.LogCaptureFixture) -> None:
    """Configurations of Celery's are taken over, with a line for what has nothing to do here."""
    with caplog.at_level("INFO"):
        options(polling_interval=5, ack_emulation=True, max_connections=10)
    for option in ("polling_interval", "ack_emulation", "max_connections"):
        assert f"option='{option}'" in caplog.text, caplog.text


@pytest.mark.parametrize("seconds", [0, -1, "soon"])
def test_a_time_to_connect_is_a_time(seconds: Any) -> None:
    with pytest.raises(InvalidSetting, match="broker_connection_timeout"):
        Options.of(Kern("tests", broker="redis://", broker_connection_timeout=seconds).conf)


@pytest.mark.parametrize(
    ("steps", "priority", "suffix"),
    [((0, 3, 6, 9), 4, "\x06\x163"), ((0, 5), 4, ""), ((0, 5), 9, "\x06\x165"), (tuple(range(10)), 7, "\x06\x167")],
)
def test_a_priority_has_the_list_of_the_largest_step_below(steps: tuple[int, ...], priority: int, suffix: str) -> None:
    names = Names(steps=steps)
    assert names.suffix(priority) == suffix
    assert names.queue_of(f"q{suffix}") == "q"
