"""Result documents, written and read."""

import pickle
import sys
from datetime import UTC, datetime
from decimal import Decimal
from types import ModuleType
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kern import errors
from kern.documents import (
    MAX_EXCEPTION_ARGUMENT,
    Meta,
    decode_document,
    describe_exception,
    describe_unstorable,
    encode_document,
    rebuild_exception,
    status_of,
)
from kern.errors import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured, MessageError, SecurityError
from kern.outcome import Document, ExtendedFields
from kern.request import Request
from kern.serialization import accept_set, content_type_of, decode, encode, encode_json

ID = "9ba7569c-0332-423a-abc9-fc9e1c796fff"
DONE = datetime(2026, 11, 20, 19, 7, 53, 780718, tzinfo=UTC)
SERIALIZERS = ["json", "pickle", "yaml", "msgpack"]
EVERYTHING = accept_set(SERIALIZERS)


def request(**fields: Any) -> Request:
    return Request(id=ID, task="satasks.add", args=[2, 3], kwargs={}, hostname="spec_a@vm", **fields)


def whole(body: bytes, content_type: str = "application/json") -> Document:
    return Document(ID, "", whole=body, content_type=content_type)


class MyError(Exception):
    """Ordinary."""


class Particular(Exception):
    """Takes other arguments than it gives on."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code = code


class Unshowable(Exception):
    def __init__(self, first: Any, second: Any) -> None:
        super().__init__("no")
        self.first = first

    def __str__(self) -> str:
        return str(self.first)


class Unruly(Exception):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no arguments here")


class Loose(Exception):
    args = None  # type: ignore[assignment]


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not me")


class UnpicklableValue(ValueError):
    def __reduce__(self) -> Any:
        raise TypeError("not me")


class Silent:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __reduce__(self) -> Any:
        raise TypeError("not me")


class TestWhole:
    def test_success_is_as_captured(self) -> None:
        document = encode_document(ID, "SUCCESS", 5, whole=True, request=request(), now=DONE)
        assert document.whole == (
            b'{"status": "SUCCESS", "result": 5, "traceback": null, "children": [], '
            b'"date_done": "2026-11-20T19:07:53.780718+00:00", "task_id": "9ba7569c-0332-423a-abc9-fc9e1c796fff"}'
        )
        assert document.result is None, "the value is not carried twice"

    def test_failure_is_as_captured(self) -> None:
        error = MyError("boom", 42, {"k": [1, 2]})
        document = encode_document(ID, "FAILURE", error, whole=True, request=request(), now=DONE, traceback="Trace\n")
        assert (
            document.whole
            == (
                b'{"status": "FAILURE", "result": {"exc_type": "MyError", "exc_message": ["boom", 42, {"k": [1, 2]}], '
                b'"exc_module": "%s"}, "traceback": "Trace\\n", "children": [], '
                b'"date_done": "2026-11-20T19:07:53.780718+00:00", "task_id": "9ba7569c-0332-423a-abc9-fc9e1c796fff"}'
            )
            % __name__.encode()
        )

    def test_started_is_as_captured(self) -> None:
        value = {"pid": 20606, "hostname": "spec_a@vm"}
        document = encode_document("0e3676d5", "STARTED", value, whole=True, request=request(), now=DONE)
        assert document.whole == (
            b'{"status": "STARTED", "result": {"pid": 20606, "hostname": "spec_a@vm"}, "traceback": null, '
            b'"children": [], "date_done": null, "task_id": "0e3676d5"}'
        )

    def test_a_revoked_task_nobody_has_is_as_captured(self) -> None:
        error = errors.TaskRevokedError("revoked")
        document = encode_document("t3", "REVOKED", error, whole=True, now=DONE)
        assert document.whole == (
            b'{"status": "REVOKED", "result": {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], '
            b'"exc_module": "celery.exceptions"}, "traceback": null, "children": null, '
            b'"date_done": "2026-11-20T19:07:53.780718+00:00", "task_id": "t3"}'
        )

    def test_the_extended_form_is_as_captured(self) -> None:
        asked = request(
            delivery_info={"exchange": "", "routing_key": "spec_a_q"},
            stamped_headers=["st1", "st2"],
            stamps={"st1": "v", "st2": ["a"], "unlisted": 1},
        )
        document = encode_document("75cb6f59", "SUCCESS", 5, whole=True, request=asked, extended=True, now=DONE)
        assert document.whole == (
            b'{"status": "SUCCESS", "result": 5, "traceback": null, "children": [], '
            b'"date_done": "2026-11-20T19:07:53.780718+00:00", "name": "satasks.add", "args": [2, 3], "kwargs": {}, '
            b'"worker": "spec_a@vm", "retries": 0, "queue": "spec_a_q", "stamped_headers": ["st1", "st2"], '
            b'"st1": "v", "st2": ["a"], "task_id": "75cb6f59"}'
        )

    def test_group_and_parent_come_before_the_id(self) -> None:
        asked = request(group="13c6", parent_id="93d0", children=[(("4fba", None), None)])
        document = encode_document("ed73", "RETRY", None, whole=True, request=asked)
        assert document.whole == (
            b'{"status": "RETRY", "result": null, "traceback": null, "children": [[["4fba", null], null]], '
            b'"date_done": null, "group_id": "13c6", "parent_id": "93d0", "task_id": "ed73"}'
        )

    @pytest.mark.parametrize("serializer", SERIALIZERS)
    def test_other_serializers_keep_the_order(self, serializer: str) -> None:
        document = encode_document(
            ID, "SUCCESS", [1], whole=True, serializer=serializer, request=request(group="g"), extended=True, now=DONE
        )
        assert document.whole is not None
        meta = decode(document.whole, document.content_type, document.content_encoding, EVERYTHING)
        keys = {"status", "result", "traceback", "children", "date_done", "group_id", "name", "args", "kwargs"}
        assert set(meta) == keys | {"worker", "retries", "queue", "task_id"}
        if serializer != "yaml":  # which sorts
            assert list(meta)[:6] == ["status", "result", "traceback", "children", "date_done", "group_id"]
            assert list(meta)[-1] == "task_id"

    @pytest.mark.parametrize("method", ["gzip", "bzip2", "lzma", "zstd"])
    def test_it_can_be_compressed(self, method: str) -> None:
        document = encode_document(ID, "SUCCESS", "x" * 1000, whole=True, compression=method)
        assert document.whole is not None
        assert document.whole.startswith(b"\x00celery-compressed\x00application/")
        assert decode_document(document).result == "x" * 1000
        assert status_of(document) == "SUCCESS"
        with pytest.raises(DecodeError, match="larger"):
            decode_document(document, limit=500)

    def test_unknown_names_are_refused(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="'json'"):
            encode_document(ID, "SUCCESS", 1, whole=True, serializer="jsno")
        with pytest.raises(ImproperlyConfigured, match="'gzip'"):
            encode_document(ID, "SUCCESS", 1, whole=True, compression="gzpi")


class TestRoundTrip:
    @pytest.mark.parametrize("form", [True, False], ids=["whole", "parts"])
    @pytest.mark.parametrize("serializer", SERIALIZERS)
    def test_every_field_comes_back(self, serializer: str, form: bool) -> None:
        asked = request(
            group="g",
            parent_id="p",
            retries=2,
            children=[[["c", None], None]],
            delivery_info={"routing_key": "q"},
            stamped_headers=["a"],
            stamps={"a": [1]},
        )
        document = encode_document(
            ID,
            "SUCCESS",
            {"é": 1},
            whole=form,
            serializer=serializer,
            request=asked,
            extended=True,
            now=DONE,
            traceback="t",
        )
        assert (document.result is None, document.whole is None) == (form, not form)
        assert decode_document(document, EVERYTHING) == Meta(
            task_id=ID,
            status="SUCCESS",
            result={"é": 1},
            traceback="t",
            children=[[["c", None], None]],
            date_done=DONE,
            group_id="g",
            parent_id="p",
            name="satasks.add",
            args=[2, 3],
            kwargs={},
            worker="spec_a@vm",
            retries=2,
            queue="q",
            stamped_headers=["a"],
            stamps={"a": [1]},
        )

    @pytest.mark.parametrize("form", [True, False], ids=["whole", "parts"])
    @pytest.mark.parametrize("state", ["FAILURE", "RETRY", "REVOKED"])
    def test_an_exception_comes_back(self, state: str, form: bool) -> None:
        meta = decode_document(encode_document(ID, state, MyError("a", 1), whole=form))
        assert type(meta.result) is MyError
        assert meta.result.args == ("a", 1)

    def test_a_final_state_is_dated_and_no_other(self) -> None:
        before = datetime.now(UTC)
        for state in ("SUCCESS", "FAILURE", "REVOKED"):
            date_done = encode_document(ID, state, None, whole=False).date_done
            assert date_done is not None
            assert before <= date_done <= datetime.now(UTC)
        for state in ("STARTED", "RETRY", "PROGRESS"):
            assert encode_document(ID, state, None, whole=False, now=DONE).date_done is None

    @pytest.mark.parametrize("serializer", ["json", "yaml", "msgpack"])
    def test_a_result_object_is_stored_as_its_tuple(self, serializer: str) -> None:
        class Result:
            def as_tuple(self) -> Any:
                return (("961d", None), [(("699b", None), None)])

            def ready(self) -> bool:
                return False

            def forget(self) -> None: ...

        asked = request(children=[Result()])
        document = encode_document(ID, "SUCCESS", Result(), whole=True, serializer=serializer, request=asked)
        meta = decode_document(document, EVERYTHING)
        assert meta.result == [["961d", None], [[["699b", None], None]]]
        assert meta.children == [[["961d", None], [[["699b", None], None]]]]

    def test_a_decimal_is_no_result_object(self) -> None:
        assert decode_document(encode_document(ID, "SUCCESS", Decimal("1.5"), whole=True)).result == Decimal("1.5")


class TestWhatCannotBeStored:
    @pytest.mark.parametrize("form", [True, False], ids=["whole", "parts"])
    @pytest.mark.parametrize("serializer", SERIALIZERS)
    @pytest.mark.parametrize("value", [lambda: 1, [object()], {"a": Silent()}, "\ud800"], ids="abcd")
    def test_a_value_is_replaced_and_the_state_stays(self, serializer: str, value: Any, form: bool) -> None:
        document = encode_document(ID, "SUCCESS", value, whole=form, serializer=serializer)
        meta = decode_document(document, EVERYTHING)
        assert meta.status == "SUCCESS"
        if meta.result != value and type(meta.result) is str:
            assert meta.traceback is not None
            assert "could not be stored" in meta.traceback

    def test_the_traceback_tells_why(self) -> None:
        meta = decode_document(encode_document(ID, "SUCCESS", {1, 2}, whole=True))
        assert meta.result == "{1, 2}"
        assert meta.traceback is not None
        assert "set is not JSON serializable" in meta.traceback

    def test_who_is_strict_gets_the_error(self) -> None:
        with pytest.raises(EncodeError, match="set"):
            encode_document(ID, "PROGRESS", {1, 2}, whole=True, strict=True)

    def test_arguments_the_task_spoilt_are_replaced(self) -> None:
        asked = Request(
            id=ID, task="t", args=[1, {2}], kwargs={"a": lambda: 1}, stamped_headers=["s"], stamps={"s": 1j}
        )
        for form in (True, False):
            meta = decode_document(encode_document(ID, "SUCCESS", 1, whole=form, request=asked, extended=True))
            assert meta.args == "[1, {2}]"
            assert meta.kwargs.startswith("{'a': <function")

    @pytest.mark.parametrize("serializer", SERIALIZERS)
    def test_half_a_character_in_a_traceback_does_no_harm(self, serializer: str) -> None:
        document = encode_document(
            ID, "FAILURE", MyError("\ud800"), whole=True, serializer=serializer, traceback="\ud800"
        )
        meta = decode_document(document, EVERYTHING)
        assert (meta.status, meta.traceback) == ("FAILURE", "\\ud800")

    @pytest.mark.parametrize("serializer", SERIALIZERS)
    @pytest.mark.parametrize(
        "error",
        [
            Particular(5, where="home"),
            Unshowable(1, 2),
            Unruly("x"),
            Loose("x"),
            Unpicklable("x"),
            UnpicklableValue("x"),
            MyError(lambda: 1, Silent(), {1}),
            MyError("x" * (3 * MAX_EXCEPTION_ARGUMENT)),
            ExceptionGroup("several", [ValueError(1), MyError(object())]),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
            OSError(2, "No such file", "x"),
            KeyError(("a", 1)),
            SystemExit(3),
            KeyboardInterrupt(),
            errors.MessageTooLarge(5, 4),
            errors.PluginMissing("x", install="y"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_no_exception_is_too_odd(self, serializer: str, error: BaseException) -> None:
        for form in (True, False):
            document = encode_document(ID, "FAILURE", error, whole=form, serializer=serializer)
            stored = document.whole if form else document.result
            assert stored is not None
            assert len(stored) < 4 * MAX_EXCEPTION_ARGUMENT
            found = decode_document(document, EVERYTHING).result
            assert isinstance(found, BaseException)
            assert isinstance(str(found), str)
            assert isinstance(repr(found), str)
            if not (serializer == "pickle" and isinstance(error, UnpicklableValue)):
                named = f"{type(found).__qualname__} {found}"
                assert type(error).__qualname__ in named


class TestWhatAStoreRefuses:
    @pytest.mark.parametrize("form", [True, False], ids=["whole", "parts"])
    @pytest.mark.parametrize("serializer", SERIALIZERS)
    def test_the_state_and_all_but_the_value_stay(self, serializer: str, form: bool) -> None:
        asked = request(group="g", parent_id="p", children=[[["c", None], None]])
        for state, value in (("SUCCESS", "x" * 1000), ("FAILURE", MyError("x" * 1000))):
            document = encode_document(
                ID, state, value, whole=form, serializer=serializer, request=asked, extended=True, now=DONE
            )
            reduced = describe_unstorable(document, errors.BackendStoreError("value too large"), serializer)
            assert len(reduced.whole or reduced.result or b"") < 600
            meta = decode_document(reduced, EVERYTHING)
            assert (meta.task_id, meta.status, meta.date_done) == (ID, state, DONE)
            assert (meta.group_id, meta.parent_id, meta.children) == ("g", "p", [[["c", None], None]])
            assert meta.traceback == "the result could not be stored: value too large"
            if state == "SUCCESS":
                assert meta.result == "the result could not be stored: value too large"
            else:
                assert type(meta.result) is errors.BackendStoreError
                assert "value too large" in str(meta.result)

    def test_the_end_of_a_traceback_stays(self) -> None:
        document = encode_document(ID, "FAILURE", MyError(), whole=True, traceback="x" * 10_000_000 + "MyError")
        reduced = describe_unstorable(document, errors.BackendStoreError("too large"))
        assert reduced.traceback is not None
        assert reduced.traceback.endswith("MyError\nthe result could not be stored: too large")
        assert len(reduced.traceback) < 20_000


class TestExceptions:
    def test_a_description_is_as_captured(self) -> None:
        error = ValueError("boom", 1, object)
        assert describe_exception(error) == {
            "exc_type": "ValueError",
            "exc_message": ["boom", 1, "<class 'object'>"],
            "exc_module": "builtins",
        }

    @pytest.mark.parametrize("cls", errors.WIRE_MODULES, ids=lambda cls: cls.__name__)
    def test_kerns_errors_travel_as_celerys(self, cls: type[BaseException]) -> None:
        described = describe_exception(cls("text"))
        assert described["exc_module"] in ("celery.exceptions", "billiard.exceptions", "kombu.exceptions")
        assert type(rebuild_exception(described)) is cls

    def test_a_subclass_travels_as_itself(self) -> None:
        class Mine(errors.ChordError):
            pass

        assert describe_exception(Mine("x"))["exc_module"] == __name__

    def test_kerns_class_is_found_even_where_celerys_is_loaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("celery.exceptions")
        module.TaskRevokedError = type("TaskRevokedError", (Exception,), {})  # type: ignore[attr-defined]
        module.CeleryError = type("CeleryError", (Exception,), {})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "celery.exceptions", module)
        found = rebuild_exception(
            {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"}
        )
        assert type(found) is errors.TaskRevokedError
        other = rebuild_exception({"exc_type": "CeleryError", "exc_message": [], "exc_module": "celery.exceptions"})
        assert type(other) is module.CeleryError

    def test_a_class_within_a_class_is_found(self) -> None:
        described = describe_exception(Outer.Inner("x"))
        assert described["exc_type"] == "Outer.Inner"
        assert type(rebuild_exception(described)) is Outer.Inner

    @pytest.mark.parametrize(
        ("module", "name"),
        [("no.such.module", "Gone"), (__name__, "Gone"), (__name__, "TestX.test.<locals>.Gone"), (None, "Gone")],
    )
    def test_a_class_that_is_not_here_is_made_up(self, module: str | None, name: str) -> None:
        found = rebuild_exception({"exc_type": name, "exc_message": ["x", 1], "exc_module": module})
        assert type(found).__name__ == "Gone"
        assert isinstance(found, Exception)
        assert found.args == ("x", 1)
        again = rebuild_exception({"exc_type": name, "exc_message": [], "exc_module": module})
        assert type(again) is type(found)

    def test_no_module_is_imported(self) -> None:
        assert "this" not in sys.modules
        rebuild_exception({"exc_type": "X", "exc_message": [], "exc_module": "this"})
        assert "this" not in sys.modules

    def test_a_module_that_imports_when_asked_is_not_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("lazy_module")
        asked = []
        module.__getattr__ = asked.append  # type: ignore[method-assign,assignment]
        monkeypatch.setitem(sys.modules, "lazy_module", module)
        found = rebuild_exception({"exc_type": "Thing", "exc_message": [], "exc_module": "lazy_module"})
        assert type(found).__name__ == "Thing"
        assert not asked

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("os", "system"),
            ("os", "path"),
            ("os", "path.join"),
            ("os", "environ.get"),
            ("builtins", "eval"),
            ("builtins", "int"),
            ("builtins", "ValueError.__init__"),
            ("subprocess", "Popen"),
            (__name__, "Silent"),
        ],
    )
    def test_what_is_no_exception_class_is_never_called(self, module: str, name: str) -> None:
        with pytest.raises(SecurityError, match=name.replace(".", r"\.")):
            rebuild_exception({"exc_type": name, "exc_message": ["echo trapped"], "exc_module": module})

    def test_a_constructor_that_takes_other_arguments_is_passed_over(self) -> None:
        found = rebuild_exception(describe_exception(Particular(5, where="home")))
        assert type(found) is Particular
        assert str(found) == "5 at home"

    def test_an_exception_that_cannot_be_shown_without_its_constructor_is_described(self) -> None:
        found = rebuild_exception(describe_exception(Unshowable(1, 2)))
        assert type(found) is Exception
        assert "Unshowable" in str(found)

    @pytest.mark.parametrize("nothing", [None, {}, "", [], 0])
    def test_nothing_is_nothing(self, nothing: Any) -> None:
        assert rebuild_exception(nothing) is None

    def test_an_exception_is_itself(self) -> None:
        error = MyError("x")
        assert rebuild_exception(error) is error

    @pytest.mark.parametrize("wrong", ["text", 5, [1], True])
    def test_something_else_is_a_type_error(self, wrong: Any) -> None:
        with pytest.raises(TypeError):
            rebuild_exception(wrong)

    @pytest.mark.parametrize(
        "wrong", [{"a": 1}, {"exc_type": 5}, {"exc_type": ""}, {"exc_type": "X", "exc_module": ["os"]}]
    )
    def test_a_mapping_that_names_no_type_is_a_value_error(self, wrong: Any) -> None:
        with pytest.raises(ValueError):
            rebuild_exception(wrong)

    def test_a_message_that_is_no_list_is_the_only_argument(self) -> None:
        found = rebuild_exception({"exc_type": "ValueError", "exc_message": "boom", "exc_module": "builtins"})
        assert repr(found) == "ValueError('boom')"


class Outer:
    class Inner(Exception):
        pass


class TestPickle:
    def stored(self, error: BaseException) -> Any:
        document = encode_document(ID, "FAILURE", error, whole=False, serializer="pickle")
        assert document.result is not None
        return pickle.loads(document.result)

    def test_an_exception_is_pickled_as_itself(self) -> None:
        error = self.stored(MyError("a", {1}))
        assert type(error) is MyError
        assert error.args == ("a", {1})

    def test_the_nearest_class_that_can_be_pickled_takes_its_place(self) -> None:
        error = self.stored(UnpicklableValue("x"))
        assert type(error) is ValueError
        assert error.args == ("x",)

    def test_without_one_it_is_described(self) -> None:
        assert self.stored(Unpicklable("x")) == {
            "exc_type": "Unpicklable",
            "exc_message": ["x"],
            "exc_module": __name__,
        }

    def test_kerns_own_errors_are_described_for_readers_without_kern(self) -> None:
        assert self.stored(errors.TaskRevokedError("x"))["exc_module"] == "celery.exceptions"
        document = encode_document(ID, "REVOKED", errors.TaskRevokedError("x"), whole=True, serializer="pickle")
        assert b"kern" not in (document.whole or b"")


class TestReadingOthers:
    @pytest.mark.parametrize(
        ("row", "status", "result"),
        [
            (b"\x80\x05K\x05.", "SUCCESS", 5),
            (pickle.dumps([1, {"a": "é"}], 2), "SUCCESS", [1, {"a": "é"}]),
            (b"5", "SUCCESS", 5),
            (None, "SUCCESS", None),
        ],
    )
    def test_rows_of_celery_5_6_are_unpickled_where_that_is_accepted(
        self, row: bytes | None, status: str, result: Any
    ) -> None:
        document = Document(ID, status, result=row)
        assert decode_document(document, accept_set(["json", "pickle"])).result == result

    def test_a_failure_of_celery_5_6_is_rebuilt(self) -> None:
        row = pickle.dumps({"exc_type": "ValueError", "exc_message": ("boom", 1), "exc_module": "builtins"}, 5)
        document = Document(ID, "FAILURE", result=row, extended=ExtendedFields(args=b"[2, 3]", kwargs=b"{}"))
        meta = decode_document(document, accept_set(["json", "pickle"]))
        assert repr(meta.result) == "ValueError('boom', 1)"
        assert (meta.args, meta.kwargs) == ([2, 3], {})

    def test_where_pickle_is_not_accepted_the_error_says_what_to_do(self) -> None:
        with pytest.raises(ContentDisallowed, match="result_accept_content"):
            decode_document(Document(ID, "SUCCESS", result=b"\x80\x05K\x05."))

    def test_an_empty_mapping_of_msgpack_is_no_pickle(self) -> None:
        document = Document(ID, "SUCCESS", result=b"\x80", content_type=content_type_of("msgpack"))
        assert decode_document(document, EVERYTHING).result == {}

    @pytest.mark.parametrize("value", ["text", 5, [1], {"a": 1}, {"exc_type": 5}])
    def test_a_failure_with_a_value_of_somebodys_own_is_an_exception(self, value: Any) -> None:
        meta = decode_document(encode_document(ID, "FAILURE", value, whole=True))
        assert repr(meta.result) == repr(Exception(value))
        assert status_of(encode_document(ID, "FAILURE", value, whole=True)) == "FAILURE"

    def test_a_failure_without_an_error_still_has_something_to_raise(self) -> None:
        assert isinstance(decode_document(encode_document(ID, "FAILURE", None, whole=True)).result, Exception)
        assert decode_document(encode_document(ID, "RETRY", None, whole=True)).result is None

    @pytest.mark.parametrize("body", [b"", b"5", b"[]", b"null", b"{}", b'{"status": 5}', b"{", b"\xff"])
    def test_what_is_no_document_is_an_error(self, body: bytes) -> None:
        with pytest.raises(DecodeError):
            decode_document(whole(body))
        assert status_of(whole(body)) is None

    def test_odd_fields_do_not_hide_the_result(self) -> None:
        body = encode_json(
            {
                "status": "SUCCESS",
                "result": 5,
                "traceback": 7,
                "children": "x",
                "date_done": "yesterday",
                "group_id": [],
                "worker": {},
                "stamped_headers": 5,
                "task_id": None,
            }
        )
        meta = decode_document(whole(body))
        assert (meta.task_id, meta.result) == (ID, 5)
        assert attrs.asdict(meta, filter=lambda _, value: value is not None).keys() == {"task_id", "status", "result"}

    def test_a_date_without_a_zone_is_utc(self) -> None:
        body = encode_json({"status": "SUCCESS", "result": 5, "date_done": "2026-11-20T19:07:53.780718"})
        assert decode_document(whole(body)).date_done == DONE
        document = Document(ID, "SUCCESS", date_done=DONE.replace(tzinfo=None))
        assert decode_document(document).date_done == DONE

    def test_a_security_error_is_not_hidden(self) -> None:
        described = {"exc_type": "system", "exc_message": ["echo"], "exc_module": "os"}
        with pytest.raises(SecurityError):
            decode_document(whole(encode_json({"status": "FAILURE", "result": described})))

    def test_refused_content_is_refused(self) -> None:
        document = encode_document(ID, "SUCCESS", 1, whole=True, serializer="pickle")
        with pytest.raises(ContentDisallowed):
            decode_document(document)
        assert status_of(document) is None

    @pytest.mark.parametrize("state", ["SUCCESS", 'a "b" \\ é', ""])
    def test_the_state_is_told_without_the_result(self, state: str) -> None:
        assert status_of(encode_document(ID, state, 5, whole=True)) == state
        assert status_of(encode_document(ID, state, 5, whole=False)) == state


#: Those that every serializer can write.
whole_numbers = st.integers(-(2**63), 2**63 - 1)
described = st.fixed_dictionaries(
    {},
    optional={
        "exc_type": st.sampled_from(["ValueError", "system", "X", "a.b", "TaskRevokedError", "__name__", ""])
        | st.none(),
        "exc_module": st.sampled_from(["builtins", "os", "celery.exceptions", "x", __name__]) | st.none(),
        "exc_message": st.lists(whole_numbers | st.text(max_size=3), max_size=3) | st.text() | st.none(),
    },
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["SUCCESS", "FAILURE", "RETRY", "REVOKED", "X"]) | st.none(),
        "result": described | whole_numbers | st.text() | st.lists(whole_numbers),
        "date_done": st.text(max_size=5) | st.datetimes().map(str) | whole_numbers,
        "children": st.lists(whole_numbers, max_size=2) | st.text(max_size=3),
        "stamped_headers": st.lists(st.sampled_from(["status", "x", 1]), max_size=2),
    },
)


@given(
    st.binary(max_size=100) | fields.map(encode_json) | fields.map(lambda value: encode(value, "msgpack").body),
    st.sampled_from(["application/json", "application/x-msgpack", "application/x-yaml", "application/data"]),
    st.booleans(),
    st.sampled_from(["SUCCESS", "FAILURE", "RETRY"]),
)
def test_any_bytes_are_read_or_refused(body: bytes, content_type: str, form: bool, status: str) -> None:
    document = Document(
        ID, status, content_type=content_type, whole=body if form else None, result=None if form else body
    )
    status_of(document, accept_set(["json", "yaml", "msgpack"]))
    try:
        meta = decode_document(document, accept_set(["json", "yaml", "msgpack"]))
    except (MessageError, SecurityError):
        return
    if meta.status == "FAILURE":
        assert isinstance(meta.result, BaseException)
