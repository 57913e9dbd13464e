"""What goes wrong with a Redis server, in kern's words: told apart by kind, with the remedy where there is one."""

from __future__ import annotations

import enum
import re
import socket
import sys

from kern.errors import TransportError
from kern.masking import mask_url


class Kind(enum.Enum):
    """What went wrong."""

    #: The server cannot be reached, or ended the connection.
    UNREACHABLE = "unreachable"
    #: No secure connection could be made.
    TLS = "tls"
    #: User or password are wrong, or missing.
    CREDENTIALS = "credentials"
    #: The user may not run a command, or use a key or channel.
    FORBIDDEN = "forbidden"
    #: The server is a replica, which takes no writes.
    READ_ONLY = "read-only"
    #: The server has no memory left for more.
    FULL = "full"
    #: The server cannot write to its disk, and takes no writes therefore.
    DISK = "disk"
    #: The server, or enough of its replicas, is not ready yet.
    NOT_READY = "not-ready"
    #: Another node of the cluster has the keys.
    MOVED = "moved"
    #: A script has run too long.
    BUSY = "busy"
    #: A key holds what is not ours.
    WRONG_TYPE = "wrong-type"
    #: The server does not know the script.
    NO_SCRIPT = "no-script"
    #: It is a server we cannot work with.
    UNSUITABLE = "unsuitable"
    OTHER = "other"


#: Kinds that pass by themselves or by somebody's doing, while this process goes on.
_PASSING = frozenset(
    {
        Kind.UNREACHABLE,
        Kind.READ_ONLY,
        Kind.FULL,
        Kind.DISK,
        Kind.NOT_READY,
        Kind.MOVED,
        Kind.BUSY,
        Kind.NO_SCRIPT,
    }
)


class RedisError(TransportError):
    """The server could not do what was asked.

    :ivar kind: what went wrong.
    :ivar retryable: whether trying again later may help.
    :ivar refused: whether nothing was carried out, certainly.
    """

    def __init__(self, kind: Kind, text: str, retryable: bool | None = None, refused: bool = True) -> None:
        self.kind, self.refused = kind, refused
        super().__init__(text, retryable=kind in _PASSING if retryable is None else retryable)


class ConnectionLost(RedisError):
    """The connection went while an answer was awaited: the command may or may not have been carried out."""

    def __init__(self, text: str) -> None:
        super().__init__(Kind.UNREACHABLE, text, refused=False)


def closed(name: str) -> RedisError:
    """Nobody answers on a connection that its owner has closed."""
    return RedisError(Kind.UNREACHABLE, f"the connection to {name} is closed", retryable=False)


def inherited(name: str) -> RedisError:
    """A forked process asks on its parent's connection."""
    return RedisError(
        Kind.UNREACHABLE,
        f"the connection to {name} belongs to the parent of this process; make one here",
        retryable=False,
    )


def lost(name: str, why: str) -> ConnectionLost:
    """The connection is no good any more."""
    return ConnectionLost(f"the connection to {name} was lost: {why}")


def silent(name: str, seconds: float) -> ConnectionLost:
    """The server, or the way to it, is dead without having said so."""
    return ConnectionLost(f"{name} has not answered for {seconds:g} s")


_CODES: dict[str, tuple[Kind, str]] = {
    "NOAUTH": (Kind.CREDENTIALS, "the server wants a password; write it in the URL: redis://user:password@host/0"),
    "WRONGPASS": (Kind.CREDENTIALS, "the server refuses this user and password"),
    "NOPERM": (Kind.FORBIDDEN, "the server does not allow it ({said}); extend the user's rights with ACL SETUSER"),
    "READONLY": (Kind.READ_ONLY, "the server is a read-only replica; name its master, or the sentinels that know it"),
    "OOM": (Kind.FULL, "the server has reached its maxmemory and takes nothing more; make room, or raise it"),
    "MISCONF": (Kind.DISK, "the server cannot save to its disk and takes no writes; its log says why"),
    "LOADING": (Kind.NOT_READY, "the server is still reading its data from disk"),
    "MASTERDOWN": (Kind.NOT_READY, "the server is a replica that has lost its master"),
    "NOREPLICAS": (Kind.NOT_READY, "the server takes no writes until enough replicas follow it"),
    "CLUSTERDOWN": (Kind.NOT_READY, "the cluster is down ({said})"),
    "TRYAGAIN": (Kind.NOT_READY, "the cluster is moving the keys to another node"),
    "ASK": (Kind.NOT_READY, "the cluster is moving the keys to another node"),
    "MOVED": (Kind.MOVED, "another node of the cluster has the keys now"),
    "BUSY": (Kind.BUSY, "a script has kept the server busy for too long; see SCRIPT KILL"),
    "NOSCRIPT": (Kind.NO_SCRIPT, "the server has forgotten a script"),
    "WRONGTYPE": (
        Kind.WRONG_TYPE,
        "a key holds something else than it should ({said}); it is a queue's, or one that begins with 'kern.': delete "
        "it, or give kern keys of its own with global_keyprefix",
    ),
    "CROSSSLOT": (
        Kind.UNSUITABLE,
        "the keys lie on several nodes of the cluster; put one hash tag in global_keyprefix, such as '{kern}'",
    ),
    "UNBLOCKED": (Kind.UNREACHABLE, "the server ended a blocked command ({said})"),
    "NOPROTO": (Kind.UNSUITABLE, "the server does not speak RESP3; Redis 6.2 or newer, or Valkey, does"),
}
#: Codes after which nothing was carried out, even where a script was running: it was refused before it wrote, or at its
#: first write.
_REFUSED = frozenset(_CODES) - {"WRONGTYPE", "UNBLOCKED"}
#: Servers before 7.0 wrap what a command in a script was answered.
_WRAPPED = re.compile(r"^ERR .*?(?:@user_script|user_script):? ?\d*:? *-?(?P<code>[A-Z]{3,}) ")
_SCRIPT = re.compile(r"script: [0-9a-f]{40}|Error running script|Error compiling script")
#: What a server says to a connection that is one too many, before it ends it.
_CROWDED = "max number of clients reached"


def code_of(answer: Exception) -> str:
    """The word that tells the errors of the server apart, such as ``WRONGTYPE``."""
    said = str(answer)
    if (wrapped := _WRAPPED.match(said)) is not None and wrapped["code"] in _CODES:
        return wrapped["code"]
    return said.partition(" ")[0]


def failure(answer: Exception, name: str) -> RedisError:
    """An error that the server answered, as ours; names the server, and shows no password.

    :param answer: a ``hiredis.ReplyError``.
    :param name: the server's URL with the password masked.
    """
    if isinstance(answer, RedisError):
        return answer
    said, code = str(answer), code_of(answer)
    line = mask_url(" ".join(said.split()))
    kind, text = _CODES.get(code, (Kind.OTHER, "{said}"))
    if _CROWDED in said:
        kind, text = Kind.NOT_READY, "the server takes no more connections; raise its maxclients, or use fewer"
    refused = code in _REFUSED or _SCRIPT.search(said) is None
    made = RedisError(kind, f"{name}: {text.replace('{said}', line)}", refused=refused)
    made.__cause__ = answer
    return made


def was_refused(error: BaseException) -> bool:
    """Whether *error* means that nothing was carried out; else that is unknown."""
    return isinstance(error, RedisError) and error.refused


def is_elsewhere(answer: object) -> bool:
    """Whether the answer says that this server is the wrong one, so that nothing was carried out here."""
    return isinstance(answer, Exception) and code_of(answer) in ("MOVED", "READONLY")


def unreachable(error: Exception, name: str, where: str, timeout: float, secure: bool) -> RedisError:
    """Why no connection could be made.

    :param where: the address that was tried.
    :param timeout: seconds that were allowed.
    :param secure: whether TLS was spoken.
    """
    # A server that expects TLS, or none, falls silent or hangs up.
    misfit = "; if the server speaks no TLS, write redis://" if secure else "; if it speaks only TLS, write rediss://"
    kind, retryable = Kind.UNREACHABLE, True
    ssl = sys.modules.get("ssl")  # imported by those alone who use it
    if ssl is not None and isinstance(error, ssl.SSLCertVerificationError):
        kind, retryable = Kind.TLS, False
        text = (
            f"the certificate of {where} is not accepted ({error.verify_message}); name its authority with "
            "ssl_ca_certs, or switch verification off with ssl_cert_reqs=none"
        )
    elif ssl is not None and isinstance(error, ssl.SSLError):
        kind = Kind.TLS
        reason = str(error.reason or error).replace("_", " ").lower()
        retryable = "wrong version" not in reason and "alert" not in reason and "record layer" not in reason
        text = f"no TLS connection to {where} could be made ({reason})"
        if "wrong version" in reason or "record layer" in reason:
            text += misfit
    elif isinstance(error, TimeoutError):
        text = f"{where} does not answer within {timeout:g} s" + (misfit if secure else "")
    elif isinstance(error, socket.gaierror):
        text = f"the name of {where} cannot be resolved ({error.strerror})"
    elif isinstance(error, PermissionError):
        retryable = False
        text = f"this process may not use {where}"
    elif isinstance(error, ConnectionRefusedError):
        text = f"nothing listens at {where}"
    elif isinstance(error, FileNotFoundError):
        text = f"there is no socket {where}"
    elif isinstance(error, EOFError | ConnectionResetError):
        text = f"{where} closed the connection at once{misfit}"
    else:
        text = f"{where} cannot be reached ({getattr(error, 'strerror', None) or error})"
    made = RedisError(kind, f"{name}: {text}", retryable=retryable)
    made.__cause__ = error
    return made
