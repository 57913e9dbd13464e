"""Values to bytes and back: serializers, compression, and which content is accepted.

JSON is kern's own, because it is on every hot path; its bytes are those kombu writes. All other serializers are
kombu's, imported when one of them is first asked for: pickle, yaml, msgpack, raw, and what a user registered there
(``kombu.serialization.register``, or the entry-point group ``kombu.serializers``).

=========  ================================  ===============
name       content type                      content encoding
=========  ================================  ===============
json       ``application/json``              utf-8
pickle     ``application/x-python-serialize``  binary
yaml       ``application/x-yaml``            utf-8
msgpack    ``application/x-msgpack``         binary
raw        ``application/data``              binary, or utf-8 for text
=========  ================================  ===============
"""

from __future__ import annotations

import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from importlib import import_module
from json.encoder import encode_basestring_ascii
from typing import Any
from uuid import UUID

import attrs

from kern.errors import (
    WIRE_MODULES,
    ContentDisallowed,
    DecodeError,
    EncodeError,
    ImproperlyConfigured,
    MessageError,
    nearest,
)

JSON = "application/json"
PICKLE = "application/x-python-serialize"

#: Content types of the serializers everybody has, so that naming them imports nothing.
CONTENT_TYPES: dict[str, str] = {
    "json": JSON,
    "pickle": PICKLE,
    "yaml": "application/x-yaml",
    "msgpack": "application/x-msgpack",
    "raw": "application/data",
}

#: What is accepted when nobody said otherwise.
DEFAULT_ACCEPT: frozenset[str] = frozenset({JSON})

#: Content that is data by definition: no decoder of it creates anything but bytes and text.
_ALWAYS_ACCEPTED = frozenset({"application/data", "application/text"})

#: What to install for a serializer that kombu knows and whose library is missing.
_EXTRAS = {
    "yaml": "PyYAML (pip install 'kern-core[yaml]')",
    "msgpack": "msgpack (pip install 'kern-core[msgpack]')",
}


@attrs.frozen
class Encoded:
    """A value as bytes."""

    body: bytes
    content_type: str
    content_encoding: str


# -- JSON --------------------------------------------------------------------------------------------------------------

_Encoder = Callable[[Any], Any]
_Decoder = Callable[[Any], Any]

#: Types registered with :func:`register_type`.
_own_encoders: dict[type, tuple[str | None, _Encoder]] = {}
_own_decoders: dict[str, _Decoder] = {}

# A datetime is a date, too: it comes first.
_STANDARD_ENCODERS: dict[type, tuple[str | None, _Encoder]] = {
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
    Decimal: ("decimal", str),
    UUID: ("uuid", lambda value: {"hex": value.hex}),
}
_STANDARD_DECODERS: dict[str, _Decoder] = {
    "datetime": datetime.fromisoformat,
    "date": lambda text: datetime.fromisoformat(text).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda fields: UUID(**fields),
    "bytes": lambda text: text.encode("utf-8"),
    "base64": lambda text: b64decode(text.encode("utf-8")),
}
_ENVELOPE = {"__type__", "__value__"}


def register_type(
    cls: type,
    marker: str | None,
    encoder: Callable[[Any], Any],
    decoder: Callable[[Any], Any] = lambda value: value,
) -> None:
    """Teach JSON a type, as ``{"__type__": marker, "__value__": encoder(value)}``.

    Types registered with ``kombu.utils.json.register_type`` are known, too; this one counts where both know a type.

    :param marker: names the type on the wire; ``None`` writes the bare answer of *encoder*, which is not turned back.
    """
    _own_encoders[cls] = (marker, encoder)
    if marker is not None:
        _own_decoders[marker] = decoder


def _kombu_json(table: str) -> Any:
    """kombu's table of JSON types where kombu's JSON is loaded: users may have registered theirs there."""
    module = sys.modules.get("kombu.utils.json")
    return getattr(module, table, None) if module is not None else None


def _extended(value: Any) -> Any:
    """What stands for a value that JSON does not know."""
    reducer = getattr(value, "__json__", None)
    if reducer is not None:
        return reducer()
    # Django's lazily translated text; only there when Django has made one.
    functional = sys.modules.get("django.utils.functional")
    if functional is not None and isinstance(value, functional.Promise):
        return str(value)
    for table in (_own_encoders, _kombu_json("_encoders") or _STANDARD_ENCODERS):
        for cls, (marker, encoder) in table.items():
            if isinstance(value, cls):
                plain = encoder(value)
                return plain if marker is None else {"__type__": marker, "__value__": plain}
    if isinstance(value, bytes):
        try:
            return {"__type__": "bytes", "__value__": value.decode("utf-8")}
        except UnicodeDecodeError:
            return {"__type__": "base64", "__value__": b64encode(value).decode("ascii")}
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _restored(fields: dict[str, Any]) -> Any:
    """The value an extension object stands for; other objects are left as they are."""
    if fields.keys() != _ENVELOPE:
        return fields
    marker = fields["__type__"]
    for table in (_own_decoders, _kombu_json("_decoders"), _STANDARD_DECODERS):
        if table and isinstance(marker, str) and marker in table:
            return table[marker](fields["__value__"])
    raise ValueError(f"unknown JSON type {marker!r}; register it with kern.serialization.register_type")


def _make_encode() -> Callable[[Any], str]:
    make: Any = json.encoder.c_make_encoder  # type: ignore[attr-defined]
    if make is None:  # an interpreter without the C accelerator
        return json.JSONEncoder(default=_extended).encode
    # JSONEncoder.encode makes such an encoder on each call, which takes longer than to encode a small value. Without
    # markers it keeps no state; a value that contains itself then ends as a RecursionError.
    chunks = make(None, _extended, encode_basestring_ascii, None, ": ", ", ", False, False, True)

    def encode(value: Any) -> str:
        return "".join(chunks(value, 0))

    return encode


_encode_text = _make_encode()


def encode_json(value: Any) -> bytes:
    """JSON as kombu writes it: ASCII, ``", "`` and ``": "``, type extensions, ``NaN`` and ``Infinity`` literally.

    :raises EncodeError: names the type that JSON does not know, or the error of its own encoder.
    """
    try:
        return _encode_text(value).encode("ascii")
    except RecursionError as error:
        raise EncodeError("the value is nested too deeply for JSON, or contains itself") from error
    except Exception as error:
        raise EncodeError(f"cannot be written as JSON: {_sentence(error)}") from error


def decode_json(body: bytes | bytearray | memoryview | str) -> Any:
    """The value of JSON text, with type extensions restored.

    :raises DecodeError: not JSON, not UTF-8, nested too deeply, or an extension nobody registered.
    """
    try:
        if isinstance(body, str):
            body = body.encode("utf-8", "surrogatepass")
        elif not isinstance(body, bytes):
            body = bytes(body)
        if b'"__type__"' in body:
            return json.loads(body.decode("utf-8"), object_hook=_restored)
        try:
            return (_decode_fast or _load_msgspec())(body)
        except RecursionError:
            raise
        except Exception:
            # NaN, Infinity, numbers that overflow and lone surrogates are all text that Python's own JSON writes.
            return json.loads(body.decode("utf-8"))
    except RecursionError as error:
        raise DecodeError("the JSON is nested too deeply") from error
    except Exception as error:
        raise DecodeError(f"cannot be read as JSON: {_sentence(error)}") from error


_decode_fast: Callable[[bytes], Any] | None = None


def _load_msgspec() -> Callable[[bytes], Any]:
    # With the first body, not with this module: a client that only publishes needs no decoder.
    global _decode_fast
    import msgspec

    _decode_fast = msgspec.json.Decoder().decode
    return _decode_fast


# -- serializers -------------------------------------------------------------------------------------------------------


def _registry() -> Any:
    import kombu.serialization

    return kombu.serialization.registry


def json_is_ours() -> bool:
    """Whether JSON is kern's own on this process, and not a codec that somebody put into kombu's registry instead."""
    return not _json_replaced("_encoders", "json", "dumps")


def _json_replaced(table: str, key: str, standard: str) -> bool:
    """Whether somebody has put another JSON codec into kombu's registry; it then counts here, too."""
    module = sys.modules.get("kombu.serialization")
    if module is None:
        return False
    registry = getattr(module, "registry", None)
    found = getattr(registry, table, {}).get(key)
    if found is None:
        return False
    return getattr(found, "encoder", found) is not getattr(sys.modules.get("kombu.utils.json"), standard, None)


def encode(value: Any, serializer: str) -> Encoded:
    """*value* as bytes.

    :param serializer: a name, such as ``json``.
    :raises EncodeError: the serializer cannot write the value; names the cause.
    :raises ImproperlyConfigured: there is no such serializer, or its library is not installed.
    """
    if serializer == "json" and json_is_ours():
        return Encoded(encode_json(value), JSON, "utf-8")
    registry = _registry()
    if serializer != "raw" and (serializer not in registry.name_to_type or not _installed(serializer)):
        raise ImproperlyConfigured(_no_serializer(serializer))
    if serializer != "raw" and serializer not in registry._encoders:
        raise ImproperlyConfigured(f"the serializer {serializer!r} can only decode")
    try:
        content_type, content_encoding, body = registry.dumps(value, serializer)
        if isinstance(body, str):
            body = body.encode("utf-8")
        body = bytes(memoryview(body))
    except RecursionError as error:
        raise EncodeError(f"the value is nested too deeply for {serializer}, or contains itself") from error
    except Exception as error:
        raise EncodeError(f"cannot be written as {serializer}: {_sentence(error)}") from error
    return Encoded(body, content_type, content_encoding)


def decode(
    body: bytes | bytearray | memoryview | str,
    content_type: str | None,
    content_encoding: str | None,
    accept: frozenset[str] | None = None,
) -> Any:
    """The value of *body*.

    :param content_type: ``None`` or empty means ``application/data``.
    :param accept: content types that may be decoded, from :func:`accept_set`; ``None`` means JSON alone, and what was
        enabled in kombu's registry. Data and text are always returned as bytes and text.
    :raises ContentDisallowed: the content type is not accepted, or its library is not installed here.
    :raises DecodeError: the body is not what its content type says.
    """
    content_type = content_type or "application/data"
    if not isinstance(content_type, str):
        raise DecodeError(f"the content type is a {type(content_type).__name__}, not text")
    if accept is not None:
        require_accepted(content_type, accept)
    ours = content_type == JSON and not _json_replaced("_decoders", JSON, "loads")
    if ours and (accept is not None or not _disabled(JSON)):
        return decode_json(body)
    registry = _registry()
    if accept is None and content_type in registry._disabled_content_types:
        raise ContentDisallowed(f"content of type {_described(content_type)} is not accepted (setting accept_content)")
    name = registry.type_to_name.get(content_type, content_type)
    if not _installed(name):
        raise ContentDisallowed(
            f"content of type {_described(content_type)} cannot be decoded: install {_EXTRAS[name]}"
        )
    if content_encoding is not None and not isinstance(content_encoding, str):
        raise DecodeError(f"the content encoding is a {type(content_encoding).__name__}, not text")
    try:
        if content_type == PICKLE:
            return _unpickle(registry, body)
        return registry.loads(body, content_type, content_encoding, accept=accept)
    except RecursionError as error:
        raise DecodeError(f"the content of type {_described(content_type)} is nested too deeply") from error
    except Exception as error:
        raise DecodeError(f"cannot be read as {_described(content_type)}: {_sentence(error)}") from error


def require_accepted(content_type: str | None, accept: frozenset[str]) -> None:
    """Say no to content that must not be decoded, without looking at it.

    :raises ContentDisallowed: names the content type and what is accepted.
    """
    if content_type and content_type not in accept and content_type not in _ALWAYS_ACCEPTED:
        accepted = ", ".join(sorted(accept)) or "nothing"
        raise ContentDisallowed(
            f"content of type {_described(content_type)} is not accepted, only {accepted} "
            "(settings accept_content, result_accept_content)"
        )


def accept_set(names: Iterable[str] | None = None) -> frozenset[str]:
    """Content types for a list of serializer names or content types, such as the setting ``accept_content``.

    :raises ImproperlyConfigured: a name no serializer has.
    """
    if names is None:
        return DEFAULT_ACCEPT
    if isinstance(names, str):
        raise ImproperlyConfigured(f"a list of serializers is needed, not the text {names!r}; write [{names!r}]")
    found = set()
    for name in names:
        if not isinstance(name, str):
            raise ImproperlyConfigured(f"a serializer is named by text, not by a {type(name).__name__}: {name!r}")
        found.add(name if "/" in name else content_type_of(name))
    return frozenset(found)


def content_type_of(serializer: str) -> str:
    """The content type a serializer writes.

    :raises ImproperlyConfigured: there is no such serializer.
    """
    content_type = CONTENT_TYPES.get(serializer)
    if content_type is None:
        content_type = _registry().name_to_type.get(serializer)
    if content_type is None:
        raise ImproperlyConfigured(_no_serializer(serializer))
    return content_type


def serializer_of(content_type: str) -> str:
    """The name of the serializer that writes a content type.

    :raises ImproperlyConfigured: no serializer writes it.
    """
    for name, written in CONTENT_TYPES.items():
        if written == content_type and name != "raw":
            return name
    # What signs messages calls its content data, too.
    name = _registry().type_to_name.get(content_type) or ("raw" if content_type == CONTENT_TYPES["raw"] else "")
    if not name:
        raise ImproperlyConfigured(f"no serializer writes content of type {content_type!r}")
    return str(name)


def _described(content_type: str) -> str:
    for name, known in CONTENT_TYPES.items():
        if known == content_type:
            return f"{name} ({content_type})"
    return repr(content_type)


def _disabled(content_type: str) -> bool:
    module = sys.modules.get("kombu.serialization")
    return module is not None and content_type in module.registry._disabled_content_types


def _installed(name: str) -> bool:
    if name not in _EXTRAS:
        return True
    from importlib.util import find_spec

    module = {"yaml": "yaml", "msgpack": "msgpack"}[name]
    return module in sys.modules or find_spec(module) is not None


def _no_serializer(name: str) -> str:
    if name in _EXTRAS:
        return f"the serializer {name!r} needs {_EXTRAS[name]}"
    known = sorted({*CONTENT_TYPES, *_registry().name_to_type})
    near = nearest(str(name), known)
    hint = f"; did you mean {near!r}?" if near else f"; known: {', '.join(known)}"
    return f"there is no serializer {name!r}{hint}"


# -- pickles of a process that has Celery ------------------------------------------------------------------------------


def _unpickle(registry: Any, body: Any) -> Any:
    try:
        return registry.loads(body, PICKLE, "binary", accept={PICKLE})
    except Exception as error:
        cause = _cause(error)
        if not isinstance(cause, ModuleNotFoundError) or cause.name is None or not _is_celery(cause.name):
            raise
    # Celery pickles signatures and its own exceptions by their classes; here it is not installed.
    import io
    import pickle

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return _stand_in(module, name) if _is_celery(module) else super().find_class(module, name)

    return Unpickler(io.BytesIO(body)).load()


def _is_celery(module: str) -> bool:
    return module.partition(".")[0] in ("celery", "billiard")


def _stand_in(module: str, name: str) -> Any:
    if module == "celery.canvas":
        return _signature_fields
    if name == "UnpickleableExceptionWrapper":
        return _unwrapped_exception
    for cls, wire in WIRE_MODULES.items():
        if cls.__name__ == name and wire == module:
            return cls
    raise ModuleNotFoundError(f"the pickle holds a {module}.{name}; install celery to read it", name=module)


def _signature_fields(fields: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
    return dict(fields)


def _unwrapped_exception(module: str, name: str, args: Sequence[Any], text: str | None = None) -> Exception:
    cls: type[Exception] = type(name, (Exception,), {"__module__": module})
    return cls(*args)


# -- which argument was it ---------------------------------------------------------------------------------------------


def find_unserialisable(
    args: Sequence[Any], kwargs: Mapping[Any, Any], serializer: str, names: Sequence[str] = ()
) -> str:
    """Names the first argument that *serializer* cannot write, and where inside it, in one sentence.

    ``""`` when it can write all.

    :param names: the task's parameter names, so that positional arguments can be called by theirs.
    """
    for position, value in enumerate(args):
        named = f"{names[position]!r} (position {position + 1})" if position < len(names) else f"{position + 1}"
        found = _find(value, serializer, "")
        if found:
            return f"argument {named}{found}"
    for name, value in kwargs.items():
        if not isinstance(name, str):
            return f"the keyword argument {name!r} is named by a {type(name).__name__}, not by text"
        found = _find(value, serializer, "")
        if found:
            return f"argument {name!r}{found}"
    return ""


def _find(value: Any, serializer: str, path: str, depth: int = 0) -> str:
    try:
        encode(value, serializer)
    except EncodeError as error:
        problem = str(error)
    else:
        return ""
    items: Iterable[tuple[Any, Any]] = ()
    if depth < 20:
        if isinstance(value, Mapping):
            items = value.items()
        elif isinstance(value, list | tuple):
            items = enumerate(value)
    for key, inner in items:
        found = _find(inner, serializer, f"{path}[{key!r}]", depth + 1)
        if found:
            return found
    return f"{f' at {path}' if path else ''}: {problem}"


def _cause(error: BaseException) -> BaseException:
    """What went wrong, taken out of kombu's wrapping."""
    while type(error).__module__ == "kombu.exceptions":
        inner = error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    return error


def _sentence(error: BaseException) -> str:
    error = _cause(error)
    try:
        text = str(error)
    except Exception:  # an exception of a user's encoder
        text = ""
    return text or type(error).__name__


# -- compression -------------------------------------------------------------------------------------------------------

_COMPRESSION_TYPES: dict[str, str] = {
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

#: Memory an xz stream may ask for to be unpacked; what the strongest preset needs is 65 MiB.
_LZMA_MEMORY = 128 * 1024 * 1024
#: Compressed streams in one body. Everybody writes one; a million empty ones would take hours.
_MAX_STREAMS = 64


def compress(body: bytes, name: str) -> tuple[bytes, str]:
    """*body* compressed, and the value of the header ``compression`` that says how.

    :param name: ``gzip`` (or ``zlib``), ``bzip2``, ``lzma`` (or ``xz``), ``brotli``, ``zstd``, a name registered with
        ``kombu.compression.register``, or the header value itself.
    :raises ImproperlyConfigured: there is no such method, or its library is not installed.
    """
    header = _COMPRESSION_TYPES.get(name, name)
    if header == "application/x-gzip":
        import zlib

        return zlib.compress(body), header
    if header == "application/x-bz2":
        import bz2

        return bz2.compress(body), header
    if header == "application/x-lzma":
        import lzma

        return lzma.compress(body), header
    if header == "application/x-brotli":
        return bytes(_brotli().compress(body)), header
    if header == "application/zstd":
        return bytes(_zstd().compress(body)), header
    compression: Any = import_module("kombu.compression")
    try:
        encoder, header = compression.get_encoder(name)
    except KeyError:
        known = sorted({*_COMPRESSION_TYPES, *compression._aliases})
        near = nearest(str(name), known)
        hint = f"; did you mean {near!r}?" if near else f"; known: {', '.join(known)}"
        raise ImproperlyConfigured(f"there is no compression {name!r}{hint}") from None
    return bytes(encoder(body)), str(header)


def decompress(body: bytes | bytearray | memoryview, header: str, limit: int) -> bytes:
    """*body* unpacked, as the header ``compression`` says.

    :param limit: bytes that may come out; nothing much larger is ever held in memory.
    :raises DecodeError: more than *limit* comes out, the data is damaged, or the method is not known here.
    """
    if not isinstance(header, str):
        raise DecodeError(f"the header 'compression' is a {type(header).__name__}, not text")
    header = _COMPRESSION_TYPES.get(header, header)
    unpack = _UNPACK.get(header, _unpack_registered)
    try:
        unpacked = unpack(bytes(body), header, limit)
    except MessageError:
        raise
    except Exception as error:
        raise DecodeError(f"the body cannot be decompressed ({header}): {_sentence(error)}") from error
    if len(unpacked) > limit:
        raise DecodeError(f"the body is larger than {limit} bytes once decompressed ({header})")
    return unpacked


def _unpack_gzip(body: bytes, header: str, limit: int) -> bytes:
    import zlib

    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(body, limit + 1)
    if not unpacker.eof and len(unpacked) <= limit:
        raise DecodeError("the compressed body is truncated")
    return unpacked


def _unpack_bz2(body: bytes, header: str, limit: int) -> bytes:
    import bz2

    return _unpack_streams(bz2.BZ2Decompressor, body, limit)


def _unpack_lzma(body: bytes, header: str, limit: int) -> bytes:
    import lzma

    return _unpack_streams(lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY), body, limit)


def _unpack_zstd(body: bytes, header: str, limit: int) -> bytes:
    return _unpack_streams(_zstd().ZstdDecompressor, body, limit)


def _unpack_streams(make: Callable[[], Any], body: bytes, limit: int) -> bytes:
    """Unpack streams that may follow one another; what follows the last and is none is ignored, as everywhere."""
    unpacked = bytearray()
    for _ in range(_MAX_STREAMS):
        unpacker = make()
        try:
            unpacked += unpacker.decompress(body, max_length=limit + 1 - len(unpacked))
        except Exception:
            if unpacked:
                return bytes(unpacked)
            raise
        if len(unpacked) > limit:
            return bytes(unpacked)
        if not unpacker.eof:
            raise DecodeError("the compressed body is truncated")
        body = unpacker.unused_data
        if not body:
            return bytes(unpacked)
    raise DecodeError(f"the compressed body consists of more than {_MAX_STREAMS} streams")


def _unpack_brotli(body: bytes, header: str, limit: int) -> bytes:
    unpacker = _brotli().Decompressor()
    unpacked = bytearray()
    chunk = body
    while True:
        try:
            part = unpacker.process(chunk, output_buffer_limit=min(limit + 1, 1 << 20))
        except TypeError:
            raise DecodeError("this version of brotli cannot bound what it unpacks: install brotli>=1.2") from None
        unpacked += part
        if unpacker.is_finished() or len(unpacked) > limit:
            return bytes(unpacked)
        if not part:
            raise DecodeError("the compressed body is truncated")
        chunk = b""


def _unpack_registered(body: bytes, header: str, limit: int) -> bytes:
    compression: Any = import_module("kombu.compression")
    try:
        decoder = compression.get_decoder(header)
    except KeyError:
        raise DecodeError(f"the body is compressed in a way not known here: {header!r}") from None
    return bytes(decoder(body))


_UNPACK: dict[str, Callable[[bytes, str, int], bytes]] = {
    "application/x-gzip": _unpack_gzip,
    "application/x-bz2": _unpack_bz2,
    "application/x-lzma": _unpack_lzma,
    "application/zstd": _unpack_zstd,
    "application/x-brotli": _unpack_brotli,
}


def _brotli() -> Any:
    try:
        return import_module("brotli")
    except ImportError:
        raise ImproperlyConfigured(_needs("brotli", "brotli")) from None


def _zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise ImproperlyConfigured(_needs("zstd", "backports.zstd"))


def _needs(compression: str, library: str) -> str:
    return f"the compression {compression!r} needs {library} (pip install 'kern-core[{compression}]')"
