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
from collections.abc import Sequence
from pathlib import Path
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


class Redis(Server):
    """Redis; what it confirms is in memory alone, unless *append_only*."""

    name, package, binary = "Redis", "redis-server", "redis-server"
    stop_signal = signal.SIGTERM

    def __init__(self, append_only: bool = False) -> None:
        super().__init__()
        self.append_only = append_only

    def _prepare(self, folder: Path) -> None:
        (folder / "data").mkdir()

    def _command(self, folder: Path) -> Sequence[str]:
        return [
            self._executable,
            *("--port", str(self.port)),
            *("--bind", "127.0.0.1"),
            *("--dir", str(folder / "data")),
            *("--unixsocket", str(folder / "socket")),
            *("--save", ""),
            *("--appendonly", "yes" if self.append_only else "no"),
            *("--appendfsync", "always"),
        ]

    def _answers(self) -> bool:
        try:
            return self.command("PING").startswith("+PONG")
        except OSError:
            return False

    def command(self, *words: str) -> str:
        """Send one command without its library; the first line of the answer."""
        request = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(request.encode())
            with connection.makefile("rb") as answer:
                return answer.readline().decode().strip()

    def flush(self) -> None:
        """Delete everything."""
        self.command("FLUSHALL")

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"


def database_of(url: str) -> str:
    """The database a URL names."""
    return url.rpartition("/")[2].partition("?")[0]
