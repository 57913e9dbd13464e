"""The pytest plugin: real servers, started when a test first asks for one.

=====================  =======================================================================
``postgresql_server``  a :class:`~kern_testing.servers.PostgreSQL` of this process, for faults
``postgresql_url``     a fresh database on it
``mariadb_server``     the same for MariaDB
``mariadb_url``
``redis_server``       a :class:`~kern_testing.servers.Redis`
``redis_url``          emptied before the test
``sqlite_url``         a file that does not exist yet
``clock``              a :class:`~kern_testing.clock.VirtualClock` that stands still
``kern_clock``         what time it is for ``kern_app``: it flows, and ``advance`` moves it
``kern_config``        settings of ``kern_app``; override it
``kern_app``           an application on ``memory://``; override it with your own (see below)
``kern_worker``        a worker of ``kern_app`` in a thread, until the test ends
=====================  =======================================================================

Your own application, for all tests of a folder, in its ``conftest.py``::

    @pytest.fixture
    def kern_app(kern_clock):
        with in_memory(my_project.app, kern_clock) as app:
            yield app

A server that is not installed skips the test and says what to install. Under xdist each process has its own servers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from kern_testing.clock import VirtualClock
from kern_testing.servers import MariaDB, MissingServer, PostgreSQL, Redis, Server

if TYPE_CHECKING:
    from kern.app import Kern
    from kern_testing.worker import WorkerThread

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


@pytest.fixture(scope="session")
def _postgresql_databases() -> list[str]:
    """URLs of databases that are empty again."""
    return []


@pytest.fixture
def postgresql_url(postgresql_server: PostgreSQL, _postgresql_databases: list[str]) -> Iterator[str]:
    """URL of an empty PostgreSQL database, with user and password."""
    postgresql_server.start()  # a fault may have ended it
    url = _postgresql_databases.pop() if _postgresql_databases else postgresql_server.create_database()
    yield url
    postgresql_server.start()
    postgresql_server.empty_database(url)
    _postgresql_databases.append(url)


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


@pytest.fixture
def kern_clock() -> VirtualClock:
    """What time it is for ``kern_app``: it flows, and ``advance`` moves it."""
    return VirtualClock(flowing=True)


@pytest.fixture
def kern_config() -> dict[str, Any]:
    """Settings of ``kern_app``, by name."""
    return {}


@pytest.fixture
def kern_app(kern_config: dict[str, Any], kern_clock: VirtualClock) -> Iterator[Kern]:
    """An application whose broker and result store are in memory and gone after the test."""
    from kern.app import Kern
    from kern_testing.worker import in_memory

    with in_memory(Kern("tests", **kern_config), kern_clock) as app:
        yield app


@pytest.fixture
def kern_worker(kern_app: Kern) -> Iterator[WorkerThread]:
    """A worker of ``kern_app`` in a thread; it knows tasks defined before and after it started."""
    from kern_testing.worker import WorkerThread

    running = WorkerThread(kern_app).start()
    yield running
    running.stop()
