"""Queues as values, and which routing key meets which binding."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kombu import Exchange, Queue, binding
from kombu.common import Broadcast

from kern.queues import Binding, QueueSpec, delivery_mode, matches, queues_for


def meets(pattern: list[str], key: list[str]) -> bool:
    """AMQP's rule as the specification says it, by trying everything."""
    if not pattern:
        return not key
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(meets(rest, key[taken:]) for taken in range(len(key) + 1))
    return bool(key) and first in ("*", key[0]) and meets(rest, key[1:])


def split(text: str) -> list[str]:
    return text.split(".") if text else []


words = st.sampled_from(["a", "b", "", "a+", "(", "ab"])
patterns = st.lists(words | st.sampled_from(["*", "#", "#"]), max_size=6).map(".".join)
keys = st.lists(words, max_size=6).map(".".join)


class TestMatches:
    @given(patterns, keys)
    @example("#.#", "a")
    @example("#.#.a", "a")
    @example("#.a", "a")
    @example("a.#", "a")
    @example("a.#.b", "a.b")
    @example("#.a", ".a")
    @example("*", "")
    @example("#", "")
    def test_topics_match_as_amqp_says(self, pattern: str, key: str) -> None:
        """For every pattern and key, the answer is that of trying every way to spread the words."""
        assert matches("topic", pattern, key) is meets(split(pattern), split(key))

    def test_many_hashes_take_no_time(self) -> None:
        """A pattern cannot stop a publisher: neighbouring hashes are one."""
        assert not matches("topic", ".".join(["#"] * 40 + ["z"]), ".".join("a" * 60))

    @given(keys, keys)
    def test_direct_is_equality(self, pattern: str, key: str) -> None:
        """No character of a key means anything to a direct exchange."""
        assert matches("direct", pattern, key) is (pattern == key)

    @given(patterns, keys)
    def test_fanout_is_everything(self, pattern: str, key: str) -> None:
        """Keys mean nothing to a fanout exchange."""
        assert matches("fanout", pattern, key)


class TestQueuesFor:
    BINDINGS = (
        (Binding("media", "video.#", "topic"), "videos"),
        (Binding("media", "*.high", "topic"), "urgent"),
        (Binding("news", "", "fanout"), "screen"),
        (Binding("media", "video.*", "topic"), "videos"),
    )

    def test_each_bound_queue_gets_one_copy(self) -> None:
        """A queue bound twice is named once."""
        assert queues_for(self.BINDINGS, "media", "video.high") == ["videos", "urgent"]
        assert queues_for(self.BINDINGS, "news", "whatever") == ["screen"]
        assert queues_for(self.BINDINGS, "media", "audio.low") == []
        assert queues_for(self.BINDINGS, "nowhere", "video.high") == []

    def test_the_anonymous_exchange_knows_every_queue(self) -> None:
        """No binding is needed to reach a queue by its name."""
        assert queues_for(self.BINDINGS, "", "celery") == ["celery"]


class TestFromKombu:
    def test_a_queue_with_everything(self) -> None:
        """What users say in kombu's words is kept, arguments in the units brokers want."""
        exchange = Exchange(
            "media", "topic", durable=False, auto_delete=True, delivery_mode="transient", arguments={"e": 1}
        )
        queue = Queue(
            "videos",
            exchange,
            "video.#",
            durable=False,
            auto_delete=True,
            exclusive=True,
            no_ack=True,
            expires=1.5,
            message_ttl=2,
            max_length=3,
            max_length_bytes=4,
            max_priority=5,
            queue_arguments={"x-message-ttl": 7, "x-queue-type": "classic"},
            binding_arguments={"b": 1},
        )
        spec = QueueSpec.from_kombu(queue)
        assert (spec.name, spec.exchange, spec.exchange_type, spec.routing_key) == (
            "videos",
            "media",
            "topic",
            "video.#",
        )
        assert (spec.durable, spec.auto_delete, spec.exclusive, spec.no_ack) == (False, True, True, True)
        assert (spec.exchange_durable, spec.exchange_auto_delete, spec.exchange_arguments) == (False, True, {"e": 1})
        assert spec.queue_arguments == {
            "x-expires": 1500,
            "x-message-ttl": 7,
            "x-max-length": 3,
            "x-max-length-bytes": 4,
            "x-max-priority": 5,
            "x-queue-type": "classic",
        }
        assert spec.binding_arguments == {"b": 1}
        assert (spec.max_priority, spec.delivery_mode, spec.alias, spec.is_broadcast) == (5, 1, None, False)

    def test_a_queue_with_nothing(self) -> None:
        """A bare queue leaves everything to the settings."""
        spec = QueueSpec.from_kombu(Queue("q"))
        assert (spec.name, spec.exchange, spec.routing_key, spec.queue_arguments) == ("q", "", "", None)
        assert spec.all_bindings() == ()
        assert (spec.durable, spec.exchange_durable) == (True, True)

    def test_several_bindings(self) -> None:
        """Each is kept, in an order that does not change from run to run."""
        bindings = [
            binding(Exchange("media", "topic"), "b.#"),
            binding(Exchange("media", "topic"), "a.*"),
            binding(Exchange("x"), "k"),
        ]
        expected = (Binding("media", "a.*", "topic"), Binding("media", "b.#", "topic"), Binding("x", "k", "direct"))
        assert QueueSpec.from_kombu(Queue("q", bindings)).all_bindings() == expected
        assert QueueSpec.from_kombu(Queue("q", bindings=bindings)).bindings == expected

    def test_a_broadcast(self) -> None:
        """It is known by its alias; its queue is this consumer's own."""
        spec = QueueSpec.from_kombu(Broadcast("news"))
        assert (spec.alias, spec.exchange, spec.exchange_type, spec.auto_delete) == ("news", "news", "fanout", True)
        assert spec.name.startswith("bcast.")
        assert spec.is_broadcast


class TestFromOptions:
    def test_the_forms_of_celery(self) -> None:
        """A mapping of options says what a kombu queue would."""
        spec = QueueSpec.from_options(
            "q2",
            {
                "exchange": "media",
                "exchange_type": "topic",
                "binding_key": "bk",
                "durable": False,
                "exchange_durable": True,
                "queue_auto_delete": True,
                "queue_arguments": {"x-a": 1},
                "max_priority": 10,
                "delivery_mode": "transient",
                "expires": 2,
            },
        )
        assert (spec.exchange, spec.exchange_type, spec.routing_key) == ("media", "topic", "bk")
        assert (spec.durable, spec.exchange_durable) == (False, True)
        assert (spec.auto_delete, spec.exchange_auto_delete) == (True, False)
        assert spec.queue_arguments == {"x-a": 1, "x-max-priority": 10, "x-expires": 2000}
        assert (spec.max_priority, spec.delivery_mode) == (10, 1)

    def test_the_routing_key_is_the_name_unless_said(self) -> None:
        """Both names of the option are understood."""
        assert QueueSpec.from_options("q", {}).routing_key == "q"
        assert QueueSpec.from_options("q", {"routing_key": "rk", "binding_key": "bk"}).routing_key == "rk"

    def test_an_exchange_of_kombu_brings_its_type(self) -> None:
        """Options may hold kombu's exchange."""
        spec = QueueSpec.from_options("q", {"exchange": Exchange("media", "topic")})
        assert (spec.exchange, spec.exchange_type) == ("media", "topic")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"exchage": "x"}, "queue 'q' has no option 'exchage'; did you mean 'exchange'"),
            ({"zzzz": 1}, "queue 'q' has no option 'zzzz'; known are"),
            ({"exchange": 5}, "queue 'q': exchange must be text"),
            ({"exchange_type": 5}, "queue 'q': exchange_type must be text"),
            ({"max_priority": "10"}, "queue option 'max_priority' must be a number"),
            ({"expires": -1}, "queue option 'expires' must be a number"),
            ({"delivery_mode": 3}, "a delivery mode is 1 or 'transient', 2 or 'persistent', not 3"),
        ],
    )
    def test_mistakes_are_named(self, options: dict[str, object], message: str) -> None:
        """Each with the queue or option it is about."""
        with pytest.raises(ValueError, match=message):
            QueueSpec.from_options("q", options)


class TestDeliveryMode:
    def test_words_and_numbers(self) -> None:
        """Either form, and nothing."""
        assert [delivery_mode(mode) for mode in (1, 2, "transient", "persistent", "1", None, "")] == [
            *(1, 2, 1, 2, 1),
            *(None, None),
        ]

    @pytest.mark.parametrize("bad", [0, 3, "durable", [], True + 2])
    def test_anything_else_is_refused(self, bad: object) -> None:
        """Also what cannot be looked up."""
        with pytest.raises(ValueError, match="a delivery mode is"):
            delivery_mode(bad)
