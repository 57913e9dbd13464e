"""Leases of Celery workers on the same queues: handed back when they are as old as kombu lets them become.

kern's own leases are elsewhere. Like kombu's workers we take their mutex, look at what is older than
``visibility_timeout``, and put each message where it was published to; in passes of a bounded number. What no queue is
bound for stays where it is, where kombu would lose it.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from kern import log
from kern.errors import DecodeError
from kern.queues import matches
from kern_broker_redis.names import Names
from kern_broker_redis.settings import Options
from kern_redis_client.envelope import decode, restored
from kern_redis_client.failures import failure
from kern_redis_client.link import Conversation
from kern_redis_client.scripts import load

logger = log.get_logger("kern.connection")

RESTORE = load("kern_broker_redis", "scripts/restore")
SCRIPTS = (RESTORE,)

#: Seconds between two passes: kombu's ``unacked_restore_interval``.
INTERVAL = 10.0
#: Leases that one pass looks at, at most.
PASS = 100


class CeleryLeases:
    """For one connection.

    :param name: the server for messages, its URL with the password masked.
    """

    def __init__(self, name: str, names: Names, options: Options) -> None:
        self._name = name
        self._names = names
        self._leases = names(options.unacked_key)
        self._index = names(options.unacked_index_key)
        self._mutex = names(options.unacked_mutex_key)
        self._mutex_expire = options.unacked_mutex_expire
        self._timeout = options.visibility_timeout
        self._limit = min(PASS, options.unacked_restore_limit or PASS)
        self._look_at = 0.0
        #: Tags that nothing can be done about, said once.
        self._hopeless: set[bytes] = set()

    def restore(self) -> Conversation[int]:
        """One pass, if it is time; answers how many messages were handed back."""
        now = time.monotonic()
        if now < self._look_at:
            return 0
        self._look_at = now + INTERVAL
        (there,) = yield [("EXISTS", self._index)]
        if there != 1:
            return 0
        token = secrets.token_hex(16)
        (locked,) = yield [("SET", self._mutex, token, "NX", "PX", int(self._mutex_expire * 1000))]
        if locked is None or isinstance(locked, Exception):
            return 0
        count = yield from self._pass()  # if that fails, the mutex expires by itself
        yield from self._unlock(token)
        return count

    def _unlock(self, token: str) -> Conversation[None]:
        (owner,) = yield [("GET", self._mutex)]
        if owner == token.encode():
            yield [("DEL", self._mutex)]

    def _pass(self) -> Conversation[int]:
        # Celery's workers write their own clock's time there.
        oldest = time.time() - self._timeout
        limit = self._limit + len(self._hopeless)
        (tags,) = yield [("ZREVRANGEBYSCORE", self._index, oldest, 0, "LIMIT", 0, limit)]
        if isinstance(tags, Exception):
            raise failure(tags, self._name)
        tags = [tag for tag in tags if tag not in self._hopeless]
        if not tags:
            return 0
        (leases,) = yield [("HMGET", self._leases, *tags)]
        if isinstance(leases, Exception):
            raise failure(leases, self._name)
        count = 0
        for tag, lease in zip(tags, leases, strict=True):
            if lease is None:
                yield [("ZREM", self._index, tag)]
                continue
            count += yield from self._restore(tag, lease)
        if count:
            logger.warning("messages of Celery workers that fell silent handed back", messages=count)
        return count

    def _restore(self, tag: bytes, lease: bytes) -> Conversation[int]:
        try:
            envelope, exchange, routing_key = restored(lease)
            lists = yield from self._lists(envelope, exchange, routing_key)
        except DecodeError as error:
            self._give_up(tag, str(error))
            return 0
        if not lists:
            self._give_up(tag, f"no queue is bound to exchange {exchange!r} under {routing_key!r}")
            return 0
        (answer,) = yield [RESTORE.call((self._leases, self._index), (tag, lease, envelope, *lists))]
        if isinstance(answer, Exception):
            raise failure(answer, self._name)
        if answer < 0:
            self._give_up(tag, f"the key of queue {lists} is no list")
        return int(answer == 1)

    def _lists(self, envelope: bytes, exchange: str, routing_key: str) -> Conversation[list[str]]:
        suffix = self._names.suffix(decode(envelope).message.properties.get("priority"))
        if not exchange:
            return [f"{self._names.prefix}{routing_key}{suffix}"] if routing_key else []
        (members,) = yield [("SMEMBERS", self._names.binding(exchange))]
        if isinstance(members, Exception):
            return []
        queues: dict[str, Any] = {}
        for member in members:
            key, _, rest = member.decode("utf-8", "surrogateescape").partition(self._names.separator)
            pattern, _, queue = rest.partition(self._names.separator)
            # Who bound it as a topic has left a pattern there.
            if queue and matches("topic" if pattern else "direct", key, routing_key):
                queues[queue] = None
        return [f"{self._names.prefix}{queue}{suffix}" for queue in queues]

    def _give_up(self, tag: bytes, why: str) -> None:
        self._hopeless.add(tag)
        logger.error(
            "a message that a Celery worker held cannot be handed back, and stays where it is",
            tag=tag.decode("utf-8", "replace"),
            reason=why,
        )
