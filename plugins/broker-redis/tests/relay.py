"""A way to the server on which an answer can get lost: the request arrives, what comes back does not."""

from __future__ import annotations

import selectors
import socket
import threading
from types import TracebackType


class Relay:
    """Stands between a client and the server at *port*."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._marker = b""
        self._lock = threading.Lock()
        #: Set when an answer was lost.
        self.lost = threading.Event()
        #: While it is set connections are made; else they are ended at once.
        self.open = threading.Event()
        self.open.set()
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def lose_answer_to(self, marker: bytes) -> None:
        """The next request with *marker* in it reaches the server, and its connection ends with the answer."""
        with self._lock:
            self._marker = marker
            self.lost.clear()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping = True
        # Whoever sleeps in accept wakes up.
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._accepting.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._stopping or not self.open.is_set():
                client.close()
                if self._stopping:
                    return
                continue
            thread = threading.Thread(target=self._carry, args=(client,), daemon=True)
            thread.start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server, selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            losing = False
            while True:
                for key, _ in selector.select():
                    source, target = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    try:
                        data = source.recv(65536)
                    except OSError:
                        return
                    if not data:
                        return
                    if source is server and losing:
                        self.lost.set()
                        return
                    target.sendall(data)
                    if source is client:
                        with self._lock:
                            if self._marker and self._marker in data:
                                self._marker, losing = b"", True
