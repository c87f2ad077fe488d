"""``celeriac probe``: is the worker or beat of this machine well? For Docker, Kubernetes and scripts.

    celeriac probe 8787                    GET /livez of the health endpoint on that port
    celeriac probe ready 10.0.0.7:8787     GET /readyz
    celeriac probe --file /run/beat        the heartbeat file is younger than --max-age (60 s)
    celeriac probe --pidfile /run/w1.pid   the process in the pidfile runs

It is the one command that loads no application and next to no library, for it is run every few seconds. It
does not depend on the broker.
"""

from __future__ import annotations

import os
import sys
import time

USAGE = """Usage: celeriac probe [live|ready] [[HOST:]PORT] [--timeout SECONDS]
       celeriac probe --file PATH [--max-age SECONDS]
       celeriac probe --pidfile PATH

  See whether a worker or beat on this machine is well: by its health endpoint (worker --health, beat
  --health; default: the environment's CELERIAC_WORKER_HEALTH), by the heartbeat file that it touches
  (worker_heartbeat_file), or by its pidfile.

  The exit status is 0 if it is well, 1 if not, 2 for a mistake on the command line."""

_WORDS = {"--file": str, "--pidfile": str, "--max-age": float, "--timeout": float}


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    try:
        problem = _look(arguments)
    except ValueError as mistake:
        print(f"Error: {mistake}\n\n{USAGE}", file=sys.stderr)
        return 2
    print(problem or "ok", file=sys.stderr if problem else sys.stdout)
    return 1 if problem else 0


def _look(arguments: list[str]) -> str:
    """What is wrong, "" if nothing is. Raises ``ValueError`` for a mistake in the arguments."""
    options, words = _read(arguments)
    if "--pidfile" in options:
        return _process(str(options["--pidfile"]))
    if "--file" in options:
        return _file(str(options["--file"]), float(options.get("--max-age", 60.0)))
    check = words.pop(0) if words and words[0] in ("live", "ready") else "live"
    where = words.pop(0) if words else os.environ.get("CELERIAC_WORKER_HEALTH", "")
    if words:
        raise ValueError(f"what is {words[0]!r}?")
    host, _, port = where.rpartition(":")
    if not port.isdigit():
        raise ValueError(
            f"{where!r} is no [host:]port" if where else "say where to look: a port, --file or --pidfile"
        )
    # A wildcard is where it listens, not where it is found.
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
    return _ask(host, int(port), f"/{check}z", float(options.get("--timeout", 5.0)))


def _read(arguments: list[str]) -> tuple[dict[str, str | float], list[str]]:
    options: dict[str, str | float] = {}
    words: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not name.startswith("-"):
            words.append(argument)
        elif name not in _WORDS:
            raise ValueError(f"there is no option {name}")
        else:
            given = value if equals else next(rest, None)
            if given is None:
                raise ValueError(f"{name} needs a value")
            try:
                options[name] = _WORDS[name](given)
            except ValueError:
                raise ValueError(f"{name} needs a number of seconds, not {given!r}") from None
    return options, words


def _ask(host: str, port: int, path: str, timeout: float) -> str:
    import _socket  # what lies under socket: a third of the time it takes to import that

    family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
    end = _socket.socket(family, _socket.SOCK_STREAM)
    end.settimeout(timeout)
    answer = b""
    try:
        end.connect((host, port))
        end.send(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        while len(answer) < 65536 and (data := end.recv(8192)):
            answer += data
    except OSError as error:
        return f"{host}:{port} does not answer: {error}"
    finally:
        end.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status == [b"200"]:
        return ""
    said = body.decode("utf-8", "replace").strip().replace("\n", "; ")
    return f"{path} of {host}:{port} says {said or head[:100].decode('latin-1')!r}"


def _file(path: str, most: float) -> str:
    try:
        age = time.time() - os.stat(path).st_mtime
    except OSError as error:
        return f"no heartbeat: {error.strerror}: {path}"
    return f"the last heartbeat in {path} is {age:.0f} s old" if age > most else ""


def _process(path: str) -> str:
    try:
        with open(path) as file:
            pid = int(file.read())
        os.kill(pid, 0)
    except ProcessLookupError:
        return f"process {pid} of {path} has ended"
    except PermissionError:
        return ""  # it is there, and another user's
    except (OSError, ValueError) as error:
        return f"no process by {path}: {error}"
    return ""
