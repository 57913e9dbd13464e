"""Rows of Celery before 5.7, whose values are pickled whatever the serializer says.

Unpickling runs what the pickle names, so that nobody should do it to what others wrote. Here only data comes out: a
pickle that names anything but the few types below is left as it is, for whoever has pickle among his accepted content.
"""

from __future__ import annotations

import datetime
import decimal
import io
import pickle
import uuid
from collections.abc import Callable
from typing import Any

from kern.serialization import encode_json

_PLAIN: dict[tuple[str, str], Any] = {
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "date"): datetime.date,
    ("datetime", "time"): datetime.time,
    ("datetime", "timedelta"): datetime.timedelta,
    ("datetime", "timezone"): datetime.timezone,
    ("decimal", "Decimal"): decimal.Decimal,
    ("uuid", "UUID"): uuid.UUID,
    ("uuid", "SafeUUID"): uuid.SafeUUID,
    ("collections", "OrderedDict"): dict,
}


def _result(reverse_name: str, args: tuple[Any, ...]) -> Any:
    """A result object of Celery's as the tuple it stands for: ``((id, parent), members)``."""
    kind = reverse_name.rpartition(".")[2]
    if kind in ("GroupResult", "ResultSet"):
        identifier, members = args[0], args[1]
        return (identifier, None), list(members)
    if kind == "AsyncResult":
        # id, backend, name, app, parent
        return (args[0], args[4] if len(args) > 4 else None), None
    raise pickle.UnpicklingError(f"no result: {reverse_name}")


#: What stands for the functions with which Celery unpickles what belongs to an application.
_CELERY: dict[tuple[str, str], Callable[..., Any]] = {
    ("celery.app.base", "_unpickle_appattr"): _result,
    ("celery.result", "AsyncResult"): lambda *args: _result("AsyncResult", args),
    ("celery.result", "GroupResult"): lambda *args: _result("GroupResult", args),
    # What a result was made with, and nothing here needs.
    ("celery.app.utils", "_unpickle_app"): lambda *args: None,
    ("celery.app.utils", "_unpickle_app_v2"): lambda *args: None,
    ("celery.backends.base", "unpickle_backend"): lambda *args: None,
}
#: Named as arguments of the functions above.
_IGNORED_MODULES = ("celery.",)


class _Name:
    """Stands for a class of Celery's that is only mentioned."""


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _PLAIN.get((module, name)) or _CELERY.get((module, name))
        if found is not None:
            return found
        if module.startswith(_IGNORED_MODULES):
            return _Name
        raise pickle.UnpicklingError(f"{module}.{name} is not data")


def looks_pickled(body: bytes) -> bool:
    """Whether *body* is a pickle of a protocol Celery has written."""
    return len(body) > 3 and body[0] == 0x80 and 2 <= body[1] <= 5 and body.endswith(b".")


def as_json(body: bytes) -> bytes | None:
    """A pickle's value as JSON; ``None`` if it is not plain data."""
    try:
        return encode_json(_checked(_DataUnpickler(io.BytesIO(body)).load()))
    except Exception:
        # A pickle may fail in any way it likes.
        return None


class _NotData(Exception):
    pass


def _checked(value: Any) -> Any:
    """*value*, if it is data through and through.

    :raises _NotData: something in it only stands for a class.
    """
    if isinstance(value, dict):
        return {_checked(key): _checked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_checked(item) for item in value]
    if value is _Name or isinstance(value, _Name):
        raise _NotData
    return value
