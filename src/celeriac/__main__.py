"""``python -m celeriac`` and the installed command ``celeriac``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from celeriac.cli.root import run

    sys.exit(run())


if __name__ == "__main__":
    main()
