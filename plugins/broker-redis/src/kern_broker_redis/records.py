"""How a message is kept that is in no list: ``<length of the list's key>:<the list's key><envelope>``."""

from __future__ import annotations

from kern.errors import DecodeError


def parts(record: bytes) -> tuple[str, bytes]:
    """The list's key, and the envelope.

    :raises DecodeError: it is no such record.
    """
    length, colon, rest = record.partition(b":")
    if not colon or not length.isdigit() or len(length) > 9 or len(rest) < int(length):
        raise DecodeError("it is no record of a message: it does not begin with the name of a list")
    return rest[: int(length)].decode("utf-8", "surrogateescape"), rest[int(length) :]
