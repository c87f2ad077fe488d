"""A private Redis server for the length of a measurement."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import redis

PERSISTENCE = {
    "none": ("--save", "", "--appendonly", "no"),
    "everysec": ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
    "always": ("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
}


class Server:
    """``redis-server`` on a free port of the loopback interface; a context manager."""

    def __init__(self, persistence: str = "none") -> None:
        self.persistence = persistence
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            raise SystemExit("The benchmark needs redis-server or valkey-server on the PATH.")
        self._binary = binary
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._folder = tempfile.TemporaryDirectory(prefix="celeriac-bench-redis-")

    def __enter__(self) -> Server:
        command = [self._binary, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", self._folder.name]
        self._log = Path(self._folder.name, "log").open("wb")
        self._process = subprocess.Popen(
            [*command, *PERSISTENCE[self.persistence]], stdout=self._log, stderr=subprocess.STDOUT
        )
        self.pid = self._process.pid
        deadline = time.monotonic() + 10
        while True:
            try:
                self.client().ping()
                return self
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._log.close()
        self._folder.cleanup()

    def url(self, database: int = 0, port: int | None = None) -> str:
        """The URL of a database, through ``port`` (a proxy's) if given."""
        return f"redis://127.0.0.1:{port or self.port}/{database}"

    def client(self, database: int = 0) -> redis.Redis:
        return redis.Redis(port=self.port, db=database)

    def version(self) -> str:
        info = self.client().info("server")
        return f"Redis {info['redis_version']}, persistence {self.persistence}"
