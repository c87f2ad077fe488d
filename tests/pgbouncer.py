"""A private PgBouncer in transaction mode, in front of a PostgreSQL of the tests' own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import IO

from tests.servers import PostgresServer, Server, unprivileged

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


class PgBouncer(Server):
    """A pool of ``size`` sessions on the server."""

    name = "pgbouncer"

    def __init__(self, server: PostgresServer, size: int = 3) -> None:
        super().__init__()
        self.server = server
        self.size = size

    def url(self, **options: str) -> str:
        """A URL that leads through the pool."""
        query = "&".join(f"{name}={value}" for name, value in {"pooled": "true", **options}.items())
        return f"postgresql://{self.server.user}:secret@127.0.0.1:{self.port}/postgres?{query}"

    def _prepare(self, folder: Path) -> None:
        folder.chmod(0o755)
        places = {"host": self.server.host, "server_port": self.server.port, "port": self.port}
        (folder / "pgbouncer.ini").write_text(_CONFIG.format(**places, folder=folder, size=self.size))
        (folder / "users").write_text(f'"{self.server.user}" "secret"\n')

    def _launch(self, folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
        # It refuses to run as root.
        command = [*unprivileged(), _binary(), str(folder / "pgbouncer.ini")]
        return subprocess.Popen(command, stdout=log, stderr=log)

    def _answers(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.url().partition("?")[0]).close()
            return True
        return False


def _binary() -> str:
    path = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise RuntimeError(
            "no pgbouncer found: the tests need a private one. Install it with 'scripts/need-pgbouncer', or "
            "with 'apt-get install pgbouncer'."
        )
    return path
