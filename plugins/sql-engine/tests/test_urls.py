"""URLs: what people write, and the database they mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from kern.errors import ImproperlyConfigured
from kern_sql_engine.urls import Family, is_sql_url, parse, schemes


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_spellings_of_one_file_are_one_database(here: Path) -> None:
    """Relative or absolute, with dots, through a link, before and after the file is there, in Celery's words too."""
    (here / "folder").mkdir()
    (here / "link").symlink_to(here / "folder")
    spellings = [
        "sqlite:///folder/kern.db",
        "sqlite://folder/kern.db",
        f"sqlite:///{here}/folder/kern.db",
        f"sqlite:///{here}/folder/../folder/./kern.db",
        "sqlite:///link/kern.db",
        "sqla+sqlite:///folder/kern.db",
        "db+sqlite:///folder/kern.db",
        "database+sqlite:///folder/kern.db",
        "sqlite+pysqlite:///folder/kern.db",
    ]
    assert len({parse(url).identity for url in spellings}) == 1
    (here / "folder" / "kern.db").touch()
    assert len({parse(url).identity for url in spellings}) == 1
    assert parse("sqlite:///folder/other.db").identity != parse(spellings[0]).identity


def test_a_relative_path_is_fixed_when_the_url_is_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that changes its directory keeps its database."""
    database = parse("sqlite:///kern.db")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert database.path == str(here / "kern.db")


@pytest.mark.parametrize(
    "spellings",
    [
        [
            "postgresql://kern:one@localhost/app",
            "postgres://kern:two@LOCALHOST:5432/app",
            "postgresql+psycopg2://kern@127.0.0.1/app",
            "db+postgresql+psycopg://kern:three@127.0.0.1:5432/app?sslmode=disable",
        ],
        [
            "mysql://kern:one@db.example/app",
            "mariadb://kern@DB.example:3306/app",
            "sqla+mysql+pymysql://kern:%40%2F@db.example/app?charset=utf8mb4",
        ],
    ],
)
def test_two_spellings_of_one_server_are_one_database(spellings: list[str]) -> None:
    """Scheme, driver, port, password and how to connect do not make another database."""
    assert len({parse(url).identity for url in spellings}) == 1


@pytest.mark.parametrize(
    "other",
    [
        "postgresql://kern@localhost/other",
        "postgresql://other@localhost/app",
        "postgresql://kern@elsewhere/app",
        "postgresql://kern@localhost:5433/app",
        "postgresql://kern@localhost/app?options=-csearch_path%3Dother",
        "mysql://kern@localhost/app",
    ],
)
def test_another_database_is_another(other: str) -> None:
    """Host, port, database, user and what chooses the schema count: results must not be written where nobody looks."""
    assert parse("postgresql://kern@localhost/app").identity != parse(other).identity


@pytest.mark.parametrize(
    ("url", "family"),
    [
        ("sqlite:///a.db", Family.SQLITE),
        ("postgresql://h/d", Family.POSTGRESQL),
        ("postgres://h/d", Family.POSTGRESQL),
        ("mysql://h/d", Family.MYSQL),
        ("mariadb+mariadbconnector://h/d", Family.MYSQL),
    ],
)
def test_every_scheme_has_its_family(here: Path, url: str, family: Family) -> None:
    assert parse(url).family is family
    assert is_sql_url(url)


def test_every_scheme_that_is_offered_is_understood(here: Path) -> None:
    for scheme in schemes(prefixes=("sqla", "db")):
        assert parse(f"{scheme}://name/database").family in Family


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "cannot be shared"),
        ("sqlite:///kern.db?timeout=3", "remove '?timeout=3'"),
        ("postgresql://host", "names no database"),
        ("mysql://user:secret@host/", "names no database"),
        ("postgresql://user:se/cr@et@host:port/db", "percent-encoded"),
        ("postgresq://user:secret@host/db", "did you mean postgresql://?"),
        ("oracle://user:secret@host/db", "not the URL of a database"),
        ("kern.db", "not the URL of a database"),
        ("", "not the URL of a database"),
    ],
)
def test_a_wrong_url_is_refused_with_what_to_write(url: str, says: str) -> None:
    with pytest.raises(ImproperlyConfigured) as refused:
        parse(url)
    assert says in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "cr@et" not in str(refused.value)


def test_no_password_is_shown() -> None:
    database = parse("postgresql://kern:secret@localhost/app")
    for shown in (database.masked, database.identity, repr(database)):
        assert "secret" not in shown
    assert not is_sql_url("redis://localhost")
