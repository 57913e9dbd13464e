"""What several tests of the transport use."""

from __future__ import annotations

import pytest

DATABASES = ("sqlite", "postgresql", "mariadb")


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found
