"""What several tests of the store use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kern.settings import Settings
from kern.settings_core import ResultSettings
from kern_backend_sql.settings import DatabaseSettings
from kern_backend_sql.store import SqlResultStore

DATABASES = ("sqlite", "postgresql", "mariadb")


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


def made(url: str, **changes: Any) -> SqlResultStore:
    return SqlResultStore(url, Settings([ResultSettings, DatabaseSettings], changes=changes, environ={}))


@pytest.fixture
def make() -> Callable[..., SqlResultStore]:
    """Makes a store that is not opened: ``make(url, result_expires=None)``."""
    return made


@pytest.fixture
def opened() -> Iterator[Callable[..., SqlResultStore]]:
    """Makes an open store."""
    stores: list[SqlResultStore] = []

    def opened(url: str, **changes: Any) -> SqlResultStore:
        stores.append(made(url, **changes))
        stores[-1].open()
        return stores[-1]

    yield opened
    for store in stores:
        store.close()
