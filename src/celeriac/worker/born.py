"""Entry point of a child started by exec: ``python -m celeriac.worker.born FD POOL``.

The green pools must patch the standard library before anything else is imported, so this module imports
nothing of ours until it has.
"""

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Patch for the pool, then live as a child."""
    # The library takes seconds to import on a busy machine, and the worker may be stopped meanwhile.
    signal.signal(signal.SIGUSR2, lambda *_: os._exit(0))
    fd, pool = int(sys.argv[1]), sys.argv[2]
    if pool == "gevent":
        from gevent import monkey

        monkey.patch_all()
    elif pool == "eventlet":
        import eventlet

        eventlet.monkey_patch()
    from celeriac.worker.child import born
    from celeriac.worker.processes import guarded

    # Not by the interpreter's end: greenlets' locks are gone there, and it would fail to flush the streams.
    guarded(lambda: born(fd))


if __name__ == "__main__":
    main()
