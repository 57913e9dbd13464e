"""Servers for tests are real ones, and end when the tests do."""

import os
import socket

import pytest

from kern_testing.servers import MariaDB, MissingServer, PostgreSQL, Redis, Server, database_of, find_binary
from kern_testing.waiting import eventually


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("make", [PostgreSQL, MariaDB])
def test_a_stopped_server_leaves_neither_process_nor_folder_nor_port(make: type[Server]) -> None:
    """A stopped server leaves neither process nor folder nor port."""
    server = make()
    try:
        server.start()
    except MissingServer as missing:
        pytest.skip(str(missing))
    pid, port, folder = server.pid, server.port, server.folder
    assert folder is not None
    assert folder.exists()
    assert listens(port)
    server.stop()
    assert not alive(pid)
    assert not folder.exists()
    assert not listens(port)
    server.stop()  # twice is fine


def test_each_postgresql_database_is_empty_and_its_own(postgresql_server: PostgreSQL, postgresql_url: str) -> None:
    """What is made in one database is not seen in the next."""
    postgresql_server.sql("create table t (x int)", database_of(postgresql_url))
    other = postgresql_server.create_database()
    assert postgresql_server.sql("select count(*) from pg_tables where tablename = 't'", database_of(other)) == "0\n"
    postgresql_server.drop_database(other)


def test_postgresql_syncs_to_disk(postgresql_server: PostgreSQL) -> None:
    """What the server confirmed survives its death: fsync is on, and a killed server comes back with the data."""
    url = postgresql_server.create_database()
    name = database_of(url)
    assert postgresql_server.sql("show fsync", name).strip() == "on"
    postgresql_server.sql("create table t (x int); insert into t values (42)", name)
    port = postgresql_server.port
    postgresql_server.restart(hard=True)
    assert postgresql_server.port == port
    assert postgresql_server.sql("select x from t", name).strip() == "42"
    postgresql_server.drop_database(url)


def test_mariadb_databases_can_be_written(mariadb_server: MariaDB, mariadb_url: str) -> None:
    """A fresh MariaDB database takes tables, and its user is the one of the URL."""
    name = database_of(mariadb_url)
    mariadb_server.sql(f"create table {name}.t (x int); insert into {name}.t values (7)")
    assert mariadb_server.sql(f"select x from {name}.t").strip() == "7"
    assert "kern" in mariadb_server.sql("select user from mysql.user")


def test_a_paused_server_answers_nothing_until_it_is_resumed(postgresql_server: PostgreSQL) -> None:
    """A paused server still has its port, and answers again once resumed."""
    postgresql_server.pause()
    try:
        assert listens(postgresql_server.port)
        with socket.create_connection(("127.0.0.1", postgresql_server.port)) as connection:
            connection.settimeout(0.2)
            connection.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")  # "do you speak TLS?"
            with pytest.raises(TimeoutError):
                connection.recv(1)
    finally:
        postgresql_server.resume()
    assert eventually(lambda: postgresql_server.sql("select 1", "postgres").strip() == "1", "it answers again")


def test_a_missing_server_says_what_to_install() -> None:
    """The message names the binary and the package."""

    class Nowhere(Redis):
        binary = "kern-no-such-server"

    with pytest.raises(MissingServer, match=r"no 'kern-no-such-server'.*apt-get install .*redis-server"):
        Nowhere().start()
    assert find_binary("kern-no-such-server") is None
