"""Values to bytes and back."""

import json
import subprocess
import sys
import uuid
from collections import namedtuple
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest

from kern import serialization
from kern.errors import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured
from kern.serialization import (
    DEFAULT_ACCEPT,
    JSON,
    PICKLE,
    accept_set,
    compress,
    content_type_of,
    decode,
    decode_json,
    decompress,
    encode,
    encode_json,
    find_unserialisable,
    register_type,
    require_accepted,
    serializer_of,
)

EVERYTHING = accept_set(["json", "pickle", "yaml", "msgpack"])

# As it went over the wire of a real broker.
ALL_TYPES_VALUE = {
    "dt": datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    "naive": datetime(2024, 1, 2, 3, 4, 5),
    "d": date(2024, 1, 2),
    "t": time(3, 4, 5),
    "dec": Decimal("1.50"),
    "u": uuid.UUID("12345678123456781234567812345678"),
    "b": b"abc",
    "b2": b"\xff\xfe",
    "tup": (1, 2),
    "uni": "é",
}
ALL_TYPES_BYTES = (
    rb'{"dt": {"__type__": "datetime", "__value__": "2024-01-02T03:04:05.678901+00:00"}, '
    rb'"naive": {"__type__": "datetime", "__value__": "2024-01-02T03:04:05"}, '
    rb'"d": {"__type__": "date", "__value__": "2024-01-02"}, "t": {"__type__": "time", "__value__": "03:04:05"}, '
    rb'"dec": {"__type__": "decimal", "__value__": "1.50"}, '
    rb'"u": {"__type__": "uuid", "__value__": {"hex": "12345678123456781234567812345678"}}, '
    rb'"b": {"__type__": "bytes", "__value__": "abc"}, "b2": {"__type__": "base64", "__value__": "//4="}, '
    rb'"tup": [1, 2], "uni": "\u00e9"}'
)


class TestJson:
    def test_all_types_are_written_as_captured(self) -> None:
        assert encode_json(ALL_TYPES_VALUE) == ALL_TYPES_BYTES

    def test_all_types_are_read_back(self) -> None:
        assert decode_json(ALL_TYPES_BYTES) == {**ALL_TYPES_VALUE, "tup": [1, 2]}

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (float("nan"), b"NaN"),
            (float("inf"), b"Infinity"),
            (-float("inf"), b"-Infinity"),
            ({1: "a", None: "b"}, b'{"1": "a", "null": "b"}'),
            (namedtuple("Point", "x y")(1, 2), b"[1, 2]"),
            ("\ud800", rb'"\ud800"'),
            (10**30, b"1000000000000000000000000000000"),
            (1e400, b"Infinity"),
        ],
    )
    def test_oddities_are_written_like_the_standard_library_does(self, value: Any, text: bytes) -> None:
        assert encode_json(value) == text

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            (b"[Infinity, -Infinity]", [float("inf"), -float("inf")]),
            (b"[1e400]", [float("inf")]),
            (rb'"\ud800"', "\ud800"),
            (b'{"a": 1, "a": 2}', {"a": 2}),
            (b" [1 , 2] ", [1, 2]),
            ('"é"'.encode(), "é"),
            ('"é"', "é"),
            (bytearray(b"[1]"), [1]),
            (memoryview(b"[1]"), [1]),
        ],
    )
    def test_oddities_are_read(self, text: Any, value: Any) -> None:
        assert decode_json(text) == value

    def test_an_object_says_itself_what_stands_for_it(self) -> None:
        class Speaking:
            def __json__(self) -> Any:
                return {"at": date(2024, 1, 2)}

        assert encode_json([Speaking()]) == b'[{"at": {"__type__": "date", "__value__": "2024-01-02"}}]'

    @pytest.mark.parametrize(
        ("value", "named"),
        [({1}, "set"), (timedelta(1), "timedelta"), (1j, "complex"), (object(), "object"), ({(1,): 2}, "tuple")],
    )
    def test_what_cannot_be_written_is_named(self, value: Any, named: str) -> None:
        with pytest.raises(EncodeError, match=named):
            encode_json([value])

    def test_a_value_that_contains_itself_cannot_be_written(self) -> None:
        value: list[Any] = []
        value.append(value)
        with pytest.raises(EncodeError, match="contains itself"):
            encode_json(value)
        assert encode_json([1]) == b"[1]", "and nothing is left behind by the attempt"

    def test_an_encoder_that_fails_is_the_cause(self) -> None:
        class Failing:
            def __json__(self) -> Any:
                raise LookupError("no such row")

        with pytest.raises(EncodeError, match="no such row") as caught:
            encode_json(Failing())
        assert isinstance(caught.value.__cause__, LookupError)

    @pytest.mark.parametrize("body", [b"", b"{", b"[1,]", b"nul", b'"\xff"', b"\xef\xbb\xbf1", b'{"a": 1} x', b"'a'"])
    def test_what_is_no_json_is_an_error(self, body: bytes) -> None:
        with pytest.raises(DecodeError):
            decode_json(body)

    @pytest.mark.parametrize("inside", [b"", b'{"__type__": 1}'])
    def test_nesting_is_bounded(self, inside: bytes) -> None:
        with pytest.raises(DecodeError, match="deep"):
            decode_json(b"[" * 200_000 + inside + b"]" * 200_000)

    def test_an_unknown_extension_is_an_error_that_names_it(self) -> None:
        with pytest.raises(DecodeError, match="'money'"):
            decode_json(b'{"__type__": "money", "__value__": 1}')

    @pytest.mark.parametrize(
        "body",
        [
            b'{"__type__": "datetime", "__value__": 5}',
            b'{"__type__": "uuid", "__value__": {"version": 1}}',
            b'{"__type__": "decimal", "__value__": "x"}',
            b'{"__type__": "base64", "__value__": 1}',
            b'{"__type__": [], "__value__": 1}',
        ],
    )
    def test_a_damaged_extension_is_an_error(self, body: bytes) -> None:
        with pytest.raises(DecodeError):
            decode_json(body)

    def test_an_object_with_further_keys_is_no_extension(self) -> None:
        body = b'{"__type__": "date", "__value__": "2024-01-02", "more": 1}'
        assert decode_json(body) == {"__type__": "date", "__value__": "2024-01-02", "more": 1}

    def test_json_does_not_import_kombu(self) -> None:
        program = (
            "import sys\n"
            "from kern.serialization import *\n"
            "accept = accept_set(['json', 'application/x-yaml'])\n"
            "decode(encode([1, b'x'], 'json').body, 'application/json', 'utf-8', accept)\n"
            "assert 'kombu' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True)


class Money:
    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.amount == self.amount


class Euro(Money):
    """A type registered with kombu."""


@pytest.fixture
def _registries(monkeypatch: pytest.MonkeyPatch) -> None:
    import kombu.utils.json

    for module, names in (
        (serialization, ("_own_encoders", "_own_decoders")),
        (kombu.utils.json, ("_encoders", "_decoders")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, dict(getattr(module, name)))


@pytest.mark.usefixtures("_registries")
class TestRegisteredTypes:
    def test_a_type_can_be_registered(self) -> None:
        register_type(Money, "money", lambda money: money.amount, Money)
        body = encode_json([Money(5)])
        assert body == b'[{"__type__": "money", "__value__": 5}]'
        assert decode_json(body) == [Money(5)]

    def test_without_a_marker_the_bare_value_is_written(self) -> None:
        register_type(Money, None, lambda money: money.amount)
        assert encode_json([Money(5)]) == b"[5]"

    def test_a_type_registered_with_kombu_counts(self) -> None:
        import kombu.utils.json

        kombu.utils.json.register_type(Euro, "euro", lambda euro: euro.amount, Euro)
        body = encode_json(Euro(5))
        assert body == b'{"__type__": "euro", "__value__": 5}'
        decoded = decode_json(body)
        assert type(decoded) is Euro

    def test_a_standard_type_replaced_in_kombu_is_replaced_here(self) -> None:
        import kombu.utils.json

        kombu.utils.json.register_type(Decimal, "decimal", lambda value: f"d{value}", lambda text: Decimal(text[1:]))
        body = encode_json(Decimal("1.5"))
        assert body == b'{"__type__": "decimal", "__value__": "d1.5"}'
        assert decode_json(body) == Decimal("1.5")


class TestSerializers:
    @pytest.mark.parametrize(
        ("name", "content_type", "content_encoding"),
        [
            ("json", "application/json", "utf-8"),
            ("pickle", "application/x-python-serialize", "binary"),
            ("yaml", "application/x-yaml", "utf-8"),
            ("msgpack", "application/x-msgpack", "binary"),
        ],
    )
    def test_a_value_comes_back(self, name: str, content_type: str, content_encoding: str) -> None:
        value = {"a": [1, "é", None, 1.5, True]}
        encoded = encode(value, name)
        assert (encoded.content_type, encoded.content_encoding) == (content_type, content_encoding)
        assert type(encoded.body) is bytes
        assert decode(encoded.body, content_type, content_encoding, EVERYTHING) == value
        assert content_type_of(name) == content_type
        assert serializer_of(content_type) == name

    def test_raw_is_bytes_as_they_are_and_text_in_utf8(self) -> None:
        assert encode(b"\xff", "raw") == serialization.Encoded(b"\xff", "application/data", "binary")
        assert encode("é", "raw") == serialization.Encoded("é".encode(), "application/data", "utf-8")
        with pytest.raises(EncodeError):
            encode([1], "raw")

    def test_data_is_always_accepted_as_bytes_and_text(self) -> None:
        assert decode(b"\xff", "application/data", "binary", frozenset()) == b"\xff"
        assert decode("é".encode(), None, None, frozenset()) == "é"
        with pytest.raises(DecodeError):
            decode(b"\xff", "application/data", "utf-8", frozenset())
        with pytest.raises(DecodeError):
            decode(b"a", "application/data", "no-such-encoding", frozenset())

    def test_the_pickle_of_a_call_is_as_captured(self) -> None:
        import base64

        embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
        captured = "gASVOgAAAAAAAABLAksChpR9lH2UKIwJY2FsbGJhY2tzlE6MCGVycmJhY2tzlE6MBWNoYWlulE6MBWNob3JklE51h5Qu"
        assert encode(((2, 2), {}, embed), "pickle").body == base64.b64decode(captured)

    @pytest.mark.parametrize(("name", "meant"), [("jsn", "json"), ("Pickle", "pickle"), ("protobuf", "known: ")])
    def test_an_unknown_serializer_is_answered_with_the_nearest(self, name: str, meant: str) -> None:
        for ask in (lambda: encode(1, name), lambda: accept_set([name])):
            with pytest.raises(ImproperlyConfigured, match=meant):
                ask()

    @pytest.mark.parametrize("name", ["pickle", "yaml", "msgpack"])
    def test_what_a_serializer_cannot_write_is_an_error(self, name: str) -> None:
        with pytest.raises(EncodeError, match=name):
            encode([lambda: 1], name)

    @pytest.mark.parametrize("name", ["json", "pickle", "yaml", "msgpack"])
    def test_a_value_nested_too_deeply_cannot_be_written(self, name: str) -> None:
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]
        with pytest.raises(EncodeError):
            encode(value, name)

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [(PICKLE, b"\x80\x04nonsense"), ("application/x-yaml", b"{a: ["), ("application/x-msgpack", b"\xc1")],
    )
    def test_damaged_content_is_an_error(self, content_type: str, body: bytes) -> None:
        with pytest.raises(DecodeError):
            decode(body, content_type, "binary", EVERYTHING)

    @pytest.mark.parametrize("name", ["yaml", "msgpack"])
    def test_a_missing_library_is_named_with_what_to_install(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        encoded = encode([1], name)
        monkeypatch.setattr(serialization, "_installed", lambda asked: asked != name)
        with pytest.raises(ImproperlyConfigured, match="pip install"):
            encode([1], name)
        # Another worker may have it, so the message must not be taken for a damaged one.
        with pytest.raises(ContentDisallowed, match="pip install"):
            decode(encoded.body, encoded.content_type, encoded.content_encoding, EVERYTHING)

    def test_a_serializer_registered_with_kombu_is_known(self) -> None:
        import kombu.serialization

        kombu.serialization.register("rot", lambda v: v[::-1], lambda b: bytes(b)[::-1].decode(), "application/x-rot")
        try:
            encoded = encode("abc", "rot")
            assert (encoded.body, encoded.content_type) == (b"cba", "application/x-rot")
            assert accept_set(["rot"]) == {"application/x-rot"}
            assert decode(encoded.body, "application/x-rot", "utf-8", accept_set(["rot"])) == "abc"
            assert serializer_of("application/x-rot") == "rot"
        finally:
            kombu.serialization.unregister("rot")

    def test_another_json_registered_with_kombu_takes_the_place_of_ours(self) -> None:
        import kombu.serialization

        kombu.serialization.register("json", lambda v: json.dumps({"v": v}), lambda b: json.loads(b)["v"], JSON)
        try:
            encoded = encode([1], "json")
            assert encoded.body == b'{"v": [1]}'
            assert decode(encoded.body, JSON, "utf-8", DEFAULT_ACCEPT) == [1]
        finally:
            kombu.serialization.register_json()
        assert encode([1], "json").body == b"[1]"


class TestAccept:
    def test_json_alone_is_the_default(self) -> None:
        assert accept_set() == {"application/json"}
        assert decode(b"[1]", JSON, "utf-8") == [1]
        with pytest.raises(ContentDisallowed):
            decode(encode([1], "pickle").body, PICKLE, "binary")

    def test_names_and_content_types_mean_the_same(self) -> None:
        assert accept_set(["json", "application/x-yaml", "raw"]) == {
            "application/json",
            "application/x-yaml",
            "application/data",
        }

    @pytest.mark.parametrize("wrong", ["json", [5]])
    def test_something_else_than_a_list_of_names_is_refused(self, wrong: Any) -> None:
        with pytest.raises(ImproperlyConfigured):
            accept_set(wrong)

    @pytest.mark.parametrize("content_type", [PICKLE, "application/x-yaml", "text/x-unheard-of"])
    def test_refused_content_is_not_looked_at(self, content_type: str) -> None:
        trap = b"cbuiltins\nexec\n(Vimport sys; sys.trapped = True\ntR."
        with pytest.raises(ContentDisallowed, match=content_type):
            decode(trap, content_type, "binary", DEFAULT_ACCEPT)
        assert not hasattr(sys, "trapped")
        with pytest.raises(ContentDisallowed, match="only application/json"):
            require_accepted(content_type, DEFAULT_ACCEPT)

    def test_json_can_be_refused_too(self) -> None:
        with pytest.raises(ContentDisallowed):
            decode(b"[1]", JSON, "utf-8", frozenset({PICKLE}))


class TestPicklesOfCelery:
    """A process without Celery reads what Celery pickled by the classes of its own."""

    @staticmethod
    def pickled(module: str, name: str, argument: str) -> bytes:
        """A pickle that calls *module.name(argument)*, as protocol 0 writes it."""
        return f"c{module}\n{name}\n({argument}tR.".encode()

    def test_a_signature_becomes_a_mapping(self) -> None:
        body = self.pickled("celery.canvas", "signature", "(dVtask\nVadd\ns")
        assert decode(body, PICKLE, "binary", EVERYTHING) == {"task": "add"}

    def test_an_exception_becomes_kerns(self) -> None:
        from kern.errors import TaskRevokedError

        error = decode(
            self.pickled("celery.exceptions", "TaskRevokedError", "Vrevoked\n"), PICKLE, "binary", EVERYTHING
        )
        assert type(error) is TaskRevokedError
        assert error.args == ("revoked",)

    def test_anything_else_is_an_error_that_names_it(self) -> None:
        with pytest.raises(DecodeError, match=r"celery\.app\.base\.Celery"):
            decode(self.pickled("celery.app.base", "Celery", "Vx\n"), PICKLE, "binary", EVERYTHING)

    def test_a_missing_module_of_a_user_is_an_error_that_names_it(self) -> None:
        with pytest.raises(DecodeError, match="nowhere_at_all"):
            decode(self.pickled("nowhere_at_all", "Thing", "Vx\n"), PICKLE, "binary", EVERYTHING)


class TestFindUnserialisable:
    def test_a_positional_argument_is_named_by_its_parameter(self) -> None:
        found = find_unserialisable([1, {"rows": [1, {2}]}], {}, "json", ["x", "data"])
        assert found.startswith("argument 'data' (position 2) at ['rows'][1]: ")
        assert "set" in found

    def test_further_positional_arguments_are_counted(self) -> None:
        assert find_unserialisable([1, {2}], {}, "json", ["x"]).startswith("argument 2: ")

    def test_a_keyword_is_named(self) -> None:
        assert find_unserialisable([], {"when": timedelta(1)}, "json").startswith("argument 'when': ")
        assert "lambda" in find_unserialisable([], {"call": lambda: 1}, "pickle")

    def test_nothing_is_found_where_nothing_is_wrong(self) -> None:
        assert find_unserialisable([1], {"a": 2}, "json") == ""


METHODS = {
    "gzip": "application/x-gzip",
    "zlib": "application/x-gzip",
    "bzip2": "application/x-bz2",
    "bzip": "application/x-bz2",
    "lzma": "application/x-lzma",
    "xz": "application/x-lzma",
    "brotli": "application/x-brotli",
    "zstd": "application/zstd",
    "zstandard": "application/zstd",
}
EACH = ["gzip", "bzip2", "lzma", "brotli", "zstd"]


class TestCompression:
    @pytest.mark.parametrize("name", METHODS)
    def test_a_body_comes_back(self, name: str) -> None:
        body = b"a body " * 1000
        packed, header = compress(body, name)
        assert header == METHODS[name]
        assert len(packed) < len(body)
        assert decompress(packed, header, len(body)) == body
        assert compress(body, header) == (packed, header), "the header value names the method, too"

    def test_a_body_is_compressed_as_captured(self) -> None:
        import base64

        captured = "eJyLjjbSUTCK1VGorgVipeTEnJykxOTsYiUrhbzSnBwdBaXUoiI0keSMxMw8ZG5+UQqUWxsLAAogGfE="
        body = b'[[2, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
        assert compress(body, "zlib") == (base64.b64decode(captured), "application/x-gzip")

    @pytest.mark.parametrize("name", EACH)
    def test_a_bomb_is_stopped_at_the_limit(self, name: str) -> None:
        bomb, header = compress(bytes(50_000_000), name)
        assert len(bomb) < 100_000
        with pytest.raises(DecodeError, match="larger than 1000 bytes"):
            decompress(bomb, header, 1000)

    @pytest.mark.parametrize("name", EACH)
    def test_a_bomb_costs_no_more_memory_than_the_limit(self, name: str) -> None:
        import tracemalloc

        bomb, header = compress(bytes(50_000_000), name)
        tracemalloc.start()
        try:
            with pytest.raises(DecodeError):
                decompress(bomb, header, 1_000_000)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 20_000_000

    @pytest.mark.parametrize("name", EACH)
    def test_a_truncated_or_damaged_body_is_an_error(self, name: str) -> None:
        packed, header = compress(b"a body " * 1000, name)
        for damaged in (packed[:-8], b"", b"not compressed", packed[: len(packed) // 2] + b"\0" * 40):
            with pytest.raises(DecodeError):
                decompress(damaged, header, 10_000)

    def test_streams_that_follow_one_another_are_one_body(self) -> None:
        for name in ("bzip2", "lzma", "zstd"):
            (one, header), (two, _) = compress(b"one", name), compress(b"two", name)
            assert decompress(one + two, header, 100) == b"onetwo"
            assert decompress(one + b"rubbish", header, 100) == b"one"

    def test_a_million_empty_streams_are_refused(self) -> None:
        empty, header = compress(b"", "bzip2")
        with pytest.raises(DecodeError, match="streams"):
            decompress(empty * 100_000, header, 100)

    @pytest.mark.parametrize("header", ["application/x-unheard-of", "rar", "", 5, None, ["gzip"]])
    def test_an_unknown_method_in_a_message_is_an_error(self, header: Any) -> None:
        with pytest.raises(DecodeError):
            decompress(b"x", header, 100)

    def test_an_unknown_method_of_a_caller_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="'gzip'"):
            compress(b"x", "gzp")

    def test_a_method_registered_with_kombu_is_known(self) -> None:
        import kombu.compression

        kombu.compression.register(lambda b: b[::-1], lambda b: b[::-1], "application/x-rev", aliases=["rev"])
        try:
            packed, header = compress(b"abc", "rev")
            assert (packed, header) == (b"cba", "application/x-rev")
            assert decompress(packed, header, 3) == b"abc"
            with pytest.raises(DecodeError, match="larger"):
                decompress(packed, header, 2)
        finally:
            for table in (kombu.compression._encoders, kombu.compression._decoders):
                table.pop("application/x-rev")
            kombu.compression._aliases.pop("rev")

    @pytest.mark.parametrize("name", ["brotli", "zstd"])
    def test_a_library_that_is_not_installed_is_named(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("brotli", "compression.zstd", "backports.zstd"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImproperlyConfigured, match="pip install"):
            compress(b"x", name)
        with pytest.raises(DecodeError, match="pip install"):
            decompress(b"x", name, 100)
