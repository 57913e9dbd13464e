"""Where messages and results of one measurement are: a new, empty place each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from benchmarks.lineup import Contestant
from kern_testing.servers import PostgreSQL, Redis


@attrs.frozen
class Place:
    """What a contestant is given."""

    broker: str
    backend: str
    #: Process id of the server, where it is one of our own.
    pid: int | None = None


class Servers:
    """Servers by the name rows use: ``sqlite``, ``postgresql``, ``redis``, or ``none``. Ended with the context."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._postgresql: PostgreSQL | None = None

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def place(self, server: str, contestant: Contestant, folder: Path) -> Iterator[Place]:
        """An empty place on *server*, for as long as the context."""
        if server == "redis":
            # One of its own for each measurement: nothing is left of the last, in its memory or its statistics.
            redis = Redis()
            redis.start()
            try:
                yield Place(redis.url(), redis.url(), redis.pid)
            finally:
                redis.stop()
        elif server == "postgresql":
            postgresql = self._running_postgresql()
            database = postgresql.create_database()
            try:
                yield _on_sql(database, contestant)
            finally:
                postgresql.drop_database(database)
        else:
            yield _on_sql(f"sqlite:///{folder / 'bench.db'}", contestant)

    def _running_postgresql(self) -> PostgreSQL:
        if self._postgresql is None:
            self._postgresql = PostgreSQL()
            self._postgresql.start()
            self._stack.callback(self._postgresql.stop)
        return self._postgresql


def _on_sql(url: str, contestant: Contestant) -> Place:
    """Messages and results in one database."""
    if contestant.dialect == "kern":
        return Place(url, f"db+{url}")
    url = url.replace("postgresql://", "postgresql+psycopg://")
    return Place(f"sqla+{url}", f"db+{url}")
