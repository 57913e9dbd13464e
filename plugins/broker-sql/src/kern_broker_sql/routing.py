"""Queues, exchanges and bindings."""

from __future__ import annotations

from collections.abc import Sequence

from kern import log
from kern.errors import InvalidSetting
from kern.message import Publication
from kern.queues import Binding, QueueSpec, queues_for
from kern_broker_sql.messages import fits
from kern_broker_sql.tables import DELAYED, LEASED, READY
from kern_sql_engine import Dialect, Statements
from kern_sql_engine.schema import NAME_LENGTH

logger = log.get_logger("kern_broker_sql")

#: Seconds a queue that is to vanish with its consumer outlives it: as long as a worker may be out of reach.
IDLE_LIMIT = 60.0
#: Arguments of a queue that would drop messages, and that this transport does not act on.
_NOT_ACTED_ON = ("x-message-ttl", "x-max-length", "x-max-length-bytes", "x-dead-letter-exchange")


class Routing:
    """Statements on queues and bindings."""

    def __init__(self, dialect: Dialect) -> None:
        sql = dialect.sql
        self._values = dialect.values
        self._now = sql("SELECT {now}")
        self._queue = sql(dialect.insert("kern_queue", ["name", "idle_limit", "used_at"], ["name"], keep=False))
        self._binding = sql(
            dialect.insert(
                "kern_binding",
                ["exchange", "routing_key", "queue", "exchange_type"],
                ["exchange", "routing_key", "queue"],
                keep=False,
            )
        )
        self._bindings = sql(
            "SELECT exchange, routing_key, queue, exchange_type FROM kern_binding WHERE exchange {in} ORDER BY queue"
        )
        self._names = sql("SELECT name FROM kern_queue UNION SELECT queue FROM kern_message ORDER BY 1")
        self._used = sql("UPDATE kern_queue SET used_at = {now} WHERE idle_limit IS NOT NULL AND name {in}")
        unused = "FROM kern_queue WHERE idle_limit IS NOT NULL AND used_at + idle_limit < {now}"
        self._any_unused = sql(f"SELECT 1 {unused} LIMIT 1")
        self._unused = sql(f"SELECT name {unused} {{skip}}")
        self._leased = sql(f"SELECT DISTINCT queue FROM kern_message WHERE state = {LEASED} AND queue {{in}}")
        self._forget_queues = sql("DELETE FROM kern_queue WHERE name {in}")
        self._forget_bindings = sql("DELETE FROM kern_binding WHERE queue {in}")
        self._forget_messages = [
            sql(f"DELETE FROM kern_message WHERE queue {{in}} AND state = {state}") for state in (READY, DELAYED)
        ]

    def declare(self, statements: Statements, queues: Sequence[QueueSpec]) -> list[str]:
        """Write down queues and bindings; the names of those that vanish without a consumer.

        :raises InvalidSetting: a name that no column takes.
        """
        now = float(statements.value(self._now))
        limits = {queue.name: _idle_limit(queue) for queue in queues}
        for name in limits:
            _check("queue", name)
        # In one order always: two who declare the same queues do not wait for each other in a circle.
        statements.many(self._queue, [(name, limits[name], now) for name in sorted(limits)])
        bindings = {(b.exchange, b.routing_key, q.name): b.exchange_type for q in queues for b in q.all_bindings()}
        for exchange, routing_key, _queue in bindings:
            _check("exchange", exchange)
            _check("routing key", routing_key)
        if bindings:
            statements.many(self._binding, [(*key, bindings[key]) for key in sorted(bindings)])
        for queue in queues:
            ignored = [name for name in _NOT_ACTED_ON if name in (queue.queue_arguments or {})]
            if ignored:
                logger.warning(
                    f"queue {queue.name!r}: {', '.join(ignored)} have no effect here, no message is dropped for them"
                )
        return [name for name, limit in limits.items() if limit is not None]

    def routes(self, statements: Statements, batch: Sequence[Publication]) -> list[list[str]]:
        """The queues that receive each of *batch*."""
        exchanges = sorted({publication.exchange for publication in batch if publication.exchange})
        bindings: list[tuple[Binding, str]] = []
        if exchanges:
            bindings = [
                (Binding(exchange, routing_key, exchange_type), queue)
                for exchange, routing_key, queue, exchange_type in statements.rows(
                    self._bindings, (self._values(exchanges),)
                )
            ]
        found: dict[tuple[str, str], list[str]] = {}
        routes = []
        for publication in batch:
            key = (publication.exchange, publication.routing_key)
            if key not in found:
                found[key] = queues_for(bindings, *key)
            routes.append(found[key])
        return routes

    def names(self, statements: Statements) -> list[str]:
        return [str(name) for (name,) in statements.rows(self._names)]

    def use(self, statements: Statements, queues: Sequence[str]) -> None:
        """These queues have a consumer."""
        if queues:
            statements.run(self._used, (self._values(sorted(queues)),))

    def unused(self, statements: Statements) -> bool:
        """Whether :meth:`sweep` has anything to do. Locks nothing."""
        return bool(statements.rows(self._any_unused))

    def sweep(self, statements: Statements) -> None:
        """Delete queues that were to vanish with their consumer; one with a lease goes when that has ended."""
        names = [str(name) for (name,) in statements.rows(self._unused)]
        if not names:
            return
        values = (self._values(names),)
        statements.run(self._forget_bindings, values)
        for sql in self._forget_messages:
            statements.run(sql, values)
        leased = {str(name) for (name,) in statements.rows(self._leased, values)}
        empty = [name for name in names if name not in leased]
        if empty:
            statements.run(self._forget_queues, (self._values(empty),))


def _idle_limit(queue: QueueSpec) -> float | None:
    expires = (queue.queue_arguments or {}).get("x-expires")
    if isinstance(expires, int | float) and expires > 0:
        return float(expires) / 1000
    return IDLE_LIMIT if queue.auto_delete or queue.exclusive else None


def _check(what: str, name: str) -> None:
    if not fits(name):
        raise InvalidSetting(
            "task_queues", f"the {what} {name[:60]!r} must have at most {NAME_LENGTH} characters and no NUL"
        )
