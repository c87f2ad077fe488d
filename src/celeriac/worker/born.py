"""Entry point of a child started by exec: ``python -m celeriac.worker.born FD POOL``.

The green pools must patch the standard library before anything else is imported, so this module imports
nothing of ours until it has.
"""

import sys


def main() -> int:
    """Patch for the pool, then live as a child."""
    fd, pool = int(sys.argv[1]), sys.argv[2]
    if pool == "gevent":
        from gevent import monkey

        monkey.patch_all()
    elif pool == "eventlet":
        import eventlet

        eventlet.monkey_patch()
    from celeriac.worker.child import born

    return born(fd)


if __name__ == "__main__":
    sys.exit(main())
