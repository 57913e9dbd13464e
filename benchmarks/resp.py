"""A plain connection to Redis: commands out, replies in; with the parser of hiredis and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import hiredis

#: Its annotation knows tuples of one element only.
_packed: Callable[[tuple[str | bytes, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]


class Connection:
    """One socket; not for two threads.

    :param url: ``redis://host:port/database``, without a password.
    :param timeout: seconds to wait for a reply; ``None``: for ever.
    """

    def __init__(self, url: str, timeout: float | None = 120.0) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace")
        self.command("SELECT", parts.path.strip("/") or "0")

    def close(self) -> None:
        self._socket.close()

    def command(self, *words: str | bytes) -> Any:
        """The reply to one command.

        :raises hiredis.ReplyError: Redis refused it.
        """
        self._socket.sendall(_packed(words))
        return self.reply()

    def pipeline(self, commands: Sequence[tuple[str | bytes, ...]]) -> list[Any]:
        """The replies to several commands, sent at once."""
        self._socket.sendall(b"".join([_packed(words) for words in commands]))
        return [self.reply() for _ in commands]

    def reply(self) -> Any:
        """The next reply, awaited."""
        while True:
            found = self._reader.gets()
            if found is not False:
                if isinstance(found, hiredis.ReplyError):
                    raise found
                return found
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("Redis closed the connection")
            self._reader.feed(data)

    # -- what rows ask of a server

    def info(self, section: str) -> dict[str, str]:
        """A section of ``INFO``."""
        lines = str(self.command("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def processor_seconds(self) -> float:
        """Processor time that the server has used since it started."""
        found = self.info("cpu")
        return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])

    def clients(self) -> set[str]:
        """Ids of the other connections."""
        own = str(self.command("CLIENT", "ID"))
        lines = str(self.command("CLIENT", "LIST")).splitlines()
        ids = {line.split(" ", 1)[0].removeprefix("id=") for line in lines if line}
        return ids - {own}

    def keys(self, pattern: str) -> int:
        """How many keys match."""
        cursor, found = "0", set()
        while True:
            cursor, keys = self.command("SCAN", cursor, "MATCH", pattern, "COUNT", "2000")
            found.update(keys)
            if cursor == "0":
                return len(found)
