"""Descriptors that a process keeps whatever its tasks do, and what is sent over them."""

from __future__ import annotations

import array
import fcntl
import os
import resource
import signal
import socket
from collections.abc import Iterable

from kern_process_host.slots import LINUX, LONGEST, memory_file

#: The kind of socket that keeps messages whole. Only Linux's also says when the other end is gone.
_KIND = socket.SOCK_SEQPACKET if LINUX else socket.SOCK_DGRAM
#: Room for what accompanies a message.
FD_SPACE = socket.CMSG_SPACE(4 * array.array("i").itemsize)
#: Bytes that may wait in a socket; the system may grant less.
_BUFFER = 1 << 20
_F_SETSIG = 10


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends that exchange whole messages."""
    pair = socket.socketpair(socket.AF_UNIX, _KIND)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return pair


def adopt(descriptor: int) -> socket.socket:
    """The socket that *descriptor* is."""
    return socket.socket(socket.AF_UNIX, _KIND, fileno=descriptor)


def send(sock: socket.socket, data: bytes, descriptors: Iterable[int] = (), flags: int = 0) -> None:
    """Send one message.

    :raises BlockingIOError: there is no room for it now.
    """
    attached = array.array("i", descriptors)
    if not attached:
        sock.send(data, flags)
        return
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, attached)], flags)


def attached(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a message."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def receive(sock: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """One message and what came with it; ``b""``: the other end is gone.

    :raises BlockingIOError: there is none now.
    """
    data, ancillary, _, _ = sock.recvmsg(LONGEST + 64, FD_SPACE, flags)
    return data, attached(ancillary)


def file_with(data: bytes, name: str) -> int:
    """Descriptor of a file that holds *data*."""
    file = memory_file(name)
    view = memoryview(data)
    written = 0
    while written < len(view):
        written += os.pwrite(file, view[written:], written)
    return file


def whole_file(file: int) -> bytes:
    """What the file holds; it is closed."""
    try:
        size, parts, offset = os.fstat(file).st_size, list[bytes](), 0
        while offset < size:
            part = os.pread(file, size - offset, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(file)


def out_of_reach(descriptor: int) -> int:
    """The same, with a number so high that what a task opens never gets it, even once it has closed everything."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = 900 if soft == resource.RLIM_INFINITY or soft > 1000 else max(64, int(soft) - 100)
    try:
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
    except OSError:  # so few are allowed that there is no high number
        return descriptor
    os.close(descriptor)
    return high


def die_with(lifeline: int) -> bool:
    """Have the kernel kill this process once nobody holds the other end of the pipe *lifeline*; Linux.

    It needs no cooperation of a task that never comes back from C. ``PR_SET_PDEATHSIG`` would end the process with the
    zygote, whose death is no reason to lose what runs.

    :returns: whether the system has such a thing.
    """
    if not LINUX:
        return False
    try:
        # A description of its own: the owner of signals belongs to it, and not to the descriptor.
        own = out_of_reach(os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(own, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        ended = os.read(own, 1) == b""
    except BlockingIOError:
        ended = False
    if ended:
        os.kill(os.getpid(), signal.SIGKILL)
    return True


def wait_and_die(lifeline: int) -> None:
    """What :func:`die_with` does, for other systems: in a thread, which code that never lets go of the interpreter
    keeps from running."""
    while os.read(lifeline, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def on_null(number: int, flags: int) -> None:
    """Descriptor *number* becomes ``/dev/null``."""
    null = os.open(os.devnull, flags)
    os.dup2(null, number)
    if null != number:
        os.close(null)
