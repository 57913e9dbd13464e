"""The pytest plugin: real servers, started when a test first asks for one.

=====================  =======================================================================
``postgresql_server``  a :class:`~kern_testing.servers.PostgreSQL` of this process, for faults
``postgresql_url``     a fresh database on it
``mariadb_server``     the same for MariaDB
``mariadb_url``
``redis_server``       a :class:`~kern_testing.servers.Redis`
``redis_url``          emptied before the test
``sqlite_url``         a file that does not exist yet
``clock``              a :class:`~kern_testing.clock.VirtualClock`
=====================  =======================================================================

A server that is not installed skips the test and says what to install. Under xdist each process has its own servers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from kern_testing.clock import VirtualClock
from kern_testing.servers import MariaDB, MissingServer, PostgreSQL, Redis, Server

if TYPE_CHECKING:
    ServerT = TypeVar("ServerT", bound=Server)


def running(server: ServerT) -> Iterator[ServerT]:
    """*server*, started, and stopped afterwards; skips where it is not installed."""
    try:
        server.start()
    except MissingServer as missing:
        pytest.skip(str(missing))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """PostgreSQL with ``fsync`` on."""
    yield from running(PostgreSQL())


@pytest.fixture
def postgresql_url(postgresql_server: PostgreSQL) -> Iterator[str]:
    """URL of an empty PostgreSQL database, with user and password."""
    postgresql_server.start()  # a fault may have ended it
    url = postgresql_server.create_database()
    yield url
    postgresql_server.start()
    postgresql_server.drop_database(url)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDB]:
    """MariaDB."""
    yield from running(MariaDB())


@pytest.fixture
def mariadb_url(mariadb_server: MariaDB) -> Iterator[str]:
    """URL of an empty MariaDB database, with user and password."""
    mariadb_server.start()
    url = mariadb_server.create_database()
    yield url
    mariadb_server.start()
    mariadb_server.drop_database(url)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """Redis without persistence."""
    yield from running(Redis())


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """URL of an empty Redis."""
    redis_server.start()
    redis_server.flush()
    return redis_server.url()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of an SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'kern.db'}"


@pytest.fixture
def clock() -> VirtualClock:
    """A clock that moves when the test says so."""
    return VirtualClock()
