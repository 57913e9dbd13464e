"""Servers for tests are real ones, and end when the tests do."""

import os
import shutil
import socket
import subprocess
import sys

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


def test_an_emptied_postgresql_database_is_as_new(postgresql_server: PostgreSQL, postgresql_url: str) -> None:
    """No table, type, function or schema of the test before is left, and no connection."""
    name = database_of(postgresql_url)
    postgresql_server.sql(
        'create table t (x serial); create type kind as enum (\'a\'); create schema "odd ""name"; '
        'create view "odd ""name".v as select 1; create function f() returns int language sql as \'select 1\'',
        name,
    )
    postgresql_server.empty_database(postgresql_url)
    left = "select count(*) from {} where {} in (select oid from pg_namespace where nspname = 'public')"
    for catalogue, column in (("pg_class", "relnamespace"), ("pg_type", "typnamespace"), ("pg_proc", "pronamespace")):
        assert postgresql_server.sql(left.format(catalogue, column), name).strip() == "0"
    schemas = "select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'"
    assert postgresql_server.sql(schemas, name).strip() == "public"
    postgresql_server.sql("create table t (x int)", name)


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


def test_redis_keeps_what_it_confirmed_if_told_to() -> None:
    """A killed Redis comes back on its port with all that it had confirmed, if append-only; else with nothing."""
    for append_only, kept in ((True, ":1"), (False, ":0")):
        server = Redis(append_only=append_only, password="sésame", settings={"maxmemory": "50mb"})
        try:
            server.start()
            assert server.command("CONFIG", "GET", "maxmemory").startswith("*2")
            assert "52428800" in server.lines("CONFIG", "GET", "maxmemory")
            server.command("SET", "key", "value")
            port = server.port
            server.restart(hard=True)
            assert server.port == port
            assert server.command("EXISTS", "key") == kept
        except MissingServer as missing:
            pytest.skip(str(missing))
        finally:
            server.stop()


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


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) ties a server to its tests")
def test_a_killed_test_run_leaves_no_server_running() -> None:
    """Who is killed cannot stop its servers; they end all the same."""
    program = (
        "import sys, time\nfrom kern_testing.servers import PostgreSQL\n"
        "server = PostgreSQL()\nserver.start()\nprint(server.pid, server.folder, flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        pid, folder = run.stdout.readline().split()
        assert alive(int(pid))
        run.kill()
    try:
        eventually(lambda: not alive(int(pid)), "the server has ended")
    finally:
        shutil.rmtree(folder)


def test_a_missing_server_says_what_to_install() -> None:
    """The message names the binary and the package."""

    class Nowhere(Redis):
        binary = "kern-no-such-server"

    with pytest.raises(MissingServer, match=r"no 'kern-no-such-server'.*apt-get install .*redis-server"):
        Nowhere().start()
    assert find_binary("kern-no-such-server") is None
