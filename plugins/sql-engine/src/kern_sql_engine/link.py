"""One connection that a driver keeps, made anew where it has gone stale while nobody used it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from kern_sql_engine.connections import Connection
from kern_sql_engine.database import Database
from kern_sql_engine.failures import Kind, SqlError
from kern_sql_engine.urls import Family

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

#: Seconds without use after which a connection to a server is tried before it is used.
IDLE = 10.0


class Link:
    """For one thread at a time.

    :param prepare: called with each new connection; may create tables.
    :param ping: try a connection that has been idle.
    :param recycle: seconds after which a connection is replaced; ``None``: never.
    :param keep: ``False`` makes a new connection for each use: :meth:`release` ends it.
    """

    def __init__(
        self,
        database: Database,
        prepare: Callable[[Connection], None],
        engine: Engine | None = None,
        ping: bool = True,
        recycle: float | None = None,
        keep: bool = True,
    ) -> None:
        self.database = database
        self._prepare = prepare
        self._engine = engine
        self._ping = ping and database.family is not Family.SQLITE
        self._recycle = recycle
        self._keep = keep
        self._connection: Connection | None = None
        self._made = self._used = 0.0

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def current(self) -> Connection:
        """The connection as it is.

        :raises SqlError: there is none.
        """
        if self._connection is None:
            raise SqlError(Kind.UNREACHABLE, f"{self.database.url.masked}: there is no connection", lost=True)
        return self._connection

    def open(self) -> Connection:
        """A new connection, whatever was there.

        :raises SqlError: the database cannot be used.
        """
        self.close()
        connection = self.database.connect(self._engine)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._made = self._used = time.monotonic()
        return connection

    def get(self) -> Connection:
        """The connection, fit to be used.

        :raises SqlError: the link was closed, or the database cannot be used.
        """
        if self._connection is None and not self._keep:
            return self.open()
        connection = self.current
        now = time.monotonic()
        if self._ping and now - self._used > IDLE:
            try:
                connection.rows("SELECT 1")
            except SqlError:
                return self.open()
        if self._recycle is not None and now - self._made > self._recycle:
            return self.open()
        self._used = now
        return connection

    def release(self) -> None:
        """The connection is not needed for now."""
        if not self._keep:
            self.close()

    def close(self) -> None:
        """Safe twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
