"""Private servers for the tests: started on a free loopback port, ended with the test that started them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Self

_HOSTS_AT_ONCE = 20
_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"

START_TIMEOUT = 20.0
"""Seconds a server may take until it answers."""


class Server:
    """A server process of our own, as a context manager.

    Its files are in a temporary folder that outlasts :meth:`kill` and :meth:`restart` and goes with
    :meth:`stop`. A missing binary raises ``RuntimeError``: without it nothing is tested.
    """

    name: str
    """The program's."""
    host = "127.0.0.1"
    patience = START_TIMEOUT

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.folder: Path | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and wait until it answers."""
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix=f"celeriac-{self.name}-"))
            self._prepare(self.folder)
        with (self.folder / "log").open("ab") as log:
            self.process = self._launch(self.folder, log)
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process, in order if it lets us, and delete its data."""
        if self.process is not None:
            self.resume()
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None
        self._forget()

    def kill(self) -> None:
        """End the process as a crash would (SIGKILL); :meth:`start` or :meth:`restart` brings it back."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        """Crash the server and start it again on the same port with what it had on disk."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop the process without ending it (SIGSTOP): connections stay and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)

    def _prepare(self, folder: Path) -> None:
        """Write what a new server needs into its folder."""

    def _launch(self, folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _forget(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + self.patience
        while not self._answers():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                assert self.folder is not None
                log = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} did not start on port {self.port}:\n{log}")
            time.sleep(0.01)


class RedisServer(Server):
    """A Redis (or Valkey) server.

    ``persistence`` is ``"none"``, ``"aof"`` (every write in the file, fsync each second) or ``"aof-always"``;
    ``config`` holds further directives (``{"maxmemory": "20mb"}``). With ``sentinel_of`` it is a Redis
    Sentinel that knows that server as ``primary``.
    """

    name = "redis-server"

    def __init__(
        self,
        persistence: str = "none",
        *,
        password: str | None = None,
        port: int | None = None,
        config: dict[str, str] | None = None,
        sentinel_of: RedisServer | None = None,
    ) -> None:
        super().__init__(port)
        self.persistence = persistence
        self.password = password
        self.config = config or {}
        self.sentinel_of = sentinel_of

    @property
    def unix_socket(self) -> str:
        """The path of the server's unix socket."""
        assert self.folder is not None
        return str(self.folder / "redis.sock")

    def url(self, db: int = 0) -> str:
        """A URL of the server's database ``db``."""
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}{self.host}:{self.port}/{db}"

    def shut_down(self) -> None:
        """End the process in order; :meth:`start` brings it back."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def command(self, *words: str | bytes | int) -> bytes:
        """Send one command on a connection of its own and return the raw reply."""
        with socket.create_connection((self.host, self.port), timeout=5) as connection:
            if self.password:
                connection.sendall(pack("AUTH", self.password))
                connection.recv(4096)
            connection.sendall(pack(*words))
            return connection.recv(1 << 20)

    def flush(self) -> None:
        """Delete everything in all databases."""
        self.command("FLUSHALL")

    def _launch(self, folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [server_binary("redis-server", "valkey-server"), *self._arguments()]
        if self.sentinel_of is not None:
            command = self._sentinel_command(folder, self.sentinel_of)
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)

    def _arguments(self) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": self.host,
            "unixsocket": "redis.sock",
            "save": "",
            "appendonly": "no" if self.persistence == "none" else "yes",
            "appendfsync": "always" if self.persistence == "aof-always" else "everysec",
            "logfile": "",
            "enable-debug-command": "local",
        }
        if self.password:
            options["requirepass"] = self.password
        options.update(self.config)
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _sentinel_command(self, folder: Path, primary: RedisServer) -> list[str]:
        settings = folder / "sentinel.conf"  # it writes its state into this file
        if not settings.exists():
            settings.write_text(
                f"port {self.port}\nbind {self.host}\n"
                f"sentinel monitor primary {primary.host} {primary.port} 1\n"
            )
        return [server_binary("redis-server", "valkey-server"), str(settings), "--sentinel"]

    def _answers(self) -> bool:
        """Whether it does, and has loaded its data."""
        with contextlib.suppress(OSError):
            return self.command("PING").startswith(b"+PONG")
        return False


class PostgresServer(Server):
    """A PostgreSQL cluster.

    ``durable`` keeps ``fsync`` and ``synchronous_commit`` on; else a crash of the machine may damage it (not
    one of the server). ``config`` holds further settings. PostgreSQL does not run as root: there it runs
    as ``nobody``.
    """

    name = "postgres"
    user = "celeriac"

    def __init__(self, durable: bool = False, *, config: dict[str, str] | None = None) -> None:
        super().__init__()
        self.durable = durable
        self.config = config or {}

    def url(self, database: str = "postgres", port: int | None = None, **options: str) -> str:
        """A URL of one of the server's databases; ``port`` is that of a way to it."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://{self.user}:secret@{self.host}:{port or self.port}/{database}" + (
            f"?{query}" if query else ""
        )

    def _prepare(self, folder: Path) -> None:
        folder.chmod(0o755)
        secret = folder / "secret"
        secret.write_text("secret")
        data = folder / "data"
        data.mkdir()
        if unprivileged():
            shutil.chown(data, "nobody")
        subprocess.run(
            [
                *unprivileged(),
                *(postgres_binary("initdb"), "-D", str(data), "-U", self.user, "-E", "UTF8", "--locale=C"),
                *("--no-sync", "-A", "md5", f"--pwfile={secret}"),
            ],
            check=True,
            capture_output=True,
            cwd=folder,
        )

    def _launch(self, folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "on" if self.durable else "off",
            "synchronous_commit": "on" if self.durable else "off",
            "full_page_writes": "on" if self.durable else "off",
            "max_connections": "200",
            "shared_buffers": "64MB",
            **self.config,
        }
        command = [*unprivileged(), postgres_binary("postgres"), "-D", str(folder / "data")]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)

    def stop(self) -> None:
        """End the server at once and delete its data."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self._end(signal.SIGQUIT)
        self._forget()

    def kill(self) -> None:
        """End the server and all its processes as a crash would (SIGKILL)."""
        if self.process is not None:
            postmaster = self.process.pid
            # Stopped first, so that it has no further children after we looked, and replaces none.
            self.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, postmaster, os.WSTOPPED)
            backends = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
            for pid in (*map(int, backends), postmaster):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(30)
            self.process = None

    def shut_down(self) -> None:
        """End the server in order, its connections too (the "fast" mode)."""
        self._end(signal.SIGINT)

    def run(self, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Carry out statements as the superuser, each committed at once."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def empty(self, schema: str = "celeriac") -> None:
        """Delete all that is in the engine's tables, if they are there: faster than making them again."""
        if self.run(f"SELECT 1 FROM pg_namespace WHERE nspname = '{schema}'"):
            self.run(_EMPTY.format(schema=schema))

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def _answers(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            self.run("SELECT 1")
            return True
        return False


# DELETE of a few rows is faster than TRUNCATE of forty tables.
_EMPTY = """DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'
        AND tablename NOT IN ('meta', 'state') LOOP
        EXECUTE format('DELETE FROM {schema}.%I', name);
    END LOOP;
    DELETE FROM {schema}.meta WHERE key <> 'schema';
    UPDATE {schema}.state SET version = 0;
END $$"""


def unprivileged() -> list[str]:
    """What to put before a command that must not run as root, with us as its parent."""
    if os.geteuid() != 0:
        return []
    return [server_binary("setpriv"), "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


def postgres_binary(name: str) -> str:
    """The newest installed PostgreSQL's program of this name; Debian keeps them out of the path."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4])
    )
    if versions:
        return str(versions[-1])
    path = shutil.which(name)
    if path is None:
        raise RuntimeError(
            f"no {name} found: the tests need a private server. Install it, for example with"
            " 'apt-get install postgresql'."
        )
    return path


def free_port() -> int:
    """A TCP port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def server_binary(*names: str) -> str:
    """The path of the first of these programs that is installed."""
    for name in names:
        path = shutil.which(name)
        if path:
            return path
    raise RuntimeError(
        f"no {' or '.join(names)} found: the tests need a private server. Install it, for example with"
        " 'apt-get install redis-server'."
    )


def pack(*words: str | bytes | int) -> bytes:
    """A command in Redis' wire format."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


class RabbitServer(Server):
    """A RabbitMQ server; it takes some seconds to start.

    Node name, database, ports (AMQP and Erlang's own) and the port mapper (epmd) are its own. ``config``
    holds further lines of ``rabbitmq.conf``; the consumer timeout is raised to a day.
    """

    name = "rabbitmq-server"
    patience = 3 * START_TIMEOUT

    def __init__(self, *, config: dict[str, str] | None = None) -> None:
        super().__init__()
        self._distribution, self._mapper = free_port(), free_port()
        self.config = config or {}
        self.node = f"celeriac{self.port}@localhost"
        self._epmd: subprocess.Popen[bytes] | None = None
        self._unused: list[str] = []
        self._made = 0

    def url(self, vhost: str = "/", port: int | None = None) -> str:
        """A URL of the server's virtual host."""
        return f"amqp://guest:guest@{self.host}:{port or self.port}/{vhost}"

    def _launch(self, folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
        if self._epmd is None:
            # Without -daemon it stays our child, so that we end this one and no other.
            epmd = server_binary("epmd")
            self._epmd = subprocess.Popen(
                [epmd, "-port", str(self._mapper), "-address", self.host],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        return subprocess.Popen(
            [rabbit_script("rabbitmq-server")],
            env=self._environment(),
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )

    def stop(self) -> None:
        """End the processes and delete the data."""
        self.kill()
        if self._epmd is not None:
            self._epmd.terminate()
            self._epmd.wait()
            self._epmd = None
        self._forget()

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL), with the helpers of its process group."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def shut_down(self) -> None:
        """End the server in order; :meth:`start` brings it back."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(60)
            self.kill()  # what is left of its process group

    def fresh_url(self) -> str:
        """A URL of a virtual host that nobody has used: as good as an empty server, and quick to have."""
        if not self._unused:
            names = [f"t{self._made + number}" for number in range(_HOSTS_AT_ONCE)]
            self._made += _HOSTS_AT_ONCE
            made = ",".join(f'<<"{name}">>' for name in names)
            self.eval(
                f'[begin rabbit_vhost:add(V, <<"t">>), rabbit_auth_backend_internal:set_permissions('
                f'<<"guest">>, V, <<".*">>, <<".*">>, <<".*">>, <<"t">>) end || V <- [{made}]].'
            )
            self._unused = names[::-1]
        return self.url(self._unused.pop())

    def eval(self, expression: str) -> str:
        """Evaluate an Erlang expression in the server (``rabbitmqctl eval``); takes a second."""
        return self.control("eval", expression)

    def control(self, *words: str) -> str:
        """Run ``rabbitmqctl`` against the server and return what it prints; takes a second."""
        done = subprocess.run(
            [rabbit_script("rabbitmqctl"), "-n", self.node, *words],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(words)} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def _prepare(self, folder: Path) -> None:
        lines = {
            "listeners.tcp.local": f"{self.host}:{self.port}",
            "loopback_users": "none",
            "consumer_timeout": "86400000",
            "vm_memory_high_watermark.relative": "0.6",
            "disk_free_limit.absolute": "10MB",
            "log.file": "false",
            "log.console": "true",
            "log.console.level": "warning",
            **self.config,
        }
        text = "".join(f"{key} = {value}\n" for key, value in lines.items())
        (folder / "rabbitmq.conf").write_text(text)
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / ".erlang.cookie").write_text("CELERIACTESTS")
        (folder / ".erlang.cookie").chmod(0o400)

    def _environment(self) -> dict[str, str]:
        assert self.folder is not None
        folder = str(self.folder)
        return {
            **os.environ,
            "HOME": folder,
            "ERL_EPMD_PORT": str(self._mapper),
            "ERL_EPMD_ADDRESS": self.host,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_NODE_IP_ADDRESS": self.host,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_MNESIA_BASE": folder,
            "RABBITMQ_LOG_BASE": folder,
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none " + _LOOPBACK,
            "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK,
        }

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 2) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            return probe.recv(1) == b"\x01"
        return False


def rabbit_script(name: str) -> str:
    """The path of a program of RabbitMQ's. Debian's wrappers insist on their own user: go around them."""
    path = Path("/usr/lib/rabbitmq/bin") / name
    return str(path) if path.exists() else server_binary(name)
