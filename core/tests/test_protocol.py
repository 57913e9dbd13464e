"""Task messages, written and read."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import attrs
import pytest

from kern.delivery import Delivery
from kern.errors import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured, InvalidTaskError
from kern.message import PROTOCOL_2_HEADERS, Message
from kern.protocol import (
    Body,
    Call,
    attach,
    build_v1,
    build_v2,
    expiration,
    message_of,
    origin,
    peek,
    read,
    replace_for_retry,
    request_from,
)
from kern.request import Request
from kern.serialization import accept_set, compress, decode_json, encode, encode_json
from kern.timeutil import clock

ID = "a4164f91-0fac-47a5-a4a6-6056ca77ada4"
NOW = datetime(2026, 11, 20, 19, 6, 53, 187576, tzinfo=UTC)
LINK = {"task": "add", "args": [1], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}
EVERYTHING = accept_set(["json", "pickle", "yaml", "msgpack"])


def delivered(message: Message, **fields: Any) -> Delivery:
    return Delivery(**{"receipt": "receipt", "queue": "q", "owner": "me", "message": message, **fields})


class TestWriting:
    def test_a_message_is_as_captured(self) -> None:
        call = Call(
            "satasks.add", ID, (2, 2), origin="gen20457@vm", ignore_result=False, reply_to="a901f909-81a0-3d5f-8033-68"
        )
        message = build_v2(call)
        # As captured: the text of an AMQP publish.
        headers = (
            '{"lang": "py", "task": "satasks.add", "id": "a4164f91-0fac-47a5-a4a6-6056ca77ada4", "shadow": null, '
            '"eta": null, "expires": null, "group": null, "group_index": null, "retries": 0, '
            '"timelimit": [null, null], "root_id": "a4164f91-0fac-47a5-a4a6-6056ca77ada4", "parent_id": null, '
            '"argsrepr": "(2, 2)", "kwargsrepr": "{}", "origin": "gen20457@vm", "ignore_result": false, '
            '"replaced_task_nesting": 0, "stamped_headers": null, "stamps": {}}'
        )
        assert json.dumps(message.headers) == headers
        assert tuple(message.headers) == PROTOCOL_2_HEADERS
        assert message.body == b'[[2, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
        assert message.properties == {
            "correlation_id": ID,
            "reply_to": "a901f909-81a0-3d5f-8033-68",
            "delivery_mode": 2,
            "priority": 0,
        }
        assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")

    def test_all_options_are_as_captured(self) -> None:
        call = Call(
            "satasks.add",
            "fixed-id",
            (2,),
            {"y": 3},
            eta=NOW + timedelta(seconds=10),
            expires=NOW + timedelta(seconds=60),
            expiration=60,
            priority=5,
            shadow="nick",
            time_limit=30,
            soft_time_limit=20,
            headers={"my": "hdr"},
            ignore_result=True,
            reply_to="rq",
            retries=1,
            delivery_mode=1,
            compression="zlib",
            origin="gen20457@vm",
        )
        message = build_v2(call)
        headers = (
            '{"lang": "py", "task": "satasks.add", "id": "fixed-id", "shadow": "nick", '
            '"eta": "2026-11-20T19:07:03.187576+00:00", "expires": "2026-11-20T19:07:53.187576+00:00", "group": null, '
            '"group_index": null, "retries": 1, "timelimit": [30, 20], "root_id": "fixed-id", "parent_id": null, '
            '"argsrepr": "(2,)", "kwargsrepr": "{\'y\': 3}", "origin": "gen20457@vm", "ignore_result": true, '
            '"replaced_task_nesting": 0, "stamped_headers": null, "stamps": {}, "my": "hdr", '
            '"compression": "application/x-gzip"}'
        )
        assert json.dumps(message.headers) == headers
        assert message.properties == {
            "correlation_id": "fixed-id",
            "reply_to": "rq",
            "delivery_mode": 1,
            "expiration": "60000",
            "priority": 5,
        }

    def test_a_chord_member_is_as_captured(self) -> None:
        chord = {
            "task": "satasks.tsum",
            "args": [],
            "kwargs": {},
            "options": {"task_id": "64942e04", "reply_to": "55074221", "group_id": "24c58f55"},
            "subtask_type": None,
            "immutable": False,
        }
        message = build_v2(Call("satasks.add", ID, (1, 1), group="24c58f55", group_index=0, chord=chord))
        assert message.body == (
            b'[[1, 1], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": {"task": "satasks.tsum", '
            b'"args": [], "kwargs": {}, "options": {"task_id": "64942e04", "reply_to": "55074221", '
            b'"group_id": "24c58f55"}, "subtask_type": null, "immutable": false}}]'
        )
        assert (message.headers["group"], message.headers["group_index"]) == ("24c58f55", 0)

    def test_a_protocol_1_message_is_as_captured(self) -> None:
        message = build_v1(Call("satasks.add", "26076d34", (2, 2)))
        assert message.headers == {}
        assert message.body == (
            b'{"task": "satasks.add", "id": "26076d34", "args": [2, 2], "kwargs": {}, "group": null, '
            b'"group_index": null, "retries": 0, "eta": null, "expires": null, "utc": true, "callbacks": null, '
            b'"errbacks": null, "timelimit": [null, null], "taskset": null, "chord": null}'
        )

    def test_a_chain_becomes_links_in_protocol_1(self) -> None:
        third = {"task": "add", "args": [3], "kwargs": {}, "options": {"task_id": "e4bf"}}
        second = {"task": "add", "args": [2], "kwargs": {}, "options": {"task_id": "72c3", "link": [LINK]}}
        body = decode_json(build_v1(Call("add", ID, (1, 1), chain=[third, second], callbacks=[LINK])).body)
        linked = {**second, "options": {"task_id": "72c3", "link": [LINK, third]}}
        assert body["callbacks"] == [LINK, linked]
        assert second["options"] == {"task_id": "72c3", "link": [LINK]}, "the caller's signature stays as it was"

    @pytest.mark.parametrize("build", [build_v1, build_v2])
    @pytest.mark.parametrize(
        ("args", "kwargs"), [("text", {}), ({1}, {}), (5, {}), ((), [("a", 1)]), ((), None), ((), {1: 2})]
    )
    def test_arguments_of_another_kind_are_a_type_error(
        self, build: Callable[[Call], Message], args: Any, kwargs: Any
    ) -> None:
        with pytest.raises(TypeError, match="arguments of a task"):
            build(Call("add", ID, args, kwargs))

    @pytest.mark.parametrize("build", [build_v1, build_v2])
    def test_an_argument_that_cannot_be_written_is_named(self, build: Callable[[Call], Message]) -> None:
        with pytest.raises(EncodeError, match=r"task 'add': argument 'rows' \(position 2\) at \['a'\].*set"):
            build(Call("add", ID, (1, {"a": {2}}), parameter_names=("x", "rows")))
        with pytest.raises(EncodeError, match=r"task 'add': argument 'when'.*timedelta"):
            build(Call("add", ID, kwargs={"when": timedelta(1)}))
        with pytest.raises(EncodeError, match=r"what follows it, 'callbacks' at \[0\]\['args'\]\[0\]"):
            build(Call("add", ID, callbacks=[{"task": "x", "args": [{1}]}]))

    def test_unknown_serializers_and_compressions_are_refused(self) -> None:
        for wrong in ({"serializer": "jsn"}, {"compression": "gzp"}):
            with pytest.raises(ImproperlyConfigured, match="did you mean"):
                build_v2(Call("add", ID, **wrong))

    def test_any_mapping_will_do_for_keywords(self) -> None:
        body = build_v2(Call("add", ID, kwargs=MappingProxyType({"a": 1}))).body
        assert decode_json(body)[1] == {"a": 1}

    def test_sensitive_arguments_are_not_shown(self) -> None:
        message = build_v2(
            Call("login", ID, ("me", "hunter2"), {"token": "t0ps3cret", "n": 1}, sensitive={"password", "token"})
        )
        assert message.headers["argsrepr"] == "('***', '***')", "without the names, positions cannot be told"
        call = Call(
            "login",
            ID,
            ("me", "hunter2"),
            {"token": "t0ps3cret", "n": 1},
            sensitive={"password", "token"},
            parameter_names=("user", "password", "token"),
        )
        message = build_v2(call)
        assert message.headers["argsrepr"] == "('me', '***')"
        assert message.headers["kwargsrepr"] == "{'token': '***', 'n': 1}"
        assert read(message).args == ["me", "hunter2"]

    def test_given_representations_are_sent_as_they_are(self) -> None:
        message = build_v2(Call("add", ID, (1,), {"a": 1}, argsrepr="A"))
        assert (message.headers["argsrepr"], message.headers["kwargsrepr"]) == ("A", "{'a': 1}")

    def test_long_arguments_are_shown_shortened(self) -> None:
        message = build_v2(Call("add", ID, ("x" * 5000,), repr_maxlen=20))
        assert len(message.headers["argsrepr"]) < 40

    def test_an_own_header_replaces_one_of_the_protocol_in_its_place(self) -> None:
        headers = build_v2(Call("add", ID, headers={"shadow": "other", "x": 1})).headers
        assert headers["shadow"] == "other"
        assert list(headers) == [*PROTOCOL_2_HEADERS, "x"]

    def test_the_origin_names_this_process(self) -> None:
        assert origin().startswith(f"gen{os.getpid()}@")
        assert build_v2(Call("add", ID)).headers["origin"] == origin()

    def test_the_origin_names_the_child_after_a_fork(self) -> None:
        origin()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writer, origin().encode())
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(reader, 100).decode().startswith(f"gen{pid}@")
        os.close(reader)
        os.close(writer)

    def test_the_expiration_is_counted_from_now_and_never_negative(self) -> None:
        with clock.use(NOW.timestamp):
            assert expiration(NOW + timedelta(seconds=1.2345)) == "1234"
            assert expiration("2026-11-20T19:06:54.187576") == "1000", "without a zone it is UTC"
            assert expiration(NOW - timedelta(days=1)) == "0"
        assert expiration(None, 0.0019) == "1"
        with pytest.raises(ValueError, match="ISO"):
            expiration("tomorrow")


class TestPeeking:
    def message(self, **headers: Any) -> Message:
        return build_v2(Call("add", ID, (2, 2), headers=headers))

    def test_the_body_stays_undecoded(self) -> None:
        message = attrs.evolve(self.message(), body=b"not even json")
        head = peek(message)
        assert (head.task, head.id, head.protocol, head.refused) == ("add", ID, 2, None)
        assert head.message is message

    def test_everything_admission_needs_is_there(self) -> None:
        call = Call(
            "add",
            ID,
            eta=NOW,
            expires=NOW + timedelta(hours=1),
            time_limit=30,
            soft_time_limit=20.5,
            retries=3,
            ignore_result=True,
            root_id="root",
            parent_id="parent",
            group="g",
            group_index=7,
            stamped_headers=["a"],
            stamps={"a": 1},
        )
        head = peek(build_v2(call))
        assert (head.eta, head.expires) == (NOW, NOW + timedelta(hours=1))
        assert head.timelimit == (30, 20.5)
        assert (head.retries, head.ignore_result) == (3, True)
        assert (head.root_id, head.parent_id, head.group, head.group_index) == ("root", "parent", "g", 7)
        assert (head.stamped_headers, head.stamps) == (["a"], {"a": 1})

    def test_only_task_and_id_are_required(self) -> None:
        head = peek(Message(b"", {"task": "add", "id": "1"}, {}))
        assert (head.eta, head.expires, head.timelimit, head.retries) == (None, None, (None, None), 0)
        assert (head.ignore_result, head.group, head.stamps) == (None, None, {})

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2026-11-20T19:06:53.187576", NOW),
            ("2026-11-20T19:06:53.187576Z", NOW),
            ("2026-11-20T20:06:53.187576+01:00", NOW),
            (NOW.replace(tzinfo=None), NOW),
            (NOW.astimezone(timezone(timedelta(hours=-5))), NOW),
        ],
    )
    def test_a_time_without_a_zone_is_utc(self, text: Any, moment: datetime) -> None:
        head = peek(self.message(eta=text, expires=text))
        assert (head.eta, head.expires) == (moment, moment)
        assert head.eta is not None
        assert head.eta.tzinfo is not None

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("task", 5),
            ("task", ["add"]),
            ("id", None),
            ("id", ""),
            ("id", 5),
            ("eta", "tomorrow"),
            ("eta", 1700000000),
            ("expires", "2026-13-01"),
            ("expires", []),
            ("retries", "many"),
            ("retries", [1]),
            ("timelimit", 30),
            ("timelimit", [1, 2, 3]),
            ("timelimit", ["30", None]),
            ("timelimit", [float("nan"), None]),
            ("timelimit", [-1, None]),
            ("group", {"a": 1}),
            ("group_index", "first"),
            ("root_id", 5),
            ("parent_id", []),
            ("stamped_headers", "stamp"),
            ("stamped_headers", [1]),
            ("stamps", ["a"]),
        ],
    )
    def test_a_header_that_is_not_what_it_has_to_be_is_named(self, name: str, value: Any) -> None:
        with pytest.raises(InvalidTaskError, match=f"header {name!r}"):
            peek(self.message(**{name: value}))

    @pytest.mark.parametrize("value", [None, [None, None], [0, 0], (None, None)])
    def test_no_limits_are_none(self, value: Any) -> None:
        assert peek(self.message(timelimit=value)).timelimit == (None, None)

    def test_refused_content_is_told_and_all_the_rest_still_known(self) -> None:
        message = build_v2(Call("add", ID, (1,), serializer="pickle", retries=2))
        head = peek(message)
        assert isinstance(head.refused, ContentDisallowed)
        assert attrs.evolve(head, refused=None) == peek(message, EVERYTHING)
        assert head.retries == 2

    def test_headers_of_another_kind_are_no_task(self) -> None:
        with pytest.raises(InvalidTaskError, match="headers"):
            peek(Message(b"[]", [1], {}))  # type: ignore[arg-type]


class TestProtocol1:
    def fields(self, **more: Any) -> dict[str, Any]:
        return {"task": "add", "id": ID, "args": [2, 3], "kwargs": {"k": "v"}, **more}

    def sent(self, fields: Any, headers: dict[str, Any] | None = None, serializer: str = "json") -> Message:
        encoded = encode(fields, serializer)
        return Message(encoded.body, headers or {}, {}, encoded.content_type, encoded.content_encoding)

    def test_it_becomes_protocol_2(self) -> None:
        message = self.sent(
            self.fields(
                retries=2,
                eta="2026-11-20T19:06:53.187576",
                timelimit=[30, None],
                group="x",
                taskset="g",
                callbacks=[LINK],
                errbacks=None,
                chord=LINK,
                utc=False,
            ),
            headers={"mine": 1},
        )
        head = peek(message)
        assert (head.task, head.id, head.protocol, head.utc) == ("add", ID, 1, False)
        assert (head.retries, head.eta, head.timelimit, head.group) == (2, NOW, (30, None), "g")
        assert (head.root_id, head.parent_id) == (ID, None)
        assert list(head.message.headers) == [*PROTOCOL_2_HEADERS, "mine"]
        assert head.message.headers["argsrepr"] == "[2, 3]"
        assert read(head.message) == Body([2, 3], {"k": "v"}, [LINK], None, None, LINK)
        again = peek(head.message)
        assert attrs.evolve(again, protocol=1, utc=False) == head, "and is one from then on"

    @pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
    def test_it_stays_in_its_serializer(self, serializer: str) -> None:
        head = peek(self.sent(self.fields(), serializer=serializer), EVERYTHING)
        assert head.message.content_type == encode(1, serializer).content_type
        assert list(read(head.message, EVERYTHING).args) == [2, 3]

    def test_it_is_unpacked(self) -> None:
        message = self.sent(self.fields())
        body, header = compress(message.body, "gzip")
        head = peek(attrs.evolve(message, body=body, headers={"compression": header}))
        assert "compression" not in head.message.headers
        assert read(head.message).args == [2, 3]

    def test_arguments_may_be_missing(self) -> None:
        head = peek(self.sent({"task": "add", "id": ID}))
        assert (list(read(head.message).args), read(head.message).kwargs) == ([], {})

    @pytest.mark.parametrize("kwargs", [[1], "text", 5, None])
    def test_keywords_that_are_no_mapping_are_invalid(self, kwargs: Any) -> None:
        with pytest.raises(InvalidTaskError, match="Task keyword arguments must be a mapping"):
            peek(self.sent(self.fields(kwargs=kwargs)))

    @pytest.mark.parametrize("body", [{"user": 5}, [1, 2, 3], "text", None, 7, {"args": [], "kwargs": {}, "id": "1"}])
    def test_a_message_of_somebody_else_is_invalid(self, body: Any) -> None:
        with pytest.raises(InvalidTaskError, match="no task message"):
            peek(self.sent(body))

    def test_without_an_id_it_is_invalid(self) -> None:
        with pytest.raises(InvalidTaskError, match="'id'"):
            peek(self.sent({"task": "add", "args": []}))

    def test_refused_and_damaged_content_is_an_error(self) -> None:
        with pytest.raises(ContentDisallowed):
            peek(self.sent(self.fields(), serializer="pickle"))
        with pytest.raises(DecodeError):
            peek(Message(b"{", {}, {}))

    def test_the_headers_of_a_hybrid_count_more_than_its_body(self) -> None:
        body = self.fields(retries=1, eta="2026-11-20T19:06:53.187576", root_id="r", shadow="body", callbacks=[LINK])
        head = peek(self.sent(body, headers={"task": "other", "id": "other-id", "shadow": "header"}))
        assert (head.task, head.id, head.retries, head.eta, head.root_id) == ("other", "other-id", 1, NOW, "r")
        assert head.message.headers["shadow"] == "header"
        assert (head.protocol, read(head.message).callbacks) == (2, [LINK])

    def test_a_hybrid_that_does_not_show_is_read_where_it_runs(self) -> None:
        body = self.fields(root_id="r", shadow="body", errbacks=[LINK])
        message = self.sent(body, headers={"task": "add", "id": ID}, serializer="msgpack")
        head = peek(message, EVERYTHING)
        assert head.message is message
        request = request_from(delivered(message), head)
        attach(request, read(message_of(request), EVERYTHING))
        assert (request.args, request.kwargs, request.errbacks) == ([2, 3], {"k": "v"}, [LINK])
        assert (request.root_id, request.shadow) == ("r", "body")


class TestReading:
    def body(self, value: Any) -> Message:
        return Message(encode_json(value), {"task": "add", "id": ID}, {})

    def test_missing_continuations_are_none(self) -> None:
        assert read(self.body([[1], {"a": 2}, {}])) == Body([1], {"a": 2})
        assert read(self.body([[1], {"a": 2}, None])) == Body([1], {"a": 2})

    def test_one_signature_is_a_list_of_one(self) -> None:
        assert read(self.body([[], {}, {"callbacks": LINK}])).callbacks == [LINK]

    @pytest.mark.parametrize(
        "value",
        [
            None,
            5,
            "text",
            [],
            [[], {}],
            [[], {}, {}, {}],
            {"a": 1},
            [5, {}, {}],
            ["text", {}, {}],
            [{}, {}, {}],
            [[], [], {}],
            [[], "text", {}],
            [[], {}, []],
            [[], {}, "text"],
            [[], {}, {"callbacks": 5}],
            [[], {}, {"chain": "text"}],
        ],
    )
    def test_a_body_of_another_shape_is_invalid(self, value: Any) -> None:
        with pytest.raises(InvalidTaskError):
            read(self.body(value))

    def test_keywords_named_by_something_else_than_text_are_invalid(self) -> None:
        encoded = encode([[], {1: 2}, {}], "pickle")
        with pytest.raises(InvalidTaskError, match="named by text"):
            read(Message(encoded.body, {"task": "t", "id": "i"}, {}, encoded.content_type), EVERYTHING)

    @pytest.mark.parametrize("body", [b"", b"[[1], {}", b"\xff\xfe", b"[" * 100_000])
    def test_a_damaged_body_is_an_error(self, body: bytes) -> None:
        with pytest.raises((DecodeError, InvalidTaskError)):
            read(Message(body, {"task": "add", "id": ID}, {}))

    def test_a_bomb_is_an_error(self) -> None:
        message = build_v2(Call("add", ID, ("x" * 10_000_000,), compression="gzip"))
        with pytest.raises(DecodeError, match="larger than 100000 bytes"):
            read(message, limit=100_000)
        assert len(read(message, limit=None).args[0]) == 10_000_000

    def test_refused_content_is_not_even_unpacked(self) -> None:
        message = build_v2(Call("add", ID, (1,), serializer="pickle", compression="gzip"))
        with pytest.raises(ContentDisallowed):
            read(attrs.evolve(message, body=b"no gzip"))


class TestRequest:
    def test_a_request_has_what_the_message_says(self) -> None:
        call = Call(
            "add",
            ID,
            (1,),
            {"a": 2},
            eta=NOW,
            time_limit=30,
            soft_time_limit=20,
            reply_to="rq",
            priority=3,
            shadow="nick",
            origin="gen1@here",
            headers={"my": "header", "redelivered": True},
            stamped_headers=["s"],
            stamps={"s": 1},
            replaced_task_nesting=1,
            compression="gzip",
            callbacks=[LINK],
        )
        message = build_v2(call)
        delivery = delivered(message, exchange="ex", routing_key="rk", redelivered=True, attempts=2)
        request = request_from(delivery, peek(message), "worker@here")
        assert request.delivery_info == {"exchange": "ex", "routing_key": "rk", "priority": 3, "redelivered": True}
        assert request.headers == {"my": "header", "redelivered": True}
        assert (request.args, request.kwargs, request.body) == (None, None, message.body)
        assert (request.receipt, request.queue, request.attempts) == ("receipt", "q", 2)
        assert (request.time_limit, request.soft_time_limit, request.timelimit) == (30, 20, [30, 20])
        assert (request.eta, request.shadow, request.origin) == (NOW.isoformat(), "nick", "gen1@here")
        assert (request.hostname, request.called_directly, request.utc) == ("worker@here", False, True)
        assert (request.stamped_headers, request.stamps, request.replaced_task_nesting) == (["s"], {"s": 1}, 1)

        attach(request, read(message_of(request)))
        assert (request.args, request.kwargs, request.callbacks) == ([1], {"a": 2}, [LINK])

    def test_every_header_of_the_protocol_has_its_field(self) -> None:
        fields = {field.name for field in attrs.fields(Request)}
        assert set(PROTOCOL_2_HEADERS) <= fields
        message = build_v2(Call("add", ID))
        request = request_from(delivered(message), peek(message))
        assert {name: getattr(request, name) for name in PROTOCOL_2_HEADERS} == dict(message.headers)
        assert request.headers is None

    def test_the_anonymous_exchange_is_routed_by_the_queue(self) -> None:
        message = build_v2(Call("add", ID))
        info = request_from(delivered(message), peek(message)).delivery_info
        assert info == {"exchange": "", "routing_key": "q", "priority": 0, "redelivered": False}


class TestRetry:
    def message(self, **more: Any) -> Message:
        # The retry that was captured, as it was sent first.
        fields: dict[str, Any] = {
            "expires": "2026-11-20T19:30:44.869602+00:00",
            "expiration": 200,
            "time_limit": 50,
            "origin": "gen8943@vm",
            "ignore_result": False,
            "headers": {"h": 1},
            "reply_to": "cb80",
            "priority": 6,
            "callbacks": [LINK],
            **more,
        }
        return build_v2(Call("satasks.retry_other", "b5d0", (1,), {"k": 2}, **fields))

    def test_a_retry_is_as_captured(self) -> None:
        original = self.message()
        with clock.use(lambda: datetime(2026, 11, 20, 19, 29, 4, 965000, tzinfo=UTC).timestamp()):
            again = replace_for_retry(original, retries=1, eta="2026-11-20T19:29:09.964833+00:00")
        headers = (
            '{"lang": "py", "task": "satasks.retry_other", "id": "b5d0", "shadow": null, '
            '"eta": "2026-11-20T19:29:09.964833+00:00", "expires": "2026-11-20T19:30:44.869602+00:00", "group": null, '
            '"group_index": null, "retries": 1, "timelimit": [50, null], "root_id": "b5d0", "parent_id": "b5d0", '
            '"argsrepr": "(1,)", "kwargsrepr": "{\'k\': 2}", "origin": "gen8943@vm", "ignore_result": false, '
            '"replaced_task_nesting": 0, "stamped_headers": null, "stamps": {}, "h": 1}'
        )
        assert json.dumps(again.headers) == headers
        assert list(again.properties.items()) == [
            ("correlation_id", "b5d0"),
            ("reply_to", "cb80"),
            ("delivery_mode", 2),
            ("expiration", "99904"),
            ("priority", 6),
        ]
        assert again.body is original.body
        assert original.headers["retries"] == 0, "the first message stays as it was"

    @pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
    @pytest.mark.parametrize("compression", [None, "gzip"])
    def test_other_arguments_keep_all_the_rest(self, serializer: str, compression: str | None) -> None:
        original = self.message(
            serializer=serializer, compression=compression, errbacks=[LINK], chain=[LINK], chord=LINK
        )
        again = replace_for_retry(original, retries=2, eta=NOW, args=(7, 8), accept=EVERYTHING)
        body = read(again, EVERYTHING)
        assert (list(body.args), body.kwargs) == ([7, 8], {"k": 2})
        assert (body.callbacks, body.errbacks, body.chain, body.chord) == ([LINK], [LINK], [LINK], LINK)
        assert again.headers["argsrepr"] == "(7, 8)"
        assert (again.content_type, again.content_encoding) == (original.content_type, original.content_encoding)
        assert again.headers.get("compression") == original.headers.get("compression")
        only_keywords = replace_for_retry(original, retries=2, kwargs={"k": 3}, accept=EVERYTHING)
        assert list(read(only_keywords, EVERYTHING).args) == [1]
        assert read(only_keywords, EVERYTHING).kwargs == {"k": 3}

    def test_what_the_broker_added_at_a_death_does_not_travel_on(self) -> None:
        dead = self.message(
            headers={"x-death": [1], "x-first-death-queue": "q", "x-last-death-reason": "r", "x-own": 1}
        )
        again = replace_for_retry(dead, retries=1)
        assert [name for name in again.headers if name.startswith("x-")] == ["x-own"]

    def test_options_can_be_changed(self) -> None:
        again = replace_for_retry(
            self.message(),
            retries=1,
            expires=NOW,
            headers={"timelimit": [5, None], "ignore_result": True},
            properties={"priority": 9},
        )
        assert again.headers["expires"] == NOW.isoformat()
        assert (again.headers["timelimit"], again.headers["ignore_result"]) == ([5, None], True)
        assert again.properties["priority"] == 9

    def test_a_child_keeps_its_root(self) -> None:
        again = replace_for_retry(self.message(root_id="root", parent_id="parent"), retries=1)
        assert (again.headers["root_id"], again.headers["parent_id"]) == ("root", "b5d0")

    def test_sensitive_arguments_stay_unshown(self) -> None:
        again = replace_for_retry(
            self.message(), retries=1, args=("s3cret",), sensitive=["password"], parameter_names=["password", "k"]
        )
        assert again.headers["argsrepr"] == "('***',)"

    def test_an_argument_that_cannot_be_written_is_named(self) -> None:
        with pytest.raises(EncodeError, match=r"'k'.*set"):
            replace_for_retry(self.message(), retries=1, kwargs={"k": {1}})
        with pytest.raises(TypeError, match="list or tuple"):
            replace_for_retry(self.message(), retries=1, args="text")
