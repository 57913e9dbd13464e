"""Who waits for which results: one subscription for each, all on one connection, and no thread for any of them.

An id is subscribed to first and looked for then, so that nothing is missed; what arrives both ways is reported once.
The message on the channel is the document itself. Channels nobody waits on any more are left in batches, or with the
next that somebody waits on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from kern.outcome import Document
from kern.states import READY_STATES
from kern_backend_redis.answers import checked
from kern_backend_redis.documents import Reader
from kern_backend_redis.names import Names
from kern_backend_redis.reading import read
from kern_redis_client.link import Command, Conversation

#: Channels in one command.
CHANNELS = 500
#: Channels that may be left to hear for nothing before they are unsubscribed from.
STALE = 100


class Watching:
    """What is waited for. Thread-safe.

    :param converse: begins a conversation that nobody waits for.
    :param listen: says whether messages are of interest at this moment.
    """

    def __init__(
        self,
        names: Names,
        reader: Reader,
        on_documents: Callable[[Sequence[Document]], None],
        converse: Callable[[Conversation[None]], object],
        listen: Callable[[bool], None],
    ) -> None:
        self._names, self._reader = names, reader
        self._on_documents = on_documents
        self._converse, self._listen = converse, listen
        self._lock = threading.Lock()
        #: Ids that are waited for, by their channels.
        self._watched: dict[bytes, str] = {}
        #: Channels that the server knows we hear, or will once it has read what we sent.
        self._subscribed: set[bytes] = set()
        self._stale: list[bytes] = []

    # -- asking

    def watch(self, task_ids: Collection[str]) -> tuple[Conversation[None], Conversation[list[Document]]]:
        """Hear of these from now on: two conversations, to be begun in this order without waiting for the first.

        The second answers those that are final already, which :meth:`found` reports.
        """
        channels = {self._names.task(task_id).encode(): task_id for task_id in task_ids}
        with self._lock:
            self._watched.update(channels)
            fresh = [channel for channel in channels if channel not in self._subscribed]
            self._subscribed.update(fresh)
            stale = [channel for channel in self._stale if channel not in channels]
            self._stale = []
        self._listen(True)
        return self._subscribe(fresh, stale), self._look(list(channels.values()))

    def _subscribe(self, fresh: Sequence[bytes], stale: Sequence[bytes]) -> Conversation[None]:
        try:
            checked((yield [*_commands("SUBSCRIBE", fresh), *_commands("UNSUBSCRIBE", stale)]))
        except BaseException:
            with self._lock:
                self._subscribed.difference_update(fresh)
            raise

    def unwatch(self, task_ids: Iterable[str]) -> None:
        """Hear of these no more."""
        with self._lock:
            for task_id in task_ids:
                channel = self._names.task(task_id).encode()
                if self._watched.pop(channel, None) is not None:
                    self._leave(channel)
        self._tidy()

    def found(self, documents: Sequence[Document]) -> None:
        """Report those that are still waited for."""
        with self._lock:
            wanted = []
            for document in documents:
                channel = self._names.task(document.task_id).encode()
                if self._watched.pop(channel, None) is not None:
                    self._leave(channel)
                    wanted.append(document)
        if wanted:
            self._on_documents(wanted)
        self._tidy()

    # -- hearing

    def take(self, push: list[Any]) -> None:
        """A message that came unasked; others than documents are passed over."""
        if push[0] != b"message":
            return
        channel = push[1]
        task_id = self._watched.get(channel)
        if task_id is None:
            return
        document = self._reader.document(task_id, push[2])
        if document.status not in READY_STATES:
            return
        with self._lock:
            if self._watched.pop(channel, None) is None:
                return
            self._leave(channel)
        self._on_documents((document,))
        if len(self._stale) >= STALE or not self._watched:
            self._tidy()

    # -- the connection

    def greet(self) -> Conversation[None]:
        """On each new connection: hear of what is waited for."""
        with self._lock:
            wanted = list(self._watched)
            self._subscribed = set(wanted)
            self._stale.clear()
        checked((yield _commands("SUBSCRIBE", wanted)))

    def look_again(self) -> Conversation[list[Document]]:
        """What came while there was no connection; for :meth:`found`."""
        with self._lock:
            wanted = list(self._watched.values())
        return (yield from self._look(wanted))

    # -- inside

    def _look(self, task_ids: Sequence[str]) -> Conversation[list[Document]]:
        found = yield from read(self._names, self._reader, task_ids)
        return [document for document in found.values() if document.status in READY_STATES]

    def _leave(self, channel: bytes) -> None:
        """Nobody waits on it any more; the caller holds the lock."""
        if channel in self._subscribed:
            self._subscribed.discard(channel)
            self._stale.append(channel)

    def _tidy(self) -> None:
        """Leave channels nobody waits on, if they are many: a few are left with the next that are waited on."""
        with self._lock:
            idle = not self._watched
            stale: list[bytes] = []
            if len(self._stale) >= STALE:
                stale, self._stale = self._stale, []
        if idle:
            self._listen(False)
        if stale:
            self._converse(_unsubscribe(stale))


def _unsubscribe(channels: Sequence[bytes]) -> Conversation[None]:
    checked((yield _commands("UNSUBSCRIBE", channels)))


def _commands(command: str, channels: Sequence[bytes]) -> list[Command]:
    return [(command, *channels[at : at + CHANNELS]) for at in range(0, len(channels), CHANNELS)]
