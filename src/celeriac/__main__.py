"""``python -m celeriac`` and the installed command ``celeriac``."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    if sys.argv[1:2] == ["probe"]:  # run every few seconds: it does not load the other commands
        from celeriac import probe

        sys.exit(probe.main(sys.argv[2:]))
    # Importing makes much and drops little: looking for garbage meanwhile costs 30 ms of 250. What runs for
    # long (a worker, a shell) turns it on again.
    gc.disable()
    from celeriac.cli.root import run

    sys.exit(run())


if __name__ == "__main__":
    main()
