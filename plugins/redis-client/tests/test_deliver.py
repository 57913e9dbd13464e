"""``deliver.lua``: where messages go, as kern's own rules and kombu's tables say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kern.queues import matches
from kern_redis_client.link import Link
from kern_redis_client.scripts import Script, fragment

from .conftest import ask

TOPIC = Script(f"{fragment('deliver')}\nreturn kern_topic(kern_words(ARGV[1]), kern_words(ARGV[2])) and 1 or 0")
ROUTE = Script(
    f"{fragment('deliver')}\nkern_begin(ARGV[1], ARGV[2])\n"
    "local queues, problem = kern_route(ARGV[3], ARGV[4], ARGV[5], ARGV[6])\n"
    "if queues then table.sort(queues) end return queues or problem"
)
SEND = Script(
    f"{fragment('deliver')}\nkern_begin('', '\\6\\22')\nlocal sent, problem = kern_send(ARGV, 1)\n"
    "return { sent, problem or '' }"
)
MEMBER = "\x06\x16"


@pytest.fixture
def link(connect: Callable[..., Link]) -> Link:
    return connect(scripts=[TOPIC, ROUTE, SEND])


def route(link: Link, exchange: str, exchange_type: str, key: str, prefix: str = "", separator: str = MEMBER) -> Any:
    answer = ask(link, *ROUTE.call((), (prefix, separator, exchange, exchange_type, key, "")))
    return [queue.decode() for queue in answer] if isinstance(answer, list) else answer.decode()


words = st.lists(st.sampled_from(["a", "b", "*", "#", "", "a-b"]), max_size=5).map(".".join)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pattern=words, key=words)
def test_topics_are_met_by_the_rules_of_core(link: Link, pattern: str, key: str) -> None:
    """The script and :func:`kern.queues.matches` agree on every pattern and key."""
    found = ask(link, *TOPIC.call((), (pattern, key)))
    assert bool(found) == matches("topic", pattern, key), (pattern, key)


def test_tables_of_kombu_are_read(link: Link) -> None:
    """Members have two separators; both dialects of patterns stand there, and the key is what counts."""
    ask(
        link,
        *("SADD", "_kombu.binding.media"),
        f"a.*{MEMBER}^a\\.[^\\.]+${MEMBER}newer",
        f"a.*{MEMBER}^a\\..*?[^\\.]${MEMBER}older",
        f"a.b{MEMBER}{MEMBER}exact",
        f"#{MEMBER}^.*?${MEMBER}all",
        f"a.b{MEMBER}{MEMBER}all",
        "no member at all",
        f"one{MEMBER}separator",
    )
    assert route(link, "media", "topic", "a.b") == ["all", "exact", "newer", "older"]
    assert route(link, "media", "topic", "c") == ["all"]
    assert route(link, "media", "direct", "a.b") == ["all", "exact"]
    assert route(link, "media", "direct", "a.*") == ["newer", "older"]
    assert route(link, "media", "direct", "nothing") == "UNROUTABLE"
    assert route(link, "nowhere", "direct", "a") == "UNROUTABLE"
    assert route(link, "", "direct", "any queue") == ["any queue"]


def test_prefix_and_separator_are_the_applications(link: Link) -> None:
    ask(link, "SADD", "pfx_._kombu.binding.x", "key::queue")
    assert route(link, "x", "direct", "key", prefix="pfx_.", separator=":") == ["queue"]


def test_keys_that_hold_something_else_are_named(link: Link) -> None:
    ask(link, "SET", "_kombu.binding.x", "not a set")
    assert route(link, "x", "direct", "key") == "WRONGTYPE the bindings of exchange x are no set"
    ask(link, "SET", "queue", "not a list")
    assert route(link, "", "direct", "queue") == "WRONGTYPE the key of queue queue is a string, not a list"


def test_one_that_cannot_be_sent_leaves_nothing(link: Link) -> None:
    """Of two bound queues one is no list: neither gets the message, and its id is not taken for published."""
    ask(link, "SADD", "_kombu.binding.x", f"k{MEMBER}{MEMBER}good", f"k{MEMBER}{MEMBER}bad")
    ask(link, "SET", "bad", "not a list")
    sent, problem = ask(link, *SEND.call((), ("id", "x", "direct", "k", "", 0, "tag", "", "{}")))
    assert sent == -1
    assert problem.startswith(b"WRONGTYPE")
    assert ask(link, "LLEN", "good") == 0
    assert ask(link, "KEYS", "kern.published.*") == []


def test_what_is_published_is_remembered_for_a_while_only(link: Link) -> None:
    """The set of ids ends before its place is used again."""
    ask(link, *SEND.call((), ("id", "", "direct", "q", "", 0, "tag", "", "{}")))
    (name,) = ask(link, "KEYS", "kern.published.*")
    assert 60 <= ask(link, "TTL", name) <= 165
    assert ask(link, *SEND.call((), ("id", "", "direct", "q", "", 0, "tag", "", "{}"))) == [0, b""]
    assert ask(link, "LLEN", "q") == 1


def test_what_left_by_other_ways_may_be_published_again(link: Link) -> None:
    """A worker of Celery's keeps no book of ids: once nothing is in the broker, the same id is a new call."""
    publication = ("id", "", "direct", "q", "", 0, "tag", "", "{}")
    assert ask(link, *SEND.call((), publication))[0] == 1
    ask(link, "RPOP", "q")
    assert ask(link, *SEND.call((), publication))[0] == 1
    ask(link, "RPOP", "q")
    ask(link, "HSET", "unacked", "tag", "[{}, '', 'q']")
    assert ask(link, *SEND.call((), publication))[0] == 0, "a Celery worker may have it"
