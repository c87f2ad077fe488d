"""A TCP proxy that makes every answer arrive later: ``python -m bench.proxy UPSTREAM_PORT SECONDS``.

It prints the port it listens on. What the server sends is held back for the given time; the way to the
server is left alone, so a round trip costs that much more. One thread a direction: ``time.sleep`` is exact
to some 50 us here, where an event loop rounds up to whole milliseconds.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time


def main() -> None:
    upstream, delay = int(sys.argv[1]), float(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", upstream))
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_pump, args=(client, server, 0.0), daemon=True).start()
        threading.Thread(target=_pump, args=(server, client, delay), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket, delay: float) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 18):
            if delay:
                time.sleep(delay)
            target.sendall(data)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    main()
