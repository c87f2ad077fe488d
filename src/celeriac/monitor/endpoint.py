"""The endpoint: checks and metrics over HTTP, for probes and for Prometheus.

Small on purpose: GET and HEAD of a few fixed paths, a bounded number of requests at once, a few seconds for
each. It listens on the loopback interface unless told otherwise; there is nothing to log in to, so open it to
the network of your monitoring only.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

from celeriac import __version__

logger = logging.getLogger("celeriac.health")

AT_ONCE: Final = 8
"""Requests that are answered at once; more are turned away."""
PATIENCE: Final = 5.0
"""Seconds that a client has to send its request and to take the answer."""


class Page(NamedTuple):
    """An answer."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"


def verdict(problems: list[str]) -> Page:
    """The page of a check: 200 and ``ok``, or 503 and what is wrong, a line each."""
    if problems:
        return Page(503, "".join(f"{problem}\n" for problem in problems))
    return Page(200, "ok\n")


class Endpoint:
    """Answers on ``listening`` from threads of its own; ``pages`` makes each path's page when it is asked
    for. ``/`` lists the paths."""

    def __init__(self, listening: socket.socket, pages: Mapping[str, Callable[[], Page]]) -> None:
        host, port = listening.getsockname()[:2]
        self.url = f"http://{host}:{port}/"
        self._server = _Server(listening, dict(pages))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="celeriac-health", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the threads; the socket stays open, for it is the caller's."""
        self._server.shutdown()
        self._thread.join(1.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket, pages: dict[str, Callable[[], Page]]) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.pages = {"/": lambda: Page(200, "".join(f"{path}\n" for path in pages)), **pages}
        self._places = threading.BoundedSemaphore(AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or was too slow, is nobody's business."""
        logger.debug("A health request of %s was cut off", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE
    server_version = f"celeriac/{__version__}"
    sys_version = ""

    def do_GET(self) -> None:
        make = self.server.pages.get(self.path.partition("?")[0])
        if make is None:
            page = Page(404, "".join(f"{path}\n" for path in self.server.pages))
        else:
            try:
                page = make()
            except Exception:
                logger.exception("Cannot answer %s", self.path)
                page = Page(500, "an error; see the log\n")
        body = page.body.encode()
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)
