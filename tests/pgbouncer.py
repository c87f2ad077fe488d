"""A private PgBouncer in transaction mode, in front of a PostgreSQL of the tests' own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.servers import START_TIMEOUT, PostgresServer, free_port, server_binary

_CONFIG = """[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = md5
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 200
"""


class PgBouncer:
    """A pool of ``size`` sessions on the server, as a context manager.

    A missing binary raises ``RuntimeError`` that says how to get it: without it nothing is tested.
    """

    def __init__(self, server: PostgresServer, size: int = 3) -> None:
        self.server = server
        self.size = size
        self.port = free_port()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PgBouncer:
        self._folder = Path(tempfile.mkdtemp(prefix="celeriac-pgbouncer-"))
        self._folder.chmod(0o755)
        config = self._folder / "pgbouncer.ini"
        config.write_text(
            _CONFIG.format(
                host=self.server.host,
                server_port=self.server.port,
                port=self.port,
                folder=self._folder,
                size=self.size,
            )
        )
        (self._folder / "users").write_text(f'"{self.server.user}" "secret"\n')
        user: list[str] = []
        if os.geteuid() == 0:  # it refuses to run as root
            user = [server_binary("setpriv"), "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*user, _binary(), str(config)], stdout=log, stderr=log)
        try:
            self._wait_until_up()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(10)
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, **options: str) -> str:
        """A URL that leads through the pool."""
        query = "&".join(f"{name}={value}" for name, value in {"pooled": "true", **options}.items())
        return f"postgresql://{self.server.user}:secret@127.0.0.1:{self.port}/postgres?{query}"

    def _wait_until_up(self) -> None:
        import psycopg

        deadline = time.monotonic() + START_TIMEOUT
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url().partition("?")[0]).close()
                return
            assert self._process is not None
            assert self._folder is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self._folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"pgbouncer did not start on port {self.port}:\n{log}")
            time.sleep(0.02)


def _binary() -> str:
    path = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise RuntimeError(
            "no pgbouncer found: the tests need a private one. Install it with 'scripts/need-pgbouncer', or "
            "with 'apt-get install pgbouncer'."
        )
    return path
