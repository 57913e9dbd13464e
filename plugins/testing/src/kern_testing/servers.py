"""Real servers for tests: each on a free port, in a temporary folder, ended by its process id.

A server is made once and started when first needed::

    server = PostgreSQL()
    server.start()
    url = server.create_database()
    server.stop()

Beside ``start`` and ``stop`` there is what faults need: ``kill`` (no warning), ``pause`` and ``resume`` (a server that
does not answer), ``restart`` (same port, same data). Passwords are set, so that a wrong one is refused.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from kern_testing.waiting import Deadline

#: Debian keeps server binaries outside the PATH.
FOLDERS: tuple[str, ...] = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")
#: The user that server processes run as when tests run as root and the server refuses that.
USER, PASSWORD = "kern", "kern-testing"
#: Another process may take a free port between our asking and the server's binding it.
PORT_ATTEMPTS = 5


class MissingServer(Exception):
    """The server is not installed here."""

    def __init__(self, server: str, binary: str, package: str) -> None:
        self.server, self.binary, self.package = server, binary, package
        super().__init__(
            f"{server} is not installed: no {binary!r} on the PATH or in Debian's folders; "
            f"sudo apt-get install --no-install-recommends {package}"
        )


class ServerFailed(Exception):
    """The server is installed, and did not start."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_binary(name: str, *globs: str) -> str | None:
    """Path of *name*: on the PATH, in Debian's folders, or the highest match of *globs*."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(FOLDERS))
    if found:
        return found
    for pattern in globs:
        matches = sorted(Path("/").glob(pattern.lstrip("/")), key=lambda path: [len(part) for part in path.parts])
        for match in reversed(matches):
            if os.access(match, os.X_OK):
                return str(match)
    return None


class Server(ABC):
    """One server process and its folder."""

    #: How people call it.
    name: str
    #: The Debian package that brings it.
    package: str
    binary: str
    #: More places where the binary may be.
    globs: tuple[str, ...] = ()
    #: Whom to run as when we are root: first that exists; empty: root is fine.
    accounts: tuple[str, ...] = ()
    #: Ends the server at once and in order.
    stop_signal: signal.Signals = signal.SIGTERM
    #: Seconds a start may take: the machine may be busy.
    start_timeout: float = 60.0

    def __init__(self) -> None:
        self.port = 0
        self.folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._executable = ""

    # -- what each kind does

    @abstractmethod
    def _prepare(self, folder: Path) -> None:
        """Make the data directory, once."""

    @abstractmethod
    def _command(self, folder: Path) -> Sequence[str]: ...

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server takes work."""

    # -- life

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise ServerFailed(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and return once it answers. Nothing happens if it is running.

        :raises MissingServer: it is not installed.
        :raises ServerFailed: it did not start; the end of its log is in the message.
        """
        if self.running:
            return
        if self.folder is None:
            self._executable = self._find(self.binary)
            folder = Path(tempfile.mkdtemp(prefix=f"kern-{self.name.lower()}-"))
            self.folder = folder
            if (account := self._account()) is not None:
                os.chown(folder, account.pw_uid, account.pw_gid)
            try:
                self._prepare(folder)
            except BaseException:
                self._remove_folder()
                raise
        known_port = self.port
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self.port = known_port or free_port()
            try:
                self._launch(self.folder)
                return
            except ServerFailed:
                if known_port or attempt == PORT_ATTEMPTS or not self._port_was_taken():
                    self.stop()
                    raise

    def stop(self) -> None:
        """End the server in order, and remove its folder. Safe before a start, and twice."""
        self._end(self.stop_signal)
        self._remove_folder()

    def restart(self, hard: bool = False) -> None:
        """End (*hard*: kill) and start again: same port, same data."""
        self._end(signal.SIGKILL if hard else self.stop_signal)
        self.start()

    def kill(self) -> None:
        """End without any warning; ``start`` brings it back with what was on disk."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """The server keeps its connections and answers nothing."""
        for pid in self._processes():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._processes():
            os.kill(pid, signal.SIGCONT)

    def log(self, lines: int = 20) -> str:
        """The end of what the server printed."""
        if self.folder is None or not (path := self.folder / "log").exists():
            return ""
        return "\n".join(path.read_text("utf-8", "replace").splitlines()[-lines:])

    # -- inside

    def _find(self, binary: str) -> str:
        found = find_binary(binary, *(f"{pattern}/{binary}" for pattern in self.globs))
        if found is None:
            raise MissingServer(self.name, binary, self.package)
        return found

    def _account(self) -> pwd.struct_passwd | None:
        if os.geteuid() != 0:
            return None
        for name in self.accounts:
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(name)
        return None

    def _run(self, *command: str, stdin: str | None = None) -> str:
        """Run a tool of the server to its end, as the server's user."""
        account = self._account()
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-2000:]
            raise ServerFailed(f"{self.name}: {command[0]} ended with {done.returncode}: {said}")
        return done.stdout

    def _launch(self, folder: Path) -> None:
        account = self._account()
        with (folder / "log").open("ab") as output:
            self._process = subprocess.Popen(
                [*self._dies_with_us(), *self._command(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                start_new_session=True,  # Ctrl-C in the terminal is for the tests; they end the server
            )
        deadline = Deadline(self.start_timeout)
        while not self._answers():
            if self._process.poll() is not None:
                raise ServerFailed(f"{self.name} ended with {self._process.returncode} at its start:\n{self.log()}")
            if deadline.over:
                raise ServerFailed(f"{self.name} does not answer after {self.start_timeout:g} s:\n{self.log()}")
            time.sleep(0.01)

    def _dies_with_us(self) -> list[str]:
        """A killed test run leaves no server behind, where the system can say so."""
        setpriv = shutil.which("setpriv")
        return [setpriv, "--pdeathsig", self.stop_signal.name.removeprefix("SIG"), "--"] if setpriv else []

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)  # a paused one could not end
            os.kill(process.pid, how)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _processes(self) -> list[int]:
        """The server's process and those it made."""
        main = self.pid
        found = [main]
        for entry in Path("/proc").iterdir() if Path("/proc/self/stat").exists() else ():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, ValueError):
                    # The name in parentheses may contain anything.
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    if parent == main:
                        found.append(int(entry.name))
        return found

    def _port_was_taken(self) -> bool:
        return "ddress already in use" in self.log()

    def _remove_folder(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None
            self.port = 0


class PostgreSQL(Server):
    """PostgreSQL with ``fsync`` on, over TCP and a socket in its folder."""

    name, package, binary = "PostgreSQL", "postgresql", "postgres"
    globs = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
    accounts = ("postgres", "nobody")
    stop_signal = signal.SIGINT  # "fast": does not wait for clients

    def _prepare(self, folder: Path) -> None:
        password = folder / "password"
        password.write_text(PASSWORD)
        if (account := self._account()) is not None:
            os.chown(password, account.pw_uid, account.pw_gid)
        self._run(
            self._find("initdb"),
            f"--pgdata={folder / 'data'}",
            f"--username={USER}",
            f"--pwfile={password}",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",  # of the empty cluster alone; the server syncs as always
        )

    def _command(self, folder: Path) -> Sequence[str]:
        return [
            self._executable,
            *("-D", str(folder / "data")),
            *("-k", str(folder)),
            *("-p", str(self.port)),
            *("-c", "listen_addresses=127.0.0.1"),
            *("-c", "max_connections=200"),
            *("-c", "shared_buffers=64MB"),
        ]

    def _answers(self) -> bool:
        try:
            return self.sql("select 1", "postgres").strip() == "1"
        except ServerFailed:
            return False

    def sql(self, statement: str, database: str) -> str:
        """Run one statement as the superuser; the rows as text."""
        return self._run(
            self._find("psql"),
            "--no-psqlrc",
            *("--host", str(self.folder), "--port", str(self.port), "--username", USER),
            *("--tuples-only", "--no-align", "--quiet", "--set", "ON_ERROR_STOP=1"),
            *("--command", statement, database),
        )

    def create_database(self) -> str:
        """A new, empty database; its URL."""
        database = f"test_{secrets.token_hex(6)}"
        self.sql(f"create database {database} template template0", "postgres")
        return self.url(database)

    def drop_database(self, url: str) -> None:
        """Drop it, whoever is connected."""
        self.sql(f"drop database if exists {database_of(url)} with (force)", "postgres")

    def empty_database(self, url: str) -> None:
        """Leave nothing in it and nobody connected: several times cheaper than a new one."""
        self.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid(); "
            "do $$ declare name text; begin "
            "for name in select nspname from pg_namespace "
            "where nspname !~ '^pg_' and nspname <> 'information_schema' loop "
            "execute format('drop schema %I cascade', name); end loop; "
            "create schema public; end $$",
            database_of(url),
        )

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}:{quote(PASSWORD)}@127.0.0.1:{self.port}/{database}"


class MariaDB(Server):
    """MariaDB, over TCP and a socket in its folder."""

    name, package, binary = "MariaDB", "mariadb-server", "mariadbd"
    globs = ("/usr/libexec", "/usr/local/mysql/bin")
    accounts = ("mysql", "nobody")

    def _prepare(self, folder: Path) -> None:
        installer = find_binary("mariadb-install-db") or self._find("mysql_install_db")
        account = self._account()
        self._run(
            installer,
            "--no-defaults",
            f"--datadir={folder / 'data'}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *([f"--user={account.pw_name}"] if account else []),
        )

    def _command(self, folder: Path) -> Sequence[str]:
        return [
            self._executable,
            "--no-defaults",
            f"--datadir={folder / 'data'}",
            f"--socket={folder / 'socket'}",
            f"--pid-file={folder / 'pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--max-connections=200",
        ]

    def _answers(self) -> bool:
        if self.folder is None or not (self.folder / "socket").exists():
            return False
        try:
            self.sql(
                f"create user if not exists '{USER}'@'127.0.0.1' identified by '{PASSWORD}'; "
                f"grant all on *.* to '{USER}'@'127.0.0.1'"
            )
        except ServerFailed:
            return False
        return True

    def sql(self, statement: str) -> str:
        """Run statements as root; the rows as text."""
        client = find_binary("mariadb") or self._find("mysql")
        socket_path = f"--socket={self.folder}/socket"
        return self._run(
            client, "--no-defaults", socket_path, "--user=root", "--batch", "--skip-column-names", "-e", statement
        )

    def create_database(self) -> str:
        """A new, empty database; its URL."""
        database = f"test_{secrets.token_hex(6)}"
        self.sql(f"create database {database}")
        return self.url(database)

    def drop_database(self, url: str) -> None:
        self.sql(f"drop database if exists {database_of(url)}")

    def url(self, database: str = "mysql") -> str:
        return f"mysql://{USER}:{quote(PASSWORD)}@127.0.0.1:{self.port}/{database}"


class _SpeaksResp(Server):
    """What answers as Redis does."""

    name, package, binary = "Redis", "redis-server", "redis-server"
    stop_signal = signal.SIGTERM
    password: str | None

    def _answers(self) -> bool:
        try:
            return self.command("PING").startswith("+PONG")
        except OSError:
            return False

    def command(self, *words: str) -> str:
        """Send one command without its library; the first line of the answer."""
        login = [] if self.password is None else [("AUTH", self.password)]
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"".join(map(_as_resp, (*login, words))))
            with connection.makefile("rb") as answers:
                for _ in login:
                    answers.readline()
                return answers.readline().decode().strip()

    def lines(self, *words: str) -> list[str]:
        """Send one command; the texts in its answer, one after the other."""
        login = [] if self.password is None else [("AUTH", self.password)]
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            # The answer to the last says that all is there; sentinels know no QUIT.
            connection.sendall(b"".join(map(_as_resp, (*login, words, ("PING",)))))
            with connection.makefile("rb") as answers:
                said = [line.decode().strip() for line in iter(answers.readline, b"+PONG\r\n") if line]
        return [line for line in said[len(login) :] if line and line[0] not in "$*+"]


class Redis(_SpeaksResp):
    """Redis; what it confirms is in memory alone, unless *append_only*.

    :param append_only: has on disk what it confirms.
    :param settings: lines of its configuration: ``{"maxmemory": "3mb"}``; a list stands for several lines.
    :param password: of the user ``default``.
    :param users: further users with their rules: ``{"writer": "on >secret ~* &* +@all"}``.
    :param tls: listens with TLS too, on :attr:`tls_port`; a certificate is asked of clients if it is ``"mutual"``.
    :param replica_of: the server to follow, running.
    """

    def __init__(
        self,
        append_only: bool = False,
        *,
        settings: Mapping[str, str | Sequence[str]] | None = None,
        password: str | None = None,
        users: Mapping[str, str] | None = None,
        tls: bool | Literal["mutual"] = False,
        replica_of: Redis | None = None,
    ) -> None:
        super().__init__()
        self.append_only, self.password, self.tls, self.replica_of = append_only, password, tls, replica_of
        self.settings, self.users = dict(settings or {}), dict(users or {})
        self.tls_port = 0
        self._certificates: Certificates | None = None

    def _prepare(self, folder: Path) -> None:
        (folder / "data").mkdir()
        lines: dict[str, str | Sequence[str]] = {
            "bind": "127.0.0.1",
            "dir": str(folder / "data"),
            "unixsocket": str(self.socket_path),
            "save": '""',
            "appendonly": "yes" if self.append_only else "no",
            "appendfsync": "always",
        }
        if self.password is not None:
            lines |= {"requirepass": self.password, "masterauth": self.password}
        if self.users:
            lines["user"] = [f"{name} {rules}" for name, rules in self.users.items()]
        if self.tls:
            self._certificates = Certificates(folder / "certificates")
            self.tls_port = free_port()
            lines |= {
                "tls-port": str(self.tls_port),
                "tls-cert-file": str(self.certificates.server),
                "tls-key-file": str(self.certificates.server_key),
                "tls-ca-cert-file": str(self.certificates.authority),
                "tls-auth-clients": "yes" if self.tls == "mutual" else "no",
            }
        if self.replica_of is not None:
            lines["replicaof"] = f"127.0.0.1 {self.replica_of.port}"
        write_lines(folder / "redis.conf", lines | self.settings)

    def _command(self, folder: Path) -> Sequence[str]:
        return [self._executable, str(folder / "redis.conf"), "--port", str(self.port)]

    def flush(self) -> None:
        """Delete everything."""
        self.command("FLUSHALL")

    @property
    def certificates(self) -> Certificates:
        """Those of a server with TLS."""
        assert self._certificates is not None, "a server without TLS has no certificates"
        return self._certificates

    @property
    def socket_path(self) -> Path:
        """Of its Unix socket."""
        assert self.folder is not None, "the server has not been started"
        return self.folder / "socket"

    def url(self, database: int = 0) -> str:
        who = "" if self.password is None else f":{quote(self.password, safe='')}@"
        return f"redis://{who}127.0.0.1:{self.port}/{database}"

    def tls_url(self, database: int = 0) -> str:
        """For TLS, with the authority that signed the certificate."""
        who = "" if self.password is None else f":{quote(self.password, safe='')}@"
        parameters = f"ssl_cert_reqs=required&ssl_ca_certs={quote(str(self.certificates.authority))}"
        return f"rediss://{who}127.0.0.1:{self.tls_port}/{database}?{parameters}"


class RedisSentinel(_SpeaksResp):
    """One sentinel, that watches the master in *watched* under the name :attr:`MASTER`."""

    MASTER = "mymaster"

    def __init__(self, watched: Redis, quorum: int, password: str | None = None) -> None:
        super().__init__()
        self.watched, self.quorum, self.password = watched, quorum, password

    def _prepare(self, folder: Path) -> None:
        # A sentinel keeps what it knows in its configuration.
        master = self.MASTER
        lines: dict[str, str | Sequence[str]] = {
            "bind": "127.0.0.1",
            "dir": str(folder),
            "sentinel": [
                f"monitor {master} 127.0.0.1 {self.watched.port} {self.quorum}",
                f"down-after-milliseconds {master} 500",
                f"failover-timeout {master} 2000",
                *([f"auth-pass {master} {self.watched.password}"] if self.watched.password else ()),
            ],
        }
        if self.password is not None:
            lines |= {"requirepass": self.password}
            lines["sentinel"] = [*lines["sentinel"], f"sentinel-pass {self.password}"]
        write_lines(folder / "sentinel.conf", lines)

    def _command(self, folder: Path) -> Sequence[str]:
        return [self._executable, str(folder / "sentinel.conf"), "--sentinel", "--port", str(self.port)]

    @property
    def url(self) -> str:
        return f"sentinel://127.0.0.1:{self.port}"


class RedisSentinels:
    """A master, a replica and three sentinels, which make the replica the master when the master is gone.

    :param password: of the servers.
    :param sentinel_password: of the sentinels.
    """

    def __init__(self, password: str | None = None, sentinel_password: str | None = None) -> None:
        self.first = Redis(password=password)
        self.second = Redis(password=password, replica_of=self.first)
        self.sentinels = [RedisSentinel(self.first, 2, sentinel_password) for _ in range(3)]

    def start(self) -> None:
        """Start all, and return once all know of each other.

        :raises MissingServer: it is not installed.
        :raises ServerFailed: one did not start, or they did not find each other.
        """
        for server in (self.first, self.second, *self.sentinels):
            server.start()
        deadline = Deadline(self.first.start_timeout)
        while not all(self._knows_all(sentinel) for sentinel in self.sentinels):
            if deadline.over:
                raise ServerFailed(f"the sentinels did not find each other: {self.sentinels[0].log()}")
            time.sleep(0.05)

    def stop(self) -> None:
        for server in (*self.sentinels, self.second, self.first):
            server.stop()

    @property
    def url(self) -> str:
        """All sentinels, and database 0."""
        who = "" if self.first.password is None else f":{quote(self.first.password, safe='')}@"
        return ";".join(f"sentinel://{who}127.0.0.1:{sentinel.port}/0" for sentinel in self.sentinels)

    @property
    def master(self) -> Redis:
        """The server that the first sentinel that runs takes for the master."""
        sentinel = next(sentinel for sentinel in self.sentinels if sentinel.running)
        port = int(sentinel.lines("SENTINEL", "GET-MASTER-ADDR-BY-NAME", sentinel.MASTER)[1])
        return next(server for server in (self.first, self.second) if server.port == port)

    def _knows_all(self, sentinel: RedisSentinel) -> bool:
        said = sentinel.lines("SENTINEL", "MASTER", sentinel.MASTER)
        facts = dict(zip(said[::2], said[1::2], strict=False))
        return (facts.get("num-other-sentinels"), facts.get("num-slaves")) == ("2", "1")


class RedisCluster:
    """Three masters that share the keys among them."""

    def __init__(self) -> None:
        self.nodes = [
            Redis(settings={"cluster-enabled": "yes", "cluster-node-timeout": "2000", "cluster-port": str(free_port())})
            for _ in range(3)
        ]

    def start(self) -> None:
        """Start all, and return once each slot has its node.

        :raises MissingServer: it is not installed.
        :raises ServerFailed: one did not start, or they did not find each other.
        """
        if all(node.running for node in self.nodes):
            return
        for node in self.nodes:
            node.start()
        bounds = [0, 5461, 10923, 16384]
        for node, first, end in zip(self.nodes, bounds, bounds[1:], strict=False):
            node.command("CLUSTER", "ADDSLOTSRANGE", str(first), str(end - 1))
        for node in self.nodes[1:]:
            port, bus = str(node.port), str(node.settings["cluster-port"])
            self.nodes[0].command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        deadline = Deadline(self.nodes[0].start_timeout)
        while not all(self._complete(node) for node in self.nodes):
            if deadline.over:
                raise ServerFailed(f"the nodes did not find each other: {self.nodes[0].log()}")
            time.sleep(0.05)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def url(self, node: int = 0) -> str:
        """Of one node."""
        return self.nodes[node].url()

    def flush(self) -> None:
        """Delete everything."""
        for node in self.nodes:
            node.flush()

    def give(self, slot: int, source: int, target: int) -> None:
        """Have the empty *slot* of node *source* belong to node *target*, for all of them."""
        owner = self.nodes[target].lines("CLUSTER", "MYID")[0]
        for node in (target, source, *range(3)):
            self.nodes[node].command("CLUSTER", "SETSLOT", str(slot), "NODE", owner)

    def _complete(self, node: Redis) -> bool:
        said = node.lines("CLUSTER", "INFO")
        return "cluster_state:ok" in said and "cluster_known_nodes:3" in said


class Certificates:
    """An authority, and what it has signed: a server's certificate for this machine, and a client's.

    :param folder: made, and filled with files.
    :raises ServerFailed: there is no ``openssl``, or it failed.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.authority = folder / "authority.pem"
        key = self._make("authority", None)
        self.server, self.server_key = folder / "server.pem", self._make("server", key)
        self.client, self.client_key = folder / "client.pem", self._make("client", key)

    def _make(self, name: str, authority_key: Path | None) -> Path:
        key, certificate = self._folder / f"{name}.key", self._folder / f"{name}.pem"
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key))
        subject = ("-subj", f"/CN=kern testing {name}")
        if authority_key is None:
            self._openssl("req", "-x509", *new_key, *subject, "-days", "2", "-out", str(certificate))
            return key
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._openssl("req", *new_key, *subject, "-out", str(request))
        self._openssl(
            *("x509", "-req", "-in", str(request), "-days", "2", "-CAcreateserial", "-extfile", str(extensions)),
            *("-CA", str(self.authority), "-CAkey", str(authority_key), "-out", str(certificate)),
        )
        return key

    def _openssl(self, *words: str) -> None:
        binary = find_binary("openssl")
        if binary is None:
            raise MissingServer("OpenSSL", "openssl", "openssl")
        done = subprocess.run([binary, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerFailed(f"openssl {words[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")


def write_lines(path: Path, lines: Mapping[str, str | Sequence[str]]) -> None:
    """A configuration of Redis."""
    written = (
        f"{key} {value}" for key, values in lines.items() for value in ([values] if isinstance(values, str) else values)
    )
    path.write_text("\n".join(written) + "\n")


def _as_resp(words: Sequence[str]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)


def database_of(url: str) -> str:
    """The database a URL names."""
    return url.rpartition("/")[2].partition("?")[0]
